#include "data/tokenizer.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/tokenizer_golden.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kGolden = "tests/golden";

const json& base() {
  static const json tokenizer = read_json(kGolden / "smollm2" / "tokenizer.json");
  return tokenizer;
}

Tokenizer make_tokenizer(const json& root) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", root.dump());
  return Tokenizer(directory.path());
}

std::string decimal(const Ids& ids) { return fmt::format("{}", fmt::join(ids, " ")); }

TEST(Tokenizer, EqualsHfOnGoldenStringsAndVariants) {
  const TokenizerGolden golden(kGolden / "tokenizer.safetensors");
  EXPECT_EQ(golden.texts().size(), 50000U);
  const std::map<std::string, json> variants = golden.variants();
  EXPECT_GE(variants.size(), 15U);
  for (const auto& [name, patch] : variants) {
    json root = base();
    root.merge_patch(patch);
    const Tokenizer tokenizer = make_tokenizer(root);
    const std::vector<Ids> expected = golden.ids(name);
    EXPECT_EQ(expected.size(), name == "as is" ? 50000U : 1000U);
    int wrong = 0;
    for (std::size_t i = 0; i < expected.size() && wrong < 3; ++i) {
      const Ids ids = tokenizer.encode(golden.texts()[i]);
      if (ids != expected[i]) {
        ++wrong;
        ADD_FAILURE() << name << ", string " << i << ": "
                      << json(golden.texts()[i]).dump(-1, ' ', true) << "\n  HF   "
                      << decimal(expected[i]) << "\n  ours " << decimal(ids);
      }
    }
  }
}

TEST(Tokenizer, DecodesWhatItEncodes) {
  const Tokenizer tokenizer = make_tokenizer(base());
  const std::string text = "Les Misérables (1995), \"七人の侍\" \t\n don't 🚀 <|im_start|>";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.decode({}), "");
  EXPECT_THROW(tokenizer.decode({-1}), DataError);
  EXPECT_THROW(tokenizer.decode({49152}), DataError);
}

TEST(Tokenizer, KnowsItsVocabularyAndWords) {
  const Tokenizer tokenizer = make_tokenizer(base());
  EXPECT_EQ(tokenizer.vocabulary_size(), 49152);
  EXPECT_EQ(tokenizer.encode(" Yes"), Ids{9230});
  EXPECT_EQ(tokenizer.encode(" No"), Ids{2838});
  EXPECT_TRUE(tokenizer.encode("").empty());
}

TEST(Tokenizer, PutsBosInFrontOnlyIfThePostProcessorDoes) {
  EXPECT_EQ(make_tokenizer(base()).bos(), std::nullopt);
  json root = base();
  root["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  EXPECT_EQ(make_tokenizer(root).bos(), std::nullopt);
  const json prefix = {{"SpecialToken", {{"id", "<|im_end|>"}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  json processor = {{"type", "TemplateProcessing"},
                    {"special_tokens", {{"<|im_end|>", {{"ids", {2}}}}}},
                    {"single", {prefix, text}}};
  root["post_processor"] = {{"type", "Sequence"},
                            {"processors", {{{"type", "ByteLevel"}}, processor}}};
  EXPECT_EQ(make_tokenizer(root).bos(), 2);
  processor["single"] = {text, prefix};
  root["post_processor"] = processor;
  EXPECT_EQ(make_tokenizer(root).bos(), std::nullopt);
}

TEST(Tokenizer, ReadsMergesWrittenAsStrings) {
  json root = base();
  for (json& merge : root["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  EXPECT_EQ(make_tokenizer(root).encode("Star Wars: A New Hope"),
            make_tokenizer(base()).encode("Star Wars: A New Hope"));
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  const Tokenizer tokenizer = make_tokenizer(base());
  for (const std::string text :
       {"\xFF", "ab\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"}) {
    EXPECT_THROW(tokenizer.encode(text), DataError)
        << json(text).dump(-1, ' ', true, json::error_handler_t::replace);
  }
  EXPECT_NO_THROW(tokenizer.encode(std::string("a\0b", 3)));
}

/// The definition, without any of the tricks: merge the lowest-ranked pair, leftmost first.
Ids merge_naively(Ids ids, const std::map<std::pair<int, int>, std::pair<int, int>>& merges) {
  while (true) {
    int best = -1;
    std::pair<int, int> rank_and_id{std::numeric_limits<int>::max(), 0};
    for (int i = 0; i + 1 < static_cast<int>(ids.size()); ++i) {
      const auto found = merges.find({ids[i], ids[i + 1]});
      if (found != merges.end() && found->second.first < rank_and_id.first) {
        best = i;
        rank_and_id = found->second;
      }
    }
    if (best < 0) return ids;
    ids[best] = rank_and_id.second;
    ids.erase(ids.begin() + best + 1);
  }
}

TEST(Tokenizer, LongWordsMergeByDefinition) {
  const json& model = base()["model"];
  std::map<std::pair<int, int>, std::pair<int, int>> merges;
  int rank = 0;
  for (const json& merge : model["merges"]) {
    const std::string left = merge[0], right = merge[1];
    merges[{model["vocab"][left], model["vocab"][right]}] = {rank++, model["vocab"][left + right]};
  }
  const Tokenizer tokenizer = make_tokenizer(base());
  std::uint64_t state = 1;
  for (const int length : {1, 2, 20, 47, 48, 49, 50, 200, 1000}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::string word;
      Ids letters;
      for (int i = 0; i < length; ++i) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        word.push_back("aehinorst"[(state >> 33) % (repeat % 2 == 0 ? 9 : 2)]);
        letters.push_back(model["vocab"][std::string(1, word.back())]);
      }
      EXPECT_EQ(tokenizer.encode(word), merge_naively(letters, merges)) << word;
    }
  }
}

TEST(Tokenizer, OneHugeWordTakesNoQuadraticTime) {
  const Tokenizer tokenizer = make_tokenizer(base());
  const std::string word(1'000'000, 'a');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(word)), word);
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(spaces)), spaces);
}

