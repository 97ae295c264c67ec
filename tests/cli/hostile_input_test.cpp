// Damaged files of every kind through the real program: one line of error that names the file (and
// line, tensor or key), exit code 2 or 3, nothing left behind, no crash.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/dataset_writer.hpp"
#include "support/process.hpp"
#include "train/checkpoint.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_process;

using Words = std::vector<std::string>;

// Flags of the pipeline; @ stands for the folder that holds everything.
const Words kPrepare{"prepare",  "--input",   "@/ratings.csv", "--format", "csv",
                     "--output", "@/dataset", "--split",       "user-time"};
const Words kPartition{"partition", "--data", "@/dataset", "--parts", "1", "--graph.groups", "2"};
const Words kPretrain{"pretrain",         "--data", "@/dataset",         "--output", "@/pretrained",
                      "--pretrain.width", "6",      "--pretrain.epochs", "2"};
const Words kTrain{"train",
                   "--data",
                   "@/dataset",
                   "--model",
                   "@/model",
                   "--pretrained",
                   "@/pretrained",
                   "--output",
                   "@/out",
                   "--prompt.templates",
                   "@/templates.txt",
                   "--steps",
                   "1",
                   "--batch-size",
                   "4",
                   "--precision",
                   "fp32",
                   "--lora.rank",
                   "2",
                   "--graph.groups",
                   "2",
                   "--projector.middle",
                   "4",
                   "--eval-every",
                   "0"};
const Words kEvaluate{"evaluate", "--checkpoint", "@/out",          "--data", "@/dataset",
                      "--model",  "@/model",      "--max-examples", "4"};
const Words kEvaluatePretrained{"evaluate", "--pretrained", "@/pretrained", "--data", "@/dataset"};
const Words kRecommend{"recommend", "--checkpoint", "@/out",  "--data", "@/dataset",
                       "--model",   "@/model",      "--user", "u1"};
const Words kRetrieve{"recommend", "--checkpoint", "@/out",    "--data", "@/dataset",
                      "--user",    "u1",           "--rerank", "off"};
const Words kExport{"export",           "--checkpoint", "@/out",  "--data",     "@/dataset",
                    "--model",          "@/model",      "--what", "embeddings", "--output",
                    "@/new.safetensors"};

Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// Replaces the value that follows a flag.
Words replaced(Words words, const std::string& flag, const std::string& value) {
  for (std::size_t i = 0; i + 1 < words.size(); ++i)
    if (words[i] == flag) words[i + 1] = value;
  return words;
}

Words inspect(const std::string& path) { return {"inspect", path}; }

const Words kTrainNew = replaced(kTrain, "--output", "@/new");
const Words kPrepareNew = replaced(kPrepare, "--output", "@/new");
const Words kPretrainNew = replaced(kPretrain, "--output", "@/new");

ProcessResult graphlora_run(Words words, const fs::path& root) {
  for (std::string& word : words)
    if (word.starts_with('@')) word = root.string() + word.substr(1);
  words.insert(words.begin(), GRAPHLORA_BINARY);
  return run_process(words);
}

std::string ratings_csv() {
  std::string text = "user,item,time,rating,title\n";
  for (int user = 0; user < 12; ++user) {
    for (int i = 0; i < 8; ++i) {
      const int item = (user * 3 + i * 2) % 10;
      text += fmt::format("u{},i{},{},{},\"Title {}, the\"\n", user, item, 1000 + 10 * i + user,
                          1 + (user + item * 2) % 5, item);
    }
  }
  return text;
}

