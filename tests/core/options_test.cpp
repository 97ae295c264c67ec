#include "core/options.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

struct Values {
  std::string data, cut = "window", templates;
  std::int64_t rank = 8, steps = 100;
  double lr = 1e-3;
  bool resume = false, bias = true;
  std::vector<std::string> targets{"q_proj", "v_proj"};
  std::vector<std::int64_t> layers{15};

  OptionTable table() {
    OptionTable table("train", "Trains adapters",
                      "Reads a dataset and a model, and writes what it has learned to a directory "
                      "of its own, one step after the other, until it has done them all.\n  kept   "
                      "as is\nSecond.");
    table.example("graphlora train --data run/dataset", "the simplest use")
        .add_required("Input", "data", &data, "DIR: dataset written by prepare")
        .add("Run", "steps", &steps, "optimizer steps", in_range(steps, 0, 1000000))
        .add("Run", "resume", &resume, "continue from LATEST")
        .add("Adapters", "lora.rank", &rank, "rank", in_range(rank, 1, 64))
        .add("Adapters", "lora.targets", &targets, "linears that get an adapter")
        .add("Adapters", "inject.layers", &layers, "layers where the graph enters")
        .add("Optimizer", "optim.lr", &lr, "learning rate", in_range(lr, 0.0, 10.0))
        .add("Graph", "graph.cut", &cut, "window, fold or none",
             one_of(cut, {"window", "fold", "none"}))
        .add("Graph", "pretrain.bias", &bias, "bias columns")
        .add("Prompt", "prompt.templates", &templates, "FILE: templates; empty: the built-in ones");
    return table;
  }
};

std::string error_of(const std::vector<std::string>& arguments) {
  Values values;
  try {
    values.table().parse(arguments);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    return error.what();
  }
  return "no error";
}

TEST(Options, DefaultsStandWhereNothingIsGiven) {
  Values values;
  OptionTable table = values.table();
  ASSERT_TRUE(table.parse({"--data", "d"}));
  EXPECT_EQ(values.data, "d");
  EXPECT_EQ(values.rank, 8);
  EXPECT_TRUE(table.given("data"));
  EXPECT_FALSE(table.given("lora.rank"));
}

TEST(Options, FlagsOfEveryType) {
  Values values;
  ASSERT_TRUE(
      values.table().parse({"--data=d", "--steps", "7", "--lora.targets", "q_proj,o_proj,up_proj",
                            "--inject.layers=3,29", "--optim.lr", "2.5e-4", "--graph.cut", "fold",
                            "--resume", "--prompt.templates", ""}));
  EXPECT_EQ(values.steps, 7);
  EXPECT_EQ(values.targets, (std::vector<std::string>{"q_proj", "o_proj", "up_proj"}));
  EXPECT_EQ(values.layers, (std::vector<std::int64_t>{3, 29}));
  EXPECT_EQ(values.lr, 2.5e-4);
  EXPECT_EQ(values.cut, "fold");
  EXPECT_TRUE(values.resume);
  EXPECT_EQ(values.templates, "");
}

TEST(Options, SwitchesTakeAnOptionalValue) {
  for (const auto& [words, expected] : std::vector<std::pair<std::vector<std::string>, bool>>{
           {{"--pretrain.bias"}, true},
           {{"--pretrain.bias", "false"}, false},
           {{"--pretrain.bias=false"}, false},
           {{"--pretrain.bias", "true"}, true}}) {
    Values values;
    std::vector<std::string> all{"--data", "d"};
    all.insert(all.end(), words.begin(), words.end());
    ASSERT_TRUE(values.table().parse(all));
    EXPECT_EQ(values.bias, expected);
  }
  EXPECT_EQ(error_of({"--data", "d", "--resume", "yes"}),
            "unexpected argument 'yes'; see graphlora train --help");
  EXPECT_EQ(error_of({"--data", "d", "--resume=yes"}),
            "--resume: expected true or false, got 'yes'");
}

