// The machine this rank runs on, and what the ranks of one place have together.
#pragma once
#include <cstdint>
#include <string>

namespace graphlora {

class Communicator;

std::string host_name();

/// Sum of `value` over the ranks that give the same `place`. Collective.
std::int64_t sum_over_equal(Communicator& world, const std::string& place, std::int64_t value);

}  // namespace graphlora
