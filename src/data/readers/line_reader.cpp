#include "data/readers/line_reader.hpp"

#include <cerrno>
#include <cstring>

#include "core/file.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

std::uintmax_t size_of(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    throw DataError("{}: there is no such file; check --input and --format", path.string());
  if (error) throw DataError("{}: cannot be read: {}", path.string(), error.message());
  if (!fs::is_regular_file(status)) throw DataError("{}: is not a regular file", path.string());
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw DataError("{}: cannot be read: {}", path.string(), error.message());
  if (size == 0) throw DataError("{}: is empty; check --input and --format", path.string());
  return size;
}

}  // namespace

LineReader::LineReader(const fs::path& path, bool progress)
    : path_(path),
      buffer_(2 * kMaxLine),
      progress_("reading " + path.filename().string(), static_cast<std::int64_t>(size_of(path)),
                "bytes", progress) {
  file_.reset(std::fopen(path.c_str(), "rbe"));
  if (!file_) throw DataError("{}: cannot be opened: {}", path.string(), std::strerror(errno));
}

bool LineReader::fill() {
  std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  const std::size_t got = std::fread(buffer_.data() + end_, 1, buffer_.size() - end_, file_.get());
  if (got == 0 && std::ferror(file_.get()))
    throw DataError("{}: cannot be read: {}", path_.string(), std::strerror(errno));
  end_ += got;
  bytes_ += static_cast<std::int64_t>(got);
  progress_.update(bytes_);
  return got > 0;
}

void LineReader::skip_rest() {
  do {
    const auto* newline =
        static_cast<const char*>(std::memchr(buffer_.data() + begin_, '\n', end_ - begin_));
    if (newline) {
      begin_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
      return;
    }
    begin_ = end_;
  } while (fill());
}

bool LineReader::next(std::string_view& line) {
  std::size_t searched = 0;
  const char* newline = nullptr;
  while (true) {
    newline = static_cast<const char*>(
        std::memchr(buffer_.data() + begin_ + searched, '\n', end_ - begin_ - searched));
    if (newline) break;
    searched = end_ - begin_;
    if (searched > kMaxLine || !fill()) break;
  }
  const std::size_t length =
      newline ? static_cast<std::size_t>(newline - buffer_.data()) - begin_ : end_ - begin_;
  if (!newline && length == 0) {
    progress_.finish();
    return false;
  }
  ++line_;
  if (length > kMaxLine) {
    skip_rest();
    throw error("the line is longer than {} bytes: is this a text file of that format?", kMaxLine);
  }
  line = {buffer_.data() + begin_, length};
  begin_ += length + (newline ? 1 : 0);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  if (line.find('\0') != std::string_view::npos)
    throw error("holds a NUL byte: is this a text file in UTF-8 or Latin-1?");
  return true;
}

nlohmann::json describe_source(const fs::path& path) {
  const std::string name = path.filename().string();
  return {{"file", is_utf8(name) ? name : latin1_to_utf8(name)},
          {"bytes", size_of(path)},
          {"sha256", sha256_file(path)}};
}

}  // namespace graphlora
