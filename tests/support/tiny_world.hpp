// A small dataset, its embeddings and a model over the tiny Llama of tests/golden, for tests that
// compare rank counts.
#pragma once
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/rng.hpp"
#include "data/dataset_writer.hpp"
#include "support/rank_main.hpp"
#include "support/temporary_directory.hpp"
#include "train/recommender.hpp"

namespace graphlora::test {

inline const std::filesystem::path kTinyLlama = "tests/golden/tiny_llama";

/// A directory of rank 0 that all ranks of `world` know. Collective.
class SharedDirectory {
 public:
  explicit SharedDirectory(Communicator& world) : world_(world) {
    at::Tensor name = at::zeros({256}, at::kByte);
    if (world.rank() == 0) {
      own_ = std::make_unique<TemporaryDirectory>();
      const std::string text = own_->path().string();
      std::copy(text.begin(), text.end(), name.mutable_data_ptr<std::uint8_t>());
    }
    world.broadcast(name, 0, Traffic::control).wait();
    path_ = reinterpret_cast<const char*>(name.const_data_ptr<std::uint8_t>());
  }
  ~SharedDirectory() { world_.barrier(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  Communicator& world_;
  std::unique_ptr<TemporaryDirectory> own_;
  std::filesystem::path path_;
};

/// Ratings of `users` x `items` with a planted preference; the first user likes nothing and, under
/// a time split, the last one rates in test only, so that some nodes have no edge. Times repeat.
/// Seeded.
inline void write_tiny_dataset(const std::filesystem::path& directory, int users, int items,
                               const std::string& rule) {
  RawRatings raw;
  SplitMix64 random(7);
  for (int u = 0; u < users; ++u) {
    const int count = 6 + static_cast<int>(random.below(8));
    for (int k = 0; k < count; ++k) {
      const int item = static_cast<int>(random.below(items));
      const bool likes = u > 0 && (u % 3 == item % 3) != (random.uniform() < 0.2);
      raw.add(fmt::format("u{}", u), fmt::format("m{}", item), likes ? 5 : 2,
              u == users - 1 ? 100000 + k : static_cast<std::int64_t>(random.below(500)));
    }
  }
  const char* words[] = {"The", "Man", "Star", "Love", "Story", "Night", "Day"};
  for (int i = 0; i < items; ++i) {
    raw.set_title(fmt::format("m{}", i),
                  fmt::format("{} {} {}", words[i % 7], words[(i / 7 + i) % 7], 1950 + i));
  }
  write_dataset(directory, std::move(raw), {.split = {.rule = rule, .valid = 0.1, .test = 0.1}});
}

/// A tiny dataset that all ranks see, in a directory of its own. Collective.
class SharedDataset {
 public:
  explicit SharedDataset(const char* rule = "user-time", int users = 23, int items = 17)
      : directory_(world()) {
    job().agree([&] {
      if (world().rank() == 0) write_tiny_dataset(path(), users, items, rule);
    });
  }
  std::filesystem::path path() const { return directory_.path() / "dataset"; }
  /// A place for the test's own files, beside the dataset.
  const std::filesystem::path& directory() const { return directory_.path(); }

 private:
  SharedDirectory directory_;
};

/// Embeddings drawn from (seed, node): the same at any number of ranks; 0 for nodes without
/// training rows.
inline EmbeddingTable tiny_embeddings(const Workspace& workspace, std::int64_t width,
                                      at::ScalarType dtype) {
  const Dataset& dataset = *workspace.dataset;
  std::vector<bool> trained(dataset.nodes());
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    trained[dataset.user_node(row)] = trained[dataset.item_node(row)] = true;
  }
  const at::Tensor& owned = workspace.shard->owned();
  at::Tensor weight = at::zeros({owned.numel(), width}, at::kDouble);
  for (std::int64_t i = 0; i < owned.numel(); ++i) {
    const auto node = owned.const_data_ptr<std::int64_t>()[i];
    SplitMix64 random(hash_name(99, std::to_string(node)));
    for (std::int64_t c = 0; c < width; ++c)
      weight.mutable_data_ptr<double>()[i * width + c] = trained[node] ? 0.3 * random.normal() : 0;
  }
  EmbeddingTable table;
  table.weight_nD = weight.to(dtype);
  return table;
}

/// Configuration of an fp64 model over the tiny Llama with injection in two layers.
inline ModelConfig tiny_model_config() {
  ModelConfig config;
  config.precision = "fp64";
  config.lora.rank = 4;
  config.lora.alpha = 8;
  config.lora.dropout = 0.1;
  config.lora.lambda_gnn = 1;
  config.inject_layers = "0,2";
  config.projector_middle = 12;
  config.prompt.history = 3;
  config.seed = 5;
  return config;
}

/// All nodes' rows [N, …] of a tensor of owned rows [n, …], in node order, on every rank.
/// Collective.
inline at::Tensor in_node_order(const Workspace& workspace, const at::Tensor& rows_nC) {
  Communicator& world = workspace.world();
  const at::Tensor ids = world.all_gather_varying(workspace.shard->owned(), Traffic::control).first;
  const at::Tensor rows =
      world.all_gather_varying(rows_nC.cpu().contiguous(), Traffic::control).first;
  at::Tensor result = at::empty_like(rows);
  result.index_copy_(0, ids, rows);
  return result;
}

/// Largest |a − b| over the largest |b|, of tensors on any device.
inline double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0) return b.numel() == 0 ? 0 : 1;
  const double scale = b.abs().max().item<double>();
  return (a.cpu() - b.cpu()).abs().max().item<double>() / (scale > 0 ? scale : 1);
}

}  // namespace graphlora::test
