// Shapes: n owned rows, f fetched rows, D = d_e, G owned users in a batch.
#include "train/pretrain.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/precision.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "model/simd.hpp"
#include "train/dot_product.hpp"
#include "train/metrics.hpp"
#include "train/pair_exchange.hpp"
#include "train/training_pairs.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;
using Pair = PairExchange::Pair;

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
// Pairs scored at once: bounds the rows that are fetched for them.
constexpr std::size_t kScoreChunk = 1 << 16;
constexpr std::int64_t kTrainSample = 50'000;
// Of more validation rows a fixed sample is scored: the standard error of its AUC is about 0.001.
constexpr std::int64_t kValidSample = 200'000;
// The loss is the mean of a batch up to this size and counts by as much a row beyond, so that
// weight decay weighs the same against a row's gradient.
constexpr std::int64_t kMeanRows = 4096;
constexpr std::int64_t kLargestBatch = 65536, kLeastBatches = 128;
// Terms of a block, the unit that threads divide.
constexpr std::uint32_t kBlockWork = 1024;
// How far ahead rows are asked for, which lie anywhere in memory.
constexpr std::uint32_t kGroupsAhead = 4, kTermsAhead = 8;
constexpr std::int64_t kMostPlans = 8;
// Above this difference of training and validation AUC, E carries labels that the graph hides.
constexpr double kOverfit = 0.08;
constexpr std::int64_t kSignalCheckEvery = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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

/// Asks for the first lines of a row; the hardware finds the rest.
template <typename T>
GRAPHLORA_INLINE void prefetch(const T* row, std::int64_t width) {
  constexpr std::int64_t kLine = 64 / sizeof(T), kLines = 8;
  for (std::int64_t i = 0; i < std::min(width, kLine * kLines); i += kLine)
    __builtin_prefetch(row + i);
}

/// One summand of an owned row's gradient: the error of a pair times its other end's row.
struct Term {
  std::uint32_t row, other, place;
};

/// Terms of one owned row, in the batch's order, whoever owns the other ends.
struct Group {
  std::uint32_t row, begin, end;
};

/// Stable sort by row, a digit of `kDigit` bits at a time.
void sort_by_row(std::vector<Term>& terms, std::vector<Term>& scratch, std::int64_t rows) {
  constexpr int kDigit = 11;
  constexpr std::size_t kFew = 256;
  if (terms.size() < kFew) {
    std::stable_sort(terms.begin(), terms.end(),
                     [](const Term& a, const Term& b) { return a.row < b.row; });
    return;
  }
  scratch.resize(terms.size());
  for (int shift = 0; (rows - 1) >> shift > 0; shift += kDigit) {
    std::array<std::uint32_t, (1 << kDigit) + 1> next{};
    const auto digit = [shift](const Term& term) {
      return (term.row >> shift) & ((1U << kDigit) - 1);
    };
    for (const Term& term : terms) ++next[digit(term) + 1];
    std::partial_sum(next.begin(), next.end(), next.begin());
    for (const Term& term : terms) scratch[next[digit(term)]++] = term;
    terms.swap(scratch);
  }
}

/// The gradients of one kind of node in a batch.
struct Gradients {
  std::vector<Term> terms;
  std::vector<Group> groups;          ///< those without fetched rows first, by row
  std::vector<std::uint32_t> blocks;  ///< boundaries of blocks of groups with about equal work
  std::size_t local_blocks = 0;       ///< the first blocks need no fetched row

