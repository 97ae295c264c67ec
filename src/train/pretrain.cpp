// Shapes: n owned rows, f fetched rows, D = d_e, G rows of this rank in a batch.
#include "train/pretrain.hpp"

#include <chrono>
#include <cmath>
#include <limits>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/precision.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "train/metrics.hpp"
#include "train/pair_exchange.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;
using Pair = PairExchange::Pair;

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
// Pairs scored at once: bounds the rows that are fetched for them.
constexpr std::size_t kScoreChunk = 1 << 16;
constexpr std::int64_t kTrainSample = 50'000;
// Above this difference of training and validation AUC, E carries labels that the graph hides.
constexpr double kOverfit = 0.08;
constexpr std::int64_t kSignalCheckEvery = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Sixteen running sums, which compilers turn into vector registers; always in the same order.
template <typename T>
T dot(const T* a, const T* b, std::int64_t count) {
  constexpr std::int64_t kLanes = 16;
  T lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (; i < count; ++i) lanes[i % kLanes] += a[i] * b[i];
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

/// A row of the owned table, or (from n on) of the fetched rows.
template <typename T>
struct Rows {
  const T* table_nD;
  const T* fetched_fD;
  std::int64_t owned, width;
  const T* operator[](std::int64_t row) const {
    return row < owned ? table_nD + row * width : fetched_fD + (row - owned) * width;
  }
};

/// This rank's rows of E with their Adam moments, and the step that trains them.
template <typename T>
class Factorization {
 public:
  Factorization(Communicator& world, const Dataset& dataset, const at::Tensor& owned,
                const NodeMap& map, const PretrainConfig& config)
      : world_(world),
        map_(map),
        config_(config),
        owned_(owned.size(0)),
        weight_nD_(at::zeros({owned_, config.width}, c10::CppTypeToScalarType<T>::value)),
        exp_avg_nD_(at::zeros_like(weight_nD_)),
        exp_avg_sq_nD_(at::zeros_like(weight_nD_)),
        steps_n_(owned_, 0),
        constant_n_(owned_, -1) {
    std::vector<bool> trained(static_cast<std::size_t>(dataset.nodes()), false);
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      if (dataset.split(row) != Split::train) continue;
      trained[dataset.user_node(row)] = true;
      trained[dataset.item_node(row)] = true;
    }
    const auto* node = owned.const_data_ptr<std::int64_t>();
    auto* weight = weight_nD_.mutable_data_ptr<T>();
    const std::uint64_t seed = hash_name(config.seed, "pretrain.weight");
    const std::int64_t free = config.width - (config.bias ? 2 : 0);
    at::parallel_for(0, owned_, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (!trained[node[i]]) continue;
        SplitMix64 random(splitmix64(seed + static_cast<std::uint64_t>(node[i])));
        T* row = weight + i * config_.width;
        for (std::int64_t c = 0; c < free; ++c)
          row[c] = static_cast<T>(config_.init_std * random.normal());
        if (config_.bias) {
          constant_n_[i] = node[i] < dataset.users() ? config_.width - 1 : config_.width - 2;
          row[constant_n_[i]] = 1;
        }
      }
    });
  }

  const at::Tensor& weight_nD() const { return weight_nD_; }

  /// One update by a batch that every rank knows; returns the summed loss of the rows whose user is
  /// owned here. Collective.
  double step(const std::vector<Pair>& pairs, const std::vector<std::uint8_t>& labels) {
    const PairExchange exchange(world_, map_, owned_, pairs, true);
    const at::Tensor fetched_fD = exchange.fetch(weight_nD_, Traffic::pretrain);
    const Rows<T> rows{weight_nD_.const_data_ptr<T>(), fetched_fD.const_data_ptr<T>(), owned_,
                       config_.width};
    const auto& places = exchange.places();
    const auto count = static_cast<std::int64_t>(places.size());
    error_.resize(places.size());
    loss_.resize(places.size());
    const T scale = T(1) / static_cast<T>(pairs.size());
    at::parallel_for(0, count, 128, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto& place = places[i];
        const T label = labels[place.pair];
        const T score = dot(rows[place.user], rows[place.item], config_.width);
        error_[i] = (T(1) / (T(1) + std::exp(-score)) - label) * scale;
        loss_[i] = std::max(score, T(0)) - score * label + std::log1p(std::exp(-std::abs(score)));
      }
    });
    gather_terms(places);
    update(rows);
    double loss = 0;
    for (std::int64_t i = 0; i < count; ++i)
      if (places[i].owns_user) loss += static_cast<double>(loss_[i]);
    return loss;
  }

 private:
  /// One summand of an owned row's gradient: error_[place] times row `other`.
  struct Term {
    std::int64_t row, place, other;
    bool operator<(const Term& right) const {
      return row != right.row ? row < right.row : place < right.place;
    }
  };

  /// Terms sorted by owned row, in the batch's order within a row, whoever owns the other end.
  void gather_terms(const std::vector<PairExchange::Place>& places) {
    terms_.clear();
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto& place = places[i];
      const auto index = static_cast<std::int64_t>(i);
      if (place.owns_user) terms_.push_back({place.user, index, place.item});
      if (place.owns_item) terms_.push_back({place.item, index, place.user});
    }
    std::sort(terms_.begin(), terms_.end());
    starts_.clear();
    for (std::size_t i = 0; i < terms_.size(); ++i)
      if (i == 0 || terms_[i].row != terms_[i - 1].row) starts_.push_back(i);
    starts_.push_back(terms_.size());
  }

  void update(const Rows<T>& rows) {
    const std::int64_t width = config_.width;
    const auto groups = static_cast<std::int64_t>(starts_.size()) - 1;
    // All gradients are taken before any row moves.
    gradient_GD_.resize(static_cast<std::size_t>(groups * width));
    const T decay = static_cast<T>(config_.weight_decay);
    at::parallel_for(0, groups, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t row = terms_[starts_[g]].row;
        T* gradient = gradient_GD_.data() + g * width;
        const T* weight = rows[row];
        for (std::int64_t c = 0; c < width; ++c) gradient[c] = decay * weight[c];
        for (std::size_t t = starts_[g]; t < starts_[g + 1]; ++t) {
          const T error = error_[terms_[t].place];
          const T* other = rows[terms_[t].other];
          for (std::int64_t c = 0; c < width; ++c) gradient[c] += error * other[c];
        }
        if (constant_n_[row] >= 0) gradient[constant_n_[row]] = 0;
      }
    });
    T* weight_nD = weight_nD_.mutable_data_ptr<T>();
    T* exp_avg_nD = exp_avg_nD_.mutable_data_ptr<T>();
    T* exp_avg_sq_nD = exp_avg_sq_nD_.mutable_data_ptr<T>();
    at::parallel_for(0, groups, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t row = terms_[starts_[g]].row;
        const int steps = ++steps_n_[row];
        const T rate = static_cast<T>(config_.lr / (1 - std::pow(kBeta1, steps)));
        const T correction = static_cast<T>(1 / std::sqrt(1 - std::pow(kBeta2, steps)));
        const T* gradient = gradient_GD_.data() + g * width;
        T* weight = weight_nD + row * width;
        T* exp_avg = exp_avg_nD + row * width;
        T* exp_avg_sq = exp_avg_sq_nD + row * width;
        for (std::int64_t c = 0; c < width; ++c) {
          exp_avg[c] = T(kBeta1) * exp_avg[c] + T(1 - kBeta1) * gradient[c];
          exp_avg_sq[c] = T(kBeta2) * exp_avg_sq[c] + T(1 - kBeta2) * gradient[c] * gradient[c];
          weight[c] -= rate * exp_avg[c] / (std::sqrt(exp_avg_sq[c]) * correction + T(kEpsilon));
        }
      }
    });
  }

  Communicator& world_;
  const NodeMap& map_;
  const PretrainConfig& config_;
  std::int64_t owned_;
  at::Tensor weight_nD_, exp_avg_nD_, exp_avg_sq_nD_;
  std::vector<int> steps_n_;
  std::vector<std::int64_t> constant_n_;  // the column that is always 1; −1: none
  std::vector<T> error_, loss_, gradient_GD_;
  std::vector<Term> terms_;
  std::vector<std::size_t> starts_;
};

