#include <optional>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "train/checkpoint_model.hpp"
#include "train/node_rows.hpp"

namespace graphlora {
namespace {

struct ExportOptions {
  std::string checkpoint, data, model, what, output;
  CommonOptions common;

  OptionTable table() {
    OptionTable table("export", "Writes a checkpoint's adapter (PEFT) or node embeddings",
                      "adapter: a directory that PeftModel.from_pretrained loads; what the graph "
                      "adds (projector, z) is not "
                      "part of it. embeddings: one safetensors file with node_id, E and z (graph "
                      "of all training positives) of "
                      "every node, in the run's own precision.");
    table
        .example(
            "graphlora export --checkpoint run/out --data run/dataset --model run/model --what "
            "adapter --output run/adapter",
            "for PEFT")
        .example(
            "graphlora export --checkpoint run/out --data run/dataset --model run/model --what "
            "embeddings --output run/nodes.safetensors",
            "for a nearest-neighbour index");
    table
        .add_required("Input and output", "checkpoint", &checkpoint,
                      "DIR: a step, or a training output (BEST, else LATEST)")
        .add_required("Input and output", "data", &data, "DIR: dataset written by prepare")
        .add("Input and output", "model", &model,
             "DIR: the LLM; empty: the path it had in training")
        .add_required("Input and output", "what", &what, "adapter or embeddings",
                      one_of(what, {"adapter", "embeddings"}))
        .add_required("Input and output", "output", &output,
                      "PATH: directory (adapter) or file (embeddings) to write");
    add_common_options(table, common);
    return table;
  }
};

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

}  // namespace

OptionTable describe_export() { return table_of<ExportOptions>(); }

int run_export(Job& job, const std::vector<std::string>& arguments) {
  ExportOptions options;
  job.agree([&] { options.table().parse(arguments); });
  apply_common_options(options.common, *job.world());
  const bool root = job.world()->rank() == 0;
  // An output that can't be written is found before the model is loaded.
  std::optional<AtomicDirectory> directory;
  job.agree([&] {
    if (!root) return;
    if (options.what == "adapter") {
      directory.emplace(options.output, "adapter_config.json");
    } else {
      const AtomicFile writable(options.output);
    }
  });
  CheckpointModel loaded(job, options.data, options.checkpoint, options.model, "");

  if (options.what == "adapter") {
    job.agree([&] {
      if (!root) return;
      write_adapter(directory->path(), loaded.model());
      directory->commit();
    });
  } else {
    write_nodes(job, options.output, loaded.model());
  }
  if (root) fmt::print("{}\n", options.output);
  return 0;
}

}  // namespace graphlora
