#include "model/embedding_table.hpp"

#include <algorithm>
#include <span>

namespace graphlora {
namespace {

// Rows whose squared norm is taken at once: bounds the temporaries.
constexpr std::int64_t kNormRows = 4096;

}  // namespace

void EmbeddingGradient::set_sparse(const at::Tensor& rows_S, const at::Tensor& values_SD) {
  const auto [sorted, order] =
      at::sort(rows_S, /*stable=*/std::optional(true), /*dim=*/0, /*descending=*/false);
  const auto [unique, inverse, counts] = at::unique_consecutive(sorted, /*return_inverse=*/true);
  sparse_rows_S = unique;
  sparse_SD = at::zeros({unique.size(0), values_SD.size(1)}, values_SD.options());
  // index_add_ walks its index in order, so that equal rows are summed in the order given.
  sparse_SD.index_add_(0, inverse, values_SD.index_select(0, order));
}

double EmbeddingGradient::squared_norm() const {
  double sum = 0;
  if (dense_nD.defined()) {
    const std::int64_t n = dense_nD.size(0);
    const at::Tensor buffer_bD =
        at::empty({std::min(kNormRows, n), dense_nD.size(1)}, dense_nD.options());
    for (std::int64_t begin = 0; begin < n; begin += kNormRows) {
      const std::int64_t end = std::min(begin + kNormRows, n);
      at::Tensor rows_bD = buffer_bD.slice(0, 0, end - begin);
      rows(begin, end, rows_bD);
      sum += rows_bD.square_().sum(at::kDouble).item<double>();
    }
    return sum;
  }
  if (low_rank_nr.defined()) {
    const at::Tensor gram_rr = at::mm(factor_rD, factor_rD.t());
    const std::int64_t n = low_rank_nr.size(0);
    for (std::int64_t begin = 0; begin < n; begin += kNormRows) {
      const at::Tensor p_br = low_rank_nr.slice(0, begin, std::min(begin + kNormRows, n));
      sum += (at::mm(p_br, gram_rr) * p_br).sum(at::kDouble).item<double>();
    }
    if (sparse_rows_S.defined()) {
      const at::Tensor p_Sr = low_rank_nr.index_select(0, sparse_rows_S);
      sum += 2 * (at::mm(p_Sr, factor_rD) * sparse_SD).sum(at::kDouble).item<double>();
    }
  }
  if (sparse_SD.defined()) sum += sparse_SD.square().sum(at::kDouble).item<double>();
  return sum;
}

void EmbeddingGradient::rows(std::int64_t begin, std::int64_t end, at::Tensor& out) const {
  if (low_rank_nr.defined()) {
    at::mm_out(out, low_rank_nr.slice(0, begin, end), factor_rD);
    if (dense_nD.defined()) out.add_(dense_nD.slice(0, begin, end));
  } else if (dense_nD.defined()) {
    out.copy_(dense_nD.slice(0, begin, end));
  } else {
    out.zero_();
  }
  if (!sparse_rows_S.defined()) return;
  const std::span<const std::int64_t> rows(sparse_rows_S.const_data_ptr<std::int64_t>(),
                                           sparse_rows_S.numel());
  const auto first = std::lower_bound(rows.begin(), rows.end(), begin) - rows.begin();
  const auto last = std::lower_bound(rows.begin(), rows.end(), end) - rows.begin();
  if (first < last) {
    out.index_add_(0, sparse_rows_S.slice(0, first, last) - begin, sparse_SD.slice(0, first, last));
  }
}

void EmbeddingGradient::scale_(double factor) {
  if (low_rank_nr.defined()) low_rank_nr.mul_(factor);
  if (dense_nD.defined()) dense_nD.mul_(factor);
  if (sparse_SD.defined()) sparse_SD.mul_(factor);
}

}  // namespace graphlora
