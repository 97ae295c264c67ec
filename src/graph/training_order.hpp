// The order that training rows are sampled from, on disk: each cut group's rows by (user, time,
// row). All ranks of a host share its pages.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/dataset.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// Writes DIRECTORY/order.safetensors (docs: formats, "Partition"). Memory: 16 bytes a training
/// row. Throws DataError.
void write_training_order(const std::filesystem::path& directory, const Dataset& dataset,
                          const CutRule& cut);

class TrainingOrder {
 public:
  /// Maps DIRECTORY/order.safetensors. Checks what it belongs to, types, lengths and group offsets;
  /// rows are checked as they are asked for. Keeps a reference to the dataset. Throws DataError.
  TrainingOrder(const std::filesystem::path& directory, const Dataset& dataset, const CutRule& cut);

  /// The same computed from the dataset, whatever partition there is. Throws DataError. Local.
  TrainingOrder(const Dataset& dataset, const CutRule& cut);

  int groups() const { return cut_.groups(); }
  /// Training rows of a group.
  std::int64_t count(int group) const;
  /// The i-th of them. Throws DataError unless it is a training row of this group.
  std::int64_t row(int group, std::int64_t i) const;
  /// Compares all of it with the order computed anew. Throws DataError.
  void check() const;

 private:
  [[noreturn]] void fail(const std::string& what) const;

  const Dataset& dataset_;
  CutRule cut_;
  std::filesystem::path path_;
  at::Tensor offsets_, row_;  // i64[G+1]; i32 or i64 [training rows]
};

}  // namespace graphlora
