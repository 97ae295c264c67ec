// Shapes: I inputs, O outputs, r rank, b rows of a block.
#include "train/merge.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kBlockElements = 1 << 20;
constexpr std::string_view kWeight = ".weight";
constexpr std::uintmax_t kMaxCompanionBytes = 64 << 20;

/// Whether a file of the base's directory describes the model or its tokenizer. Weights in any
/// format do not, nor an adapter that lies there, nor the base's own README.
bool is_companion(const fs::path& file) {
  const std::string name = file.filename().string(), extension = file.extension().string();
  if (name.ends_with(".index.json") || name.starts_with("adapter_") || name.starts_with('.'))
    return false;
  if (name.starts_with("LICENSE") || name.starts_with("NOTICE")) return true;
  return extension == ".json" || extension == ".txt" || extension == ".model" ||
         extension == ".jinja";
}

/// Tensors of a file in the order of their bytes.
std::vector<SafetensorsWriter::Entry> in_order(const SafetensorsReader& file) {
  std::vector<std::pair<std::uint64_t, SafetensorsWriter::Entry>> placed;
  for (const auto& [name, entry] : file.entries())
    placed.push_back({entry.begin, {name, entry.dtype, entry.shape}});
  // Empty tensors share their place with the next: names decide.
  std::sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.name) < std::tie(b.first, b.second.name);
  });
  std::vector<SafetensorsWriter::Entry> entries;
  for (auto& [place, entry] : placed) entries.push_back(std::move(entry));
  return entries;
}

/// Hands W (O, I) to `write` a block of rows at a time, with the adapter's product added.
void merge_rows(const PeftAdapter& adapter, const std::string& linear, const at::Tensor& weight_OI,
                const SafetensorsReader& file,
                const std::function<void(const at::Tensor&)>& write) {
  const std::string where = file.path().string();
  const at::Tensor a_stored = adapter.a_rI(linear), b_stored = adapter.b_Or(linear);
  if (weight_OI.dim() != 2 || weight_OI.size(1) != a_stored.size(1) ||
      weight_OI.size(0) != b_stored.size(0)) {
    throw ShapeError("{}: tensor {}.weight has shape [{}], the adapter's B·A [{},{}]", where,
                     linear, fmt::join(weight_OI.sizes(), ","), b_stored.size(0), a_stored.size(1));
  }
  if (!at::isFloatingType(weight_OI.scalar_type()) || weight_OI.element_size() < 2)
    throw ShapeError("{}: tensor {}.weight is quantized: nothing can be merged into it", where,
                     linear);
  const auto type = at::promote_types(
      at::kFloat,
      at::promote_types(weight_OI.scalar_type(),
                        at::promote_types(a_stored.scalar_type(), b_stored.scalar_type())));
  const at::Tensor a_rI = a_stored.to(type), b_Or = b_stored.to(type);
  const std::int64_t rows = weight_OI.size(0);
  const std::int64_t block =
      std::max<std::int64_t>(1, kBlockElements / std::max<std::int64_t>(1, weight_OI.size(1)));
  for (std::int64_t row = 0; row < rows; row += block) {
    const std::int64_t count = std::min(block, rows - row);
    const at::Tensor weight_bI = weight_OI.narrow(0, row, count);
    at::Tensor sum_bI = weight_bI.to(type, /*non_blocking=*/false, /*copy=*/true);
    sum_bI.addmm_(b_Or.narrow(0, row, count), a_rI, /*beta=*/1, /*alpha=*/adapter.scale());
    sum_bI = sum_bI.to(weight_OI.scalar_type());
    if (!at::isfinite(sum_bI).all().item<bool>()) {
      throw DataError("{}: {}.weight with the adapter merged holds NaN or infinity", where, linear);
    }
    write(sum_bI);
    file.release(weight_bI);
  }
}

}  // namespace

std::uint64_t merged_bytes(const HfCheckpoint& base) {
  std::uint64_t bytes = 0;
  for (const SafetensorsReader& file : base.files()) bytes += fs::file_size(file.path());
  return bytes;
}

void write_merged(const PeftAdapter& adapter, const HfCheckpoint& base, const fs::path& directory,
                  const std::function<void(std::uint64_t)>& progress) {
  for (const std::string& linear : adapter.linears()) {
    const bool known =
        std::any_of(base.files().begin(), base.files().end(), [&](const SafetensorsReader& file) {
          return file.contains(linear + std::string(kWeight));
        });
    if (!known) {
      throw DataError("{}: adapts {}, which {} does not have (an adapter of another base?)",
                      adapter.directory().string(), linear, base.directory().string());
    }
  }
  const at::NoGradGuard no_grad;
  std::uint64_t written = 0;
  for (const SafetensorsReader& file : base.files()) {
    const auto entries = in_order(file);
    SafetensorsWriter writer(directory / file.path().filename(), entries, file.metadata());
    const auto write = [&](const at::Tensor& piece) {
      writer.write(piece);
      progress(written += piece.nbytes());
    };
    for (const SafetensorsWriter::Entry& entry : entries) {
      const at::Tensor tensor = file.tensor(entry.name);
      const std::string linear = entry.name.ends_with(kWeight)
                                     ? entry.name.substr(0, entry.name.size() - kWeight.size())
                                     : std::string();
      if (adapter.linears().contains(linear)) {
        merge_rows(adapter, linear, tensor, file, write);
      } else {
        // In pieces, so that the map's pages can be given back on the way.
        const at::Tensor flat = tensor.flatten();
        for (std::int64_t begin = 0; begin < flat.numel(); begin += kBlockElements) {
          const at::Tensor piece =
              flat.narrow(0, begin, std::min(kBlockElements, flat.numel() - begin));
          write(piece);
          file.release(piece);
        }
      }
      file.release(tensor);
    }
    writer.commit();
  }
  const bool sharded =
      base.files().size() != 1 || base.files().front().path().filename() != kHfWeightsFile;
  std::vector<fs::path> companions;
  for (const auto& entry : fs::directory_iterator(base.directory())) {
    if (entry.is_regular_file() && is_companion(entry.path())) companions.push_back(entry.path());
  }
  if (sharded) companions.push_back(base.directory() / kHfIndexFile);
  for (const fs::path& file : companions)
    write_file(directory / file.filename(), read_file(file, kMaxCompanionBytes));
}

}  // namespace graphlora
