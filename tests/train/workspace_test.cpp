// Opening a damaged partition: every rank learns of it, one prints it.
#include "train/workspace.hpp"

#include <gtest/gtest.h>

#include "core/safetensors.hpp"
#include "graph/bipartite_graph.hpp"
#include "support/tiny_world.hpp"

namespace graphlora::test {
namespace {

/// Makes a part of one node claim another part's node in its place.
void claim(const std::filesystem::path& part, std::int64_t node) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const SafetensorsReader reader(part);
  for (const auto& [name, entry] : reader.entries()) {
    tensors.emplace_back(name, reader.tensor(name).clone());
    if (name == "owned") tensors.back().second.fill_(node);
  }
  write_safetensors(part, tensors, reader.metadata());
}

TEST(Workspace, NodesOwnedTwiceAreAgreedOn) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  SharedDirectory directory(world());
  const auto data = directory.path() / "dataset";
  PartitionConfig partition;
  partition.parts = world().size();
  partition.cut = "fold";
  partition.groups = 3;
  job().agree([&] {
    if (world().rank() != 0) return;
    write_tiny_dataset(data, 23, 17, "user-time");
    const Dataset dataset(data);
    const CutRule cut(dataset, CutKind::fold, 3);
    const BipartiteGraph graph = build_training_graph(dataset, cut);
    std::int64_t lonely = 0;  // without edges, its part checks whatever it is called
    while (graph.degree(lonely) > 0) ++lonely;
    std::vector<std::int32_t> owner(graph.nodes, world().size() - 1);
    owner[lonely] = 0;
    const auto parts = partition_directory(dataset, world().size());
    write_partition(dataset, partition, cut, graph, owner, parts);
    claim(parts / "part-00000.safetensors", lonely == 0 ? 1 : 0);
  });

  testing::internal::CaptureStderr();
  std::string message = "no error";
  try {
    const Workspace workspace(job(), data, partition);
  } catch (const AgreedError& error) {
    message = error.what();
  }
  const std::string printed = testing::internal::GetCapturedStderr();
  const std::string parts = (data / fmt::format("partition-{}: node ", world().size())).string();
  EXPECT_EQ(message.find(parts), 0u) << message;
  EXPECT_NE(message.find("is owned twice"), std::string::npos) << message;
  EXPECT_EQ(printed.find("error: ") != std::string::npos, world().rank() == 0) << printed;
}

}  // namespace
}  // namespace graphlora::test
