// generate as a user meets it: its raw files, prepared, are the dataset that it writes itself.
#include <gtest/gtest.h>

#include "core/file.hpp"
#include "data/dataset.hpp"
#include "support/process.hpp"

namespace graphlora {
namespace {

using test::error_lines;
using test::ProcessResult;
using test::run_process;

ProcessResult generate(const std::string& output, std::vector<std::string> more) {
  more.insert(more.begin(), {GRAPHLORA_BINARY, "generate", "--users", "300", "--items", "120",
                             "--interactions", "6000", "--output", output});
  return run_process(more);
}

TEST(GenerateCommand, RawFilesPreparedAreTheDataset) {
  const TemporaryDirectory folder;
  for (const char* rule : {"time", "user-time"}) {
    const std::string dataset = folder / "dataset", raw = folder / "raw", again = folder / "again";
    const ProcessResult direct =
        generate(dataset, {"--communities", "4", "--split", rule, "--seed", "3", "--json"});
    ASSERT_EQ(direct.code, 0) << direct.err;
    ASSERT_EQ(generate(raw, {"--communities", "4", "--as", "csv", "--seed", "3"}).code, 0);
    const ProcessResult prepared =
        run_process({GRAPHLORA_BINARY, "prepare", "--input", raw + "/ratings.csv", "--format",
                     "csv", "--csv.time", "timestamp", "--csv.titles", raw + "/items.csv",
                     "--split", rule, "--output", again});
    ASSERT_EQ(prepared.code, 0) << prepared.err;
    const Dataset one(dataset), two(again);
    EXPECT_EQ(one.fingerprint(), two.fingerprint()) << rule;
    EXPECT_EQ(one.rows(), 6000);
    EXPECT_EQ(one.users(), 300);
    EXPECT_EQ(nlohmann::json::parse(direct.out), one.description());
    EXPECT_TRUE(one.description()["generated"]["best_auc"].is_number());
  }
}

TEST(GenerateCommand, RawFilesReplaceOnlyTheirLike) {
  const TemporaryDirectory folder;
  // MovieLens's ratings are of that name, too.
  const std::filesystem::path own = folder.path() / "ml";
  std::filesystem::create_directory(own);
  write_file(own / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,5,1\n");
  const ProcessResult refused = generate(own, {"--as", "csv"});
  EXPECT_EQ(refused.code, 2);
  ASSERT_EQ(error_lines(refused.err).size(), 1u) << refused.err;
  EXPECT_NE(refused.err.find("there is no generated.json"), std::string::npos) << refused.err;
  EXPECT_EQ(refused.out, "");
  EXPECT_EQ(read_file(own / "ratings.csv"), "userId,movieId,rating,timestamp\n1,1,5,1\n");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(own), {}), 1);

  const std::string raw = folder / "raw";
  for (const char* seed : {"3", "4"}) {
    const ProcessResult result = generate(raw, {"--as", "csv", "--seed", seed});
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_NE(result.out.find("300 users, 120 items, 6000 rows"), std::string::npos) << result.out;
    const nlohmann::json about = read_json(raw + "/generated.json");
    EXPECT_EQ(about.at("seed"), std::stoi(seed));
    EXPECT_EQ(about.at("interactions"), 6000);
    EXPECT_EQ(about.at("inside"), 1);  // a single community
  }
}

TEST(GenerateCommand, WarnsOfCommunitiesThatAreTooSmall) {
  const TemporaryDirectory folder;
  for (const char* as : {"csv", "dataset"}) {
    const std::string output = folder / as;
    // 2 items a community for 20 rows a user.
    const ProcessResult small = generate(output, {"--communities", "60", "--as", as});
    EXPECT_EQ(small.code, 0) << small.err;
    EXPECT_NE(small.err.find("a community has 2 items, a user 20 rows"), std::string::npos)
        << small.err;
    const ProcessResult usual = generate(output, {"--communities", "2", "--as", as});
    EXPECT_EQ(usual.code, 0) << usual.err;
    EXPECT_EQ(usual.err.find("within communities"), std::string::npos) << usual.err;
  }
}

TEST(GenerateCommand, AdvisesOptionsThatItHas) {
  const TemporaryDirectory folder;
  // Its one row is not liked.
  const ProcessResult result =
      run_process({GRAPHLORA_BINARY, "generate", "--users", "1", "--items", "1", "--interactions",
                   "1", "--seed", "4", "--output", folder / "tiny"});
  EXPECT_EQ(result.code, 3);
  ASSERT_EQ(error_lines(result.err).size(), 1u) << result.err;
  EXPECT_NE(result.err.find("choose more --interactions or another --seed"), std::string::npos)
      << result.err;
  EXPECT_EQ(result.err.find("--label-above"), std::string::npos) << result.err;
}

TEST(GenerateCommand, SaysWhatIsWrongBeforeTheWork) {
  const TemporaryDirectory folder;
  folder.write("file", "x");
  const std::string file = folder / "file";
  for (const auto& [words, part] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--communities", "121"}, "--communities 121"},
           {{"--as", "tsv"}, "--as: must be one"},
           {{"--as", "csv", "--split", "time"}, "--as csv writes raw files"}}) {
    const ProcessResult result = generate(folder / "out", words);
    EXPECT_EQ(result.code, 2);
    ASSERT_EQ(error_lines(result.err).size(), 1u) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }
  EXPECT_EQ(generate(folder / "file", {}).code, 2);
  EXPECT_EQ(generate(folder.path().string(), {}).code, 2);  // holds other files
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
  EXPECT_EQ(read_file(file), "x");
}

}  // namespace
}  // namespace graphlora
