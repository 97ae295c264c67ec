// Shapes: n owned rows, N nodes, D = d_e, F rows of a file.
#include "train/embedding_store.hpp"

#include <algorithm>
#include <exception>
#include <numeric>

#include "core/error.hpp"
#include "core/safetensors.hpp"

namespace graphlora {
namespace {

constexpr const char* kNames[] = {"weight", "exp_avg", "exp_avg_sq"};
// What the header of a file may take.
constexpr std::int64_t kHeaderBytes = 4096;

std::string file_name(std::int64_t index, std::int64_t files) {
  return fmt::format("embeddings-{:05d}-of-{:05d}.safetensors", index, files);
}

/// The largest of every rank's value.
std::int64_t maximum(Communicator& world, std::int64_t value) {
  const at::Tensor largest = at::full({1}, value, at::kLong);
  world.all_reduce(largest, ReduceOp::max, Traffic::embedding).wait();
  return largest.item<std::int64_t>();
}

std::int64_t sum(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
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

}  // namespace

void write_embeddings(Communicator& world, const std::filesystem::path& directory,
                      const NodeMap& map, const at::Tensor& owned, const EmbeddingTable& table,
                      std::int64_t max_file_bytes) {
  const int ranks = world.size();
  const std::int64_t nodes = map.nodes(), width = table.weight_nD.size(1);
  std::vector<at::Tensor> columns{table.weight_nD};
  if (table.exp_avg_nD.defined() && table.exp_avg_sq_nD.defined())
    columns.insert(columns.end(), {table.exp_avg_nD, table.exp_avg_sq_nD});
  const auto tensors = static_cast<std::int64_t>(columns.size());
  if (maximum(world, width) != width || maximum(world, -width) != -width ||
      maximum(world, tensors) != tensors || maximum(world, -tensors) != -tensors) {
    throw DataError("{}: ranks hold embeddings of different width or kind", directory.string());
  }
  const std::int64_t row_bytes =
      8 + tensors * width * static_cast<std::int64_t>(table.weight_nD.element_size());
  const std::int64_t file_rows =
      std::max<std::int64_t>(1, (max_file_bytes - kHeaderBytes) / row_bytes);
  const std::int64_t files = std::max<std::int64_t>(1, (nodes + file_rows - 1) / file_rows);

  const auto [ids_n, order_n] = owned.sort();
  const auto* ids = ids_n.const_data_ptr<std::int64_t>();
  const auto first_at_least = [&, count = ids_n.size(0)](std::int64_t node) {
    return std::lower_bound(ids, ids + count, node) - ids;
  };
  std::exception_ptr failure;
  // A round fills one file on each rank.
  for (std::int64_t round = 0; round < files; round += ranks) {
    std::vector<std::int64_t> send_counts(ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::int64_t begin = std::min(nodes, (round + rank) * file_rows);
      const std::int64_t end = std::min(nodes, begin + file_rows);
      send_counts[rank] = first_at_least(end) - first_at_least(begin);
    }
    const std::vector<std::int64_t> receive_counts =
        world.exchange_counts(send_counts, Traffic::embedding);
    const std::int64_t first = std::min(nodes, (round + world.rank()) * file_rows);
    const std::int64_t rows = std::min(file_rows, nodes - first);
    const std::int64_t send_first = first_at_least(std::min(nodes, round * file_rows));
    const auto exchange = [&](const at::Tensor& sorted) {
      const at::Tensor send = sorted.narrow(0, 0, sum(send_counts)).contiguous();
      auto shape = send.sizes().vec();
      shape[0] = sum(receive_counts);
      at::Tensor receive = at::empty(shape, send.options());
      world.all_to_all_rows(send, send_counts, receive, receive_counts, Traffic::embedding).wait();
      return receive;
    };
    const at::Tensor sent_rows = order_n.narrow(0, send_first, sum(send_counts));
    const at::Tensor place_F = exchange(ids_n.narrow(0, send_first, sum(send_counts))) - first;
    const bool complete = place_F.size(0) == rows &&
                          at::equal(std::get<0>(place_F.sort()), at::arange(rows, at::kLong));
    std::vector<std::pair<std::string, at::Tensor>> contents;
    contents.emplace_back("node_id", at::arange(first, first + rows, at::kLong));
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const at::Tensor received = exchange(columns[c].detach().index_select(0, sent_rows).cpu());
      at::Tensor column_FD = at::empty_like(received);
      if (complete) column_FD.index_copy_(0, place_F, received);
      contents.emplace_back(kNames[c], column_FD);
    }
    if (!complete) {
      throw DataError("{}: not every node from {} to {} is owned by exactly one rank",
                      directory.string(), first, first + rows - 1);
    }
    // A rank that can't write goes on exchanging, so that the others don't wait for it.
    try {
      if (round + world.rank() < files && !failure)
        write_safetensors(directory / file_name(round + world.rank(), files), contents);
    } catch (...) {
      failure = std::current_exception();
    }
  }
  world.barrier();
  if (failure) std::rethrow_exception(failure);
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
    if (!at::equal(node_F, at::arange(next, next + rows, at::kLong))) {
      throw DataError("{}: node_id is not the range that starts at {}, where the file before ends",
                      path.string(), next);
    }
    const auto* last = std::lower_bound(ids + read, ids + count, next + rows);
    const std::int64_t wanted = last - (ids + read);
    const at::Tensor from = ids_n.narrow(0, read, wanted) - next;
    const at::Tensor to = order_n.narrow(0, read, wanted);
    for (std::size_t c = 0; c < result.size(); ++c) {
      const bool present = file.contains(kNames[c]);
      if (c > 0 && next > 0 && present != result[c].defined()) {
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
      const at::Tensor picked = column_FD.index_select(0, from).to(dtype);
      if (!at::isfinite(picked).all().item<bool>()) {
        const at::Tensor bad = at::isfinite(picked).all(1).logical_not().nonzero();
        throw DataError("{}: {} of node {} is not finite", path.string(), kNames[c],
                        next + from[bad[0][0].item<std::int64_t>()].item<std::int64_t>());
      }
      result[c].index_copy_(0, to, picked);
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
