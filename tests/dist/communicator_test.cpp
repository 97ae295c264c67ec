// Every operation of the communicator against what each rank can compute alone, for tensors on the
// CPU and on GPUs, over MPI and NCCL.
#include <gtest/gtest.h>

#include <numeric>

#include "core/error.hpp"
#include "dist/checked_communicator.hpp"
#include "support/devices.hpp"

namespace graphlora {
namespace {

using test::world;

constexpr std::array kAllTypes{at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong,
                               at::kInt,   at::kShort,  at::kChar,     at::kByte};

/// What rank `rank` contributes: small integers, exact in every type.
at::Tensor contribution(int rank, std::int64_t count, at::ScalarType type) {
  return (at::arange(count, at::kLong) % 5 + rank + 1).to(type);
}

/// Rows that tell sender, receiver and place apart: value = 100·from + 10·to + place.
at::Tensor rows_from_to(int from, int to, std::int64_t rows, std::int64_t width,
                        at::ScalarType type) {
  const at::Tensor place = at::arange(rows * width, at::kLong).view({rows, width}) % 10;
  return (place + (from * 20 + to * 5) % 100).to(type);
}

/// Uneven, with zeros, and known on every rank.
std::int64_t rows_between(int from, int to) { return (from * 3 + to * 5) % 4; }

struct Case {
  test::Setting setting;
  std::int64_t max_count;  // bytes or elements of one MPI call
  bool checked = false;    // in debug mode
};
std::ostream& operator<<(std::ostream& out, const Case& one) {
  return out << test::setting_name(one.setting) << ", MPI calls of at most " << one.max_count;
}

class Communication : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (const std::string reason = test::why_not(GetParam().setting); !reason.empty())
      GTEST_SKIP() << reason;
    // With a limit of 3, every message of more than 3 bytes and every reduction of more than 3
    // elements is cut.
    communicator_ = make_mpi_world(GetParam().max_count);
    rank_ = communicator_->rank();
    size_ = communicator_->size();
    device_ = test::device_of(GetParam().setting.device);
    if (nccl()) communicator_ = make_nccl_communicator(communicator_, device_);
    if (GetParam().checked)
      communicator_ = make_checked_communicator(communicator_, make_mpi_world());
  }
  bool nccl() const { return std::string_view(GetParam().setting.comm) == "nccl"; }
  /// Whether messages are cut so small that large ones would take minutes.
  bool in_pieces() const { return GetParam().max_count < 100; }
  /// The tensor on the test's device.
  at::Tensor here(const at::Tensor& tensor) const { return tensor.to(device_); }
  at::Tensor ones(at::IntArrayRef shape, at::ScalarType type = at::kFloat) const {
    return at::ones(shape, at::dtype(type).device(device_));
  }
  at::Tensor full(at::IntArrayRef shape, double value, at::ScalarType type = at::kFloat) const {
    return at::full(shape, value, at::dtype(type).device(device_));
  }
  at::Tensor empty(at::IntArrayRef shape, at::ScalarType type = at::kFloat) const {
    return at::empty(shape, at::dtype(type).device(device_));
  }

  std::shared_ptr<Communicator> communicator_;
  int rank_ = 0, size_ = 1;
  at::Device device_ = at::kCPU;
};

/// Equal to a result computed on the CPU.
::testing::AssertionResult same(const at::Tensor& got, const at::Tensor& expected) {
  if (at::equal(got.cpu(), expected)) return ::testing::AssertionSuccess();
  std::ostringstream text;
  text << "got " << got.cpu() << ", expected " << expected;
  return ::testing::AssertionFailure() << text.str();
}

TEST_P(Communication, AllReduceSumMaxMinOfEveryType) {
  for (const at::ScalarType type : kAllTypes) {
    for (const std::int64_t count : {0, 1, 3, 4, 17}) {
      at::Tensor sum = at::zeros({count}, at::kLong);
      for (int r = 0; r < size_; ++r) sum += contribution(r, count, at::kLong);
      const std::pair<ReduceOp, at::Tensor> cases[] = {
          {ReduceOp::sum, sum.to(type)},
          {ReduceOp::max, contribution(size_ - 1, count, type)},
          {ReduceOp::min, contribution(0, count, type)}};
      for (const auto& [op, expected] : cases) {
        const at::Tensor x = here(contribution(rank_, count, type));
        communicator_->all_reduce(x, op, Traffic::control).wait();
        EXPECT_TRUE(same(x, expected)) << at::toString(type) << " " << count;
      }
    }
  }
}

