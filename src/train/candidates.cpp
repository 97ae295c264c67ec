// Shapes: Q queries, D = d_e, v items of this rank, C candidates, P ranks.
#include "train/candidates.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "core/tensor_view.hpp"
#include "graph/gather_rows.hpp"
#include "train/dot_product.hpp"

namespace graphlora {
namespace {

// Items whose rows stay in the cache while every query is multiplied with them.
constexpr std::int64_t kTile = 128;

// A ranking is the ascending order of keys: the upper half falls with the score, the lower half is
// the item. Not a number comes first, so that nobody overlooks it.
using Key = std::uint64_t;
constexpr Key kNone = std::numeric_limits<Key>::max();

Key key_of(float score, std::int32_t item) {
  if (std::isnan(score)) return static_cast<Key>(item);
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // −0 is 0
  const std::uint32_t rising = (bits >> 31) != 0 ? ~bits : bits | 0x8000'0000U;
  return static_cast<Key>(~rising) << 32 | static_cast<std::uint32_t>(item);
}

std::int32_t item_of(Key key) { return static_cast<std::int32_t>(key & 0xffff'ffffU); }

float score_of(Key key) {
  const auto rising = ~static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t bits = (rising >> 31) != 0 ? rising & 0x7fff'ffffU : ~rising;
  return std::bit_cast<float>(bits);
}

bool is_number(Key key) { return key >> 32 != 0; }

DataError damaged() {
  return DataError(
      "the product of a user's and an item's E is not a number: the embeddings are "
      "damaged or have diverged");
}

template <typename T>
GRAPHLORA_CLONES void score_tile(const T* rows, std::int64_t count, const T* query,
                                 std::int64_t width, float* scores) {
  for (std::int64_t i = 0; i < count; ++i)
    scores[i] = static_cast<float>(dot(query, rows + i * width, width));
}

at::Tensor as_tensor(std::vector<Key>& keys) {
  return at::from_blob(keys.data(), {static_cast<std::int64_t>(keys.size())}, at::kLong);
}

}  // namespace

CandidateSearch::CandidateSearch(Communicator& world, const NodeMap& map, const at::Tensor& owned,
                                 std::int64_t users, const at::Tensor& weight_nD, bool bias_columns)
    : world_(world), map_(map), users_(users), weight_nD_(weight_nD), bias_columns_(bias_columns) {
  for (const std::int64_t node : values_of<std::int64_t>(owned))
    if (node >= users) items_.push_back(static_cast<std::int32_t>(node - users));
  std::sort(items_.begin(), items_.end());
  std::vector<std::int64_t> rows;
  for (const std::int32_t item : items_) rows.push_back(map.local(users + item));
  item_vD_ = weight_nD.index_select(0, view_of(rows).to(weight_nD.device())).cpu().contiguous();
}

at::Tensor CandidateSearch::rows_of(std::span<const std::int64_t> nodes) const {
  const GatherPlan plan(world_, map_, nodes);
  return plan
      .forward(weight_nD_.index_select(0, plan.send_rows(weight_nD_.device())), Traffic::embedding)
      .cpu()
      .contiguous();
}

at::Tensor CandidateSearch::queries(std::span<const Recipient> recipients) const {
  const auto count = static_cast<std::int64_t>(recipients.size());
  std::vector<std::int64_t> nodes, place;
  for (std::int64_t q = 0; q < count; ++q) {
    if (recipients[q].user_node == kUnknownNode) continue;
    nodes.push_back(recipients[q].user_node);
    place.push_back(q);
  }
  at::Tensor query_QD = at::zeros({count, weight_nD_.size(1)}, item_vD_.options());
  query_QD.index_copy_(0, view_of(place), rows_of(nodes));

  const at::Tensor known = query_QD.ne(0).any(1);
  std::vector<std::int64_t> liked;
  for (std::int64_t q = 0; q < count; ++q) {
    if (known[q].item<bool>()) continue;
    for (const std::int64_t item : recipients[q].liked) liked.push_back(users_ + item);
  }
  const at::Tensor liked_LD = rows_of(liked);
  std::int64_t begin = 0;
  for (std::int64_t q = 0; q < count; ++q) {
    if (known[q].item<bool>()) continue;
    const auto likes = static_cast<std::int64_t>(recipients[q].liked.size());
    const at::Tensor rows = liked_LD.narrow(0, begin, likes);
    begin += likes;
    const std::int64_t trained = rows.ne(0).any(1).sum().item<std::int64_t>();
    at::Tensor query = query_QD[q];
    // One after the other: the same bits on any number of threads.
    for (std::int64_t i = 0; i < likes; ++i) query.add_(rows[i]);
    if (trained > 0) query.div_(static_cast<double>(trained));
    if (!bias_columns_) continue;
    query[-2] = 0;
    query[-1] = 1;
  }
  return query_QD;
}

/// Calls visit(chunk, query, key) for every item that is not excluded, from several threads: one
/// for each of `chunks` consecutive parts of the items.
template <class Visit>
void CandidateSearch::scan(const at::Tensor& query_QD,
                           std::span<const std::span<const std::int32_t>> excluded,
                           std::int64_t chunks, const Visit& visit) const {
  const std::int64_t queries = query_QD.size(0), width = query_QD.size(1),
                     all = static_cast<std::int64_t>(items_.size());
  const auto part = [&]<typename T>(std::int64_t chunk, const T* rows, const T* query) {
    std::vector<float> scores(kTile);
    std::vector<std::size_t> next(static_cast<std::size_t>(queries));
    const std::int64_t end = all * (chunk + 1) / chunks;
    for (std::int64_t tile = all * chunk / chunks; tile < end; tile += kTile) {
      const std::int64_t count = std::min(kTile, end - tile);
      for (std::int64_t q = 0; q < queries; ++q) {
        score_tile(rows + tile * width, count, query + q * width, width, scores.data());
        const auto out = excluded[q];
        std::size_t& at = next[q];
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int32_t item = items_[tile + i];
          while (at < out.size() && out[at] < item) ++at;
          if (at < out.size() && out[at] == item) continue;
          visit(chunk, q, key_of(scores[i], item));
        }
      }
    }
  };
  const auto run = [&]<typename T>(const T*) {
    const T* rows = item_vD_.const_data_ptr<T>();
    const T* query = query_QD.const_data_ptr<T>();
    at::parallel_for(0, chunks, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t chunk = first; chunk < last; ++chunk) part(chunk, rows, query);
    });
  };
  if (item_vD_.scalar_type() == at::kDouble) {
    run(static_cast<const double*>(nullptr));
  } else {
    run(static_cast<const float*>(nullptr));
  }
}

