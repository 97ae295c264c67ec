// LightGCN over the shard of each rank as a part of training: its step by itself (propagation, BCE
// on a batch of training rows, backward to E), the halo exchange, and memcpy of the halo's bytes,
// all of one run. Prints JSON; times of several ranks are the slowest's.
//
//   [mpirun -np P] propagation DATA [WIDTH] [LAYERS] [BATCH] [REPETITIONS]
//
// E is fixed by the node's number, so that another program's loss and gradient can be compared.
// Shapes: n owned rows, C columns, B rows of the batch, S rows sent, m sources.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "graph/halo_exchange.hpp"
#include "graph/spmm.hpp"
#include "train/benchmark/measurement.hpp"
#include "train/workspace.hpp"

namespace graphlora {
namespace {

using benchmark::Measurement;
using benchmark::time_of;

/// E[i, c] = 0.1·sin(i·C + c), the same in benchmarks/peer_programs/lightgcn.py.
at::Tensor embeddings_of(const at::Tensor& node_n, std::int64_t width) {
  const at::Tensor place = node_n.unsqueeze(1) * width + at::arange(width, at::kLong).unsqueeze(0);
  return place.to(at::kDouble).sin_().mul_(0.1).to(at::kFloat);
}

struct Batch {
  at::Tensor user_B, item_B, label_B;
};

/// The first training rows, as local rows of the one shard.
Batch first_rows(const Workspace& workspace, std::int64_t size) {
  const Dataset& dataset = *workspace.dataset;
  std::vector<std::int64_t> user, item;
  std::vector<float> label;
  for (std::int64_t row = 0; row < dataset.rows() && std::ssize(user) < size; ++row) {
    if (dataset.split(row) != Split::train) continue;
    user.push_back(workspace.map->local(dataset.user()[row]));
    item.push_back(workspace.map->local(dataset.users() + dataset.item()[row]));
    label.push_back(dataset.label()[row]);
  }
  return {at::tensor(user), at::tensor(item), at::tensor(label)};
}

void run(Job& job, int argc, char** argv) {
  const auto argument = [&](int i, std::int64_t otherwise) {
    return i < argc ? std::strtoll(argv[i], nullptr, 10) : otherwise;
  };
  const std::int64_t width = argument(2, 64), layers = argument(3, 3), size = argument(4, 8192);
  const benchmark::Repetitions repetitions{1, static_cast<int>(argument(5, 3))};
  if (width < 1 || layers < 1 || size < 1 || repetitions.count < 1)
    throw ConfigError("propagation: width, layers, batch and repetitions must be at least 1");
  const Workspace workspace(job, argv[1], {}, Reuse::any);
  const Shard& shard = *workspace.shard;
  Communicator& world = *job.world();
  const auto plan = shard.plan(shard.cut().full_view());
  const at::Tensor e_nC = embeddings_of(shard.owned(), width).requires_grad_();

  nlohmann::ordered_json json{{"ranks", world.size()},
                              {"threads", at::get_num_threads()},
                              {"nodes", workspace.map->nodes()},
                              {"entries", plan->entries},
                              {"width", width},
                              {"layers", layers}};
  std::vector<Measurement> measurements;
  const auto measure = [&](const char* name, const std::function<void()>& once) {
    measurements.push_back({name, {}, {}, 0, 0, time_of(job, repetitions, once)});
  };
  if (world.size() == 1) {
    const Batch batch = first_rows(workspace, size);
    at::Tensor loss;
    const auto step = [&] {
      e_nC.mutable_grad() = at::Tensor();
      at::Tensor layer = e_nC, sum = e_nC;
      for (std::int64_t k = 0; k < layers; ++k) {
        layer = propagate(layer, *plan, world, Normalization::symmetric);
        sum = sum + layer;
      }
      const at::Tensor mean = sum / static_cast<double>(layers + 1);
      const at::Tensor score_B =
          (mean.index_select(0, batch.user_B) * mean.index_select(0, batch.item_B)).sum(1);
      loss = at::binary_cross_entropy_with_logits(score_B, batch.label_B);
      loss.backward();
    };
    measure("step", step);
    json["batch"] = batch.label_B.numel();
    json["loss"] = loss.item<double>();
    json["gradient_norm"] = e_nC.grad().norm().item<double>();
  } else {
    const at::NoGradGuard guard;
    at::Tensor x_mC = at::zeros({plan->sources(), width});
    x_mC.narrow(0, 0, plan->owned).copy_(e_nC);
    measure("halo", [&] { HaloTransfer::forward(x_mC, *plan, world).wait(); });
    const at::Tensor from = at::ones({plan->send_rows.cpu().size(0), width});
    const at::Tensor to = at::empty_like(from);
    measure("memcpy",
            [&] { std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes()); });
    json["rows_sent_by_rank"] = world.all_gather(from.size(0), Traffic::control);
  }
  for (const benchmark::RankMeasurement& one : benchmark::gather(world, measurements))
    json[one.name + "_seconds"] = one.slowest();
  if (world.rank() == 0) fmt::print("{}\n", json.dump());
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  graphlora::Job job(&argc, &argv);
  return job.run([&] {
    if (argc < 2) {
      fmt::print(stderr, "usage: propagation DATA [WIDTH] [LAYERS] [BATCH] [REPETITIONS]\n");
      std::exit(2);
    }
    graphlora::run(job, argc, argv);
  });
}
