#include "core/safetensors.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "core/error.hpp"

namespace graphlora {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit

struct Dtype {
  const char* name;
  at::ScalarType type;
};
constexpr std::array kDtypes{
    Dtype{"F64", at::kDouble},    Dtype{"F32", at::kFloat},  Dtype{"F16", at::kHalf},
    Dtype{"BF16", at::kBFloat16}, Dtype{"I64", at::kLong},   Dtype{"I32", at::kInt},
    Dtype{"I16", at::kShort},     Dtype{"I8", at::kChar},    Dtype{"U8", at::kByte},
    Dtype{"BOOL", at::kBool},     Dtype{"U16", at::kUInt16}, Dtype{"U32", at::kUInt32},
    Dtype{"U64", at::kUInt64},
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ","));
}

/// Tensor sizes that a hostile header cannot overflow.
std::uint64_t checked_bytes(const std::string& where, const std::vector<std::int64_t>& shape,
                            std::uint64_t element) {
  std::uint64_t bytes = element;
  bool empty = false;
  for (const std::int64_t size : shape) {
    // A size of 0 must not hide an overflow of the others: strides are products of them.
    empty |= size == 0;
    const std::uint64_t factor = size == 0 ? 1 : static_cast<std::uint64_t>(size);
    if (__builtin_mul_overflow(bytes, factor, &bytes) || bytes >> 63 != 0) {
      throw DataError("{}: shape {} is too large", where, shape_text(shape));
    }
  }
  return empty ? 0 : bytes;
}

}  // namespace

const char* dtype_name(at::ScalarType type) {
  for (const Dtype& d : kDtypes) {
    if (d.type == type) return d.name;
  }
  return "unsupported type";
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path)
    : path_(path), map_(std::make_shared<MappedFile>(path)) {
  const auto bytes = map_->bytes();
  const std::string file = path.string();
  if (bytes.size() < 8)
    throw DataError("{}: too short for a safetensors file ({} bytes)", file, bytes.size());
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > kMaxHeader || header_size > bytes.size() - 8) {
    throw DataError(
        "{}: header of {} bytes does not fit the file of {} bytes (truncated or not safetensors)",
        file, header_size, bytes.size());
  }
  data_offset_ = 8 + header_size;
  const std::uint64_t data_size = bytes.size() - data_offset_;

  nlohmann::json header;
  bool duplicate = false;
  std::set<std::string> keys;
  try {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_size);
    header = parse_json(text, [&](int depth, auto event, auto& value) {
      if (event == nlohmann::json::parse_event_t::key && depth == 1) {
        duplicate |= !keys.insert(value.template get<std::string>()).second;
      }
      return true;
    });
  } catch (const DataError&) {
    throw DataError("{}: header is not valid JSON (damaged or not safetensors)", file);
  }
  if (!header.is_object()) throw DataError("{}: header is not a JSON object", file);
  if (duplicate) throw DataError("{}: header names a tensor twice", file);

  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& [name, value] : header.items()) {
    try {
      if (name == "__metadata__") {
        metadata_ = value.get<std::map<std::string, std::string>>();
        continue;
      }
      const std::string where = file + ": tensor " + name;
      const auto dtype = value.at("dtype").get<std::string>();
      const auto known = std::find_if(kDtypes.begin(), kDtypes.end(),
                                      [&](const Dtype& d) { return dtype == d.name; });
      if (known == kDtypes.end()) throw DataError("{}: unsupported dtype {}", where, dtype);
      Entry entry{known->type, {}, 0, 0};
      for (const auto& size : value.at("shape")) {
        if (!size.is_number_unsigned() || size.get<std::uint64_t>() > (std::uint64_t{1} << 62)) {
          throw DataError("{}: bad size {} in its shape", where, size.dump());
        }
        entry.shape.push_back(size.get<std::int64_t>());
      }
      const auto& offsets = value.at("data_offsets");
      if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
          !offsets[1].is_number_unsigned()) {
        throw DataError("{}: bad data_offsets", where);
      }
      entry.begin = offsets[0].get<std::uint64_t>();
      entry.end = offsets[1].get<std::uint64_t>();
      if (entry.begin > entry.end || entry.end > data_size) {
        throw DataError("{}: bytes {} to {} lie outside the file's {} data bytes (truncated?)",
                        where, entry.begin, entry.end, data_size);
      }
      const std::uint64_t element = c10::elementSize(entry.dtype);
      if (checked_bytes(where, entry.shape, element) != entry.end - entry.begin) {
        throw DataError("{}: {} bytes do not hold shape {} of {}", where, entry.end - entry.begin,
                        shape_text(entry.shape), dtype);
      }
      if (entry.begin < entry.end) ranges.emplace_back(entry.begin, entry.end);
      entries_.emplace(name, std::move(entry));
    } catch (const nlohmann::json::exception&) {
      throw DataError("{}: bad header entry for {}", file, name);
    }
  }
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) {
      throw DataError("{}: two tensors overlap at data byte {}", file, ranges[i].first);
    }
  }
}

const SafetensorsReader::Entry& SafetensorsReader::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw DataError("{}: has no tensor {}", path_.string(), name);
  return found->second;
}

std::span<const std::byte> SafetensorsReader::bytes(const std::string& name) const {
  const Entry& e = entry(name);
  return {map_->bytes().data() + data_offset_ + e.begin, e.end - e.begin};
}

