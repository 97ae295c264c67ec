#include <charconv>
#include <chrono>
#include <optional>

#include "cli/agree_on_data.hpp"
#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "train/checkpoint_model.hpp"
#include "train/embedding_store.hpp"
#include "train/evaluate.hpp"
#include "train/pretrain.hpp"
#include "train/ranking.hpp"

namespace graphlora {
namespace {

struct EvaluateOptions {
  std::string data, checkpoint, model, pretrained, split = "test", predictions,
                                                   shared_prefix = "on";
  std::int64_t max_examples = 0, sample_seed = 0, micro_batch = 4096, tensor_parallel = 1;
  bool ranking = false;
  std::string ranking_candidates = "auto";
  std::int64_t ranking_k = 10, ranking_users = 0;
  CommonOptions common;

  OptionTable table() {
    OptionTable table("evaluate", "AUC and UAUC of a checkpoint or of pretrained embeddings",
                      "Scores the rows of a split, each exactly once over all ranks, and prints "
                      "overall, warm and cold quality "
                      "as JSON on stdout. With --pretrained in place of --checkpoint and --model, "
                      "rows are scored by the "
                      "embeddings alone (E·E).\n--ranking adds \"ranking\": Recall@K, NDCG@K and "
                      "MRR over the users who like something in the split, of all items that they "
                      "have not met in an earlier split. With --pretrained the whole catalogue is "
                      "ranked by E·E; with --checkpoint the LLM ranks the candidates that E·E "
                      "retrieves, and an item that is no candidate counts as never found.");
    table
        .example(
            "graphlora evaluate --checkpoint run/out --data run/dataset --model run/model --split "
            "test --max-examples 1000",
            "a fixed sample of 1,000 test rows, by OUTPUT's best step")
        .example("graphlora evaluate --pretrained run/pretrained --data run/dataset --split test",
                 "matrix factorization alone")
        .example(
            "graphlora evaluate --checkpoint run/out --data run/dataset --model run/model "
            "--max-examples 1000 --ranking --ranking.users 100",
            "where 100 users' liked test items stand among 50 candidates");
    table.add_required("Input and output", "data", &data, "DIR: dataset written by prepare")
        .add("Input and output", "checkpoint", &checkpoint,
             "DIR: a step, or a training output (BEST, else LATEST)")
        .add("Input and output", "model", &model, "DIR: the LLM the checkpoint was trained on")
        .add("Input and output", "pretrained", &pretrained,
             "DIR: embeddings written by pretrain, in place of --checkpoint and --model")
        .add("Input and output", "predictions", &predictions,
             "FILE: CSV user,item,label,score with source ids")
        .add("Rows", "split", &split, "train, valid or test",
             one_of(split, {"train", "valid", "test"}))
        .add("Rows", "max-examples", &max_examples, "score a fixed sample of so many rows; 0: all",
             in_range(max_examples, 0, 1LL << 40))
        .add("Rows", "sample-seed", &sample_seed, "seed of that sample")
        .add("Rows", "micro-batch", &micro_batch, "tokens that go through the LLM at a time",
             in_range(micro_batch, 1, 1LL << 30))
        .add("Rows", "train.shared-prefix", &shared_prefix,
             "on: what rows of one user begin with in common goes through the LLM once; off: every "
             "prompt by itself",
             one_of(shared_prefix, {"on", "off"}))
        .add("Rows", "tensor-parallel", &tensor_parallel,
             "ranks of one host that share a replica of the LLM, whatever grid trained it",
             in_range(tensor_parallel, 1, 1 << 16))
        .add("Ranking", "ranking", &ranking, "add Recall@K, NDCG@K and MRR")
        .add("Ranking", "ranking.k", &ranking_k, "K", in_range(ranking_k, 1, 1LL << 31))
        .add("Ranking", "ranking.candidates", &ranking_candidates,
             "items that are ranked for a user: a number, the best by E·E; all; or auto: all with "
             "--pretrained, 50 with --checkpoint")
        .add("Ranking", "ranking.users", &ranking_users,
             "rank for a fixed sample of so many users; 0: all",
             in_range(ranking_users, 0, 1LL << 40));
    add_common_options(table, common, Computes::on_any_device);
    return table;
  }
};

/// Number of candidates, 0: all of the catalogue. Throws ConfigError.
std::int64_t ranked_candidates(const std::string& text, bool by_llm) {
  if (text == "all" || (text == "auto" && !by_llm)) return 0;
  if (text == "auto") return 50;
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 1)
    throw ConfigError("--ranking.candidates {}: must be a number of at least 1, all or auto", text);
  return count;
}

}  // namespace

