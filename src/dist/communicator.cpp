#include "dist/communicator.hpp"

#include <exception>
#include <numeric>

#include "dist/flight_recorder.hpp"

namespace graphlora {

const char* traffic_name(Traffic traffic) {
  switch (traffic) {
    case Traffic::parameters:
      return "parameters";
    case Traffic::activations:
      return "activations";
    case Traffic::halo:
      return "halo";
    case Traffic::hubs:
      return "hubs";
    case Traffic::anchors:
      return "anchors";
    case Traffic::embedding:
      return "embedding";
    case Traffic::metrics:
      return "metrics";
    case Traffic::control:
      return "control";
    case Traffic::pretrain:
      return "pretrain";
    case Traffic::count:
      break;
  }
  return "unknown";
}

Handle::~Handle() {
  if (!operation_ || std::uncaught_exceptions() > 0) return;
  try {
    wait();
  } catch (...) {  // NOLINT: a destructor must not throw; whoever needs the error waits
  }
}

Handle& Handle::operator=(Handle&& other) {
  if (this != &other) {
    wait();
    operation_ = std::move(other.operation_);
  }
  return *this;
}

void Handle::wait() {
  if (const auto operation = std::move(operation_)) operation->wait();
}

void Communicator::name_axis(const std::string& name) {
  if (recorder_) recorder_->name_axis(*axis_, name);
}

void Communicator::share_records(const Communicator& other) {
  counters_ = other.counters_;
  recorder_ = other.recorder_;
  axis_ = other.axis_;
}

void Communicator::record_in(std::shared_ptr<FlightRecorder> recorder, const std::string& axis,
                             std::vector<int> world_ranks) {
  recorder_ = std::move(recorder);
  axis_ = recorder_->add_axis(axis, std::move(world_ranks));
}

std::uint64_t Communicator::note(const char* operation, Traffic traffic, std::int64_t bytes,
                                 std::uint64_t peers) const {
  return recorder_->issue(operation, traffic_name(traffic), *axis_, bytes, peers);
}

std::vector<std::int64_t> Communicator::exchange_counts(std::span<const std::int64_t> send_counts,
                                                        Traffic traffic) {
  const at::Tensor send = at::tensor(send_counts, at::kLong);
  const at::Tensor receive = at::empty({size()}, at::kLong);
  const std::vector<std::int64_t> ones(size(), 1);
  all_to_all_rows(send, ones, receive, ones, traffic).wait();
  const auto* data = receive.const_data_ptr<std::int64_t>();
  return {data, data + size()};
}

std::vector<std::int64_t> Communicator::all_gather(std::int64_t value, Traffic traffic) {
  const at::Tensor send = at::full({1}, value, at::kLong);
  const at::Tensor receive = at::empty({size()}, at::kLong);
  all_gather_rows(send, receive, std::vector<std::int64_t>(size(), 1), traffic).wait();
  const auto* data = receive.const_data_ptr<std::int64_t>();
  return {data, data + size()};
}

std::pair<at::Tensor, std::vector<std::int64_t>> Communicator::all_gather_varying(
    const at::Tensor& rows, Traffic traffic) {
  std::vector<std::int64_t> counts = all_gather(rows.size(0), traffic);
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = std::reduce(counts.begin(), counts.end());
  const at::Tensor all = at::empty(shape, rows.options().requires_grad(false));
  all_gather_rows(rows.detach(), all, counts, traffic).wait();
  return {all, std::move(counts)};
}

std::string Communicator::broadcast_text(std::string text, int root, Traffic traffic) {
  const at::Tensor size = at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong);
  broadcast(size, root, traffic).wait();
  text.resize(static_cast<std::size_t>(size.item<std::int64_t>()));
  broadcast(at::from_blob(text.data(), {static_cast<std::int64_t>(text.size())}, at::kByte), root,
            traffic)
      .wait();
  return text;
}

}  // namespace graphlora