TEST(Options, NegativeNumbersAreValues) {
  EXPECT_EQ(error_of({"--data", "d", "--steps", "-3"}),
            "--steps: must be between 0 and 1000000, got -3");
}

TEST(Options, WrongFlags) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"--data", "d", "--lora.rnak", "4"},
       "unknown flag --lora.rnak of graphlora train; the nearest is --lora.rank"},
      {{"--data", "d", "--rank", "4"},
       "unknown flag --rank of graphlora train; the nearest is --lora.rank"},
      {{"--data", "d", "--lora.ran", "4"},
       "unknown flag --lora.ran of graphlora train; the nearest is --lora.rank"},
      {{"--data", "d", "--hepl"}, "unknown flag --hepl of graphlora train; the nearest is --help"},
      {{"--data", "d", "--STEPS", "4"},
       "unknown flag --STEPS of graphlora train; the nearest is --steps"},
      {{"--data", "d", "-h"}, "unknown flag -h; the nearest is --help"},
      {{"--data", "d", "--data", "e"}, "--data is given twice"},
      {{"--data", "d", "--resume", "--resume"}, "--resume is given twice"},
      {{"--data", "d", "--config", "a", "--config", "b"}, "--config is given twice"},
      {{"--data", "d", "extra"}, "unexpected argument 'extra'; see graphlora train --help"},
      {{}, "--data DIR is required (dataset written by prepare); see graphlora train --help"},
      {{"--data", "d", "--steps", "ten"}, "--steps: expected a whole number, got 'ten'"},
      {{"--data", "d", "--steps", "1.5"}, "--steps: expected a whole number, got '1.5'"},
      {{"--data", "d", "--steps", ""}, "--steps: expected a whole number, got ''"},
      {{"--data", "d", "--steps", "99999999999999999999"},
       "--steps: '99999999999999999999' is out of range"},
      {{"--data", "d", "--optim.lr", "nan"}, "--optim.lr: expected a finite number, got 'nan'"},
      {{"--data", "d", "--optim.lr", "1e999"}, "--optim.lr: '1e999' is out of range"},
      {{"--data", "d", "--optim.lr", "1e-400"}, "--optim.lr: '1e-400' is out of range"},
      {{"--data", "d", "--steps", "-99999999999999999999"},
       "--steps: '-99999999999999999999' is out of range"},
      {{"--data", "d", "--optim.lr", "0.1x"}, "--optim.lr: expected a number, got '0.1x'"},
      {{"--data", "d", "--lora.rank", "65"}, "--lora.rank: must be between 1 and 64, got 65"},
      {{"--data", "d", "--graph.cut", "Fold"},
       "--graph.cut: must be one of window, fold, none, got 'Fold'"},
      {{"--data", "d", "--inject.layers", "1,,2"},
       "--inject.layers: expected a list separated by commas without spaces, got '1,,2'"},
      {{"--data", "d", "--inject.layers", "1, 2"},
       "--inject.layers: expected a list separated by commas without spaces, got '1, 2'"},
      {{"--data", "d", "--inject.layers", "1,x"},
       "--inject.layers: expected whole numbers, got 'x'"},
  };
  for (const auto& [arguments, expected] : cases) EXPECT_EQ(error_of(arguments), expected);
}

TEST(Options, MissingValueIsAnError) {
  EXPECT_NE(error_of({"--data", "d", "--steps"}).find("--steps"), std::string::npos);
  EXPECT_EQ(error_of({"--steps", "--data", "d"}), "--steps needs a value, but --data follows it");
  EXPECT_EQ(error_of({"--data", "--resume"}), "--data needs a value, but --resume follows it");
  EXPECT_EQ(error_of({"--data", "--resume", "--steps", "3"}),
            "--data needs a value, but --resume follows it");
  EXPECT_EQ(error_of({"--data", "--resume", "true"}),
            "--data needs a value, but --resume follows it");
  EXPECT_EQ(error_of({"--data", "--steps=3"}), "--data needs a value, but --steps follows it");
  EXPECT_EQ(error_of({"--data", "--config=x"}), "--data needs a value, but --config follows it");
  EXPECT_EQ(error_of({"--data", "d", "--config", ""}), "--config: expected a file, got ''");
  EXPECT_NE(error_of({"--data="}).find("--data"), std::string::npos);
}

