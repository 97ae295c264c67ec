// A dataset directory is hostile input: every damaged one is refused with a message that says
// where.
#include "data/dataset.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;

void write_small(const fs::path& directory) {
  RawRatings raw;
  for (int u = 0; u < 4; ++u)
    for (int i = 0; i < 6; ++i)
      raw.add(fmt::format("user{}", u), fmt::format("item{}", (i + u) % 7),
              static_cast<float>(1 + (u + i) % 5), 10 * i + u);
  raw.set_title("item1", "Amélie");
  write_dataset(directory, std::move(raw), {});
}

/// Rewrites one tensor of a file, and the description's sizes and fingerprint with it, so that only
/// the content is wrong.
void change(const fs::path& directory, const std::string& name, const std::string& tensor,
            const std::function<at::Tensor(at::Tensor)>& edit) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const SafetensorsReader reader(directory / name);
    for (const auto& [key, entry] : reader.entries()) {
      at::Tensor value = reader.tensor(key).clone();
      tensors.emplace_back(key, key == tensor ? edit(value) : value);
    }
  }
  write_safetensors(directory / name, tensors);
  nlohmann::json json = read_json(directory / "dataset.json");
  json["files"][name]["bytes"] = fs::file_size(directory / name);
  json["fingerprint"] = dataset_fingerprint(json);
  write_json(directory / "dataset.json", json);
}

struct Damage {
  const char* name;
  std::function<void(const fs::path&)> apply;
  const char* message;  // part of it
};

std::function<void(const fs::path&)> edited(const std::string& file, const std::string& tensor,
                                            std::function<at::Tensor(at::Tensor)> edit) {
  return [=](const fs::path& d) { change(d, file, tensor, edit); };
}
template <class T>
std::function<at::Tensor(at::Tensor)> set(std::int64_t index, T value) {
  return [=](at::Tensor t) {
    t.data_ptr<T>()[index < 0 ? t.numel() + index : index] = value;
    return t;
  };
}
std::function<void(const fs::path&)> described(std::function<void(nlohmann::json&)> edit,
                                               bool with_fingerprint = true) {
  return [=](const fs::path& d) {
    nlohmann::json json = read_json(d / "dataset.json");
    edit(json);
    if (with_fingerprint) json["fingerprint"] = dataset_fingerprint(json);
    write_file(d / "dataset.json", json.dump());
  };
}

const std::string kInteractions = "interactions.safetensors", kHistory = "history.safetensors",
                  kUsers = "users.safetensors", kItems = "items.safetensors";
using I = std::int64_t;
using B = std::uint8_t;