TEST_P(Communication, AllReduceOfBoolIsLogical) {
  const auto bools = [](std::vector<std::int64_t> values) {
    return at::tensor(values).to(at::kBool);
  };
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    const at::Tensor x = here(bools({1, 0, rank_ == 0, rank_ == size_ - 1}));
    communicator_->all_reduce(x, op, Traffic::control).wait();
    const bool any = op != ReduceOp::min || size_ == 1;
    EXPECT_TRUE(same(x, bools({1, 0, any, any})));
  }
}

TEST_P(Communication, Bf16IsSummedInFp32) {
  // 1 + 2^-8 + 2^-8 is 1 when rounded to bf16 after every addition, and 1 + 2^-7 when rounded once.
  const at::Tensor x = full({4}, rank_ == 0 ? 1.0 : 1.0 / 256, at::kBFloat16);
  communicator_->all_reduce(x, ReduceOp::sum, Traffic::control).wait();
  const at::Tensor expected =
      at::full({4}, 1.0 + (size_ - 1) / 256.0, at::kFloat).to(at::kBFloat16);
  EXPECT_TRUE(same(x, expected));
}

TEST_P(Communication, Fp16RowsAreSummedInFp32) {
  // 2048 + 1 + 1 is 2048 when rounded to fp16 after every addition.
  const std::vector<std::int64_t> counts(size_, 1);
  const at::Tensor receive = empty({1, 2}, at::kHalf);
  communicator_
      ->reduce_scatter_rows(full({size_, 2}, rank_ == 0 ? 2048 : 1, at::kHalf), receive, counts,
                            Traffic::control)
      .wait();
  EXPECT_TRUE(same(receive, at::full({1, 2}, 2047.0 + size_, at::kFloat).to(at::kHalf)));
}

TEST_P(Communication, Broadcast) {
  for (const at::ScalarType type : kAllTypes) {
    for (const std::int64_t count : {0, 1, 9}) {
      for (int root = 0; root < size_; ++root) {
        const at::Tensor x = here(contribution(rank_, count, type));
        communicator_->broadcast(x, root, Traffic::control).wait();
        EXPECT_TRUE(same(x, contribution(root, count, type)));
      }
    }
  }
}

TEST_P(Communication, AllGatherRows) {
  for (const at::ScalarType type : kAllTypes) {
    for (const bool even : {false, true}) {
      std::vector<std::int64_t> counts(size_);
      std::vector<at::Tensor> parts;
      for (int r = 0; r < size_; ++r) {
        counts[r] = even ? 2 : (r * 2) % 3;  // rank 0 has none
        parts.push_back(rows_from_to(r, 0, counts[r], 3, type));
      }
      const at::Tensor all = at::cat(parts);
      const at::Tensor receive = here(at::zeros_like(all));
      communicator_->all_gather_rows(here(parts[rank_]), receive, counts, Traffic::control).wait();
      EXPECT_TRUE(same(receive, all)) << at::toString(type) << " " << even;
    }
  }
}

TEST_P(Communication, AllToAllRowsUnevenAndEmpty) {
  for (const at::ScalarType type : kAllTypes) {
    for (const std::int64_t width : {1, 7, 0}) {
      std::vector<std::int64_t> send_counts(size_), receive_counts(size_);
      std::vector<at::Tensor> out, in;
      for (int p = 0; p < size_; ++p) {
        send_counts[p] = rows_between(rank_, p);
        receive_counts[p] = rows_between(p, rank_);
        out.push_back(rows_from_to(rank_, p, send_counts[p], width, type));
        in.push_back(rows_from_to(p, rank_, receive_counts[p], width, type));
      }
      const at::Tensor expected = at::cat(in);
      const at::Tensor receive = here(at::full_like(expected, 99));
      communicator_
          ->all_to_all_rows(here(at::cat(out)), send_counts, receive, receive_counts,
                            Traffic::control)
          .wait();
      EXPECT_TRUE(same(receive, expected)) << at::toString(type) << " " << width;
    }
  }
}

