#include "data/readers/line_blocks.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace graphlora {
namespace {

constexpr std::size_t kRead = std::size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

LineBlocks::LineBlocks(const std::filesystem::path& path, bool progress)
    : path_(path),
      source_(path),
      progress_("reading " + path.filename().string(), source_.size(), "bytes", progress) {
  read_ahead({});
}

LineBlocks::~LineBlocks() {
  if (ahead_.valid()) ahead_.wait();
}

void LineBlocks::read_ahead(LineBlock block) {
  ahead_ = std::async(std::launch::async, &LineBlocks::fill, this, std::move(block));
}

bool LineBlocks::next(LineBlock& block) {
  if (!ahead_.valid()) return false;
  LineBlock used = std::exchange(block, ahead_.get());
  progress_.update(block.position);
  if (block.text().empty()) {
    progress_.finish();
    return false;
  }
  read_ahead(std::move(used));
  return true;
}

LineBlock LineBlocks::fill(LineBlock block) {
  std::vector<char>& bytes = block.bytes;
  const auto make_room = [&](std::size_t size) {
    if (bytes.size() < size) bytes.resize(size);
  };
  make_room(2 * kRead + kPadding);  // most carries are short: no later block needs more
  std::size_t end = carry_.copy(bytes.data(), carry_.size());
  carry_.clear();
  while (true) {
    make_room(end + kRead + kPadding);
    const std::size_t read = source_.read({bytes.data() + end, kRead});
    if (read == 0) break;
    std::string_view fresh(bytes.data() + end, read);
    if (skipping_) {
      const std::size_t newline = fresh.find('\n');
      if (newline == std::string_view::npos) continue;
      skipping_ = false;
      fresh.remove_prefix(newline + 1);
      std::memmove(bytes.data() + end, fresh.data(), fresh.size());
      fresh = {bytes.data() + end, fresh.size()};
    }
    const std::size_t newline = fresh.rfind('\n');
    if (newline != std::string_view::npos) {
      carry_ = fresh.substr(newline + 1);
      end += newline + 1;
      break;
    }
    end += fresh.size();
    if (end > kMaxLine) {
      end = kMaxLine + 1;
      skipping_ = true;
      break;
    }
  }
  block.begin = 0;
  block.end = end;
  if (std::exchange(first_, false) && block.text().starts_with(kByteOrderMark))
    block.begin = kByteOrderMark.size();
  block.position = source_.position();
  return block;
}

}  // namespace graphlora
