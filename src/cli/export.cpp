#include <optional>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "train/checkpoint_model.hpp"

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
  const Workspace& workspace = loaded.workspace();

  if (options.what == "adapter") {
    job.agree([&] {
      if (!root) return;
      write_adapter(directory->path(), loaded.model());
      directory->commit();
    });
  } else {
    const at::Tensor e_ND = in_node_order(workspace, loaded.model().table().weight_nD);
    at::Tensor z_Nr = loaded.model().anchors().node_z();
    if (z_Nr.defined()) z_Nr = in_node_order(workspace, z_Nr);
    job.agree([&] {
      if (!root) return;
      std::vector<std::pair<std::string, at::Tensor>> tensors{
          {"node_id", at::arange(e_ND.size(0), at::kLong)}, {"E", e_ND}};
      if (z_Nr.defined()) tensors.emplace_back("z", z_Nr);
      write_safetensors(options.output, tensors);
    });
  }
  if (root) fmt::print("{}\n", options.output);
  return 0;
}

}  // namespace graphlora