  /// Groups the terms; `owned`: rows from there on are fetched ones.
  void group(std::vector<Term>& scratch, std::int64_t owned) {
    sort_by_row(terms, scratch, owned);
    groups.clear();
    for (std::size_t i = 0; i < terms.size(); ++i) {
      if (i == 0 || terms[i].row != terms[i - 1].row) {
        const auto at = static_cast<std::uint32_t>(i);
        groups.push_back({terms[i].row, at, at});
      }
      ++groups.back().end;
    }
    const auto is_local = [&](const Group& group) {
      return std::all_of(terms.begin() + group.begin, terms.begin() + group.end,
                         [owned](const Term& term) { return term.other < owned; });
    };
    const auto first_crossing =
        std::stable_partition(groups.begin(), groups.end(), is_local) - groups.begin();
    blocks.assign(1, 0);
    std::uint32_t work = 0;
    for (std::ptrdiff_t g = 0; g < std::ssize(groups); ++g) {
      // A row's update costs about as much as two terms.
      work += 2 + groups[g].end - groups[g].begin;
      const bool last = g + 1 == first_crossing || g + 1 == std::ssize(groups);
      if (work < kBlockWork && !last) continue;
      blocks.push_back(static_cast<std::uint32_t>(g + 1));
      work = 0;
      if (g + 1 == first_crossing) local_blocks = blocks.size() - 1;
    }
    if (first_crossing == 0) local_blocks = 0;
  }
  std::size_t block_count() const { return blocks.size() - 1; }
};

/// All about a batch that doesn't depend on E, made ahead of its turn.
class BatchPlan {
 public:
  BatchPlan(Communicator& world, const NodeMap& map, std::int64_t owned)
      : exchange(world, map, owned, true), owned_(owned) {}

  void make(const TrainingPairs& pairs, std::int64_t batch) {
    rows = pairs.batch_rows(batch);
    pairs_.clear();
    labels.clear();
    pairs.read(batch, pairs_, labels);
    exchange.assign(pairs_);
    users.terms.clear();
    items.terms.clear();
    foreign_users.clear();
    const auto& places = exchange.places();
    for (std::uint32_t i = 0; i < places.size(); ++i) {
      const auto [pair, user, item] = places[i];
      if (exchange.owns(user)) {
        users.terms.push_back({user, item, i});
      } else {
        foreign_users.push_back(i);
      }
      if (exchange.owns(item)) items.terms.push_back({item, user, i});
    }
    users.group(scratch_, owned_);
    items.group(scratch_, owned_);
  }

  std::int64_t rows = 0;  ///< of the batch, over all ranks
  PairExchange exchange;
  std::vector<std::uint8_t> labels;  ///< of exchange.places()
  Gradients users, items;
  std::vector<std::uint32_t> foreign_users;  ///< places whose user another rank owns

 private:
  std::int64_t owned_;
  std::vector<PairExchange::Pair> pairs_;
  std::vector<Term> scratch_;
};

/// What one step of Adam multiplies by, for a row's t-th update.
template <typename T>
struct Rate {
  T rate, correction;
};

/// The arithmetic of one step over rows of E. Results don't depend on threads or blocks.
template <typename T>
struct StepKernel {
  Rows<T> rows;
  T *weight_nD, *exp_avg_nD, *exp_avg_sq_nD;
  std::int32_t* updates_n;
  const Rate<T>* rates;  // by number of updates
  std::int64_t width;
  T decay, scale;
  const std::uint8_t* labels;
  T* error;  // by place

  /// Error of a pair and its loss.
  GRAPHLORA_INLINE T score(std::uint32_t place, const T* user, const T* item) const {
    const T label = labels[place];
    const T score = dot(user, item, width);
    error[place] = (T(1) / (T(1) + std::exp(-score)) - label) * scale;
    return std::max(score, T(0)) - score * label + std::log1p(std::exp(-std::abs(score)));
  }

  GRAPHLORA_INLINE void begin_gradient(const T* weight, T* gradient) const {
    for (std::int64_t c = 0; c < width; ++c) gradient[c] = decay * weight[c];
  }
  GRAPHLORA_INLINE void add(T factor, const T* other, T* __restrict gradient) const {
    for (std::int64_t c = 0; c < width; ++c) gradient[c] += factor * other[c];
  }