TEST_P(Communication, NobodyHasAnythingToSend) {
  const std::vector<std::int64_t> none(size_, 0);
  const at::Tensor send = empty({0, 5}), receive = empty({0, 5});
  communicator_->all_to_all_rows(send, none, receive, none, Traffic::control).wait();
  communicator_->all_gather_rows(send, receive, none, Traffic::control).wait();
  communicator_->reduce_scatter_rows(send, receive, none, Traffic::control).wait();
  EXPECT_EQ(receive.size(0), 0);
}

TEST_P(Communication, ReduceScatterRows) {
  for (const at::ScalarType type : kAllTypes) {
    for (const bool even : {false, true}) {
      std::vector<std::int64_t> counts(size_);
      for (int r = 0; r < size_; ++r) counts[r] = even ? 2 : (r + 1) % 3;
      const std::int64_t rows = std::reduce(counts.begin(), counts.end());
      at::Tensor sum = at::zeros({rows * 2}, at::kLong);
      for (int r = 0; r < size_; ++r) sum += contribution(r, rows * 2, at::kLong);
      const at::Tensor send = here(contribution(rank_, rows * 2, type).view({rows, 2}));
      const at::Tensor receive = empty({counts[rank_], 2}, type);
      communicator_->reduce_scatter_rows(send, receive, counts, Traffic::control).wait();
      const std::int64_t first = std::reduce(counts.begin(), counts.begin() + rank_);
      EXPECT_TRUE(same(receive, sum.view({rows, 2}).narrow(0, first, counts[rank_]).to(type)))
          << at::toString(type) << " " << even;
    }
  }
}

TEST_P(Communication, SeveralOperationsUnderWayAtOnce) {
  for (const bool grouped : {false, true}) {
    std::vector<at::Tensor> results;
    std::vector<Handle> handles;
    {
      std::optional<CommunicationGroup> group, inner;
      if (grouped) group.emplace(*communicator_);
      for (int i = 0; i < 20; ++i) {
        if (grouped && i == 10) inner.emplace(*communicator_);
        const at::Tensor x = full({11}, i * (rank_ + 1), at::kDouble);
        const at::Tensor received = empty({size_}, at::kDouble);
        results.push_back(x);
        results.push_back(received);
        handles.push_back(communicator_->all_reduce(x, ReduceOp::sum, Traffic::control));
        const std::vector<std::int64_t> ones(size_, 1);
        handles.push_back(communicator_->all_to_all_rows(full({size_}, i + rank_, at::kDouble),
                                                         ones, received, ones, Traffic::control));
      }
    }
    for (auto handle = handles.rbegin(); handle != handles.rend(); ++handle) handle->wait();
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(results[2 * i][10].item<double>(), i * size_ * (size_ + 1) / 2);
      for (int p = 0; p < size_; ++p) EXPECT_EQ(results[2 * i + 1][p].item<double>(), i + p);
    }
  }
}

TEST_P(Communication, ComesAfterWorkQueuedBeforeAndBeforeWorkQueuedAfter) {
  // On a GPU the tensors are not ready when the operation is issued, nor when wait returns.
  const std::int64_t n = in_pieces() ? 8 : 256;
  const at::Tensor big = full({n, n}, 1.0 / static_cast<double>(n), at::kDouble);
  at::Tensor x = full({n, n}, rank_ + 1.0, at::kDouble);
  double expected = 0;
  for (int r = 0; r < size_; ++r) expected += r + 1;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 20; ++i) x = x.matmul(big);  // keeps the value
    Handle handle = communicator_->all_reduce(x, ReduceOp::sum, Traffic::control);
    handle.wait();
    x = x / expected * (rank_ + 1);
  }
  EXPECT_LT((x - (rank_ + 1.0)).abs().max().item<double>(), 1e-9);
}

TEST_P(Communication, TensorsNobodyElseHoldsSurvive) {
  // What a dropped tensor's memory is used for next must not reach the operation.
  std::vector<std::pair<Handle, at::Tensor>> received;
  const std::int64_t rows = in_pieces() ? 20 : 1000;
  const std::vector<std::int64_t> counts(size_, rows);
  for (int i = 0; i < 10; ++i) {
    const at::Tensor to = empty({rows * size_, 4});
    received.emplace_back(communicator_->all_gather_rows(full({rows, 4}, 10 * i + rank_), to,
                                                         counts, Traffic::control),
                          to);
    full({rows, 4}, -1);
  }
  for (int i = 0; i < 10; ++i) {
    received[i].first.wait();
    for (int p = 0; p < size_; ++p) {
      const at::Tensor part = received[i].second.narrow(0, rows * p, rows);
      EXPECT_TRUE(part.eq(10 * i + p).all().item<bool>()) << i << " " << p;
    }
  }
}

