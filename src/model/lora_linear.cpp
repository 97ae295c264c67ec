// Shapes: T tokens, I inputs, O outputs, r rank, K adapted slices, R = K·r, C adapted outputs, A
// anchors.
#include "model/lora_linear.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "core/ceil_div.hpp"
#include "core/device_loop.hpp"
#include "model/dropout_mask.hpp"
#include "model/lora_device.hpp"
#include "model/simd.hpp"

namespace graphlora {
namespace {

using simd::Compute;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kGrain = 16;
/// Rows whose contributions to a weight gradient are summed apart. Fixed, so that the order of the
/// sum does not depend on the number of threads.
constexpr std::int64_t kBlock = 128;
constexpr int kTile = 8;  // ranks held in registers

/// Lanes of a row's mask; ones without dropout.
template <class C>
GRAPHLORA_INLINE Vec<C> load_mask(const float* mask, std::int64_t i) {
  if (mask == nullptr) return simd::broadcast(static_cast<C>(1));
  if constexpr (std::is_same_v<C, float>) {
    return simd::load(mask + i);
  } else {
    Vec<C> m;
    for (std::int64_t lane = 0; lane < kLanes<C>; ++lane) m[lane] = mask[i + lane];
    return m;
  }
}

/// u[q] = Σ_i m_i·x_i·A[q,i] of one row.
template <class T>
GRAPHLORA_CLONES void project_row(const T* x, const float* mask, const Compute<T>* a, Compute<T>* u,
                                  std::int64_t ranks, std::int64_t inputs) {
  using C = Compute<T>;
  for (std::int64_t q = 0; q < ranks; q += kTile) {
    const std::int64_t tile = std::min<std::int64_t>(kTile, ranks - q);
    Vec<C> sums[kTile] = {};
    for (std::int64_t i = 0; i < inputs; i += kLanes<C>) {
      const Vec<C> v = simd::load(x + i, inputs - i) * load_mask<C>(mask, i);
      for (int k = 0; k < tile; ++k)
        sums[k] += v * simd::load(a + (q + k) * inputs + i, inputs - i);
    }
    for (int k = 0; k < tile; ++k) u[q + k] = simd::sum(sums[k]);
  }
}

/// y[o] += Σ_q h[q]·Bᵀ[q,o] on one slice of one row.
template <class T>
GRAPHLORA_CLONES void expand_row(const Compute<T>* h, const Compute<T>* b_transposed, T* y,
                                 std::int64_t rank, std::int64_t outputs) {
  using C = Compute<T>;
  for (std::int64_t o = 0; o < outputs; o += kLanes<C>) {
    Vec<C> v = simd::load(y + o, outputs - o);
    for (std::int64_t q = 0; q < rank; ++q)
      v += h[q] * simd::load(b_transposed + q * outputs + o, outputs - o);
    simd::store(y + o, v, outputs - o);
  }
}

/// Adjoint of expand_row: dh[q] = Σ_o dy[o]·Bᵀ[q,o], and dBᵀ[q,o] += h[q]·dy[o] if asked for.
template <class T>
GRAPHLORA_CLONES void expand_row_backward(const T* dy, const Compute<T>* h,
                                          const Compute<T>* b_transposed, Compute<T>* dh,
                                          Compute<T>* db_transposed, std::int64_t rank,
                                          std::int64_t outputs) {
  using C = Compute<T>;
  for (std::int64_t q = 0; q < rank; q += kTile) {
    const std::int64_t tile = std::min<std::int64_t>(kTile, rank - q);
    Vec<C> sums[kTile] = {};
    for (std::int64_t o = 0; o < outputs; o += kLanes<C>) {
      const Vec<C> v = simd::load(dy + o, outputs - o);
      for (int k = 0; k < tile; ++k) {
        const std::int64_t place = (q + k) * outputs + o;
        sums[k] += v * simd::load(b_transposed + place, outputs - o);
        if (db_transposed != nullptr) {
          simd::store(db_transposed + place,
                      simd::load(db_transposed + place, outputs - o) + v * h[q + k], outputs - o);
        }
      }
    }
    for (int k = 0; k < tile; ++k) dh[q + k] = simd::sum(sums[k]);
  }
}

/// Adjoint of project_row: dx[i] += m_i·Σ_q du[q]·A[q,i] and dA[q,i] += du[q]·m_i·x_i, each if
/// asked for.
template <class T>
GRAPHLORA_CLONES void project_row_backward(const T* x, const float* mask, const Compute<T>* a,
                                           const Compute<T>* du, T* dx, Compute<T>* da,
                                           std::int64_t ranks, std::int64_t inputs) {
  using C = Compute<T>;
  for (std::int64_t i = 0; i < inputs; i += kLanes<C>) {
    const Vec<C> m = load_mask<C>(mask, i);
    if (da != nullptr) {
      const Vec<C> v = simd::load(x + i, inputs - i) * m;
      for (std::int64_t q = 0; q < ranks; ++q) {
        C* to = da + q * inputs + i;
        simd::store(to, simd::load(to, inputs - i) + v * du[q], inputs - i);
      }
    }
    if (dx != nullptr) {
      Vec<C> g{};
      for (std::int64_t q = 0; q < ranks; ++q)
        g += du[q] * simd::load(a + q * inputs + i, inputs - i);
      simd::store(dx + i, simd::load(dx + i, inputs - i) + g * m, inputs - i);
    }
  }
}

/// What the backward needs besides tensors that autograd tracks.
struct Frozen : torch::CustomClassHolder {
  BaseLinear base;
  std::vector<StackedAdapters::Slice> slices;
  double scale = 1;
  at::Tensor token_A;
  AdapterDropout dropout;
  std::int64_t outputs = 0;
  bool residual = false;
  bool need_x = false, need_a = false, need_b = false, need_z = false, need_lambda_lora = false,
       need_lambda_gnn = false;
  /// Whether anything of the adapters' path is asked for, or anything above B.
  bool need_low_rank() const { return need_above_b() || need_b; }
  bool need_above_b() const {
    return need_x || need_a || need_z || need_lambda_lora || need_lambda_gnn;
  }
};

/// Sums tensors over the ranks of a split linear, in one group; undefined ones are left out.
void sum_over_ranks(Communicator& tensor, const std::array<at::Tensor, 2>& parts) {
  std::array<Handle, 2> handles;
  {
    const CommunicationGroup group(tensor);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].defined())
        handles[i] = tensor.all_reduce(parts[i], ReduceOp::sum, Traffic::activations);
    }
  }
  for (Handle& handle : handles) handle.wait();
}