bool SafetensorsReader::aligned(const std::string& name) const {
  return reinterpret_cast<std::uintptr_t>(bytes(name).data()) %
             c10::elementSize(entry(name).dtype) ==
         0;
}

at::Tensor SafetensorsReader::tensor(const std::string& name) const {
  const Entry& e = entry(name);
  const auto options = at::TensorOptions().dtype(e.dtype);
  const std::span<const std::byte> data = bytes(name);
  if (data.empty()) return at::empty(e.shape, options);
  if (!aligned(name)) {
    at::Tensor copy = at::empty(e.shape, options);
    std::memcpy(copy.data_ptr(), data.data(), data.size());
    return copy;
  }
  return at::from_blob(
      const_cast<std::byte*>(data.data()), e.shape, [map = map_](void*) {}, options);
}

at::Tensor SafetensorsReader::part(const std::string& name, std::int64_t dim, std::int64_t begin,
                                   std::int64_t size) const {
  if (aligned(name)) return tensor(name).narrow(dim, begin, size);
  const Entry& e = entry(name);
  std::vector<std::int64_t> shape = e.shape;
  const std::int64_t whole = shape.at(static_cast<std::size_t>(dim));
  TORCH_CHECK(begin >= 0 && size >= 0 && begin <= whole - size, "safetensors: ", name, " has ",
              whole, " rows or columns, not ", begin, " + ", size);
  shape[static_cast<std::size_t>(dim)] = size;
  at::Tensor copy = at::empty(shape, at::TensorOptions().dtype(e.dtype));
  if (copy.numel() == 0) return copy;
  // The part is a run of bytes in each row of the dimensions in front.
  const auto rows =
      std::accumulate(shape.begin(), shape.begin() + dim, std::uint64_t{1},
                      [](auto a, auto b) { return a * static_cast<std::uint64_t>(b); });
  const std::uint64_t run = copy.nbytes() / rows, step = bytes(name).size() / rows;
  const std::byte* from = bytes(name).data() + run / static_cast<std::uint64_t>(size) *
                                                   static_cast<std::uint64_t>(begin);
  auto* to = static_cast<std::byte*>(copy.data_ptr());
  for (std::uint64_t row = 0; row < rows; ++row) {
    std::memcpy(to + row * run, from + row * step, run);
  }
  return copy;
}

at::Tensor SafetensorsReader::tensor(const std::string& name, at::ScalarType dtype,
                                     const std::vector<std::int64_t>& shape) const {
  const Entry& e = entry(name);
  if (e.dtype != dtype) {
    throw ShapeError("{}: tensor {} is {}, expected {}", path_.string(), name, dtype_name(e.dtype),
                     dtype_name(dtype));
  }
  const bool same =
      std::equal(e.shape.begin(), e.shape.end(), shape.begin(), shape.end(),
                 [](std::int64_t have, std::int64_t want) { return want == -1 || have == want; });
  if (!same) {
    throw ShapeError("{}: tensor {} has shape {}, expected {}", path_.string(), name,
                     shape_text(e.shape), shape_text(shape));
  }
  return tensor(name);
}

void SafetensorsReader::release() const {
  const auto bytes = map_->bytes();
  release(bytes.data(), bytes.data() + bytes.size());
}

void SafetensorsReader::release(const std::string& name) const {
  const std::span<const std::byte> data = bytes(name);
  release(data.data(), data.data() + data.size());
}

void SafetensorsReader::release(const at::Tensor& view) const {
  const auto bytes = map_->bytes();
  const auto* begin = static_cast<const std::byte*>(view.const_data_ptr());
  // A copy, made where the file is not aligned, has no pages of the map.
  if (begin < bytes.data() || begin >= bytes.data() + bytes.size()) return;
  release(begin, begin + view.nbytes());
}

void SafetensorsReader::release(const std::byte* begin, const std::byte* end) const {
  // Whole pages, also those it shares with neighbours: the map is read-only, so none can be lost.
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(begin) / page * page;
  if (begin != end)
    madvise(reinterpret_cast<void*>(first), reinterpret_cast<std::uintptr_t>(end) - first,
            MADV_DONTNEED);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<Entry>& entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const auto& [name, dtype, shape] : entries) {
    TORCH_CHECK(!header.contains(name), "safetensors: tensor ", name, " is written twice");
    const std::uint64_t begin = missing_;
    missing_ += checked_bytes(path.string() + ": tensor " + name, shape, c10::elementSize(dtype));
    header[name] = {
        {"dtype", dtype_name(dtype)}, {"shape", shape}, {"data_offsets", {begin, missing_}}};
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t size = text.size();
  file_.write(&size, sizeof size);
  file_.write(text);
}

void SafetensorsWriter::write(const at::Tensor& piece) {
  const at::Tensor contiguous = piece.detach().cpu().contiguous();
  TORCH_CHECK(contiguous.nbytes() <= missing_, "safetensors: more values than the header has");
  missing_ -= contiguous.nbytes();
  file_.write(contiguous.const_data_ptr(), contiguous.nbytes());
}

void SafetensorsWriter::commit() {
  TORCH_CHECK(missing_ == 0, "safetensors: ", missing_, " bytes of the header's are not written");
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  SafetensorsWriter writer(path, entries, metadata);
  for (const auto& [name, tensor] : tensors) writer.write(tensor);
  writer.commit();
}

}  // namespace graphlora