TEST_P(Communication, TensorsOnTheCpuGoThroughEveryCommunicator) {
  const at::Tensor x = at::full({3}, rank_ + 1, at::kLong);
  const std::int64_t before = communicator_->counter(Traffic::metrics).bytes;
  communicator_->all_reduce(x, ReduceOp::sum, Traffic::metrics).wait();
  EXPECT_EQ(x[0].item<std::int64_t>(), size_ * (size_ + 1) / 2);
  EXPECT_EQ(communicator_->counter(Traffic::metrics).bytes - before, 24);
}

TEST_P(Communication, HandleWaitsWhenDestroyedOrOverwritten) {
  const at::Tensor x = ones({1000}), y = ones({1000});
  {
    Handle handle = communicator_->all_reduce(x, ReduceOp::sum, Traffic::control);
    handle = communicator_->all_reduce(y, ReduceOp::sum, Traffic::control);
    EXPECT_EQ(x[999].item<float>(), size_);
  }
  EXPECT_EQ(y[999].item<float>(), size_);
}

TEST_P(Communication, Conveniences) {
  std::vector<std::int64_t> send(size_), expected(size_), ranks(size_);
  for (int p = 0; p < size_; ++p) {
    send[p] = 10 * rank_ + p;
    expected[p] = 10 * p + rank_;
    ranks[p] = p * p;
  }
  EXPECT_EQ(communicator_->exchange_counts(send, Traffic::control), expected);
  EXPECT_EQ(communicator_->all_gather(static_cast<std::int64_t>(rank_) * rank_, Traffic::control),
            ranks);
  const auto [rows, counts] =
      communicator_->all_gather_varying(full({rank_, 2}, rank_), Traffic::control);
  EXPECT_EQ(rows.size(0), size_ * (size_ - 1) / 2);
  for (int p = 0; p < size_; ++p) EXPECT_EQ(counts[p], p);
  if (size_ > 1) {
    EXPECT_EQ(rows[rows.size(0) - 1][1].item<float>(), size_ - 1);
  }
}

TEST_P(Communication, SplitOrdersByKey) {
  const auto part = communicator_->split(rank_ % 2, -rank_);
  const int members = (size_ + 1 - rank_ % 2) / 2;
  EXPECT_EQ(part->size(), members);
  EXPECT_EQ(part->rank(), members - 1 - rank_ / 2);
  const at::Tensor x = full({5}, rank_, at::kLong);
  part->all_reduce(x, ReduceOp::max, Traffic::control).wait();
  EXPECT_EQ(x[4].item<std::int64_t>(), rank_ % 2 + 2 * (members - 1));
  // Operations of both on one rank, in one group.
  const at::Tensor a = ones({3}), b = ones({3});
  std::vector<Handle> handles;
  {
    const CommunicationGroup group(*communicator_);
    handles.push_back(part->all_reduce(a, ReduceOp::sum, Traffic::control));
    handles.push_back(communicator_->all_reduce(b, ReduceOp::sum, Traffic::control));
  }
  for (Handle& handle : handles) handle.wait();
  EXPECT_EQ(a[2].item<float>(), members);
  EXPECT_EQ(b[2].item<float>(), size_);
  communicator_->barrier();
}