/// AUC of E·E over rows, computed by rank 0 and told to the others, so that all decide alike.
std::optional<double> embedding_auc(Communicator& world, const Dataset& dataset, const NodeMap& map,
                                    const EmbeddingTable& table,
                                    const std::vector<std::int64_t>& rows) {
  const std::vector<float> scores = score_by_embeddings(world, dataset, map, table, rows);
  const at::Tensor told = at::full({1}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  if (world.rank() == 0) {
    std::vector<std::uint8_t> labels;
    labels.reserve(rows.size());
    for (const std::int64_t row : rows) labels.push_back(dataset.label()[row]);
    if (const auto value = auc(scores, labels)) told.fill_(*value);
  }
  world.broadcast(told, 0, Traffic::pretrain).wait();
  const double value = told.item<double>();
  return std::isnan(value) ? std::nullopt : std::optional(value);
}

double total(Communicator& world, double value, ReduceOp op) {
  const at::Tensor sum = at::full({1}, value, at::kDouble);
  world.all_reduce(sum, op, Traffic::pretrain).wait();
  return sum.item<double>();
}

template <typename T>
PretrainResult pretrain_in(Job& job, const Dataset& dataset, const at::Tensor& owned,
                           const NodeMap& map, const PretrainConfig& config) {
  const auto start = Clock::now();
  Communicator& world = *job.world();
  const std::vector<std::int64_t> train = dataset.rows_of(Split::train);
  const std::vector<std::int64_t> valid = dataset.rows_of(Split::valid);
  const auto count = static_cast<std::int64_t>(train.size());
  job.agree([&] {
    if (count == 0) {
      throw DataError("{}: no training rows; prepare it with a larger share for training",
                      dataset.directory().string());
    }
  });
  Factorization<T> factorization(world, dataset, owned, map, config);
  PretrainResult result;
  result.table.weight_nD = factorization.weight_nD().clone();

  const std::int64_t batches = (count + config.batch_size - 1) / config.batch_size;
  Progress progress("pretrain", config.epochs * batches, "batches", world.rank() == 0);
  std::string note;
  std::vector<Pair> pairs;
  std::vector<std::uint8_t> labels;
  std::int64_t step = 0;
  for (std::int64_t epoch = 1; epoch <= config.epochs && !result.interrupted; ++epoch) {
    const auto epoch_start = Clock::now();
    const KeyedPermutation order(
        static_cast<std::uint64_t>(count),
        splitmix64(hash_name(config.seed, "pretrain.order") + static_cast<std::uint64_t>(epoch)));
    double loss = 0;
    for (std::int64_t batch = 0; batch < batches && !result.interrupted; ++batch) {
      job.set_step(++step);
      pairs.clear();
      labels.clear();
      const std::int64_t end = std::min(count, (batch + 1) * config.batch_size);
      for (std::int64_t i = batch * config.batch_size; i < end; ++i) {
        const std::int64_t row = train[order(static_cast<std::uint64_t>(i))];
        pairs.push_back({dataset.user_node(row), dataset.item_node(row)});
        labels.push_back(dataset.label()[row]);
      }
      loss += factorization.step(pairs, labels);
      progress.update(step, note);
      if (step % kSignalCheckEvery == 0 || batch + 1 == batches)
        result.interrupted = total(world, Job::interrupted() ? 1 : 0, ReduceOp::max) > 0;
    }
    if (result.interrupted) break;
    PretrainEpoch done;
    done.epoch = epoch;
    done.loss = total(world, loss, ReduceOp::sum) / static_cast<double>(count);
    job.agree([&] {
      if (!std::isfinite(done.loss))
        throw DataError("pretrain diverged in epoch {}; lower --pretrain.lr", epoch);
    });
    done.valid_auc = embedding_auc(world, dataset, map, {factorization.weight_nD(), {}, {}}, valid);
    done.seconds = seconds_since(epoch_start);
    result.epochs.push_back(done);
    note = fmt::format("epoch {}, loss {:.4f}", epoch, done.loss);
    if (done.valid_auc) note += fmt::format(", valid AUC {:.4f}", *done.valid_auc);
    progress.update(step, note);
    if (!done.valid_auc || !result.valid_auc || *done.valid_auc > *result.valid_auc) {
      result.best_epoch = epoch;
      result.valid_auc = done.valid_auc;
      result.table.weight_nD.copy_(factorization.weight_nD());
    } else if (epoch - result.best_epoch >= config.patience) {
      break;
    }
  }
  progress.finish();
  job.set_step(-1);
  if (world.rank() == 0 && !result.valid_auc) {
    log::warn(
        "the validation rows don't hold both labels: pretrain ran {} epochs without early stop",
        result.epochs.size());
  }
  result.train_auc = embedding_auc(world, dataset, map, result.table,
                                   dataset.sample(Split::train, kTrainSample, config.seed));
  if (world.rank() == 0 && result.train_auc && result.valid_auc &&
      *result.train_auc - *result.valid_auc > kOverfit) {
    log::warn(
        "AUC is {:.3f} on training rows and {:.3f} on validation rows: E carries training labels "
        "that the label-safe graph hides; a larger --pretrain.weight-decay narrows the gap",
        *result.train_auc, *result.valid_auc);
  }
  result.seconds = seconds_since(start);
  return result;
}

template <typename T>
void score_chunk(Communicator& world, const NodeMap& map, const at::Tensor& weight_nD,
                 const std::vector<Pair>& pairs, float* scores) {
  const std::int64_t owned = weight_nD.size(0), width = weight_nD.size(1);
  const PairExchange exchange(world, map, owned, pairs, false);
  const at::Tensor fetched_fD = exchange.fetch(weight_nD, Traffic::metrics);
  const Rows<T> rows{weight_nD.const_data_ptr<T>(), fetched_fD.const_data_ptr<T>(), owned, width};
  const auto& places = exchange.places();
  at::parallel_for(
      0, static_cast<std::int64_t>(places.size()), 128, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const auto& place = places[i];
          scores[place.pair] = static_cast<float>(dot(rows[place.user], rows[place.item], width));
        }
      });
}

}  // namespace

