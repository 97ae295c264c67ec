#include "train/memory.hpp"

#include <fmt/format.h>

#include <fstream>

namespace graphlora {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr std::int64_t kNodeMapBytes = 8;  // of a node, on every rank

}  // namespace

GraphMemory predict_memory(const Recommender& model, bool moments) {
  const Workspace& workspace = model.workspace();
  const Shard& shard = *workspace.shard;
  GraphMemory memory;
  memory.embeddings = static_cast<std::int64_t>(model.table().weight_nD.nbytes());
  if (moments) memory.moments = 2 * memory.embeddings;
  if (model.config().gnn.type != "none")
    for (int group = 0; group < shard.cut().groups(); ++group)
      shard.plan(shard.cut().training_view(group));
  memory.graph = shard.bytes() + kNodeMapBytes * workspace.map->nodes();
  return memory;
}

std::string describe_memory(const GraphMemory& mine, Communicator& world) {
  const at::Tensor sums = at::tensor({mine.embeddings, mine.moments, mine.graph}, at::kLong);
  const at::Tensor most = at::full({1}, mine.total(), at::kLong);
  world.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
  world.all_reduce(most, ReduceOp::max, Traffic::control).wait();
  const auto gib = [](const at::Tensor& bytes) {
    return static_cast<double>(bytes.item<std::int64_t>()) / kGiB;
  };
  return fmt::format(
      "predicted memory: {} bytes over {} ranks (embeddings {:.3f}, moments {:.3f}, graph {:.3f} "
      "GiB), at most {:.3f} GiB on one rank, beside the LLM",
      sums.sum().item<std::int64_t>(), world.size(), gib(sums[0]), gib(sums[1]), gib(sums[2]),
      gib(most));
}

std::int64_t proportional_set_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("Pss:")) return std::strtoll(line.c_str() + 4, nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace graphlora
