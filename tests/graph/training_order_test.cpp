// order.safetensors is hostile input; what it holds intact is tested with the sampler.
#include "graph/training_order.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

class Order : public testing::Test {
 protected:
  Order() {
    RawRatings raw;
    SplitMix64 random(3);
    for (int i = 0; i < 300; ++i)
      raw.add(std::to_string(random.below(20)), std::to_string(random.below(40)),
              static_cast<float>(1 + random.below(5)), static_cast<std::int64_t>(random.below(90)));
    write_dataset(folder_ / "d", std::move(raw), {});
    dataset_ = std::make_unique<Dataset>(folder_ / "d");
    cut_ = std::make_unique<CutRule>(*dataset_, CutKind::window, 4);
    write_training_order(folder_.path(), *dataset_, *cut_);
  }
  TrainingOrder open() const { return {folder_.path(), *dataset_, *cut_}; }
  /// Writes the file anew with one tensor edited.
  void edit(const std::string& tensor, const std::function<void(at::Tensor&)>& change) const {
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    const SafetensorsReader reader(file());
    for (const auto& [name, entry] : reader.entries()) {
      tensors.emplace_back(name, reader.tensor(name).clone());
      if (name == tensor) change(tensors.back().second);
    }
    write_safetensors(file(), tensors, reader.metadata());
  }
  std::filesystem::path file() const { return folder_ / "order.safetensors"; }

  template <class Body>
  void expect_error(const std::string& text, const Body& body) const {
    std::string message = "no error";
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      message = error.what();
    }
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_NE(message.find("order.safetensors"), std::string::npos) << message;
  }

  TemporaryDirectory folder_;
  std::unique_ptr<Dataset> dataset_;
  std::unique_ptr<CutRule> cut_;
};

TEST_F(Order, IntactOnePasses) {
  const TrainingOrder order = open();
  EXPECT_NO_THROW(order.check());
  std::int64_t rows = 0;
  for (int g = 0; g < order.groups(); ++g) rows += order.count(g);
  EXPECT_EQ(rows, std::ssize(dataset_->rows_of(Split::train)));
}

TEST_F(Order, ComputedWithoutAPartitionItIsTheSame) {
  const TrainingOrder order = open(), computed(*dataset_, *cut_);
  EXPECT_NO_THROW(computed.check());
  for (int g = 0; g < order.groups(); ++g) {
    ASSERT_EQ(computed.count(g), order.count(g));
    for (std::int64_t i = 0; i < order.count(g); ++i)
      EXPECT_EQ(computed.row(g, i), order.row(g, i));
  }
}

TEST_F(Order, MissingOrTruncated) {
  std::filesystem::resize_file(file(), std::filesystem::file_size(file()) - 4);
  expect_error("row", [&] { open(); });
  std::filesystem::remove(file());
  expect_error("", [&] { open(); });
}

TEST_F(Order, OfAnotherCutOrDataset) {
  const CutRule other(*dataset_, CutKind::window, 3);
  expect_error("its cut is not", [&] { TrainingOrder(folder_.path(), *dataset_, other); });
  RawRatings raw;
  for (int i = 0; i < 300; ++i) raw.add(std::to_string(i % 7), std::to_string(i), 5, i);
  write_dataset(folder_ / "other", std::move(raw), {});
  const Dataset dataset(folder_ / "other");
  expect_error("its dataset_fingerprint is not",
               [&] { TrainingOrder(folder_.path(), dataset, *cut_); });
}

TEST_F(Order, GroupOffsetsThatFallOrLeaveTheRows) {
  const auto offsets = [](std::int64_t index, std::int64_t value) {
    return [=](at::Tensor& t) { t[index] = value; };
  };
  for (const auto& [index, value] :
       {std::pair<std::int64_t, std::int64_t>{0, 1}, {1, -5}, {2, std::int64_t{1} << 60}, {4, 1}}) {
    write_training_order(folder_.path(), *dataset_, *cut_);
    edit("group_offsets", offsets(index, value));
    expect_error("group_offsets does not rise", [&] { open(); });
  }
}

TEST_F(Order, RowsAreCheckedWhereTheyAreUsed) {
  std::int64_t test_row = 0;
  while (dataset_->split(test_row) != Split::test) ++test_row;
  const std::int64_t other_group = open().row(3, 0);
  for (const std::int64_t row : {std::int64_t{-1}, dataset_->rows(), test_row, other_group}) {
    write_training_order(folder_.path(), *dataset_, *cut_);
    edit("row", [&](at::Tensor& t) { t[2] = row; });
    const TrainingOrder order = open();
    EXPECT_NO_THROW(order.row(0, 1));
    EXPECT_THROW(order.row(0, 2), DataError);
    EXPECT_THROW(order.check(), DataError);
  }
}

TEST_F(Order, RepeatsAndSwapsAreFoundByTheCheck) {
  edit("row", [](at::Tensor& t) { t[2] = t[1].clone(); });
  expect_error("it is not the training rows", [&] { open().check(); });
  write_training_order(folder_.path(), *dataset_, *cut_);
  edit("row", [](at::Tensor& t) {
    const at::Tensor first = t[0].clone();
    t[0] = t[1].clone();
    t[1] = first;
  });
  expect_error("it is not the training rows", [&] { open().check(); });
}

}  // namespace
}  // namespace graphlora