  GRAPHLORA_INLINE void prefetch_state(std::uint32_t row) const {
    prefetch(weight_nD + row * width, width);
    prefetch(exp_avg_nD + row * width, width);
    prefetch(exp_avg_sq_nD + row * width, width);
    __builtin_prefetch(updates_n + row);
  }

  GRAPHLORA_INLINE void adam(std::uint32_t row, const T* __restrict gradient) const {
    const auto [rate, correction] = rates[++updates_n[row]];
    T* __restrict weight = weight_nD + row * width;
    T* __restrict exp_avg = exp_avg_nD + row * width;
    T* __restrict exp_avg_sq = exp_avg_sq_nD + row * width;
    for (std::int64_t c = 0; c < width; ++c) {
      exp_avg[c] = T(kBeta1) * exp_avg[c] + T(1 - kBeta1) * gradient[c];
      exp_avg_sq[c] = T(kBeta2) * exp_avg_sq[c] + T(1 - kBeta2) * gradient[c] * gradient[c];
      weight[c] -= rate * exp_avg[c] / (std::sqrt(exp_avg_sq[c]) * correction + T(kEpsilon));
    }
  }
};

/// Errors of the pairs of some users and these users' gradients, one row of `gradient_GD` a group;
/// returns the pairs' loss. E stays as it is.
template <typename T>
GRAPHLORA_CLONES double user_gradients(const StepKernel<T>& kernel, const Gradients& users,
                                       std::uint32_t begin, std::uint32_t end, T* gradient_GD,
                                       std::int64_t constant) {
  double loss = 0;
  const Term* terms = users.terms.data();
  for (std::uint32_t g = begin; g < end; ++g) {
    const Group group = users.groups[g];
    const Group& later = users.groups[std::min(g + kGroupsAhead, end - 1)];
    prefetch(kernel.rows[later.row], kernel.width);
    for (std::uint32_t t = later.begin; t < std::min(later.end, later.begin + kGroupsAhead); ++t)
      prefetch(kernel.rows[terms[t].other], kernel.width);
    T* gradient = gradient_GD + g * kernel.width;
    const T* weight = kernel.rows[group.row];
    kernel.begin_gradient(weight, gradient);
    for (std::uint32_t t = group.begin; t < group.end; ++t) {
      const Term& term = terms[t];
      const T* other = kernel.rows[term.other];
      loss += static_cast<double>(kernel.score(term.place, weight, other));
      kernel.add(kernel.error[term.place], other, gradient);
    }
    if (constant >= 0) gradient[constant] = 0;
  }
  return loss;
}

/// Errors of pairs whose user another rank owns.
template <typename T>
GRAPHLORA_CLONES void foreign_errors(const StepKernel<T>& kernel, const BatchPlan& plan,
                                     std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const std::uint32_t place = plan.foreign_users[i];
    const auto& at = plan.exchange.places()[place];
    kernel.score(place, kernel.rows[at.user], kernel.rows[at.item]);
  }
}

/// Gradients of some items, whose rows move at once: users' gradients were taken before.
template <typename T>
GRAPHLORA_CLONES void move_items(const StepKernel<T>& kernel, const Gradients& items,
                                 std::uint32_t begin, std::uint32_t end, T* gradient,
                                 std::int64_t constant) {
  const Term* terms = items.terms.data();
  for (std::uint32_t g = begin; g < end; ++g) {
    const Group group = items.groups[g];
    kernel.prefetch_state(items.groups[std::min(g + 2, end - 1)].row);
    kernel.begin_gradient(kernel.rows[group.row], gradient);
    for (std::uint32_t t = group.begin; t < group.end; ++t) {
      // Terms of the following groups stand behind these.
      const std::uint32_t later = t + kTermsAhead;
      if (later < items.terms.size()) prefetch(kernel.rows[terms[later].other], kernel.width);
      kernel.add(kernel.error[terms[t].place], kernel.rows[terms[t].other], gradient);
    }
    if (constant >= 0) gradient[constant] = 0;
    kernel.adam(group.row, gradient);
  }
}

