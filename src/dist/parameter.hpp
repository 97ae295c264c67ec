// A trainable dense parameter, and the table that says over which axis its gradient is reduced.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dist/communicator.hpp"

namespace graphlora {

/// Where a parameter lives: its row in the table of gradient reductions (docs/architecture.md).
enum class Placement {
  lora_a_column,  ///< A of q,k,v,gate,up: replicated over T
  lora_b_column,  ///< B of q,k,v,gate,up: sliced over T like the base
  lora_a_row,     ///< A of o,down: sliced over T
  lora_b_row,     ///< B of o,down: replicated over T
  lambda,         ///< learned λ_lora, λ_gnn: one scalar each, replicated
  projector,      ///< replicated; each rank computes the anchor rows dealt to it
  gnn,            ///< replicated; each rank computes its shard's nodes (GNN weights, W_neck)
};
enum class Axis { data, world };

/// SUM over this axis. Base weights (frozen) and the embedding table E (owned row by row) have no
/// row here: they are never parameters of this kind.
Axis reduction_axis(Placement placement);
/// Whether each tensor rank holds its own slice (its squares are summed over T for the clip norm).
bool is_sliced(Placement placement);

/// Which part of a whole tensor a rank of a tensor group holds: indices [begin, begin + size) along
/// `dim`, of `whole`.
struct ParameterSlice {
  std::int64_t dim = 0, begin = 0, whole = 0;

  /// Shape of the whole of which `part` is a slice.
  std::vector<std::int64_t> whole_shape(const at::Tensor& part) const;
  /// The slice with the shape of `part` out of a whole of that shape.
  at::Tensor of(const at::Tensor& whole, const at::Tensor& part) const;
};

/// `value` is a leaf that requires grad (fp32 or fp64); its gradient is value.grad(), undefined =
/// zero.
struct Parameter {
  std::string name;  ///< as in the checkpoint
  at::Tensor value;
  Placement placement;
  bool decay = true;                                   ///< weight decay applies (not on biases)
  std::optional<ParameterSlice> slice = std::nullopt;  ///< of sliced ones, where T > 1
};

/// The whole of which this rank holds `part`; without a slice the part itself. Collective over the
/// tensor group if there is a slice.
at::Tensor gather_slices(Communicator& tensor, const at::Tensor& part,
                         const std::optional<ParameterSlice>& slice);

}  // namespace graphlora