TEST(Options, HelpWinsOverEverythingElse) {
  Values values;
  EXPECT_FALSE(values.table().parse({"--nonsense", "--help"}));
}

TEST(Options, IniFile) {
  const TemporaryDirectory directory;
  const auto path = directory.write("train.ini",
                                    "# a comment\r\n"
                                    "data = run/dataset\r\n"
                                    "steps=7\n"
                                    "resume = true\n"
                                    "\n"
                                    "[lora]\n"
                                    "rank = 4   # small\n"
                                    "targets = q_proj,o_proj\n"
                                    "[prompt]\n"
                                    "templates =\n");
  Values values;
  OptionTable table = values.table();
  ASSERT_TRUE(table.parse({"--config", path.string()}));
  EXPECT_EQ(values.data, "run/dataset");
  EXPECT_EQ(values.steps, 7);
  EXPECT_TRUE(values.resume);
  EXPECT_EQ(values.rank, 4);
  EXPECT_EQ(values.targets, (std::vector<std::string>{"q_proj", "o_proj"}));
  EXPECT_TRUE(table.given("lora.rank"));
  EXPECT_FALSE(table.given("optim.lr"));
}

TEST(Options, IniValuesMayHoldWhatFlagsCan) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"/tmp/ds#2", "/tmp/ds#2"},
      {"/tmp/ds#2 # the second", "/tmp/ds#2"},
      {"#2", ""},
      {"a\t# tab", "a"},
      {"\" Yes\"", " Yes"},
      {"\" Yes\"   # with its blank", " Yes"},
      {"  \"a # b=c\"\r", "a # b=c"},
      {"\"\"", ""},
      {"it's \"so\"", "it's \"so\""},
      {"a = b", "a = b"},
  };
  const TemporaryDirectory directory;
  for (const auto& [text, expected] : cases) {
    Values values;
    const auto path = directory.write("x.ini", "data = d\n[prompt]\ntemplates = " + text + "\n");
    ASSERT_TRUE(values.table().parse({"--config", path.string()})) << text;
    EXPECT_EQ(values.templates, expected) << text;
  }
  for (const char* text : {"\" Yes", "\"a\" b", "\"a\"#b", "\"a\"b\""}) {
    const auto path = directory.write("x.ini", std::string("data = ") + text + "\n");
    EXPECT_EQ(error_of({"--config", path.string()}),
              path.string() + ":1: data: a value that begins with \" must end with the next one");
  }
}

TEST(Options, DefaultsWithOuterBlanksAreShownInQuotes) {
  std::string yes = " Yes";
  OptionTable table("train");
  table.add("Prompt", "prompt.yes", &yes, "answer");
  EXPECT_NE(table.help().find("(default \" Yes\")"), std::string::npos) << table.help();
  EXPECT_NE(table.markdown().find("`\" Yes\"`"), std::string::npos) << table.markdown();
  EXPECT_EQ(table.values()[0].second, " Yes");
}

TEST(Options, FlagsWinOverIni) {
  const TemporaryDirectory directory;
  const auto path = directory.write("train.ini", "data = a\nsteps = 7\n[lora]\nrank = 4\n");
  Values values;
  ASSERT_TRUE(
      values.table().parse({"--lora.rank", "16", "--config", path.string(), "--data", "b"}));
  EXPECT_EQ(values.rank, 16);
  EXPECT_EQ(values.data, "b");
  EXPECT_EQ(values.steps, 7);
}

