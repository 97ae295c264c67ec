#include "data/sentencepiece.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/tokenizer.hpp"
#include "data/tokenizer_golden.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kGolden = "tests/golden/sentencepiece";

const std::string& model_bytes() {
  static const std::string bytes = read_file(kGolden / "tokenizer.model");
  return bytes;
}

/// A directory that holds the golden tokenizer.model, with or without a configuration.
class ModelDirectory {
 public:
  explicit ModelDirectory(const json& config = nullptr) {
    directory_.write("tokenizer.model", model_bytes());
    if (!config.is_null()) directory_.write("tokenizer_config.json", config.dump());
  }
  Tokenizer tokenizer() const { return Tokenizer(directory_.path()); }
  std::string error() const {
    try {
      tokenizer();
      return "";
    } catch (const DataError& error) {
      return error.what();
    }
  }
  TemporaryDirectory& directory() { return directory_; }

 private:
  TemporaryDirectory directory_;
};

void expect_golden(const Tokenizer& tokenizer, const TokenizerGolden& golden,
                   const std::string& variant) {
  const std::vector<Ids> ids = golden.ids(variant);
  const std::vector<std::string> decoded = golden.decoded(variant);
  ASSERT_EQ(ids.size(), golden.texts().size());
  ASSERT_EQ(decoded.size(), ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(golden.texts()[i]), ids[i])
        << variant << ": " << json(golden.texts()[i]).dump(-1, ' ', true);
    EXPECT_EQ(tokenizer.decode(ids[i]), decoded[i]) << variant;
  }
}

TEST(SentencePiece, TokenizerJsonEqualsHfOnGoldenStringsAndVariants) {
  const TokenizerGolden golden(kGolden / "golden.safetensors");
  const json base = read_json(kGolden / "tokenizer.json");
  EXPECT_GE(golden.variants().size(), 11U);
  for (const auto& [name, patch] : golden.variants()) {
    json root = base;
    root.merge_patch(patch);
    const TemporaryDirectory directory;
    directory.write("tokenizer.json", root.dump());
    expect_golden(Tokenizer(directory.path()), golden, name);
  }
}

TEST(SentencePiece, ModelAloneEqualsWhatHfConverts) {
  const TokenizerGolden golden(kGolden / "golden.safetensors");
  expect_golden(ModelDirectory().tokenizer(), golden, "as is");
  expect_golden(ModelDirectory(json{{"legacy", true}}).tokenizer(), golden, "as is");
  expect_golden(ModelDirectory(json{{"legacy", false}}).tokenizer(), golden, "first");
}

TEST(SentencePiece, ConvertsAsHf) {
  const json expected = read_json(kGolden / "tokenizer.json");
  const json root = read_sentencepiece(ModelDirectory().directory().path());
  for (const char* name : {"vocab", "merges", "unk_token", "fuse_unk", "byte_fallback"}) {
    EXPECT_EQ(root["model"][name], expected["model"][name]) << name;
  }
  EXPECT_EQ(root["normalizer"], expected["normalizer"]);
  EXPECT_EQ(root["decoder"], expected["decoder"]);
}

TEST(SentencePiece, BosFollowsTheConfiguration) {
  EXPECT_EQ(ModelDirectory().tokenizer().bos(), 1);
  EXPECT_EQ(ModelDirectory(json{{"add_bos_token", true}}).tokenizer().bos(), 1);
  EXPECT_EQ(ModelDirectory(json{{"add_bos_token", nullptr}}).tokenizer().bos(), 1);
  EXPECT_EQ(ModelDirectory(json{{"add_bos_token", false}}).tokenizer().bos(), std::nullopt);
  EXPECT_EQ(ModelDirectory(json{{"bos_token", {{"content", "</s>"}}}}).tokenizer().bos(), 2);
  EXPECT_NE(ModelDirectory(json{{"bos_token", nullptr}}).error().find("without a bos_token"),
            std::string::npos);
}

