// Embeddings on disk: the same bytes at any number of ranks, and what hostile directories do.
#include "train/embedding_store.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "support/temporary_directory.hpp"
#include "support/tiny_world.hpp"

namespace graphlora {
namespace {

using test::SharedDirectory;
using test::world;

constexpr std::int64_t kNodes = 41, kWidth = 5;

/// Node ids of a rank, in scrambled order; rank 1 of several owns nothing.
at::Tensor owned_by(int rank, int ranks) {
  std::vector<std::int64_t> nodes;
  const KeyedPermutation order(kNodes, 5);
  for (std::int64_t i = 0; i < kNodes; ++i) {
    const auto node = static_cast<std::int64_t>(order(i));
    int owner = static_cast<int>(splitmix64(node) % ranks);
    if (owner == 1) owner = ranks - 1 == 1 ? 0 : ranks - 1;
    if (owner == rank) nodes.push_back(node);
  }
  return at::tensor(nodes, at::kLong);
}

/// Rows that tell node, column and tensor apart.
at::Tensor rows_of(const at::Tensor& nodes, double offset, at::ScalarType dtype) {
  return (nodes.to(at::kDouble).unsqueeze(1) * 100 + at::arange(kWidth, at::kDouble) + offset)
      .to(dtype);
}

EmbeddingTable table_of(const at::Tensor& nodes, at::ScalarType dtype, bool moments) {
  EmbeddingTable table;
  table.weight_nD = rows_of(nodes, 0.5, dtype);
  if (moments) {
    table.exp_avg_nD = rows_of(nodes, 0.25, dtype);
    table.exp_avg_sq_nD = rows_of(nodes, 0.75, dtype);
  }
  return table;
}

/// Writes the table of all nodes by the ranks of `communicator`.
void write(Communicator& communicator, const std::filesystem::path& directory, bool moments,
           std::int64_t max_bytes, at::ScalarType dtype = at::kFloat) {
  const at::Tensor owned = owned_by(communicator.rank(), communicator.size());
  const NodeMap map(communicator, owned, kNodes);
  write_embeddings(communicator, directory, map, owned, table_of(owned, dtype, moments), max_bytes);
}

std::map<std::string, std::string> checksums(const std::filesystem::path& directory) {
  std::map<std::string, std::string> sums;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    sums[entry.path().filename().string()] = sha256_file(entry.path());
  return sums;
}

// A file's limit counts 4096 bytes for its header; a row takes 8 + 3 · 4 · 5 bytes with moments.
constexpr std::int64_t kSevenRows = 4096 + 7 * (8 + 60);

TEST(EmbeddingStore, SameBytesAtAnyNumberOfRanks) {
  for (const bool moments : {false, true}) {
    for (const std::int64_t max_bytes : {std::int64_t{1}, kSevenRows, std::int64_t{1} << 30}) {
      const SharedDirectory together(world());
      const TemporaryDirectory alone;
      write(world(), together.path(), moments, max_bytes);
      const auto single = world().split(world().rank(), 0);
      write(*single, alone.path(), moments, max_bytes);
      EXPECT_EQ(checksums(together.path()), checksums(alone.path()));
      const std::size_t files = max_bytes == 1               ? kNodes
                                : max_bytes > 4 * kSevenRows ? 1
                                : moments                    ? 6
                                                             : 3;
      EXPECT_EQ(checksums(alone.path()).size(), files);
    }
  }
}

TEST(EmbeddingStore, ReadsBackWhatEachRankOwns) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (const bool moments : {false, true}) {
      const SharedDirectory directory(world());
      write(world(), directory.path(), moments, kSevenRows, dtype);
      // Another distribution than the one that wrote.
      const at::Tensor owned = owned_by(world().size() - 1 - world().rank(), world().size());
      const EmbeddingTable table = read_embeddings(directory.path(), owned, kNodes, dtype);
      const EmbeddingTable expected = table_of(owned, dtype, moments);
      EXPECT_TRUE(at::equal(table.weight_nD, expected.weight_nD));
      EXPECT_EQ(table.exp_avg_nD.defined(), moments);
      EXPECT_EQ(table.exp_avg_sq_nD.defined(), moments);
      if (!moments) continue;
      EXPECT_TRUE(at::equal(table.exp_avg_nD, expected.exp_avg_nD));
      EXPECT_TRUE(at::equal(table.exp_avg_sq_nD, expected.exp_avg_sq_nD));
    }
  }
}

TEST(EmbeddingStore, RowsOfManyBlocks) {
  // Rows of 240 KB: a file is written, and read, in several blocks of 4 MiB.
  constexpr std::int64_t kWide = 60000;
  const auto wide = [](const at::Tensor& nodes, double offset) {
    return (nodes.to(at::kFloat).unsqueeze(1) * 7 + at::arange(kWide, at::kFloat) + offset);
  };
  const SharedDirectory directory(world());
  {
    const at::Tensor owned = owned_by(world().rank(), world().size());
    const NodeMap map(world(), owned, kNodes);
    EmbeddingTable table;
    table.weight_nD = wide(owned, 0);
    table.exp_avg_nD = wide(owned, 1);
    table.exp_avg_sq_nD = wide(owned, 2);
    write_embeddings(world(), directory.path(), map, owned, table, 30 * (8 + 3 * 4 * kWide));
  }
  const at::Tensor owned = owned_by(world().size() - 1 - world().rank(), world().size());
  const EmbeddingTable table = read_embeddings(directory.path(), owned, kNodes, at::kFloat);
  EXPECT_EQ(checksums(directory.path()).size(), 2u);
  EXPECT_TRUE(at::equal(table.weight_nD, wide(owned, 0)));
  EXPECT_TRUE(at::equal(table.exp_avg_nD, wide(owned, 1)));
  EXPECT_TRUE(at::equal(table.exp_avg_sq_nD, wide(owned, 2)));
}

