// What export writes of a checkpoint, and the types of what a run saves, through the real program.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/run_graphlora.hpp"
#include "cli/tiny_ratings.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_graphlora;

using Words = std::vector<std::string>;

class ExportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    write_file(root() / "ratings.csv", test::tiny_ratings(12, 8, 11));
    ran({"prepare", "--input", at("ratings.csv"), "--format", "csv", "--output", at("dataset"),
         "--split", "user-time"});
    ran({"pretrain", "--data", at("dataset"), "--output", at("pretrained"), "--pretrain.width", "6",
         "--pretrain.epochs", "2"});
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static fs::path root() { return directory_->path(); }
  static std::string at(const std::string& name) { return (root() / name).string(); }
  static void ran(const Words& words, int ranks = 1) {
    const ProcessResult result = run_graphlora(words, ranks);
    ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
  }
  static void train(const std::string& output, const Words& more, int ranks = 1) {
    Words words{"train",
                "--data",
                at("dataset"),
                "--model",
                "tests/golden/tiny_llama",
                "--pretrained",
                at("pretrained"),
                "--output",
                at(output),
                "--batch-size",
                "8",
                "--lora.rank",
                "2"};
    words.insert(words.end(), more.begin(), more.end());
    ran(words, ranks);
  }
  static Words export_of(const std::string& checkpoint, const std::string& what,
                         const std::string& output) {
    return {"export", "--checkpoint", at(checkpoint), "--what", what, "--output", at(output)};
  }
  static void expect_same_adapter(const fs::path& a, const fs::path& b) {
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
      EXPECT_EQ(sha256_file(a / file), sha256_file(b / file)) << file;
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> ExportTest::directory_;

/// The same bytes whatever ranks wrote the checkpoint (before training, which rounds differently on
/// other grids), and whatever ranks export it.
TEST_F(ExportTest, AdaptersHaveTheSameBytesOnEveryGrid) {
  train("one", {"--steps", "0"});
  train("two", {"--steps", "0"}, 2);
  expect_same_adapter(root() / "one/step-000000/adapter", root() / "two/step-000000/adapter");
  train("trained", {"--steps", "2"}, 2);
  ran(export_of("trained", "adapter", "adapter_one"));
  ran(export_of("trained", "adapter", "adapter_two"), 2);
  expect_same_adapter(root() / "adapter_one", root() / "adapter_two");
  expect_same_adapter(root() / "adapter_one", root() / "trained/step-000002/adapter");
  ran(export_of("trained", "merged", "merged_one"));
  ran(export_of("trained", "merged", "merged_two"), 2);
  EXPECT_EQ(sha256_file(root() / "merged_one/model.safetensors"),
            sha256_file(root() / "merged_two/model.safetensors"));
}

TEST_F(ExportTest, TheAdapterNamesTheModelThatIsGiven) {
  train("named", {"--steps", "0"});
  fs::copy("tests/golden/tiny_llama", root() / "elsewhere");
  Words words = export_of("named", "adapter", "adapter_named");
  words.insert(words.end(), {"--model", at("elsewhere"), "--data", at("dataset")});
  ran(words);
  const auto config = read_json(root() / "adapter_named/adapter_config.json");
  EXPECT_EQ(config.at("base_model_name_or_path"), at("elsewhere"));
  words.back() = at("pretrained");
  EXPECT_EQ(run_graphlora(words).code, 3);
  const ProcessResult embeddings = run_graphlora(export_of("named", "embeddings", "nodes"));
  EXPECT_EQ(embeddings.code, 2);
  ASSERT_EQ(error_lines(embeddings.err).size(), 1U);
  EXPECT_NE(error_lines(embeddings.err)[0].find("--data"), std::string::npos) << embeddings.err;
}

/// fp64 runs save fp64 only; the adapters of a bf16 run have fp32 masters.
TEST_F(ExportTest, ARunSavesTheTypesOfItsPrecision) {
  for (const auto& [precision, type] :
       {std::pair("fp64", at::kDouble), std::pair("fp32", at::kFloat),
        std::pair("bf16", at::kFloat)}) {
    const std::string output = std::string("type_") + precision;
    train(output, {"--steps", "1", "--precision", precision, "--inject.learn-lambda", "--gnn.type",
                   "graphsage", "--lora.targets", "q_proj,o_proj,up_proj,down_proj"});
    int tensors = 0;
    for (const auto& entry : fs::recursive_directory_iterator(root() / output / "step-000001")) {
      if (entry.path().extension() != ".safetensors") continue;
      const SafetensorsReader file(entry.path());
      for (const auto& [name, stored] : file.entries()) {
        if (name == "node_id") continue;
        EXPECT_EQ(stored.dtype, type) << precision << ": " << entry.path() << ": " << name;
        ++tensors;
      }
    }
    EXPECT_GT(tensors, 60) << precision;
  }
}

/// Gradients with recompute are bitwise those without, so the whole step is.
TEST_F(ExportTest, RecomputeTrainsTheSameBytes) {
  train("plain", {"--steps", "3"});
  train("again", {"--steps", "3", "--recompute", "layer"});
  for (const char* file : {"adapter/adapter_model.safetensors", "graphlora.safetensors",
                           "embeddings-00000-of-00001.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(sha256_file(root() / "plain/step-000003" / file),
              sha256_file(root() / "again/step-000003" / file))
        << file;
}

}  // namespace
}  // namespace graphlora
