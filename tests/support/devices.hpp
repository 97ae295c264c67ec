// Tests that are written once and run on the CPU and on a GPU. Without a GPU the latter are
// SKIPPED, with the reason, never passed.
#pragma once
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "core/device_loop.hpp"
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
  bool device_path = false;  ///< on the CPU by the device path (core/device_loop.hpp)
};
inline constexpr std::array kSettings{Setting{at::kCPU, "mpi"}, Setting{at::kCUDA, "mpi"},
                                      Setting{at::kCUDA, "nccl"}};
inline constexpr Setting kDevicePathOnCpu{at::kCPU, "mpi", true};
/// "cuda_nccl" and so on: names of tests.
inline std::string setting_name(const Setting& setting) {
  return std::string(c10::DeviceTypeName(setting.device, /*lower_case=*/true)) + "_" +
         (setting.device_path ? "device_path_" : "") + setting.comm;
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

/// Parameters of a suite over settings. Those with the CPU's device path are for quick suites,
/// which expect what they work out by other means or what one rank finds by the same path.
inline const auto kEverySetting = ::testing::ValuesIn(kSettings);
inline const auto kEverySettingAndPath =
    ::testing::Values(kSettings[0], kDevicePathOnCpu, kSettings[1], kSettings[2]);
inline std::string name_of_setting(const ::testing::TestParamInfo<Setting>& info) {
  return setting_name(info.param);
}

/// What the fixtures over settings have. Inside of a test its job() and world() hide those of the
/// test executable, which stay what the harness talks over: MPI, CPU tensors.
class InSetting {
 protected:
  /// This rank's device, and all ranks, in the same order as in test::world().
  Job& job() const { return *slot()->job; }
  Communicator& world() const { return *job().world(); }
  at::Device device() const { return job().device(); }
  /// The tensor on the test's device.
  at::Tensor here(const at::Tensor& tensor) const { return tensor.to(device()); }
  /// What equal computations may differ by, relatively, in fp64: ATen's scatters on a GPU add in no
  /// fixed order.
  double repeat_tolerance() const { return device().is_cpu() ? 0 : 1e-8; }

  /// Why this setting can't be had; empty: it is the test's from here on. Collective.
  std::string enter(const Setting& setting) {
    if (std::string reason = why_not(setting); !reason.empty()) return reason;
    // Starting NCCL takes a while: consecutive tests of a suite share what they talk over.
    if (!slot() || slot()->name != setting_name(setting)) {
      slot().reset();
      const at::Device device = device_of(setting.device);
      std::shared_ptr<Communicator> over = make_mpi_world();
      if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
      if (std::string_view(setting.comm) == "nccl") over = make_nccl_communicator(over, device);
      slot().emplace(Entered{setting_name(setting), std::make_unique<Job>(over, device)});
    }
    if (setting.device_path) path_.emplace();
    return "";
  }
  static void leave() { slot().reset(); }

 private:
  struct Entered {
    std::string name;
    std::unique_ptr<Job> job;
  };
  static std::optional<Entered>& slot() {
    static std::optional<Entered> entered;
    return entered;
  }
  std::optional<DevicePathOnCpu> path_;
};

/// Fixture of tests over settings, as OnDevice is of those over devices.
class OnSetting : public ::testing::TestWithParam<Setting>, protected InSetting {
 public:
  static void TearDownTestSuite() { leave(); }

 protected:
  void SetUp() override {
    if (const std::string reason = enter(GetParam()); !reason.empty()) GTEST_SKIP() << reason;
  }
};

/// The same for suites with parameters of their own behind the setting:
///
///   class Halo : public test::OnSettingWith<std::string> {};  // its own: parameter<0>()
///   INSTANTIATE_TEST_SUITE_P(Graph, Halo, Combine(test::kEverySetting, Values("metis", …)), …);
///
/// The setting comes first, so that its tests follow each other.
template <class... Own>
class OnSettingWith : public ::testing::TestWithParam<std::tuple<Setting, Own...>>,
                      protected InSetting {
 public:
  static void TearDownTestSuite() { InSetting::leave(); }

 protected:
  void SetUp() override {
    if (const std::string reason = this->enter(std::get<0>(this->GetParam())); !reason.empty())
      GTEST_SKIP() << reason;
  }
  template <std::size_t I>
  const auto& parameter() const {
    return std::get<I + 1>(this->GetParam());
  }
};

}  // namespace graphlora::test
