#include <spdlog/spdlog.h>

#include "support/rank_main.hpp"

namespace {

// Small graphs have bad partitions; the tests know.
struct QuietLog : testing::Environment {
  void SetUp() override { spdlog::set_level(spdlog::level::off); }
};

}  // namespace

int main(int argc, char** argv) {
  testing::AddGlobalTestEnvironment(std::make_unique<QuietLog>().release());
  return graphlora::test::rank_main(argc, argv);
}
