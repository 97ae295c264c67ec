#include "core/doctor/limits.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kMiB = 1 << 20;
// A rank keeps a socket to every other rank it talks to, beside libraries, pipes and data files.
constexpr std::uint64_t kFilesAlone = 128, kFilesAtEase = 512;
// METIS and the tokenizer's regular expressions call themselves; OpenMP's threads take this size.
constexpr std::uint64_t kLeastStack = kMiB, kUsualStack = 8 * kMiB;

std::uint64_t soft_limit(decltype(RLIMIT_AS) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return limit.rlim_cur;
}

Check limit_check(const char* name, Verdict verdict, std::string seen, std::string remedy) {
  if (verdict < Verdict::warn) remedy.clear();
  return {"limits", name, verdict, std::move(seen), std::move(remedy)};
}

Check check_locked_memory(const ProcessLimits& limits, const LimitNeeds& needs) {
  const std::string size = size_text(limits.locked_memory);
  if (!needs.rdma)
    return limit_check("locked memory", Verdict::pass, size + "; no RDMA card here needs more", "");
  const bool enough = limits.locked_memory >= needs.physical_memory;
  return limit_check("locked memory", enough ? Verdict::pass : Verdict::fail,
                     size + ", and an RDMA card is here",
                     "RDMA registers memory: ulimit -l unlimited (limits.conf, and slurmd's own "
                     "limit: LimitMEMLOCK=infinity)");
}

Check check_open_files(const ProcessLimits& limits, const LimitNeeds& needs) {
  const std::uint64_t ranks = needs.ranks;
  Verdict verdict = Verdict::pass;
  if (limits.open_files < kFilesAtEase + 2 * ranks) verdict = Verdict::warn;
  if (limits.open_files < kFilesAlone + ranks) verdict = Verdict::fail;
  return limit_check("open files", verdict,
                     limits.open_files == kUnlimited ? std::string("unlimited")
                                                     : std::to_string(limits.open_files),
                     fmt::format("{} ranks want {}: ulimit -n {}", ranks, kFilesAtEase + 2 * ranks,
                                 kFilesAtEase + 2 * ranks));
}

Check check_stack(const ProcessLimits& limits) {
  Verdict verdict = Verdict::pass;
  if (limits.stack < kUsualStack) verdict = Verdict::warn;
  if (limits.stack < kLeastStack) verdict = Verdict::fail;
  return limit_check("stack", verdict, size_text(limits.stack),
                     fmt::format("ulimit -s {}", kUsualStack / 1024));
}

Check check_address_space(const ProcessLimits& limits, const LimitNeeds& needs) {
  Verdict verdict = Verdict::pass;
  // CUDA and memory-mapped models take far more addresses than memory.
  if (limits.address_space != kUnlimited) verdict = Verdict::warn;
  if (limits.address_space < needs.physical_memory / 8) verdict = Verdict::fail;
  return limit_check("address space", verdict,
                     fmt::format("{}, {} of memory in this host", size_text(limits.address_space),
                                 size_text(needs.physical_memory)),
                     "CUDA and mapped model files need addresses beyond memory: ulimit -v "
                     "unlimited, and let the scheduler limit memory");
}

Check check_core_files(const ProcessLimits& limits, const LimitNeeds& needs) {
  const bool handled = needs.core_pattern.starts_with("|");
  std::string seen = size_text(limits.core_file);
  if (limits.core_file == 0)
    seen = "none are written";
  else if (handled)
    seen += ", to a program of the system";
  return limit_check("core files", limits.core_file > 0 && !handled ? Verdict::warn : Verdict::pass,
                     seen,
                     fmt::format("{} ranks that crash write that many files as large as their "
                                 "memory: ulimit -c 0, unless wanted",
                                 needs.ranks));
}

}  // namespace

ProcessLimits process_limits() {
  return {.locked_memory = soft_limit(RLIMIT_MEMLOCK),
          .open_files = soft_limit(RLIMIT_NOFILE),
          .stack = soft_limit(RLIMIT_STACK),
          .address_space = soft_limit(RLIMIT_AS),
          .core_file = soft_limit(RLIMIT_CORE)};
}

LimitNeeds limit_needs(int ranks) {
  LimitNeeds needs{.ranks = ranks};
  needs.physical_memory = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                          static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  std::error_code error;
  const fs::directory_iterator cards("/sys/class/infiniband", error);
  needs.rdma = !error && cards != fs::directory_iterator();
  std::ifstream pattern("/proc/sys/kernel/core_pattern");
  std::getline(pattern, needs.core_pattern);
  return needs;
}

std::vector<Check> check_limits(const ProcessLimits& limits, const LimitNeeds& needs) {
  return {check_locked_memory(limits, needs), check_open_files(limits, needs), check_stack(limits),
          check_address_space(limits, needs), check_core_files(limits, needs)};
}

}  // namespace graphlora::doctor
