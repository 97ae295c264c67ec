// A source file, plain or gzip, read once from front to back.
#pragma once
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace graphlora {

/// Gives the file's text block by block. The first bytes decide whether it is gzip (one or more
/// members), not the name. A second thread reads, hashes and inflates the next block meanwhile;
/// memory does not depend on the file's size.
class SourceFile {
 public:
  /// Throws DataError: missing, unreadable, no regular file, empty.
  explicit SourceFile(const std::filesystem::path& path);
  ~SourceFile();
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  /// The next block, which holds until the next call; empty at the end. Throws DataError: read
  /// error, damaged gzip, gzip that ends early.
  std::string_view next();

  std::int64_t size() const { return size_; }                ///< bytes on disk
  std::int64_t position() const { return block_.position; }  ///< of these, read so far
  /// {"file","bytes","sha256"}; only once next() has given the end.
  nlohmann::json describe() const;

 private:
  class Decoder;
  struct Block {
    std::vector<char> bytes;
    std::size_t size = 0;
    std::int64_t position = 0;
  };

  std::int64_t size_;
  std::unique_ptr<Decoder> decoder_;  // the other thread's while `ahead_` is under way
  Block block_;
  std::future<Block> ahead_;
};

}  // namespace graphlora
