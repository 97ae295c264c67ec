#include "dist/communication.hpp"

namespace graphlora {

Communication communication_of(const ProcessGrid& grid, Traffic traffic) {
  Communication total;
  for (const Communicator* communicator : {&grid.world(), &grid.data(), &grid.tensor()}) {
    const TrafficCounter& counter = communicator->counter(traffic);
    total.seconds += counter.seconds;
    total.exposed += counter.exposed_seconds;
    total.bytes += static_cast<double>(counter.bytes);
  }
  return total;
}

Communication communication_of(const ProcessGrid& grid) {
  Communication total;
  for (std::uint8_t k = 0; k < static_cast<std::uint8_t>(Traffic::count); ++k) {
    const Communication one = communication_of(grid, static_cast<Traffic>(k));
    total.seconds += one.seconds;
    total.exposed += one.exposed;
    total.bytes += one.bytes;
  }
  return total;
}

}  // namespace graphlora