TEST(EmbeddingStore, ConvertsToTheTypeAskedFor) {
  const SharedDirectory directory(world());
  write(world(), directory.path(), false, 1 << 20);
  const at::Tensor owned = owned_by(world().rank(), world().size());
  const EmbeddingTable table = read_embeddings(directory.path(), owned, kNodes, at::kDouble);
  EXPECT_EQ(table.weight_nD.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(table.weight_nD, rows_of(owned, 0.5, at::kDouble)));
}

TEST(EmbeddingStore, UnwritableDirectoryIsAnErrorOnItsWriters) {
  const TemporaryDirectory directory;
  const std::int64_t rows_each = kNodes / 2 + 1;  // two files
  bool failed = false;
  try {
    write(world(), directory / "missing", false, 4096 + rows_each * (8 + 20));
  } catch (const DataError&) {
    failed = true;
  }
  EXPECT_EQ(failed, world().rank() < 2);
  world().barrier();
}

/// Message of the error that reading by all ranks' nodes throws; "" if none.
std::string reading_error(const std::filesystem::path& directory, std::int64_t nodes = kNodes) {
  try {
    read_embeddings(directory, at::arange(kNodes, at::kLong), nodes, at::kFloat);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "";
}

/// Each rank on its own: reading is local.
class HostileStore : public ::testing::Test {
 protected:
  HostileStore() {
    const auto single = world().split(world().rank(), 0);
    write(*single, directory_.path(), true, kSevenRows);
  }
  std::filesystem::path file(int index) const {
    return directory_ / fmt::format("embeddings-{:05d}-of-00006.safetensors", index);
  }
  /// Writes file `index` anew with one tensor replaced (undefined: left out).
  void replace(int index, const std::string& name, const at::Tensor& value) const {
    std::vector<std::pair<std::string, at::Tensor>> contents;
    {
      const SafetensorsReader reader(file(index));
      for (const char* tensor : {"node_id", "weight", "exp_avg", "exp_avg_sq"}) {
        const at::Tensor kept = tensor == name ? value : reader.tensor(tensor).clone();
        if (kept.defined()) contents.emplace_back(tensor, kept);
      }
    }
    write_safetensors(file(index), contents);
  }
  void expect_error(const std::string& text) const {
    const std::string message = reading_error(directory_.path());
    EXPECT_NE(message.find(text), std::string::npos)
        << "'" << message << "' lacks '" << text << "'";
  }
  TemporaryDirectory directory_;
};

TEST_F(HostileStore, IntactOnePasses) { EXPECT_EQ(reading_error(directory_.path()), ""); }

TEST_F(HostileStore, MissingDirectoryOrFiles) {
  EXPECT_NE(reading_error(directory_ / "nowhere").find("no such directory"), std::string::npos);
  std::filesystem::remove(file(3));
  expect_error("embeddings-00003-of-00006.safetensors: missing");
  for (int i = 0; i < 6; ++i) std::filesystem::remove(file(i));
  expect_error("no embeddings-00000-of-00001.safetensors there");
}

TEST_F(HostileStore, FilesOfAnotherSet) {
  std::filesystem::copy_file(file(0), directory_ / "embeddings-00000-of-00007.safetensors");
  expect_error("does not belong");
  std::filesystem::remove(directory_ / "embeddings-00000-of-00007.safetensors");
  std::filesystem::copy_file(file(0), directory_ / "embeddings-00009-of-00006.safetensors");
  expect_error("does not belong");
}

TEST_F(HostileStore, OtherNamesAreIgnored) {
  directory_.write("embeddings-00000-of-00006.safetensors.tmp-12", "x");
  directory_.write("embeddings-x-of-00006.safetensors", "x");
  EXPECT_EQ(reading_error(directory_.path()), "");
}

TEST_F(HostileStore, TruncatedFile) {
  std::filesystem::resize_file(file(2), std::filesystem::file_size(file(2)) - 1);
  expect_error(file(2).string());
}

TEST_F(HostileStore, OverlapAndGap) {
  replace(1, "node_id", at::arange(6, 13, at::kLong));
  expect_error("node_id is not the range that starts at 7");
  replace(1, "node_id", at::arange(8, 15, at::kLong));
  expect_error("node_id is not the range that starts at 7");
}

TEST_F(HostileStore, OtherNumberOfNodes) {
  EXPECT_NE(reading_error(directory_.path(), kNodes + 1).find("the dataset has 42"),
            std::string::npos);
}

TEST_F(HostileStore, WrongShapesAndTypes) {
  replace(1, "weight", at::ones({7, kWidth + 1}));
  expect_error("weight is Float [7, 6], expected float [7, 5]");
  replace(1, "weight", at::ones({6, kWidth}));
  expect_error("weight is Float [6, 5]");
  replace(1, "weight", at::ones({7 * kWidth}));
  expect_error("weight is Float [35]");
  replace(1, "weight", at::ones({7, kWidth}, at::kLong));
  expect_error("weight is Long");
  replace(1, "weight", at::Tensor());
  expect_error("weight");
}

TEST_F(HostileStore, MomentsInSomeFilesOnly) {
  replace(1, "exp_avg", at::Tensor());
  expect_error("exp_avg is in some of the embedding files");
  for (const int i : {0, 2, 3, 4, 5}) replace(i, "exp_avg", at::Tensor());
  expect_error("exp_avg without exp_avg_sq");
}

TEST_F(HostileStore, NotFiniteIsNamed) {
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    at::Tensor weight = at::ones({7, kWidth});
    weight[4][1] = value;
    replace(1, "weight", weight);
    expect_error("weight of node 11 is not finite");
  }
}

}  // namespace
}  // namespace graphlora
