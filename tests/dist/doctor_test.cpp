// The doctor's checks between ranks: what each measures, and that each can fail.
#include <gtest/gtest.h>
#include <mpi.h>

#include "dist/doctor/clocks.hpp"
#include "dist/doctor/cores.hpp"
#include "dist/doctor/gather.hpp"
#include "dist/doctor/gpus.hpp"
#include "dist/doctor/launcher.hpp"
#include "dist/doctor/message.hpp"
#include "dist/doctor/network.hpp"
#include "dist/doctor/shared_directory.hpp"
#include "dist/doctor/versions.hpp"
#include "support/rank_main.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora::doctor {
namespace {

using test::world;

const Check& named(const std::vector<Check>& checks, const std::string& name) {
  for (const Check& check : checks)
    if (check.name == name) return check;
  throw std::runtime_error("no check " + name);
}

bool says(const Check& check, const std::string& part) {
  return check.seen.find(part) != std::string::npos;
}

/// `ranks` on each of these hosts, with the same cores.
std::vector<RankPlace> places_on(const std::vector<std::string>& hosts, int ranks,
                                 const std::vector<int>& cores = {0, 1}) {
  std::vector<RankPlace> places;
  for (const std::string& host : hosts)
    places.insert(places.end(), static_cast<std::size_t>(ranks), {host, "cpu", cores});
  return places;
}

/// The places of this test's ranks.
std::vector<RankPlace> own_places() { return places_on({"here"}, world().size()); }

TEST(DoctorGather, TextsComeInRankOrder) {
  const std::string own(static_cast<std::size_t>(world().rank()), 'x');
  const auto texts = gather_texts(world(), own);
  ASSERT_EQ(static_cast<int>(texts.size()), world().size());
  for (int rank = 0; rank < world().size(); ++rank)
    EXPECT_EQ(static_cast<int>(texts[rank].size()), rank);
}

TEST(DoctorGather, TheWorstRankIsNamed) {
  const auto places = places_on({"a", "b"}, 2);
  const Check good{"g", "n", Verdict::pass, "fine"};
  const Check bad{"g", "n", Verdict::warn, "slow", "mend"};
  const Check broken{"g", "n", Verdict::fail, "broken", "mend"};
  EXPECT_EQ(merge_ranks({{good}, {good}, {good}, {good}}, places)[0].seen, "fine");
  EXPECT_EQ(merge_ranks({{bad}, {bad}, {bad}, {bad}}, places)[0].seen, "slow");
  EXPECT_EQ(merge_ranks({{good}, {bad}, {good}, {good}}, places)[0].seen, "slow (rank 1 on a)");
  EXPECT_EQ(merge_ranks({{bad}, {bad}, {broken}, {broken}}, places)[0].seen,
            "broken (rank 2 on b and 1 more)");
  const auto some =
      merge_ranks({{}, {good}, {}, {broken, {"g", "other", Verdict::pass, "fine"}}}, places);
  ASSERT_EQ(some.size(), 2U);
  EXPECT_EQ(some[0].seen, "broken (rank 3 on b)");
  EXPECT_EQ(some[0].verdict, Verdict::fail);
}

TEST(DoctorGather, EveryRankLearnsOfAFailure) {
  const int last = world().size() - 1;
  Check own{"g", "n", Verdict::pass, "fine \xff"};
  if (world().rank() == last) own = {"g", "n", Verdict::fail, "broken", "mend"};
  const auto merged = gather_checks(world(), {own}, own_places());
  ASSERT_EQ(merged.size(), 1U);
  EXPECT_EQ(merged[0].verdict, Verdict::fail);
}

TEST(DoctorLauncher, TellsWhoStartedTheRanks) {
  const MpiState four{4, MPI_THREAD_SERIALIZED};
  const auto launcher = [&](const Environment& environment) {
    return named(check_launcher(four, environment), "launcher");
  };
  EXPECT_TRUE(says(launcher({{"OMPI_COMM_WORLD_SIZE", "4"}}), "mpirun of Open MPI, 4 ranks"));
  // A batch shell's srun that started mpirun's daemons is not what started the ranks.
  EXPECT_EQ(
      launcher(
          {{"OMPI_COMM_WORLD_SIZE", "4"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}})
          .verdict,
      Verdict::pass);
  EXPECT_TRUE(
      says(launcher({{"SLURM_STEP_ID", "0"}, {"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}}),
           "srun with PMIx"));
  EXPECT_TRUE(says(launcher({}), "none"));
}

TEST(DoctorLauncher, ALauncherOfAnotherMpiFails) {
  const MpiState alone{1, MPI_THREAD_MULTIPLE};
  for (const Environment& environment :
       {Environment{{"OMPI_COMM_WORLD_SIZE", "4"}},
        Environment{{"HYDI_CONTROL_FD", "7"}, {"PMI_SIZE", "4"}, {"PMI_RANK", "0"}},
        Environment{{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}}) {
    const Check check = named(check_launcher(alone, environment), "launcher");
    EXPECT_EQ(check.verdict, Verdict::fail);
    EXPECT_TRUE(says(check, "started 4 processes, MPI sees 1")) << check.seen;
    EXPECT_FALSE(check.remedy.empty());
  }
  EXPECT_EQ(
      named(check_launcher(alone, {{"PMI_RANK", "0"}, {"PMI_SIZE", "x"}}), "launcher").verdict,
      Verdict::pass);
}

TEST(DoctorLauncher, AnMpiWithoutThreadsFails) {
  EXPECT_EQ(named(check_launcher({1, MPI_THREAD_FUNNELED}, {}), "threads").verdict, Verdict::fail);
}

TEST(DoctorLauncher, TheseRanksWereStartedWell) {
  for (const Check& check : check_launcher(mpi_state(world().size()), initial_environment()))
    EXPECT_EQ(check.verdict, Verdict::pass) << check.name << ": " << check.seen;
}

TEST(DoctorCores, EnoughOfThemPass) {
  const auto places = places_on({"a", "b"}, 2, {0, 1, 2, 3});
  const std::vector<CoreUse> uses(4, {.threads = 2, .online = 4});
  const auto checks = check_cores(places, uses);
  EXPECT_EQ(named(checks, "threads").verdict, Verdict::pass);
  EXPECT_EQ(named(checks, "binding").verdict, Verdict::pass);
  EXPECT_EQ(named(checks, "quota").verdict, Verdict::skip);
}

TEST(DoctorCores, MoreThreadsThanCoresAreNamed) {
  auto places = places_on({"a", "b"}, 2, {0, 1, 2, 3});
  std::vector<CoreUse> uses(4, {.threads = 2, .online = 4});
  uses[2].threads = 3;
  Check check = named(check_cores(places, uses), "threads");
  EXPECT_EQ(check.verdict, Verdict::warn);
  EXPECT_TRUE(says(check, "2 ranks on b have 5 threads on 4 cores")) << check.seen;
  // Enough cores on the host, but both ranks of it are bound to one of them.
  uses = {{.threads = 1, .online = 4}, {.threads = 1, .online = 4}, {.threads = 1, .online = 4}};
  places = {{"a", "cpu", {0}}, {"a", "cpu", {0}}, {"a", "cpu", {1, 2, 3}}};
  check = named(check_cores(places, uses), "threads");
  EXPECT_TRUE(says(check, "2 ranks on a have 2 threads on 1 core")) << check.seen;
}

TEST(DoctorCores, MistakenBindingIsNamed) {
  std::vector<CoreUse> uses(2, {.threads = 1, .online = 64});
  Check check = named(
      check_cores(std::vector<RankPlace>{{"a", "cpu", {0}}, {"a", "cpu", {1}}}, uses), "binding");
  EXPECT_EQ(check.verdict, Verdict::warn);
  EXPECT_TRUE(says(check, "may use 1 of 64 cores, its share is 32")) << check.seen;
  // What a scheduler gives of a host.
  check =
      named(check_cores(std::vector<RankPlace>{{"a", "cpu", {0, 1}}, {"a", "cpu", {2, 3}}}, uses),
            "binding");
  EXPECT_EQ(check.verdict, Verdict::pass) << check.seen;
  for (CoreUse& use : uses) use.online = 4;
  check =
      named(check_cores(std::vector<RankPlace>{{"a", "cpu", {0, 1}}, {"a", "cpu", {1, 2}}}, uses),
            "binding");
  EXPECT_TRUE(says(check, "share 1 of their 2 and 2 cores")) << check.seen;
}

TEST(DoctorCores, AControlGroupsQuotaCounts) {
  std::vector<CoreUse> uses(2, {.threads = 1, .online = 4, .quota = 2});
  const auto places = places_on({"a"}, 2, {0, 1, 2, 3});
  EXPECT_EQ(named(check_cores(places, uses), "quota").verdict, Verdict::pass);
  for (CoreUse& use : uses) use.quota = 0.5;
  EXPECT_EQ(named(check_cores(places, uses), "quota").verdict, Verdict::warn);
}

TEST(DoctorCores, EveryRankIsHeard) {
  const auto uses = gather_core_use(world(), own_core_use(world().rank() + 1));
  ASSERT_EQ(static_cast<int>(uses.size()), world().size());
  for (int rank = 0; rank < world().size(); ++rank) {
    EXPECT_EQ(uses[rank].threads, rank + 1);
    EXPECT_GE(uses[rank].online, 1);
  }
}

TEST(DoctorGpus, NoneIsNoFaultUnlessAskedFor) {
  const auto places = places_on({"a"}, 2);
  const std::vector<GpuUse> none(2, {.why_none = "no driver"});
  const auto checks = check_gpus(places, none, false);
  EXPECT_EQ(worst(checks), Verdict::skip);
  EXPECT_TRUE(says(named(checks, "devices"), "no driver"));
  const Check wanted = named(check_gpus(places, none, true), "devices");
  EXPECT_EQ(wanted.verdict, Verdict::fail);
  EXPECT_FALSE(wanted.remedy.empty());
}

TEST(DoctorGpus, OneTakenTwiceAndOneMissingAreNamed) {
  const auto places = places_on({"a", "b"}, 2);
  const GpuUse x{"", {1, 2}}, y{"", {1, 3}}, z{"", {2, 2}}, none{"no driver"};
  EXPECT_EQ(worst(check_gpus(places, std::vector{x, y, z, GpuUse{"", {9, 9}}}, true)),
            Verdict::pass);
  EXPECT_TRUE(have_own_gpus(std::vector{x, y, z}));
  const auto twice = check_gpus(places, std::vector{x, y, z, y}, false);
  EXPECT_EQ(named(twice, "sharing").verdict, Verdict::warn);
  EXPECT_TRUE(says(named(twice, "sharing"), "rank 1 on a and rank 3 on b"));
  EXPECT_FALSE(have_own_gpus(std::vector{x, y, z, y}));
  const auto missing = check_gpus(places, std::vector{x, y, none, z}, false);
  EXPECT_EQ(named(missing, "devices").verdict, Verdict::warn);
  EXPECT_TRUE(says(named(missing, "devices"), "no driver (rank 2 on b)"));
  EXPECT_FALSE(have_own_gpus(std::vector{x, none}));
}

TEST(DoctorGpus, EveryRankIsHeard) {
  const GpuUse own{world().rank() == 0 ? "none here" : "", {world().rank(), -1}};
  const auto uses = gather_gpu_use(world(), own);
  for (int rank = 0; rank < world().size(); ++rank) {
    EXPECT_EQ(uses[rank].why_none, rank == 0 ? "none here" : "");
    EXPECT_EQ(uses[rank].uuid[0], rank);
    EXPECT_EQ(uses[rank].uuid[1], -1);
  }
}

TEST(DoctorNccl, IsJudgedByWhatTheRanksCouldHave) {
  EXPECT_EQ(check_nccl({22809, "", true}, true, "auto").verdict, Verdict::pass);
  EXPECT_TRUE(says(check_nccl({22809, "", true}, true, "auto"), "NCCL 2.28.9"));
  EXPECT_EQ(check_nccl({0, "not built in", false}, false, "auto").verdict, Verdict::skip);
  EXPECT_EQ(check_nccl({0, "not built in", false}, true, "auto").verdict, Verdict::warn);
  EXPECT_EQ(check_nccl({0, "not built in", false}, false, "nccl").verdict, Verdict::fail);
  EXPECT_EQ(check_nccl({22809, "", false}, false, "nccl").verdict, Verdict::fail);
  EXPECT_EQ(check_nccl({22809, "", false}, false, "mpi").verdict, Verdict::skip);
}

TEST(DoctorMessage, GoesFromOneRankToTheOther) {
  const int size = world().size(), rank = world().rank();
  for (int from = 0; from < size; ++from) {
    const int to = (from + 1) % size;
    if (to == from) continue;
    const at::Tensor row = at::full({1, 3}, rank, at::kLong);
    message(world(), row, rank == from ? to : -1, rank == to ? from : -1);
    EXPECT_EQ(row[0][2].item<std::int64_t>(), rank == to ? from : rank);
  }
}

TEST(DoctorClocks, AWrongClockIsFound) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  std::vector<int> ranks;
  for (int rank = 1; rank < world().size(); ++rank) ranks.push_back(rank);
  // Rank 1 is 3 s ahead, the others are right.
  const double error = world().rank() == 1 ? 3 : 0;
  const auto offsets = measure_clocks(world(), ranks, [&] { return wall_clock() + error; });
  ASSERT_EQ(offsets.size(), ranks.size());
  for (const ClockOffset& offset : offsets) {
    // The ranks share a host's clock, so the truth is known; it lies within the stated uncertainty.
    EXPECT_LE(std::abs(offset.seconds - (offset.rank == 1 ? 3 : 0)), offset.uncertainty + 1e-6);
    EXPECT_LT(offset.uncertainty, 1);
  }
  const Check check = check_clocks(offsets, own_places(), 1);
  EXPECT_EQ(check.verdict, Verdict::warn) << check.seen;
  EXPECT_TRUE(says(check, "rank 1 on here is 3.0") || says(check, "rank 1 on here is 2.9"))
      << check.seen;
  EXPECT_EQ(check_clocks(offsets, own_places(), 10).verdict, Verdict::pass);
}

TEST(DoctorClocks, AnUncertainDifferenceIsNoWarning) {
  const auto places = places_on({"a", "b"}, 1);
  EXPECT_EQ(check_clocks(std::vector<ClockOffset>{{1, 1.5, 1}}, places, 1).verdict, Verdict::pass);
  EXPECT_EQ(check_clocks(std::vector<ClockOffset>{{1, -2.5, 1}}, places, 1).verdict, Verdict::warn);
  EXPECT_EQ(check_clocks({}, places, 1).verdict, Verdict::skip);
}

TEST(DoctorNetwork, EveryPairOfNeighboursIsTimed) {
  const int size = world().size();
  const NetworkTimes times = measure_network(world(), at::kCPU, 1 << 16);
  EXPECT_EQ(times.wrong, -1);
  const int pairs = size == 1 ? 0 : size == 2 ? 1 : size;
  ASSERT_EQ(static_cast<int>(times.pairs.size()), pairs);
  for (int i = 0; i < pairs; ++i) {
    const PairTimes& pair = times.pairs[i];
    EXPECT_EQ(pair.first, i);
    EXPECT_EQ(pair.second, (i + 1) % size);
    EXPECT_GT(pair.fastest, 0);
    EXPECT_GE(pair.median, pair.fastest);
    EXPECT_GT(pair.bandwidth, 0);
  }
  if (size > 1) {
    EXPECT_GT(times.all_reduce_large, 0);
  }
  // The same on all ranks.
  double sum = times.all_reduce_small + times.all_reduce_large;
  for (const PairTimes& pair : times.pairs) sum += pair.fastest + pair.median + pair.bandwidth;
  const at::Tensor highest = at::full({1}, sum, at::kDouble);
  world().all_reduce(highest, ReduceOp::max, Traffic::control).wait();
  EXPECT_EQ(highest.item<double>(), sum);
}

/// Six ranks, three on each of two hosts, all pairs alike.
NetworkTimes even_times() {
  NetworkTimes times{.all_reduce_small = 1e-5, .all_reduce_large = 1e-2, .payload = 8 << 20};
  for (int i = 0; i < 6; ++i) times.pairs.push_back({i, (i + 1) % 6, 9e-5, 1e-4, 1e9});
  return times;
}
constexpr NetworkLimits kLimits{.latency = 1e-3, .bandwidth = 1e8, .outlier = 5};

TEST(DoctorNetwork, EachCheckCanFindFault) {
  const auto places = places_on({"a", "b"}, 3);
  const NetworkTimes good = even_times();
  EXPECT_EQ(worst(check_network(good, places, kLimits)), Verdict::pass);

  NetworkTimes wrong = good;
  wrong.wrong = 4;
  EXPECT_EQ(named(check_network(wrong, places, kLimits), "results").verdict, Verdict::fail);
  EXPECT_TRUE(says(named(check_network(wrong, places, kLimits), "results"), "rank 4 on b"));

  NetworkTimes late = good;
  late.pairs[1].median = 2e-3;
  auto checks = check_network(late, places, kLimits);
  EXPECT_EQ(named(checks, "latency").verdict, Verdict::warn);
  EXPECT_TRUE(says(named(checks, "latency"), "rank 1 on a and rank 2 on a"));
  EXPECT_EQ(named(checks, "outliers").verdict, Verdict::warn);
  EXPECT_TRUE(says(named(checks, "outliers"), "rank 1 on a and rank 2 on a: 2.00 ms"));
  EXPECT_EQ(named(checks, "bandwidth").verdict, Verdict::pass);

  NetworkTimes thin = good;
  thin.pairs[3].bandwidth = 5e7;
  checks = check_network(thin, places, kLimits);
  EXPECT_EQ(named(checks, "bandwidth").verdict, Verdict::warn);
  EXPECT_TRUE(says(named(checks, "bandwidth"), "rank 3 on b and rank 4 on b"));
  EXPECT_TRUE(says(named(checks, "outliers"), "0.05 GB/s"));
}

TEST(DoctorNetwork, PairsAreComparedWithTheirLike) {
  // Between hosts everything is ten times slower: no pair is an outlier for that.
  const auto places = places_on({"a", "b"}, 3);
  NetworkTimes times = even_times();
  for (const int between : {2, 5}) {
    times.pairs[between].median *= 8;
    times.pairs[between].bandwidth /= 8;
  }
  EXPECT_EQ(named(check_network(times, places, kLimits), "outliers").verdict, Verdict::pass);
}

TEST(DoctorSharedDirectory, IsSeenByAllRanks) {
  const TemporaryDirectory own;
  const std::string shared = world().broadcast_text(own.path().string(), 0, Traffic::control);
  const auto checks =
      check_shared_directory(world(), shared, own_places(), std::chrono::seconds(5));
  const Verdict expected = world().size() == 1 ? Verdict::skip : Verdict::pass;
  for (const Check& check : checks) EXPECT_EQ(check.verdict, expected) << check.seen;
  world().barrier();  // rank 0 has removed what it made
  std::error_code error;
  EXPECT_TRUE(std::filesystem::is_empty(shared, error)) << error.message();
  world().barrier();  // rank 0 removes the directory
}

TEST(DoctorSharedDirectory, DirectoriesOfTheSameNameThatAreNotTheSameFail) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  // Each rank has its own, as with a local disk.
  const TemporaryDirectory own;
  const auto checks =
      check_shared_directory(world(), own.path(), own_places(), std::chrono::milliseconds(50));
  EXPECT_EQ(named(checks, "shared").verdict, Verdict::fail);
  EXPECT_TRUE(says(named(checks, "shared"), "is not seen by rank 1 on here"))
      << named(checks, "shared").seen;
  EXPECT_EQ(named(checks, "shared lock").verdict, Verdict::skip);
}

TEST(DoctorSharedDirectory, OneThatTakesNoFilesIsLeftToTheOtherCheck) {
  const auto checks =
      check_shared_directory(world(), "/nonexistent", own_places(), std::chrono::milliseconds(50));
  EXPECT_EQ(worst(checks), Verdict::skip);
}

TEST(DoctorVersions, TheseRanksAreAlike) {
  const Software own = own_software();
  EXPECT_EQ(own.program.size(), 64U) << own.program;
  EXPECT_GT(own.libraries.size(), 5U);
  EXPECT_TRUE(own.libraries.contains("libc.so.6"));
  const auto all = gather_software(world(), own);
  EXPECT_EQ(static_cast<int>(all.size()), world().size());
  for (const Check& check : check_versions(all, own_places()))
    EXPECT_EQ(check.verdict, Verdict::pass) << check.name << ": " << check.seen;
}

TEST(DoctorVersions, ADifferenceTravels) {
  Software own{"p", {{"libc.so.6", "1"}}, "Open MPI v4.1.4", "2.11.0"};
  const int last = world().size() - 1;
  if (last > 0 && world().rank() == last) own.program = "q";
  const auto all = gather_software(world(), own);
  ASSERT_EQ(static_cast<int>(all.size()), world().size());
  EXPECT_EQ(all[last].program, last > 0 ? "q" : "p");
  EXPECT_EQ(all[0].program, "p");
  EXPECT_EQ(all[last].libraries.at("libc.so.6"), "1");
}

TEST(DoctorVersions, EachDifferenceIsNamed) {
  const auto places = places_on({"a", "b"}, 1);
  const Software one{
      "p", {{"libc.so.6", "1"}, {"libmpi.so.40", "5"}, {"libtorch_cpu.so", "7"}}, "4.1.4", "2.11"};
  const auto verdicts = [&](const Software& other) {
    std::string text;
    for (const Check& check : check_versions(std::vector{one, other}, places)) {
      if (check.verdict == Verdict::pass) continue;
      text += fmt::format("{} {}, ", check.name, to_string(check.verdict));
      EXPECT_TRUE(says(check, "rank 1 on b")) << check.seen;
      EXPECT_FALSE(check.remedy.empty());
    }
    return text;
  };
  EXPECT_EQ(verdicts(one), "");
  Software other = one;
  other.program = "q";
  EXPECT_EQ(verdicts(other), "program fail, ");
  other = one;
  other.libraries["libc.so.6"] = "2";
  EXPECT_EQ(verdicts(other), "libraries warn, ");
  other = one;
  other.mpi = "4.1.5";
  EXPECT_EQ(verdicts(other), "MPI fail, ");
  other = one;
  other.libraries["libtorch_cpu.so"] = "8";
  EXPECT_EQ(verdicts(other), "LibTorch fail, libraries warn, ");
  // What only one of them has loaded, a plugin, says nothing.
  other = one;
  other.libraries["libplugin.so"] = "1";
  EXPECT_EQ(verdicts(other), "");
}

}  // namespace
}  // namespace graphlora::doctor
