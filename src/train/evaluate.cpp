#include "train/evaluate.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "core/csv_field.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "core/tensor_view.hpp"
#include "train/sampler.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kChunkPerReplica = 128;  // examples between two exchanges of anchor rows

/// Places in `rows`, in the order in which they are scored: as given, or each user's together by
/// time.
std::vector<std::size_t> scoring_order(const Dataset& dataset, std::span<const std::int64_t> rows,
                                       bool by_user) {
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  if (!by_user) return order;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(dataset.user()[rows[a]], dataset.time()[rows[a]]) <
           std::tuple(dataset.user()[rows[b]], dataset.time()[rows[b]]);
  });
  return order;
}

/// What the prompts [begin, end) cost; without sharing each is a group of its own.
std::vector<ExampleCost> costs_of(const PromptList& prompts, std::int64_t begin, std::int64_t end,
                                  bool shared_prefix) {
  std::map<std::pair<std::uint64_t, std::int64_t>, std::size_t> groups;
  std::vector<ExampleCost> costs;
  for (std::int64_t i = begin; i < end; ++i) {
    const auto [tokens, private_from] = prompts.extent(i);
    std::size_t group = costs.size();
    if (shared_prefix)
      group = groups.try_emplace({prompts.beginning(i), private_from}, group).first->second;
    costs.push_back({tokens, private_from, group});
  }
  return costs;
}

}  // namespace

std::vector<float> score_prompts(Recommender& model, const PromptList& prompts,
                                 std::int64_t micro_batch,
                                 const std::function<void(std::int64_t)>& on_progress,
                                 bool stops_on_signal, bool shared_prefix) {
  const at::NoGradGuard guard;
  const ProcessGrid& grid = *model.workspace().grid;

  std::vector<float> result(static_cast<std::size_t>(prompts.size), 0.0F);
  const std::int64_t chunk = kChunkPerReplica * grid.replicas();
  for (std::int64_t begin = 0; begin < prompts.size; begin += chunk) {
    const std::int64_t end = std::min(prompts.size, begin + chunk);
    const auto share =
        deal(costs_of(prompts, begin, end, shared_prefix), grid.replicas())[grid.replica()];
    std::vector<Prompt> mine;
    std::vector<std::int64_t> nodes, stream;
    for (const std::size_t i : share) {
      mine.push_back(prompts.build(begin + static_cast<std::int64_t>(i)));
      stream.push_back(mine.back().row);
    }
    const std::vector<Pack> packs =
        make_packs(mine, stream, micro_batch, shared_prefix ? Sharing::inference : Sharing::none);
    for (const Pack& pack : packs)
      for (const Pack::Anchor& anchor : pack.anchors) nodes.push_back(anchor.node);
    const AnchorRows anchors = model.anchors().infer(nodes);
    for (const Pack& pack : packs) {
      const at::Tensor score_S =
          model.llm().forward(pack, anchors, {}).to(at::kFloat).cpu().contiguous();
      for (std::size_t s = 0; s < pack.example_S.size(); ++s)
        result[begin + static_cast<std::int64_t>(share[pack.example_S[s]])] =
            score_S.const_data_ptr<float>()[s];
    }
    if (on_progress) on_progress(end);
    if (!stops_on_signal) continue;
    const at::Tensor interrupted = at::full({1}, Job::interrupted() ? 1 : 0, at::kLong);
    grid.world().all_reduce(interrupted, ReduceOp::max, Traffic::metrics).wait();
    if (interrupted.item<std::int64_t>() != 0) return {};
  }

  // Each score stands on the ranks of one replica, the others hold 0.
  grid.data().all_reduce(view_of(result), ReduceOp::sum, Traffic::metrics).wait();
  return result;
}

std::vector<float> score_rows(Recommender& model, std::span<const std::int64_t> rows,
                              std::int64_t micro_batch, const std::string& progress_label,
                              bool stops_on_signal, bool shared_prefix) {
  const PromptBuilder& prompts = model.prompts();
  const Dataset& dataset = *model.workspace().dataset;
  Progress progress(progress_label, static_cast<std::int64_t>(rows.size()), "examples",
                    model.workspace().grid->rank() == 0);
  model.anchors().begin_inference();
  const std::vector<std::size_t> order = scoring_order(dataset, rows, shared_prefix);
  const auto row = [&](std::int64_t i) { return rows[order[i]]; };
  const std::vector<float> scores = score_prompts(
      model,
      {.size = static_cast<std::int64_t>(rows.size()),
       .extent = [&](std::int64_t i) { return prompts.extent(row(i), 0); },
       .beginning =
           [&](std::int64_t i) {
             const auto user = static_cast<std::uint64_t>(dataset.user()[row(i)]);
             return splitmix64(user) ^ prompts.history_hash(row(i));
           },
       .build = [&](std::int64_t i) { return prompts.build(row(i), 0); }},
      micro_batch, [&](std::int64_t done) { progress.update(done); }, stops_on_signal,
      shared_prefix);
  std::vector<float> result(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) result[order[i]] = scores[i];
  return result;
}

nlohmann::ordered_json Evaluation::to_json(const std::string& split, double seconds) const {
  nlohmann::ordered_json json;
  json["split"] = split;
  json.update(all.to_json());
  json["warm"] = warm.to_json();
  json["cold"] = cold.to_json();
  json["examples_per_s"] = seconds > 0
                               ? nlohmann::ordered_json(static_cast<double>(all.rows) / seconds)
                               : nlohmann::ordered_json();
  return json;
}

Evaluation quality_of(const Dataset& dataset, std::span<const std::int64_t> rows,
                      std::span<const float> scores) {
  // One part after the other, so that only its columns are in memory.
  const auto quality = [&](const auto& belongs) {
    std::vector<float> score;
    std::vector<std::uint8_t> label;
    std::vector<std::int64_t> user;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (!belongs(rows[i])) continue;
      score.push_back(scores[i]);
      label.push_back(dataset.label()[rows[i]]);
      user.push_back(dataset.user()[rows[i]]);
    }
    return ranking_quality(score, label, user);
  };
  return {quality([](std::int64_t) { return true; }),
          quality([&](std::int64_t row) { return dataset.warm(row); }),
          quality([&](std::int64_t row) { return !dataset.warm(row); })};
}

void write_predictions(const std::filesystem::path& path, const Dataset& dataset,
                       std::span<const std::int64_t> rows, std::span<const float> scores) {
  AtomicFile file(path);
  file.write("user,item,label,score\n");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int64_t row = rows[i];
    // fmt writes the shortest digits that read back to the same float.
    file.write(fmt::format("{},{},{},{}\n", csv_field(dataset.user_id(dataset.user()[row])),
                           csv_field(dataset.item_id(dataset.item()[row])),
                           int{dataset.label()[row]}, scores[i]));
  }
  file.commit();
}

}  // namespace graphlora
