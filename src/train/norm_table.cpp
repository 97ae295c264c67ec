#include "train/norm_table.hpp"

#include <array>
#include <cmath>

namespace graphlora {
namespace {

enum class Group : std::int64_t { adapter, lambda, projector, gnn, embedding };
constexpr std::array kNames{"adapters", "lambda", "projector", "gnn", "embeddings"};
constexpr auto kGroups = static_cast<std::int64_t>(kNames.size());

enum Column : std::int64_t { kNumbers, kSquares, kGradientSquares, kBad, kBadGradients, kColumns };

constexpr std::int64_t kRowsAtATime = 1 << 16;

Group group_of(Placement placement) {
  switch (placement) {
    case Placement::lora_a_column:
    case Placement::lora_b_column:
    case Placement::lora_a_row:
    case Placement::lora_b_row:
      return Group::adapter;
    case Placement::lambda:
      return Group::lambda;
    case Placement::projector:
      return Group::projector;
    case Placement::gnn:
      return Group::gnn;
  }
  return Group::adapter;
}

/// Adds the finite ones' squares and the number of the others.
void add(const at::Tensor& values, double& squares, double& bad) {
  const at::Tensor all = values.detach().to(at::kDouble);
  const at::Tensor finite = all.isfinite();
  bad += static_cast<double>(values.numel() - finite.sum().item<std::int64_t>());
  squares += at::where(finite, all, at::zeros({}, all.options())).square().sum().item<double>();
}

}  // namespace

std::string norm_table(const std::vector<Parameter>& parameters, const EmbeddingTable& table,
                       const EmbeddingGradient& gradient, const ProcessGrid& grid) {
  const at::Tensor sums = at::zeros({kGroups, kColumns}, at::kDouble);
  const auto row = [&](Group group) {
    return sums.mutable_data_ptr<double>() + static_cast<std::int64_t>(group) * kColumns;
  };
  for (const Parameter& parameter : parameters) {
    // One replica speaks for all, and one rank of it for what its ranks have in common.
    if (grid.replica() != 0 || (grid.tensor_rank() != 0 && !is_sliced(parameter.placement)))
      continue;
    double* to = row(group_of(parameter.placement));
    to[kNumbers] += static_cast<double>(parameter.value.numel());
    add(parameter.value, to[kSquares], to[kBad]);
    if (const at::Tensor& grad = parameter.value.grad(); grad.defined())
      add(grad, to[kGradientSquares], to[kBadGradients]);
  }
  double* to = row(Group::embedding);
  const std::int64_t rows = table.weight_nD.size(0);
  to[kNumbers] = static_cast<double>(table.weight_nD.numel());
  for (std::int64_t begin = 0; begin < rows; begin += kRowsAtATime) {
    const std::int64_t end = std::min(begin + kRowsAtATime, rows);
    const at::Tensor weight = table.weight_nD.slice(0, begin, end);
    add(weight, to[kSquares], to[kBad]);
    at::Tensor part = at::zeros_like(weight);
    gradient.rows(begin, end, part);
    add(part, to[kGradientSquares], to[kBadGradients]);
  }
  grid.world().all_reduce(sums, ReduceOp::sum, Traffic::metrics).wait();

  std::string text = fmt::format("{:<12}{:>14}{:>14}{:>12}{:>14}{:>12}\n", "group", "numbers",
                                 "norm", "not finite", "gradient", "not finite");
  for (std::int64_t group = 0; group < kGroups; ++group) {
    const double* of = row(static_cast<Group>(group));
    if (of[kNumbers] == 0) continue;
    text += fmt::format("{:<12}{:>14.0f}{:>14.6g}{:>12.0f}{:>14.6g}{:>12.0f}\n",
                        kNames.at(static_cast<std::size_t>(group)), of[kNumbers],
                        std::sqrt(of[kSquares]), of[kBad], std::sqrt(of[kGradientSquares]),
                        of[kBadGradients]);
  }
  return text;
}

}  // namespace graphlora
