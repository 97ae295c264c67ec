#include <optional>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/progress.hpp"
#include "core/safetensors.hpp"
#include "train/checkpoint_model.hpp"
#include "train/merge.hpp"
#include "train/node_rows.hpp"

namespace graphlora {
namespace {

struct ExportOptions {
  std::string checkpoint, data, model, what, output;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "export", "Writes a checkpoint's adapter (PEFT), merged model or node embeddings",
        "adapter: a directory that PeftModel.from_pretrained loads. merged: a Hugging Face "
        "directory of the LLM with the adapter merged into its weights, W + (alpha/r)·B·A, "
        "computed in fp32 and rounded once to the type they have in the LLM's files; it is written "
        "a few MiB at a time. What the graph adds is part of neither: the projector, the node "
        "embeddings, z and its weights (lambda-lora and lambda-gnn, which only act at the user and "
        "item tokens of an injection layer). embeddings: one safetensors file with node_id, E and "
        "z (graph of all training positives) of every node, in the run's own precision.");
    table
        .example("graphlora export --checkpoint run/out --what adapter --output run/adapter",
                 "for PEFT")
        .example(
            "graphlora export --checkpoint run/out --model run/model --what merged --output "
            "run/merged",
            "for programs that load no adapters")
        .example(
            "graphlora export --checkpoint run/out --data run/dataset --model run/model --what "
            "embeddings --output run/nodes.safetensors",
            "for a nearest-neighbour index");
    table
        .add_required("Input and output", "checkpoint", &checkpoint,
                      "DIR: a step, or a training output (BEST, else LATEST)")
        .add("Input and output", "data", &data,
             "DIR: dataset written by prepare; embeddings need it")
        .add("Input and output", "model", &model,
             "DIR: the LLM; empty: the path it had in training")
        .add_required("Input and output", "what", &what, "adapter, merged or embeddings",
                      one_of(what, {"adapter", "merged", "embeddings"}))
        .add_required("Input and output", "output", &output,
                      "PATH: directory (adapter, merged) or file (embeddings) to write");
    add_common_options(table, common);
    return table;
  }
};

constexpr const char* kAdapterMarker = "adapter_config.json";
constexpr const char* kMergedMarker = "merged.json";
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

/// Writes node_id, E and z of all nodes: rank 0 gathers them a range at a time. Collective.
void write_nodes(Job& job, const std::filesystem::path& path, Recommender& model) {
  constexpr std::int64_t kRows = 1 << 14;
  const Workspace& workspace = model.workspace();
  const std::int64_t nodes = workspace.dataset->nodes();
  const bool root = job.world()->rank() == 0;
  std::vector<std::pair<std::string, at::Tensor>> columns{{"E", model.table().weight_nD}};
  if (const at::Tensor z_nr = model.anchors().node_z(); z_nr.defined())
    columns.emplace_back("z", z_nr);

  std::optional<SafetensorsWriter> file;
  const auto each_range = [&](const auto& body) {
    for (std::int64_t begin = 0; begin < nodes; begin += kRows)
      body(NodeRange{begin, std::min(nodes, begin + kRows)});
  };
  job.agree([&] {
    if (!root) return;
    std::vector<SafetensorsWriter::Entry> entries{{"node_id", at::kLong, {nodes}}};
    for (const auto& [name, rows] : columns)
      entries.push_back({name, rows.scalar_type(), {nodes, rows.size(1)}});
    file.emplace(path, entries);
    each_range([&](const NodeRange& range) {
      file->write(at::arange(range.begin, range.end, at::kLong));
    });
  });
  const NodeRows node_rows(workspace.world(), workspace.shard->owned());
  std::exception_ptr failure;  // found at once, told after the last exchange
  for (const auto& [name, rows_nC] : columns) {
    each_range([&](const NodeRange& range) {
      std::vector<NodeRange> ranges(workspace.world().size());
      ranges[0] = range;
      const at::Tensor rows_RC = node_rows.fetch(rows_nC, ranges);
      if (!root || failure) return;
      try {
        file->write(rows_RC);
      } catch (...) {
        failure = std::current_exception();
      }
    });
  }
  job.agree([&] {
    if (failure) std::rethrow_exception(failure);
    if (root) file->commit();
  });
}

/// Throws DataError where the dataset that was named is not the checkpoint's.
void check_dataset(const ExportOptions& options, const Checkpoint& checkpoint) {
  if (!options.data.empty())
    checkpoint.require_dataset(Dataset(options.data, DatasetCheck::shapes));
}

