#include "core/file.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
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

/// The message of the error of type E that `body` throws.
template <class E, class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no such error";
  return {};
}
template <class Body>
std::string data_error(const Body& body) {
  return error_of<DataError>(body);
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

TEST(File, DeeplyNestedJsonIsRefused) {
  const TemporaryDirectory directory;
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  for (const std::string& text :
       {nested(201), nested(1000000), std::string(1000000, '['), "{\"a\":" + nested(200) + "}"}) {
    directory.write("deep.json", text);
    EXPECT_NE(data_error([&] {
                read_json(directory / "deep.json");
              }).find("deep.json: is not valid JSON: it has more than 200 levels"),
              std::string::npos);
  }
  const std::string brackets =
      "\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\"";
  for (const std::string& text :
       {nested(200), brackets, "[" + nested(199) + "," + nested(199) + "]"}) {
    directory.write("flat.json", text);
    EXPECT_NO_THROW(read_json(directory / "flat.json")) << text;
  }
}

TEST(File, PathExists) {
  const TemporaryDirectory directory;
  directory.write("x", "");
  EXPECT_TRUE(path_exists(directory / "x"));
  EXPECT_FALSE(path_exists(directory / "y"));
  EXPECT_FALSE(path_exists(directory / "x/y"));
  EXPECT_NE(data_error([&] { path_exists(directory / std::string(300, 'x')); }).find("too long"),
            std::string::npos);
}

TEST(File, LiesIn) {
  const TemporaryDirectory directory;
  make_directories(directory / "a/b");
  fs::create_directory_symlink(directory / "a", directory / "link");
  for (const char* inside : {"a", "a/", "a/b", "a/none/x", "link/b", "a/b/../b"})
    EXPECT_TRUE(lies_in(directory / inside, directory / "a")) << inside;
  EXPECT_TRUE(lies_in(directory / "a/b", directory / "link"));
  for (const char* outside : {"", "ab", "a/../c", "none"})
    EXPECT_FALSE(lies_in(directory / outside, directory / "a")) << outside;
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

TEST(AtomicFile, OnlyRegularFilesAreReplaced) {
  const TemporaryDirectory directory;
  make_directories(directory / "folder");
  fs::create_symlink("/dev/null", directory / "null");
  for (const char* name : {"folder", "null"}) {
    EXPECT_NE(data_error([&] { AtomicFile(directory / name); }).find("is not a regular file"),
              std::string::npos);
  }
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"folder", "null"}));
}

TEST(AtomicDirectory, CommitReplacesAndAbortLeavesNothing) {
  const TemporaryDirectory directory;
  {
    AtomicDirectory output(directory / "out", "a");
    write_file(output.path() / "a", "1");
    EXPECT_FALSE(fs::exists(directory / "out"));
    output.commit();
  }
  EXPECT_EQ(read_file(directory / "out/a"), "1");
  {
    AtomicDirectory output(directory / "out/", "a");
    write_file(output.path() / "b", "2");
    output.commit();
  }
  EXPECT_EQ(names_in(directory / "out"), (std::set<std::string>{"b"}));
  {
    AtomicDirectory output(directory / "out", "b");
    write_file(output.path() / "c", "3");
  }
  EXPECT_EQ(names_in(directory / "out"), (std::set<std::string>{"b"}));
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"out"}));
}

TEST(AtomicDirectory, NewParentsAreKeptByCommitOnly) {
  const TemporaryDirectory directory;
  { const AtomicDirectory output(directory / "new/parents/out", "a"); }
  EXPECT_TRUE(names_in(directory.path()).empty());
  AtomicDirectory(directory / "new/parents/out", "a").commit();
  EXPECT_TRUE(fs::is_directory(directory / "new/parents/out"));
}

TEST(AtomicDirectory, ReplacesOnlyItsOwnKindAndEmptyDirectories) {
  const TemporaryDirectory directory;
  const fs::path root = directory.path();
  make_directories(root / "other/deep");
  make_directories(root / "empty");
  make_directories(root / "known");
  directory.write("known/marker.json", "");
  directory.write("file", "");
  fs::create_symlink(root / "none", root / "dangling");
  fs::create_symlink(root / "file", root / "to-file");
  const auto before = names_in(root);
  for (const auto& [path, part] : std::vector<std::pair<fs::path, std::string>>{
           {root / "other", "other: holds other files (there is no marker.json)"},
           {root / "other/", "holds other files"},
           {root / "file", "file: is not a directory"},
           {root / "to-file", "is not a directory"},
           {root / "dangling", "dangling: leads nowhere"},
           {root / "none/..", "leads nowhere"},
           {".", "the working directory"},
           {"./", "the working directory"},
           {"..", "the working directory"},
           {"/", "the working directory"},
           {fs::current_path(), "the working directory"},
           {"", "an empty name"}}) {
    const std::string message =
        error_of<ConfigError>([&path = path] { AtomicDirectory(path, "marker.json"); });
    EXPECT_NE(message.find(part), std::string::npos) << path << ": " << message;
  }
  EXPECT_EQ(names_in(root), before);
  for (const char* name : {"empty", "known", "new"}) {
    AtomicDirectory output(root / name, "marker.json");
    write_file(output.path() / "x", "1");
    output.commit();
    EXPECT_EQ(names_in(root / name), (std::set<std::string>{"x"}));
  }
}

TEST(AtomicDirectory, ALinkStaysAndItsTargetIsReplaced) {
  const TemporaryDirectory directory;
  make_directories(directory / "scratch/data");
  directory.write("scratch/data/marker", "old");
  fs::create_directory_symlink("scratch/data", directory / "link");
  for (const char* name : {"link", "link/"}) {
    AtomicDirectory output(directory / name, "marker");
    write_file(output.path() / "marker", name);
    EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"link", "scratch"}));
    output.commit();
    EXPECT_TRUE(fs::is_symlink(directory / "link"));
    EXPECT_EQ(read_file(directory / "scratch/data/marker"), name);
    EXPECT_EQ(names_in(directory / "scratch"), (std::set<std::string>{"data"}));
  }
}

TEST(AtomicDirectory, DeletesWhatKilledProcessesOfThisHostLeft) {
  const TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    const AtomicDirectory output(directory / "out", "a");
    write_file(output.path() / "a", "1");
    _exit(0);  // without destructors, as a killed process
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const auto left = names_in(directory.path());
  ASSERT_EQ(left.size(), 1u);
  const std::string suffix = "-" + std::to_string(child);
  ASSERT_TRUE(left.begin()->ends_with(suffix)) << *left.begin();
  const std::string stem = left.begin()->substr(0, left.begin()->size() - suffix.size());
  // Of a process that lives, of another host, of another output, and no process' number at all.
  const std::set<std::string> kept{stem + "-1", "out.tmp-elsewhere." + suffix,
                                   "out2" + stem.substr(3) + suffix, stem + suffix + "x"};
  for (const std::string& name : kept) make_directories(directory / name);
  { const AtomicDirectory output(directory / "out", "a"); }
  EXPECT_EQ(names_in(directory.path()), kept);
}

TEST(AtomicDirectory, UnwritablePlace) {
  const TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_THROW(AtomicDirectory(directory / "file/x", "a"), DataError);
  EXPECT_THROW(AtomicDirectory(directory / std::string(300, 'x'), "a"), DataError);
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
        AtomicDirectory output(directory / "disk/out", "a");
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
