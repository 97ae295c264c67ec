// What ranks compute on.
#include "dist/device.hpp"

#include "core/error.hpp"
#include "support/devices.hpp"

namespace graphlora {
namespace {

using test::job;
using test::world;

TEST(LocalRank, CountsTheRanksOfAHost) {
  // The tests' ranks share one host.
  const std::vector<std::int64_t> all = world().all_gather(job().local_rank(), Traffic::control);
  for (int rank = 0; rank < world().size(); ++rank) EXPECT_EQ(all[rank], rank);
}

TEST(CudaDevice, IsThereOrItsAbsenceIsExplained) {
  const std::string reason = why_no_cuda();
  if (!reason.empty()) {
    try {
      cuda_device(0);
      FAIL() << "no error, but no GPU: " << reason;
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.what(), "--device cuda: " + reason);
    }
    EXPECT_EQ(reason.find('\n'), std::string::npos);
    return;
  }
  EXPECT_EQ(cuda_device(0), at::Device(at::kCUDA, 0));
  EXPECT_TRUE(cuda_device(1000).is_cuda());
}

TEST(UseDevice, AutoTakesWhatIsThere) {
  Job ranks(make_mpi_world());
  const std::shared_ptr<Communicator> mpi = ranks.world();
  ranks.use_device("auto", "auto");
  EXPECT_EQ(ranks.device().is_cuda(), why_no_cuda().empty());
  if (ranks.device().is_cpu()) {
    EXPECT_EQ(ranks.world(), mpi);
  }
  const at::Tensor x = at::ones({3}, at::device(ranks.device()));
  ranks.world()->all_reduce(x, ReduceOp::sum, Traffic::control).wait();
  EXPECT_EQ(x[2].item<float>(), world().size());
}

TEST(UseDevice, TheCpuCanAlwaysBeHad) {
  Job ranks(make_mpi_world());
  ranks.use_device("cpu", "mpi");
  EXPECT_EQ(ranks.device(), at::Device(at::kCPU));
}

TEST(UseDevice, WhatCantBeHadIsAgreedOn) {
  Job ranks(make_mpi_world());
  EXPECT_THROW(ranks.use_device("cpu", "nccl"), AgreedError);
  if (why_no_cuda().empty()) return;
  EXPECT_THROW(ranks.use_device("cuda", "auto"), AgreedError);
  EXPECT_THROW(ranks.use_device("auto", "nccl"), AgreedError);
}

class Devices : public test::OnDevice {};

TEST_P(Devices, HoldTensors) {
  const at::Tensor x = here(at::arange(5));
  EXPECT_EQ(x.device(), device());
  EXPECT_EQ((x + x).sum().item<std::int64_t>(), 20);
}

INSTANTIATE_TEST_SUITE_P(Devices, Devices, test::kDevices, test::device_name);

}  // namespace
}  // namespace graphlora
