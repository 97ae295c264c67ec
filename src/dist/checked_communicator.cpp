#include "dist/checked_communicator.hpp"

#include <fmt/ranges.h>

#include <array>
#include <map>

#include "core/error.hpp"
#include "dist/check_tensors.hpp"

namespace graphlora {
namespace {

constexpr std::array kNames{kAllReduce,     kBroadcast, kAllGather, kAllToAll,
                            kReduceScatter, kBarrier,   kSplit};
/// In the order of the names.
enum class Kind { all_reduce, broadcast, all_gather, all_to_all, reduce_scatter, barrier, split };

/// What a rank is about to do, in numbers that can be sent.
struct Intent {
  Kind kind = Kind::barrier;
  Traffic traffic = Traffic::control;
  at::ScalarType type = at::kByte;
  bool on_gpu = false;
  std::int64_t size = 0;                              ///< elements of a tensor, bytes of a row
  std::int64_t how = 0;                               ///< the root, the reduction
  std::vector<std::int64_t> send = {}, receive = {};  ///< rows to and from each rank, if of rows

  static constexpr std::int64_t kFields = 6;

  std::vector<std::int64_t> encode(int ranks) const {
    std::vector<std::int64_t> code{static_cast<std::int64_t>(kind),
                                   static_cast<std::int64_t>(traffic),
                                   static_cast<std::int64_t>(type),
                                   on_gpu ? 1 : 0,
                                   size,
                                   how};
    for (const auto* counts : {&send, &receive}) {
      for (int r = 0; r < ranks; ++r)
        code.push_back(counts->empty() ? -1 : (*counts)[static_cast<std::size_t>(r)]);
    }
    return code;
  }
};

/// In words. `code`: what encode() made, of `ranks` ranks.
std::string describe(std::span<const std::int64_t> code, int ranks) {
  const auto kind = static_cast<Kind>(code[0]);
  std::string text = kNames.at(static_cast<std::size_t>(kind));
  if (kind == Kind::barrier || kind == Kind::split) return text;
  const char* type = at::toString(static_cast<at::ScalarType>(code[2]));
  text += fmt::format(" of {}", traffic_name(static_cast<Traffic>(code[1])));
  if (kind == Kind::all_reduce || kind == Kind::broadcast) {
    text += fmt::format(", {} {}", code[4], type);
    if (kind == Kind::broadcast) text += fmt::format(" from rank {}", code[5]);
    if (kind == Kind::all_reduce)
      text += std::array{", sum", ", max", ", min"}.at(static_cast<std::size_t>(code[5]));
  } else {
    text += fmt::format(", rows of {} bytes ({})", code[4], type);
    if (kind != Kind::all_to_all)
      text += fmt::format(
          ", {} a rank",
          fmt::join(code.subspan(Intent::kFields, static_cast<std::size_t>(ranks)), ","));
  }
  return text + (code[3] != 0 ? ", on a GPU" : "");
}

class CheckedCommunicator final : public Communicator {
 public:
  CheckedCommunicator(std::shared_ptr<Communicator> inner, std::shared_ptr<Communicator> apart)
      : inner_(std::move(inner)), apart_(std::move(apart)) {
    share_records(*inner_);
  }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Handle all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) override {
    check_tensor(*this, tensor, kAllReduce, "tensor");
    compare(of_tensor(Kind::all_reduce, traffic, tensor, static_cast<std::int64_t>(op)));
    return inner_->all_reduce(std::move(tensor), op, traffic);
  }
  Handle broadcast(at::Tensor tensor, int root, Traffic traffic) override {
    check_tensor(*this, tensor, kBroadcast, "tensor");
    compare(of_tensor(Kind::broadcast, traffic, tensor, root));
    return inner_->broadcast(std::move(tensor), root, traffic);
  }
  Handle all_gather_rows(at::Tensor send, at::Tensor receive, std::span<const std::int64_t> counts,
                         Traffic traffic) override {
    check_all_gather(*this, send, receive, counts);
    compare(of_rows(Kind::all_gather, traffic, receive, counts, {}));
    return inner_->all_gather_rows(std::move(send), std::move(receive), counts, traffic);
  }
  Handle all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                         at::Tensor receive, std::span<const std::int64_t> receive_counts,
                         Traffic traffic) override {
    check_all_to_all(*this, send, send_counts, receive, receive_counts);
    compare(of_rows(Kind::all_to_all, traffic, receive, send_counts, receive_counts));
    return inner_->all_to_all_rows(std::move(send), send_counts, std::move(receive), receive_counts,
                                   traffic);
  }
  Handle reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                             std::span<const std::int64_t> counts, Traffic traffic) override {
    check_reduce_scatter(*this, send, receive, counts);
    compare(of_rows(Kind::reduce_scatter, traffic, send, counts, {}));
    return inner_->reduce_scatter_rows(std::move(send), std::move(receive), counts, traffic);
  }
  void barrier() override {
    compare({});
    inner_->barrier();
  }
  void group_begin() override { inner_->group_begin(); }
  void group_end() override { inner_->group_end(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    compare({.kind = Kind::split});
    std::unique_ptr<Communicator> part = inner_->split(color, key);
    std::shared_ptr<Communicator> part_apart = apart_->split(color, key);
    part_apart->name_axis("check of part");
    return make_checked_communicator(std::move(part), std::move(part_apart));
  }

 private:
  static Intent of_tensor(Kind kind, Traffic traffic, const at::Tensor& tensor, std::int64_t how) {
    return {kind, traffic, tensor.scalar_type(), tensor.is_cuda(), tensor.numel(), how, {}, {}};
  }

  static Intent of_rows(Kind kind, Traffic traffic, const at::Tensor& rows,
                        std::span<const std::int64_t> send, std::span<const std::int64_t> receive) {
    return {kind,
            traffic,
            rows.scalar_type(),
            rows.is_cuda(),
            row_bytes(rows),
            0,
            {send.begin(), send.end()},
            {receive.begin(), receive.end()}};
  }

  /// Collective. Every rank throws, or none does.
  void compare(const Intent& intent) {
    const int ranks = size();
    const std::vector<std::int64_t> own = intent.encode(ranks);
    const auto width = static_cast<std::int64_t>(own.size());
    const at::Tensor send = at::tensor(own, at::kLong).unsqueeze(0);
    const at::Tensor all = at::empty({ranks, width}, at::kLong);
    apart_
        ->all_gather_rows(send, all, std::vector<std::int64_t>(static_cast<std::size_t>(ranks), 1),
                          Traffic::control)
        .wait();
    const auto code = [&](int r) {
      return std::span(all.const_data_ptr<std::int64_t>() + r * width,
                       static_cast<std::size_t>(width));
    };
    std::map<std::string, std::vector<int>> doing;
    for (int r = 0; r < ranks; ++r) doing[describe(code(r), ranks)].push_back(r);
    if (doing.size() > 1) {
      std::string text;
      for (const auto& [what, who] : doing) {
        text += fmt::format("{}rank{} {}: {}", text.empty() ? "" : "; ", who.size() == 1 ? "" : "s",
                            fmt::join(who, ","), what);
      }
      throw CommError("the ranks are not in the same operation: {}", text);
    }
    if (intent.kind != Kind::all_to_all) return;
    for (int from = 0; from < ranks; ++from) {
      for (int to = 0; to < ranks; ++to) {
        const std::int64_t sent = code(from)[static_cast<std::size_t>(Intent::kFields + to)];
        const std::int64_t expected =
            code(to)[static_cast<std::size_t>(Intent::kFields + ranks + from)];
        if (sent == expected) continue;
        throw CommError("{}: rank {} sends {} rows to rank {}, which expects {}",
                        describe(own, ranks), from, sent, to, expected);
      }
    }
  }

  std::shared_ptr<Communicator> inner_, apart_;
};

}  // namespace

std::unique_ptr<Communicator> make_checked_communicator(std::shared_ptr<Communicator> inner,
                                                        std::shared_ptr<Communicator> apart) {
  return std::make_unique<CheckedCommunicator>(std::move(inner), std::move(apart));
}

}  // namespace graphlora
