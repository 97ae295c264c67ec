#include "data/readers/source_file.hpp"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kPacked = std::size_t{1} << 18;
constexpr int kGzip = 16;  // zlib: gzip's header and checksum, not zlib's own

std::int64_t size_of(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    throw DataError("{}: there is no such file; check --input and --format", path.string());
  if (error) throw DataError("{}: cannot be read: {}", path.string(), error.message());
  if (!fs::is_regular_file(status)) throw DataError("{}: is not a regular file", path.string());
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw DataError("{}: cannot be read: {}", path.string(), error.message());
  if (size == 0) throw DataError("{}: is empty; check --input and --format", path.string());
  return static_cast<std::int64_t>(size);
}

}  // namespace

class SourceFile::Decoder {
 public:
  explicit Decoder(const fs::path& path) : path_(path), file_(std::fopen(path.c_str(), "rbe")) {
    if (!file_) throw DataError("{}: cannot be opened: {}", path.string(), std::strerror(errno));
    unsigned char magic[2] = {};
    const bool packed =
        std::fread(magic, 1, 2, file_.get()) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    std::rewind(file_.get());
    if (!packed) return;
    packed_.resize(kPacked);
    if (inflateInit2(&inflater_, MAX_WBITS + kGzip) != Z_OK)
      throw Error(ExitCode::internal, "zlib: cannot start");
  }
  ~Decoder() {
    if (!packed_.empty()) inflateEnd(&inflater_);
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  std::size_t next(std::span<char> to) { return packed_.empty() ? read(to) : inflate(to); }
  std::int64_t position() const { return read_; }

  nlohmann::json describe() const {
    const std::string name = path_.filename().string();
    return {{"file", is_utf8(name) ? name : latin1_to_utf8(name)},
            {"bytes", read_},
            {"sha256", checksum_}};
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::size_t read(std::span<char> to) {
    const std::size_t got = std::fread(to.data(), 1, to.size(), file_.get());
    if (got == 0 && std::ferror(file_.get()))
      throw DataError("{}: cannot be read: {}", path_.string(), std::strerror(errno));
    hash_.update(to.data(), got);
    if (got == 0 && checksum_.empty()) checksum_ = hash_.hex();
    read_ += static_cast<std::int64_t>(got);
    return got;
  }

  std::size_t inflate(std::span<char> to) {
    inflater_.next_out = reinterpret_cast<Bytef*>(to.data());
    inflater_.avail_out = static_cast<uInt>(to.size());
    while (inflater_.avail_out > 0) {
      if (inflater_.avail_in == 0) {
        inflater_.next_in = reinterpret_cast<Bytef*>(packed_.data());
        inflater_.avail_in = static_cast<uInt>(read(packed_));
        if (inflater_.avail_in == 0) {
          if (!in_member_) break;
          throw DataError("{}: the gzip data ends early, at byte {}; fetch the file again",
                          path_.string(), read_);
        }
      }
      // gzip reads zeros behind the last member as padding (of tapes, of block devices).
      if (!in_member_ && (padding_ || *inflater_.next_in == 0)) {
        padding_ = true;
        if (std::any_of(inflater_.next_in, inflater_.next_in + inflater_.avail_in,
                        [](Bytef byte) { return byte != 0; }))
          throw DataError(
              "{}: the gzip data is damaged before byte {} (zeros behind it, then other bytes); "
              "fetch the file again",
              path_.string(), read_);
        inflater_.avail_in = 0;
        continue;
      }
      in_member_ = true;
      const int status = ::inflate(&inflater_, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {
        in_member_ = false;
        inflateReset(&inflater_);
      } else if (status != Z_OK) {
        throw DataError("{}: the gzip data is damaged before byte {} ({}); fetch the file again",
                        path_.string(), read_, inflater_.msg ? inflater_.msg : zError(status));
      }
    }
    return to.size() - inflater_.avail_out;
  }

  fs::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  Sha256 hash_;
  std::string checksum_;
  std::int64_t read_ = 0;
  std::vector<char> packed_;  // empty: the file is plain
  z_stream inflater_{};
  bool in_member_ = false, padding_ = false;
};

SourceFile::SourceFile(const fs::path& path)
    : size_(size_of(path)), decoder_(std::make_unique<Decoder>(path)) {}

SourceFile::~SourceFile() = default;

std::size_t SourceFile::read(std::span<char> to) { return decoder_->next(to); }
std::int64_t SourceFile::position() const { return decoder_->position(); }
nlohmann::json SourceFile::describe() const { return decoder_->describe(); }

}  // namespace graphlora
