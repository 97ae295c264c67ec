#include "model/embedding_table.hpp"

#include <gtest/gtest.h>

namespace graphlora {
namespace {

TEST(EmbeddingGradient, NormAndRowsEqualTheMaterializedSum) {
  at::manual_seed(4);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const std::int64_t n = 13, width = 6, rank = 3;
  for (const bool low_rank : {false, true}) {
    for (const int parts : {0, 1, 2, 3}) {
      const bool sparse = (parts & 1) != 0;
      EmbeddingGradient gradient;
      at::Tensor dense = at::zeros({n, width}, options);
      if ((parts & 2) != 0) {
        gradient.dense_nD = at::randn({n, width}, options);
        dense += gradient.dense_nD;
      }
      if (low_rank) {
        gradient.low_rank_nr = at::randn({n, rank}, options);
        gradient.factor_rD = at::randn({rank, width}, options);
        dense += at::mm(gradient.low_rank_nr, gradient.factor_rD);
      }
      if (sparse) {
        const at::Tensor rows = at::tensor({7, 2, 7, 12, 2, 7, 0}, at::kLong),
                         values = at::randn({7, width}, options);
        gradient.set_sparse(rows, values);
        dense.index_add_(0, rows, values);
      }
      const double norm = dense.square().sum().item<double>();
      EXPECT_NEAR(gradient.squared_norm(), norm, 1e-12 * (1 + norm));
      for (const auto& [begin, end] :
           {std::pair(0, 13), std::pair(3, 8), std::pair(12, 13), std::pair(5, 5)}) {
        at::Tensor out = at::full({end - begin, width}, 99.0, options);
        gradient.rows(begin, end, out);
        EXPECT_TRUE(at::allclose(out, dense.slice(0, begin, end), 1e-12, 1e-12))
            << begin << " to " << end;
      }
      gradient.scale_(0.25);
      EXPECT_NEAR(gradient.squared_norm(), norm / 16, 1e-12 * (1 + norm));
    }
  }
}

TEST(EmbeddingGradient, NoRowsAtAll) {
  EmbeddingGradient gradient;
  gradient.set_sparse(at::empty({0}, at::kLong), at::empty({0, 4}, at::kFloat));
  EXPECT_EQ(gradient.squared_norm(), 0);
  at::Tensor out = at::ones({2, 4});
  gradient.rows(0, 2, out);
  EXPECT_EQ(out.abs().sum().item<float>(), 0);
}

}  // namespace
}  // namespace graphlora
