#include "train/evaluate.hpp"

#include <algorithm>

#include "core/csv_field.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "core/tensor_view.hpp"
#include "train/sampler.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kChunkPerReplica = 64;  // examples between two exchanges of anchor rows

}  // namespace

std::vector<float> score_prompts(Recommender& model, const PromptList& prompts,
                                 std::int64_t micro_batch,
                                 const std::function<void(std::int64_t)>& on_progress,
                                 bool stops_on_signal) {
  const at::NoGradGuard guard;
  const ProcessGrid& grid = *model.workspace().grid;

  std::vector<float> result(static_cast<std::size_t>(prompts.size), 0.0F);
  const std::int64_t total = prompts.size, chunk = kChunkPerReplica * grid.replicas();
  for (std::int64_t begin = 0; begin < total; begin += chunk) {
    const std::int64_t end = std::min(total, begin + chunk);
    std::vector<std::int64_t> lengths;
    for (std::int64_t i = begin; i < end; ++i) lengths.push_back(prompts.length(i));
    const auto share = deal(lengths, grid.replicas())[grid.replica()];

    std::vector<Prompt> mine;
    std::vector<std::int64_t> nodes, stream, my_lengths;
    for (const std::size_t i : share) {
      mine.push_back(prompts.build(begin + static_cast<std::int64_t>(i)));
      for (const auto& anchor : mine.back().anchors) nodes.push_back(anchor.node);
      stream.push_back(mine.back().row);
      my_lengths.push_back(lengths[i]);
    }
    const AnchorRows anchors = model.anchors().infer(nodes);
    std::int64_t first_anchor = 0;
    const auto bounds = split_by_budget(my_lengths, micro_batch);
    for (std::size_t k = 0; k + 1 < bounds.size(); ++k) {
      const std::size_t first = bounds[k], count = bounds[k + 1] - first;
      const Pack pack = make_pack(std::span(mine).subspan(first, count),
                                  std::span(stream).subspan(first, count), first_anchor);
      first_anchor += pack.anchor_row_A.size(0);
      const at::Tensor score_S =
          model.llm().forward(pack, anchors, {}).to(at::kFloat).cpu().contiguous();
      for (std::size_t s = 0; s < count; ++s)
        result[begin + static_cast<std::int64_t>(share[first + s])] =
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
                              bool stops_on_signal) {
  const PromptBuilder& prompts = model.prompts();
  Progress progress(progress_label, static_cast<std::int64_t>(rows.size()), "examples",
                    model.workspace().grid->rank() == 0);
  model.anchors().begin_inference();
  return score_prompts(
      model,
      {.size = static_cast<std::int64_t>(rows.size()),
       .length = [&](std::int64_t i) { return prompts.length(rows[i], 0); },
       .build = [&](std::int64_t i) { return prompts.build(rows[i], 0); }},
      micro_batch, [&](std::int64_t done) { progress.update(done); }, stops_on_signal);
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
