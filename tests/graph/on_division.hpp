// Fixture of tests over what ranks compute on and talk over, and over divisions and cuts of a
// graph.
#pragma once
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "graph/planted.hpp"
#include "support/devices.hpp"

namespace graphlora::test {

class OnDivision : public OnSettingWith<std::string, CutKind> {
 protected:
  void SetUp() override {
    OnSettingWith::SetUp();
    if (!IsSkipped()) graph_.emplace(parameter<0>(), parameter<1>());
  }
  const DistributedGraph& graph() const { return *graph_; }

 private:
  std::optional<DistributedGraph> graph_;
};

inline const auto kEveryCut = ::testing::Values(CutKind::fold, CutKind::window, CutKind::none);
inline std::string name_of_division(
    const ::testing::TestParamInfo<std::tuple<Setting, std::string, CutKind>>& info) {
  const auto& [setting, division, kind] = info.param;
  return setting_name(setting) + "_" + case_name(division) + "_" + to_string(kind);
}

}  // namespace graphlora::test
