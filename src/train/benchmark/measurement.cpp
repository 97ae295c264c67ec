// Shapes: P ranks, M measurements, R repetitions.
#include "train/benchmark/measurement.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace graphlora::benchmark {
namespace {

constexpr double kShortest = 1e-3;  // seconds of a repetition
constexpr double kMostRuns = 1000;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void synchronize(at::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
}

std::vector<double> RankMeasurement::slowest() const {
  std::vector<double> slowest = seconds_P.front();
  for (const std::vector<double>& seconds : seconds_P)
    for (std::size_t i = 0; i < slowest.size(); ++i) slowest[i] = std::max(slowest[i], seconds[i]);
  return slowest;
}

std::vector<RankMeasurement> gather(Communicator& world, const std::vector<Measurement>& own) {
  std::vector<double> numbers;
  for (const Measurement& m : own) {
    numbers.push_back(m.work);
    numbers.insert(numbers.end(), m.seconds.begin(), m.seconds.end());
  }
  const at::Tensor all =
      world.all_gather_varying(at::tensor(numbers, at::kDouble).unsqueeze(0), Traffic::control)
          .first;
  std::vector<RankMeasurement> result;
  std::size_t place = 0;
  for (const Measurement& m : own) {
    RankMeasurement& of_all = result.emplace_back(RankMeasurement{m.name, m.what, m.unit, m.size});
    for (int rank = 0; rank < world.size(); ++rank) {
      const double* row = all[rank].const_data_ptr<double>() + place;
      of_all.work_P.push_back(row[0]);
      of_all.seconds_P.emplace_back(row + 1, row + 1 + m.seconds.size());
    }
    place += 1 + m.seconds.size();
  }
  return result;
}

double time_once(Job& job, const std::function<void()>& once, int times) {
  synchronize(job.device());
  job.world()->barrier();
  const double start = now();
  for (int i = 0; i < times; ++i) once();
  synchronize(job.device());
  return (now() - start) / times;
}

std::vector<double> time_of(Job& job, const Repetitions& repetitions,
                            const std::function<void()>& once) {
  const auto run = [&](int times) { return time_once(job, once, times); };
  run(1);  // makes connections, loads kernels
  const at::Tensor slowest = at::full({1}, run(1), at::kDouble);
  job.world()->all_reduce(slowest, ReduceOp::max, Traffic::control).wait();
  const int times = static_cast<int>(
      std::clamp(std::ceil(kShortest / std::max(slowest.item<double>(), 1e-9)), 1.0, kMostRuns));
  for (int i = 0; i < repetitions.warm_up; ++i) run(times);
  std::vector<double> seconds;
  for (int i = 0; i < repetitions.count; ++i) seconds.push_back(run(times));
  return seconds;
}

}  // namespace graphlora::benchmark
