#include "dist/doctor/versions.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>
#include <torch/version.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "dist/doctor/gather.hpp"
#include "dist/mpi_version.hpp"

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;

/// The GNU build id in the notes of a loaded object, in hex; empty if it has none.
std::string build_id(const dl_phdr_info& object) {
  for (int i = 0; i < object.dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = object.dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const auto* note = reinterpret_cast<const char*>(object.dlpi_addr + header.p_vaddr);
    const auto align = [](std::size_t size) { return (size + 3) & ~std::size_t{3}; };
    for (std::size_t at = 0; at + sizeof(ElfW(Nhdr)) <= header.p_memsz;) {
      ElfW(Nhdr) entry;
      std::memcpy(&entry, note + at, sizeof(entry));
      const std::size_t name = at + sizeof(entry), text = name + align(entry.n_namesz);
      if (text + entry.n_descsz > header.p_memsz) break;
      if (entry.n_type == NT_GNU_BUILD_ID && entry.n_namesz == 4 &&
          std::memcmp(note + name, "GNU", 4) == 0) {
        std::string id;
        for (std::size_t byte = 0; byte < entry.n_descsz; ++byte)
          id += fmt::format("{:02x}", static_cast<unsigned char>(note[text + byte]));
        return id;
      }
      at = text + align(entry.n_descsz);
    }
  }
  return "";
}

int add_library(dl_phdr_info* object, std::size_t, void* libraries) {
  const fs::path path = object->dlpi_name;
  if (path.empty()) return 0;  // the program itself
  std::string identity = build_id(*object);
  if (identity.empty()) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return 0;  // the kernel's own, which is no file
    identity = fmt::format("{} bytes", size);
  }
  static_cast<std::map<std::string, std::string>*>(libraries)->emplace(path.filename().string(),
                                                                       identity);
  return 0;
}

/// Compares one value of every rank with rank 0's.
Check compare(const char* name, Verdict otherwise, std::string shown,
              std::span<const Software> software, std::span<const RankPlace> places,
              const std::function<std::string(const Software&)>& value) {
  Check check{"versions", name, Verdict::pass, std::move(shown)};
  const std::string first = value(software[0]);
  int others = 0, other = -1;
  for (int rank = 0; rank < static_cast<int>(software.size()); ++rank) {
    if (value(software[rank]) == first) continue;
    if (others++ == 0) other = rank;
  }
  if (others == 0) return check;
  check.verdict = otherwise;
  check.seen = fmt::format("rank 0 has {}, {} has {}", first, rank_text(places, other),
                           value(software[other]));
  if (others > 1) check.seen += fmt::format(", {} more differ", others - 1);
  check.remedy =
      "install the same on all hosts, or start it from a shared file system, and check "
      "PATH and LD_LIBRARY_PATH there";
  return check;
}

/// Version and identity of the loaded libraries whose names begin with `prefix`.
std::string with_libraries(const std::string& version, const Software& software,
                           const std::string& prefix) {
  std::string text = version;
  for (const auto& [name, identity] : software.libraries)
    if (name.starts_with(prefix)) text += fmt::format(" {} {}", name, identity.substr(0, 12));
  return text;
}

Check check_libraries(std::span<const Software> software, std::span<const RankPlace> places) {
  const auto& first = software[0].libraries;
  Check check{"versions", "libraries", Verdict::pass,
              fmt::format("{} loaded, the same everywhere", first.size())};
  for (int rank = 1; rank < static_cast<int>(software.size()); ++rank) {
    for (const auto& [name, identity] : software[rank].libraries) {
      const auto found = first.find(name);
      if (found == first.end() || found->second == identity) continue;
      check.verdict = Verdict::warn;
      check.seen = fmt::format("{} of {} is not that of rank 0", name, rank_text(places, rank));
      check.remedy = "results may differ between hosts: install the same system on all of them";
      return check;
    }
  }
  return check;
}

}  // namespace

Software own_software() {
  Software software{.mpi = mpi_version(), .torch = TORCH_VERSION};
  try {
    software.program = sha256_file("/proc/self/exe");
  } catch (const DataError& error) {
    software.program = error.what();
  }
  dl_iterate_phdr(add_library, &software.libraries);
  return software;
}

std::vector<Software> gather_software(Communicator& world, const Software& own) {
  const nlohmann::json json{{"program", own.program},
                            {"libraries", own.libraries},
                            {"mpi", own.mpi},
                            {"torch", own.torch}};
  const std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  // Where all hashes are equal, as they nearly always are, thousands of lists need not travel.
  const auto hash = static_cast<std::int64_t>(std::stoull(sha256(text).substr(0, 15), nullptr, 16));
  const std::vector<std::int64_t> hashes = world.all_gather(hash, Traffic::control);
  if (std::count(hashes.begin(), hashes.end(), hash) == world.size())
    return std::vector<Software>(world.size(), own);
  std::vector<Software> all;
  for (const std::string& one : gather_texts(world, text)) {
    const auto other = nlohmann::json::parse(one);
    all.push_back({other.at("program"), other.at("libraries"), other.at("mpi"), other.at("torch")});
  }
  return all;
}

std::vector<Check> check_versions(std::span<const Software> software,
                                  std::span<const RankPlace> places) {
  const Software& first = software[0];
  return {compare("program", Verdict::fail,
                  fmt::format("graphlora {}, SHA-256 {}", GRAPHLORA_VERSION,
                              first.program.substr(0, 12)),
                  software, places, [](const Software& one) { return one.program.substr(0, 64); }),
          compare("MPI", Verdict::fail, first.mpi, software, places,
                  [](const Software& one) { return with_libraries(one.mpi, one, "libmpi.so"); }),
          compare("LibTorch", Verdict::fail, first.torch, software, places,
                  [](const Software& one) { return with_libraries(one.torch, one, "libtorch"); }),
          check_libraries(software, places)};
}

}  // namespace graphlora::doctor
