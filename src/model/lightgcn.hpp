// LightGCN with its neck (He et al. 2020, eq. 8): g = W_neck·mean(e⁰…eᴸ) + b, eᵏ⁺¹ = S·eᵏ.
#pragma once
#include "model/gnn.hpp"

namespace graphlora {

/// Linear in E, so E·W_neckᵀ is what travels: r columns instead of D.
std::unique_ptr<Gnn> make_lightgcn(const GnnConfig& config, std::int64_t embedding_width,
                                   const at::TensorOptions& options, std::uint64_t seed);

}  // namespace graphlora
