#include "data/prompt.hpp"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr const char* kTemplates =
    "[template weight=3]\nLiked: {history}. User {user}: {title} {item}?\n"
    "[empty history]\nUser {user}: {title} {item}?\n"
    "[template weight=1]\n{item} and {user}, {title}:\n";

/// Four movies, user "ann" likes the first three in turn; "bob" knows one.
class PromptTest : public testing::Test {
 protected:
  static const Tokenizer& tokenizer() {
    static const Tokenizer tokenizer("tests/golden/smollm2");
    return tokenizer;
  }
  PromptTest() : dataset_(write()) {}

  std::filesystem::path write() {
    RawRatings raw;
    const std::array titles = {"Toy Story (1995)", "Les Misérables", "七人の侍", "Heat"};
    raw.add("ann", "m0", 5, 10);
    raw.add("ann", "m1", 4, 20);
    raw.add("ann", "m3", 1, 25);
    raw.add("ann", "m2", 5, 30);
    raw.add("bob", "m3", 5, 40);
    raw.add("ann", "m9", 5, 50);
    for (int i = 0; i < 4; ++i) raw.set_title(fmt::format("m{}", i), titles[i]);
    raw.set_title("m9", "Up");
    write_dataset(directory_ / "dataset", std::move(raw), {.split = {.valid = 0, .test = 0}});
    return directory_ / "dataset";
  }
  std::int64_t row(const std::string& user, const std::string& item) const {
    for (std::int64_t r = 0; r < dataset_.rows(); ++r) {
      if (dataset_.user_id(dataset_.user()[r]) == user &&
          dataset_.item_id(dataset_.item()[r]) == item)
        return r;
    }
    throw std::runtime_error("no such row");
  }
  PromptBuilder builder(PromptConfig config = {}) const {
    if (config.template_text.empty()) config.template_text = kTemplates;
    config.yes = " Yes";
    return {dataset_, tokenizer(), config};
  }
  /// The segments' ids, −1 for "@".
  static Ids ids(const std::vector<std::string>& segments) {
    Ids result;
    for (const std::string& segment : segments) {
      const Ids more = segment == "@" ? Ids{-1} : tokenizer().encode(segment);
      result.insert(result.end(), more.begin(), more.end());
    }
    return result;
  }
  /// The error of a builder with this configuration; empty: none.
  std::string error_of(const PromptConfig& config) const {
    try {
      PromptBuilder(dataset_, tokenizer(), config);
      return "";
    } catch (const ConfigError& error) {
      return error.what();
    }
  }

  TemporaryDirectory directory_;
  Dataset dataset_;
};

TEST_F(PromptTest, TokenizesSegmentsOnTheirOwn) {
  const std::int64_t r = row("ann", "m9");
  const Prompt prompt = builder().build(r, 0);
  EXPECT_EQ(prompt.tokens, ids({"Liked: ", "\"Toy Story (1995)\"", ", \"Les Misérables\"",
                                ", \"七人の侍\"", ". User ", "@", ": ", "\"Up\"", " ", "@", "?"}));
  EXPECT_EQ(prompt.row, r);
  EXPECT_EQ(prompt.template_index, 0);
  EXPECT_EQ(prompt.label, 1);
}

