// Faults of the method's published code that must not come back (docs/architecture.md, "Known
// faults"), one test each. GraphSAGE that cannot run: tests/model/gnn_parity_test.cpp.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>

#include "data/pack.hpp"
#include "train/sampler.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

class KnownFaults : public ::testing::Test {
 protected:
  KnownFaults()
      : workspace_(std::make_unique<Workspace>(job(), shared_.path(), PartitionConfig{})) {}
  std::unique_ptr<Recommender> make_model(const ModelConfig& config) {
    auto model =
        std::make_unique<Recommender>(job(), *workspace_, kTinyLlama, config,
                                      tiny_embeddings(*workspace_, kWidth, at::kDouble), false);
    model->initialize_from_data();
    return model;
  }
  SharedDataset shared_;
  std::unique_ptr<Workspace> workspace_;
};

/// Published: a batch's anchors are re-found by token value, and mixed up when the batch has more
/// than one example.
TEST_F(KnownFaults, AnchorsOfABatchBelongToTheirOwnExamples) {
  const auto model = make_model(tiny_model_config());
  randomize_b(*model);
  const auto rows = workspace_->dataset->sample(Split::test, 12, 3);
  const auto together = score_rows(*model, rows, 100000, "together");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto alone = score_rows(*model, std::span(rows).subspan(i, 1), 100000, "alone");
    EXPECT_NEAR(alone[0], together[i], 1e-6) << "row " << rows[i];
  }
}

/// Published: a trainable bias of its own at the injection layer. Here every parameter is one of
/// the named ones.
TEST_F(KnownFaults, NoStrayParameterAtTheInjectionLayer) {
  const auto model = make_model(tiny_model_config());
  std::map<std::string, int> kinds;
  for (const Parameter& p : model->parameters()) {
    const std::string& n = p.name;
    if (n.ends_with(".lora_A.weight"))
      ++kinds["a"];
    else if (n.ends_with(".lora_B.weight"))
      ++kinds["b"];
    else if (n.starts_with("projector."))
      ++kinds["projector"];
    else if (n.starts_with("neck."))
      ++kinds["neck"];
    else
      ++kinds["stray " + n];
  }
  const int adapters = 2 * static_cast<int>(model->llm().config().layers);
  EXPECT_EQ(kinds, (std::map<std::string, int>{
                       {"a", adapters}, {"b", adapters}, {"projector", 4}, {"neck", 2}}));
}

/// Published: α/r is missing at the injection layer. Doubling α and halving B there must change
/// nothing.
TEST_F(KnownFaults, AlphaOverRankAppliesAtTheInjectionLayer) {
  ModelConfig config = tiny_model_config();
  const auto model = make_model(config);
  randomize_b(*model);
  config.lora.alpha *= 2;
  const auto doubled = make_model(config);
  randomize_b(*doubled);
  {
    const at::NoGradGuard guard;
    for (const Parameter& p : doubled->parameters()) {
      if (p.name.ends_with(".lora_B.weight")) at::Tensor(p.value).mul_(0.5);
    }
  }
  const auto rows = workspace_->dataset->sample(Split::test, 8, 3);
  const auto a = score_rows(*model, rows, 1000, "a"), b = score_rows(*doubled, rows, 1000, "b");
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
}

/// Published: the edge of the very example is in the graph the GNN sees. Here neither end of it has
/// it among its in-edges, under either cut.
TEST_F(KnownFaults, TargetEdgeIsInvisibleToTheGnn) {
  for (const char* split : {"user-time", "time"}) {
    const SharedDataset shared(split);
    const Workspace workspace(job(), shared.path(), PartitionConfig{});
    const Shard& shard = *workspace.shard;
    const Dataset& dataset = *workspace.dataset;
    const auto* owned = shard.owned().const_data_ptr<std::int64_t>();
    const auto* halo = shard.halo().const_data_ptr<std::int64_t>();
    const Sampler sampler(dataset, shard.cut(), *workspace.order, 5, 1, 1, 0);
    std::int64_t liked = 0, edges = 0;
    for (std::int64_t step = 1; step <= sampler.batches_per_epoch(); ++step) {
      const Batch batch = sampler.batch(step);
      const auto plan = shard.plan(shard.cut().training_view(batch.group));
      const auto expect_no_edge = [&](std::int64_t to, std::int64_t from) {
        if (workspace.map->owner(to) != world().rank()) return;
        plan->in_edges.each(workspace.map->local(to), [&](std::int32_t column) {
          const std::int64_t node =
              column < shard.owned_count() ? owned[column] : halo[column - shard.owned_count()];
          EXPECT_NE(node, from) << split << ": node " << to << " sees the edge of its example";
          ++edges;
        });
      };
      for (const std::int64_t row : batch.rows) {
        liked += dataset.label()[row];
        expect_no_edge(dataset.user_node(row), dataset.item_node(row));
        expect_no_edge(dataset.item_node(row), dataset.user_node(row));
      }
    }
    EXPECT_GT(liked, 10);
    std::int64_t all_edges = 0;
    for (const std::int64_t count : world().all_gather(edges, Traffic::control)) all_edges += count;
    EXPECT_GT(all_edges, 10) << "the cut left nothing to look at";
  }
}

