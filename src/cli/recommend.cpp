#include "train/recommend.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "cli/agree_on_data.hpp"
#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/csv_field.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/progress.hpp"
#include "data/text.hpp"
#include "data/title_search.hpp"
#include "train/checkpoint_model.hpp"
#include "train/embedding_store.hpp"
#include "train/pretrain.hpp"
#include "train/seen_items.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kSuggestions = 3;

struct RecommendOptions {
  std::string data, checkpoint, model, pretrained, output, rerank = "on", exclude = "train";
  std::vector<std::string> user, liked;
  std::int64_t top = 10, candidates = 50, micro_batch = 4096, tensor_parallel = 1;
  bool all_users = false, json = false, csv = false;
  bool top_given = false, candidates_given = false, precision_given = false;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "recommend", "Items for users: retrieved by E, ranked by the LLM",
        "Takes for each user the items with the largest E·E, without those of his training rows, "
        "and ranks them by the LLM's score of the prompt that evaluate would build, with the "
        "user's last liked titles of all the data as history. Runs on any number of ranks with the "
        "same result: each searches the items that it owns.\nWho is not in the data is described "
        "by titles (--liked, oldest first): the LLM reads them as history and sees an unknown "
        "user, as in training (E and z are 0); candidates are those nearest to the mean E of the "
        "liked items. So are those of a user without training rows.\nResults go to stdout or "
        "--output: a table, JSON lines or CSV, one entry an item, with source ids, titles, both "
        "scores and both ranks. What took how long goes to stderr.");
    table
        .example(
            "graphlora recommend --checkpoint run/out --data run/dataset --model run/model --user "
            "196",
            "ten items for one user")
        .example(
            "graphlora recommend --checkpoint run/out --data run/dataset --model run/model --liked "
            "\"Toy Story (1995)\" --liked \"Aladdin (1992)\" --json",
            "for somebody new")
        .example(
            "mpirun -np 4 graphlora recommend --pretrained run/pretrained --data run/dataset "
            "--all-users --csv --output run/top.csv",
            "for everybody, by E alone");
    const char* io = "Input and output";
    table.add_required(io, "data", &data, "DIR: dataset written by prepare")
        .add(io, "checkpoint", &checkpoint, "DIR: a step, or a training output (BEST, else LATEST)")
        .add(io, "model", &model, "DIR: the LLM the checkpoint was trained on")
        .add(io, "pretrained", &pretrained,
             "DIR: embeddings written by pretrain, in place of --checkpoint and --model: retrieval "
             "only")
        .add(io, "output", &output,
             "FILE: where the result goes, whole or not at all; empty: stdout")
        .add(io, "json", &json, "JSON lines")
        .add(io, "csv", &csv, "CSV with a header");
    const char* whom = "For whom";
    table.add(whom, "user", &user, "ID,ID: users by their source ids")
        .add(whom, "all-users", &all_users, "every user of the data, a batch at a time")
        .add_repeatable(whom, "liked", &liked,
                        "TITLE: somebody who is not in the data and liked this; may be repeated");
    const char* what = "What";
    table.add(what, "top", &top, "items for each user at most", in_range(top, 1, 1LL << 31))
        .add(what, "candidates", &candidates, "items that the LLM ranks for each user",
             in_range(candidates, 1, 1LL << 31))
        .add(what, "rerank", &rerank, "on, or off: by E·E alone, without the LLM",
             one_of(rerank, {"on", "off"}))
        .add(what, "exclude", &exclude,
             "what a user is not shown again: train (items of his training rows), all (of all his "
             "rows) or none; of --liked, the liked items unless none",
             one_of(exclude, {"train", "all", "none"}))
        .add(what, "micro-batch", &micro_batch, "tokens that go through the LLM at a time",
             in_range(micro_batch, 1, 1LL << 30))
        .add(what, "tensor-parallel", &tensor_parallel,
             "ranks of one host that share a replica of the LLM, whatever grid trained it",
             in_range(tensor_parallel, 1, 1 << 16));
    add_common_options(table, common, Computes::on_any_device);
    return table;
  }

  bool uses_llm() const { return pretrained.empty() && rerank == "on"; }

  /// Throws ConfigError.
  void parse(const std::vector<std::string>& arguments) {
    OptionTable options = table();
    options.parse(arguments);
    top_given = options.given("top");
    candidates_given = options.given("candidates");
    precision_given = options.given("precision");
    if (pretrained.empty() == checkpoint.empty())
      throw ConfigError("recommend: give either --checkpoint with --model, or --pretrained");
    if (uses_llm() && model.empty())
      throw ConfigError(
          "recommend: --checkpoint needs --model, the LLM it was trained on (or --rerank off)");
    if (!pretrained.empty() && options.given("rerank") && rerank == "on")
      throw ConfigError("--rerank on: there is no LLM with --pretrained");
    if (!uses_llm() && !model.empty())
      throw ConfigError("--model {}: has no effect without re-ranking", model);
    if (!uses_llm() && tensor_parallel != 1)
      throw ConfigError("--tensor-parallel {}: there is no LLM to share without re-ranking",
                        tensor_parallel);
    if (!uses_llm() && candidates_given)
      throw ConfigError("--candidates {}: has no effect without re-ranking; see --top", candidates);
    if ((user.empty() ? 0 : 1) + (liked.empty() ? 0 : 1) + (all_users ? 1 : 0) != 1)
      throw ConfigError("recommend: give one of --user, --all-users and --liked");
    if (json && csv) throw ConfigError("recommend: give --json or --csv, not both");
    if (uses_llm() && top > candidates && (top_given || candidates_given)) {
      if (candidates_given)
        throw ConfigError("--top {}: more than the {} --candidates that are ranked", top,
                          candidates);
      candidates = top;
    }
  }

  /// Fits the defaults to a small catalogue; throws ConfigError for what was asked for beyond it.
  void fit(const Dataset& dataset) {
    const auto fit_one = [&](const char* name, std::int64_t& value, bool given) {
      if (given && value > dataset.items())
        throw ConfigError("--{} {}: {} has {} items", name, value, dataset.directory().string(),
                          dataset.items());
      value = std::min(value, dataset.items());
    };
    fit_one("top", top, top_given);
    fit_one("candidates", candidates, candidates_given);
    if (!uses_llm()) candidates = top;
  }
};

