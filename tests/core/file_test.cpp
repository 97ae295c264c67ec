#include "core/file.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "core/error.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  return names;
}

/// The message of the DataError that `body` throws.
template <class Body>
std::string data_error(const Body& body) {
  try {
    body();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DataError";
  return {};
}

TEST(File, WritesAndReadsBack) {
  const TemporaryDirectory directory;
  const std::string contents("a\0b\n\xFF", 5);
  write_file(directory / "x", contents);
  EXPECT_EQ(read_file(directory / "x"), contents);
  write_file(directory / "x", "");
  EXPECT_EQ(read_file(directory / "x"), "");
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"x"}));
}

TEST(File, ReadRefusesWhatIsMissingTooLargeOrNoFile) {
  const TemporaryDirectory directory;
  directory.write("x", "12345");
  EXPECT_NE(data_error([&] { read_file(directory / "none"); }).find("none: cannot open"),
            std::string::npos);
  EXPECT_NE(data_error([&] { read_file(directory / "x", 4); }).find("x: has 5 bytes"),
            std::string::npos);
  EXPECT_NE(data_error([&] { read_file(directory.path()); }).find("not a regular file"),
            std::string::npos);
  EXPECT_NE(data_error([&] { read_file("/dev/zero"); }).find("/dev/zero"), std::string::npos);
  EXPECT_EQ(read_file(directory / "x", 5), "12345");
}

TEST(File, Json) {
  const TemporaryDirectory directory;
  write_json(directory / "x.json", {{"b", 1}, {"a", {1.5, nullptr}}});
  EXPECT_EQ(read_json(directory / "x.json"), nlohmann::json::parse(R"({"a":[1.5,null],"b":1})"));
  for (const std::string text : {"", "{", "{\"a\":1}x", "{\"a\":\xFF}", "nan"}) {
    directory.write("bad.json", text);
    const std::string message = data_error([&] { read_json(directory / "bad.json"); });
    EXPECT_NE(message.find("bad.json: is not valid JSON: "), std::string::npos) << text;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(File, JsonOfInvalidUtf8IsWrittenWithReplacements) {
  const TemporaryDirectory directory;
  write_json(directory / "x.json", {{"path", "caf\xE9"}});
  EXPECT_EQ(read_json(directory / "x.json").at("path"), "caf\xEF\xBF\xBD");
}

TEST(File, DeeplyNestedJsonDoesNotCrash) {
  const TemporaryDirectory directory;
  constexpr std::size_t depth = 1000000;
  directory.write("deep.json", std::string(depth, '['));
  EXPECT_NE(data_error([&] { read_json(directory / "deep.json"); }).find("deep.json"),
            std::string::npos);
  directory.write("deep.json", std::string(depth, '[') + std::string(depth, ']'));
  EXPECT_NO_THROW(read_json(directory / "deep.json"));
}

TEST(File, Sha256) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const TemporaryDirectory directory;
  const std::string large(3000000, 'x');
  EXPECT_EQ(sha256_file(directory.write("x", large)), sha256(large));
  EXPECT_THROW(sha256_file(directory / "none"), DataError);
}

TEST(File, MappedFile) {
  const TemporaryDirectory directory;
  const MappedFile file(directory.write("x", "hello"));
  ASSERT_EQ(file.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  EXPECT_EQ(MappedFile(directory.write("empty", "")).bytes().size(), 0u);
  EXPECT_THROW(MappedFile(directory / "none"), DataError);
  EXPECT_THROW(MappedFile(directory.path()), DataError);
}

TEST(File, MakeDirectories) {
  const TemporaryDirectory directory;
  make_directories(directory / "a/b/c");
  make_directories(directory / "a/b/c");
  EXPECT_TRUE(fs::is_directory(directory / "a/b/c"));
  directory.write("file", "");
  EXPECT_NE(data_error([&] { make_directories(directory / "file/x"); }).find("file/x"),
            std::string::npos);
}

TEST(AtomicFile, NothingIsLeftWithoutCommit) {
  const TemporaryDirectory directory;
  directory.write("x", "old");
  {
    AtomicFile file(directory / "x");
    file.write("new");
    EXPECT_EQ(read_file(directory / "x"), "old");
  }
  EXPECT_EQ(read_file(directory / "x"), "old");
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"x"}));
  AtomicFile file(directory / "x");
  file.write("new");
  file.commit();
  EXPECT_EQ(read_file(directory / "x"), "new");
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"x"}));
}

