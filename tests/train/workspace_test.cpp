// Opening a damaged partition: every rank learns of it, one prints it.
#include "train/workspace.hpp"

#include <gtest/gtest.h>

#include <fstream>

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

/// Message of the error that opening agrees on; "no error".
std::string opening_error(const std::filesystem::path& data) {
  PartitionConfig partition;
  partition.cut = "fold";
  partition.groups = 3;
  testing::internal::CaptureStderr();
  std::string message = "no error";
  try {
    const Workspace workspace(job(), data, partition);
  } catch (const AgreedError& error) {
    message = error.what();
  }
  testing::internal::GetCapturedStderr();
  return message;
}

TEST(Workspace, ADamagedDatasetIsFoundByOneRankForAll) {
  const SharedDataset shared;
  EXPECT_EQ(opening_error(shared.path()), "no error");
  job().agree([&] {
    if (world().rank() != 0) return;
    // The last byte of the splits: still of the right size.
    const auto path = shared.path() / "interactions.safetensors";
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put(7);
  });
  const std::string message = opening_error(shared.path());
  EXPECT_NE(message.find("interactions.safetensors"), std::string::npos) << message;
}

TEST(Workspace, AMissingOrderIsAgreedOn) {
  const SharedDataset shared;
  EXPECT_EQ(opening_error(shared.path()), "no error");
  job().agree([&] {
    if (world().rank() != 0) return;
    std::filesystem::remove(shared.path() / fmt::format("partition-{}", world().size()) /
                            "order.safetensors");
  });
  const std::string message = opening_error(shared.path());
  EXPECT_NE(message.find("order.safetensors"), std::string::npos) << message;
}

}  // namespace
}  // namespace graphlora::test