TEST_P(Communication, CountersAreExact) {
  communicator_->reset_counters();
  const at::Tensor x = ones({25}, at::kBFloat16);
  communicator_->all_reduce(x, ReduceOp::sum, Traffic::parameters).wait();
  communicator_->broadcast(x, 0, Traffic::metrics).wait();
  std::vector<std::int64_t> send_counts(size_), receive_counts(size_);
  std::int64_t sent = 0;
  for (int p = 0; p < size_; ++p) {
    send_counts[p] = rows_between(rank_, p);
    receive_counts[p] = rows_between(p, rank_);
    if (p != rank_) sent += send_counts[p];
  }
  const auto total = [](const std::vector<std::int64_t>& v) {
    return std::reduce(v.begin(), v.end());
  };
  communicator_
      ->all_to_all_rows(ones({total(send_counts), 6}), send_counts,
                        empty({total(receive_counts), 6}), receive_counts, Traffic::halo)
      .wait();
  std::vector<std::int64_t> counts(size_, 2);
  communicator_->all_gather_rows(ones({2, 3}), empty({2 * size_, 3}), counts, Traffic::anchors)
      .wait();
  communicator_
      ->reduce_scatter_rows(ones({2 * size_, 3}), empty({2, 3}), counts, Traffic::embedding)
      .wait();
  communicator_->barrier();  // NCCL's seconds are known once the GPU is through
  EXPECT_EQ(communicator_->counter(Traffic::parameters).bytes, 50);
  EXPECT_EQ(communicator_->counter(Traffic::metrics).bytes, 50);
  EXPECT_EQ(communicator_->counter(Traffic::halo).bytes, sent * 24);
  EXPECT_EQ(communicator_->counter(Traffic::anchors).bytes, (size_ - 1) * 24);
  EXPECT_EQ(communicator_->counter(Traffic::embedding).bytes, (size_ - 1) * 24);
  EXPECT_EQ(communicator_->counter(Traffic::pretrain).bytes, 0);
  for (const Traffic traffic : {Traffic::parameters, Traffic::halo, Traffic::anchors}) {
    const TrafficCounter& counter = communicator_->counter(traffic);
    EXPECT_EQ(counter.operations, 1);
    EXPECT_GE(counter.seconds, counter.exposed_seconds);
    EXPECT_GE(counter.exposed_seconds, 0);
    if (nccl()) {
      EXPECT_GT(counter.seconds, 0);
    }
  }
  communicator_->reset_counters();
  EXPECT_EQ(communicator_->counter(Traffic::parameters).bytes, 0);
}

/// The message of the CommError that `call` throws, empty if none.
std::string comm_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

TEST_P(Communication, WrongUseIsRefusedWithOperationAndRank) {
  const std::vector<std::int64_t> two(size_, 2), one(size_, 1), negative(size_, -1),
      many(size_ + 1, 0);
  const at::Tensor rows = ones({2 * size_, 3});
  const std::string rank = fmt::format("rank {}", rank_);
  const std::vector<std::pair<std::function<void()>, std::string>> cases = {
      {[&] {
         communicator_->all_reduce(ones({4, 4}).t().narrow(0, 0, 2), ReduceOp::sum,
                                   Traffic::control);
       },
       "not contiguous"},
      {[&] { communicator_->all_reduce(at::Tensor(), ReduceOp::sum, Traffic::control); },
       "undefined"},
      {[&] {
         communicator_->all_reduce(ones({1}, at::kComplexFloat), ReduceOp::sum, Traffic::control);
       },
       "can't be reduced"},
      {[&] {
         communicator_->all_reduce(at::empty({1}, at::TensorOptions().device(at::kMeta)),
                                   ReduceOp::sum, Traffic::control);
       },
       "only CPU and CUDA tensors"},
      {[&] { communicator_->broadcast(rows, size_, Traffic::control); }, "no rank"},
      {[&] { communicator_->broadcast(rows, -1, Traffic::control); }, "no rank"},
      {[&] { communicator_->all_to_all_rows(rows, one, rows, two, Traffic::control); },
       "add up to"},
      {[&] { communicator_->all_to_all_rows(rows, two, rows, many, Traffic::control); },
       "counts for"},
      {[&] { communicator_->all_to_all_rows(rows, negative, rows, two, Traffic::control); },
       "negative"},
      {[&] {
         communicator_->all_to_all_rows(rows, two, ones({2 * size_, 4}), two, Traffic::control);
       },
       "shape [3]"},
      {[&] {
         communicator_->all_to_all_rows(rows, two, rows.to(at::kDouble), two, Traffic::control);
       },
       "type Float"},
      {[&] {
         communicator_->all_gather_rows(ones({1, 3}), rows, two, Traffic::control);
       },
       "announced"},
      {[&] { communicator_->all_gather_rows(ones({}), ones({}), two, Traffic::control); },
       "scalar"},
      {[&] {
         communicator_->reduce_scatter_rows(rows, ones({1, 3}), two, Traffic::control);
       },
       "room for"},
  };
  for (const auto& [call, text] : cases) {
    const std::string message = comm_error(call);
    EXPECT_NE(message.find(text), std::string::npos)
        << "'" << message << "' lacks '" << text << "'";
    EXPECT_NE(message.find(rank), std::string::npos) << message;
  }
}

