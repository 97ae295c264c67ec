#include <cstdio>
#include <optional>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/describe.hpp"
#include "core/error.hpp"
#include "data/prompt.hpp"
#include "graph/cut.hpp"
#include "model/hf_checkpoint.hpp"
#include "train/checkpoint.hpp"
#include "train/step_plan.hpp"

namespace graphlora {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string path, data, model, checkpoint, split = "test";
  std::int64_t prompts = 0, batch = 0, sample_seed = 0;
  bool json = false;
  PromptConfig prompt;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "inspect", "Describes a file or directory, or prints prompts as the LLM sees them",
        "With PATH: opens and checks a dataset, a partition, pretrained embeddings, a "
        "checkpoint (a step or a training output), an LLM directory, flight recordings (a "
        "file, or a directory of them, whose ranks are then compared) or a safetensors "
        "file, and says what is in it. With --data: prints prompts, either those of the "
        "sample that evaluate scores, or a training step's global batch.");
    table.example("graphlora inspect run/dataset", "users, items, rows per split, sources")
        .example("graphlora inspect run/out --json",
                 "the best checkpoint's manifest, all files verified")
        .example("graphlora inspect run/out/flight",
                 "after a failure on several ranks: which one was behind, in which operation")
        .example("graphlora inspect --data run/dataset --model run/model --split test --prompts 3",
                 "three prompts with the built-in templates")
        .example(
            "graphlora inspect --data run/dataset --model run/model --checkpoint run/out --batch "
            "1 --json",
            "the first training step's examples");
    table.add_positional("Input", "path", &path, "PATH: what to describe", {}, /*required=*/false)
        .add("Input", "data", &data, "DIR: dataset written by prepare")
        .add("Input", "model", &model, "DIR: the LLM, for its tokenizer")
        .add("Input", "checkpoint", &checkpoint,
             "DIR: a step or a training output, for its templates, limits and sampler")
        .add("Prompts", "prompts", &prompts, "print so many prompts of a split's sample",
             in_range(prompts, 0, 1LL << 40))
        .add("Prompts", "split", &split, "train, valid or test",
             one_of(split, {"train", "valid", "test"}))
        .add("Prompts", "sample-seed", &sample_seed, "seed of that sample")
        .add("Prompts", "batch", &batch,
             "print the global batch of this training step (from 1); needs --checkpoint",
             in_range(batch, 0, 1LL << 40))
        .add("Prompts", "prompt.templates", &prompt.templates,
             "FILE: prompt templates; empty: the checkpoint's, else the built-in ones")
        .add("Prompts", "prompt.history", &prompt.history,
             "liked titles shown at most, where no checkpoint says so",
             in_range(prompt.history, 0, 1 << 16))
        .add("Prompts", "prompt.max-tokens", &prompt.max_tokens,
             "longest prompt, where no checkpoint says so", in_range(prompt.max_tokens, 1, 1 << 20))
        .add("Output", "json", &json, "JSON: one object for PATH, one a line for prompts");
    add_common_options(table, common);
    return table;
  }
};

void check(const InspectOptions& options) {
  if (options.path.empty() == options.data.empty()) {
    throw ConfigError("inspect: give either PATH, or --data for prompts");
  }
  if (options.data.empty()) return;
  if ((options.prompts > 0) == (options.batch > 0)) {
    throw ConfigError("inspect: --data needs either --prompts N or --batch STEP, from 1");
  }
  if (options.model.empty()) throw ConfigError("inspect: --data needs --model, for its tokenizer");
  if (options.batch > 0 && options.checkpoint.empty()) {
    throw ConfigError("inspect: --batch needs --checkpoint, which knows the run's sampler");
  }
}

/// The checkpoint's prompts if there is one, else those of the options; never beyond the model's
/// positions.
PromptConfig prompt_config(const InspectOptions& options,
                           const std::optional<Checkpoint>& checkpoint) {
  PromptConfig config = options.prompt;
  if (checkpoint) {
    config = checkpoint->model_config().prompt;
    config.templates = options.prompt.templates;
    if (config.templates.empty()) config.template_text = checkpoint->manifest().at("templates");
    checkpoint->require_base(HfCheckpoint(options.model));
  } else {
    config.max_tokens = std::min(
        config.max_tokens,
        read_llama_config(std::filesystem::path(options.model) / "config.json").max_positions);
  }
  return config;
}

