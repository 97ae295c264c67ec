// Finds the first operation in which ranks do not do the same.
#pragma once
#include <memory>

#include "dist/communicator.hpp"

namespace graphlora {

/// A communicator that does as `inner` does, but before each operation all its ranks compare what
/// they are about to do: kind, traffic, dtype, device, sizes, root. Where that does not match each
/// throws CommError, which says who does what, in place of a hang or of wrong values. `apart`: one
/// over the same ranks in the same order, over MPI, that nobody else uses; its messages are not in
/// the counters. Costs a small all-gather an operation, and takes the overlap from it.
std::unique_ptr<Communicator> make_checked_communicator(std::shared_ptr<Communicator> inner,
                                                        std::shared_ptr<Communicator> apart);

}  // namespace graphlora
