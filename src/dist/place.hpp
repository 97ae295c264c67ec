// What the ranks of one place, a host or a GPU, have together.
#pragma once
#include <cstdint>
#include <string>

#include "dist/communicator.hpp"

namespace graphlora {

/// Sum of `value` over the ranks that give the same `place`. Collective.
std::int64_t sum_over_place(Communicator& world, const std::string& place, std::int64_t value);

}  // namespace graphlora