class PromptPrinter {
 public:
  PromptPrinter(const Dataset& dataset, const PromptBuilder& prompts, bool json)
      : dataset_(dataset), prompts_(prompts), json_(json) {}

  /// `more`: fields behind the usual ones.
  void print(std::int64_t row, std::int32_t template_index, const Json& more) const {
    const Prompt prompt = prompts_.build(row, template_index);
    Json anchors = Json::array();
    for (const auto& [position, node] : prompt.anchors) anchors.push_back({position, node});
    Json line = {{"row", row},
                 {"user", dataset_.user_id(dataset_.user()[row])},
                 {"item", dataset_.item_id(dataset_.item()[row])},
                 {"label", dataset_.label()[row]},
                 {"tokens", prompt.tokens},
                 {"anchors", anchors},
                 {"text", prompts_.text(prompt)}};
    line.update(more);
    if (!json_) {
      const std::string text = line["text"];
      line["tokens"] = prompt.tokens.size();
      line.erase("text");
      fmt::print("{}\n{}\n\n", line.dump(), text);
      return;
    }
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

 private:
  const Dataset& dataset_;
  const PromptBuilder& prompts_;
  bool json_;
};

void print_batch(const InspectOptions& options, const Checkpoint& checkpoint,
                 const Dataset& dataset, const PromptBuilder& prompts,
                 const PromptPrinter& printer) {
  const auto& run = checkpoint.manifest().at("sampler");
  const auto seed = run.at("seed").get<std::uint64_t>();
  const CutRule cut(dataset, checkpoint.cut(), checkpoint.groups());
  const TrainingOrder order(dataset, cut);
  const Sampler sampler(dataset, cut, order, run.at("batch_size").get<std::int64_t>(), seed,
                        run.at("block").get<std::int64_t>(),
                        run.at("max_train_examples").get<std::int64_t>());
  const StepPlan plan = plan_step(sampler, prompts, dataset, seed, options.batch, 1,
                                  /*shared_prefix=*/false);
  for (std::size_t i = 0; i < plan.batch.rows.size(); ++i) {
    printer.print(plan.batch.rows[i], plan.template_B[i],
                  {{"group", plan.batch.group}, {"template", plan.template_B[i]}});
  }
}

void print_prompts(const InspectOptions& options) {
  const Dataset dataset(options.data);
  std::optional<Checkpoint> checkpoint;
  if (!options.checkpoint.empty()) {
    checkpoint.emplace(options.checkpoint, /*prefer_latest=*/false, /*verify=*/false);
    checkpoint->require_dataset(dataset);
  }
  const Tokenizer tokenizer(options.model);
  const PromptBuilder prompts(dataset, tokenizer, prompt_config(options, checkpoint));
  const PromptPrinter printer(dataset, prompts, options.json);
  if (options.batch > 0) {
    print_batch(options, *checkpoint, dataset, prompts, printer);
    return;
  }
  for (const std::int64_t row : dataset.sample(parse_split(options.split), options.prompts,
                                               static_cast<std::uint64_t>(options.sample_seed))) {
    printer.print(row, 0, Json::object());
  }
}

}  // namespace

OptionTable describe_inspect() { return table_of<InspectOptions>(); }

int run_inspect(Job& job, const std::vector<std::string>& arguments) {
  InspectOptions options;
  job.agree([&] {
    options.table().parse(arguments);
    check(options);
  });
  apply_common_options(options.common, *job.world());
  job.agree([&] {
    if (job.world()->rank() != 0) return;
    if (!options.data.empty()) {
      try {
        print_prompts(options);
      } catch (const Json::exception& error) {
        throw DataError("{}: its manifest is damaged ({})", options.checkpoint, error.what());
      }
      return;
    }
    const Json description = describe(options.path);
    fmt::print("{}", options.json ? description.dump(2) + "\n" : to_text(description));
  });
  return 0;
}

}  // namespace graphlora