TEST(AtomicFile, UnwritablePlaces) {
  const TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_NE(data_error([&] { write_file(directory / "none/x", "a"); }).find("none/x"),
            std::string::npos);
  EXPECT_THROW(write_file(directory / "file/x", "a"), DataError);
  make_directories(directory / "folder/inner");
  EXPECT_THROW(write_file(directory / "folder", "a"), DataError);
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"file", "folder"}));
}

TEST(AtomicFile, ReadOnlyDirectory) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const TemporaryDirectory directory;
  make_directories(directory / "locked");
  fs::permissions(directory / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_NE(data_error([&] { write_file(directory / "locked/x", "a"); }).find("Permission denied"),
            std::string::npos);
  fs::permissions(directory / "locked", fs::perms::owner_all);
}

TEST(AtomicDirectory, CommitReplacesAndAbortLeavesNothing) {
  const TemporaryDirectory directory;
  {
    AtomicDirectory output(directory / "out");
    write_file(output.path() / "a", "1");
    EXPECT_FALSE(fs::exists(directory / "out"));
    output.commit();
  }
  EXPECT_EQ(read_file(directory / "out/a"), "1");
  {
    AtomicDirectory output(directory / "out/");
    write_file(output.path() / "b", "2");
    output.commit();
  }
  EXPECT_EQ(names_in(directory / "out"), (std::set<std::string>{"b"}));
  {
    AtomicDirectory output(directory / "out");
    write_file(output.path() / "c", "3");
  }
  EXPECT_EQ(names_in(directory / "out"), (std::set<std::string>{"b"}));
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"out"}));
}

TEST(AtomicDirectory, UnwritablePlace) {
  const TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_THROW(AtomicDirectory(directory / "file/x"), DataError);
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"file"}));
}

/// A file system of 64 KiB at `where`, while the object lives.
class TinyDisk {
 public:
  explicit TinyDisk(fs::path where) : where_(std::move(where)) {
    make_directories(where_);
    mounted_ = mount("tmpfs", where_.c_str(), "tmpfs", 0, "size=64k") == 0;
  }
  ~TinyDisk() {
    if (mounted_) umount(where_.c_str());
  }
  TinyDisk(const TinyDisk&) = delete;
  TinyDisk& operator=(const TinyDisk&) = delete;
  bool mounted() const { return mounted_; }

 private:
  fs::path where_;
  bool mounted_ = false;
};

TEST(AtomicFile, FullDiskLeavesNothingBehind) {
  const TemporaryDirectory directory;
  const TinyDisk disk(directory / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root with CAP_SYS_ADMIN";
  write_file(directory / "disk/x", "old");
  const std::string message =
      data_error([&] { write_file(directory / "disk/x", std::string(1 << 20, 'x')); });
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_EQ(read_file(directory / "disk/x"), "old");
  EXPECT_EQ(names_in(directory / "disk"), (std::set<std::string>{"x"}));

  EXPECT_THROW(
      {
        AtomicDirectory output(directory / "disk/out");
        write_file(output.path() / "big", std::string(1 << 20, 'x'));
      },
      DataError);
  EXPECT_EQ(names_in(directory / "disk"), (std::set<std::string>{"x"}));
}

TEST(AtomicFile, FileSizeLimitLeavesNothingBehind) {
  const TemporaryDirectory directory;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limited{1 << 16, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  std::string message;
  try {
    write_file(directory / "x", std::string(1 << 20, 'x'));
  } catch (const DataError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_TRUE(names_in(directory.path()).empty());
}

}  // namespace
}  // namespace graphlora
