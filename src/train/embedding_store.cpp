// Shapes: n owned rows, N nodes, D = d_e, F rows of a file.
#include "train/embedding_store.hpp"

#include <algorithm>
#include <exception>
#include <optional>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "train/node_rows.hpp"

namespace graphlora {
namespace {

constexpr const char* kNames[] = {"weight", "exp_avg", "exp_avg_sq"};
// What the header of a file may take.
constexpr std::int64_t kHeaderBytes = 4096;
// What a rank sends, receives or reads at a time.
constexpr std::int64_t kBlockBytes = 4 << 20;

std::string file_name(std::int64_t index, std::int64_t files) {
  return fmt::format("embeddings-{:05d}-of-{:05d}.safetensors", index, files);
}

/// Files of a set in order. Throws DataError if one is missing.
std::vector<std::filesystem::path> find_files(const std::filesystem::path& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error))
    throw DataError("{}: no such directory", directory.string());
  std::int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    std::int64_t index = 0, of = 0;
    int end = 0;
    if (std::sscanf(name.c_str(), "embeddings-%5ld-of-%5ld.safetensors%n", &index, &of, &end) !=
            2 ||
        end != static_cast<int>(name.size())) {
      continue;
    }
    if (of < 1 || index < 0 || index >= of || (files != 0 && files != of)) {
      throw DataError("{}: {} does not belong to the other embedding files there",
                      directory.string(), name);
    }
    files = of;
  }
  if (error) throw DataError("{}: {}", directory.string(), error.message());
  if (files == 0) {
    throw DataError("{}: no {} there; was this written by pretrain or train?", directory.string(),
                    file_name(0, 1));
  }
  std::vector<std::filesystem::path> paths;
  for (std::int64_t i = 0; i < files; ++i) {
    paths.push_back(directory / file_name(i, files));
    if (!std::filesystem::is_regular_file(paths.back(), error))
      throw DataError("{}: missing", paths.back().string());
  }
  return paths;
}

/// How many rows a file holds, and how many files there are.
struct FileLayout {
  FileLayout(std::int64_t all, const at::Tensor& weight_nD, std::int64_t tensors,
             std::int64_t max_file_bytes)
      : nodes(all),
        row_bytes(8 + tensors * weight_nD.size(1) *
                          static_cast<std::int64_t>(weight_nD.element_size())),
        file_rows(std::max<std::int64_t>(1, (max_file_bytes - kHeaderBytes) / row_bytes)),
        files(std::max<std::int64_t>(1, (nodes + file_rows - 1) / file_rows)) {}
  std::int64_t nodes, row_bytes, file_rows, files;

  /// Nodes of a file; none beyond the last one.
  NodeRange range(std::int64_t file) const {
    const std::int64_t begin = std::min(nodes, file * file_rows);
    return {begin, std::min(nodes, begin + file_rows)};
  }
};

/// Takes the files of one rank, piece by piece.
struct EmbeddingSink {
  virtual ~EmbeddingSink() = default;
  virtual void begin(const std::string& name,
                     const std::vector<SafetensorsWriter::Entry>& entries) = 0;
  virtual void add(const at::Tensor& rows) = 0;  ///< the next rows, in the order of the entries
  virtual void end() = 0;
};