PretrainResult pretrain(Job& job, const Dataset& dataset, const at::Tensor& owned,
                        const NodeMap& map, const PretrainConfig& config) {
  at::ScalarType dtype = at::kFloat;
  job.agree([&] {
    if (config.width < (config.bias ? 3 : 1)) {
      throw ConfigError("--pretrain.width {}: at least {} is needed", config.width,
                        config.bias ? "3 (two columns hold biases)" : "1");
    }
    dtype = Precision::parse(config.precision).parameter;
  });
  return dtype == at::kDouble ? pretrain_in<double>(job, dataset, owned, map, config)
                              : pretrain_in<float>(job, dataset, owned, map, config);
}

bool check_pretrained(const std::filesystem::path& directory, const Dataset& dataset) {
  const std::filesystem::path path = directory / "pretrain.json";
  const nlohmann::json about = read_json(path);
  try {
    if (about.at("dataset_fingerprint").get<std::string>() != dataset.fingerprint()) {
      throw DataError("{}: was pretrained on another dataset than {}; run graphlora pretrain on it",
                      path.string(), dataset.directory().string());
    }
    return about.at("bias").get<bool>();
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: is damaged ({}); run graphlora pretrain again", path.string(),
                    error.what());
  }
}

std::vector<float> score_by_embeddings(Communicator& world, const Dataset& dataset,
                                       const NodeMap& map, const EmbeddingTable& table,
                                       const std::vector<std::int64_t>& rows) {
  const at::Tensor weight_nD = table.weight_nD.contiguous();
  std::vector<float> scores(rows.size(), 0.0F);
  std::vector<Pair> pairs;
  for (std::size_t first = 0; first < rows.size(); first += kScoreChunk) {
    const std::size_t end = std::min(rows.size(), first + kScoreChunk);
    pairs.clear();
    for (std::size_t i = first; i < end; ++i)
      pairs.push_back({dataset.user_node(rows[i]), dataset.item_node(rows[i])});
    if (weight_nD.scalar_type() == at::kDouble) {
      score_chunk<double>(world, map, weight_nD, pairs, scores.data() + first);
    } else {
      score_chunk<float>(world, map, weight_nD, pairs, scores.data() + first);
    }
  }
  // Each score stands on one rank, the others hold 0.
  world
      .all_reduce(at::from_blob(scores.data(), {static_cast<std::int64_t>(scores.size())}),
                  ReduceOp::sum, Traffic::metrics)
      .wait();
  return scores;
}

}  // namespace graphlora