std::vector<std::vector<Candidate>> CandidateSearch::best(
    const at::Tensor& query_QD, std::span<const std::span<const std::int32_t>> excluded,
    std::int64_t count) const {
  const std::int64_t queries = query_QD.size(0), chunks = at::get_num_threads();
  const auto limit = static_cast<std::size_t>(count);
  // For each chunk and query a heap of the best so far, the worst of them on top.
  std::vector<std::vector<Key>> heaps(static_cast<std::size_t>(chunks * queries));
  scan(query_QD, excluded, chunks, [&](std::int64_t chunk, std::int64_t q, Key key) {
    std::vector<Key>& heap = heaps[chunk * queries + q];
    if (heap.size() == limit) {
      if (key >= heap.front()) return;
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    heap.push_back(key);
    std::push_heap(heap.begin(), heap.end());
  });

  // Every rank's best, padded: [P, Q, C].
  const auto take_best = [&](std::vector<Key>& keys) {
    const auto middle = keys.begin() + static_cast<std::ptrdiff_t>(std::min(limit, keys.size()));
    std::partial_sort(keys.begin(), middle, keys.end());
    keys.resize(std::min(limit, keys.size()));
  };
  std::vector<Key> own(static_cast<std::size_t>(queries * count), kNone), keys;
  for (std::int64_t q = 0; q < queries; ++q) {
    keys.clear();
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const auto& heap = heaps[chunk * queries + q];
      keys.insert(keys.end(), heap.begin(), heap.end());
    }
    take_best(keys);
    std::copy(keys.begin(), keys.end(), own.begin() + q * count);
  }
  std::vector<Key> all(own.size() * static_cast<std::size_t>(world_.size()));
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(world_.size()), queries * count);
  world_.all_gather_rows(as_tensor(own), as_tensor(all), counts, Traffic::metrics).wait();

  std::vector<std::vector<Candidate>> result(static_cast<std::size_t>(queries));
  for (std::int64_t q = 0; q < queries; ++q) {
    keys.clear();
    for (int rank = 0; rank < world_.size(); ++rank) {
      const auto first = all.begin() + (rank * queries + q) * count;
      std::copy_if(first, first + count, std::back_inserter(keys),
                   [](Key key) { return key != kNone; });
    }
    take_best(keys);
    for (const Key key : keys) {
      if (!is_number(key)) throw damaged();
      result[q].push_back({item_of(key), score_of(key)});
    }
  }
  return result;
}

