// recommend and evaluate --ranking through the real program: formats, grids, and what they say to
// wrong input.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "cli/run_graphlora.hpp"
#include "cli/tiny_ratings.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_graphlora;

using Words = std::vector<std::string>;
using Json = nlohmann::json;

Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

class RecommendTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    write_file(root() / "ratings.csv", test::tiny_ratings(12, 8, 19));
    write_file(root() / "others.csv", test::tiny_ratings(11, 8, 19));
    for (const auto& [ratings, data] :
         {std::pair("ratings.csv", "dataset"), std::pair("others.csv", "other")})
      ran({"prepare", "--input", at(ratings), "--format", "csv", "--output", at(data), "--split",
           "user-time"});
    ran({"pretrain", "--data", at("dataset"), "--output", at("pretrained"), "--pretrain.width", "6",
         "--pretrain.epochs", "2"});
    ran({"train", "--data", at("dataset"), "--model", kModel, "--pretrained", at("pretrained"),
         "--output", at("out"), "--batch-size", "8", "--lora.rank", "2", "--steps", "3",
         "--precision", "fp64"});
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static constexpr const char* kModel = "tests/golden/tiny_llama";
  static fs::path root() { return directory_->path(); }
  static std::string at(const std::string& name) { return (root() / name).string(); }
  static std::string ran(const Words& words, int ranks = 1) {
    const ProcessResult result = run_graphlora(words, ranks);
    EXPECT_EQ(result.code, 0) << testing::PrintToString(words) << result.err;
    return result.out;
  }
  static Words by_e() {
    return {"recommend", "--pretrained", at("pretrained"), "--data", at("dataset")};
  }
  static Words by_llm() {
    return {"recommend", "--checkpoint", at("out"), "--data", at("dataset"), "--model", kModel};
  }
  static std::vector<Json> json_of(const Words& words, int ranks = 1) {
    std::vector<Json> result;
    for (const std::string& line : lines_of(ran(with(words, {"--json"}), ranks)))
      result.push_back(Json::parse(line));
    return result;
  }
  /// One line of error with each of `parts`, this exit code, nothing on stdout.
  static void refused(const Words& words, int code, const Words& parts, int ranks = 1) {
    const ProcessResult result = run_graphlora(words, ranks);
    const std::string command = testing::PrintToString(words);
    EXPECT_EQ(result.code, code) << command << result.err;
    EXPECT_EQ(result.out, "") << command;
    const auto errors = error_lines(result.err);
    EXPECT_EQ(errors.size(), 1U) << command << result.err;
    for (const std::string& part : parts)
      EXPECT_NE(result.err.find(part), std::string::npos) << part << " in " << result.err;
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> RecommendTest::directory_;

void expect_same(const std::vector<Json>& many, const std::vector<Json>& one) {
  ASSERT_EQ(many.size(), one.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    for (const char* key : {"user", "rank", "item", "title", "embedding_score", "embedding_rank"})
      EXPECT_EQ(many[i][key], one[i][key]) << key << " of line " << i;
    ASSERT_EQ(many[i]["llm_score"].is_null(), one[i]["llm_score"].is_null());
    if (one[i]["llm_score"].is_null()) continue;
    EXPECT_NEAR(many[i]["llm_score"].get<double>(), one[i]["llm_score"].get<double>(), 1e-6);
  }
}

TEST_F(RecommendTest, EveryGridPrintsTheSame) {
  const Words everybody = with(by_llm(), {"--all-users", "--candidates", "7", "--top", "4"});
  const auto one = json_of(everybody);
  EXPECT_EQ(one.size(), 12U * 4);
  expect_same(json_of(everybody, 2), one);
  expect_same(json_of(everybody, 3), one);
  expect_same(json_of(with(everybody, {"--tensor-parallel", "2"}), 2), one);
  const Words plain = with(by_e(), {"--all-users", "--top", "19"});
  expect_same(json_of(plain, 4), json_of(plain));
}

TEST_F(RecommendTest, TheLlmRanksTheCandidatesOfE) {
  const Words user{"--user", "u3"};
  const auto by_llm_lines =
      json_of(with(by_llm(), with(user, {"--candidates", "6", "--top", "6"})));
  const auto by_e_lines = json_of({"recommend", "--checkpoint", at("out"), "--data", at("dataset"),
                                   "--user", "u3", "--rerank", "off", "--top", "6"});
  ASSERT_EQ(by_llm_lines.size(), 6U);
  ASSERT_EQ(by_e_lines.size(), 6U);
  std::map<int, Json> by_rank;
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(by_llm_lines[i]["rank"], i + 1);
    EXPECT_EQ(by_e_lines[i]["embedding_rank"], i + 1);
    EXPECT_TRUE(by_e_lines[i]["llm_score"].is_null());
    by_rank[by_llm_lines[i]["embedding_rank"].get<int>()] = by_llm_lines[i];
    if (i == 0) continue;
    EXPECT_GE(by_llm_lines[i - 1]["llm_score"], by_llm_lines[i]["llm_score"]);
    EXPECT_GE(by_e_lines[i - 1]["embedding_score"], by_e_lines[i]["embedding_score"]);
  }
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(by_rank[static_cast<int>(i) + 1]["item"], by_e_lines[i]["item"]);
    EXPECT_EQ(by_rank[static_cast<int>(i) + 1]["embedding_score"],
              by_e_lines[i]["embedding_score"]);
  }
}