void put(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

void cut(const fs::path& path, std::size_t bytes) { fs::resize_file(path, bytes); }
void halve(const fs::path& path) { cut(path, fs::file_size(path) / 2); }

void edit_json(const fs::path& path, const std::function<void(nlohmann::json&)>& edit) {
  nlohmann::json json = read_json(path);
  edit(json);
  put(path, json.dump(1));
}

std::vector<std::pair<std::string, at::Tensor>> tensors_of(
    const fs::path& path, std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const SafetensorsReader reader(path);
  metadata = reader.metadata();
  for (const auto& [name, entry] : reader.entries())
    tensors.emplace_back(name, reader.tensor(name).clone());
  return tensors;
}

/// Rewrites a safetensors file with one tensor changed, or dropped if `edit` returns none.
void edit_tensor(const fs::path& path, const std::string& which,
                 const std::function<at::Tensor(at::Tensor)>& edit) {
  std::map<std::string, std::string> metadata;
  auto tensors = tensors_of(path, metadata);
  bool found = false;
  for (auto& [name, tensor] : tensors) {
    if (name != which) continue;
    tensor = edit(tensor);
    found = true;
  }
  if (!found) throw std::runtime_error(path.string() + " lacks tensor " + which);
  std::erase_if(tensors, [](const auto& item) { return !item.second.defined(); });
  write_safetensors(path, tensors, metadata);
}

at::Tensor drop(const at::Tensor&) { return {}; }
at::Tensor with_nan(at::Tensor tensor) {
  tensor.view(-1)[0].fill_(std::numeric_limits<double>::quiet_NaN());
  return tensor;
}
std::function<at::Tensor(at::Tensor)> first_set_to(std::int64_t value) {
  return [value](at::Tensor tensor) {
    tensor.view(-1)[0].fill_(value);
    return tensor;
  };
}
at::Tensor shorter(const at::Tensor& tensor) {
  return tensor.slice(0, 0, tensor.size(0) - 1).clone();
}
at::Tensor as_float(const at::Tensor& tensor) { return tensor.to(at::kFloat); }
at::Tensor as_long(const at::Tensor& tensor) { return tensor.to(at::kLong); }

/// The checkpoint's manifest lists sizes and checksums: makes it agree with a damaged file, so that
/// the reader of that file is what must find the damage.
void bless(const fs::path& step) {
  edit_json(step / "manifest.json", [&](nlohmann::json& manifest) {
    for (auto& [name, about] : manifest["files"].items()) {
      about["bytes"] = fs::file_size(step / name);
      about["sha256"] = sha256_file(step / name);
    }
    manifest["checksum"] = manifest_checksum(manifest);
  });
}

/// The same for dataset.json, whose fingerprint covers the files.
void bless_dataset(const fs::path& dataset) {
  edit_json(dataset / "dataset.json", [&](nlohmann::json& description) {
    for (auto& [name, about] : description["files"].items()) {
      about["bytes"] = fs::file_size(dataset / name);
      about["sha256"] = sha256_file(dataset / name);
    }
    description["fingerprint"] = dataset_fingerprint(description);
  });
}

/// Names of everything below, with the checksums of files.
std::map<std::string, std::string> listing(const fs::path& root) {
  std::map<std::string, std::string> entries;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    entries[entry.path().lexically_relative(root).string()] =
        entry.is_regular_file() ? sha256_file(entry.path()) : "";
  return entries;
}

struct Case {
  const char* name;
  std::function<void(const fs::path& root)> damage;
  Words words;
  int code;
  std::string expected;  ///< in the line of error; @ stands for the folder
};

/// A small pipeline, made once by the program itself.
class HostileInput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    pipeline_ = std::make_unique<TemporaryDirectory>();
    const fs::path root = pipeline_->path();
    put(root / "ratings.csv", ratings_csv());
    put(root / "templates.txt",
        "[template]\nL {history} {user} T {title} {item} ?\n[empty history]\n{user} T {title} "
        "{item} ?\n");
    fs::copy("tests/golden/tiny_llama", root / "model", fs::copy_options::recursive);
    for (const Words& words : {kPrepare, kPartition, kPretrain, kTrain}) {
      const ProcessResult result = graphlora_run(words, root);
      ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
    }
    for (const Words& words : {kEvaluate, kEvaluatePretrained, kRecommend, kRetrieve, kExport}) {
      const ProcessResult result = graphlora_run(words, root);
      ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
    }
    fs::remove(root / "new.safetensors");
  }
  static void TearDownTestSuite() { pipeline_.reset(); }

  static void check(const std::vector<Case>& cases) {
    if (HasFatalFailure()) return;
    for (const Case& c : cases) {
      SCOPED_TRACE(c.name);
      const TemporaryDirectory directory;
      const fs::path root = directory.path();
      fs::copy(pipeline_->path(), root, fs::copy_options::recursive);
      c.damage(root);
      const auto before = listing(root);
      const ProcessResult result = graphlora_run(c.words, root);
      EXPECT_EQ(result.signal, 0) << result.err;
      EXPECT_EQ(result.code, c.code) << result.err;
      EXPECT_EQ(result.out, "");
      const auto errors = error_lines(result.err);
      EXPECT_EQ(errors.size(), 1u) << result.err;
      std::string expected = c.expected;
      for (auto at = expected.find('@'); at != std::string::npos; at = expected.find('@', at))
        expected.replace(at, 1, root.string());
      if (!errors.empty()) {
        EXPECT_NE(errors[0].find(expected), std::string::npos)
            << errors[0] << "\n  lacks: " << expected;
      }
      EXPECT_EQ(listing(root), before) << "files were left, lost or changed";
    }
  }

  static std::unique_ptr<TemporaryDirectory> pipeline_;
};
std::unique_ptr<TemporaryDirectory> HostileInput::pipeline_;

std::function<void(const fs::path&)> ratings(const std::string& text) {
  return [text](const fs::path& root) { put(root / "ratings.csv", text); };
}