TEST_P(Communication, TooFewRowsAreAnError) {
  if (size_ == 1) GTEST_SKIP() << "needs two ranks";
  if (nccl()) GTEST_SKIP() << "NCCL leaves this undefined: sizes on two GPUs must agree";
  if (in_pieces()) GTEST_SKIP() << "missing pieces would be waited for";
  // Each rank sends its right neighbour one row, which expects two.
  std::vector<std::int64_t> send_counts(size_, 0), receive_counts(size_, 0);
  send_counts[(rank_ + 1) % size_] = 1;
  receive_counts[(rank_ + size_ - 1) % size_] = 2;
  const std::string message = comm_error([&] {
    communicator_
        ->all_to_all_rows(ones({1, 3}), send_counts, empty({2, 3}), receive_counts,
                          Traffic::control)
        .wait();
  });
  EXPECT_NE(message.find(GetParam().checked ? "which expects 2" : "expected 24 bytes"),
            std::string::npos)
      << message;
  communicator_->barrier();
}

class Nccl : public Communication {};

TEST_P(Nccl, RefusesWaitsInsideAGroup) {
  const at::Tensor x = ones({3});
  Handle handle;
  {
    const CommunicationGroup group(*communicator_);
    handle = communicator_->all_reduce(x, ReduceOp::sum, Traffic::control);
    const std::string message = comm_error([&] { handle.wait(); });
    EXPECT_NE(message.find("inside its group"), std::string::npos) << message;
  }
  communicator_->barrier();
  EXPECT_EQ(x[0].item<float>(), size_) << "the operation ran nevertheless";
}

TEST_P(Nccl, RefusesTensorsOfBothKinds) {
  const std::vector<std::int64_t> counts(size_, 1);
  const std::string message = comm_error([&] {
    communicator_->all_gather_rows(at::ones({1, 3}), empty({size_, 3}), counts, Traffic::control);
  });
  EXPECT_NE(message.find("sent, received on cuda"), std::string::npos) << message;
}

TEST_P(Nccl, ARankThatStaysAwayIsAnErrorInTime) {
  if (size_ == 1) GTEST_SKIP() << "needs two ranks";
  std::shared_ptr<Communicator> impatient =
      make_nccl_communicator(make_mpi_world(), device_, std::chrono::seconds(2));
  std::string message;
  if (rank_ != 0) {
    const at::Tensor x = ones({1000});
    message = comm_error([&] {
      Handle handle = impatient->all_reduce(x, ReduceOp::sum, Traffic::control);
      handle.wait();
      impatient->barrier();
    });
    EXPECT_NE(message.find("does every rank get here"), std::string::npos) << message;
    EXPECT_THROW(impatient->all_reduce(x, ReduceOp::sum, Traffic::control), CommError);
  }
  world().barrier();
}

TEST(NoNccl, SaysWhyItCantBeUsed) {
  if (why_no_nccl().empty()) GTEST_SKIP() << "needs a build without NCCL or a machine without GPU";
  try {
    make_nccl_communicator(make_mpi_world(), at::Device(at::kCUDA, 0));
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(), "--comm nccl: " + why_no_nccl());
  }
}

constexpr std::int64_t kWhole = std::int64_t{1} << 30;

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return test::setting_name(info.param.setting);
}

INSTANTIATE_TEST_SUITE_P(Whole, Communication,
                         ::testing::Values(Case{test::kSettings[0], kWhole},
                                           Case{test::kSettings[1], kWhole},
                                           Case{test::kSettings[2], kWhole}),
                         case_name);
INSTANTIATE_TEST_SUITE_P(InPieces, Communication,
                         ::testing::Values(Case{test::kSettings[0], 3},
                                           Case{test::kSettings[1], 3}),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Checked, Communication,
                         ::testing::Values(Case{test::kSettings[0], kWhole, true},
                                           Case{test::kSettings[1], kWhole, true},
                                           Case{test::kSettings[2], kWhole, true}),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Whole, Nccl, ::testing::Values(Case{test::kSettings[2], kWhole}),
                         case_name);

}  // namespace
}  // namespace graphlora
