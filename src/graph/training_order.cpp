#include "graph/training_order.hpp"

#include <algorithm>
#include <limits>
#include <map>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

constexpr const char* kFile = "order.safetensors";

/// Of row numbers: 4 bytes where they are enough.
at::ScalarType row_type(const Dataset& dataset) {
  return dataset.rows() <= std::numeric_limits<std::int32_t>::max() ? at::kInt : at::kLong;
}

/// What ties the file to a dataset and a cut.
std::map<std::string, std::string> metadata(const Dataset& dataset, const CutRule& cut) {
  return {{"format_version", std::to_string(kPartitionVersion)},
          {"dataset_fingerprint", dataset.fingerprint()},
          {"cut", cut.to_json().dump()}};
}

/// A training row and its group.
template <class Row>
struct Grouped {
  Row row;
  std::uint16_t group;
};

/// Stable counting sort by `key` of each element; `write(place, element)` gets each one's place.
/// Returns where each of `keys` keys begins, and the end.
template <class T, class Key, class Write>
std::vector<std::int64_t> place_by(const std::vector<T>& elements, std::int64_t keys,
                                   const Key& key, const Write& write) {
  std::vector<std::int64_t> offsets(keys + 1, 0);
  for (const T& element : elements) ++offsets[key(element) + 1];
  for (std::int64_t k = 0; k < keys; ++k) offsets[k + 1] += offsets[k];
  std::vector<std::int64_t> fill(offsets.begin(), offsets.end() - 1);
  for (const T& element : elements) write(fill[key(element)]++, element);
  return offsets;
}

struct Order {
  at::Tensor group_offsets, row;
};

template <class Row>
Order make_order(const Dataset& dataset, const CutRule& cut) {
  // Rows of a dataset ascend in time, so two stable sorts leave (group, user, time, row). Both read
  // the rows as they stand: the first in the dataset's order, the second without the dataset.
  std::vector<Grouped<Row>> rows;
  rows.reserve(std::clamp<std::int64_t>(dataset.rows(Split::train), 0, dataset.rows()));
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    if (dataset.split(row) != Split::train) continue;
    dataset.check_row(row);
    rows.push_back({static_cast<Row>(row),
                    cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])});
  }
  std::vector<Grouped<Row>> by_user(rows.size());
  place_by(
      rows, dataset.users(), [&](const Grouped<Row>& g) { return dataset.user()[g.row]; },
      [&](std::int64_t place, const Grouped<Row>& g) { by_user[place] = g; });
  rows = {};
  Order order;
  order.row = at::empty({std::ssize(by_user)}, c10::CppTypeToScalarType<Row>::value);
  Row* row = order.row.mutable_data_ptr<Row>();
  const auto offsets = place_by(
      by_user, cut.groups(), [](const Grouped<Row>& g) { return g.group; },
      [&](std::int64_t place, const Grouped<Row>& g) { row[place] = g.row; });
  order.group_offsets = view_of(offsets).clone();
  return order;
}

Order make_order(const Dataset& dataset, const CutRule& cut) {
  return row_type(dataset) == at::kInt ? make_order<std::int32_t>(dataset, cut)
                                       : make_order<std::int64_t>(dataset, cut);
}

}  // namespace

void write_training_order(const std::filesystem::path& directory, const Dataset& dataset,
                          const CutRule& cut) {
  const Order order = make_order(dataset, cut);
  write_safetensors(directory / kFile, {{"group_offsets", order.group_offsets}, {"row", order.row}},
                    metadata(dataset, cut));
}

TrainingOrder::TrainingOrder(const Dataset& dataset, const CutRule& cut)
    : dataset_(dataset), cut_(cut), path_(dataset.directory()) {
  Order order = make_order(dataset, cut);
  offsets_ = std::move(order.group_offsets);
  row_ = std::move(order.row);
}

TrainingOrder::TrainingOrder(const std::filesystem::path& directory, const Dataset& dataset,
                             const CutRule& cut)
    : dataset_(dataset), cut_(cut), path_(directory / kFile) {
  const SafetensorsReader file(path_);
  for (const auto& [key, value] : metadata(dataset, cut)) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value)
      fail(fmt::format("its {} is not that of the dataset and the partition", key));
  }
  offsets_ = file.tensor("group_offsets", at::kLong, {groups() + std::int64_t{1}});
  row_ = file.tensor("row", row_type(dataset), {dataset.rows(Split::train)});
  const auto offsets = values_of<std::int64_t>(offsets_);
  if (offsets.front() != 0 || offsets.back() != row_.numel() ||
      !std::is_sorted(offsets.begin(), offsets.end()))
    fail(fmt::format("group_offsets does not rise from 0 to {}", row_.numel()));
}

void TrainingOrder::fail(const std::string& what) const {
  throw DataError("{}: {}; rebuild the partition with graphlora partition --data {}",
                  path_.string(), what, dataset_.directory().string());
}

std::int64_t TrainingOrder::count(int group) const {
  const auto offsets = values_of<std::int64_t>(offsets_);
  return offsets[group + 1] - offsets[group];
}

std::int64_t TrainingOrder::row(int group, std::int64_t i) const {
  TORCH_CHECK(i >= 0 && i < count(group), "row ", i, " of the ", count(group), " of group ", group);
  const std::int64_t at = values_of<std::int64_t>(offsets_)[group] + i;
  const std::int64_t row = row_.scalar_type() == at::kInt ? row_.const_data_ptr<std::int32_t>()[at]
                                                          : row_.const_data_ptr<std::int64_t>()[at];
  dataset_.check_row(row);
  if (dataset_.split(row) != Split::train ||
      cut_.group(dataset_.user()[row], dataset_.item()[row], dataset_.time()[row]) != group)
    fail(fmt::format("row {} is no training row of group {}", row, group));
  return row;
}

void TrainingOrder::check() const {
  const Order expected = make_order(dataset_, cut_);
  if (!at::equal(offsets_, expected.group_offsets) || !at::equal(row_, expected.row))
    fail("it is not the training rows by group, user, time and row");
}

}  // namespace graphlora
