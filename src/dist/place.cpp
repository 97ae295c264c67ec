#include "dist/place.hpp"

#include <functional>

namespace graphlora {

std::int64_t sum_over_place(Communicator& world, const std::string& place, std::int64_t value) {
  const auto key = static_cast<std::int64_t>(std::hash<std::string>{}(place) >> 1U);
  const auto keys = world.all_gather(key, Traffic::control);
  const auto values = world.all_gather(value, Traffic::control);
  std::int64_t sum = 0;
  for (std::size_t rank = 0; rank < keys.size(); ++rank)
    if (keys[rank] == key) sum += values[rank];
  return sum;
}

}  // namespace graphlora