OptionTable describe_evaluate() { return table_of<EvaluateOptions>(); }

int run_evaluate(Job& job, const std::vector<std::string>& arguments) {
  EvaluateOptions options;
  bool precision_given = false;
  RankingConfig ranking;
  job.agree([&] {
    OptionTable table = options.table();
    table.parse(arguments);
    precision_given = table.given("precision");
    if (options.pretrained.empty() == options.checkpoint.empty()) {
      throw ConfigError("evaluate: give either --checkpoint with --model, or --pretrained");
    }
    if (!options.checkpoint.empty() && options.model.empty()) {
      throw ConfigError("evaluate: --checkpoint needs --model, the LLM it was trained on");
    }
    if (!options.pretrained.empty() && options.tensor_parallel != 1) {
      throw ConfigError("--tensor-parallel {}: there is no LLM to share with --pretrained",
                        options.tensor_parallel);
    }
    for (const char* name : {"ranking.k", "ranking.candidates", "ranking.users"})
      if (table.given(name) && !options.ranking)
        throw ConfigError("--{}: has no effect without --ranking", name);
    ranking = {
        .split = parse_split(options.split),
        .k = options.ranking_k,
        .candidates = ranked_candidates(options.ranking_candidates, options.pretrained.empty()),
        .users = options.ranking_users,
        .sample_seed = static_cast<std::uint64_t>(options.sample_seed),
        .micro_batch = options.micro_batch};
    if (options.ranking && ranking.split == Split::train)
      throw ConfigError("--ranking: ranks for valid or test; users have met all items of train");
    if (ranking.candidates > 0 && ranking.candidates < ranking.k && options.ranking) {
      throw ConfigError("--ranking.candidates {}: fewer than --ranking.k {}", ranking.candidates,
                        ranking.k);
    }
  });
  apply_common_options(options.common, job);
  const bool root = job.world()->rank() == 0;
  // A file that can't be written is found before the long scoring.
  job.agree([&] {
    if (!root || options.predictions.empty()) return;
    const AtomicFile writable(options.predictions);
  });

  std::optional<CheckpointModel> loaded;
  std::optional<Workspace> plain;
  const std::string precision = precision_given ? options.common.precision : "";
  if (options.pretrained.empty()) {
    loaded.emplace(job, options.data, options.checkpoint, options.model, precision,
                   static_cast<int>(options.tensor_parallel));
  } else {
    plain.emplace(job, options.data, PartitionConfig{}, Reuse::any);
  }
  const Workspace& workspace = loaded ? loaded->workspace() : *plain;
  const Dataset& dataset = *workspace.dataset;
  std::vector<std::int64_t> rows;
  job.agree([&] {
    if (options.ranking_candidates == "auto")
      ranking.candidates = std::min(ranking.candidates, dataset.items());
    if (options.ranking) check_ranking(ranking, dataset);
    rows = dataset.sample(parse_split(options.split), options.max_examples,
                          static_cast<std::uint64_t>(options.sample_seed));
    dataset.release_rows();
  });

  const auto start = std::chrono::steady_clock::now();
  std::vector<float> scores;
  EmbeddingTable table;
  bool bias_columns = false;
  if (loaded) {
    scores = score_rows(loaded->model(), rows, options.micro_batch, "scoring",
                        /*stops_on_signal=*/false, options.shared_prefix == "on");
  } else {
    job.agree([&] {
      bias_columns = check_pretrained(options.pretrained, dataset);
      table = read_embeddings(options.pretrained, workspace.shard->owned(), dataset.nodes(),
                              at::kFloat);
    });
    scores = score_by_embeddings(workspace.world(), dataset, *workspace.map, table, rows);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  nlohmann::ordered_json lists;
  if (options.ranking) {
    Recommender* model = loaded ? &loaded->model() : nullptr;
    const CandidateSearch search(workspace.world(), *workspace.map, workspace.shard->owned(),
                                 dataset.users(), (model ? model->table() : table).weight_nD,
                                 model ? model->bias_columns() : bias_columns);
    agree_on_data(
        job, [&] { lists = evaluate_ranking(job, workspace, search, model, ranking).to_json(); });
  }
  job.agree([&] {
    if (!root) return;
    nlohmann::ordered_json json = quality_of(dataset, rows, scores).to_json(options.split, seconds);
    if (options.ranking) json["ranking"] = lists;
    fmt::print("{}\n", json.dump());
    if (!options.predictions.empty()) write_predictions(options.predictions, dataset, rows, scores);
  });
  return 0;
}

}  // namespace graphlora
