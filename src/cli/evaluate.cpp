#include <chrono>
#include <optional>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "train/checkpoint_model.hpp"
#include "train/embedding_store.hpp"
#include "train/evaluate.hpp"
#include "train/pretrain.hpp"

namespace graphlora {
namespace {

struct EvaluateOptions {
  std::string data, checkpoint, model, pretrained, split = "test", predictions,
                                                   shared_prefix = "on";
  std::int64_t max_examples = 0, sample_seed = 0, micro_batch = 4096, tensor_parallel = 1;
  CommonOptions common;

  OptionTable table() {
    OptionTable table("evaluate", "AUC and UAUC of a checkpoint or of pretrained embeddings",
                      "Scores the rows of a split, each exactly once over all ranks, and prints "
                      "overall, warm and cold quality "
                      "as JSON on stdout. With --pretrained in place of --checkpoint and --model, "
                      "rows are scored by the "
                      "embeddings alone (E·E).");
    table
        .example(
            "graphlora evaluate --checkpoint run/out --data run/dataset --model run/model --split "
            "test --max-examples 1000",
            "a fixed sample of 1,000 test rows, by OUTPUT's best step")
        .example("graphlora evaluate --pretrained run/pretrained --data run/dataset --split test",
                 "matrix factorization alone");
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
             in_range(tensor_parallel, 1, 1 << 16));
    add_common_options(table, common, Computes::on_any_device);
    return table;
  }
};

}  // namespace

OptionTable describe_evaluate() { return table_of<EvaluateOptions>(); }

int run_evaluate(Job& job, const std::vector<std::string>& arguments) {
  EvaluateOptions options;
  bool precision_given = false;
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
    rows = dataset.sample(parse_split(options.split), options.max_examples,
                          static_cast<std::uint64_t>(options.sample_seed));
    dataset.release_rows();
  });

  const auto start = std::chrono::steady_clock::now();
  std::vector<float> scores;
  if (loaded) {
    scores = score_rows(loaded->model(), rows, options.micro_batch, "scoring",
                        /*stops_on_signal=*/false, options.shared_prefix == "on");
  } else {
    EmbeddingTable table;
    job.agree([&] {
      check_pretrained(options.pretrained, dataset);
      table = read_embeddings(options.pretrained, workspace.shard->owned(), dataset.nodes(),
                              at::kFloat);
    });
    scores = score_by_embeddings(workspace.world(), dataset, *workspace.map, table, rows);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  job.agree([&] {
    if (!root) return;
    fmt::print("{}\n", quality_of(dataset, rows, scores).to_json(options.split, seconds).dump());
    if (!options.predictions.empty()) write_predictions(options.predictions, dataset, rows, scores);
  });
  return 0;
}

}  // namespace graphlora