/// Text of a user or a file as one line of a terminal shows it.
std::string shown(std::string_view text) { return fmt::format("{:.100}", clean_title(text)); }

std::string suggestion(const std::vector<std::string>& names) {
  if (names.empty()) return "nothing there is like it";
  std::vector<std::string> quoted;
  for (const std::string& name : names) quoted.push_back(fmt::format("\"{}\"", shown(name)));
  return fmt::format("nearest: {}", fmt::join(quoted, ", "));
}

/// Numbers of the users asked for, in that order. Throws ConfigError.
std::vector<std::int64_t> find_users(const Dataset& dataset, const std::vector<std::string>& ids) {
  std::unordered_map<std::string_view, std::int64_t> number;
  for (const std::string& id : ids) number[id] = -1;
  for (std::int64_t user = 0; user < dataset.users(); ++user)
    if (const auto found = number.find(dataset.user_id(user)); found != number.end())
      found->second = user;
  std::vector<std::int64_t> users;
  for (const std::string& id : ids) {
    users.push_back(number[id]);
    if (users.back() < 0)
      throw ConfigError("--user {}: no such user in {}; {}", shown(id),
                        dataset.directory().string(),
                        suggestion(nearest_users(dataset, id, kSuggestions)));
  }
  return users;
}

/// Items with these titles, each once, the last mention counts. Throws ConfigError.
std::vector<std::int64_t> find_liked(const Dataset& dataset, const std::vector<std::string>& titles,
                                     bool tells) {
  std::vector<std::int64_t> items;
  for (const std::string& title : titles) {
    const std::vector<std::int64_t> found = items_titled(dataset, title);
    if (found.empty())
      throw ConfigError("--liked \"{}\": no such title in {}; {}", shown(title),
                        dataset.directory().string(),
                        suggestion(nearest_titles(dataset, title, kSuggestions)));
    if (found.size() > 1 && tells)
      log::info("{} items have the title \"{}\"; taking {}", found.size(), shown(title),
                shown(dataset.item_id(found[0])));
    std::erase(items, found[0]);
    items.push_back(found[0]);
  }
  return items;
}

