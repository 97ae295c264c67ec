// A message from one rank to another, in which all ranks take part as the communicator asks.
#pragma once
#include "dist/communicator.hpp"

namespace graphlora::doctor {

/// Moves `row` of this rank to rank `to` and fills it from rank `from`, where these are not −1;
/// then the result is there. `row` has the same shape on all ranks, with one row. Collective.
void message(Communicator& world, const at::Tensor& row, int to, int from);

}  // namespace graphlora::doctor