TEST(Options, WrongIniFilesNameFileAndLine) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"data = d\nlora.rnak = 4\n",
       ":2: unknown option lora.rnak of graphlora train; the nearest is lora.rank"},
      {"data = d\n\n[lora]\nrnak = 4\n",
       ":4: unknown option lora.rnak of graphlora train; the nearest is lora.rank"},
      {"data = d\n[lora]\nsteps = 4\n",
       ":3: unknown option lora.steps; 'steps' stands above the first section"},
      {"data = d\nsteps = 4\nsteps = 5\n", ":3: steps is given twice; first at FILE:2"},
      {"data = d\n[lora]\nrank = 4\n[graph]\ncut = fold\n[lora]\nrank = 5\n",
       ":7: lora.rank is given twice; first at FILE:3"},
      {"data = d\nsteps # = 4\n", ":2: expected key = value, [section] or # comment, got 'steps'"},
      {"data = d\nsteps\n", ":2: expected key = value, [section] or # comment, got 'steps'"},
      {"data = d\n= 4\n", ":2: expected key = value, [section] or # comment, got '= 4'"},
      {"data = d\n; old style\n",
       ":2: expected key = value, [section] or # comment, got '; old style'"},
      {"data = d\n[]\n", ":2: expected a section like [lora], got '[]'"},
      {"data = d\n[lora\n", ":2: expected a section like [lora], got '[lora'"},
      {"data = d\nsteps = x\n", ":2: steps: expected a whole number, got 'x'"},
      {"data = d\n[lora]\nrank = 100\n", ":3: lora.rank: must be between 1 and 64, got 100"},
      {"data = d\nresume = yes\n", ":2: resume: expected true or false, got 'yes'"},
      {"data = d\nconfig = other.ini\n",
       ":2: unknown option config of graphlora train; the nearest is config"},
      {std::string("data = d\nst\0eps = 1\n", 19), ":2: a NUL byte; this is not an INI file"},
  };
  const TemporaryDirectory directory;
  for (const auto& [text, expected] : cases) {
    const std::string path = directory.write("bad.ini", text).string();
    std::string wanted = path + expected;
    if (const auto at = wanted.find("FILE"); at != std::string::npos) wanted.replace(at, 4, path);
    EXPECT_EQ(error_of({"--config", path}), wanted) << text;
  }
}

TEST(Options, MissingOversizedOrSpecialIniFile) {
  const TemporaryDirectory directory;
  EXPECT_NE(error_of({"--config", (directory / "none.ini").string()}).find("none.ini"),
            std::string::npos);
  EXPECT_NE(error_of({"--config", directory.path().string()}).find("--config: "),
            std::string::npos);
  const auto big = directory.write("big.ini", std::string(2 << 20, '#'));
  EXPECT_NE(error_of({"--config", big.string()}).find("big.ini"), std::string::npos);
}

TEST(Options, PositionalArgument) {
  std::string path;
  bool json = false;
  OptionTable table("inspect", "Describes a file");
  table.add_positional("Input", "path", &path, "PATH: what to describe")
      .add("Output", "json", &json, "JSON");
  ASSERT_TRUE(table.parse({"--json", "some/path"}));
  EXPECT_EQ(path, "some/path");
  EXPECT_TRUE(json);
  path.clear();
  ASSERT_TRUE(table.parse({"--path", "other"}));
  EXPECT_EQ(path, "other");
  EXPECT_THROW(table.parse({}), ConfigError);
  EXPECT_THROW(table.parse({"a", "b"}), ConfigError);
  EXPECT_THROW(table.parse({"a", "--path", "b"}), ConfigError);
}

TEST(Options, PositionalArgumentMayBeOptional) {
  std::string path = "none";
  OptionTable table("inspect", "Describes a file");
  table.add_positional("Input", "path", &path, "PATH: what to describe", {}, /*required=*/false);
  ASSERT_TRUE(table.parse({}));
  EXPECT_EQ(path, "none");
  EXPECT_NE(table.help().find("graphlora inspect [PATH]"), std::string::npos);
  ASSERT_TRUE(table.parse({"some/path"}));
  EXPECT_EQ(path, "some/path");
}