/// A, rounded to the activation type, and Bᵀ per slice, in the compute type.
struct Factors {
  at::Tensor a_RI;
  std::vector<at::Tensor> b_transposed;

  Factors(const at::Tensor& a, const at::Tensor& b,
          const std::vector<StackedAdapters::Slice>& slices, at::ScalarType activation) {
    const auto type = activation == at::kDouble ? at::kDouble : at::kFloat;
    a_RI = a.to(activation).to(type).contiguous();
    std::int64_t row = 0;
    for (const auto& slice : slices) {
      b_transposed.push_back(b.narrow(0, row, slice.size).t().to(type).contiguous());
      row += slice.size;
    }
  }
};

/// Row masks of one thread; hands out null without dropout.
class RowMask {
 public:
  /// Of features [first, first + features).
  RowMask(const AdapterDropout& dropout, std::int64_t first, std::int64_t features)
      : mask_(dropout.key, dropout.layer, dropout.group), first_(first), features_(features) {
    if (!mask_.active()) return;
    row_.resize(DropoutMask::padded(first, features) + kLanes<float>);  // vectors are read whole
    streams_ = dropout.streams_T.const_data_ptr<std::int64_t>();
    positions_ = dropout.positions_T.const_data_ptr<std::int64_t>();
  }
  const float* row(std::int64_t t) {
    if (!mask_.active()) return nullptr;
    return mask_.row(row_.data(), first_, features_, streams_[t], positions_[t]);
  }

 private:
  DropoutMask mask_;
  std::int64_t first_, features_;
  std::vector<float> row_;
  const std::int64_t* streams_ = nullptr;
  const std::int64_t* positions_ = nullptr;
};

