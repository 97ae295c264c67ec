// Files: bounded reads, memory maps, checksums and atomic writes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace graphlora {

/// Whole file as a string. Throws DataError if missing, unreadable or larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 30);

/// Parsed JSON file. Throws DataError naming the file and the byte of a syntax error.
nlohmann::json read_json(const std::filesystem::path& path);

/// Writes to PATH.tmp-PID, syncs, renames. Throws DataError; leaves no temporary file behind.
void write_file(const std::filesystem::path& path, std::string_view contents);
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

/// Lowercase hex SHA-256 (OpenSSL).
std::string sha256(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);

/// Creates a directory and its parents. Throws DataError with the reason.
void make_directories(const std::filesystem::path& path);

/// Read-only memory map of a whole file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  ///< Throws DataError.
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Output file under a temporary name; `commit` syncs and renames it, destruction without it
/// deletes it.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  ///< Throws DataError.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data,
             std::size_t size);  ///< Throws DataError ("No space left on device" …).
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  std::FILE* file_ = nullptr;
};

/// Output directory built under a temporary sibling name; `commit` syncs it and renames it over the
/// target (an older directory is moved aside first and deleted after). Without it nothing is left.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path path);  ///< Throws DataError.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  const std::filesystem::path& path() const { return temporary_; }  ///< Where to write.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  bool committed_ = false;
};

}  // namespace graphlora
