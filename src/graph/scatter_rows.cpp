#include "graph/scatter_rows.hpp"

#include "graph/row_sum.hpp"

namespace graphlora {

RowTotals sum_equal_rows(const at::Tensor& rows_S, const at::Tensor& values_SC) {
  TORCH_CHECK(rows_S.is_cpu() && rows_S.dim() == 1 && rows_S.scalar_type() == at::kLong &&
                  values_SC.dim() == 2 && values_SC.size(0) == rows_S.size(0) &&
                  rows_S.size(0) <= std::numeric_limits<std::int32_t>::max(),
              "sum_equal_rows: rows and values do not fit");
  const auto [sorted_S, order_S] =
      at::sort(rows_S, /*stable=*/std::optional(true), /*dim=*/0, /*descending=*/false);
  const auto [rows_U, inverse_S, counts_U] = at::unique_consecutive(
      sorted_S, /*return_inverse=*/false, /*return_counts=*/true, /*dim=*/std::nullopt);
  const at::Tensor pointers = at::zeros({rows_U.size(0) + 1}, at::kLong);
  pointers.slice(0, 1).copy_(counts_U.cumsum(0));
  const RowLists lists = make_row_lists(DeviceTensor(pointers), DeviceTensor(order_S.to(at::kInt)));
  RowTotals totals{rows_U, at::empty({rows_U.size(0), values_SC.size(1)}, values_SC.options())};
  row_sum(lists, values_SC.contiguous(), values_SC.size(0), {}, totals.sums_UC, 0, rows_U.size(0));
  return totals;
}

void add_rows(at::Tensor target_nC, const at::Tensor& rows_S, const at::Tensor& values_SC) {
  const RowTotals totals = sum_equal_rows(rows_S, values_SC);
  // Each row once: the order of what runs side by side does not matter.
  target_nC.index_add_(0, totals.rows_U.to(target_nC.device()), totals.sums_UC);
}

}  // namespace graphlora