TEST(Tokenizer, EncodesFromManyThreadsAtOnce) {
  const Tokenizer tokenizer = make_tokenizer(base());
  const TokenizerGolden golden(kGolden / "tokenizer.safetensors");
  const std::vector<Ids> expected = golden.ids("as is");
  std::vector<std::thread> threads;
  std::array<int, 4> wrong{};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < 8000; ++i)
        wrong[t] += tokenizer.encode(golden.texts()[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

/// A tokenizer.json of three letters, and what is done to it.
json tiny() {
  return {{"added_tokens", {{{"id", 4}, {"content", "<s>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}}},
            {"merges", {"a b"}}}}};
}

TEST(Tokenizer, TinyOneWorks) {
  EXPECT_EQ(make_tokenizer(tiny()).encode("abca<s>"), (Ids{3, 2, 0, 4}));
  EXPECT_EQ(make_tokenizer(tiny()).decode({3, 2, 0, 4}), "abca<s>");
}

struct HostileCase {
  const char* name;
  const char* pointer;  // JSON pointer to what is replaced
  json value;
  const char* message;  // must stand in the error
};

TEST(Tokenizer, RefusesHostileFiles) {
  const std::vector<HostileCase> cases = {
      {"list", "", json::array(), "not a tokenizer"},
      {"number", "", 7, "not a tokenizer"},
      {"no model", "/model", nullptr, "\"model\" is missing"},
      {"model is a string", "/model", "BPE", "not a tokenizer"},
      {"model type", "/model/type", "Unigram", "\"Unigram\""},
      {"model type is a number", "/model/type", 3, "not a tokenizer"},
      {"no vocab", "/model/vocab", nullptr, "\"vocab\" is missing"},
      {"empty vocab", "/model/vocab", json::object(), "vocab"},
      {"vocab is a list", "/model/vocab", {"a", "b"}, "vocab"},
      {"negative id", "/model/vocab/a", -1, "\"a\" has the id -1"},
      {"huge id", "/model/vocab/a", 1e15, "\"a\" has the id"},
      {"id beyond 64 bits", "/model/vocab/a", 18446744073709551615ULL, "\"a\" has the id"},
      {"large id", "/model/vocab/a", 2000000000, "2000000000"},
      {"fractional id", "/model/vocab/a", 0.5, "\"a\" has the id 0.5"},
      {"id is text", "/model/vocab/a", "0", "\"a\" has the id"},
      {"duplicate id", "/model/vocab/a", 1, "another token"},
      {"no merges", "/model/merges", nullptr, "\"merges\" is missing"},
      {"merges are an object", "/model/merges", {{"a", "b"}}, "merges"},
      {"merge of unknown token", "/model/merges/0", "a x", "\"x\""},
      {"merge into unknown token", "/model/merges/0", "b a", "\"ba\""},
      {"merge of one", "/model/merges/0", "ab", "merge 0"},
      {"merge of three", "/model/merges/0", {"a", "b", "c"}, "merge 0"},
      {"merge of numbers", "/model/merges/0", {1, 2}, "merge 0"},
      {"dropout", "/model/dropout", 0.1, "dropout"},
      {"prefix", "/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"suffix", "/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"unknown unk_token", "/model/unk_token", "<unk>", "<unk>"},
      {"pre_tokenizer type", "/pre_tokenizer/type", "Whitespace", "\"Whitespace\""},
      {"Metaspace without replacement", "/pre_tokenizer/type", "Metaspace", "replacement"},
      {"Metaspace with a long replacement",
       "/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "__"}},
       "one character"},
      {"Metaspace contradicts itself",
       "/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}},
       "contradicts"},
      {"Metaspace with an unknown scheme",
       "/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
       "\"last\""},
      {"pre_tokenizer without type", "/pre_tokenizer", json::object(), "type"},
      {"ByteLevel twice",
       "/pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {tiny()["pre_tokenizer"], tiny()["pre_tokenizer"]}}},
       "behind ByteLevel"},
      {"bad regex",
       "/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}},
       "(a"},
      {"regex of the empty string",
       "/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "a*"}}}, {"behavior", "Isolated"}},
       "empty string"},
      {"regex read differently",
       "/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "[a[bc]]"}}}, {"behavior", "Isolated"}},
       "unsupported regular expression"},
      {"split behavior",
       "/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Shuffled"}},
       "Shuffled"},
      {"normalizer type", "/normalizer", {{"type", "Lowercase"}}, "\"Lowercase\""},
      {"normalizer type of two lines", "/normalizer", {{"type", "Lower\ncase"}}, "Lower\\ncase"},
      {"normalizer of an empty string",
       "/normalizer",
       {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}},
       "empty string"},
      {"regex of a megabyte",
       "/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", std::string(1 << 20, 'a')}}}, {"content", ""}},
       "1048576 bytes"},
      {"normalizers without end",
       "/normalizer",
       {{"type", "Sequence"}, {"normalizers", std::vector<json>(300, {{"type", "NFC"}})}},
       "more than 256"},
      {"post_processor type",
       "/post_processor",
       {{"type", "BertProcessing"}},
       "\"BertProcessing\""},
      {"post_processor without text",
       "/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", json::array()},
        {"special_tokens", json::object()}},
       "Sequence"},
      {"post_processor adds an unknown id",
       "/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"x", {{"ids", {99}}}}}}},
       "99"},
      {"post_processor names what it lacks",
       "/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "x\ny"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", json::object()}},
       "x\\ny"},
      {"decoder type", "/decoder", {{"type", "CTC"}}, "\"CTC\""},
      {"decoder Strip",
       "/decoder",
       {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}},
       "\"start\""},
      {"added token with another id", "/added_tokens/0/id", 7, "\"<s>\" has the id 7"},
      {"added token without id", "/added_tokens/0/id", nullptr, "\"id\" is missing"},
      {"empty added token", "/added_tokens/0/content", "", "empty"},
      {"added tokens are numbers", "/added_tokens", {1, 2}, "not a tokenizer"},
  };
  for (const HostileCase& c : cases) {
    json root = tiny();
    root[json::json_pointer(c.pointer)] = c.value;
    try {
      make_tokenizer(root);
      ADD_FAILURE() << c.name << ": accepted";
    } catch (const DataError& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find("tokenizer.json"), std::string::npos) << c.name << ": " << what;
      EXPECT_NE(what.find(c.message), std::string::npos) << c.name << ": " << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << c.name << ": " << what;
    }
  }
}

TEST(Tokenizer, RefusesBrokenFiles) {
  const TemporaryDirectory directory;
  EXPECT_THROW(Tokenizer(directory.path()), DataError);
  const std::string whole = tiny().dump();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    directory.write("tokenizer.json", whole.substr(0, size));
    EXPECT_THROW(Tokenizer(directory.path()), DataError) << size;
  }
  directory.write("tokenizer.json", std::string(1'000'000, '['));
  EXPECT_THROW(Tokenizer(directory.path()), DataError);
}

TEST(Tokenizer, AcceptsDeeplyNestedSequences) {
  constexpr int kDepth = 90;  // of two levels each; files may have 200
  std::string nested;
  for (int i = 0; i < kDepth; ++i) nested += R"({"type":"Sequence","pretokenizers":[)";
  nested += R"({"type":"ByteLevel","add_prefix_space":false})";
  for (int i = 0; i < kDepth; ++i) nested += "]}";
  json root = tiny();
  root["pre_tokenizer"] = "HERE";
  std::string text = root.dump();
  text.replace(text.find("\"HERE\""), 6, nested);
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", text);
  EXPECT_EQ(Tokenizer(directory.path()).encode("ab"), Ids{3});
}

}  // namespace
}  // namespace graphlora