/// Writes lists to stdout or, whole, to a file: one entry an item.
class Output {
 public:
  Output(const RecommendOptions& options, const Dataset& dataset)
      : options_(options), dataset_(dataset) {
    if (!options.output.empty()) file_.emplace(options.output);
    if (options.csv) write("user,rank,item,title,embedding_score,embedding_rank,llm_score\n");
  }
  /// `user`: number, −1: who is described by `liked`.
  void add(std::int64_t user, std::span<const std::int64_t> liked,
           std::span<const RankedItem> list) {
    if (!options_.json && !options_.csv) {
      write_table(user, liked, list);
      return;
    }
    const std::string id = user < 0 ? "" : std::string(dataset_.user_id(user));
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto& [candidate, rank, llm] = list[i];
      const std::string_view item = dataset_.item_id(candidate.item),
                             title = dataset_.title(candidate.item);
      if (options_.csv) {
        write(fmt::format("{},{},{},{},{},{},{}\n", csv_field(id), i + 1, csv_field(item),
                          csv_field(title), candidate.score, rank,
                          std::isnan(llm) ? "" : fmt::format("{}", llm)));
        continue;
      }
      nlohmann::ordered_json json;
      json["user"] = user < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(id);
      json["rank"] = i + 1;
      json["item"] = item;
      json["title"] = title;
      json["embedding_score"] = number(candidate.score);
      json["embedding_rank"] = rank;
      json["llm_score"] = number(llm);
      write(json.dump() + "\n");
    }
  }
  void commit() {
    if (file_) file_->commit();
  }

 private:
  void write(const std::string& text) {
    file_ ? file_->write(text) : static_cast<void>(std::fputs(text.c_str(), stdout));
  }
  /// Shortest digits that read back to the same fp32.
  static nlohmann::ordered_json number(float value) {
    if (std::isnan(value)) return nullptr;
    return std::stod(fmt::format("{}", value));
  }
  void write_table(std::int64_t user, std::span<const std::int64_t> liked,
                   std::span<const RankedItem> list) {
    const std::string last = liked.empty() ? "nothing liked yet"
                                           : fmt::format("{} liked, last \"{}\"", liked.size(),
                                                         shown(dataset_.title(liked.back())));
    std::string text = user < 0 ? fmt::format("{}somebody new: {}\n", tables_ > 0 ? "\n" : "", last)
                                : fmt::format("{}user {}: {}\n", tables_ > 0 ? "\n" : "",
                                              shown(dataset_.user_id(user)), last);
    ++tables_;
    std::size_t width = 4;
    for (const RankedItem& item : list)
      width = std::max(width, shown(dataset_.item_id(item.candidate.item)).size());
    text += fmt::format("rank      LLM      E·E  rank by E·E  {:<{}}  title\n", "item", width);
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto& [candidate, rank, llm] = list[i];
      text += fmt::format("{:>4}  {:>7}  {:>7.3f}  {:>11}  {:<{}}  {}\n", i + 1,
                          std::isnan(llm) ? "-" : fmt::format("{:.3f}", llm), candidate.score, rank,
                          shown(dataset_.item_id(candidate.item)), width,
                          shown(dataset_.title(candidate.item)));
    }
    write(text);
  }

  const RecommendOptions& options_;
  const Dataset& dataset_;
  std::optional<AtomicFile> file_;
  std::int64_t tables_ = 0;
};

/// What is searched and what ranks, from a checkpoint or from pretrained embeddings.
struct Source {
  std::optional<CheckpointModel> loaded;
  std::optional<Workspace> plain;
  EmbeddingTable table;  // without an LLM
  bool bias_columns = false;

  /// Collective; errors are agreed.
  Source(Job& job, const RecommendOptions& options) {
    if (options.uses_llm()) {
      loaded.emplace(job, options.data, options.checkpoint, options.model,
                     options.precision_given ? options.common.precision : "",
                     static_cast<int>(options.tensor_parallel));
      bias_columns = loaded->model().bias_columns();
      return;
    }
    plain.emplace(job, options.data, PartitionConfig{}, Reuse::any);
    const Dataset& dataset = *plain->dataset;
    job.agree([&] {
      std::filesystem::path directory = options.pretrained;
      at::ScalarType type = at::kFloat;
      if (options.checkpoint.empty()) {
        bias_columns = check_pretrained(directory, dataset);
      } else {
        const Checkpoint checkpoint(options.checkpoint, /*prefer_latest=*/false,
                                    /*verify=*/job.world()->rank() == 0);
        checkpoint.require_dataset(dataset);
        bias_columns = checkpoint.bias_columns();
        type = Precision::parse(checkpoint.model_config().precision).parameter;
        directory = checkpoint.directory();
      }
      table = read_embeddings(directory, plain->shard->owned(), dataset.nodes(), type);
    });
  }
  Recommender* model() { return loaded ? &loaded->model() : nullptr; }
  const Workspace& workspace() const { return loaded ? loaded->workspace() : *plain; }
  const at::Tensor& embeddings() {
    return loaded ? loaded->model().table().weight_nD : table.weight_nD;
  }
};

}  // namespace

OptionTable describe_recommend() { return table_of<RecommendOptions>(); }

