#include "model/embedding_table.hpp"

#include <algorithm>
#include <span>

#include "graph/scatter_rows.hpp"

namespace graphlora {
namespace {

// Rows whose squared norm is taken at once: bounds the temporaries.
constexpr std::int64_t kNormRows = 4096;

/// The sparse rows' numbers on the host: reading them waits for the device, so once for many calls.
at::Tensor host_rows(const EmbeddingGradient& gradient) {
  return gradient.sparse_rows_S.defined() ? gradient.sparse_rows_S.cpu() : at::Tensor();
}

/// EmbeddingGradient::rows with the result of host_rows.
void write_rows(const EmbeddingGradient& gradient, const at::Tensor& host_rows_S,
                std::int64_t begin, std::int64_t end, at::Tensor& out) {
  const auto& [low_rank_nr, factor_rD, dense_nD, sparse_rows_S, sparse_SD] = gradient;
  if (low_rank_nr.defined()) {
    at::mm_out(out, low_rank_nr.slice(0, begin, end), factor_rD);
    if (dense_nD.defined()) out.add_(dense_nD.slice(0, begin, end));
  } else if (dense_nD.defined()) {
    out.copy_(dense_nD.slice(0, begin, end));
  } else {
    out.zero_();
  }
  if (!sparse_rows_S.defined()) return;
  const std::span<const std::int64_t> rows(host_rows_S.const_data_ptr<std::int64_t>(),
                                           host_rows_S.numel());
  const auto first = std::lower_bound(rows.begin(), rows.end(), begin) - rows.begin();
  const auto last = std::lower_bound(rows.begin(), rows.end(), end) - rows.begin();
  if (first < last) {
    out.index_add_(0, sparse_rows_S.slice(0, first, last) - begin, sparse_SD.slice(0, first, last));
  }
}

}  // namespace

void EmbeddingGradient::set_sparse(const at::Tensor& rows_S, const at::Tensor& values_SD) {
  const RowTotals totals = sum_equal_rows(rows_S.cpu(), values_SD);
  sparse_rows_S = totals.rows_U.to(values_SD.device());
  sparse_SD = totals.sums_UC;
}

double EmbeddingGradient::squared_norm() const {
  // Summed where E is, and read once.
  at::Tensor sum;
  const auto add = [&](const at::Tensor& part) { sum = sum.defined() ? sum + part : part; };
  if (dense_nD.defined()) {
    const std::int64_t n = dense_nD.size(0);
    const at::Tensor buffer_bD =
        at::empty({std::min(kNormRows, n), dense_nD.size(1)}, dense_nD.options());
    const at::Tensor host_rows_S = host_rows(*this);
    for (std::int64_t begin = 0; begin < n; begin += kNormRows) {
      const std::int64_t end = std::min(begin + kNormRows, n);
      at::Tensor rows_bD = buffer_bD.slice(0, 0, end - begin);
      write_rows(*this, host_rows_S, begin, end, rows_bD);
      add(rows_bD.square_().sum(at::kDouble));
    }
    return sum.defined() ? sum.item<double>() : 0;
  }
  if (low_rank_nr.defined()) {
    const at::Tensor gram_rr = at::mm(factor_rD, factor_rD.t());
    const std::int64_t n = low_rank_nr.size(0);
    for (std::int64_t begin = 0; begin < n; begin += kNormRows) {
      const at::Tensor p_br = low_rank_nr.slice(0, begin, std::min(begin + kNormRows, n));
      add((at::mm(p_br, gram_rr) * p_br).sum(at::kDouble));
    }
    if (sparse_rows_S.defined()) {
      const at::Tensor p_Sr = low_rank_nr.index_select(0, sparse_rows_S);
      add(2 * (at::mm(p_Sr, factor_rD) * sparse_SD).sum(at::kDouble));
    }
  }
  if (sparse_SD.defined()) add(sparse_SD.square().sum(at::kDouble));
  return sum.defined() ? sum.item<double>() : 0;
}

void EmbeddingGradient::rows(std::int64_t begin, std::int64_t end, at::Tensor& out) const {
  write_rows(*this, host_rows(*this), begin, end, out);
}

void EmbeddingGradient::scale_(double factor) {
  if (low_rank_nr.defined()) low_rank_nr.mul_(factor);
  if (dense_nD.defined()) dense_nD.mul_(factor);
  if (sparse_SD.defined()) sparse_SD.mul_(factor);
}

}  // namespace graphlora
