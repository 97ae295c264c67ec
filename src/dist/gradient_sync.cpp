#include "dist/gradient_sync.hpp"

#include <array>

#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace {

Communicator& communicator_of(ProcessGrid& grid, Axis axis) {
  return axis == Axis::data ? grid.data() : grid.world();
}

/// First 63 bits of a SHA-256 over type, shape and values.
std::int64_t fingerprint(const at::Tensor& value) {
  const at::Tensor bytes = value.detach().cpu().contiguous();
  std::string text =
      fmt::format("{} {} ", at::toString(bytes.scalar_type()), fmt::join(bytes.sizes(), "x"));
  text.append(static_cast<const char*>(bytes.data_ptr()), bytes.nbytes());
  return static_cast<std::int64_t>(std::stoull(sha256(text).substr(0, 16), nullptr, 16) >> 1U);
}

/// Throws on every rank of `communicator` if the fingerprints of `parameters` are not the same on
/// all. Its rank i is rank first + i·stride of the world, whose numbers messages use.
void check_equal_over(Communicator& communicator, const std::vector<const Parameter*>& parameters,
                      int first, int stride) {
  const auto name_of = [&](int rank) { return first + rank * stride; };
  const auto count = static_cast<std::int64_t>(parameters.size());
  const std::vector<std::int64_t> counts = communicator.all_gather(count, Traffic::control);
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (counts[rank] != counts[0]) {
      throw CommError("replicas differ: rank {} holds {} parameters, rank {} holds {}",
                      name_of(rank), counts[rank], first, counts[0]);
    }
  }
  const at::Tensor own = at::empty({count}, at::kLong);
  auto* data = own.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) data[i] = fingerprint(parameters[i]->value);
  const at::Tensor all = at::empty({count * communicator.size()}, at::kLong);
  communicator.all_gather_rows(own, all, counts, Traffic::control).wait();
  const auto* prints = all.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    for (int rank = 1; rank < communicator.size(); ++rank) {
      if (prints[rank * count + i] != prints[i]) {
        throw CommError("replicas differ: {} on rank {} is not what it is on rank {}",
                        parameters[i]->name, name_of(rank), first);
      }
    }
  }
}

}  // namespace

GradientSync::GradientSync(ProcessGrid& grid, std::vector<Parameter> parameters,
                           std::int64_t bucket_bytes)
    : grid_(grid), parameters_(std::move(parameters)), bucket_bytes_(bucket_bytes) {}

std::optional<Axis> GradientSync::axis_of(Placement placement) const {
  for (const auto& [overridden, axis] : overrides_)
    if (overridden == placement) return axis;
  return reduction_axis(placement);
}

void GradientSync::start(const std::vector<Placement>& placements) {
  const at::NoGradGuard no_grad;
  std::vector<Bucket> buckets;
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    if (std::find(placements.begin(), placements.end(), parameter.placement) == placements.end())
      continue;
    const std::optional<Axis> axis = axis_of(parameter.placement);
    if (!axis) continue;
    // The open bucket of this axis and type is the last of its kind.
    std::size_t open = buckets.size();
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].axis == *axis &&
          buckets[b].flat.scalar_type() == parameter.value.scalar_type())
        open = b;
    }
    const auto bytes = static_cast<std::int64_t>(parameter.value.nbytes());
    if (open == buckets.size() || (sizes[open] > 0 && sizes[open] + bytes > bucket_bytes_)) {
      open = buckets.size();
      buckets.push_back(
          {*axis, {}, at::empty({0}, parameter.value.options().requires_grad(false))});
      sizes.push_back(0);
    }
    buckets[open].members.push_back(i);
    sizes[open] += bytes;
  }
  for (Bucket& bucket : buckets) {
    std::vector<at::Tensor> flat;
    for (const std::size_t i : bucket.members) {
      const at::Tensor& value = parameters_[i].value;
      flat.push_back(value.grad().defined() ? value.grad().reshape(-1)
                                            : at::zeros({value.numel()}, bucket.flat.options()));
    }
    bucket.flat = at::cat(flat);
    Handle handle = communicator_of(grid_, bucket.axis)
                        .all_reduce(bucket.flat, ReduceOp::sum, Traffic::parameters);
    running_.emplace_back(std::move(bucket), std::move(handle));
  }
}

void GradientSync::wait() {
  const at::NoGradGuard no_grad;
  for (auto& [bucket, handle] : running_) {
    handle.wait();
    std::int64_t first = 0;
    for (const std::size_t i : bucket.members) {
      at::Tensor value = parameters_[i].value;
      const at::Tensor sum = bucket.flat.narrow(0, first, value.numel()).view(value.sizes());
      first += value.numel();
      if (value.grad().defined()) {
        value.mutable_grad().copy_(sum);
      } else {
        value.mutable_grad() = sum.clone();
      }
    }
  }
  running_.clear();
}

std::int64_t GradientSync::bytes_per_step() const {
  std::int64_t bytes = 0;
  for (const Parameter& parameter : parameters_)
    bytes += static_cast<std::int64_t>(parameter.value.nbytes());
  return bytes;
}

void GradientSync::override_axis_for_test(Placement placement, std::optional<Axis> axis) {
  overrides_.insert(overrides_.begin(), {placement, axis});
}

void check_replicas_equal(ProcessGrid& grid, const std::vector<Parameter>& parameters) {
  std::vector<const Parameter*> replicated, sliced;
  for (const Parameter& parameter : parameters)
    (is_sliced(parameter.placement) ? sliced : replicated).push_back(&parameter);
  check_equal_over(grid.world(), replicated, 0, 1);
  check_equal_over(grid.data(), sliced, grid.tensor_rank(), grid.tensor_parallel());
}

}  // namespace graphlora