template <typename T>
GRAPHLORA_CLONES void move_users(const StepKernel<T>& kernel, const Gradients& users,
                                 std::uint32_t begin, std::uint32_t end, const T* gradient_GD) {
  for (std::uint32_t g = begin; g < end; ++g) {
    kernel.prefetch_state(users.groups[std::min(g + kGroupsAhead, end - 1)].row);
    kernel.adam(users.groups[g].row, gradient_GD + g * kernel.width);
  }
}

/// This rank's rows of E with their Adam moments, and the step that trains them.
template <typename T>
class Factorization {
 public:
  Factorization(Communicator& world, const Dataset& dataset, const at::Tensor& owned,
                const std::vector<std::uint8_t>& trained_n, const PretrainConfig& config)
      : world_(world),
        config_(config),
        owned_(owned.size(0)),
        weight_nD_(at::zeros({owned_, config.width}, c10::CppTypeToScalarType<T>::value)),
        exp_avg_nD_(at::zeros_like(weight_nD_)),
        exp_avg_sq_nD_(at::zeros_like(weight_nD_)),
        updates_n_(owned_, 0),
        rates_(1) {
    const auto* node = owned.const_data_ptr<std::int64_t>();
    auto* weight = weight_nD_.mutable_data_ptr<T>();
    const std::uint64_t seed = hash_name(config.seed, "pretrain.weight");
    const std::int64_t free = config.width - (config.bias ? 2 : 0);
    at::parallel_for(0, owned_, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (trained_n[i] == 0) continue;
        SplitMix64 random(splitmix64(seed + static_cast<std::uint64_t>(node[i])));
        T* row = weight + i * config_.width;
        for (std::int64_t c = 0; c < free; ++c)
          row[c] = static_cast<T>(config_.init_std * random.normal());
        if (config_.bias) row[node[i] < dataset.users() ? user_constant() : item_constant()] = 1;
      }
    });
  }

  const at::Tensor& weight_nD() const { return weight_nD_; }

  /// One update by a batch; returns the summed loss of the rows whose user is owned here. While
  /// rows travel, `meanwhile` runs and what needs no foreign row is computed. Collective.
  double step(const BatchPlan& plan, const std::function<void()>& meanwhile) {
    Handle handle = plan.exchange.start(weight_nD_, buffers_, Traffic::pretrain);
    meanwhile();
    const std::int64_t width = config_.width;
    error_.resize(plan.exchange.places().size());
    gradient_GD_.resize(plan.users.groups.size() * width);
    const auto updates = static_cast<double>(rates_.size());
    rates_.push_back({static_cast<T>(config_.lr / (1 - std::pow(kBeta1, updates))),
                      static_cast<T>(1 / std::sqrt(1 - std::pow(kBeta2, updates)))});
    const StepKernel<T> kernel{.rows = {weight_nD_.const_data_ptr<T>(),
                                        buffers_.received.const_data_ptr<T>(), owned_, width},
                               .weight_nD = weight_nD_.mutable_data_ptr<T>(),
                               .exp_avg_nD = exp_avg_nD_.mutable_data_ptr<T>(),
                               .exp_avg_sq_nD = exp_avg_sq_nD_.mutable_data_ptr<T>(),
                               .updates_n = updates_n_.data(),
                               .rates = rates_.data(),
                               .width = width,
                               .decay = static_cast<T>(config_.weight_decay),
                               .scale = T(1) / static_cast<T>(std::min(plan.rows, kMeanRows)),
                               .labels = plan.labels.data(),
                               .error = error_.data()};
    loss_.assign(plan.users.block_count(), 0);
    const auto take_user_gradients = [&](std::size_t first, std::size_t last) {
      over_blocks(plan.users, first, last, [&](std::size_t block, auto begin, auto end) {
        loss_[block] = user_gradients(kernel, plan.users, begin, end, gradient_GD_.data(),
                                      config_.bias ? user_constant() : -1);
      });
    };
    take_user_gradients(0, plan.users.local_blocks);
    handle.wait();
    take_user_gradients(plan.users.local_blocks, plan.users.block_count());
    at::parallel_for(
        0, std::ssize(plan.foreign_users), kBlockWork,
        [&](std::int64_t begin, std::int64_t end) { foreign_errors(kernel, plan, begin, end); });
    over_blocks(plan.items, 0, plan.items.block_count(), [&](std::size_t, auto begin, auto end) {
      thread_local std::vector<T> gradient;
      gradient.resize(width);
      move_items(kernel, plan.items, begin, end, gradient.data(),
                 config_.bias ? item_constant() : -1);
    });
    over_blocks(plan.users, 0, plan.users.block_count(), [&](std::size_t, auto begin, auto end) {
      move_users(kernel, plan.users, begin, end, gradient_GD_.data());
    });
    return std::accumulate(loss_.begin(), loss_.end(), 0.0);
  }

 private:
  // The column that is always 1 for a user, for an item.
  std::int64_t user_constant() const { return config_.width - 1; }
  std::int64_t item_constant() const { return config_.width - 2; }

  template <typename Body>
  static void over_blocks(const Gradients& gradients, std::size_t first, std::size_t last,
                          const Body& body) {
    at::parallel_for(static_cast<std::int64_t>(first), static_cast<std::int64_t>(last), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t block = begin; block < end; ++block)
                         body(block, gradients.blocks[block], gradients.blocks[block + 1]);
                     });
  }

  Communicator& world_;
  const PretrainConfig& config_;
  std::int64_t owned_;
  at::Tensor weight_nD_, exp_avg_nD_, exp_avg_sq_nD_;
  std::vector<std::int32_t> updates_n_;
  std::vector<Rate<T>> rates_;  // by number of updates; 0 is not used
  PairExchange::Buffers buffers_;
  std::vector<T> error_, gradient_GD_;
  std::vector<double> loss_;
};