/// Brings every file's rows to the rank that keeps it. Collective; all have theirs when it returns.
/// Throws DataError, what the sink throws only after the last exchange.
void spread_into_files(Communicator& world, const std::string& where, const NodeMap& map,
                       const at::Tensor& owned, const EmbeddingTable& table,
                       std::int64_t max_file_bytes, EmbeddingSink& sink) {
  const int ranks = world.size();
  const std::int64_t nodes = map.nodes(), width = table.weight_nD.size(1);
  std::vector<at::Tensor> columns{table.weight_nD};
  if (table.exp_avg_nD.defined() && table.exp_avg_sq_nD.defined())
    columns.insert(columns.end(), {table.exp_avg_nD, table.exp_avg_sq_nD});
  const auto tensors = static_cast<std::int64_t>(columns.size());
  // Every rank takes part in every exchange, whatever it finds.
  const at::Tensor shape = at::tensor({width, -width, tensors, -tensors}, at::kLong);
  const at::Tensor largest = shape.clone();
  world.all_reduce(largest, ReduceOp::max, Traffic::control).wait();
  if (!at::equal(largest, shape))
    throw DataError("{}: ranks hold embeddings of different width or kind", where);
  const FileLayout layout(nodes, table.weight_nD, tensors, max_file_bytes);

  const NodeRows node_rows(world, owned);
  const std::int64_t block_rows = std::max<std::int64_t>(
      1, kBlockBytes / (width * static_cast<std::int64_t>(table.weight_nD.element_size())));
  std::exception_ptr failure;
  // A rank that can't write goes on exchanging, so that the others don't wait for it.
  const auto attempt = [&](const auto& body) {
    if (failure) return;
    try {
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  // A round fills one file on each rank, block by block.
  for (std::int64_t round = 0; round < layout.files; round += ranks) {
    std::vector<NodeRange> file_of_rank;
    for (int rank = 0; rank < ranks; ++rank) file_of_rank.push_back(layout.range(round + rank));
    const NodeRange mine = file_of_rank[world.rank()];
    const bool has_file = round + world.rank() < layout.files;
    attempt([&] {
      if (!has_file) return;
      std::vector<SafetensorsWriter::Entry> entries{{"node_id", at::kLong, {mine.size()}}};
      for (std::size_t c = 0; c < columns.size(); ++c)
        entries.push_back({kNames[c], columns[c].scalar_type(), {mine.size(), width}});
      sink.begin(file_name(round + world.rank(), layout.files), entries);
      for (std::int64_t begin = mine.begin; begin < mine.end; begin += block_rows)
        sink.add(at::arange(begin, std::min(mine.end, begin + block_rows), at::kLong));
    });
    for (const at::Tensor& column : columns) {
      for (std::int64_t block = 0; block < file_of_rank[0].size(); block += block_rows) {
        std::vector<NodeRange> block_of_rank;
        for (const NodeRange& range : file_of_rank) {
          const std::int64_t begin = std::min(range.end, range.begin + block);
          block_of_rank.push_back({begin, std::min(range.end, begin + block_rows)});
        }
        const at::Tensor block_FD = node_rows.fetch(column, block_of_rank);
        attempt([&] {
          if (!block_FD.defined()) {
            const NodeRange range = block_of_rank[world.rank()];
            throw DataError("{}: not every node from {} to {} is owned by exactly one rank", where,
                            range.begin, range.end - 1);
          }
          if (has_file) sink.add(block_FD);
        });
      }
    }
    attempt([&] {
      if (has_file) sink.end();
    });
  }
  world.barrier();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

std::vector<EmbeddingFile> copy_embeddings(Communicator& world, const NodeMap& map,
                                           const at::Tensor& owned, const EmbeddingTable& table,
                                           std::int64_t max_file_bytes) {
  /// Fills the tensors of one file after the other.
  struct Copies : EmbeddingSink {
    std::vector<EmbeddingFile> files;
    std::size_t tensor = 0;
    std::int64_t row = 0;
    void begin(const std::string& name,
               const std::vector<SafetensorsWriter::Entry>& entries) override {
      files.push_back({name, {}});
      for (const auto& entry : entries)
        files.back().tensors.emplace_back(entry.name, at::empty(entry.shape, entry.dtype));
      tensor = 0;
      row = 0;
    }
    void add(const at::Tensor& rows) override {
      auto& tensors = files.back().tensors;
      while (row == tensors[tensor].second.size(0) && tensor + 1 < tensors.size()) {
        ++tensor;
        row = 0;
      }
      tensors[tensor].second.narrow(0, row, rows.size(0)).copy_(rows);
      row += rows.size(0);
    }
    void end() override {}
  } copies;
  spread_into_files(world, "the embeddings", map, owned, table, max_file_bytes, copies);
  return std::move(copies.files);
}

std::int64_t copied_embedding_bytes(const Communicator& world, std::int64_t nodes,
                                    const EmbeddingTable& table, bool moments,
                                    std::int64_t max_file_bytes) {
  const FileLayout layout(nodes, table.weight_nD, moments ? 3 : 1, max_file_bytes);
  std::int64_t rows = 0;
  for (std::int64_t file = world.rank(); file < layout.files; file += world.size())
    rows += layout.range(file).size();
  return rows * layout.row_bytes;
}

void write_embeddings(Communicator& world, const std::filesystem::path& directory,
                      const NodeMap& map, const at::Tensor& owned, const EmbeddingTable& table,
                      std::int64_t max_file_bytes) {
  struct Writing : EmbeddingSink {
    explicit Writing(const std::filesystem::path& path) : directory(path) {}
    const std::filesystem::path& directory;
    std::optional<SafetensorsWriter> file;
    void begin(const std::string& name,
               const std::vector<SafetensorsWriter::Entry>& entries) override {
      file.emplace(directory / name, entries);
    }
    void add(const at::Tensor& rows) override { file->write(rows); }
    void end() override { file->commit(); }
  } writing(directory);
  spread_into_files(world, directory.string(), map, owned, table, max_file_bytes, writing);
}

EmbeddingTable read_embeddings(const std::filesystem::path& directory, const at::Tensor& owned,
                               std::int64_t nodes, at::ScalarType dtype) {
  const std::vector<std::filesystem::path> paths = find_files(directory);
  const auto [ids_n, order_n] = owned.sort();
  const auto* ids = ids_n.const_data_ptr<std::int64_t>();
  const std::int64_t count = ids_n.size(0);
  std::array<at::Tensor, 3> result;
  std::int64_t next = 0, read = 0, width = -1;
  for (const auto& path : paths) {
    const SafetensorsReader file(path);
    const at::Tensor node_F = file.tensor("node_id", at::kLong, {-1});
    const std::int64_t rows = node_F.size(0);
    const auto file_ids = values_of<std::int64_t>(node_F);
    for (std::int64_t i = 0; i < rows; ++i) {
      if (file_ids[i] == next + i) continue;
      throw DataError("{}: node_id is not the range that starts at {}, where the file before ends",
                      path.string(), next);
    }
    file.release(node_F);
    const auto* last = std::lower_bound(ids + read, ids + count, next + rows);
    const std::int64_t wanted = last - (ids + read);
    for (std::size_t c = 0; c < result.size(); ++c) {
      const bool present = file.contains(kNames[c]);
      if (c > 0 && &path != &paths.front() && present != result[c].defined()) {
        throw DataError("{}: {} is in some of the embedding files and not in others", path.string(),
                        kNames[c]);
      }
      if (c > 0 && !present) continue;
      const at::Tensor column_FD = file.tensor(kNames[c]);
      if (column_FD.dim() != 2 || column_FD.size(0) != rows || !column_FD.is_floating_point() ||
          (width >= 0 && column_FD.size(1) != width)) {
        throw ShapeError("{}: {} is {} [{}], expected float [{}, {}]", path.string(), kNames[c],
                         at::toString(column_FD.scalar_type()), fmt::join(column_FD.sizes(), ", "),
                         rows, width < 0 ? "width" : std::to_string(width));
      }
      width = column_FD.size(1);
      if (!result[c].defined()) result[c] = at::empty({count, width}, dtype);
      // In blocks, and the pages are given back: the map holds every rank's rows.
      const std::int64_t block_rows =
          std::max<std::int64_t>(1, kBlockBytes / std::max<std::int64_t>(1, width * 8));
      for (std::int64_t begin = read; begin < read + wanted; begin += block_rows) {
        const std::int64_t block = std::min(block_rows, read + wanted - begin);
        const at::Tensor from = ids_n.narrow(0, begin, block) - next;
        const at::Tensor picked = column_FD.index_select(0, from).to(dtype);
        if (!at::isfinite(picked).all().item<bool>()) {
          const at::Tensor bad = at::isfinite(picked).all(1).logical_not().nonzero();
          throw DataError("{}: {} of node {} is not finite", path.string(), kNames[c],
                          ids[begin + bad[0][0].item<std::int64_t>()]);
        }
        result[c].index_copy_(0, order_n.narrow(0, begin, block), picked);
        const std::int64_t first = ids[begin] - next;
        file.release(column_FD.narrow(0, first, ids[begin + block - 1] - next + 1 - first));
      }
    }
    if (result[1].defined() != result[2].defined())
      throw DataError("{}: exp_avg without exp_avg_sq, or the reverse", path.string());
    next += rows;
    read += wanted;
  }
  if (next != nodes) {
    throw DataError("{}: embeddings of {} nodes, the dataset has {}; pretrain on this dataset",
                    directory.string(), next, nodes);
  }
  TORCH_CHECK(read == count, "owned nodes beyond the ", nodes, " of the dataset");
  return {result[0], result[1], result[2]};
}

}  // namespace graphlora
