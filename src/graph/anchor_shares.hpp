// What share of the anchors have edges in the graph their batch sees: how alike training and test
// look to the GNN.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// Rows whose user (item) has an edge.
struct AnchorShare {
  std::int64_t rows = 0, users = 0, items = 0;
  double user() const { return rows > 0 ? static_cast<double>(users) / rows : 0; }
  double item() const { return rows > 0 ? static_cast<double>(items) / rows : 0; }
  AnchorShare& operator+=(const AnchorShare& other);
};

/// What a partition keeps of a dataset under a cut.
struct AnchorShares {
  std::vector<AnchorShare> train;  ///< rows of each batch group, in the graph that its batches see
  AnchorShare valid, test;         ///< in the graph of all training positives
};
/// Two passes over the rows; memory: four bytes a node.
AnchorShares anchor_shares(const Dataset& dataset, const CutRule& cut);
/// {"train":[{"rows","users","items"},…],"valid":{…},"test":{…}}, the counts.
nlohmann::json to_json(const AnchorShares& shares);
/// The reverse. Throws DataError.
AnchorShares anchor_shares_from_json(const nlohmann::json& json);

/// Rows of a split in the graph of all training positives.
AnchorShare anchor_share(const Dataset& dataset, Split split);

/// Training rows of each batch group, each in the graph that its batches see.
std::vector<AnchorShare> training_anchor_shares(const Dataset& dataset, const CutRule& cut);

/// Sum of the groups.
AnchorShare total(const std::vector<AnchorShare>& groups);

/// One line if training and test differ by more than a factor of 2 in either share, else empty.
std::string anchor_share_warning(const AnchorShare& train, const AnchorShare& test,
                                 const CutRule& cut);

/// {"rows","user","item"}; the shares of no rows are null.
nlohmann::json to_json(const AnchorShare& share);

}  // namespace graphlora