int run_recommend(Job& job, const std::vector<std::string>& arguments) {
  RecommendOptions options;
  job.agree([&] { options.parse(arguments); });
  apply_common_options(options.common, job);
  const bool root = job.world()->rank() == 0;
  // A file that can't be written is found before the model is loaded.
  job.agree([&] {
    if (root && !options.output.empty()) const AtomicFile writable(options.output);
  });

  Source source(job, options);
  const Workspace& workspace = source.workspace();
  const Dataset& dataset = *workspace.dataset;
  std::vector<std::int64_t> users, liked;
  std::vector<std::int32_t> liked_sorted;
  SeenItems seen;
  std::optional<Output> output;
  job.agree([&] {
    options.fit(dataset);
    if (!options.liked.empty()) {
      liked = find_liked(dataset, options.liked, root);
      users = {-1};
      if (options.exclude != "none") liked_sorted.assign(liked.begin(), liked.end());
      std::sort(liked_sorted.begin(), liked_sorted.end());
    } else if (options.all_users) {
      users.resize(static_cast<std::size_t>(dataset.users()));
      std::iota(users.begin(), users.end(), std::int64_t{0});
    } else {
      users = find_users(dataset, options.user);
    }
    if (options.liked.empty() && options.exclude != "none") {
      std::vector<bool> asked(static_cast<std::size_t>(dataset.users()));
      for (const std::int64_t user : users) asked[user] = true;
      const bool all = options.exclude == "all";
      seen = SeenItems(dataset, *workspace.map, workspace.grid->rank(), [&](std::int64_t row) {
        return asked[dataset.user()[row]] && (all || dataset.split(row) == Split::train);
      });
    }
    dataset.release_rows();
    if (root) output.emplace(options, dataset);
  });

  const CandidateSearch search(workspace.world(), *workspace.map, workspace.shard->owned(),
                               dataset.users(), source.embeddings(), source.bias_columns);
  RecommendationEngine engine(workspace.world(), dataset, search, source.model(),
                              {options.candidates, options.micro_batch});
  const auto total = static_cast<std::int64_t>(users.size());
  const bool by_llm = source.model() != nullptr;
  Progress progress("recommending", by_llm ? total * options.candidates : total,
                    by_llm ? "candidates" : "users", root);
  std::int64_t without_items = 0;
  for (std::int64_t begin = 0; begin < total; begin += engine.batch()) {
    const std::int64_t end = std::min(total, begin + engine.batch());
    std::vector<Recipient> recipients;
    std::vector<std::span<const std::int32_t>> excluded;
    std::vector<std::vector<RankedItem>> lists;
    agree_on_data(job, [&] {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t user = users[i];
        recipients.push_back(user < 0 ? Recipient{kUnknownNode, liked}
                                      : Recipient{user, dataset.liked_before(user, kMost, kMost)});
        excluded.push_back(user < 0 ? std::span<const std::int32_t>(liked_sorted) : seen.of(user));
      }
      lists = engine.rank(recipients, excluded, [&](std::int64_t done) {
        progress.update(begin * options.candidates + done);
      });
    });
    job.agree([&] {
      for (std::size_t i = 0; i < lists.size(); ++i) {
        if (!lists[i].empty()) continue;
        ++without_items;
        const std::int64_t user = users[begin + static_cast<std::int64_t>(i)];
        if (!options.all_users)
          throw DataError("{}: no item is left to recommend: all {} are excluded; see --exclude",
                          user < 0 ? "--liked" : "--user " + shown(dataset.user_id(user)),
                          dataset.items());
      }
      for (std::size_t i = 0; root && i < lists.size(); ++i) {
        const auto count = std::min(lists[i].size(), static_cast<std::size_t>(options.top));
        if (count == 0) continue;
        output->add(users[begin + static_cast<std::int64_t>(i)], recipients[i].liked,
                    std::span(lists[i]).first(count));
      }
    });
    if (!by_llm) progress.update(end);
  }
  progress.finish();
  job.agree([&] {
    if (root) output->commit();
  });
  if (!root) return 0;
  if (without_items > 0)
    log::warn("{} users get no items: all {} are excluded for them", without_items,
              dataset.items());
  const RecommendSeconds& took = engine.seconds();
  log::info("{} users: retrieval {:.3f} s{}", total, took.retrieval,
            by_llm
                ? fmt::format(", re-ranking {:.3f} s, {} candidates, {:.1f}/s", took.reranking,
                              took.candidates,
                              static_cast<double>(took.candidates) / std::max(took.reranking, 1e-9))
                : "");
  return 0;
}

}  // namespace graphlora