/// y_t = W·x_t + bias (+ residual_t) + (α/r)·B·h_t, u_t = A·(m∘x_t), h_t = u_t, at anchors h_t =
/// λ_lora·u_t + λ_gnn·z. Adjoint, with g_t = (α/r)·Bᵀ·dy_t: d residual = dy; dB = (α/r)·Σ_t
/// dy_t·h_tᵀ; du_t = g_t, at anchors λ_lora·g_t; dz = λ_gnn·Σ_slices g_t; dλ_lora = Σ_anchors u·g;
/// dλ_gnn = Σ_anchors z·g; dA = Σ_t du_t·(m∘x_t)ᵀ; dx_t = Wᵀ·dy_t + m∘(Aᵀ·du_t). W and
/// the bias are frozen and have none. Split by columns, Wᵀ·dy and Bᵀ·dy are summed over the ranks,
/// by rows W·x and A·(m∘x); everything else is then as without a split.
struct LoraLinear : torch::autograd::Function<LoraLinear> {
  using Tensors = torch::autograd::variable_list;
  using Optional = std::optional<at::Tensor>;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_TI,
                            const Optional& residual_TO, const Optional& a_RI, const Optional& b_Cr,
                            const Optional& z_Ar, const Optional& lambda_lora,
                            const Optional& lambda_gnn, const BaseLinear& base,
                            const StackedAdapters& adapters, const Injection& injection,
                            const AdapterDropout& dropout) {
    const at::Tensor x = x_TI.contiguous();
    const bool by_rows = base.split == SplitBy::row;
    // Of a sum over ranks one rank's product holds what is added once.
    at::Tensor y_TO = by_rows && base.tensor->rank() != 0
                          ? times_transposed(base.packs, x, base.weight_OI, std::nullopt)
                          : base_product(x, base, residual_TO);
    const auto needs = [](const Optional& t) { return t && t->requires_grad(); };
    auto frozen = c10::make_intrusive<Frozen>();
    frozen->base = base;
    frozen->outputs = base.weight_OI.size(0);
    frozen->residual = residual_TO.has_value();
    frozen->need_x = x_TI.requires_grad();
    frozen->need_a = needs(a_RI);
    frozen->need_b = needs(b_Cr);
    frozen->need_z = needs(z_Ar);
    frozen->need_lambda_lora = needs(lambda_lora);
    frozen->need_lambda_gnn = needs(lambda_gnn);
    Tensors saved(7);
    if (a_RI) {
      frozen->slices = adapters.slices;
      frozen->scale = adapters.scale;
      frozen->dropout = dropout;
      const std::int64_t rows = x.size(0), ranks = a_RI->size(0);
      const std::int64_t rank = ranks / static_cast<std::int64_t>(adapters.slices.size());
      const Factors factors(*a_RI, *b_Cr, adapters.slices, x.scalar_type());
      at::Tensor h_TR = at::empty({rows, ranks}, factors.a_RI.options());
      project(x, factors, dropout, base.first_input, h_TR);
      if (by_rows) sum_over_ranks(*base.tensor, {y_TO, h_TR});
      if (z_Ar) {
        frozen->token_A = injection.token_A;
        saved[4] = inject(h_TR, *z_Ar, *lambda_lora, *lambda_gnn, injection, rank);
        saved[3] = *z_Ar;
        saved[5] = *lambda_lora;
        saved[6] = *lambda_gnn;
      }
      expand(h_TR, factors, *frozen, rank, y_TO);
      // x serves dA only; everything else of the backward lives in r-wide tensors.
      if (frozen->need_a) saved[0] = x_TI;
      saved[1] = *a_RI;
      saved[2] = *b_Cr;
      if (frozen->need_b) saved.push_back(h_TR);
    } else if (by_rows) {
      sum_over_ranks(*base.tensor, {y_TO});
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["frozen"] = at::IValue::make_capsule(std::move(frozen));
    return y_TO;
  }

  static Tensors backward(torch::autograd::AutogradContext* ctx, Tensors gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto capsule = ctx->saved_data["frozen"].toCapsule();
    const auto& frozen = static_cast<const Frozen&>(*capsule);
    const at::Tensor dy = gradients[0].contiguous();
    Tensors result(11);
    if (frozen.residual) result[1] = dy;
    at::Tensor dx_TI;
    if (frozen.need_x) {
      const BaseLinear& base = frozen.base;
      dx_TI = times(base.packs, dy, base.weight_OI);
    }
    if (saved[1].defined() && frozen.need_low_rank()) {
      backward_low_rank(saved, frozen, dy, dx_TI, result);
    } else if (frozen.need_x && frozen.base.split == SplitBy::column) {
      sum_over_ranks(*frozen.base.tensor, {dx_TI});
    }
    result[0] = dx_TI;
    return result;
  }

 private:
  /// x·Wᵀ + bias (+ residual), rounded once.
  static at::Tensor base_product(const at::Tensor& x, const BaseLinear& base,
                                 const Optional& residual_TO) {
    Optional added = residual_TO;
    if (base.bias_O.defined()) added = residual_TO ? *residual_TO + base.bias_O : base.bias_O;
    return times_transposed(base.packs, x, base.weight_OI, added);
  }

  static void project(const at::Tensor& x, const Factors& factors, const AdapterDropout& dropout,
                      std::int64_t first_input, at::Tensor& u_TR) {
    if (takes_device_path(x, Shortcut::adapters))
      return project_on_device(x, factors.a_RI, dropout, first_input, u_TR);
    const std::int64_t inputs = x.size(1), ranks = u_TR.size(1);
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "lora_linear", [&] {
      using C = Compute<scalar_t>;
      at::parallel_for(0, x.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
        RowMask mask(dropout, first_input, inputs);
        for (std::int64_t t = begin; t < end; ++t) {
          project_row(x.const_data_ptr<scalar_t>() + t * inputs, mask.row(t),
                      factors.a_RI.const_data_ptr<C>(), u_TR.data_ptr<C>() + t * ranks, ranks,
                      inputs);
        }
      });
    });
  }

  static void expand(const at::Tensor& h_TR, const Factors& factors, const Frozen& frozen,
                     std::int64_t rank, at::Tensor& y_TO) {
    const at::Tensor scaled_TR = h_TR * frozen.scale;
    if (takes_device_path(y_TO, Shortcut::adapters))
      return expand_on_device(scaled_TR, factors.b_transposed, frozen.slices, y_TO);
    const std::int64_t ranks = h_TR.size(1), outputs = frozen.outputs;
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y_TO.scalar_type(), "lora_linear", [&] {
      using C = Compute<scalar_t>;
      at::parallel_for(0, y_TO.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          for (std::size_t k = 0; k < frozen.slices.size(); ++k) {
            expand_row(scaled_TR.const_data_ptr<C>() + t * ranks + k * rank,
                       factors.b_transposed[k].const_data_ptr<C>(),
                       y_TO.data_ptr<scalar_t>() + t * outputs + frozen.slices[k].begin, rank,
                       frozen.slices[k].size);
          }
        }
      });
    });
  }

  /// h = λ_lora·u + λ_gnn·z at the anchors; returns u there, (A, R).
  static at::Tensor inject(at::Tensor& h_TR, const at::Tensor& z_Ar, const at::Tensor& lambda_lora,
                           const at::Tensor& lambda_gnn, const Injection& injection,
                           std::int64_t rank) {
    const std::int64_t repeats = h_TR.size(1) / rank;
    const at::Tensor u_AR = h_TR.index_select(0, injection.token_A);
    const at::Tensor lora_AR = u_AR * lambda_lora;
    const at::Tensor graph_AR = (z_Ar.to(h_TR.scalar_type()) * lambda_gnn).repeat({1, repeats});
    h_TR.index_copy_(0, injection.token_A, lora_AR + graph_AR);
    if (injection.ratio_sums_2.defined()) {
      const auto squares = [&](const at::Tensor& x_AR) {
        const at::Tensor squares_A = x_AR.to(at::kDouble).square().sum(1);
        return injection.examples_A.defined() ? squares_A.dot(injection.examples_A)
                                              : squares_A.sum();
      };
      injection.ratio_sums_2.add_(at::stack({squares(graph_AR), squares(lora_AR)}));
    }
    return u_AR;
  }

  static void backward_low_rank(const Tensors& saved, const Frozen& frozen, const at::Tensor& dy,
                                at::Tensor& dx_TI, Tensors& result) {
    const at::Tensor &x_TI = saved[0], &a_RI = saved[1], &b_Cr = saved[2];
    const Factors factors(a_RI, b_Cr, frozen.slices, dy.scalar_type());
    const std::int64_t ranks = a_RI.size(0),
                       rank = ranks / static_cast<std::int64_t>(frozen.slices.size());
    at::Tensor g_TR = at::empty({dy.size(0), ranks}, factors.a_RI.options());
    const at::Tensor db_Cr =
        backward_expand(dy, frozen, factors, frozen.need_b ? saved[7] : at::Tensor(), rank, g_TR);
    if (frozen.base.split == SplitBy::column && frozen.need_above_b())
      sum_over_ranks(*frozen.base.tensor, {dx_TI, g_TR});
    g_TR.mul_(frozen.scale);
    if (frozen.need_b) result[3] = (db_Cr * frozen.scale).to(b_Cr.scalar_type());
    if (saved[3].defined()) {
      const at::Tensor &z_Ar = saved[3], &u_AR = saved[4], &lambda_lora = saved[5],
                       &lambda_gnn = saved[6];
      const at::Tensor g_AR = g_TR.index_select(0, frozen.token_A);
      const at::Tensor g_Ar = g_AR.view({g_AR.size(0), g_AR.size(1) / rank, rank}).sum(1);
      if (frozen.need_z) result[4] = (g_Ar * lambda_gnn).to(z_Ar.scalar_type());
      if (frozen.need_lambda_lora) result[5] = (u_AR * g_AR).sum().to(lambda_lora.scalar_type());
      if (frozen.need_lambda_gnn) result[6] = (z_Ar * g_Ar).sum().to(lambda_gnn.scalar_type());
      g_TR.index_copy_(0, frozen.token_A, g_AR * lambda_lora);
    }
    if (frozen.need_a || frozen.need_x) {
      const at::Tensor da_RI = backward_project(x_TI, frozen, factors, g_TR, dx_TI);
      if (frozen.need_a) result[2] = da_RI.to(a_RI.scalar_type());
    }
  }

  /// Fills g_TR (without the scale) and returns dB (without the scale) if h_TR is given.
  static at::Tensor backward_expand(const at::Tensor& dy, const Frozen& frozen,
                                    const Factors& factors, const at::Tensor& h_TR,
                                    std::int64_t rank, at::Tensor& g_TR) {
    if (takes_device_path(dy, Shortcut::adapters))
      return expand_backward_on_device(dy, factors.b_transposed, frozen.slices, h_TR, g_TR);
    const std::int64_t rows = dy.size(0), ranks = g_TR.size(1), outputs = frozen.outputs;
    const std::int64_t blocks = ceil_div(rows, kBlock);
    std::vector<at::Tensor> partial;
    if (h_TR.defined()) {
      for (const auto& slice : frozen.slices)
        partial.push_back(at::zeros({blocks, rank, slice.size}, g_TR.options()));
    }
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "lora_linear_backward", [&] {
      using C = Compute<scalar_t>;
      at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = begin; block < end; ++block) {
          for (std::int64_t t = block * kBlock; t < std::min(rows, (block + 1) * kBlock); ++t) {
            for (std::size_t k = 0; k < frozen.slices.size(); ++k) {
              const auto& slice = frozen.slices[k];
              const std::int64_t at = t * ranks + static_cast<std::int64_t>(k) * rank;
              expand_row_backward(
                  dy.const_data_ptr<scalar_t>() + t * outputs + slice.begin,
                  partial.empty() ? nullptr : h_TR.const_data_ptr<C>() + at,
                  factors.b_transposed[k].const_data_ptr<C>(), g_TR.data_ptr<C>() + at,
                  partial.empty() ? nullptr : partial[k].data_ptr<C>() + block * rank * slice.size,
                  rank, slice.size);
            }
          }
        }
      });
    });
    std::vector<at::Tensor> db;
    for (const at::Tensor& p : partial) db.push_back(p.sum(0).t());
    return db.empty() ? at::Tensor() : at::cat(db, 0);
  }

  /// Adds the adapters' part to dx_TI (if defined) and returns dA if asked for.
  static at::Tensor backward_project(const at::Tensor& x_TI, const Frozen& frozen,
                                     const Factors& factors, const at::Tensor& du_TR,
                                     at::Tensor& dx_TI) {
    if (takes_device_path(du_TR, Shortcut::adapters)) {
      return project_backward_on_device(frozen.need_a ? x_TI.contiguous() : at::Tensor(),
                                        factors.a_RI, frozen.dropout, frozen.base.first_input,
                                        du_TR, dx_TI);
    }
    const std::int64_t rows = du_TR.size(0), ranks = du_TR.size(1), inputs = factors.a_RI.size(1);
    const std::int64_t blocks = ceil_div(rows, kBlock);
    const at::Tensor x = x_TI.defined() ? x_TI.contiguous() : at::Tensor();
    at::Tensor partial_bRI;
    if (frozen.need_a) partial_bRI = at::zeros({blocks, ranks, inputs}, du_TR.options());
    AT_DISPATCH_FLOATING_TYPES_AND(
        at::kBFloat16, frozen.base.weight_OI.scalar_type(), "lora_linear_backward", [&] {
          using C = Compute<scalar_t>;
          at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
            RowMask mask(frozen.dropout, frozen.base.first_input, inputs);
            for (std::int64_t block = begin; block < end; ++block) {
              for (std::int64_t t = block * kBlock; t < std::min(rows, (block + 1) * kBlock); ++t) {
                project_row_backward(
                    frozen.need_a ? x.const_data_ptr<scalar_t>() + t * inputs : nullptr,
                    mask.row(t), factors.a_RI.const_data_ptr<C>(),
                    du_TR.const_data_ptr<C>() + t * ranks,
                    frozen.need_x ? dx_TI.data_ptr<scalar_t>() + t * inputs : nullptr,
                    frozen.need_a ? partial_bRI.data_ptr<C>() + block * ranks * inputs : nullptr,
                    ranks, inputs);
              }
            }
          });
        });
    return frozen.need_a ? partial_bRI.sum(0) : at::Tensor();
  }
};

