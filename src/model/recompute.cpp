// Shapes: T tokens, H hidden, A anchors, r rank.
#include "model/recompute.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace graphlora {
namespace {

struct KeptRun : torch::CustomClassHolder {
  std::shared_ptr<const LayerRun> run;
  std::int64_t layer = 0;
};

/// The leaves that a layer trains.
std::vector<at::Tensor> trained_leaves(const LoraAdapters& adapters, std::int64_t layer) {
  std::vector<at::Tensor> leaves;
  const auto add = [&](const at::Tensor& leaf) {
    if (leaf.defined() && leaf.requires_grad()) leaves.push_back(leaf);
  };
  for (std::size_t t = 0; t < kTargetNames.size(); ++t) {
    const LoraFactors& factors = adapters.at(layer, static_cast<Target>(t));
    add(factors.a_rI);
    add(factors.b_Or);
  }
  if (adapters.injects(layer)) {
    add(adapters.lambda_lora());
    add(adapters.lambda_gnn());
  }
  return leaves;
}

/// y = layer(x, z, leaves). Adjoint: the layer's own, of a second run on the same x and z. The
/// leaves are inputs here only so that autograd gives their gradients back to them.
struct RecomputedLayer : torch::autograd::Function<RecomputedLayer> {
  using Tensors = torch::autograd::variable_list;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_TH,
                            const std::optional<at::Tensor>& z_Ar, at::TensorList leaves,
                            const c10::intrusive_ptr<KeptRun>& kept) {
    const LayerRun& run = *kept->run;
    ctx->saved_data["kept"] = at::IValue::make_capsule(kept);
    ctx->saved_data["need_x"] = x_TH.requires_grad();
    ctx->saved_data["need_z"] = z_Ar && z_Ar->requires_grad();
    ctx->saved_data["leaves"] = static_cast<std::int64_t>(leaves.size());
    ctx->save_for_backward({x_TH, z_Ar.value_or(at::Tensor())});
    return run.decoder.layer(kept->layer, x_TH, run.inputs);
  }

  static Tensors backward(torch::autograd::AutogradContext* ctx, Tensors gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto capsule = ctx->saved_data["kept"].toCapsule();
    const auto& kept = static_cast<const KeptRun&>(*capsule);
    const bool need_x = ctx->saved_data["need_x"].toBool(),
               need_z = ctx->saved_data["need_z"].toBool();
    const at::AutoGradMode enabled(true);
    const at::Tensor x_TH = saved[0].detach().requires_grad_(need_x);
    DecoderInputs inputs = kept.run->inputs;
    inputs.ratio_sums_2 = at::Tensor();
    if (saved[1].defined()) inputs.all.z_Ar = saved[1].detach().requires_grad_(need_z);

    std::vector<at::Tensor> wanted = trained_leaves(kept.run->adapters, kept.layer);
    const auto leaves = static_cast<std::ptrdiff_t>(ctx->saved_data["leaves"].toInt());
    TORCH_CHECK(static_cast<std::ptrdiff_t>(wanted.size()) == leaves,
                "recompute: what trains has changed between forward and backward");
    if (need_x) wanted.push_back(x_TH);
    if (need_z) wanted.push_back(inputs.all.z_Ar);
    const at::Tensor y_TH = kept.run->decoder.layer(kept.layer, x_TH, inputs);
    Tensors found = torch::autograd::grad({y_TH}, wanted, {gradients[0]}, std::nullopt,
                                          /*create_graph=*/false, /*allow_unused=*/true);
    Tensors result(2);
    if (need_x) result[0] = found[leaves];
    if (need_z) result[1] = found.back();
    result.insert(result.end(), found.begin(), found.begin() + leaves);
    result.emplace_back();
    return result;
  }
};

}  // namespace

at::Tensor recomputed_layer(const std::shared_ptr<const LayerRun>& run, std::int64_t layer,
                            const at::Tensor& x_TH) {
  auto kept = c10::make_intrusive<KeptRun>();
  kept->run = run;
  kept->layer = layer;
  const at::Tensor& z_Ar = run->inputs.all.z_Ar;
  const bool injects = run->adapters.injects(layer) && z_Ar.defined();
  const std::vector<at::Tensor> leaves = trained_leaves(run->adapters, layer);
  return RecomputedLayer::apply(x_TH, injects ? std::optional(z_Ar) : std::nullopt,
                                at::TensorList(leaves), kept);
}

}  // namespace graphlora
