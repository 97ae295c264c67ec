#include "dist/parameter.hpp"

#include <array>

namespace graphlora {
namespace {

struct Row {
  Placement placement;
  Axis axis;
  bool sliced;
};

// One row per Placement, in the order of the enum.
constexpr std::array<Row, 7> kTable{{
    {Placement::lora_a_column, Axis::data, false},
    {Placement::lora_b_column, Axis::data, true},
    {Placement::lora_a_row, Axis::data, true},
    {Placement::lora_b_row, Axis::data, false},
    {Placement::lambda, Axis::data, false},
    {Placement::projector, Axis::world, false},
    {Placement::gnn, Axis::world, false},
}};

constexpr bool in_enum_order() {
  for (std::size_t i = 0; i < kTable.size(); ++i)
    if (static_cast<std::size_t>(kTable[i].placement) != i) return false;
  return true;
}
static_assert(in_enum_order());

const Row& row_of(Placement placement) { return kTable.at(static_cast<std::size_t>(placement)); }

}  // namespace

Axis reduction_axis(Placement placement) { return row_of(placement).axis; }
bool is_sliced(Placement placement) { return row_of(placement).sliced; }

std::vector<std::int64_t> ParameterSlice::whole_shape(const at::Tensor& part) const {
  std::vector<std::int64_t> shape = part.sizes().vec();
  shape.at(static_cast<std::size_t>(dim)) = whole;
  return shape;
}

at::Tensor ParameterSlice::of(const at::Tensor& whole_tensor, const at::Tensor& part) const {
  return whole_tensor.narrow(dim, begin, part.size(dim));
}

at::Tensor gather_slices(Communicator& tensor, const at::Tensor& part,
                         const std::optional<ParameterSlice>& slice) {
  if (!slice) return part;
  // Rows travel: what is sliced along another dimension is turned for the journey.
  const at::Tensor rows = part.detach().transpose(0, slice->dim).contiguous();
  return tensor.all_gather_varying(rows, Traffic::control)
      .first.transpose(0, slice->dim)
      .contiguous();
}

}  // namespace graphlora