TEST_F(RecommendTest, ExcludesWhatWasMet) {
  // u0 rates items 0, 2, …, 14 in this order of time: 6 train, 1 valid, 1 test.
  const auto items = [&](const std::string& exclude) {
    std::set<std::string> found;
    for (const Json& line :
         json_of(with(by_e(), {"--user", "u0", "--top", "19", "--exclude", exclude})))
      found.insert(line["item"].get<std::string>());
    return found;
  };
  const auto none = items("none"), train = items("train"), all = items("all");
  EXPECT_EQ(none.size(), 19U);
  EXPECT_EQ(all.size(), 11U);
  for (int item = 0; item < 16; item += 2)
    EXPECT_FALSE(all.contains(fmt::format("i{}", item))) << item;
  EXPECT_FALSE(train.contains("i0"));
  EXPECT_TRUE(train.contains("i14"));
  EXPECT_GT(train.size(), all.size());
  EXPECT_LT(train.size(), none.size());
}

TEST_F(RecommendTest, SomebodyNewByTitles) {
  const Words words = with(by_llm(), {"--liked", "Title 3", "--liked", " tITLE 12 ", "--candidates",
                                      "17", "--top", "17"});
  const auto lines = json_of(words);
  EXPECT_EQ(lines.size(), 17U);  // 19 less the two
  for (const Json& line : lines) {
    EXPECT_TRUE(line["user"].is_null());
    EXPECT_NE(line["title"], "Title 3");
    EXPECT_NE(line["title"], "Title 12");
  }
  expect_same(json_of(words, 2), lines);
  const Words others = with(by_llm(), {"--liked", "Title 4", "--candidates", "17", "--top", "17"});
  EXPECT_NE(json_of(others)[0]["llm_score"], lines[0]["llm_score"]);
  EXPECT_NE(
      ran(with(by_e(), {"--liked", "Title 3"})).find("somebody new: 1 liked, last \"Title 3\""),
      std::string::npos);
}

TEST_F(RecommendTest, FormatsAgree) {
  const Words words = with(by_e(), {"--user", "u1,u5", "--top", "3"});
  const auto json = json_of(words);
  const auto csv = lines_of(ran(with(words, {"--csv"})));
  const std::string table = ran(words);
  ASSERT_EQ(json.size(), 6U);
  ASSERT_EQ(csv.size(), 7U);
  EXPECT_EQ(csv[0], "user,rank,item,title,embedding_score,embedding_rank,llm_score");
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(
        csv[i + 1],
        fmt::format("{},{},{},{},{},{},", json[i]["user"].get<std::string>(),
                    json[i]["rank"].get<int>(), json[i]["item"].get<std::string>(),
                    json[i]["title"].get<std::string>(), json[i]["embedding_score"].get<double>(),
                    json[i]["embedding_rank"].get<int>()));
    EXPECT_NE(table.find(json[i]["title"].get<std::string>() + "\n"), std::string::npos) << table;
  }
  EXPECT_NE(table.find("user u1: "), std::string::npos) << table;
  EXPECT_NE(table.find("user u5: "), std::string::npos) << table;

  ran(with(words, {"--csv", "--output", at("top.csv")}), 2);
  EXPECT_EQ(lines_of(read_file(root() / "top.csv")), csv);
}