std::vector<Damage> damages() {
  return {
      {"no dataset.json", [](auto d) { fs::remove(d / "dataset.json"); }, "prepare"},
      {"json cut", [](auto d) { fs::resize_file(d / "dataset.json", 20); }, "JSON"},
      {"json is a list", [](auto d) { write_file(d / "dataset.json", "[1]"); }, "dataset.json"},
      {"json empty", [](auto d) { write_file(d / "dataset.json", ""); }, "JSON"},
      {"version", described([](auto& j) { j["format_version"] = 99; }), "version 99"},
      {"users 0", described([](auto& j) { j["users"] = 0; }), "users"},
      {"users negative", described([](auto& j) { j["users"] = -4; }), "users"},
      {"users text", described([](auto& j) { j["users"] = "four"; }), "dataset.json"},
      {"items huge", described([](auto& j) { j["items"] = std::uint64_t{1} << 63; }), "items"},
      {"edited", described([](auto& j) { j["users"] = 3; }, false), "fingerprint"},
      {"no fingerprint", described([](auto& j) { j.erase("fingerprint"); }, false), "fingerprint"},
      {"no split", described([](auto& j) { j["split"] = 3; }), "dataset.json"},
      {"no rows", described([](auto& j) { j.erase("rows"); }), "rows"},
      {"rows a list", described([](auto& j) {
         j["rows"] = {1, 2, 3};
       }),
       "dataset.json"},
      {"rows text", described([](auto& j) { j["rows"]["test"] = "many"; }), "dataset.json"},
      {"no checksum", described([](auto& j) { j["files"][kItems].erase("sha256"); }), "sha256"},
      {"rows wrong", described([](auto& j) { j["rows"]["test"] = 77; }), "77"},
      {"file missing", [](auto d) { fs::remove(d / kHistory); }, "history.safetensors is missing"},
      {"file cut", [](auto d) { fs::resize_file(d / kItems, 100); }, "items.safetensors has 100"},
      {"fewer users", described([](auto& j) { j["users"] = 3; }), "user"},
      {"more items", described([](auto& j) { j["items"] = 8; }), "item"},
      {"user range", edited(kInteractions, "user", set<I>(5, 4)), "row 5"},
      {"user negative", edited(kInteractions, "user", set<I>(5, -1)), "row 5"},
      {"item order", edited(kInteractions, "item", set<I>(0, 1)), "row 0"},
      {"item huge", edited(kInteractions, "item", set<I>(3, I{1} << 62)), "row 3"},
      {"time order", edited(kInteractions, "time", set<I>(-1, 0)), "time: is not ascending"},
      {"rating nan", edited(kInteractions, "rating", set<float>(2, NAN)), "rating"},
      {"label 2", edited(kInteractions, "label", set<B>(2, 2)), "label"},
      {"split 3", edited(kInteractions, "split", set<B>(2, 3)), "split: row 2"},
      {"short rating",
       edited(kInteractions, "rating", [](auto t) { return t.slice(0, 0, 5).clone(); }), "rating"},
      {"times as i32", edited(kInteractions, "time", [](auto t) { return t.to(at::kInt); }),
       "time"},
      {"matrix",
       edited(kInteractions, "user",
              [](auto t) {
                return t.reshape({2, -1}).clone();
              }),
       "user"},
      {"history offsets", edited(kHistory, "offsets", set<I>(1, 1000)), "offsets"},
      {"history falls", edited(kHistory, "offsets", set<I>(1, -1)), "offsets"},
      {"history item", edited(kHistory, "item", set<I>(0, 6)), "history of user"},
      {"history time", edited(kHistory, "time", set<I>(0, 6)), "history of user"},
      {"label not in history", edited(kInteractions, "label", set<B>(0, 1)), "history"},
      {"id offsets", edited(kUsers, "id_offsets", set<I>(0, 1)), "id_offsets"},
      {"id beyond", edited(kUsers, "id_offsets", set<I>(-1, 1 << 20)), "id_offsets"},
      {"id empty", edited(kItems, "id_offsets", set<I>(1, 0)), "entry 0 is empty"},
      {"title not UTF-8", edited(kItems, "title_bytes", set<B>(0, 0xff)), "UTF-8"},
      {"title cut in a character",
       edited(kItems, "title_bytes", [](auto t) { return t.slice(0, 0, -1).clone(); }),
       "title_offsets"},
      {"titles missing",
       [](const fs::path& d) {
         fs::copy_file(d / kUsers, d / kItems, fs::copy_options::overwrite_existing);
         described([&](auto& j) { j["files"][kItems] = j["files"][kUsers]; })(d);
       },
       "items.safetensors"},
  };
}

class DamagedDataset : public testing::TestWithParam<Damage> {};

