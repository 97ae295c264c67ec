#include "graph/row_sum.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/device_loop.hpp"
#include "graph/spmm_cuda.hpp"

namespace graphlora {
namespace {

// Widest first; a narrow result takes one pass over the index, a wide one a pass per 32 columns,
// during which the row's part of the index stays in the cache.
template <class T>
void sum_rows(const RowSum<T>& sum, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i) {
    std::int64_t column = 0;
    for (; column + 32 <= sum.width; column += 32) sum_row<32>(sum, i, column);
    for (; column + 8 <= sum.width; column += 8) sum_row<8>(sum, i, column);
    for (; column < sum.width; ++column) sum_row<1>(sum, i, column);
  }
}

// Row by row as on CUDA: long ones in parts.
template <class T>
void sum_rows_in_parts(const RowSum<T>& sum, std::int64_t first, std::int64_t last) {
  constexpr int kParts = 32;
  T parts[kParts];
  for (std::int64_t i = first; i < last; ++i) {
    for (std::int64_t column = 0; column < sum.width; ++column) {
      if (row_entries(sum, i) < kLongRow) {
        sum_row<1>(sum, i, column);
        continue;
      }
      for (int part = 0; part < kParts; ++part)
        parts[part] = part_sum(sum, i, column, part, kParts);
      finish_parts(sum, i, column, parts, kParts, 1);
    }
  }
}

template <class T>
RowSum<T> arguments(const RowLists& lists, const at::Tensor& x_mC, std::int64_t limit,
                    const at::Tensor& init_kC, const at::Tensor& out_kC) {
  const at::Tensor& pointers = lists.pointers.to(x_mC.device());
  const at::Tensor& index = lists.index.to(x_mC.device());
  RowSum<T> sum;
  sum.x = x_mC.const_data_ptr<T>();
  sum.pointers = pointers.const_data_ptr<std::int64_t>();
  sum.stride = lists.stride;
  sum.drop_begin = lists.drop.drop_begin;
  sum.drop_end = lists.drop.drop_end;
  sum.groups = lists.groups;
  sum.index = index.const_data_ptr<std::int32_t>();
  sum.index_size = index.numel();
  sum.init = init_kC.defined() ? init_kC.const_data_ptr<T>() : nullptr;
  sum.out = out_kC.mutable_data_ptr<T>();
  sum.width = x_mC.size(1);
  sum.limit = static_cast<std::int32_t>(limit);
  return sum;
}

}  // namespace

void row_sum(const RowLists& lists, const at::Tensor& x_mC, std::int64_t limit,
             const at::Tensor& init_kC, const at::Tensor& out_kC, std::int64_t first,
             std::int64_t last) {
  TORCH_CHECK(x_mC.is_contiguous() && out_kC.is_contiguous() && x_mC.size(1) == out_kC.size(1) &&
                  out_kC.size(0) == lists.rows && first >= 0 && last <= lists.rows &&
                  limit <= x_mC.size(0) && x_mC.device() == out_kC.device() &&
                  x_mC.scalar_type() == out_kC.scalar_type(),
              "row_sum: shapes, types or devices do not fit");
  if (first >= last || x_mC.size(1) == 0) return;
  AT_DISPATCH_FLOATING_TYPES(x_mC.scalar_type(), "row_sum", [&] {
    const auto sum = arguments<scalar_t>(lists, x_mC, limit, init_kC, out_kC);
    on_device(
        x_mC.device(), "row_sum",
        [&]([[maybe_unused]] CudaStream stream) {
#ifdef GRAPHLORA_HAS_CUDA
          sum_rows_cuda(sum, first, last, stream);
#endif
        },
        [&] {
          if (takes_device_path(x_mC, Shortcut::graph_sums))
            return sum_rows_in_parts(sum, first, last);
          const auto& blocks = lists.blocks;
          const auto count = static_cast<std::int64_t>(blocks.size()) - 1;
          at::parallel_for(0, count, 1, [&](std::int64_t from, std::int64_t to) {
            sum_rows(sum, std::max(first, blocks[from]), std::min(last, blocks[to]));
          });
        });
  });
}

}  // namespace graphlora
