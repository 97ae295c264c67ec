// What the communicators of a process grid have counted so far.
#pragma once
#include "dist/process_grid.hpp"

namespace graphlora {

/// Of this rank, over all axes and kinds of traffic, since the start.
struct Communication {
  double seconds = 0;  ///< under way, hidden or not
  double exposed = 0;  ///< of these waited for
  double bytes = 0;    ///< sent
};
/// Local.
Communication communication_of(const ProcessGrid& grid);
/// Of one kind of traffic.
Communication communication_of(const ProcessGrid& grid, Traffic traffic);

}  // namespace graphlora