std::vector<std::vector<std::int64_t>> CandidateSearch::places(
    const at::Tensor& query_QD, std::span<const std::span<const std::int32_t>> excluded,
    std::span<const std::vector<std::int64_t>> items) const {
  const std::int64_t queries = query_QD.size(0), width = query_QD.size(1),
                     chunks = at::get_num_threads();
  std::vector<std::int64_t> first(static_cast<std::size_t>(queries) + 1);
  for (std::int64_t q = 0; q < queries; ++q)
    first[q + 1] = first[q] + static_cast<std::int64_t>(items[q].size());
  const auto total = static_cast<std::size_t>(first.back());

  // Each item's key, from the rank that owns it; the others hold 0.
  std::vector<Key> keys(total);
  const auto own_key = [&]<typename T>(std::int64_t q, std::int64_t item, const T*) -> Key {
    if (map_.owner(users_ + item) != world_.rank()) return 0;
    const auto at = std::lower_bound(items_.begin(), items_.end(), item) - items_.begin();
    float score = 0;
    score_tile(item_vD_.const_data_ptr<T>() + at * width, 1,
               query_QD.const_data_ptr<T>() + q * width, width, &score);
    return key_of(score, static_cast<std::int32_t>(item));
  };
  for (std::int64_t q = 0; q < queries; ++q) {
    for (std::size_t i = 0; i < items[q].size(); ++i) {
      keys[first[q] + i] = item_vD_.scalar_type() == at::kDouble
                               ? own_key(q, items[q][i], static_cast<const double*>(nullptr))
                               : own_key(q, items[q][i], static_cast<const float*>(nullptr));
    }
  }
  world_.all_reduce(as_tensor(keys), ReduceOp::sum, Traffic::metrics).wait();

  // ahead[i]: items whose key lies between those of the (i−1)-th and the i-th of a query's sorted
  // items, and at the end the scores that are no numbers; one row a chunk.
  std::vector<Key> sorted = keys;
  for (std::int64_t q = 0; q < queries; ++q)
    std::sort(sorted.begin() + first[q], sorted.begin() + first[q + 1]);
  const std::size_t columns = total + 1;
  std::vector<std::int64_t> ahead(static_cast<std::size_t>(chunks) * columns);
  scan(query_QD, excluded, chunks, [&](std::int64_t chunk, std::int64_t q, Key key) {
    std::int64_t* row = ahead.data() + static_cast<std::size_t>(chunk) * columns;
    const auto begin = sorted.begin() + first[q], end = sorted.begin() + first[q + 1];
    const auto behind = std::upper_bound(begin, end, key);
    if (behind != end) ++row[behind - sorted.begin()];
    if (!is_number(key)) ++row[total];
  });
  std::vector<std::int64_t> sums(columns);
  for (std::size_t i = 0; i < ahead.size(); ++i) sums[i % columns] += ahead[i];
  world_.all_reduce(view_of(sums), ReduceOp::sum, Traffic::metrics).wait();
  if (sums.back() > 0) throw damaged();

  std::vector<std::vector<std::int64_t>> result(static_cast<std::size_t>(queries));
  for (std::int64_t q = 0; q < queries; ++q) {
    std::partial_sum(sums.begin() + first[q], sums.begin() + first[q + 1], sums.begin() + first[q]);
    for (std::size_t i = 0; i < items[q].size(); ++i) {
      const auto begin = sorted.begin() + first[q], end = sorted.begin() + first[q + 1];
      const auto at = std::lower_bound(begin, end, keys[first[q] + i]);
      result[q].push_back(sums[at - sorted.begin()]);
    }
  }
  return result;
}

}  // namespace graphlora
