#include "dist/doctor/message.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace graphlora::doctor {

void message(Communicator& world, const at::Tensor& row, int to, int from) {
  std::vector<std::int64_t> send_counts(world.size(), 0), receive_counts(world.size(), 0);
  if (to >= 0) send_counts[to] = 1;
  if (from >= 0) receive_counts[from] = 1;
  const at::Tensor none = row.narrow(0, 0, 0);
  world
      .all_to_all_rows(to >= 0 ? row : none, send_counts, from >= 0 ? row : none, receive_counts,
                       Traffic::control)
      .wait();
  if (!row.is_cpu())
    c10::impl::VirtualGuardImpl(row.device().type()).getStream(row.device()).synchronize();
}

}  // namespace graphlora::doctor
