// Shapes: T tokens of the pack, S segments, A anchor positions.
#include "data/pack.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"

namespace graphlora {
namespace {

// A shorter beginning in common costs more as a segment of its own than it saves.
constexpr std::int64_t kLeastShared = 4;

/// Prompts in an order in which those that begin alike are neighbours.
class Beginnings {
 public:
  Beginnings(std::span<const Prompt> prompts, std::span<const std::int64_t> prefix_stream,
             Sharing sharing)
      : prompts_(prompts), prefix_stream_(prefix_stream), sharing_(sharing) {
    if (prompts.size() != prefix_stream.size()) {
      throw ShapeError("make_pack: {} prompts, but {} prefix streams", prompts.size(),
                       prefix_stream.size());
    }
    for (const Prompt& prompt : prompts) {
      if (prompt.tokens.empty())
        throw ShapeError("make_pack: the prompt of row {} is empty", prompt.row);
      if (sharing == Sharing::none) continue;
      std::vector<std::int64_t>& symbols = symbols_.emplace_back();
      symbols.assign(prompt.tokens.begin(), prompt.tokens.end());
      for (const Prompt::Anchor& a : prompt.anchors) symbols[a.position] = -2 - a.node;
    }
    order_.resize(prompts.size());
    std::iota(order_.begin(), order_.end(), 0);
    if (sharing == Sharing::none) {
      shared_.assign(prompts.size(), 0);
      return;
    }
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return before(a, b); });
    for (std::size_t i = 0; i < order_.size(); ++i)
      shared_.push_back(i == 0 ? 0 : common(order_[i - 1], order_[i]));
  }

  const Prompt& prompt(std::size_t i) const { return prompts_[order_[i]]; }
  std::int64_t length(std::size_t i) const { return std::ssize(prompt(i).tokens); }
  std::int64_t prefix_stream(std::size_t i) const { return prefix_stream_[order_[i]]; }
  std::span<const std::size_t> order() const { return order_; }
  /// Tokens that the i-th prompt has in common with the one before it; all but its last at most,
  /// since every example is scored at a token of its own.
  std::int64_t shared(std::size_t i) const { return shared_[i]; }

 private:
  bool before(std::size_t a, std::size_t b) const {
    if (sharing_ == Sharing::training && prefix_stream_[a] != prefix_stream_[b])
      return prefix_stream_[a] < prefix_stream_[b];
    return symbols_[a] < symbols_[b];
  }
  std::int64_t common(std::size_t a, std::size_t b) const {
    const std::vector<std::int64_t>&x = symbols_[a], &y = symbols_[b];
    std::int64_t most = std::min(std::ssize(x), std::ssize(y)) - 1;
    if (sharing_ == Sharing::training) {
      if (prefix_stream_[a] != prefix_stream_[b]) return 0;
      for (const std::size_t i : {a, b})
        most = std::clamp<std::int64_t>(prompts_[i].private_from, 0, most);
    }
    return std::mismatch(x.begin(), x.begin() + most, y.begin()).first - x.begin();
  }

  std::span<const Prompt> prompts_;
  std::span<const std::int64_t> prefix_stream_;
  Sharing sharing_;
  std::vector<std::vector<std::int64_t>> symbols_;  // tokens; anchors as −2 − node, from −1 down
  std::vector<std::size_t> order_;
  std::vector<std::int64_t> shared_;
};

/// Writes the prompts [begin, end) of an order as one pack.
class PackWriter {
 public:
  PackWriter(const Beginnings& prompts, std::size_t begin, std::size_t end,
             std::int64_t first_anchor)
      : prompts_(prompts), last_token_(end - begin), begin_(begin) {
    lay_out(begin, end, 0, -1);
    const auto anchors = std::ssize(anchor_token_);
    pack_.tokens_T = at::tensor(tokens_, at::kLong);
    pack_.positions_T = at::tensor(positions_, at::kLong);
    pack_.streams_T = at::tensor(streams_, at::kLong);
    pack_.anchor_token_A = at::tensor(anchor_token_, at::kLong);
    pack_.anchor_row_A = at::arange(first_anchor, first_anchor + anchors, at::kLong);
    pack_.anchor_examples_A = at::tensor(anchor_examples_, at::kDouble);
    // In S the prompts have the order in which they were given.
    std::vector<std::size_t> given(end - begin);
    std::iota(given.begin(), given.end(), begin);
    std::sort(given.begin(), given.end(), [&](std::size_t a, std::size_t b) {
      return prompts.order()[a] < prompts.order()[b];
    });
    pack_.last_token_S = at::empty({std::ssize(given)}, at::kLong);
    pack_.label_S = at::empty({std::ssize(given)}, at::kFloat);
    for (std::size_t s = 0; s < given.size(); ++s) {
      pack_.last_token_S.mutable_data_ptr<std::int64_t>()[s] = last_token_[given[s] - begin];
      pack_.label_S.mutable_data_ptr<float>()[s] = prompts.prompt(given[s]).label;
      pack_.example_S.push_back(prompts.order()[given[s]]);
    }
  }
  Pack take() { return std::move(pack_); }

