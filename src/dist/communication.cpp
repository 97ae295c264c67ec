#include "dist/communication.hpp"

namespace graphlora {

Communication communication_of(const ProcessGrid& grid) {
  Communication total;
  for (const Communicator* communicator : {&grid.world(), &grid.data(), &grid.tensor()}) {
    for (std::uint8_t k = 0; k < static_cast<std::uint8_t>(Traffic::count); ++k) {
      const TrafficCounter& counter = communicator->counter(static_cast<Traffic>(k));
      total.seconds += counter.seconds;
      total.exposed += counter.exposed_seconds;
      total.bytes += static_cast<double>(counter.bytes);
    }
  }
  return total;
}

}  // namespace graphlora
