// The safetensors container: every length and offset is checked before use.
#pragma once
#include <torch/types.h>

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/file.hpp"

namespace graphlora {

/// The container's name of a type ("F32"), or "unsupported type".
const char* dtype_name(at::ScalarType type);

/// Reader over a memory map. Tensors are views of the map (read-only by contract, they keep it
/// alive).
class SafetensorsReader {
 public:
  struct Entry {
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin, end;  ///< bytes behind the header
  };

  /// Throws DataError: missing, truncated, overlapping or overlong tensors, header too large,
  /// unknown dtype.
  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return entries_.count(name) != 0; }

  /// Throws DataError if there is no such tensor.
  at::Tensor tensor(const std::string& name) const;
  /// The same, with dtype and shape required; -1 in `shape` matches any size. Throws ShapeError.
  at::Tensor tensor(const std::string& name, at::ScalarType dtype,
                    const std::vector<std::int64_t>& shape) const;

  /// `size` rows (`dim` 0), columns (1), … from `begin` on: a view, or, where the tensor is not
  /// aligned, a copy of these alone. Throws DataError if there is no such tensor.
  at::Tensor part(const std::string& name, std::int64_t dim, std::int64_t begin,
                  std::int64_t size) const;
  /// Whether `tensor` is a view. Writers align the header to 8 bytes; a foreign file may not, and
  /// vector loads need it. Throws DataError if there is no such tensor.
  bool aligned(const std::string& name) const;
  /// The tensor's bytes in the map. Throws DataError if there is no such tensor.
  std::span<const std::byte> bytes(const std::string& name) const;

  /// Unmaps the pages that reading has touched, of the whole file, of one tensor or under one view;
  /// they are read from the file again when touched. Views stay valid.
  void release() const;
  void release(const std::string& name) const;
  void release(const at::Tensor& view) const;

 private:
  const Entry& entry(const std::string& name) const;
  void release(const std::byte* begin, const std::byte* end) const;

  std::filesystem::path path_;
  std::shared_ptr<MappedFile> map_;
  std::size_t data_offset_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// Writes a file piece by piece, atomically (temporary name, fsync, rename), so that no tensor
/// needs to be in memory as a whole.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
  };
  /// Throws DataError.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<Entry>& entries,
                    const std::map<std::string, std::string>& metadata = {});
  /// The next values, in the order of the entries. Throws DataError.
  void write(const at::Tensor& piece);
  /// All of the entries must have been written.
  void commit();

 private:
  AtomicFile file_;
  std::uint64_t missing_ = 0;  // bytes
};

/// Writes CPU tensors in the given order, atomically (temporary name, fsync, rename). Same tensors
/// and metadata give the same bytes. Throws DataError.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace graphlora
