#include "core/doctor/memory.hpp"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>

#include "core/memory.hpp"

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kMiB = 1 << 20;
// Open MPI's segment takes 4 MiB a rank and more for large messages, NCCL's buffers some 30.
constexpr std::uint64_t kLeastShared = 8 * kMiB, kUsualShared = 64 * kMiB;

std::optional<std::uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

std::string words_in(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// What the control group of a container leaves; none where it sets no limit. Of the file systems
/// of both versions of control groups.
std::optional<std::uint64_t> left_in_group() {
  constexpr const char* kFiles[2][2] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
       "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
  for (const auto& [most, used] : kFiles) {
    const auto limit = number_in(most), usage = number_in(used);
    if (limit && usage) return *limit > *usage ? *limit - *usage : 0;
  }
  return std::nullopt;
}

}  // namespace

HostMemory host_memory() {
  HostMemory memory;
  memory.available = static_cast<std::uint64_t>(available_memory_bytes());
  if (const auto left = left_in_group()) memory.available = std::min(memory.available, *left);
  memory.total = static_cast<std::uint64_t>(total_memory_bytes());
  memory.huge_pages = static_cast<std::uint64_t>(huge_page_bytes());
  memory.transparent = words_in("/sys/kernel/mm/transparent_hugepage/enabled");
  return memory;
}

std::vector<Check> check_memory(const HostMemory& memory, int ranks, std::uint64_t needed) {
  const std::uint64_t all = needed * static_cast<std::uint64_t>(ranks);
  Check free{"memory", "free", Verdict::pass,
             fmt::format("{} of {}", size_text(memory.available), size_text(memory.total))};
  if (memory.available < all) {
    free.verdict = Verdict::warn;
    free.remedy = fmt::format(
        "{} ranks of this host want {} each: fewer ranks a host, more memory from the scheduler "
        "(--mem), or another --memory.free",
        ranks, size_text(needed));
  }

  Check pages{"memory", "huge pages", Verdict::pass, ""};
  const auto begin = memory.transparent.find('['), end = memory.transparent.find(']');
  const std::string mode = begin == std::string::npos || end == std::string::npos || end < begin
                               ? "not known to this kernel"
                               : memory.transparent.substr(begin + 1, end - begin - 1);
  pages.seen = fmt::format("transparent: {}; set aside: {}", mode, size_text(memory.huge_pages));
  if (mode == "never") {
    pages.verdict = Verdict::warn;
    pages.remedy =
        "large tensors are slower to touch: echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled";
  }
  if (memory.huge_pages > memory.total / 4) {
    pages.verdict = Verdict::warn;
    pages.remedy = "pages set aside are lost to this program: sysctl vm.nr_hugepages=0";
  }
  return {free, pages};
}

Check check_shared_memory(const fs::path& directory, int ranks) {
  Check check{"memory", "shared", Verdict::pass, ""};
  struct statvfs status {};
  if (statvfs(directory.c_str(), &status) != 0) {
    check.verdict = Verdict::fail;
    check.seen = fmt::format("{}: {}", directory.string(), std::strerror(errno));
    check.remedy = "ranks of a host talk through it: mount a tmpfs there (containers: --ipc=host)";
    return check;
  }
  const auto block = static_cast<std::uint64_t>(status.f_frsize);
  const std::uint64_t free = status.f_bavail * block;
  check.seen = fmt::format("{}: {} free of {}", directory.string(), size_text(free),
                           size_text(status.f_blocks * block));
  const auto count = static_cast<std::uint64_t>(ranks);
  if (free < kUsualShared * count) check.verdict = Verdict::warn;
  if (free < kLeastShared * count) check.verdict = Verdict::fail;
  if (check.verdict != Verdict::pass)
    check.remedy = fmt::format(
        "{} ranks of this host want {}: remove what lies there, or enlarge it (docker: "
        "--shm-size, --ipc=host)",
        ranks, size_text(kUsualShared * count));
  return check;
}

}  // namespace graphlora::doctor