/// Published: z is normalized again over the batch, so that it depends on who else is in it.
TEST_F(KnownFaults, ZDoesNotDependOnTheRestOfTheBatch) {
  const auto model = make_model(tiny_model_config());
  const CutView view = workspace_->shard->cut().full_view();
  const std::vector<std::int64_t> many{3, 30, 7, 25, 3}, one{7};
  const std::vector<std::uint8_t> known(5, 0);
  const at::Tensor together = model->anchors().forward(view, many, known).z_Mr.detach().clone();
  const at::Tensor alone =
      model->anchors().forward(view, one, std::span(known).first(1)).z_Mr.detach().clone();
  EXPECT_TRUE(at::equal(together[2], alone[0]));
  EXPECT_TRUE(at::equal(together[0], together[4]));
}

/// Published: nodes without edges get a z of full strength.
TEST_F(KnownFaults, NodesWithoutEdgesHaveNoZ) {
  const auto model = make_model(tiny_model_config());
  const at::Tensor z = in_node_order(*workspace_, model->anchors().node_z());
  const auto plan = workspace_->shard->plan(workspace_->shard->cut().full_view());
  const at::Tensor degree = in_node_order(*workspace_, plan->degree_n.cpu());
  const at::Tensor length = at::linalg_vector_norm(z, 2, at::IntArrayRef{1});
  EXPECT_GT((degree == 0).sum().item<std::int64_t>(), 0) << "the test needs a node without edges";
  EXPECT_EQ(length.index({degree == 0}).sum().item<double>(), 0);
  EXPECT_TRUE(at::allclose(length.index({degree > 0}), at::full({}, 0.1, at::kDouble)));
}

/// Published: the layer is found by substring, so that layer 1 also means 10 to 19.
TEST_F(KnownFaults, InjectionLayersAreExact) {
  LlamaConfig llama;
  llama.layers = 12;
  llama.hidden_size = 8;
  llama.intermediate_size = 16;
  llama.heads = llama.kv_heads = 2;
  llama.head_dim = 4;
  LoraConfig lora;
  lora.inject_layers = parse_layers("1", llama.layers);
  const LoraAdapters adapters(llama, ModelSlice::whole(llama), lora, Precision::parse("fp64"), 1);
  for (std::int64_t layer = 0; layer < llama.layers; ++layer)
    EXPECT_EQ(adapters.injects(layer), layer == 1) << layer;
}

/// Published: metrics over ranks' padded shares count some rows twice, on fp16 scores.
TEST_F(KnownFaults, EveryRowIsScoredExactlyOnce) {
  const auto model = make_model(tiny_model_config());
  // A number of rows that no rank count from 2 to 4 divides.
  const auto rows = workspace_->dataset->sample(Split::train, 13, 5);
  const auto scores = score_rows(*model, rows, 200, "scoring");
  ASSERT_EQ(scores.size(), rows.size());
  const Evaluation evaluation = quality_of(*workspace_->dataset, rows, scores);
  EXPECT_EQ(evaluation.all.rows, 13);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto alone = score_rows(*model, std::span(rows).subspan(i, 1), 200, "alone");
    EXPECT_NEAR(scores[i], alone[0], 1e-6);
  }
}

/// Published: one rank stops early and the others wait for ever. Here all stop at the same step.
TEST_F(KnownFaults, EarlyStopIsAgreed) {
  const auto model = make_model(tiny_model_config());
  TrainConfig config;
  config.output = shared_.directory() / "early";
  config.steps = 30;
  config.batch_size = 6;
  config.eval_every = 1;
  config.patience = 1;
  config.optimizer.lr = 0;
  const TrainResult result = train(job(), *model, config, nullptr);
  // Nothing moves, so the second validation is no better than the first.
  EXPECT_EQ(result.state.step, 2);
  for (const std::int64_t step : world().all_gather(result.state.step, Traffic::control))
    EXPECT_EQ(step, 2);
}

/// Published: prompts are cut on the right, where the question stands.
TEST_F(KnownFaults, LongPromptsKeepTheQuestion) {
  ModelConfig config = tiny_model_config();
  const auto model = make_model(config);
  std::int64_t longest_row = -1, longest = 0;
  for (const std::int64_t row : workspace_->dataset->rows_of(Split::test)) {
    const std::int64_t length = model->prompts().length(row, 0);
    if (length > longest) longest = length, longest_row = row;
  }
  config.prompt.max_tokens = longest - 1;
  const auto limited = make_model(config);
  const Prompt whole = model->prompts().build(longest_row, 0),
               cut = limited->prompts().build(longest_row, 0);
  EXPECT_LT(cut.tokens.size(), whole.tokens.size());
  ASSERT_EQ(cut.anchors.size(), whole.anchors.size());
  const std::size_t tail = whole.tokens.size() - static_cast<std::size_t>(whole.private_from);
  EXPECT_TRUE(std::equal(whole.tokens.end() - tail, whole.tokens.end(), cut.tokens.end() - tail));
}

}  // namespace
}  // namespace graphlora::test