TEST_F(RecommendTest, TheSummaryTellsTheTime) {
  const ProcessResult result =
      run_graphlora(with(by_llm(), {"--user", "u3", "--candidates", "5", "--top", "2"}));
  EXPECT_NE(result.err.find("1 users: retrieval "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("5 candidates, "), std::string::npos) << result.err;
}

TEST_F(RecommendTest, WrongUsersAndTitles) {
  refused(with(by_e(), {"--user", "u33"}), 2, {"--user u33: no such user", "nearest: \"u3\""});
  refused(with(by_e(), {"--user", "u1,zebra"}), 2, {"--user zebra", "nothing there is like it"}, 2);
  refused(with(by_llm(), {"--liked", "Titel 3"}), 2,
          {"--liked \"Titel 3\": no such title", "nearest: \"Title 3\""});
  refused(with(by_e(), {"--liked", "Casablanca"}), 2, {"nothing there is like it"});
  refused(with(by_e(), {"--liked", ""}), 2, {"no such title"});
  refused(with(by_e(), {"--liked", std::string(100000, 'x') + "\n\x1b[31m\xff"}), 2, {"xxx"});
  refused(with(by_e(), {"--user", "u1\x1b[2J"}), 2, {"no such user"});
}

TEST_F(RecommendTest, WrongNumbersAndCombinations) {
  refused(with(by_e(), {"--user", "u1", "--top", "20"}), 2, {"--top 20: ", "has 19 items"}, 2);
  refused(with(by_e(), {"--user", "u1", "--top", "0"}), 2, {"--top"});
  refused(with(by_llm(), {"--user", "u1", "--candidates", "20"}), 2, {"--candidates 20: "});
  refused(with(by_llm(), {"--user", "u1", "--candidates", "3", "--top", "4"}), 2,
          {"--top 4: more than the 3 --candidates"});
  refused(with(by_e(), {"--user", "u1", "--candidates", "3"}), 2,
          {"--candidates 3: has no effect"});
  refused(by_e(), 2, {"give one of --user, --all-users and --liked"});
  refused(with(by_e(), {"--user", "u1", "--all-users"}), 2, {"give one of"});
  refused(with(by_e(), {"--user", "u1", "--json", "--csv"}), 2, {"--json or --csv"});
  refused(with(by_e(), {"--user", "u1", "--rerank", "on"}), 2, {"no LLM with --pretrained"});
  refused(with(by_e(), {"--user", "u1", "--model", kModel}), 2, {"has no effect"});
  refused(with(by_e(), {"--user", "u1", "--checkpoint", at("out")}), 2, {"either --checkpoint"});
  refused({"recommend", "--data", at("dataset"), "--user", "u1"}, 2, {"either --checkpoint"});
  refused({"recommend", "--data", at("dataset"), "--checkpoint", at("out"), "--user", "u1"}, 2,
          {"needs --model"});
  refused(with(by_e(), {"--user", "u1", "--output", at("no/such/folder/x.csv")}), 3, {"x.csv"});
}

TEST_F(RecommendTest, FilesOfAnotherDataset) {
  Words e = by_e(), llm = by_llm();
  e[4] = llm[4] = at("other");
  refused(with(e, {"--user", "u1"}), 3, {"another dataset"}, 2);
  refused(with(llm, {"--user", "u1"}), 3, {"dataset"}, 2);
  refused({"recommend", "--checkpoint", at("out"), "--rerank", "off", "--data", at("other"),
           "--user", "u1"},
          3, {"dataset"});
}

/// A user who has rated everything: an error for one who is asked for, a warning among all.
TEST_F(RecommendTest, NothingLeft) {
  std::string ratings = "user,item,time,rating,title\n";
  for (int user = 0; user < 6; ++user)
    for (int item = 0; item < (user == 0 ? 8 : 5); ++item)
      ratings += fmt::format("u{},i{},{},{},Title {}\n", user, item, 100 + item,
                             1 + (user + item) % 5, item);
  write_file(root() / "full.csv", ratings);
  ran({"prepare", "--input", at("full.csv"), "--format", "csv", "--output", at("full"), "--split",
       "user-time"});
  ran({"pretrain", "--data", at("full"), "--output", at("full_e"), "--pretrain.width", "4",
       "--pretrain.epochs", "1"});
  const Words words{"recommend", "--pretrained", at("full_e"), "--data",
                    at("full"),  "--exclude",    "all"};
  refused(with(words, {"--user", "u1,u0"}), 3, {"--user u0: no item is left to recommend: all 8"},
          2);
  refused(with(words, {"--user", "u0", "--output", at("never.csv"), "--csv"}), 3,
          {"no item is left"});
  EXPECT_FALSE(fs::exists(root() / "never.csv"));
  const ProcessResult all = run_graphlora(with(words, {"--all-users", "--csv"}));
  EXPECT_EQ(all.code, 0);
  EXPECT_NE(all.err.find("1 users get no items"), std::string::npos) << all.err;
  EXPECT_EQ(all.out.find("\nu0,"), std::string::npos);
}

TEST_F(RecommendTest, RankingIsPartOfTheEvaluation) {
  const auto ranking = [&](const Words& more, int ranks) {
    Json json =
        Json::parse(ran(with({"evaluate", "--data", at("dataset"), "--ranking"}, more), ranks));
    EXPECT_TRUE(json.contains("auc"));
    Json result = json.at("ranking");
    result.erase("seconds");
    return result;
  };
  const Words e{"--pretrained", at("pretrained"), "--ranking.k", "3"};
  const Words llm{"--checkpoint",         at("out"), "--model", kModel, "--ranking.k", "3",
                  "--ranking.candidates", "6"};
  const Json full = ranking(e, 1), few = ranking(llm, 1);
  EXPECT_EQ(full["protocol"], "full");
  EXPECT_EQ(full["candidates"], 19);
  EXPECT_EQ(few["protocol"], "candidates");
  EXPECT_EQ(few["scorer"], "llm");
  EXPECT_EQ(few["candidates"], 6);
  EXPECT_GT(full["users"], 0);
  for (const int ranks : {2, 3, 4}) {
    EXPECT_EQ(ranking(e, ranks), full) << ranks;
    EXPECT_EQ(ranking(llm, ranks), few) << ranks;
  }
  const Json everything =
      ranking(with(Words(llm.begin(), llm.begin() + 6), {"--ranking.candidates", "all"}), 1);
  EXPECT_EQ(everything["protocol"], "full");
  EXPECT_EQ(everything["scorer"], "llm");
}

TEST_F(RecommendTest, WrongRankings) {
  const Words e{"evaluate", "--data", at("dataset"), "--pretrained", at("pretrained")};
  refused(with(e, {"--ranking", "--ranking.k", "20"}), 2, {"--ranking.k 20: ", "has 19 items"}, 2);
  refused(with(e, {"--ranking", "--ranking.k", "0"}), 2, {"--ranking.k"});
  refused(with(e, {"--ranking", "--ranking.candidates", "20"}), 2, {"--ranking.candidates 20: "});
  refused(with(e, {"--ranking", "--ranking.candidates", "5"}), 2, {"fewer than --ranking.k 10"});
  for (const char* wrong : {"0", "-3", "some", "", "5x", "99999999999999999999"})
    refused(with(e, {"--ranking", "--ranking.candidates", wrong}), 2, {"--ranking.candidates"});
  refused(with(e, {"--ranking.k", "3"}), 2, {"no effect without --ranking"});
  refused(with(e, {"--ranking", "--split", "train"}), 2, {"--ranking: ranks for valid or test"});
}

}  // namespace
}  // namespace graphlora
