#include "model/llm_flops.hpp"

namespace graphlora {
namespace {

constexpr double kPasses = 2, kFlops = 2;
// Attention's forward has two products, its backward five.
constexpr double kAttentionProducts = 7;

}  // namespace

double linear_flops(const LlamaConfig& c, const ModelSlice& slice) {
  const auto hidden = static_cast<double>(c.hidden_size);
  const auto q = static_cast<double>(slice.heads * c.head_dim),
             kv = static_cast<double>(slice.groups * c.head_dim),
             columns = static_cast<double>(slice.columns);
  const double layer = hidden * (2 * q + 2 * kv + 3 * columns);
  return kPasses * kFlops * (static_cast<double>(c.layers - 1) * layer + 2 * kv * hidden);
}

double attention_flops(const LlamaConfig& c, const ModelSlice& slice, double length) {
  // A token sees half of the others.
  return kAttentionProducts * kFlops * static_cast<double>(slice.heads * c.head_dim) * 0.5 *
         length * static_cast<double>(c.layers - 1);
}

}  // namespace graphlora