TEST(Options, HelpAndMarkdownNameEveryOption) {
  Values values;
  const OptionTable table = values.table();
  const std::string help = table.help(), markdown = table.markdown();
  for (const auto& [name, value] : table.values()) {
    EXPECT_NE(help.find("--" + name + " "), std::string::npos) << name;
    EXPECT_NE(markdown.find("| `--" + name + "` |"), std::string::npos) << name;
  }
  EXPECT_NE(help.find("Usage: graphlora train --data DIR [options]"), std::string::npos) << help;
  EXPECT_NE(help.find("  graphlora train --data run/dataset\n"), std::string::npos);
  EXPECT_NE(
      help.find(
          "one step\nafter the other, until it has done them all.\n  kept   as is\nSecond.\n"),
      std::string::npos)
      << help;
  EXPECT_NE(help.find("  --resume  "), std::string::npos) << help;
  EXPECT_NE(help.find("(default q_proj,v_proj)"), std::string::npos);
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 102u) << line;
}

TEST(Options, ValuesReadBackToTheSameOptions) {
  Values values;
  OptionTable table = values.table();
  ASSERT_TRUE(table.parse({"--data", "d", "--optim.lr", "0.1", "--lora.targets", "k_proj",
                           "--pretrain.bias", "false"}));
  std::vector<std::string> words;
  for (const auto& [name, value] : table.values())
    words.push_back("--" + name + (value.empty() ? "" : "=" + value));
  std::erase(words, "--prompt.templates");
  Values again;
  ASSERT_TRUE(again.table().parse(words));
  EXPECT_EQ(again.table().values(), table.values());
}

TEST(Options, TableOfKeepsItsVariablesAlive) {
  OptionTable table = table_of<Values>();
  ASSERT_TRUE(table.parse({"--data", "d", "--steps", "3"}));
  EXPECT_EQ(table.values()[1], (std::pair<std::string, std::string>{"steps", "3"}));
}

TEST(Options, ARepeatableOptionTakesWholeValues) {
  const TemporaryDirectory directory;
  std::vector<std::string> liked;
  OptionTable table("recommend");
  table.add_repeatable("For whom", "liked", &liked, "TITLE: a title");
  using Titles = std::vector<std::string>;
  ASSERT_TRUE(table.parse({"--liked", "Boot, Das (1981)", "--liked=Heat"}));
  EXPECT_EQ(liked, (Titles{"Boot, Das (1981)", "Heat"}));
  ASSERT_TRUE(table.parse({"--liked", "Up"}));
  EXPECT_EQ(liked, Titles{"Up"});
  const std::string ini = directory / "a.ini";
  write_file(ini, "liked = Boot, Das (1981)\nliked = \"Heat # 2\"\n");
  ASSERT_TRUE(table.parse({"--config", ini}));
  EXPECT_EQ(liked, (Titles{"Boot, Das (1981)", "Heat # 2"}));
  ASSERT_TRUE(table.parse({"--config", ini, "--liked", "Up"}));
  EXPECT_EQ(liked, Titles{"Up"});
  ASSERT_TRUE(table.parse({}));
  EXPECT_EQ(liked, Titles{});
  EXPECT_THROW(table.parse({"--liked"}), ConfigError);
}

TEST(Options, AnOptionAddedTwiceIsABug) {
  Values values;
  OptionTable table = values.table();
  EXPECT_THROW(table.add("Run", "steps", &values.steps, "again"), std::logic_error);
  EXPECT_THROW(table.add("Run", "config", &values.data, "reserved"), std::logic_error);
}

TEST(NearestName, PicksTheLeastDistance) {
  EXPECT_EQ(nearest_name("trian", {"prepare", "train", "export"}), "train");
  EXPECT_EQ(nearest_name("cut", {"graph.cut", "comm"}), "graph.cut");
  EXPECT_EQ(nearest_name("x", {}), "");
  EXPECT_EQ(nearest_name(std::string(10000000, 'x'), {"a"}), "a");
}

}  // namespace
}  // namespace graphlora
