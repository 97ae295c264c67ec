#include "core/primitive_cache.hpp"

#include <gtest/gtest.h>
#include <malloc.h>
#include <torch/types.h>

namespace graphlora {
namespace {

std::int64_t allocated_bytes() {
  const auto info = mallinfo2();
  return static_cast<std::int64_t>(info.uordblks + info.hblkhd);
}

/// Of as many bf16 products, each of a length of its own.
void multiply(std::int64_t first_length, std::int64_t lengths) {
  const at::Tensor weight_II = at::randn({256, 256}).to(at::kBFloat16);
  for (std::int64_t t = first_length; t < first_length + lengths; ++t)
    at::mm(at::randn({t, 256}).to(at::kBFloat16), weight_II);
}

// Nothing else of this program multiplies in bf16: the caches' sizes are read once.
TEST(PrimitiveCache, DoesNotGrowWithLengths) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator does not count";
#endif
  bound_primitive_cache();
  multiply(100, 32);
  const std::int64_t before = allocated_bytes();
  multiply(200, 200);
  EXPECT_LT(allocated_bytes() - before, std::int64_t{4} << 20);
}

}  // namespace
}  // namespace graphlora