// The ids of the next four are those of transformers 4.57's AutoTokenizer on the same directories.
TEST(SentencePiece, TakesAddedTokensFromTheConfiguration) {
  json token = {{"content", "<user>"}, {"lstrip", true}};  // normalized, since it is not special
  const auto tokenizer = [&] {
    return ModelDirectory(json{{"added_tokens_decoder", {{"700", token}}}, {"pad_token", "<pad>"}})
        .tokenizer();
  };
  EXPECT_EQ(tokenizer().vocabulary_size(), 702);
  EXPECT_EQ(tokenizer().encode("  <user><pad></s>"), (Ids{625, 625, 700, 701, 2}));
  EXPECT_EQ(tokenizer().encode("  <user> a"), (Ids{625, 625, 700, 265}));
  token["normalized"] = false;
  EXPECT_EQ(tokenizer().encode("  <user><pad></s>"), (Ids{700, 701, 2}));
}

TEST(SentencePiece, TokensOfAddedTokensJsonAreNormalizedUnlessSpecial) {
  ModelDirectory model(json{{"tokenizer_class", "LlamaTokenizer"}});
  model.directory().write("added_tokens.json", R"({"<user>": 700})");
  EXPECT_EQ(model.tokenizer().encode("a<user>b"), (Ids{265, 64, 318, 267, 66, 650}));
  EXPECT_EQ(model.tokenizer().encode("a <user> b"), (Ids{265, 700, 292}));
  EXPECT_EQ(model.tokenizer().vocabulary_size(), 701);
  model.directory().write("added_tokens.json", R"(["<user>"])");
  EXPECT_NE(model.error().find("not as HF writes them"), std::string::npos);
}

TEST(SentencePiece, MergesTheSpecialTokensMap) {
  ModelDirectory model(json{{"additional_special_tokens", {"<y>"}}});
  model.directory().write("added_tokens.json", R"({"<user>": 700})");
  model.directory().write("special_tokens_map.json",
                          R"({"additional_special_tokens": ["<user>", "<x>"], "bos_token": "</s>",
          "pad_token": {"content": "<pad>", "lstrip": true}})");
  EXPECT_EQ(model.tokenizer().encode("a<user>b"), (Ids{265, 700, 292}));
  EXPECT_EQ(model.tokenizer().encode("a<x>b<y> a  <pad>"),
            (Ids{265, 703, 292, 702, 625, 265, 701}));
  EXPECT_EQ(model.tokenizer().bos(), 2);
  EXPECT_EQ(model.tokenizer().vocabulary_size(), 704);

  ModelDirectory again;
  again.directory().write("special_tokens_map.json",
                          R"({"bos_token": {"content": "<s>", "lstrip": true, "rstrip": true}})");
  EXPECT_EQ(again.tokenizer().encode("a  <s> b"), (Ids{265, 1, 292}));
  again.directory().write("special_tokens_map.json", "[1]");
  EXPECT_NE(again.error().find("not as HF writes them"), std::string::npos);
}

TEST(SentencePiece, AddedTokensDecoderOverrulesTheOlderFiles) {
  ModelDirectory model(json{{"added_tokens_decoder", json::object()}});
  model.directory().write("added_tokens.json", R"({"<user>": 700})");
  model.directory().write(
      "special_tokens_map.json",
      R"({"additional_special_tokens": ["<user>", "<x>"], "bos_token": "</s>"})");
  EXPECT_EQ(model.tokenizer().encode("a<user>b"), (Ids{265, 64, 318, 267, 66, 650}));
  EXPECT_EQ(model.tokenizer().encode("a<x>b<y>"), (Ids{265, 64, 672, 66, 650, 64, 652, 66}));
  EXPECT_EQ(model.tokenizer().bos(), 1);
  EXPECT_EQ(model.tokenizer().vocabulary_size(), 700);
}