TEST_P(DamagedDataset, IsRefused) {
  TemporaryDirectory folder;
  write_small(folder / "d");
  ASSERT_NO_THROW(Dataset(folder / "d"));
  GetParam().apply(folder / "d");
  try {
    Dataset dataset(folder / "d");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find(GetParam().message), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find((folder / "d").string()), std::string::npos)
        << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(All, DamagedDataset, testing::ValuesIn(damages()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

/// What a rank does with a dataset that it has opened by its shapes: rows, prompts' pieces, names.
void use_everything(const Dataset& dataset) {
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    for (const std::int64_t row : dataset.rows_of(split)) {
      for (const std::int64_t item :
           dataset.liked_before(dataset.user()[row], dataset.time()[row], 10))
        dataset.title(item);
      dataset.user_id(dataset.user()[row]);
      dataset.item_id(dataset.item()[row]);
      dataset.title(dataset.item()[row]);
    }
    dataset.sample(split, 5, 1);
  }
}

TEST(Dataset, OpenedByItsShapesHoldsTheSame) {
  TemporaryDirectory folder;
  write_small(folder / "d");
  const Dataset whole(folder / "d"), mapped(folder / "d", DatasetCheck::shapes);
  EXPECT_NO_THROW(use_everything(mapped));
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    EXPECT_EQ(mapped.rows_of(split), whole.rows_of(split));
    EXPECT_EQ(mapped.rows(split), std::ssize(whole.rows_of(split)));
  }
  mapped.release_rows();
  for (std::int64_t row = 0; row < whole.rows(); ++row) {
    EXPECT_EQ(mapped.warm(row), whole.warm(row));
    EXPECT_EQ(mapped.user()[row], whole.user()[row]);
    EXPECT_EQ(mapped.label()[row], whole.label()[row]);
  }
}

TEST(Dataset, OpenedByItsShapesIsCheckedWhereItIsUsed) {
  const std::pair<const char*, std::function<void(const fs::path&)>> damages[] = {
      {"user", edited(kInteractions, "user", set<I>(5, 4))},
      {"negative user", edited(kInteractions, "user", set<I>(5, I{-1} << 40))},
      {"item", edited(kInteractions, "item", set<I>(3, I{1} << 62))},
      {"history offsets", edited(kHistory, "offsets", set<I>(1, 1000))},
      {"history falls", edited(kHistory, "offsets", set<I>(1, -1))},
      {"history item", edited(kHistory, "item", set<I>(0, 7))},
      {"user id", edited(kUsers, "id_offsets", set<I>(2, I{1} << 62))},
      {"item id", edited(kItems, "id_offsets", set<I>(0, -8))},
      {"title", edited(kItems, "title_offsets", set<I>(-1, 1 << 20))},
  };
  for (const auto& [name, apply] : damages) {
    TemporaryDirectory folder;
    write_small(folder / "d");
    apply(folder / "d");
    const Dataset dataset(folder / "d", DatasetCheck::shapes);
    EXPECT_THROW(use_everything(dataset), DataError) << name;
  }
  TemporaryDirectory folder;
  write_small(folder / "d");
  const Dataset dataset(folder / "d", DatasetCheck::shapes);
  EXPECT_THROW(dataset.check_row(-1), DataError);
  EXPECT_THROW(dataset.check_row(dataset.rows()), DataError);
}

TEST(Dataset, MissingDirectory) { EXPECT_THROW(Dataset("/nonexistent/dataset"), DataError); }

TEST(Dataset, PathsThatCannotBeLookedUpAreNotCalledMissing) {
  try {
    Dataset dataset(std::string(5000, 'x'));
    FAIL() << "was accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("cannot be opened: "), std::string::npos)
        << error.what();
  }
}

TEST(Dataset, VerifyFindsChangesThatLeaveItPlausible) {
  TemporaryDirectory folder;
  write_small(folder / "d");
  EXPECT_NO_THROW(Dataset(folder / "d").verify());
  change(folder / "d", kInteractions, "rating", set<float>(0, 2.5F));
  const Dataset dataset(folder / "d");
  try {
    dataset.verify();
    FAIL() << "was accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find(kInteractions), std::string::npos) << error.what();
  }
}

TEST(Dataset, KeepsItsMapsAlive) {
  TemporaryDirectory folder;
  write_small(folder / "d");
  const auto dataset = std::make_unique<Dataset>(folder / "d");
  fs::remove_all(folder / "d");
  bool found = false;
  for (std::int64_t i = 0; i < dataset->items(); ++i) found |= dataset->title(i) == "Amélie";
  EXPECT_TRUE(found);
}

TEST(SplitNames, GoBothWays) {
  for (const Split split : {Split::train, Split::valid, Split::test})
    EXPECT_EQ(parse_split(to_string(split)), split);
  EXPECT_THROW(parse_split("Test"), ConfigError);
}

}  // namespace
}  // namespace graphlora