TEST_F(PromptTest, BosStandsInFrontOnlyIfThePostProcessorAddsOne) {
  nlohmann::json root = read_json("tests/golden/smollm2/tokenizer.json");
  root["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"special_tokens", {{"<|im_start|>", {{"ids", {1}}}}}},
      {"single", {{{"SpecialToken", {{"id", "<|im_start|>"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  directory_.write("tokenizer.json", root.dump());
  const Tokenizer with_bos(directory_.path());
  PromptConfig config;
  config.template_text = kTemplates;
  const std::int64_t r = row("ann", "m9");
  const PromptBuilder prompts(dataset_, with_bos, config);
  const Prompt prompt = prompts.build(r, 0);
  const Prompt without = builder().build(r, 0);
  EXPECT_EQ(prompt.tokens.at(0), 1);
  EXPECT_TRUE(std::equal(prompt.tokens.begin() + 1, prompt.tokens.end(), without.tokens.begin(),
                         without.tokens.end()));
  EXPECT_EQ(prompt.anchors[0].position, without.anchors[0].position + 1);
  EXPECT_EQ(prompt.private_from, without.private_from + 1);
  EXPECT_EQ(prompts.length(r, 0), builder().length(r, 0) + 1);
  EXPECT_TRUE(prompts.text(prompt).starts_with("<|im_start|>Liked"));
}

TEST_F(PromptTest, RecordsAnchorsAndWhatIsPrivate) {
  const std::int64_t r = row("ann", "m9");
  const Prompt prompt = builder().build(r, 0);
  const Ids before_user =
      ids({"Liked: ", "\"Toy Story (1995)\"", ", \"Les Misérables\"", ", \"七人の侍\"", ". User "});
  ASSERT_EQ(prompt.anchors.size(), 2U);
  EXPECT_EQ(prompt.anchors[0].position, static_cast<std::int32_t>(before_user.size()));
  EXPECT_EQ(prompt.anchors[0].node, dataset_.user_node(r));
  EXPECT_EQ(prompt.anchors[1].position, static_cast<std::int32_t>(prompt.tokens.size()) - 2);
  EXPECT_EQ(prompt.anchors[1].node, dataset_.item_node(r));
  EXPECT_EQ(prompt.private_from, prompt.anchors[0].position + 1 +
                                     static_cast<std::int32_t>(tokenizer().encode(": ").size()));
  for (const auto& anchor : prompt.anchors) EXPECT_EQ(prompt.tokens[anchor.position], -1);
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), -1), 2);

  const Prompt other = builder().build(r, 1);  // {item} comes first
  EXPECT_EQ(other.tokens, ids({"@", " and ", "@", ", ", "\"Up\"", ":"}));
  EXPECT_EQ(other.private_from, 0);
  EXPECT_EQ(other.anchors[0].node, dataset_.item_node(r));
  EXPECT_EQ(other.anchors[1].node, dataset_.user_node(r));
}

TEST_F(PromptTest, AnchorsAreNeverReFoundByValue) {
  // A title that looks like placeholders and anchors changes no anchor.
  RawRatings raw;
  raw.add("ann", "a", 5, 1);
  raw.add("ann", "b", 5, 2);
  raw.set_title("a", "{user} {item} <user:ann> -1 <unk> <|im_start|>");
  raw.set_title("b", "{history}");
  write_dataset(directory_ / "other", std::move(raw), {.split = {.valid = 0, .test = 0}});
  const Dataset dataset(directory_ / "other");
  PromptConfig config;
  config.template_text = kTemplates;
  const Prompt prompt = PromptBuilder(dataset, tokenizer(), config).build(1, 0);
  EXPECT_EQ(prompt.anchors.size(), 2U);
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), -1), 2);
  EXPECT_EQ(prompt.tokens, ids({"Liked: ", "\"{user} {item} <user:ann> -1 <unk> <|im_start|>\"",
                                ". User ", "@", ": ", "\"{history}\"", " ", "@", "?"}));
}

TEST_F(PromptTest, HistoryIsStrictlyBeforeTheExample) {
  const PromptBuilder prompts = builder();
  EXPECT_EQ(prompts.build(row("ann", "m2"), 0).tokens,
            ids({"Liked: ", "\"Toy Story (1995)\"", ", \"Les Misérables\"", ". User ", "@", ": ",
                 "\"七人の侍\"", " ", "@", "?"}));
  EXPECT_EQ(prompts.build(row("ann", "m3"), 0).label, 0);
}

TEST_F(PromptTest, EmptyHistoryHasItsOwnWording) {
  EXPECT_EQ(builder().build(row("bob", "m3"), 0).tokens,
            ids({"User ", "@", ": ", "\"Heat\"", " ", "@", "?"}));
  EXPECT_EQ(builder({.history = 0}).build(row("ann", "m9"), 0).tokens,
            ids({"User ", "@", ": ", "\"Up\"", " ", "@", "?"}));
}

TEST_F(PromptTest, ShowsTheLastTitlesOnly) {
  EXPECT_EQ(builder({.history = 2}).build(row("ann", "m9"), 0).tokens,
            ids({"Liked: ", "\"Les Misérables\"", ", \"七人の侍\"", ". User ", "@", ": ", "\"Up\"",
                 " ", "@", "?"}));
}

TEST_F(PromptTest, TooLongPromptsDropTheOldestTitlesFirst) {
  const std::int64_t r = row("ann", "m9");
  const auto full = static_cast<std::int64_t>(builder().build(r, 0).tokens.size());
  std::map<std::int64_t, int> kept_at;  // tokens → titles kept
  for (std::int64_t limit = full; limit >= 15; --limit) {
    const std::string error = error_of({.template_text = kTemplates, .max_tokens = limit});
    if (!error.empty()) {
      EXPECT_NE(error.find("--prompt.max-tokens"), std::string::npos) << error;
      break;
    }
    const PromptBuilder prompts = builder({.max_tokens = limit});
    const Prompt prompt = prompts.build(r, 0);
    const auto size = static_cast<std::int64_t>(prompt.tokens.size());
    EXPECT_LE(size, limit);
    EXPECT_EQ(size, prompts.length(r, 0));
    const std::string text = prompts.text(prompt);
    const int kept = (text.find("Toy") != text.npos) + (text.find("Les") != text.npos) +
                     (text.find("七") != text.npos);
    kept_at[size] = kept;
    // The question is whole, and what is kept is the newest.
    EXPECT_NE(text.find("<user:ann>: \"Up\" <item:m9>?"), std::string::npos) << text;
    EXPECT_EQ(text.find("七") != text.npos, kept >= 1);
    EXPECT_EQ(text.find("Les") != text.npos, kept >= 2);
    EXPECT_EQ(text.find("Liked") != text.npos, kept >= 1);
  }
  EXPECT_EQ(kept_at.size(), 4U);  // 3, 2, 1 and no titles
}

TEST_F(PromptTest, LengthIsThatOfThePromptBuilt) {
  for (const std::int64_t limit : {60, 40, 30}) {
    const PromptBuilder prompts = builder({.max_tokens = limit});
    for (std::int64_t r = 0; r < dataset_.rows(); ++r) {
      for (std::int32_t t = 0; t < prompts.templates(); ++t) {
        const Prompt prompt = prompts.build(r, t);
        EXPECT_EQ(prompts.length(r, t), static_cast<std::int64_t>(prompt.tokens.size()));
        EXPECT_EQ(prompts.extent(r, t).private_from, prompt.private_from);
      }
    }
  }
}

TEST_F(PromptTest, TextIsReadable) {
  const PromptBuilder prompts = builder();
  EXPECT_EQ(prompts.text(prompts.build(row("ann", "m9"), 0)),
            "Liked: \"Toy Story (1995)\", \"Les Misérables\", \"七人の侍\". User "
            "<user:ann>: \"Up\" <item:m9>?");
}

TEST_F(PromptTest, DrawsTemplatesByWeight) {
  const PromptBuilder prompts = builder();
  std::array<int, 2> drawn{};
  for (std::int64_t epoch = 0; epoch < 4000; ++epoch) {
    const std::int32_t t = prompts.draw_template(0, 7, epoch);
    EXPECT_EQ(t, prompts.draw_template(0, 7, epoch));
    ++drawn.at(t);
  }
  EXPECT_NEAR(drawn[0], 3000, 100);  // 3.6 standard deviations
  int differ = 0;
  for (std::int64_t epoch = 0; epoch < 100; ++epoch) {
    differ += prompts.draw_template(0, 7, epoch) != prompts.draw_template(0, 8, epoch);
    // Rows of equal user and history share a prefix only with equal templates.
    EXPECT_EQ(prompts.draw_template(row("ann", "m3"), 7, epoch),
              prompts.draw_template(row("ann", "m2"), 7, epoch));
  }
  EXPECT_GT(differ, 10);
  PromptConfig never;
  never.template_text = "[template weight=0]\n{user}{item}:\n[template]\n{item}{user}:\n";
  for (std::int64_t epoch = 0; epoch < 100; ++epoch)
    EXPECT_EQ(builder(never).draw_template(0, 7, epoch), 1);
}

TEST_F(PromptTest, HashesTellHistoriesApart) {
  const PromptBuilder prompts = builder();
  EXPECT_EQ(prompts.history_hash(row("ann", "m3")), prompts.history_hash(row("ann", "m2")));
  EXPECT_NE(prompts.history_hash(row("ann", "m2")), prompts.history_hash(row("ann", "m9")));
  EXPECT_NE(prompts.history_hash(row("ann", "m1")), prompts.history_hash(row("ann", "m3")));
}

TEST_F(PromptTest, AnswersMustBeSingleTokensInTheirContext) {
  EXPECT_EQ(builder().yes_token(), 9230);
  EXPECT_EQ(builder().no_token(), 2838);
  const auto answers = [](std::string end, std::string yes, std::string no) {
    PromptConfig config;
    config.template_text = "[template]\n{user} {item}" + end + "\n";
    config.yes = std::move(yes);
    config.no = std::move(no);
    return config;
  };
  EXPECT_EQ(error_of(answers("?", " Yes", " No")), "");
  EXPECT_EQ(error_of(answers("", " Yes", " No")), "");  // ends in a placeholder
  EXPECT_NE(
      error_of(answers("?", " Yesterday noon", " No")).find("--prompt.yes: \" Yesterday noon\" is"),
      std::string::npos);
  EXPECT_NE(error_of(answers("?", " Yes", "")).find("--prompt.no: \"\" is 0 tokens"),
            std::string::npos);
  EXPECT_NE(error_of(answers("?", " Yes", " Yes")).find("the same token"), std::string::npos);
  EXPECT_NE(error_of(answers("Answer", "ing", " No")).find("does not become a token of its own"),
            std::string::npos);
  EXPECT_NE(error_of(answers(": ", "Yes", " No")).find("does not become a token of its own"),
            std::string::npos);
}

TEST_F(PromptTest, AnswersOfASentencePieceTokenizerAreTheirTokensInContext) {
  // Alone, " a" is "▁▁a" there, two tokens; behind a word it is "▁a".
  const Tokenizer tokenizer("tests/golden/sentencepiece");
  ASSERT_EQ(tokenizer.encode(" a").size(), 2U);
  PromptConfig config;
  config.template_text = "[template]\n{user} {item} is\n";
  config.yes = " a";
  config.no = " b";
  const PromptBuilder prompts(dataset_, tokenizer, config);
  EXPECT_EQ(Ids{prompts.yes_token()}, tokenizer.encode("a"));
  EXPECT_EQ(Ids{prompts.no_token()}, tokenizer.encode("b"));
  config.template_text = "[template]\n{user} {item}\n";
  EXPECT_THROW(PromptBuilder(dataset_, tokenizer, config), ConfigError);
}

TEST_F(PromptTest, RefusesBadConfigurations) {
  EXPECT_NE(
      error_of({.max_tokens = 5}).find("--prompt.max-tokens 5 is too few: the question about item"),
      std::string::npos);
  EXPECT_NE(error_of({.template_text = "[template]\n{user}"})
                .find("the checkpoint's templates:2: {item}"),
            std::string::npos);
  const auto path = directory_.write("mine.txt", "[template]\n{user}{item}{movie}\n");
  EXPECT_EQ(error_of({.templates = path.string()}).find(path.string() + ":2: unknown placeholder"),
            0U);
  EXPECT_THROW(
      PromptBuilder(dataset_, tokenizer(), {.templates = (directory_ / "missing.txt").string()}),
      DataError);
}

TEST_F(PromptTest, BuiltInTemplatesAreShort) {
  PromptConfig config;
  const PromptBuilder prompts(dataset_, tokenizer(), config);
  EXPECT_EQ(prompts.source(), kDefaultTemplates);
  // Without titles: they cost time in every example.
  EXPECT_LT(prompts.length(row("bob", "m3"), 0), 50);
}

/// A question is the prompt of the row with the same user, item and history.
TEST_F(PromptTest, AQuestionIsARowThatNeedNotExist) {
  const PromptBuilder prompts = builder({.history = 2});
  const std::int64_t ann = row("ann", "m9");
  const auto item = [&](const char* id) { return dataset_.item()[row("ann", id)]; };
  const std::vector<std::int64_t> history{item("m0"), item("m1"), item("m2")};
  const Question question{dataset_.user_node(ann), dataset_.item()[ann], history};
  const Prompt of_row = prompts.build(ann, 0), asked = prompts.build(question, 0);
  EXPECT_EQ(asked.tokens, of_row.tokens);
  EXPECT_EQ(asked.private_from, of_row.private_from);
  EXPECT_EQ(prompts.text(asked), prompts.text(of_row));
  EXPECT_EQ(prompts.extent(question, 0).tokens, static_cast<std::int64_t>(asked.tokens.size()));
  EXPECT_EQ(asked.row, -1);
  EXPECT_EQ(asked.label, 0);
  EXPECT_EQ(of_row.label, 1);

  const Prompt unknown = prompts.build(Question{.item = question.item, .history = history}, 0);
  EXPECT_EQ(unknown.tokens, of_row.tokens);
  ASSERT_EQ(unknown.anchors.size(), 2U);
  EXPECT_EQ(unknown.anchors[0].node, kUnknownNode);
  EXPECT_EQ(unknown.anchors[1].node, dataset_.item_node(ann));
  EXPECT_NE(prompts.text(unknown).find("<user>"), std::string::npos) << prompts.text(unknown);
  // Nothing liked: its own wording.
  const Prompt fresh = prompts.build(Question{.item = question.item}, 0);
  EXPECT_LT(fresh.tokens.size(), of_row.tokens.size());
}

TEST_F(PromptTest, BuildsFromManyThreadsAtOnce) {
  const PromptBuilder prompts = builder();
  const Prompt expected = prompts.build(row("ann", "m9"), 0);
  std::vector<std::thread> threads;
  std::array<int, 4> wrong{};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i)
        wrong[t] += prompts.build(expected.row, 0).tokens != expected.tokens;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

}  // namespace
}  // namespace graphlora