/// Batches planned ahead, as many at a time as there are threads.
class Planner {
 public:
  Planner(Communicator& world, const NodeMap& map, std::int64_t owned, const TrainingPairs& pairs)
      : pairs_(pairs) {
    const auto size = std::clamp<std::int64_t>(at::get_num_threads(), 1, kMostPlans);
    ready_.assign(size, BatchPlan(world, map, owned));
    next_ = ready_;
  }

  /// Plans the batches from `first` on.
  void plan(std::int64_t first) {
    const std::int64_t count = std::min(std::ssize(next_), pairs_.batches() - first);
    at::parallel_for(0, std::max<std::int64_t>(count, 0), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) next_[i].make(pairs_, first + i);
                     });
  }
  /// The plan of a batch; batches are asked for in order, after plan(0).
  const BatchPlan& operator[](std::int64_t batch) {
    if (batch % std::ssize(ready_) == 0) ready_.swap(next_);
    return ready_[batch % std::ssize(ready_)];
  }
  /// To be done while `batch` runs.
  void plan_behind(std::int64_t batch) {
    if ((batch + 1) % std::ssize(ready_) == 0) plan(batch + 1);
  }

 private:
  const TrainingPairs& pairs_;
  std::vector<BatchPlan> ready_, next_;
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

/// The largest power of two, within limits, that leaves an epoch a fair number of batches.
std::int64_t automatic_batch_size(std::int64_t rows) {
  const auto size =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows / kLeastBatches)));
  return std::clamp(size, kMeanRows, kLargestBatch);
}

