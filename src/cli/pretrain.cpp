// graphlora pretrain: matrix factorization for E.
#include <cstdio>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "dist/collective_directory.hpp"
#include "train/embedding_store.hpp"
#include "train/pretrain.hpp"
#include "train/workspace.hpp"

namespace graphlora {
namespace {

constexpr const char* kMarker = "pretrain.json";
constexpr std::int64_t kMany = 1'000'000'000;

struct PretrainOptions {
  std::string data, output;
  PretrainConfig config;
  CommonOptions common = {.precision = "fp32"};

  OptionTable table() {
    OptionTable table("pretrain", "Factorizes the ratings into the embeddings E",
                      "Learns one embedding per user and item by matrix factorization: binary "
                      "cross-entropy of E_user·E_item against the label on all training rows, row-"
                      "sparse Adam, early stop on the AUC of the validation rows. Writes "
                      "pretrain.json and embeddings-*.safetensors, where train starts from; "
                      "evaluate --pretrained scores by them alone. Any number of ranks gives the "
                      "same result.");
    table
        .example("graphlora pretrain --data run/dataset --output run/pretrained",
                 "seconds on MovieLens-100K")
        .example("mpirun -np 4 graphlora pretrain --data run/dataset --output run/pretrained",
                 "the same on four ranks, each with its part of the nodes")
        .example("graphlora pretrain --data run/dataset --output run/plain --pretrain.bias false",
                 "without bias columns");
    table.add_required("Input and output", "data", &data, "DIR: dataset written by prepare")
        .add_required("Input and output", "output", &output, "DIR: where the embeddings go")
        .add("Factorization", "pretrain.width", &config.width,
             "columns of E (d_e), bias columns included", in_range(config.width, 1, 65536))
        .add("Factorization", "pretrain.bias", &config.bias,
             "the last two columns hold (b_u, 1) for users and (1, b_v) for items")
        .add("Factorization", "pretrain.epochs", &config.epochs, "passes over the rows, at most",
             in_range(config.epochs, 1, kMany))
        .add("Factorization", "pretrain.patience", &config.patience,
             "epochs without a better validation AUC after which it stops",
             in_range(config.patience, 1, kMany))
        .add("Factorization", "pretrain.batch-size", &config.batch_size,
             "rows of a global batch; 0: 4096, on large data up to 65536 (128 batches an epoch)",
             in_range(config.batch_size, 0, kMany))
        .add("Factorization", "pretrain.lr", &config.lr, "learning rate of Adam",
             in_range(config.lr, 0, 1e3))
        .add("Factorization", "pretrain.weight-decay", &config.weight_decay,
             "L2 on the rows of a batch", in_range(config.weight_decay, 0, 1e3))
        .add("Factorization", "pretrain.init-std", &config.init_std,
             "standard deviation of the initial values", in_range(config.init_std, 0, 1e3));
    add_common_options(table, common);
    return table;
  }
};

nlohmann::json to_json(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

nlohmann::json describe(const PretrainResult& result, const PretrainConfig& config,
                        const Dataset& dataset) {
  nlohmann::json json{{"format_version", 1},
                      {"dataset_fingerprint", dataset.fingerprint()},
                      {"users", dataset.users()},
                      {"items", dataset.items()},
                      {"width", config.width},
                      {"bias", config.bias},
                      {"best_epoch", result.best_epoch},
                      {"train_auc", to_json(result.train_auc)},
                      {"valid_auc", to_json(result.valid_auc)},
                      {"seconds", result.seconds},
                      {"config",
                       {{"epochs", config.epochs},
                        {"patience", config.patience},
                        {"batch_size", result.batch_size},
                        {"lr", config.lr},
                        {"weight_decay", config.weight_decay},
                        {"init_std", config.init_std},
                        {"seed", config.seed},
                        {"precision", config.precision}}},
                      {"epochs", nlohmann::json::array()}};
  for (const PretrainEpoch& epoch : result.epochs) {
    json["epochs"].push_back({{"epoch", epoch.epoch},
                              {"loss", epoch.loss},
                              {"valid_auc", to_json(epoch.valid_auc)},
                              {"seconds", epoch.seconds}});
  }
  return json;
}

/// Fills and commits the directory. Collective.
void write_result(Job& job, const Workspace& workspace, CollectiveDirectory& directory,
                  const PretrainResult& result, const nlohmann::json& about) {
  job.agree([&] {
    write_embeddings(workspace.world(), directory.path(), *workspace.map, workspace.shard->owned(),
                     result.table);
  });
  job.agree([&] {
    if (workspace.world().rank() == 0) write_json(directory.path() / kMarker, about);
    directory.commit();
  });
}

}  // namespace

OptionTable describe_pretrain() { return table_of<PretrainOptions>(); }

int run_pretrain(Job& job, const std::vector<std::string>& arguments) {
  job.catch_signals();
  PretrainOptions options;
  job.agree([&] { options.table().parse(arguments); });
  apply_common_options(options.common, *job.world());
  PretrainConfig& config = options.config;
  config.seed = static_cast<std::uint64_t>(options.common.seed);
  config.precision = options.common.precision;

  CollectiveDirectory directory(job, options.output, kMarker);
  const Workspace workspace(job, options.data, PartitionConfig{}, Reuse::any);
  const Dataset& dataset = *workspace.dataset;
  const PretrainResult result =
      pretrain(job, dataset, workspace.shard->owned(), *workspace.map, config);
  if (result.interrupted) {
    log::info("interrupted: nothing is written; the same command starts over");
    return static_cast<int>(ExitCode::interrupted);
  }
  write_result(job, workspace, directory, result, describe(result, config, dataset));
  if (job.world()->rank() == 0) {
    const auto text = [](const std::optional<double>& value) {
      return value ? fmt::format("{:.4f}", *value) : std::string("undefined");
    };
    fmt::print("{}: best epoch {} of {}, AUC {} on validation, {} on training rows; {:.1f} s\n",
               options.output, result.best_epoch, result.epochs.size(), text(result.valid_auc),
               text(result.train_auc), result.seconds);
  }
  return 0;
}

}  // namespace graphlora