TEST(SentencePiece, NoAddedTokenInsideTheWhiteSpaceOfTheOneBefore) {
  json root = read_json(kGolden / "tokenizer.json");
  for (const auto& [id, content, left, right] :
       {std::tuple{700, "\u00e9", false, true}, {701, " ", true, false}}) {
    root["added_tokens"].push_back({{"id", id},
                                    {"content", content},
                                    {"single_word", false},
                                    {"lstrip", left},
                                    {"rstrip", right},
                                    {"normalized", false},
                                    {"special", false}});
  }
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", root.dump());
  EXPECT_EQ(Tokenizer(directory.path()).encode("\u00e9 1ab\u00e9\u00e9"),
            (Ids{700, 625, 653, 480, 700, 700}));
}

TEST(SentencePiece, TokenizerJsonGoesFirst) {
  ModelDirectory model;
  model.directory().write("tokenizer.json", "{}");
  EXPECT_NE(model.error().find("tokenizer.json"), std::string::npos);
}

/// One field of the wire format.
std::string field(int number, std::string_view bytes) {
  std::string result{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())};
  return result.append(bytes);
}
std::string number(int field, int value) {
  return {static_cast<char>(field << 3), static_cast<char>(value)};
}

TEST(SentencePiece, RefusesWhatItCannotTokenizeAsHf) {
  const std::string pieces = field(1, field(1, "<unk>") + number(3, 2)) +
                             field(1, field(1, "<s>") + number(3, 3)) +
                             field(1, field(1, "</s>") + number(3, 3)) + field(1, field(1, "a"));
  const std::string bpe = field(2, number(3, 2)), plain = field(3, number(4, 0));
  const auto error_of = [](const std::string& bytes) {
    ModelDirectory model;
    model.directory().write("tokenizer.model", bytes);
    const std::string error = model.error();
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    return error;
  };
  EXPECT_EQ(error_of(pieces + bpe + plain), "");
  const std::vector<std::pair<std::string, const char*>> cases = {
      {pieces + field(2, number(3, 1)) + plain, "model type unigram"},
      {pieces + plain, "model type unigram"},
      {pieces + field(2, number(3, 9)) + plain, "model type 9"},
      {pieces + bpe, "remove_extra_whitespaces"},
      {pieces + bpe + field(3, field(1, "nmt_nfkc") + field(2, "xyz") + number(4, 0)),
       "normalizer \"nmt_nfkc\""},
      {pieces + field(1, field(1, "a")) + bpe + plain, "twice"},
      {pieces + field(1, field(1, "\xFF\n")) + bpe + plain, "damaged"},
      {pieces + field(1, "") + bpe + plain, "damaged"},
      {pieces + field(1, field(1, "b") + "\x15" + std::string("\x00\x00\xC0\x7F", 4)) + bpe + plain,
       "finite score"},
      {bpe + plain, "not a SentencePiece model"},
      {"", "not a SentencePiece model"},
      {"IQ== 0\nIg== 1\n", "tiktoken"},
      {std::string(100, '\xFF'), "not a SentencePiece model"},
      {std::string("\x0A\xFF\xFF\xFF\xFF\x0F", 6), "not a SentencePiece model"},
  };
  for (const auto& [bytes, message] : cases) {
    EXPECT_NE(error_of(bytes).find(message), std::string::npos)
        << message << ": " << error_of(bytes);
  }
  for (std::size_t size = 0; size < model_bytes().size(); size += 97) {
    EXPECT_NE(error_of(model_bytes().substr(0, size)), "") << size;
  }
}

TEST(SentencePiece, RefusesConfigurationsItDoesNotKnow) {
  EXPECT_NE(
      ModelDirectory(json{{"tokenizer_class", "T5Tokenizer"}}).error().find("\"T5Tokenizer\""),
      std::string::npos);
  EXPECT_NE(ModelDirectory(json{{"legacy", "yes"}}).error().find("not as HF writes them"),
            std::string::npos);
  EXPECT_NE(ModelDirectory(json{{"added_tokens_decoder", {{"x", {{"content", "y"}}}}}})
                .error()
                .find("added_tokens_decoder"),
            std::string::npos);
  EXPECT_NE(ModelDirectory(json{{"bos_token", 7}}).error(), "");
  EXPECT_NE(ModelDirectory(json::array({1})).error(), "");
}

}  // namespace
}  // namespace graphlora
