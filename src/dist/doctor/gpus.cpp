#include "dist/doctor/gpus.hpp"

#include <fmt/format.h>

#include <map>

#include "dist/device.hpp"
#include "dist/doctor/gather.hpp"

namespace graphlora::doctor {

GpuUse own_gpu_use(int local_rank) {
  GpuUse use{.why_none = why_no_cuda()};
  if (use.why_none.empty()) use.uuid = gpu_uuid(cuda_device(local_rank));
  return use;
}

std::vector<GpuUse> gather_gpu_use(Communicator& world, const GpuUse& own) {
  const std::vector<std::string> reasons = gather_texts(world, own.why_none);
  const auto first = world.all_gather(own.uuid[0], Traffic::control);
  const auto second = world.all_gather(own.uuid[1], Traffic::control);
  std::vector<GpuUse> uses;
  for (int rank = 0; rank < world.size(); ++rank)
    uses.push_back({reasons[rank], {first[rank], second[rank]}});
  return uses;
}

std::vector<Check> check_gpus(std::span<const RankPlace> places, std::span<const GpuUse> uses,
                              bool wanted) {
  Check devices{"GPU", "devices", Verdict::pass, ""};
  std::map<std::array<std::int64_t, 2>, int> rank_of;
  int without = 0, first_without = -1;
  std::pair<int, int> sharing{-1, -1};
  for (int rank = 0; rank < static_cast<int>(uses.size()); ++rank) {
    if (!uses[rank].why_none.empty()) {
      if (without++ == 0) first_without = rank;
      continue;
    }
    const auto [found, is_new] = rank_of.try_emplace(uses[rank].uuid, rank);
    if (!is_new && sharing.first < 0) sharing = {found->second, rank};
  }
  const int with = static_cast<int>(uses.size()) - without;
  devices.seen = fmt::format("{} GPUs for {} ranks", rank_of.size(), uses.size());
  if (without > 0) {
    const std::string& reason = uses[first_without].why_none;
    devices.seen = with == 0 ? reason
                             : fmt::format("{} of {} ranks have none: {} ({})", without,
                                           uses.size(), reason, rank_text(places, first_without));
    devices.verdict = Verdict::skip;
    if (with > 0) devices.verdict = Verdict::warn;
    if (wanted) devices.verdict = Verdict::fail;
    if (with > 0 || wanted)
      devices.remedy =
          "all ranks compute on the CPU while one has no GPU: --gpus-per-task=1 or "
          "--gpus-per-node, a driver on every host, a build with CUDA; docs/gpu.md";
  }
  Check shared{"GPU", "sharing", with == 0 ? Verdict::skip : Verdict::pass,
               with == 0 ? "no GPU is used" : "every rank has its own"};
  if (sharing.first >= 0) {
    shared.verdict = Verdict::warn;
    shared.seen = fmt::format("{} and {} take the same GPU", rank_text(places, sharing.first),
                              rank_text(places, sharing.second));
    shared.remedy =
        "one GPU a rank: fewer ranks a host, or check CUDA_VISIBLE_DEVICES and --gpus-per-task";
  }
  return {devices, shared};
}

bool have_own_gpus(std::span<const GpuUse> uses) {
  std::map<std::array<std::int64_t, 2>, int> count;
  for (const GpuUse& use : uses)
    if (!use.why_none.empty() || ++count[use.uuid] > 1) return false;
  return true;
}

Check check_nccl(const NcclState& state, bool gpus_of_their_own, const std::string& comm) {
  Check check{"NCCL", "use", Verdict::skip, ""};
  const std::string version = state.version == 0
                                  ? std::string("NCCL")
                                  : fmt::format("NCCL {}.{}.{}", state.version / 10000,
                                                state.version / 100 % 100, state.version % 100);
  if (state.used) {
    check.verdict = Verdict::pass;
    check.seen = version + " connects the ranks";
  } else if (!state.why_none.empty()) {
    check.seen = state.why_none;
    if (gpus_of_their_own) {
      check.verdict = Verdict::warn;
      check.remedy =
          "without it everything between GPUs travels through host memory: a build "
          "with NCCL; docs/gpu.md";
    }
  } else {
    check.seen = fmt::format("{} is there; these ranks talk over MPI", version);
  }
  if (comm == "nccl" && !state.used) {
    check.verdict = Verdict::fail;
    check.remedy =
        "--comm nccl needs a build with NCCL and a GPU for every rank; --comm mpi goes "
        "without; docs/gpu.md";
  }
  return check;
}

}  // namespace graphlora::doctor
