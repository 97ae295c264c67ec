// The decoder's parts by their device path against the CPU's kernels: outputs and gradients.
#include "support/device_path.hpp"

#include <torch/csrc/autograd/autograd.h>

#ifdef GRAPHLORA_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

#include "attention_fixture.hpp"
#include "core/rng.hpp"
#include "llm_fixture.hpp"
#include "model/attention.hpp"
#include "model/attention_device.hpp"
#include "model/dropout.hpp"
#include "model/dropout_kernel.hpp"
#include "model/lora_linear.hpp"
#include "model/rms_norm.hpp"
#include "model/rotary.hpp"
#include "model/swiglu.hpp"

namespace graphlora {
namespace {

using testing::relative_error;
using testing::segments_of;

struct TypeAndTolerance {
  at::ScalarType type;
  double tolerance;
};
// bf16 results are rounded once on both paths, of sums in fp32 in different orders.
constexpr TypeAndTolerance kTypes[] = {
    {at::kDouble, 1e-12}, {at::kFloat, 2e-6}, {at::kBFloat16, 6e-3}};

class DevicePath : public test::OnDevicePath {
 protected:
  void SetUp() override {
    test::OnDevicePath::SetUp();
    at::manual_seed(11);
  }
};

TEST_P(DevicePath, RmsNorm) {
  for (const auto& [type, tolerance] : kTypes) {
    for (const std::int64_t width : {1, 31, 32, 576, 1000}) {
      const at::Tensor weight = at::randn({width}).to(type);
      expect_equal_paths(
          [&](const auto& in) {
            const Normalized n = rms_norm(in[0], weight.to(in[0].device()), 1e-5);
            return std::vector{n.stream_TH * 1, n.normed_TH};
          },
          {at::randn({37, width}).to(type)}, tolerance);
    }
  }
}

TEST_P(DevicePath, SplitAndRotate) {
  for (const auto& [type, tolerance] : kTypes) {
    for (const std::int64_t dim : {2, 6, 64}) {
      const RotaryTable table = RotaryTable::make(256, dim, 1e4, type);
      const at::Tensor q_norm_D = at::rand({dim}).add_(0.5).to(type),
                       k_norm_D = at::rand({dim}).add_(0.5).to(type);
      for (const bool norms : {false, true}) {
        expect_equal_paths(
            [&](const auto& in) {
              const at::Device where = in[0].device();
              const RotaryTable here{table.cos_PD.to(where), table.sin_PD.to(where)};
              HeadNorms head_norms;
              if (norms) head_norms = {{q_norm_D.to(where), k_norm_D.to(where)}, 1e-6};
              return split_and_rotate(in[0], {3, 1, 2}, 2, here, in[1], head_norms);
            },
            {at::randn({41, 6 * dim}).to(type), at::randint(0, 256, {41}, at::kLong)},
            norms ? tolerance * 2 : tolerance);  // bf16 is rounded between norm and rotation
      }
    }
  }
}

TEST_P(DevicePath, APositionBeyondTheTableIsNoNumber) {
  const RotaryTable table = RotaryTable::make(8, 4, 1e4, at::kFloat);
  const at::Tensor y = on_path([&] {
    return split_and_rotate(here(at::ones({2, 4})), {1}, 1,
                            {here(table.cos_PD), here(table.sin_PD)},
                            here(at::tensor({7, 8}, at::kLong)))[0];
  });
  EXPECT_TRUE(at::isfinite(y[0]).all().item<bool>());
  EXPECT_TRUE(at::isnan(y[1]).all().item<bool>());
}

TEST_P(DevicePath, Swiglu) {
  for (const auto& [type, tolerance] : kTypes) {
    for (const std::int64_t width : {1, 50, 1536}) {
      expect_equal_paths([](const auto& in) { return std::vector{swiglu(in[0])}; },
                         {(at::randn({19, 2 * width}) * 4).to(type)}, tolerance);
    }
  }
}

TEST_P(DevicePath, SwigluOfExtremeInputsStaysFinite) {
  const at::Tensor gate = at::tensor({-1e30F, -200.0F, -88.0F, 0.0F, 88.0F, 200.0F, 1e30F});
  const at::Tensor x =
      here(at::cat({gate, at::ones_like(gate)}).view({1, 14})).requires_grad_(true);
  on_path([&] {
    const at::Tensor y = swiglu(x);
    y.sum().backward();
    EXPECT_TRUE(at::isfinite(y).all().item<bool>()) << y;
  });
  EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>()) << x.grad();
}

TEST_P(DevicePath, Attention) {
  const auto segments = segments_of({1, 33, 64, 7, 110, 2});
  for (const auto& [type, tolerance] : kTypes) {
    for (const auto& [heads, groups, dim] :
         {std::tuple{9, 3, 4}, {4, 4, 64}, {6, 1, 20}, {1, 1, 2}}) {
      for (const std::int64_t window : {0, 1, 9, 64}) {
        expect_equal_paths(
            [&](const auto& in) {
              return std::vector{attention(in[0], in[1], in[2], segments, window)};
            },
            {at::randn({217, heads, dim}).to(type), at::randn({217, groups, dim}).to(type),
             at::randn({217, groups, dim}).to(type)},
            tolerance * 3);
      }
    }
  }
}

/// Segments of {length, parent}.
std::vector<Segment> trees_of(const std::vector<std::array<std::int64_t, 2>>& shape) {
  std::vector<Segment> segments;
  std::int64_t begin = 0;
  for (const auto& [length, parent] : shape) {
    segments.push_back({.begin = begin, .length = length, .parent = parent});
    begin += length;
  }
  return segments;
}

TEST_P(DevicePath, AttentionOverSharedKeys) {
  const auto segments = trees_of(
      {{5, -1}, {60, -1}, {9, 1}, {33, 1}, {12, 3}, {1, 3}, {20, 1}, {30, -1}, {8, 7}, {39, 7}});
  const std::vector<std::int64_t> tokens{70, 20, 110, 216};  // of a parent too
  for (const auto& [type, tolerance] : kTypes) {
    for (const auto& [heads, groups, dim] : {std::tuple{9, 3, 4}, {4, 4, 64}, {6, 1, 20}}) {
      for (const std::int64_t window : {0, 1, 9, 64}) {
        const at::Tensor k = at::randn({217, groups, dim}).to(type),
                         v = at::randn({217, groups, dim}).to(type);
        expect_equal_paths(
            [&](const auto& in) {
              return std::vector{attention(in[0], in[1], in[2], segments, window)};
            },
            {at::randn({217, heads, dim}).to(type), k, v}, tolerance * 3);
        expect_equal_paths(
            [&](const auto& in) {
              return std::vector{attention(in[0], in[1], in[2], {segments, tokens}, window)};
            },
            {at::randn({4, heads, dim}).to(type), k, v}, tolerance * 3);
      }
    }
  }
}

/// Long enough that neither all segments nor all queries of one fit into a batch of scores.
TEST_P(DevicePath, AttentionInSeveralBatchesOfSegmentsAndOfQueries) {
  const auto segments = segments_of({3, 2'000, 40, 40, 1'900});
  const at::Tensor q = at::randn({3'983, 16, 2}), k = at::randn({3'983, 2, 2});
  expect_equal_paths(
      [&](const auto& in) { return std::vector{attention(in[0], in[1], in[2], segments)}; },
      {q, k, at::randn({3'983, 2, 2})}, 1e-5);
}

TEST_P(DevicePath, AttentionOfSingleTokens) {
  const auto segments = segments_of({4, 40, 6});
  const std::vector<std::int64_t> tokens{48, 2};  // one segment without a query
  for (const auto& [type, tolerance] : kTypes) {
    for (const std::int64_t window : {0, 3}) {
      expect_equal_paths(
          [&](const auto& in) {
            return std::vector{attention(in[0], in[1], in[2], {segments, tokens}, window)};
          },
          {at::randn({2, 6, 5}).to(type), at::randn({50, 3, 5}).to(type),
           at::randn({50, 3, 5}).to(type)},
          tolerance * 3);
    }
  }
}

/// The padded form with a window against the definition, token by token.
TEST_P(DevicePath, PaddedAttentionSeesNoFurtherThanItsWindow) {
  const PackQueries queries({{.begin = 0, .length = 9, .row = 0, .token = 0, .count = 9},
                             {.begin = 9, .length = 5, .row = 9, .token = 9, .count = 5}});
  for (const std::int64_t window : {1, 3, 8, 100}) {
    const at::Tensor q = at::randn({14, 4, 3}, at::kDouble), k = at::randn({14, 2, 3}, at::kDouble),
                     v = at::randn({14, 2, 3}, at::kDouble), w = at::randn({14, 4, 3}, at::kDouble);
    const at::Tensor a = q.clone().requires_grad_(true), b = k.clone().requires_grad_(true),
                     c = v.clone().requires_grad_(true);
    std::vector<at::Tensor> rows;
    for (std::int64_t i = 0; i < 14; ++i) {
      const std::int64_t begin = i < 9 ? 0 : 9, first = std::max(begin, i - window + 1);
      std::vector<at::Tensor> heads;
      for (std::int64_t h = 0; h < 4; ++h) {
        const auto seen = [&](const at::Tensor& x) {
          return x.narrow(0, first, i - first + 1).select(1, h / 2);
        };
        heads.push_back(
            at::mv(seen(c).t(), at::mv(seen(b), a[i][h]).div(std::sqrt(3.0)).softmax(0)));
      }
      rows.push_back(at::stack(heads));
    }
    const at::Tensor expected = at::stack(rows);
    const auto want = torch::autograd::grad({(expected * w).sum()}, {a, b, c});
    const at::Tensor o = padded_attention(here(q), here(k), here(v), queries, window);
    EXPECT_LT(relative_error(o.cpu(), expected.detach()), 1e-13) << window;
    const auto [dq, dk, dv] =
        padded_attention_backward(here(q), here(k), here(v), here(w), queries, window);
    EXPECT_LT(relative_error(dq.cpu(), want[0]), 1e-12) << window;
    EXPECT_LT(relative_error(dk.cpu(), want[1]), 1e-12) << window;
    EXPECT_LT(relative_error(dv.cpu(), want[2]), 1e-12) << window;
  }
}

/// Layers of one pack share its plan, whatever their windows, and find what they find with a plan
/// of their own; what the device reads is made and copied once.
TEST_P(DevicePath, LayersShareTheirPacksPlan) {
  const auto segments = trees_of({{5, -1}, {60, -1}, {9, 1}, {33, 1}, {12, 3}, {30, -1}});
  const std::vector<std::int64_t> tokens{70, 20, 110, 148};
  const AttentionPlan all(segments), some(segments, tokens);
  const auto run = [&](const AttentionPlan& plan, std::int64_t heads, std::int64_t window) {
    at::manual_seed(31);
    std::vector<at::Tensor> leaves;
    for (const auto& [rows, count] :
         {std::pair{plan.queries(), heads}, {plan.tokens(), 2L}, {plan.tokens(), 2L}})
      leaves.push_back(here(at::randn({rows, count, 8})).requires_grad_(true));
    return on_path([&] {
      const at::Tensor o = attention(leaves[0], leaves[1], leaves[2], plan, window);
      auto results = torch::autograd::grad({o.square().sum()}, leaves);
      results.push_back(o.detach());
      return results;
    });
  };
  for (const std::int64_t heads : {4, 6}) {
    const void* first = nullptr;
    for (const std::int64_t window : {0, 9, 0, 64}) {
      const auto shared = run(all, heads, window), own = run(segments, heads, window),
                 shared_some = run(some, heads, window),
                 own_some = run({segments, tokens}, heads, window);
      for (std::size_t i = 0; i < own.size(); ++i) {
        EXPECT_LT(relative_error(shared[i].cpu(), own[i].cpu()), 1e-6) << i;
        EXPECT_LT(relative_error(shared_some[i].cpu(), own_some[i].cpu()), 1e-6) << i;
      }
      const auto& batches = all.places()->batches(heads, device());
      EXPECT_EQ(batches.front().key_BK.device(), device());
      if (first != nullptr) {
        EXPECT_EQ(batches.front().key_BK.const_data_ptr(), first);
      }
      first = batches.front().key_BK.const_data_ptr();
    }
  }
  const FlashPlaces& places = all.places()->flash(device());
  EXPECT_EQ(places.offsets.device(), device());
  EXPECT_EQ(&all.places()->flash(device()), &places);
}

/// Where the flash kernels look, worked out by hand.
TEST_P(DevicePath, FlashPlacesFollowThePaths) {
  const AttentionPlan alone(segments_of({3, 2})),
      trees(trees_of({{2, -1}, {3, 0}, {1, 1}, {2, 0}}));
  const auto numbers = [](std::vector<std::int64_t> values) { return at::tensor(values); };
  const FlashPlaces& plain = alone.places()->flash(device());
  EXPECT_TRUE(plain.offsets.cpu().equal(numbers({0, 3, 5}).to(at::kInt)));
  EXPECT_TRUE(plain.key_offsets.cpu().equal(plain.offsets.cpu()));
  EXPECT_FALSE(plain.key_rows.defined());
  EXPECT_EQ(plain.longest_path, 3);
  const FlashPlaces& paths = trees.places()->flash(device());
  EXPECT_TRUE(paths.offsets.cpu().equal(numbers({0, 2, 5, 6, 8}).to(at::kInt)));
  EXPECT_TRUE(paths.key_offsets.cpu().equal(numbers({0, 2, 7, 13, 17}).to(at::kInt)));
  EXPECT_TRUE(
      paths.key_rows.cpu().equal(numbers({0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1, 6, 7})));
  EXPECT_EQ(paths.longest, 3);
  EXPECT_EQ(paths.longest_path, 6);
}

/// The major number of a GPU's, asked for here and not of the code under test.
int compute_capability([[maybe_unused]] at::Device device) {
  int major = 0;
#ifdef GRAPHLORA_HAS_CUDA
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()),
            cudaSuccess);
#endif
  return major;
}

/// On a GPU: LibTorch's kernels against the exact form.
TEST_P(DevicePath, FlashAttentionEqualsThePaddedForm) {
  if (device().is_cpu()) GTEST_SKIP() << "needs a GPU: the flash kernels exist on CUDA only";
  const auto segment = [](std::int64_t begin, std::int64_t length, std::int64_t depth = 0,
                          std::int64_t parent = -1) {
    return SegmentQueries{.begin = begin,
                          .length = length,
                          .depth = depth,
                          .parent = parent,
                          .row = begin,
                          .token = begin,
                          .count = length};
  };
  const PackQueries alone({segment(0, 70), segment(70, 1), segment(71, 45)}),
      trees({segment(0, 40), segment(40, 9, 40, 0), segment(49, 30, 40, 0), segment(79, 6, 70, 2),
             segment(85, 1, 70, 2), segment(86, 20, 40, 0), segment(106, 10)});
  for (const auto& [pack, window] :
       {std::pair{&alone, 0}, {&alone, 7}, {&trees, 0}, {&trees, 7}, {&trees, 64}}) {
    const PackQueries& queries = *pack;
    const auto random = [&](std::int64_t heads) {
      return here(at::randn({116, heads, 64})).to(at::kBFloat16);
    };
    const at::Tensor q = random(6), k = random(2), v = random(2), d_o = random(6);
    if (compute_capability(device()) < 8)
      GTEST_SKIP() << "needs a GPU of compute capability 8.0 or more";
    ASSERT_TRUE(flash_attention_fits(q, queries));
    const FlashAttention flash = flash_attention(q, k, v, queries, window);
    EXPECT_LT(relative_error(flash.o_TND.cpu(), padded_attention(q, k, v, queries, window).cpu()),
              1e-2);
    const auto [dq, dk, dv] = flash_attention_backward(d_o, q, k, v, flash, queries, window);
    const auto [eq, ek, ev] = padded_attention_backward(q, k, v, d_o, queries, window);
    EXPECT_LT(relative_error(dq.cpu(), eq.cpu()), 2e-2);
    EXPECT_LT(relative_error(dk.cpu(), ek.cpu()), 2e-2);
    EXPECT_LT(relative_error(dv.cpu(), ev.cpu()), 2e-2);
  }
}

TEST(DeviceKernel, PhiloxIsThatOfTheCore) {
  for (std::uint64_t key = 1; key < 1'000'000'000'000; key = key * 7 + 3) {
    const std::array<std::uint32_t, 4> counter{static_cast<std::uint32_t>(key * 31), 2,
                                               static_cast<std::uint32_t>(key), 0xFFFFFFFFU};
    std::uint32_t words[4] = {counter[0], counter[1], counter[2], counter[3]};
    kernel::philox(words, key);
    const auto expected = philox4x32(counter, key);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words[i], expected[i]);
  }
}

TEST_P(DevicePath, DropoutHasTheSameBits) {
  const at::Tensor streams =
                       at::tensor(std::vector<std::int64_t>{0, 7, (std::int64_t{1} << 40) + 3, 7}),
                   positions = at::tensor({0, 5, 9'000, 6}, at::kLong);
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const std::int64_t features : {1, 16, 127, 128, 576, 600}) {
      const at::Tensor x = at::randn({4, features}).to(type);
      const auto dropped = [&](at::Device where) {
        return dropout(x.to(where), streams.to(where), positions.to(where), {0.3, 5, 17}, 3,
                       InputGroup::gate_up)
            .cpu();
      };
      const at::Tensor expected = dropped(at::kCPU);
      EXPECT_TRUE(on_path([&] { return dropped(device()); }).equal(expected)) << features;
    }
  }
}

/// With adapters on some outputs, injection, learned λs, a residual and dropout, at any place of
/// the input among all features.
TEST_P(DevicePath, LoraLinear) {
  const std::int64_t rows = 150, outputs = 90;
  for (const auto& [type, tolerance] : kTypes) {
    const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
    for (const double probability : {0.0, 0.4}) {
      for (const auto& [inputs, first] :
           {std::pair<std::int64_t, std::int64_t>{200, 0}, {70, 77}}) {
        const at::Tensor weight =
            at::randn({outputs, inputs}).div_(std::sqrt(1.0 * inputs)).to(type);
        const at::Tensor streams = at::randint(0, 9, {rows}, at::kLong),
                         positions = at::arange(rows), anchors = at::tensor({5, 0, 149}, at::kLong);
        const auto run = [&, first = first](const std::vector<at::Tensor>& in) {
          const at::Device where = in[0].device();
          BaseLinear base{.weight_OI = weight.to(where)};
          base.first_input = first;
          const at::Tensor ratios = at::zeros({2}, at::dtype(at::kDouble).device(where));
          const at::Tensor y = lora_linear(
              in[0], base, in[1], {in[2], in[3], {{0, 30}, {50, 40}}, 1.7},
              {in[4], in[5], in[6], anchors.to(where), ratios},
              {{probability, 3, 4}, 2, InputGroup::qkv, streams.to(where), positions.to(where)});
          return std::vector{y, ratios};
        };
        expect_equal_paths(
            run,
            {at::randn({rows, inputs}).to(type), at::randn({rows, outputs}).to(type),
             at::randn({16, inputs}).div_(10).to(wide), at::randn({70, 8}).to(wide),
             at::randn({3, 8}).to(wide), at::full({}, 0.8, wide), at::full({}, 0.3, wide)},
            tolerance * 2);
      }
    }
  }
}

BaseWeights moved(BaseWeights w, at::Device device) {
  for (LayerWeights& l : w.layers) {
    for (at::Tensor* t : {&l.qkv_OH, &l.o_HQ, &l.gate_up_OH, &l.down_HI, &l.input_norm_H,
                          &l.post_attention_norm_H, &l.qkv_bias_O, &l.q_norm_D, &l.k_norm_D}) {
      if (t->defined()) *t = t->to(device);
    }
  }
  for (at::Tensor* t : {&w.embedding_VH, &w.final_norm_H, &w.head_2H}) *t = t->to(device);
  return w;
}

/// All of the language model, with dropout and injection, in every precision.
TEST_P(DevicePath, TheWholeModelOfEveryFamily) {
  LoraConfig lora;
  lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  lora.inject_layers = {1, 2};
  std::vector<testing::Example> examples;
  for (const std::int64_t length : {40, 7, 23}) {
    testing::Example e;
    for (std::int64_t i = 0; i < length; ++i) e.tokens.push_back((i * 37 + length) % 300);
    e.anchors = {length / 3, length - 1};  // one is the scored token
    e.stream = length * 5;
    examples.push_back(e);
  }
  const Pack pack = testing::pack_of(examples);
  for (const std::string& family : testing::families()) {
    const LlamaConfig config = testing::tiny_config(family);
    for (const auto& [name, tolerance] :
         {std::pair{"fp64", 1e-11}, std::pair{"fp32", 1e-4}, std::pair{"bf16", 5e-2}}) {
      const Precision precision = Precision::parse(name);
      const BaseWeights weights = testing::random_weights(config, precision.activation);
      const at::Tensor embedding = at::randn({6, config.hidden_size}, precision.parameter),
                       z = at::randn({6, 8}, precision.parameter),
                       w = at::randn({3}, precision.parameter);
      const auto run = [&](at::Device where, Precision in) {
        in.device = where;
        GraphLora model(config, moved(testing::cast(weights, in.activation), where), lora, in, 3,
                        Score::margin);
        at::manual_seed(5);
        for (const Parameter& p : model.adapters().parameters()) {
          if (p.name.ends_with("lora_B.weight"))
            p.value.detach().copy_(at::randn(p.value.sizes()) * 0.3);
        }
        const AnchorRows anchors{embedding.to(where, in.parameter).clone().requires_grad_(true),
                                 z.to(where, in.parameter).clone().requires_grad_(true)};
        const at::Tensor score = model.forward(pack, anchors, {0.2, 1, 2});
        EXPECT_EQ(score.device(), where);
        std::vector<at::Tensor> leaves{anchors.embedding_MH, anchors.z_Mr};
        for (const Parameter& p : model.adapters().parameters()) leaves.push_back(p.value);
        auto results = torch::autograd::grad({(score * w.to(where, in.parameter)).sum()}, leaves);
        results.push_back(score.detach());
        results.push_back(model.take_ratio_sums());
        for (at::Tensor& result : results) result = result.cpu();
        return results;
      };
      const auto expected = run(at::kCPU, precision),
                 found = on_path([&] { return run(device(), precision); });
      // In bf16 the device path rounds once more, between the norms of heads and their rotation:
      // it must then be as near to the exact result as the CPU's kernels are.
      std::vector<at::Tensor> exact;
      if (config.qk_norm && precision.activation == at::kBFloat16)
        exact = run(at::kCPU, Precision::parse("fp64"));
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double error = relative_error(found[i], exact.empty() ? expected[i] : exact[i]);
        const double allowed =
            exact.empty() ? tolerance : 1e-2 + 1.5 * relative_error(expected[i], exact[i]);
        EXPECT_LT(error, allowed) << family << ", " << name << ", result " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, DevicePath, test::kDevices, test::device_name);

}  // namespace
}  // namespace graphlora