TEST_F(HostileInput, Ratings) {
  const std::string head = "user,item,time,rating\n";
  check({
      {"missing", [](const fs::path& r) { fs::remove(r / "ratings.csv"); }, kPrepareNew, 3,
       "@/ratings.csv"},
      {"a directory", [](const fs::path&) {}, replaced(kPrepareNew, "--input", "@/model"), 3,
       "@/model"},
      {"empty", ratings(""), kPrepareNew, 3, "@/ratings.csv"},
      {"only a header", ratings(head), kPrepareNew, 3, "@/ratings.csv: has no rows"},
      {"no such column", ratings("user,thing,time,rating\nu,i,1,5\n"), kPrepareNew, 3,
       "@/ratings.csv:1: "},
      {"too few columns", ratings(head + "u,i,1,5\nu,j,1\n"), kPrepareNew, 3, "@/ratings.csv:3: "},
      {"too many columns", ratings(head + "u,i,1,5,6\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"rating is text", ratings(head + "u,i,1,good\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"rating is NaN", ratings(head + "u,i,1,nan\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"time is text", ratings(head + "u,i,yesterday,5\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"time is negative", ratings(head + "u,i,-5,5\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"time is huge", ratings(head + "u,i,99999999999999999999,5\n"), kPrepareNew, 3,
       "@/ratings.csv:2: "},
      {"empty id", ratings(head + ",i,1,5\n"), kPrepareNew, 3, "@/ratings.csv:2: "},
      {"NUL in an id", ratings(head + std::string("u\0v,i,1,5\n", 10)), kPrepareNew, 3,
       "@/ratings.csv:2: "},
      {"quote never closed", ratings(head + "u,\"i,1,5\n"), kPrepareNew, 3, "@/ratings.csv:"},
      {"nothing liked", ratings(head + "u,i,1,1\nu,j,2,1\nu,k,3,1\n"), kPrepareNew, 3,
       "@/ratings.csv: no row is liked"},
      {"binary", ratings(std::string(1000, '\xFF')), kPrepareNew, 3, "@/ratings.csv:1: "},
      {"wrong format", [](const fs::path&) {}, replaced(kPrepareNew, "--format", "movielens-100k"),
       3, "@/ratings.csv"},
      {"unknown format", [](const fs::path&) {}, replaced(kPrepareNew, "--format", "netflix"), 2,
       "--format"},
      {"shares above 1", [](const fs::path&) {},
       with(kPrepareNew, {"--split.test", "0.6", "--split.valid", "0.6"}), 2, "split"},
      {"output below a file", [](const fs::path&) {},
       replaced(kPrepare, "--output", "@/ratings.csv/x"), 3, "@/ratings.csv/x"},
      {"output below new directories, input missing", [](const fs::path&) {},
       replaced(replaced(kPrepare, "--output", "@/new/dataset"), "--input", "@/none"), 3, "@/none"},
      {"output is a file", [](const fs::path&) {}, replaced(kPrepare, "--output", "@/ratings.csv"),
       2, "@/ratings.csv"},
      {"output is a file beside the input", [](const fs::path&) {},
       replaced(kPrepare, "--output", "@/templates.txt"), 2, "@/templates.txt: is not a directory"},
      {"output is another kind of directory", [](const fs::path&) {},
       replaced(kPrepare, "--output", "@/model"), 2, "@/model: holds other files"},
      {"output holds the input",
       [](const fs::path& r) { fs::copy(r / "ratings.csv", r / "dataset/r.csv"); },
       replaced(kPrepare, "--input", "@/dataset/r.csv"), 2,
       "--output @/dataset: holds the input @/dataset/r.csv"},
      {"output holds the titles",
       [](const fs::path& r) { fs::copy(r / "ratings.csv", r / "dataset/t.csv"); },
       with(kPrepare, {"--csv.titles", "@/dataset/t.csv"}), 2, "holds the input @/dataset/t.csv"},
  });
}

/// A log that can't be written any further does not end a run.
TEST_F(HostileInput, FullDiskUnderTheLog) {
  const TemporaryDirectory directory;
  const fs::path root = directory.path();
  fs::copy(pipeline_->path(), root, fs::copy_options::recursive);
  Words argv{"bash", "-c", "exec \"$@\" 2>/dev/full", "bash", GRAPHLORA_BINARY};
  argv.insert(argv.end(), kTrainNew.begin(), kTrainNew.end());
  for (std::string& word : argv)
    if (word.starts_with('@') && word.size() > 1) word = root.string() + word.substr(1);
  EXPECT_EQ(run_process(argv).code, 0);
  EXPECT_TRUE(fs::exists(root / "new/LATEST"));
}

/// Every command that writes, where no file may grow beyond 1 KiB: as on a full disk, but for root
/// too. Open MPI must not need files of its own.
TEST_F(HostileInput, FullDisk) {
  const auto limited = [](Words words) {
    // The log goes through a process of its own, which has no limit.
    Words all{"bash", "-c",
              "set -o pipefail; { (trap '' XFSZ; ulimit -f 1; export OMPI_MCA_btl=self "
              "PMIX_MCA_gds=hash; exec \"$@\") 2>&1 >&3 | cat >&2; } 3>&1",
              "bash", GRAPHLORA_BINARY};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  };
  const Words exported{"export",  "--checkpoint", "@/out",   "--data",   "@/dataset", "--model",
                       "@/model", "--what",       "adapter", "--output", "@/new"};
  const Words generated{"generate",       "--users", "50",       "--items", "20",
                        "--interactions", "500",     "--output", "@/new"};
  for (const Words& words : {kPrepareNew, kPrepare, generated, with(generated, {"--as", "csv"}),
                             kPartition, replaced(kPretrainNew, "--pretrain.width", "64"),
                             kTrainNew, exported, replaced(exported, "--what", "merged")}) {
    SCOPED_TRACE(words[0]);
    const TemporaryDirectory directory;
    const fs::path root = directory.path();
    fs::copy(pipeline_->path(), root, fs::copy_options::recursive);
    auto before = listing(root);
    Words argv = limited(words);
    for (std::string& word : argv)
      if (word.starts_with('@') && word.size() > 1) word = root.string() + word.substr(1);
    const ProcessResult result = run_process(argv);
    EXPECT_EQ(result.code, 3) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1U) << result.err;
    EXPECT_NE(errors[0].find("File too large"), std::string::npos) << errors[0];
    auto after = listing(root);
    if (words[0] == "train") {
      // The run's folder stands with what metrics there are; no step does.
      EXPECT_FALSE(fs::exists(root / "new" / "LATEST"));
      std::erase_if(after, [](const auto& entry) {
        return entry.first == "new" || entry.first == "new/metrics.jsonl";
      });
    }
    EXPECT_EQ(after, before) << "files were left, lost or changed";
  }
}

TEST_F(HostileInput, RatingsOfANameThatIsNotUtf8) {
  const TemporaryDirectory directory;
  put(directory / "caf\xE9.csv", ratings_csv());
  const ProcessResult result = graphlora_run(
      with(replaced(kPrepare, "--input", "@/caf\xE9.csv"), {"--json"}), directory.path());
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("\"café.csv\""), std::string::npos) << result.out;
}

TEST_F(HostileInput, Dataset) {
  const auto edit = [](const char* file, const char* tensor,
                       std::function<at::Tensor(at::Tensor)> change) {
    return [=](const fs::path& root) {
      edit_tensor(root / "dataset" / file, tensor, change);
      bless_dataset(root / "dataset");
    };
  };
  const auto description = [](std::function<void(nlohmann::json&)> change) {
    return [=](const fs::path& root) { edit_json(root / "dataset/dataset.json", change); };
  };
  // A train and a test row change places.
  const auto unblessed = [](const fs::path& root) {
    edit_tensor(root / "dataset/interactions.safetensors", "split", [](at::Tensor split) {
      const at::Tensor train = (split == 0).nonzero()[0], test = (split == 2).nonzero()[0];
      split.index_fill_(0, train, 2);
      split.index_fill_(0, test, 0);
      return split;
    });
  };
  check({
      {"content changed", unblessed, kPretrainNew, 3, "@/dataset/interactions.safetensors"},
      {"content changed, partition", unblessed, kPartition, 3,
       "@/dataset/interactions.safetensors"},
      {"content changed, inspect", unblessed, inspect("@/dataset"), 3,
       "@/dataset/interactions.safetensors"},
      {"rows a list", description([](nlohmann::json& j) {
         j["rows"] = {1, 2, 3};
       }),
       kPretrainNew, 3, "@/dataset/dataset.json"},
      {"no directory", [](const fs::path& r) { fs::remove_all(r / "dataset"); }, kPretrainNew, 3,
       "@/dataset"},
      {"dataset.json missing", [](const fs::path& r) { fs::remove(r / "dataset/dataset.json"); },
       kPretrainNew, 3, "@/dataset: is not a dataset"},
      {"dataset.json no JSON",
       [](const fs::path& r) { put(r / "dataset/dataset.json", "{\"users\": "); }, kPretrainNew, 3,
       "@/dataset/dataset.json"},
      {"dataset.json an array", [](const fs::path& r) { put(r / "dataset/dataset.json", "[]"); },
       kPretrainNew, 3, "@/dataset/dataset.json"},
      {"negative users", description([](nlohmann::json& j) { j["users"] = -5; }), kPretrainNew, 3,
       "@/dataset/"},
      {"users as text", description([](nlohmann::json& j) { j["users"] = "many"; }), kPretrainNew,
       3, "@/dataset/dataset.json"},
      {"absurd items", description([](nlohmann::json& j) { j["items"] = std::int64_t{1} << 62; }),
       kPretrainNew, 3, "@/dataset/"},
      {"another version", description([](nlohmann::json& j) { j["format_version"] = 99; }),
       kPretrainNew, 3, "@/dataset/dataset.json"},
      {"interactions missing",
       [](const fs::path& r) { fs::remove(r / "dataset/interactions.safetensors"); }, kPretrainNew,
       3, "interactions.safetensors is missing"},
      {"interactions cut", [](const fs::path& r) { halve(r / "dataset/interactions.safetensors"); },
       kPretrainNew, 3, "interactions.safetensors has"},
      {"user out of range", edit("interactions.safetensors", "user", first_set_to(1000)),
       kPretrainNew, 3, "interactions.safetensors"},
      {"user negative", edit("interactions.safetensors", "user", first_set_to(-1)), kPretrainNew, 3,
       "interactions.safetensors"},
      {"item out of range", edit("interactions.safetensors", "item", first_set_to(1000)),
       kPretrainNew, 3, "interactions.safetensors"},
      {"label of 7", edit("interactions.safetensors", "label", first_set_to(7)), kPretrainNew, 3,
       "interactions.safetensors"},
      {"split of 9", edit("interactions.safetensors", "split", first_set_to(9)), kPretrainNew, 3,
       "interactions.safetensors"},
      {"times not ascending",
       edit("interactions.safetensors", "time", first_set_to(std::int64_t{1} << 60)), kPretrainNew,
       3, "interactions.safetensors"},
      {"times shorter", edit("interactions.safetensors", "time", shorter), kPretrainNew, 3,
       "tensor time"},
      {"users of another type", edit("interactions.safetensors", "user", as_float), kPretrainNew, 3,
       "tensor user"},
      {"ratings missing", edit("interactions.safetensors", "rating", drop), kPretrainNew, 3,
       "tensor rating"},
      {"history offsets negative", edit("history.safetensors", "offsets", first_set_to(-8)),
       kPretrainNew, 3, "history.safetensors"},
      {"history offsets huge",
       edit("history.safetensors", "offsets", first_set_to(std::int64_t{1} << 40)), kPretrainNew, 3,
       "history.safetensors"},
      {"history item out of range", edit("history.safetensors", "item", first_set_to(1000)),
       kPretrainNew, 3, "history.safetensors"},
      {"title offsets huge",
       edit("items.safetensors", "title_offsets",
            [](at::Tensor t) {
              t[1].fill_(std::int64_t{1} << 40);
              return t;
            }),
       kPretrainNew, 3, "items.safetensors"},
      {"titles not UTF-8", edit("items.safetensors", "title_bytes", first_set_to(0xFF)),
       kPretrainNew, 3, "items.safetensors"},
      {"user ids cut", [](const fs::path& r) { halve(r / "dataset/users.safetensors"); },
       kPretrainNew, 3, "users.safetensors has"},
  });
}

TEST_F(HostileInput, Partition) {
  const char* part = "dataset/partition-1/part-00000.safetensors";
  const auto edit = [part](const char* tensor, std::function<at::Tensor(at::Tensor)> change) {
    return [=](const fs::path& root) { edit_tensor(root / part, tensor, change); };
  };
  check({
      {"no dataset", [](const fs::path&) {}, replaced(kPartition, "--data", "@/none"), 3, "@/none"},
      {"no parts", [](const fs::path&) {}, replaced(kPartition, "--parts", "0"), 2, "--parts"},
      {"more parts than nodes", [](const fs::path&) {}, replaced(kPartition, "--parts", "23"), 2,
       "23 parts (ranks) for a graph of 22 nodes"},
      {"more parts than supported", [](const fs::path&) {}, replaced(kPartition, "--parts", "4097"),
       2, "--parts"},
      {"report of a negative number of parts",
       [](const fs::path& r) {
         edit_json(r / "dataset/partition-1/partition.json",
                   [](nlohmann::json& j) { j["parts"] = -3; });
       },
       inspect("@/dataset/partition-1"), 3, "@/dataset/partition-1/partition.json"},
      {"report is an array",
       [](const fs::path& r) { put(r / "dataset/partition-1/partition.json", "[1]"); },
       inspect("@/dataset/partition-1"), 3, "@/dataset/partition-1"},
      {"part of another partition",
       [part](const fs::path& r) {
         std::map<std::string, std::string> metadata;
         const auto tensors = tensors_of(r / part, metadata);
         metadata["partition_id"] = "0";
         write_safetensors(r / part, tensors, metadata);
       },
       inspect("@/dataset/partition-1"), 3, "part-00000.safetensors: its partition_id"},
      {"part of no sense", edit("col", first_set_to(-1)), inspect("@/dataset/partition-1"), 3,
       "part-00000.safetensors"},
      {"part cut", [part](const fs::path& r) { halve(r / part); }, kTrainNew, 3,
       "part-00000.safetensors"},
      {"part missing", [part](const fs::path& r) { fs::remove(r / part); }, kTrainNew, 3,
       "part-00000.safetensors"},
      {"column out of range", edit("col", first_set_to(100000)), kTrainNew, 3,
       "part-00000.safetensors"},
      {"column negative", edit("col", first_set_to(-1)), kTrainNew, 3, "part-00000.safetensors"},
      {"row offsets huge", edit("row_offsets", first_set_to(std::int64_t{1} << 40)), kTrainNew, 3,
       "part-00000.safetensors"},
      {"another directory in its place",
       [](const fs::path& r) { fs::copy(r / "model", r / "dataset/partition-2"); },
       replaced(kPartition, "--parts", "2"), 2, "@/dataset/partition-2: holds other files"},
      {"owned twice",
       edit("owned",
            [](at::Tensor t) {
              t[0].copy_(t[1]);
              return t;
            }),
       kTrainNew, 3, "part-00000.safetensors: node"},
      {"owned out of range", edit("owned", first_set_to(std::int64_t{1} << 40)), kTrainNew, 3,
       "part-00000.safetensors"},
      {"col missing", edit("col", drop), kTrainNew, 3, "tensor col"},
      {"col of another type", edit("col", as_long), kTrainNew, 3, "tensor col"},
  });
}

TEST_F(HostileInput, Pretrained) {
  const char* file = "pretrained/embeddings-00000-of-00001.safetensors";
  const auto edit = [file](const char* tensor, std::function<at::Tensor(at::Tensor)> change) {
    return [=](const fs::path& root) { edit_tensor(root / file, tensor, change); };
  };
  check({
      {"no directory", [](const fs::path&) {}, replaced(kTrainNew, "--pretrained", "@/none"), 3,
       "@/none"},
      {"pretrain.json damaged", [](const fs::path& r) { put(r / "pretrained/pretrain.json", "{"); },
       kTrainNew, 3, "@/pretrained/pretrain.json"},
      {"pretrain.json an array",
       [](const fs::path& r) { put(r / "pretrained/pretrain.json", "[1]"); }, kTrainNew, 3,
       "@/pretrained/pretrain.json"},
      {"of another dataset",
       [](const fs::path& r) {
         edit_json(r / "pretrained/pretrain.json",
                   [](nlohmann::json& j) { j["dataset_fingerprint"] = "0"; });
       },
       kTrainNew, 3, "another dataset"},
      {"embeddings missing", [file](const fs::path& r) { fs::remove(r / file); }, kTrainNew, 3,
       "@/pretrained"},
      {"embeddings cut", [file](const fs::path& r) { halve(r / file); }, kEvaluatePretrained, 3,
       "embeddings-00000-of-00001.safetensors"},
      {"NaN", edit("weight", with_nan), kEvaluatePretrained, 3, "weight of node 0 is not finite"},
      {"NaN, inspect", edit("weight", with_nan), inspect("@/pretrained"), 3,
       "weight of node 0 is not finite"},
      {"users negative, inspect",
       [](const fs::path& r) {
         edit_json(r / "pretrained/pretrain.json", [](nlohmann::json& j) { j["users"] = -5; });
       },
       inspect("@/pretrained"), 3, "@/pretrained/pretrain.json"},
      {"a row missing", edit("weight", shorter), kTrainNew, 3, "weight is"},
      {"node ids repeat",
       edit("node_id",
            [](at::Tensor t) {
              t[1].copy_(t[0]);
              return t;
            }),
       kTrainNew, 3, "embeddings-00000-of-00001.safetensors"},
      {"weight missing", edit("weight", drop), kEvaluatePretrained, 3, "tensor weight"},
      {"output is the dataset", [](const fs::path&) {},
       replaced(kPretrain, "--output", "@/dataset"), 2, "@/dataset: holds other files"},
      {"output is found out before the data is read", [](const fs::path&) {},
       replaced(replaced(kPretrain, "--output", "@/model"), "--data", "@/none"), 2,
       "@/model: holds other files"},
  });
}

TEST_F(HostileInput, Model) {
  const auto config = [](std::function<void(nlohmann::json&)> change) {
    return [=](const fs::path& root) { edit_json(root / "model/config.json", change); };
  };
  const auto tokenizer = [](std::function<void(nlohmann::json&)> change) {
    return [=](const fs::path& root) { edit_json(root / "model/tokenizer.json", change); };
  };
  const auto weights = [](const char* tensor, std::function<at::Tensor(at::Tensor)> change) {
    return [=](const fs::path& root) {
      edit_tensor(root / "model/model.safetensors", tensor, change);
    };
  };
  check({
      {"no directory", [](const fs::path&) {}, replaced(kTrainNew, "--model", "@/none"), 3,
       "@/none"},
      {"config.json missing", [](const fs::path& r) { fs::remove(r / "model/config.json"); },
       kTrainNew, 3, "@/model/config.json"},
      {"config.json damaged", [](const fs::path& r) { put(r / "model/config.json", "{,}"); },
       kTrainNew, 3, "@/model/config.json"},
      {"hidden size negative", config([](nlohmann::json& j) { j["hidden_size"] = -36; }), kTrainNew,
       3, "hidden_size"},
      {"hidden size absurd",
       config([](nlohmann::json& j) { j["hidden_size"] = std::int64_t{1} << 60; }), kTrainNew, 3,
       "@/model/"},
      {"layers absurd",
       config([](nlohmann::json& j) { j["num_hidden_layers"] = std::int64_t{1} << 60; }), kTrainNew,
       3, "num_hidden_layers"},
      {"no heads", config([](nlohmann::json& j) { j["num_attention_heads"] = 0; }), kTrainNew, 3,
       "num_attention_heads"},
      {"heads as text", config([](nlohmann::json& j) { j["num_attention_heads"] = "nine"; }),
       kTrainNew, 3, "num_attention_heads"},
      {"another architecture", config([](nlohmann::json& j) {
         j["model_type"] = "gpt2";
         j["architectures"] = {"GPT2LMHeadModel"};
       }),
       kTrainNew, 3, "@/model/config.json"},
      {"weights missing", [](const fs::path& r) { fs::remove(r / "model/model.safetensors"); },
       kTrainNew, 3, "@/model"},
      {"weights cut", [](const fs::path& r) { halve(r / "model/model.safetensors"); }, kTrainNew, 3,
       "@/model/model.safetensors"},
      {"header of 2^63 bytes",
       [](const fs::path& r) {
         std::string b = read_file(r / "model/model.safetensors");
         const std::uint64_t n = std::uint64_t{1} << 63;
         std::memcpy(b.data(), &n, 8);
         put(r / "model/model.safetensors", b);
       },
       kTrainNew, 3, "@/model/model.safetensors"},
      {"a weight missing", weights("model.layers.1.mlp.up_proj.weight", drop), kTrainNew, 3,
       "model.layers.1.mlp.up_proj.weight"},
      {"a weight too short", weights("model.layers.1.mlp.up_proj.weight", shorter), kTrainNew, 3,
       "model.layers.1.mlp.up_proj.weight"},
      {"a weight of integers", weights("model.layers.1.mlp.up_proj.weight", as_long), kTrainNew, 3,
       "model.layers.1.mlp.up_proj.weight"},
      {"a weight is NaN", weights("model.layers.1.mlp.up_proj.weight", with_nan), kTrainNew, 3,
       "model.layers.1.mlp.up_proj.weight"},
      {"tokenizer.json missing", [](const fs::path& r) { fs::remove(r / "model/tokenizer.json"); },
       kTrainNew, 3, "@/model/tokenizer.json"},
      {"tokenizer.json damaged", [](const fs::path& r) { halve(r / "model/tokenizer.json"); },
       kTrainNew, 3, "@/model/tokenizer.json"},
      {"tokenizer of unknown type",
       tokenizer([](nlohmann::json& j) { j["model"]["type"] = "Oracle"; }), kTrainNew, 3,
       "@/model/tokenizer.json"},
      {"pre-tokenizer of unknown type",
       tokenizer([](nlohmann::json& j) { j["pre_tokenizer"]["type"] = "Oracle"; }), kTrainNew, 3,
       "@/model/tokenizer.json"},
      {"vocabulary ids negative",
       tokenizer([](nlohmann::json& j) { j["model"]["vocab"].begin().value() = -1; }), kTrainNew, 3,
       "@/model/tokenizer.json"},
      {"more tokens than the model knows",
       tokenizer([](nlohmann::json& j) { j["model"]["vocab"]["zzzz"] = 5000; }), kTrainNew, 3,
       "@/model"},
  });
}

TEST_F(HostileInput, TemplatesAndTrainingFlags) {
  const auto templates = [](const std::string& text) {
    return [=](const fs::path& root) { put(root / "templates.txt", text); };
  };
  check({
      {"missing", [](const fs::path& r) { fs::remove(r / "templates.txt"); }, kTrainNew, 3,
       "@/templates.txt"},
      {"empty", templates(""), kTrainNew, 2, "@/templates.txt"},
      {"unknown placeholder", templates("[template]\n{user} {item} {title} {age}\n"), kTrainNew, 2,
       "@/templates.txt:2: "},
      {"no anchor", templates("[template]\n{title} ?\n"), kTrainNew, 2, "@/templates.txt:"},
      {"anchor twice", templates("[template]\n{user} {user} {item} {title}?\n"), kTrainNew, 2,
       "@/templates.txt:"},
      {"brace never closed", templates("[template]\n{user {item} {title}?\n"), kTrainNew, 2,
       "@/templates.txt:2: "},
      {"bad weight", templates("[template weight=-1]\n{user} {item} {title}?\n"), kTrainNew, 2,
       "@/templates.txt:1: "},
      {"question longer than the model",
       templates("[template]\n" + std::string(2000, 'x') + "{user} {item} {title}?\n"), kTrainNew,
       2, "--prompt.max-tokens"},
      {"yes of several tokens", [](const fs::path&) {},
       with(kTrainNew, {"--prompt.yes", " absolutely"}), 2, "--prompt.yes"},
      {"unknown linear", [](const fs::path&) {},
       with(kTrainNew, {"--lora.targets", "q_proj,z_proj"}), 2, "z_proj"},
      {"layer out of range", [](const fs::path&) {}, with(kTrainNew, {"--inject.layers", "99"}), 2,
       "--inject.layers"},
      {"unknown stage", [](const fs::path&) {}, with(kTrainNew, {"--train.stages", "all"}), 2,
       "--train.stages"},
      {"tensor parallel", [](const fs::path&) {}, with(kTrainNew, {"--tensor-parallel", "2"}), 2,
       "tensor-parallel"},
      {"output holds a run", [](const fs::path&) {}, kTrain, 2, "--resume"},
      {"output below a file", [](const fs::path&) {},
       replaced(kTrain, "--output", "@/ratings.csv/x"), 3, "@/ratings.csv/x"},
      {"output's name is too long", [](const fs::path&) {},
       replaced(kTrain, "--output", "@/" + std::string(300, 'x')), 3, "File name too long"},
  });
}

TEST_F(HostileInput, Checkpoint) {
  const auto manifest = [](std::function<void(nlohmann::json&)> change) {
    return [=](const fs::path& root) {
      edit_json(root / "out/step-000001/manifest.json", [&](nlohmann::json& manifest) {
        change(manifest);
        manifest["checksum"] = manifest_checksum(manifest);
      });
    };
  };
  const auto blessed = [](const char* file, const char* tensor,
                          std::function<at::Tensor(at::Tensor)> change) {
    return [=](const fs::path& root) {
      edit_tensor(root / "out/step-000001" / file, tensor, change);
      bless(root / "out/step-000001");
    };
  };
  const char* embeddings = "embeddings-00000-of-00001.safetensors";
  check({
      {"no directory", [](const fs::path&) {}, replaced(kEvaluate, "--checkpoint", "@/none"), 3,
       "@/none"},
      {"not a run", [](const fs::path&) {}, replaced(kEvaluate, "--checkpoint", "@/model"), 3,
       "@/model"},
      {"LATEST names no step", [](const fs::path& r) { put(r / "out/LATEST", "../../etc"); },
       kEvaluate, 3, "@/out/LATEST"},
      {"LATEST huge", [](const fs::path& r) { put(r / "out/LATEST", std::string(100000, 'x')); },
       kEvaluate, 3, "@/out/LATEST"},
      {"LATEST names a missing step",
       [](const fs::path& r) { put(r / "out/LATEST", "step-000777\n"); }, kEvaluate, 3,
       "step-000777"},
      {"manifest damaged", [](const fs::path& r) { halve(r / "out/step-000001/manifest.json"); },
       kEvaluate, 3, "manifest.json"},
      {"manifest empty object",
       [](const fs::path& r) { put(r / "out/step-000001/manifest.json", "{}"); }, kEvaluate, 3,
       "manifest.json"},
      {"manifest an array",
       [](const fs::path& r) { put(r / "out/step-000001/manifest.json", "[]"); }, kEvaluate, 3,
       "manifest.json"},
      {"manifest changed",
       [](const fs::path& r) {
         edit_json(r / "out/step-000001/manifest.json",
                   [](nlohmann::json& j) { j["state"]["best_auc"] = 0.9; });
       },
       kEvaluate, 3, "manifest.json: is damaged"},
      {"another format", manifest([](nlohmann::json& j) { j["format"] = 99; }), kEvaluate, 3,
       "manifest.json"},
      {"no sampler", manifest([](nlohmann::json& j) { j.erase("sampler"); }), kEvaluate, 3,
       "manifest.json"},
      {"sampler an array", manifest([](nlohmann::json& j) { j["sampler"] = {1}; }), kEvaluate, 3,
       "manifest.json"},
      {"no dataset", manifest([](nlohmann::json& j) { j.erase("dataset"); }), kEvaluate, 3,
       "manifest.json"},
      {"no model", manifest([](nlohmann::json& j) { j.erase("model"); }), kEvaluate, 3,
       "manifest.json"},
      {"templates a number", manifest([](nlohmann::json& j) { j["templates"] = 5; }), kEvaluate, 3,
       "manifest.json"},
      {"rank absurd",
       manifest([](nlohmann::json& j) { j["model"]["lora"]["rank"] = std::int64_t{1} << 50; }),
       kEvaluate, 3, "lora.rank"},
      {"rank negative", manifest([](nlohmann::json& j) { j["model"]["lora"]["rank"] = -2; }),
       kEvaluate, 3, "lora.rank"},
      {"unknown linear",
       manifest([](nlohmann::json& j) { j["model"]["lora"]["targets"] = {"z_proj"}; }), kEvaluate,
       3, "lora.targets"},
      {"unknown precision", manifest([](nlohmann::json& j) { j["model"]["precision"] = "fp8"; }),
       kEvaluate, 3, "precision"},
      {"unknown gnn", manifest([](nlohmann::json& j) { j["model"]["gnn"]["type"] = "magic"; }),
       kEvaluate, 3, "gnn.type"},
      {"gnn layers without end",
       manifest([](nlohmann::json& j) { j["model"]["gnn"]["layers"] = 1'000'000'000'000; }),
       kEvaluate, 3, "gnn.layers"},
      {"unknown score", manifest([](nlohmann::json& j) { j["model"]["score"] = "both"; }),
       kEvaluate, 3, "score"},
      {"unknown projector",
       manifest([](nlohmann::json& j) { j["model"]["projector"]["type"] = "cnn"; }), kEvaluate, 3,
       "projector.type"},
      {"negative step on resume", manifest([](nlohmann::json& j) { j["step"] = -5; }),
       with(kTrain, {"--resume"}), 3, "@/out/step-000001/manifest.json"},
      {"gnn layers negative", manifest([](nlohmann::json& j) { j["model"]["gnn"]["layers"] = -1; }),
       kEvaluate, 3, "@/out/step-000001"},
      {"projector absurd", manifest([](nlohmann::json& j) {
         j["model"]["projector"]["middle"] = std::int64_t{1} << 50;
       }),
       kEvaluate, 3, "projector.middle"},
      {"of another dataset", manifest([](nlohmann::json& j) { j["dataset"]["fingerprint"] = "0"; }),
       kEvaluate, 3, "another dataset"},
      {"of another model",
       manifest([](nlohmann::json& j) { j["base_model"]["fingerprint"] = "0"; }), kEvaluate, 3,
       "another base model"},
      {"a file missing",
       [embeddings](const fs::path& r) { fs::remove(r / "out/step-000001" / embeddings); },
       kEvaluate, 3, embeddings},
      {"a file cut", [](const fs::path& r) { halve(r / "out/step-000001/graphlora.safetensors"); },
       kEvaluate, 3, "graphlora.safetensors"},
      {"adapter NaN",
       blessed("adapter/adapter_model.safetensors",
               "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", with_nan),
       kEvaluate, 3, "q_proj.lora_A.weight"},
      {"adapter of another rank",
       blessed("adapter/adapter_model.safetensors",
               "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", shorter),
       kEvaluate, 3, "q_proj.lora_A.weight"},
      {"projector missing", blessed("graphlora.safetensors", "projector.0.weight", drop), kExport,
       3, "projector.0.weight"},
      {"embeddings NaN", blessed(embeddings, "weight", with_nan), kExport, 3, embeddings},
      {"embeddings NaN, retrieval", blessed(embeddings, "weight", with_nan), kRetrieve, 3,
       embeddings},
      {"projector missing, recommend", blessed("graphlora.safetensors", "projector.0.weight", drop),
       kRecommend, 3, "projector.0.weight"},
      {"recommendations below a file, before the model is read",
       [](const fs::path& r) { fs::remove_all(r / "model"); },
       with(kRecommend, {"--output", "@/ratings.csv/x"}), 3, "@/ratings.csv/x"},
      {"embeddings of integers", blessed(embeddings, "weight", as_long), kExport, 3, embeddings},
      {"moments missing on resume",
       blessed("optimizer.safetensors", "projector.0.weight.exp_avg", drop),
       with(replaced(kTrain, "--steps", "2"), {"--resume"}), 3, "projector.0.weight.exp_avg"},
      {"another seed on resume", [](const fs::path&) {}, with(kTrain, {"--resume", "--seed", "9"}),
       2, "--seed"},
      {"another cut on resume", [](const fs::path&) {},
       with(kTrain, {"--resume", "--graph.cut", "none"}), 2, "--graph.cut"},
      {"predictions below a file, before the model is read",
       [](const fs::path& r) { fs::remove_all(r / "model"); },
       with(kEvaluate, {"--predictions", "@/ratings.csv/x"}), 3, "@/ratings.csv/x"},
      {"predictions are a directory", [](const fs::path&) {},
       with(kEvaluate, {"--predictions", "@/model"}), 3, "@/model: is not a regular file"},
      {"export below a file", [](const fs::path&) {},
       replaced(kExport, "--output", "@/ratings.csv/x"), 3, "@/ratings.csv/x"},
      {"export over a directory, before the model is read",
       [](const fs::path& r) { fs::remove_all(r / "model"); },
       replaced(kExport, "--output", "@/dataset"), 3, "@/dataset: is not a regular file"},
      {"export of the adapter over the dataset", [](const fs::path&) {},
       replaced(replaced(kExport, "--what", "adapter"), "--output", "@/dataset"), 2,
       "@/dataset: holds other files"},
      {"the merged model over its base", [](const fs::path&) {},
       replaced(replaced(kExport, "--what", "merged"), "--output", "@/model"), 2,
       "--output @/model: holds or lies in the LLM @/model"},
      {"merged into another base",
       [](const fs::path& r) { fs::remove(r / "model/tokenizer.json"); },
       replaced(replaced(kExport, "--what", "merged"), "--output", "@/new"), 3,
       "belongs to another base model"},
      {"merged without the LLM", [](const fs::path& r) { fs::remove_all(r / "model"); },
       replaced(replaced(kExport, "--what", "merged"), "--output", "@/new"), 3,
       "@/model/config.json"},
      {"an adapter to start from that is not there", [](const fs::path&) {},
       with(kTrainNew, {"--init-adapter", "@/nowhere"}), 3,
       "@/nowhere: has no adapter_config.json"},
      {"an adapter of another rank", [](const fs::path&) {},
       with(replaced(kTrainNew, "--lora.rank", "3"),
            {"--init-adapter", "@/out/step-000001/adapter"}),
       2, "--lora.rank 3: the adapter in @/out/step-000001/adapter has 2"},
  });
}

}  // namespace
}  // namespace graphlora