template <typename T>
PretrainResult pretrain_in(Job& job, const Dataset& dataset, const at::Tensor& owned,
                           const NodeMap& map, const PretrainConfig& config) {
  const auto start = Clock::now();
  Communicator& world = *job.world();
  std::unique_ptr<TrainingPairs> pairs;
  job.agree([&] {
    pairs = std::make_unique<TrainingPairs>(dataset, map, world.rank());
    if (pairs->total() == 0) {
      throw DataError("{}: no training rows; prepare it with a larger share for training",
                      dataset.directory().string());
    }
  });
  const std::int64_t count = pairs->total();
  const std::vector<std::int64_t> valid = dataset.sample(Split::valid, kValidSample, config.seed);
  Factorization<T> factorization(world, dataset, owned,
                                 pairs->trained(map, world.rank(), owned.size(0)), config);
  Planner planner(world, map, owned.size(0), *pairs);
  PretrainResult result;
  result.table.weight_nD = factorization.weight_nD().clone();
  result.batch_size = config.batch_size > 0 ? config.batch_size : automatic_batch_size(count);
  const std::int64_t batches = (count + result.batch_size - 1) / result.batch_size;
  if (world.rank() == 0) {
    log::info("pretrain: {} training rows in batches of {}", count, result.batch_size);
    if (static_cast<std::int64_t>(valid.size()) == kValidSample)
      log::info("pretrain: validation AUC is that of a fixed sample of {} rows", kValidSample);
  }

  Progress progress("pretrain", config.epochs * batches, "batches", world.rank() == 0);
  std::string note;
  std::int64_t step = 0;
  for (std::int64_t epoch = 1; epoch <= config.epochs && !result.interrupted; ++epoch) {
    const auto epoch_start = Clock::now();
    pairs->start_epoch(
        splitmix64(hash_name(config.seed, "pretrain.order") + static_cast<std::uint64_t>(epoch)),
        result.batch_size);
    planner.plan(0);
    double loss = 0;
    for (std::int64_t batch = 0; batch < batches && !result.interrupted; ++batch) {
      job.set_step(++step);
      loss += factorization.step(planner[batch], [&] { planner.plan_behind(batch); });
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
  if (result.interrupted) return result;
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
GRAPHLORA_CLONES void score_places(const Rows<T>& rows, const std::vector<PairExchange::Place>& at,
                                   std::int64_t begin, std::int64_t end, float* scores) {
  for (std::int64_t i = begin; i < end; ++i) {
    scores[at[i].pair] = static_cast<float>(dot(rows[at[i].user], rows[at[i].item], rows.width));
  }
}

template <typename T>
void score_chunk(const PairExchange& exchange, PairExchange::Buffers& buffers,
                 const at::Tensor& weight_nD, float* scores) {
  exchange.start(weight_nD, buffers, Traffic::metrics).wait();
  const Rows<T> rows{weight_nD.const_data_ptr<T>(), buffers.received.const_data_ptr<T>(),
                     weight_nD.size(0), weight_nD.size(1)};
  at::parallel_for(0, std::ssize(exchange.places()), 128,
                   [&](std::int64_t begin, std::int64_t end) {
                     score_places(rows, exchange.places(), begin, end, scores);
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
  PairExchange exchange(world, map, weight_nD.size(0), false);
  PairExchange::Buffers buffers;
  for (std::size_t first = 0; first < rows.size(); first += kScoreChunk) {
    const std::size_t end = std::min(rows.size(), first + kScoreChunk);
    pairs.clear();
    for (std::size_t i = first; i < end; ++i) {
      pairs.push_back({static_cast<std::uint32_t>(dataset.user_node(rows[i])),
                       static_cast<std::uint32_t>(dataset.item_node(rows[i]))});
    }
    exchange.assign(pairs);
    if (weight_nD.scalar_type() == at::kDouble) {
      score_chunk<double>(exchange, buffers, weight_nD, scores.data() + first);
    } else {
      score_chunk<float>(exchange, buffers, weight_nD, scores.data() + first);
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
