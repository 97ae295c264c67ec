// Tests that are written once and run on the CPU and on a GPU. Without a GPU the latter are
// SKIPPED, with the reason, never passed.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "dist/device.hpp"
#include "dist/nccl_communicator.hpp"
#include "support/rank_main.hpp"

namespace graphlora::test {

/// Why tests can't run on devices of this type; empty: they can. The same on every rank of a host.
/// Begins with "needs a GPU", which launch/count_tests.py takes for a legitimate skip.
inline std::string why_not(at::DeviceType type) {
  const std::string reason = type == at::kCUDA ? why_no_cuda() : std::string();
  return reason.empty() ? reason : "needs a GPU: " + reason;
}

/// This rank's device of the given type. Ranks of a host share its GPUs in turn.
inline at::Device device_of(at::DeviceType type) {
  return type == at::kCUDA ? cuda_device(job().local_rank()) : at::Device(type);
}

/// Parameters of a suite over devices.
inline const auto kDevices = ::testing::Values(at::kCPU, at::kCUDA);
inline std::string device_name(const ::testing::TestParamInfo<at::DeviceType>& info) {
  return c10::DeviceTypeName(info.param, /*lower_case=*/true);
}

/// Fixture of tests over devices:
///
///   class Spmm : public test::OnDevice {};
///   TEST_P(Spmm, AddsRows) { const at::Tensor x = at::ones({3, 2}, device()); … }
///   INSTANTIATE_TEST_SUITE_P(Devices, Spmm, test::kDevices, test::device_name);
///
/// A fixture with a SetUp of its own calls OnDevice::SetUp() and returns if IsSkipped().
class OnDevice : public ::testing::TestWithParam<at::DeviceType> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_not(GetParam()); !reason.empty()) GTEST_SKIP() << reason;
  }
  at::Device device() const { return device_of(GetParam()); }
  /// The tensor on the test's device.
  at::Tensor here(const at::Tensor& tensor) const { return tensor.to(device()); }
};

/// What ranks compute on and talk over.
struct Setting {
  at::DeviceType device;
  const char* comm;
};
inline constexpr std::array kSettings{Setting{at::kCPU, "mpi"}, Setting{at::kCUDA, "mpi"},
                                      Setting{at::kCUDA, "nccl"}};
/// "cuda_nccl" and so on: names of tests.
inline std::string setting_name(const Setting& setting) {
  return c10::DeviceTypeName(setting.device, /*lower_case=*/true) + "_" + setting.comm;
}

/// Why tests can't run so; empty: they can. Collective.
inline std::string why_not(const Setting& setting) {
  std::string reason = why_not(setting.device);
  if (!reason.empty() || std::string_view(setting.comm) != "nccl") return reason;
  if (reason = why_no_nccl(); !reason.empty()) return "needs NCCL on GPUs: " + reason;
  // One GPU a rank, or NCCL's multi-rank mode.
  const char* shared = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (shared != nullptr && std::string_view(shared) == "1" && nccl_version() >= 23000) return "";
  const std::int64_t own = device_of(at::kCUDA).index();
  std::vector<std::int64_t> used = world().all_gather(own, Traffic::control);
  std::sort(used.begin(), used.end());
  if (std::adjacent_find(used.begin(), used.end()) == used.end()) return "";
  return fmt::format("needs {} GPUs, one for each rank", world().size());
}

inline std::ostream& operator<<(std::ostream& out, const Setting& setting) {
  return out << setting_name(setting);
}

/// Parameters of a suite over settings.
inline const auto kEverySetting = ::testing::ValuesIn(kSettings);
inline std::string name_of_setting(const ::testing::TestParamInfo<Setting>& info) {
  return setting_name(info.param);
}

/// Fixture of tests over settings, as OnDevice is of those over devices.
class OnSetting : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_not(GetParam()); !reason.empty()) GTEST_SKIP() << reason;
    world_ = make_mpi_world();
    if (std::string_view(GetParam().comm) == "nccl")
      world_ = make_nccl_communicator(world_, device());
  }
  at::Device device() const { return device_of(GetParam().device); }
  /// All ranks, in the same order as test::world().
  std::shared_ptr<Communicator> over() const { return world_; }

 private:
  std::shared_ptr<Communicator> world_;
};

}  // namespace graphlora::test
