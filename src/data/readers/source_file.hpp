// A source file, plain or gzip, read once from front to back.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

namespace graphlora {

/// Gives the file's text piece by piece. The first bytes decide whether it is gzip (one or more
/// members), not the name. Memory does not depend on the file's size.
class SourceFile {
 public:
  /// Throws DataError: missing, unreadable, no regular file, empty.
  explicit SourceFile(const std::filesystem::path& path);
  ~SourceFile();
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  /// The next bytes of the text, as many as there are and `to` holds; 0: the end. Throws DataError:
  /// read error, damaged gzip, gzip that ends early.
  std::size_t read(std::span<char> to);

  std::int64_t size() const { return size_; }  ///< bytes on disk
  std::int64_t position() const;               ///< of these, read so far
  /// {"file","bytes","sha256"}; only once read() has given 0.
  nlohmann::json describe() const;

 private:
  class Decoder;

  std::int64_t size_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace graphlora
