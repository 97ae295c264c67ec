// Embeddings on disk, whatever the number of ranks: files of contiguous ranges of node ids, at most
// 1 GiB each.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

/// Writes embeddings-KKKKK-of-SSSSS.safetensors (node_id i64[n], weight [n,d], exp_avg, exp_avg_sq
/// where defined) into an existing directory; `owned` are the node ids of the table's rows. File k
/// is written by rank k mod P; every rank sends its rows of the range. Same bytes at any P.
/// Collective; all files are written when it returns. Throws DataError: one of writing only after
/// the last exchange, so that Job::agree may stand around it.
void write_embeddings(Communicator& world, const std::filesystem::path& directory,
                      const NodeMap& map, const at::Tensor& owned, const EmbeddingTable& table,
                      std::int64_t max_file_bytes = 1LL << 30);

/// One file of such a directory, in memory on the CPU.
struct EmbeddingFile {
  std::string name;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
};

/// The files that write_embeddings would have this rank write, whose rows are copies. Collective;
/// throws DataError as it does.
std::vector<EmbeddingFile> copy_embeddings(Communicator& world, const NodeMap& map,
                                           const at::Tensor& owned, const EmbeddingTable& table,
                                           std::int64_t max_file_bytes = 1LL << 30);

/// Bytes of the rows that copy_embeddings keeps on this rank. Local.
std::int64_t copied_embedding_bytes(const Communicator& world, std::int64_t nodes,
                                    const EmbeddingTable& table, bool moments,
                                    std::int64_t max_file_bytes = 1LL << 30);

/// Reads the rows of `owned` from such a directory into a table of `dtype`; moments are read where
/// present, else left undefined. Throws DataError (missing ranges, wrong width, NaN). Local.
EmbeddingTable read_embeddings(const std::filesystem::path& directory, const at::Tensor& owned,
                               std::int64_t nodes, at::ScalarType dtype);

}  // namespace graphlora