std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

}  // namespace

at::Tensor lora_linear(const at::Tensor& x_TI, const BaseLinear& base,
                       const at::Tensor& residual_TO, const StackedAdapters& adapters,
                       const Injection& injection, const AdapterDropout& dropout) {
  const at::Tensor& weight_OI = base.weight_OI;
  TORCH_CHECK(base.split == SplitBy::none || base.tensor != nullptr,
              "lora_linear: a split linear needs its ranks");
  TORCH_CHECK(x_TI.dim() == 2 && weight_OI.dim() == 2 && x_TI.size(1) == weight_OI.size(1) &&
                  x_TI.scalar_type() == weight_OI.scalar_type(),
              "lora_linear: shapes or types of input and weight differ");
  const bool injects = injection.z_Ar.defined() && adapters.a_RI.defined();
  if (injects) {
    TORCH_CHECK(injection.z_Ar.size(0) == injection.token_A.size(0) &&
                    injection.z_Ar.size(1) * static_cast<std::int64_t>(adapters.slices.size()) ==
                        adapters.a_RI.size(0),
                "lora_linear: z does not fit the anchors or the rank");
  }
  const auto if_injected = [&](const at::Tensor& t) {
    return injects ? optional(t) : std::nullopt;
  };
  return LoraLinear::apply(x_TI, optional(residual_TO), optional(adapters.a_RI),
                           optional(adapters.b_Cr), if_injected(injection.z_Ar),
                           if_injected(injection.lambda_lora), if_injected(injection.lambda_gnn),
                           base, adapters, injection, dropout);
}

}  // namespace graphlora
