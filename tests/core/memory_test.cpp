#include "core/memory.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace graphlora {
namespace {

// By libc's allocator: tests are linked without tcmalloc (docs/adr/0010-tcmalloc.md).
TEST(Memory, WhatIsFreeIsGivenBack) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
#endif
  constexpr std::size_t kBlock = std::size_t{1} << 16, kBlocks = 2048;
  const std::int64_t before = resident_memory_bytes();
  std::vector<std::unique_ptr<char[]>> blocks(kBlocks);
  for (auto& block : blocks) block = std::make_unique<char[]>(kBlock);
  const std::int64_t taken = resident_memory_bytes() - before;
  EXPECT_GE(taken, static_cast<std::int64_t>(kBlock * kBlocks) / 8 * 7);  // some was there
  for (auto& block : blocks) block.reset();
  release_free_memory();
  EXPECT_LE(resident_memory_bytes() - before, taken / 8);
}

TEST(Memory, OfThisProcessIsPartOfTheMachines) {
  const std::int64_t resident = resident_memory_bytes();
  EXPECT_GT(resident, 0);
  EXPECT_GE(peak_memory_bytes(), resident / 2);
  EXPECT_LE(resident, total_memory_bytes());
  EXPECT_LE(available_memory_bytes(), total_memory_bytes());
}

}  // namespace
}  // namespace graphlora
