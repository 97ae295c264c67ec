#include "train/benchmark/fixed_partition.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"
#include "graph/bipartite_graph.hpp"

namespace graphlora::benchmark {

void write_fixed_partitions(const std::filesystem::path& data, PartitionConfig config,
                            std::span<const std::int64_t> ranks,
                            const std::filesystem::path& directory) {
  const std::int64_t most = *std::max_element(ranks.begin(), ranks.end());
  for (const std::int64_t count : ranks)
    if (most % count != 0)
      throw ConfigError("--scaling fixed: {} parts can't be shared evenly by {} ranks", most,
                        count);
  AtomicDirectory output(directory, "dataset.json");
  for (const auto& entry : std::filesystem::directory_iterator(data)) {
    if (!entry.is_regular_file()) continue;
    std::error_code error;
    std::filesystem::create_symlink(std::filesystem::canonical(entry.path()),
                                    output.path() / entry.path().filename(), error);
    if (error) throw DataError("{}: no link to it: {}", entry.path().string(), error.message());
  }
  const Dataset dataset(data);
  const CutKind kind = config.cut != "auto"        ? parse_cut(config.cut)
                       : dataset.user_time_split() ? CutKind::fold
                                                   : CutKind::window;
  const CutRule cut(dataset, kind, config.groups);
  const BipartiteGraph graph = build_training_graph(dataset, cut);
  config.parts = most;
  const Division finest = partition_nodes(graph, config);
  for (const std::int64_t count : ranks) {
    Division division = finest;
    for (std::int32_t& part : division.owner)
      part = static_cast<std::int32_t>(part / (most / count));
    config.parts = count;
    write_partition(dataset, config, cut, graph, division,
                    output.path() / fmt::format("partition-{}", count));
  }
  output.commit();
}

}  // namespace graphlora::benchmark