/// The checkpoint's own files, whatever number of ranks wrote them; only the path of the LLM is
/// the one named. Local.
void export_adapter(const ExportOptions& options, const Checkpoint& checkpoint) {
  AtomicDirectory directory(options.output, kAdapterMarker);
  check_dataset(options, checkpoint);
  if (!options.model.empty()) checkpoint.require_base(HfCheckpoint(options.model));
  const std::filesystem::path source = checkpoint.directory() / "adapter";
  const PeftAdapter checked(source);
  std::string config = read_file(source / kAdapterMarker);
  if (!options.model.empty()) {
    auto json = nlohmann::ordered_json::parse(config);
    json["base_model_name_or_path"] = options.model;
    config = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }
  write_file(directory.path() / kAdapterMarker, config);
  const char* weights = "adapter_model.safetensors";
  write_file(directory.path() / weights, read_file(source / weights, std::size_t{1} << 40));
  directory.commit();
}

constexpr const char* kNotMerged =
    "the projector, the node embeddings and z are not part of it, nor are lambda-lora and "
    "lambda-gnn, which only act at the user and item tokens of an injection layer: the merged "
    "model alone scores no recommendation as the run does";

/// Local.
void export_merged(const ExportOptions& options, const Checkpoint& checkpoint) {
  const std::filesystem::path source =
      options.model.empty() ? checkpoint.manifest().at("base_model").value("path", "")
                            : options.model;
  for (const auto& [inner, outer] : {std::pair(std::filesystem::path(options.output), source),
                                     std::pair(source, std::filesystem::path(options.output))}) {
    if (lies_in(inner, outer))
      throw ConfigError("--output {}: holds or lies in the LLM {}", options.output,
                        source.string());
  }
  AtomicDirectory directory(options.output, kMergedMarker);
  check_dataset(options, checkpoint);
  const HfCheckpoint base(source);
  checkpoint.require_base(base);
  const PeftAdapter adapter(checkpoint.directory() / "adapter");

  const std::uint64_t bytes = merged_bytes(base);
  if (const auto space = std::filesystem::space(directory.path()); space.available < bytes) {
    throw DataError("{}: the merged model takes {:.2f} GiB, {:.2f} GiB are free", options.output,
                    static_cast<double>(bytes) / kGiB, static_cast<double>(space.available) / kGiB);
  }
  Progress progress("merging", static_cast<std::int64_t>(bytes >> 20), "MiB");
  write_merged(adapter, base, directory.path(), [&](std::uint64_t written) {
    progress.update(static_cast<std::int64_t>(written >> 20));
  });
  progress.finish();
  const std::int64_t step = checkpoint.state().step;
  write_json(directory.path() / kMergedMarker,
             {{"base_model", {{"path", source.string()}, {"fingerprint", base.fingerprint()}}},
              {"checkpoint", checkpoint.directory().string()},
              {"step", step},
              {"rank", adapter.rank()},
              {"alpha", adapter.alpha()},
              {"targets", adapter.targets()},
              {"note", kNotMerged}});
  write_file(directory.path() / "README.md",
             fmt::format("# Merged model\n\nThe language model {} with the LoRA adapter of step {} "
                         "of {} merged into its weights: W + (alpha/r)·B·A, r = {}, alpha = {}, "
                         "on {}.\n\nNote: {}.\n",
                         source.string(), step, checkpoint.directory().string(), adapter.rank(),
                         adapter.alpha(), fmt::join(adapter.targets(), ", "), kNotMerged));
  directory.commit();
  log::info("{}: {}", options.output, kNotMerged);
}

}  // namespace

OptionTable describe_export() { return table_of<ExportOptions>(); }

int run_export(Job& job, const std::vector<std::string>& arguments) {
  ExportOptions options;
  job.agree([&] {
    options.table().parse(arguments);
    if (options.what == "embeddings" && options.data.empty())
      throw ConfigError("--what embeddings: needs --data, the dataset the checkpoint belongs to");
  });
  apply_common_options(options.common, *job.world());
  const bool root = job.world()->rank() == 0;
  if (options.what == "embeddings") {
    // An output that can't be written is found before the model is loaded.
    job.agree([&] {
      if (root) const AtomicFile writable(options.output);
    });
    CheckpointModel loaded(job, options.data, options.checkpoint, options.model, "");
    write_nodes(job, options.output, loaded.model());
  } else {
    job.agree([&] {
      if (!root) return;
      const Checkpoint checkpoint(options.checkpoint, /*prefer_latest=*/false, /*verify=*/true);
      options.what == "adapter" ? export_adapter(options, checkpoint)
                                : export_merged(options, checkpoint);
    });
  }
  if (root) fmt::print("{}\n", options.output);
  return 0;
}

}  // namespace graphlora
