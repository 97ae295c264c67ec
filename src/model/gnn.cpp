#include "model/gnn.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "model/layered_gnn.hpp"
#include "model/lightgcn.hpp"

namespace graphlora {

GnnConfig resolved(GnnConfig config, std::int64_t embedding_width) {
  if (std::find(kGnnTypes.begin(), kGnnTypes.end(), config.type) == kGnnTypes.end()) {
    throw ConfigError("--gnn.type {}: is not known; choose one of {}", config.type,
                      fmt::join(kGnnTypes, ", "));
  }
  if (config.type == "none") return config;
  const bool deep = config.type == "lightgcn" || config.type == "ngcf";
  if (config.layers < 0) config.layers = deep ? 3 : 2;
  if (!deep && config.layers != 2)
    throw ConfigError("--gnn.layers {}: {} has 2 layers", config.layers, config.type);
  if (config.type == "ngcf" && config.layers < 1)
    throw ConfigError("--gnn.layers 0: ngcf needs at least one");
  if (config.type == "lightgcn" && config.hidden != 0)
    throw ConfigError("--gnn.hidden {}: lightgcn has nothing between its layers", config.hidden);
  if (config.type != "gat" && config.heads != 1)
    throw ConfigError("--gnn.heads {}: {} has no attention heads", config.heads, config.type);
  const bool frontier =
      config.mode == "frontier" || (config.mode == "auto" && config.type != "lightgcn");
  if (config.hops > 0 && (!frontier || config.hops > config.layers)) {
    throw ConfigError("--gnn.hops {}: {}", config.hops,
                      frontier ? fmt::format("{} layers reach no further than {} edges",
                                             config.layers, config.layers)
                               : std::string("is for --gnn.mode frontier"));
  }
  if (config.hidden == 0 && config.type != "lightgcn") config.hidden = embedding_width;
  if (config.type == "gat" && config.hidden % config.heads != 0)
    throw ConfigError("--gnn.hidden {}: must be a multiple of --gnn.heads {}", config.hidden,
                      config.heads);
  return config;
}

std::unique_ptr<Gnn> make_gnn(const GnnConfig& given, std::int64_t embedding_width,
                              const at::TensorOptions& options, std::uint64_t seed) {
  const GnnConfig config = resolved(given, embedding_width);
  if (config.type == "none") return nullptr;
  if (config.type == "lightgcn") return make_lightgcn(config, embedding_width, options, seed);
  return make_layered_gnn(config, embedding_width, options, seed);
}

at::Tensor normalize_rows(const at::Tensor& g_Sr, const at::Tensor& degree_S, double scale) {
  const at::Tensor norm_S1 = at::linalg_vector_norm(g_Sr, 2, 1, /*keepdim=*/true).clamp_min(1e-12);
  const at::Tensor connected_S1 = (degree_S > 0).unsqueeze(1).to(g_Sr.options());
  return g_Sr / norm_S1 * (scale * connected_S1);
}

}  // namespace graphlora
