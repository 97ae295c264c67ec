// Where ranks run, and how many of them fit into few lines.
#include "dist/rank_map.hpp"

#include <sched.h>

#include <thread>

#include "dist/host_name.hpp"
#include "support/rank_main.hpp"

namespace graphlora {
namespace {

using test::world;

TEST(RankMap, NamesEveryRanksPlaceOnEveryRank) {
  Job ranks(make_mpi_world());
  ranks.use_device("cpu", "mpi");
  const std::vector<RankPlace> places = gather_rank_map(ranks);
  ASSERT_EQ(places.size(), static_cast<std::size_t>(world().size()));
  for (const RankPlace& place : places) {
    EXPECT_EQ(place.host, host_name());
    EXPECT_EQ(place.device, "cpu");
  }
  EXPECT_EQ(places[world().rank()].cores, affinity_cores());
}

TEST(RankMap, CoresAreThoseOfTheAffinityMask) {
  const std::vector<int> all = affinity_cores();
  ASSERT_FALSE(all.empty());
  // The mask is a thread's, so that the rest of the program keeps its own.
  std::vector<int> narrowed;
  std::thread([&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(all.back(), &mask);
    ASSERT_EQ(sched_setaffinity(0, sizeof(mask), &mask), 0);
    narrowed = affinity_cores();
  }).join();
  EXPECT_EQ(narrowed, std::vector<int>{all.back()});
  EXPECT_EQ(affinity_cores(), all);
}

TEST(RankMap, RanksOfOneKindShareALine) {
  const std::vector<int> all{0, 1, 2, 3}, some{0, 1, 6};
  const std::vector<RankPlace> places{
      {"n1", "cpu", all}, {"n1", "cpu", all}, {"n2", "cpu", all}, {"n2", "cpu", some}};
  EXPECT_EQ(describe_rank_map(places),
            "ranks 0-1 on n1, 2 on n2: cpu, cores 0-3\n"
            "rank 3 on n2: cpu, cores 0-1,6");
}

TEST(RankMap, RanksDealtInTurnAreTold) {
  const std::vector<RankPlace> places{
      {"n1", "cpu", {5}}, {"n2", "cpu", {5}}, {"n1", "cpu", {5}}, {"n2", "cpu", {5}}};
  EXPECT_EQ(describe_rank_map(places), "ranks 0,2 on n1, 1,3 on n2: cpu, core 5");
}

TEST(RankMap, ManyHostsTakeOneLineADevice) {
  std::vector<RankPlace> places;
  for (int host = 0; host < 256; ++host) {
    for (int gpu = 0; gpu < 4; ++gpu)
      places.push_back({fmt::format("n{}", host), fmt::format("cuda:{}", gpu), {}});
  }
  const std::string text = describe_rank_map(places);
  EXPECT_EQ(text.substr(0, text.find('\n')),
            "ranks 0 on n0, 4 on n1, 8 on n2, …, 1020 on n255 (256 hosts): cuda:0, cores unknown");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
}

TEST(RankMap, LinesAreBounded) {
  std::vector<RankPlace> places;
  for (int rank = 0; rank < 100; ++rank) places.push_back({"n1", "cpu", {rank}});
  const std::string text = describe_rank_map(places, 3);
  EXPECT_EQ(text,
            "rank 0 on n1: cpu, core 0\nrank 1 on n1: cpu, core 1\nrank 2 on n1: cpu, core 2\n"
            "and 97 more kinds of places");
}

}  // namespace
}  // namespace graphlora
