#include "core/file.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.hpp"
#include "core/file_hook.hpp"
#include "core/sha256.hpp"

namespace graphlora {
namespace fs = std::filesystem;

FileHook file_hook_for_test;

namespace {

constexpr int kMaxJsonDepth = 200;

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

DataError system_error(const fs::path& path, const char* doing) {
  return DataError("{}: cannot {}: {}", path.string(), doing, std::strerror(errno));
}

/// Opens a regular file for reading and returns its size.
std::size_t open_regular(const fs::path& path, Descriptor& file) {
  file.fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd < 0) throw system_error(path, "open");
  struct stat status {};
  if (fstat(file.fd, &status) != 0) throw system_error(path, "stat");
  if (!S_ISREG(status.st_mode)) throw DataError("{}: is not a regular file", path.string());
  return static_cast<std::size_t>(status.st_size);
}

void sync_directory(const fs::path& path) {
  announce(FileStep::sync_directory, path);
  Descriptor directory{open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (directory.fd < 0 || fsync(directory.fd) == 0) return;
  // Some file systems refuse to sync directories.
  if (errno == EIO || errno == ENOSPC || errno == EDQUOT) throw system_error(path, "sync");
}

/// What temporary names of this host end with, but for the process' number: elsewhere that number
/// means another process.
std::string temporary_suffix() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return fmt::format(".tmp-{}-", host.data());
}

fs::path temporary_name(const fs::path& path) {
  fs::path name = path;
  name += temporary_suffix() + std::to_string(getpid());
  return name;
}

/// Removes the temporary siblings of `path` whose processes are gone.
void remove_stale(const fs::path& path) {
  const std::string prefix = path.filename().string() + temporary_suffix();
  const fs::path parent = path.parent_path();
  std::error_code error;
  for (fs::directory_iterator entry(parent.empty() ? "." : parent, error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    pid_t process = 0;
    const char* last = name.data() + name.size();
    const auto [stop, failed] = std::from_chars(name.data() + prefix.size(), last, process);
    if (failed != std::errc{} || stop != last || process <= 0) continue;
    std::error_code ignored;
    if (kill(process, 0) != 0 && errno == ESRCH) fs::remove_all(entry->path(), ignored);
  }
}

/// The directory that an output path means: without a slash at the end, and a link's target.
fs::path resolved(fs::path path) {
  if (path.empty()) throw ConfigError("the output directory has an empty name");
  if (!path.has_filename()) path = path.parent_path();
  std::error_code error;
  const bool is_name = path.filename() != "." && path.filename() != "..";
  if (is_name && !fs::is_symlink(path, error)) return path;
  const fs::path target = fs::canonical(path, error);
  if (error) throw ConfigError("{}: leads nowhere; name a directory", path.string());
  return target;
}

/// Throws unless the directory may be replaced by a new one.
void check_replaceable(const fs::path& path, const std::string& marker) {
  if (!path_exists(path)) return;
  std::error_code error;
  if (!fs::is_directory(path, error))
    throw ConfigError("{}: is not a directory; name another output", path.string());
  if (lies_in(fs::current_path(error), path))
    throw ConfigError("{}: is or holds the working directory; name another output", path.string());
  const bool empty = fs::is_empty(path, error);
  if (error) throw DataError("{}: cannot read the directory: {}", path.string(), error.message());
  if (!empty && !path_exists(path / marker)) {
    throw ConfigError("{}: holds other files (there is no {}); name a new or empty directory",
                      path.string(), marker);
  }
}

/// Whether brackets nest deeper than kMaxJsonDepth; what is no valid JSON may get either answer.
bool nests_too_deep(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

std::string read_file(const fs::path& path, std::size_t limit) {
  Descriptor file;
  const std::size_t size = open_regular(path, file);
  if (size > limit)
    throw DataError("{}: has {} bytes, more than the {} allowed here", path.string(), size, limit);
  std::string contents(size, '\0');
  for (std::size_t done = 0; done < size;) {
    const ssize_t n = read(file.fd, contents.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw system_error(path, "read");
    if (n == 0) throw DataError("{}: became shorter while it was read", path.string());
    done += static_cast<std::size_t>(n);
  }
  return contents;
}

nlohmann::json parse_json(std::string_view text,
                          const nlohmann::json::parser_callback_t& callback) {
  if (nests_too_deep(text))
    throw DataError("is not valid JSON: it has more than {} levels", kMaxJsonDepth);
  try {
    return nlohmann::json::parse(text, callback);
  } catch (const nlohmann::json::exception& e) {
    // The library's message holds the line, the column and what was expected; its prefix is of no
    // use to a reader.
    const std::string what = e.what();
    const auto bracket = what.find("] ");
    throw DataError("is not valid JSON: {}",
                    bracket == std::string::npos ? what : what.substr(bracket + 2));
  }
}

nlohmann::json read_json(const fs::path& path) {
  const std::string text = read_file(path);
  try {
    return parse_json(text);
  } catch (const DataError& error) {
    throw DataError("{}: {}", path.string(), error.what());
  }
}

void write_file(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void write_json(const fs::path& path, const nlohmann::json& json) {
  // Paths and ids from outside may not be UTF-8; that is no reason to lose the file.
  write_file(path, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_file(const fs::path& path) {
  Descriptor file;
  open_regular(path, file);
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 20);
  while (true) {
    const ssize_t n = read(file.fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw system_error(path, "read");
    if (n == 0) return hash.hex();
    hash.update(buffer.data(), static_cast<std::size_t>(n));
  }
}

bool path_exists(const fs::path& path) {
  std::error_code error;
  const bool exists = fs::exists(path, error);
  if (error) throw DataError("{}: {}", path.string(), error.message());
  return exists;
}

bool lies_in(const fs::path& path, const fs::path& directory) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(fs::absolute(path, error), error);
  const fs::path outer = fs::weakly_canonical(fs::absolute(directory, error), error);
  return !outer.empty() &&
         std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw DataError("{}: cannot create the directory: {}", path.string(), error.message());
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor file;
  size_ = open_regular(path, file);
  if (size_ == 0) return;
  void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) throw system_error(path, "map");
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(temporary_name(path_)) {
  std::error_code error;
  if (const fs::file_status status = fs::status(path_, error);
      fs::exists(status) && !fs::is_regular_file(status)) {
    throw DataError("{}: is not a regular file", path_.string());
  }
  announce(FileStep::create, temporary_);
  file_ = std::fopen(temporary_.c_str(), "wbe");
  if (file_ == nullptr) throw system_error(temporary_, "create");
}

AtomicFile::~AtomicFile() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

void AtomicFile::write(const void* data, std::size_t size) {
  announce(FileStep::write, temporary_);
  if (size != 0 && std::fwrite(data, 1, size, file_) != size) throw system_error(path_, "write");
}

void AtomicFile::commit() {
  announce(FileStep::sync, temporary_);
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) throw system_error(path_, "write");
  announce(FileStep::rename, temporary_);
  std::FILE* file = std::exchange(file_, nullptr);
  const bool closed = std::fclose(file) == 0;
  if (!closed || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const DataError error = system_error(path_, closed ? "rename the finished file to" : "write");
    std::error_code ignored;
    fs::remove(temporary_, ignored);
    throw error;
  }
  sync_directory(path_.parent_path());
}

AtomicDirectory::AtomicDirectory(const fs::path& path, const std::string& marker)
    : path_(resolved(path)), temporary_(temporary_name(path_)) {
  check_replaceable(path_, marker);
  remove_stale(path_);
  for (fs::path parent = path_.parent_path(); !parent.empty() && !path_exists(parent);
       parent = parent.parent_path()) {
    new_parents_.push_back(parent);
  }
  announce(FileStep::create, temporary_);
  std::error_code error;
  fs::remove_all(temporary_, error);
  make_directories(temporary_);
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);  // after a commit that failed late, the older directory
  if (committed_) return;
  for (const fs::path& parent : new_parents_) fs::remove(parent, ignored);
}

void AtomicDirectory::commit() {
  sync_directory(temporary_);
  announce(FileStep::rename, temporary_);
  // The older directory, if there is one, comes to stand under the temporary name.
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
    // There is none, or this file system can't swap names.
    std::error_code error;
    fs::path old = path_;
    old += ".old-" + std::to_string(getpid());
    const bool replaces = fs::exists(path_, error);
    if (replaces) fs::rename(path_, old, error);
    if (!error) fs::rename(temporary_, path_, error);
    if (error) {
      std::error_code ignored;
      if (replaces && !fs::exists(path_, ignored)) fs::rename(old, path_, ignored);
      throw DataError("{}: cannot move the finished directory there: {}", path_.string(),
                      error.message());
    }
    temporary_ = old;
  }
  committed_ = true;
  sync_directory(path_.parent_path());
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

}  // namespace graphlora