 private:
  /// Segments of the prompts [begin, end) from token `from` on, before which all are the same.
  void lay_out(std::size_t begin, std::size_t end, std::int64_t from, std::int64_t parent) {
    for (std::size_t first = begin; first < end;) {
      std::size_t next = first + 1;
      std::int64_t shared = prompts_.length(first);
      for (; next < end && prompts_.shared(next) >= from + kLeastShared; ++next)
        shared = std::min(shared, prompts_.shared(next));
      const std::int64_t segment = add(first, next - first, from, shared, parent);
      if (next == first + 1) {
        last_token_[first - begin_] = std::ssize(tokens_) - 1;
      } else {
        lay_out(first, next, shared, segment);
      }
      first = next;
    }
  }

  /// Tokens [from, to) of the i-th prompt, which `examples` prompts have.
  std::int64_t add(std::size_t i, std::size_t examples, std::int64_t from, std::int64_t to,
                   std::int64_t parent) {
    const Prompt& prompt = prompts_.prompt(i);
    const std::int64_t begin = std::ssize(tokens_);
    for (const Prompt::Anchor& a : prompt.anchors) {
      if (a.position < from || a.position >= to) continue;
      anchor_token_.push_back(begin + a.position - from);
      anchor_examples_.push_back(static_cast<double>(examples));
      pack_.anchors.push_back({a.node, prompt.row});
    }
    for (std::int64_t position = from; position < to; ++position) {
      tokens_.push_back(std::max(prompt.tokens[position], 0));
      positions_.push_back(position);
      streams_.push_back(position < prompt.private_from ? prompts_.prefix_stream(i) : prompt.row);
    }
    pack_.segments.push_back({begin, to - from, from, parent});
    return std::ssize(pack_.segments) - 1;
  }

  const Beginnings& prompts_;
  Pack pack_;
  std::vector<std::int64_t> tokens_, positions_, streams_, anchor_token_;
  std::vector<double> anchor_examples_;
  std::vector<std::int64_t> last_token_;  // of each prompt, in the order of the beginnings
  std::size_t begin_;
};

}  // namespace

Pack make_pack(std::span<const Prompt> prompts, std::span<const std::int64_t> prefix_stream,
               std::int64_t first_anchor, Sharing sharing) {
  const Beginnings beginnings(prompts, prefix_stream, sharing);
  return PackWriter(beginnings, 0, prompts.size(), first_anchor).take();
}

std::vector<Pack> make_packs(std::span<const Prompt> prompts,
                             std::span<const std::int64_t> prefix_stream, std::int64_t budget,
                             Sharing sharing) {
  const Beginnings beginnings(prompts, prefix_stream, sharing);
  std::vector<std::int64_t> lengths, shared;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    lengths.push_back(beginnings.length(i));
    // What is too short for a segment of its own is in the pack once more.
    shared.push_back(std::max<std::int64_t>(0, beginnings.shared(i) - (kLeastShared - 1)));
  }
  const auto bounds = split_by_budget(lengths, budget, shared);
  std::vector<Pack> packs;
  std::int64_t anchors = 0;
  for (std::size_t k = 0; k + 1 < bounds.size(); ++k) {
    packs.push_back(PackWriter(beginnings, bounds[k], bounds[k + 1], anchors).take());
    anchors += std::ssize(packs.back().anchors);
  }
  return packs;
}

std::vector<std::size_t> split_by_budget(std::span<const std::int64_t> lengths, std::int64_t budget,
                                         std::span<const std::int64_t> shared) {
  const auto shared_at = [&](std::size_t i) { return shared.empty() ? 0 : shared[i]; };
  std::vector<std::size_t> bounds = {0};
  std::int64_t used = 0;
  std::size_t best = 0;  // where the run may end with the least loss
  for (std::size_t i = 0; i < lengths.size();) {
    const std::size_t begin = bounds.back();
    const std::int64_t more = lengths[i] - (i > begin ? shared_at(i) : 0);
    if (i > begin && used + more > budget) {
      if (best == begin || shared_at(i) <= shared_at(best)) best = i;
      bounds.push_back(best);
      i = best;
      used = 0;
      continue;
    }
    if (i > begin && 2 * used >= budget && (best <= begin || shared_at(i) <= shared_at(best)))
      best = i;
    used += more;
    ++i;
  }
  if (!lengths.empty()) bounds.push_back(lengths.size());
  return bounds;
}

}  // namespace graphlora
