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
#include <vector>

namespace graphlora {

/// Whole file as a string. Throws DataError if missing, unreadable or larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 30);

/// Parses JSON text. Throws DataError ("is not valid JSON: …") for a syntax error, and for more
/// than 200 levels: what walks or prints a value calls itself for each.
nlohmann::json parse_json(std::string_view text,
                          const nlohmann::json::parser_callback_t& callback = nullptr);

/// Parsed JSON file. Throws DataError naming the file and the byte of a syntax error.
nlohmann::json read_json(const std::filesystem::path& path);

/// Writes to PATH.tmp-HOST-PID, syncs, renames. Throws DataError; leaves no temporary file behind.
void write_file(const std::filesystem::path& path, std::string_view contents);
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

/// Lowercase hex SHA-256 (OpenSSL).
std::string sha256(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);

/// Whether something stands at `path`. Throws DataError where that can't be told (permissions, a
/// name that is too long).
bool path_exists(const std::filesystem::path& path);

/// Whether `path` is `directory` or lies in it, links followed; neither needs to exist.
bool lies_in(const std::filesystem::path& path, const std::filesystem::path& directory);

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
  /// Throws DataError: the place is not writable, or holds what is no regular file.
  explicit AtomicFile(std::filesystem::path path);
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

/// Output directory built under a temporary sibling name; `commit` syncs it and puts it in the
/// target's place, then deletes the older directory. Without it nothing is left. A link to a
/// directory stays: its target is replaced.
class AtomicDirectory {
 public:
  /// `marker`: the file by which a directory of this kind is known. Throws ConfigError where `path`
  /// is no directory, holds files but no marker, or holds the working directory; DataError where
  /// nothing can be written. Deletes what killed processes of this host left beside it.
  AtomicDirectory(const std::filesystem::path& path, const std::string& marker);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  const std::filesystem::path& path() const { return temporary_; }  ///< Where to write.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  std::vector<std::filesystem::path> new_parents_;  // innermost first
  bool committed_ = false;
};

}  // namespace graphlora
