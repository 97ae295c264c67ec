#include "graph/shard.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kBlocks = 512;   // of a RowLists: enough for any number of threads
constexpr std::size_t kKeptLimits = 2;  // two kinds of plans are kept: a batch's and the full one
constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

template <class T>
at::Tensor to_tensor(const std::vector<T>& values) {
  const auto dtype = c10::CppTypeToScalarType<T>::value;
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<T>());
  return tensor;
}

// Boundaries of runs of rows with about equal work: entries plus two a row.
std::vector<std::int64_t> equal_blocks(const RowLists& lists) {
  std::int64_t total = 0;
  for (std::int64_t row = 0; row < lists.rows; ++row) total += lists.size(row) + 2;
  std::vector<std::int64_t> blocks{0};
  std::int64_t done = 0;
  for (std::int64_t row = 0; row < lists.rows; ++row) {
    done += lists.size(row) + 2;
    if (done >= total / kBlocks * static_cast<std::int64_t>(blocks.size())) {
      if (row + 1 < lists.rows) blocks.push_back(row + 1);
    }
  }
  blocks.push_back(lists.rows);
  return blocks;
}

// Per peer, how many of its rows travel: those first needed in a group below `limit`.
std::vector<std::int64_t> counts_below(const at::Tensor& offsets, const at::Tensor& first_group,
                                       int limit) {
  const auto bounds = values_of<std::int64_t>(offsets);
  const auto groups = values_of<std::uint16_t>(first_group);
  std::vector<std::int64_t> counts;
  for (std::size_t peer = 0; peer + 1 < bounds.size(); ++peer) {
    const auto begin = groups.begin() + bounds[peer], end = groups.begin() + bounds[peer + 1];
    counts.push_back(std::lower_bound(begin, end, limit) - begin);
  }
  return counts;
}

// Where the rows counted by `counts_below` stand: the first ones of each peer's range.
std::vector<std::int64_t> prefixes(const at::Tensor& offsets,
                                   const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> rows;
  for (std::size_t peer = 0; peer < counts.size(); ++peer) {
    const std::int64_t begin = values_of<std::int64_t>(offsets)[peer];
    for (std::int64_t k = 0; k < counts[peer]; ++k) rows.push_back(begin + k);
  }
  return rows;
}

}  // namespace

RowLists places_of(const at::Tensor& rows_S, std::int64_t begin, std::int64_t end) {
  const auto rows = values_of<std::int64_t>(rows_S);
  std::vector<std::int64_t> pointers(end - begin + 1, 0);
  for (const std::int64_t row : rows) ++pointers[row - begin + 1];
  for (std::int64_t row = 0; row < end - begin; ++row) pointers[row + 1] += pointers[row];
  std::vector<std::int32_t> places(rows.size());
  std::vector<std::int64_t> fill(pointers.begin(), pointers.end() - 1);
  for (std::size_t s = 0; s < rows.size(); ++s)
    places[fill[rows[s] - begin]++] = static_cast<std::int32_t>(s);
  return make_row_lists(pointers, places);
}

const at::Tensor& DeviceTensor::to(at::Device device) const {
  if (!cpu_.defined() || cpu_.device() == device) return cpu_;
  if (!copy_->defined() || copy_->device() != device) *copy_ = cpu_.to(device);
  return *copy_;
}

RowLists make_row_lists(DeviceTensor pointers, DeviceTensor index, int groups,
                        const CutView& drop) {
  RowLists lists;
  lists.pointers = std::move(pointers);
  lists.index = std::move(index);
  lists.stride = groups + 1;
  lists.rows = lists.pointers.cpu().numel() / lists.stride;
  lists.groups = groups;
  lists.drop = drop;
  lists.blocks = equal_blocks(lists);
  return lists;
}

RowLists make_row_lists(DeviceTensor pointers, DeviceTensor index) {
  RowLists lists;
  lists.pointers = std::move(pointers);
  lists.index = std::move(index);
  lists.rows = lists.pointers.cpu().numel() - 1;
  lists.drop = {1, 1};
  lists.blocks = equal_blocks(lists);
  return lists;
}

RowLists make_row_lists(const std::vector<std::int64_t>& pointers,
                        const std::vector<std::int32_t>& index) {
  return make_row_lists(DeviceTensor(to_tensor(pointers)), DeviceTensor(to_tensor(index)));
}

Shard::Shard(const std::filesystem::path& directory, int rank, const Dataset* dataset)
    : cut_(std::span<const std::int64_t>{}, CutKind::none, 1) {
  std::string again = "rebuild it with graphlora partition";
  if (dataset) again += " --data " + dataset->directory().string();
  const auto json_path = directory / "partition.json";
  const nlohmann::json json = read_json(json_path);
  std::string id;
  std::int64_t nodes = 0, parts = 0;
  try {
    if (json.at("format_version") != kPartitionVersion) {
      throw DataError("{}: unknown format version {}; {}", json_path.string(),
                      json.at("format_version").dump(), again);
    }
    if (dataset && json.at("dataset_fingerprint") != dataset->fingerprint()) {
      throw DataError("{}: belongs to another dataset; {}", json_path.string(), again);
    }
    nodes = json.at("nodes").get<std::int64_t>();
    parts = json.at("parts").get<std::int64_t>();
    id = json.at("partition_id").get<std::string>();
    cut_ = CutRule::from_json(json.at("cut"));
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: {}; {}", json_path.string(), error.what(), again);
  }
  if (dataset && nodes != dataset->nodes()) {
    throw DataError("{}: {} nodes, the dataset has {}; {}", json_path.string(), nodes,
                    dataset->nodes(), again);
  }
  if (nodes > kMaxIndex || parts <= rank || parts > std::min(nodes, kMaxParts)) {
    throw DataError("{}: {} parts of {} nodes do not fit rank {}; {}", json_path.string(), parts,
                    nodes, rank, again);
  }
  parts_ = static_cast<int>(parts);

  const SafetensorsReader reader(directory / shard_file_name(rank));
  const std::string file = reader.path().string();
  const std::map<std::string, std::string> expected{
      {"format_version", std::to_string(kPartitionVersion)},
      {"partition_id", id},
      {"part", std::to_string(rank)},
      {"parts", std::to_string(parts)},
      {"groups", std::to_string(cut_.groups())}};
  for (const auto& [key, value] : expected) {
    const auto found = reader.metadata().find(key);
    if (found == reader.metadata().end() || found->second != value) {
      throw DataError("{}: its {} is not that of partition.json, {}; {}", file, key, value, again);
    }
  }
  owned_ = reader.tensor("owned", at::kLong, {-1});
  halo_ = reader.tensor("halo", at::kLong, {-1});
  halo_offsets_ = reader.tensor("halo_offsets", at::kLong, {parts + 1});
  const std::int64_t pointers = cut_.groups() + std::int64_t{1};
  row_offsets_ = reader.tensor("row_offsets", at::kLong, {owned_.size(0) * pointers});
  col_ = reader.tensor("col", at::kInt, {-1});
  hubs_ = reader.tensor("hubs", at::kLong, {-1});
  hub_offsets_ = reader.tensor("hub_offsets", at::kLong, {parts + 1});
  hub_row_offsets_ = reader.tensor("hub_row_offsets", at::kLong, {hubs_.size(0) * pointers});
  hub_col_ = reader.tensor("hub_col", at::kInt, {-1});
  hub_degree_ = reader.tensor("hub_degree", at::kInt, {hubs_.size(0) * cut_.groups()});
  halo_first_group_ = reader.tensor("halo_first_group", at::kUInt16, {halo_.size(0)});
  send_offsets_ = reader.tensor("send_offsets", at::kLong, {parts + 1});
  send_rows_ = reader.tensor("send_rows", at::kLong, {-1});
  send_first_group_ = reader.tensor("send_first_group", at::kUInt16, {send_rows_.size(0)});
  try {
    check(nodes, rank, file);
  } catch (const DataError& error) {
    throw DataError("{}; {}", error.what(), again);
  }
  transpose_halo_block();
}

void Shard::check(std::int64_t nodes, int rank, const std::string& file) {
  const auto owned = values_of<std::int64_t>(owned_), halo = values_of<std::int64_t>(halo_);
  const auto row_offsets = values_of<std::int64_t>(row_offsets_.cpu());
  const auto col = values_of<std::int32_t>(col_.cpu());
  const auto halo_first_group = values_of<std::uint16_t>(halo_first_group_);
  const auto n = static_cast<std::int64_t>(owned.size());
  const auto h = static_cast<std::int64_t>(halo.size());
  const std::int64_t k = hubs_.size(0);
  const int groups = cut_.groups();

  std::vector<bool> seen(nodes, false);
  for (const auto& list : {owned, halo}) {
    for (const std::int64_t node : list) {
      if (node < 0 || node >= nodes) throw DataError("{}: node {} of {}", file, node, nodes);
      if (seen[node]) throw DataError("{}: node {} occurs twice", file, node);
      seen[node] = true;
    }
  }
  const auto check_offsets = [&](const at::Tensor& tensor, const char* name, std::int64_t last) {
    const auto offsets = values_of<std::int64_t>(tensor);
    if (offsets.empty() ? last != 0 : offsets.front() != 0 || offsets.back() != last) {
      throw DataError("{}: {} does not run from 0 to {}", file, name, last);
    }
    if (!std::is_sorted(offsets.begin(), offsets.end())) {
      throw DataError("{}: {} is not ascending", file, name);
    }
  };
  check_offsets(halo_offsets_, "halo_offsets", h);
  check_offsets(send_offsets_, "send_offsets", send_rows_.size(0));
  check_offsets(row_offsets_.cpu(), "row_offsets", col_.cpu().size(0));
  check_offsets(hub_offsets_, "hub_offsets", k);
  check_offsets(hub_row_offsets_.cpu(), "hub_row_offsets", hub_col_.cpu().size(0));

  if (n + k + h > kMaxIndex || send_rows_.size(0) > kMaxIndex) {
    throw DataError("{}: {} local nodes and {} rows to send are beyond 2^31-1", file, n + k + h,
                    send_rows_.size(0));
  }
  check_hubs(nodes, rank, file);

  std::vector<std::int32_t> halo_owner(h);
  const auto halo_offsets = values_of<std::int64_t>(halo_offsets_);
  for (int peer = 0; peer < parts_; ++peer) {
    std::fill(halo_owner.begin() + halo_offsets[peer], halo_owner.begin() + halo_offsets[peer + 1],
              peer);
    for (std::int64_t k = halo_offsets[peer] + 1; k < halo_offsets[peer + 1]; ++k) {
      if (std::pair(halo_first_group[k - 1], halo[k - 1]) >=
          std::pair(halo_first_group[k], halo[k])) {
        throw DataError("{}: halo is not sorted by first group and id", file);
      }
    }
  }
  if (halo_offsets[rank] != halo_offsets[rank + 1]) {
    throw DataError("{}: the part has halo rows of its own", file);
  }

  // One pass over the entries: ranges, order, first use of every halo row, what must be sent, and
  // whether the owned block is symmetric (sums of hashes over both triangles agree).
  using Send = std::tuple<std::int32_t, std::uint16_t, std::int64_t, std::int64_t>;
  std::vector<Send> sends;  // peer, first group, node, row
  std::vector<std::uint16_t> first_group(h, std::numeric_limits<std::uint16_t>::max());
  std::vector<std::int32_t> sent_by(parts_, -1);
  std::uint64_t triangles = 0, hub_edges = 0;
  const auto hub_hash = [](std::int64_t row, std::int64_t hub, int group) {
    return splitmix64(splitmix64(static_cast<std::uint64_t>(row) << 32 | hub) + group);
  };
  bool boundary_began = false;
  for (std::int64_t row = 0; row < n; ++row) {
    const auto* pointers = row_offsets.data() + row * (groups + 1);
    if (row > 0 && pointers[0] != pointers[-1]) {
      throw DataError("{}: row_offsets has a gap before row {}", file, row);
    }
    bool boundary = false;
    for (int group = 0; group < groups; ++group) {
      for (std::int64_t e = pointers[group]; e < pointers[group + 1]; ++e) {
        const std::int64_t c = col[e];
        if (c < 0 || c >= n + k + h || c == row || (e > pointers[group] && col[e - 1] >= c)) {
          throw DataError(
              "{}: col has the bad entry {} in row {} of {} owned nodes, {} hubs and {} halo nodes",
              file, c, row, n, k, h);
        }
        if (c < n) {
          const auto low = static_cast<std::uint64_t>(std::min(row, c));
          const auto high = static_cast<std::uint64_t>(std::max(row, c));
          const std::uint64_t hash = splitmix64(splitmix64(low << 32 | high) + group);
          triangles += row < c ? hash : -hash;
          continue;
        }
        if (c < n + k) {
          hub_edges += hub_hash(row, c - n, group);
          continue;
        }
        boundary = true;
        auto& first = first_group[c - n - k];
        first = std::min(first, static_cast<std::uint16_t>(group));
        const std::int32_t peer = halo_owner[c - n - k];
        if (sent_by[peer] == row) continue;
        sent_by[peer] = static_cast<std::int32_t>(row);
        sends.emplace_back(peer, static_cast<std::uint16_t>(group), owned[row], row);
      }
    }
    if (boundary_began && !boundary) {
      throw DataError("{}: interior row {} stands behind boundary rows", file, row);
    }
    boundary_began |= boundary;
    interior_ += !boundary;
  }
  if (triangles != 0) throw DataError("{}: the block of owned nodes is not symmetric", file);
  const auto hub_offsets = values_of<std::int64_t>(hub_row_offsets_.cpu());
  const auto hub_col = values_of<std::int32_t>(hub_col_.cpu());
  for (std::int64_t hub = 0; hub < k; ++hub) {
    for (int group = 0; group < groups; ++group) {
      const auto* pointers = hub_offsets.data() + hub * (groups + 1) + group;
      for (std::int64_t e = pointers[0]; e < pointers[1]; ++e)
        hub_edges -= hub_hash(hub_col[e], hub, group);
    }
  }
  if (hub_edges != 0) throw DataError("{}: the edges of the hubs are not those of its rows", file);
  if (!std::equal(first_group.begin(), first_group.end(), halo_first_group.begin())) {
    throw DataError("{}: halo_first_group is not the first use of every halo row", file);
  }
  std::sort(sends.begin(), sends.end());
  const auto send_rows = values_of<std::int64_t>(send_rows_);
  const auto send_first_group = values_of<std::uint16_t>(send_first_group_);
  std::vector<std::int64_t> send_offsets(parts_ + 1, 0);
  bool same = sends.size() == send_rows.size();
  for (std::size_t s = 0; same && s < sends.size(); ++s) {
    ++send_offsets[std::get<0>(sends[s]) + 1];
    same = std::get<1>(sends[s]) == send_first_group[s] && std::get<3>(sends[s]) == send_rows[s];
  }
  for (int peer = 0; peer < parts_; ++peer) send_offsets[peer + 1] += send_offsets[peer];
  const auto stored = values_of<std::int64_t>(send_offsets_);
  if (!same || !std::equal(send_offsets.begin(), send_offsets.end(), stored.begin())) {
    throw DataError("{}: the send lists are not those of its edges", file);
  }
}

void Shard::check_hubs(std::int64_t nodes, int rank, const std::string& file) {
  const auto hubs = values_of<std::int64_t>(hubs_), offsets = values_of<std::int64_t>(hub_offsets_);
  const auto pointers = values_of<std::int64_t>(hub_row_offsets_.cpu());
  const auto col = values_of<std::int32_t>(hub_col_.cpu()),
             degree = values_of<std::int32_t>(hub_degree_);
  const auto rows = values_of<std::int64_t>(row_offsets_.cpu());
  const auto owned = values_of<std::int64_t>(owned_), halo = values_of<std::int64_t>(halo_);
  const int groups = cut_.groups();
  const auto k = static_cast<std::int64_t>(hubs.size());
  std::map<std::int64_t, std::int64_t> hub_of;  // node → hub
  for (std::int64_t hub = 0; hub < k; ++hub) {
    if (hubs[hub] < 0 || hubs[hub] >= nodes || !hub_of.emplace(hubs[hub], hub).second)
      throw DataError("{}: the hub {} of {} nodes is unknown or occurs twice", file, hubs[hub],
                      nodes);
    const auto* p = pointers.data() + hub * (groups + 1);
    const auto* own_degree = degree.data() + hub * groups;
    if (std::accumulate(own_degree, own_degree + groups, std::int64_t{0}) > nodes)
      throw DataError("{}: hub {} has more neighbours than there are nodes", file, hub);
    if (hub > 0 && p[0] != p[-1])
      throw DataError("{}: hub_row_offsets has a gap before hub {}", file, hub);
    for (int group = 0; group < groups; ++group) {
      const std::int64_t own = p[group + 1] - p[group];
      if (degree[hub * groups + group] < own)
        throw DataError("{}: hub {} has {} neighbours here and {} in all", file, hub, own,
                        degree[hub * groups + group]);
      for (std::int64_t e = p[group]; e < p[group + 1]; ++e) {
        if (col[e] < 0 || col[e] >= std::ssize(owned) || (e > p[group] && col[e - 1] >= col[e]))
          throw DataError("{}: hub_col has the bad entry {} for hub {}", file, col[e], hub);
      }
    }
  }
  for (const std::int64_t node : halo)
    if (hub_of.contains(node)) throw DataError("{}: the hub {} is in the halo", file, node);
  at::Tensor hub_rows = at::full({offsets[rank + 1] - offsets[rank]}, -1, at::kLong);
  for (std::int64_t row = 0; row < std::ssize(owned); ++row) {
    const auto found = hub_of.find(owned[row]);
    if (found == hub_of.end()) continue;
    const std::int64_t hub = found->second;
    if (hub < offsets[rank] || hub >= offsets[rank + 1])
      throw DataError("{}: the hub {} is owned here, but listed as another part's", file,
                      owned[row]);
    if (rows[row * (groups + 1)] != rows[row * (groups + 1) + groups])
      throw DataError("{}: the row of hub {} has entries of its own", file, owned[row]);
    hub_rows.mutable_data_ptr<std::int64_t>()[hub - offsets[rank]] = row;
  }
  if (hub_rows.numel() > 0 && hub_rows.min().item<std::int64_t>() < 0)
    throw DataError("{}: a hub listed as this part's is not owned here", file);
  hub_rows_ = hub_rows;
  first_own_hub_ = offsets[rank];
}

void Shard::transpose_halo_block() {
  const auto row_offsets = values_of<std::int64_t>(row_offsets_.cpu());
  const auto col = values_of<std::int32_t>(col_.cpu());
  const std::int64_t n = owned_.size(0), first_halo = n + hubs_.size(0), h = halo_.size(0);
  const int groups = cut_.groups();
  const auto each_use = [&](const auto& visit) {
    for (std::int64_t row = interior_; row < n; ++row) {
      for (int group = 0; group < groups; ++group) {
        const auto* pointers = row_offsets.data() + row * (groups + 1) + group;
        for (std::int64_t e = pointers[0]; e < pointers[1]; ++e) {
          if (col[e] >= first_halo)
            visit(static_cast<std::int32_t>(row), col[e] - first_halo, group);
        }
      }
    }
  };
  // Pointers of (slot, group); a slot's last one equals the next slot's first.
  std::vector<std::int64_t> offsets(h * (groups + 1), 0);
  each_use(
      [&](std::int32_t, std::int64_t slot, int group) { ++offsets[slot * (groups + 1) + group]; });
  std::int64_t total = 0;
  for (std::int64_t& offset : offsets) offset = std::exchange(total, total + offset);
  std::vector<std::int32_t> rows(total);
  std::vector<std::int64_t> fill = offsets;
  each_use([&](std::int32_t row, std::int64_t slot, int group) {
    rows[fill[slot * (groups + 1) + group]++] = row;
  });
  use_offsets_ = to_tensor(offsets);
  use_row_ = to_tensor(rows);
}

std::shared_ptr<const GraphPlan> Shard::plan(const CutView& view) const {
  const auto known = std::find_if(plans_.begin(), plans_.end(),
                                  [&](const KeptPlan& kept) { return kept.view == view; });
  if (known != plans_.end()) {
    std::rotate(known, known + 1, plans_.end());
    return plans_.back().plan;
  }
  if (view.drop_begin < 0 || view.drop_begin > view.drop_end || view.drop_end > cut_.groups()) {
    throw ConfigError("cut: groups {} to {} of {} cannot be left out", view.drop_begin,
                      view.drop_end, cut_.groups());
  }
  // A dropped tail leaves a prefix of every peer's rows; a dropped range in between leaves all.
  const int limit = view.drop_end == cut_.groups() ? view.drop_begin : cut_.groups();
  auto plan = make_plan(view, limit);
  // Plans with one limit share their lists of rows that travel; of others only the last is kept.
  std::set<int> limits{limit};
  for (auto kept = plans_.end(); kept != plans_.begin();) {
    --kept;
    if (limits.size() >= kKeptLimits && !limits.contains(kept->limit)) {
      kept = plans_.erase(kept);
    } else {
      limits.insert(kept->limit);
    }
  }
  plans_.push_back({view, limit, std::move(plan)});
  return plans_.back().plan;
}

std::shared_ptr<const GraphPlan> Shard::make_plan(const CutView& view, int limit) const {
  const int groups = cut_.groups();
  auto plan = std::make_shared<GraphPlan>();
  const std::int64_t n = owned_.size(0), k = hubs_.size(0);
  const auto offsets = values_of<std::int64_t>(hub_offsets_);
  plan->owned = plan->targets = n;
  plan->interior = interior_;
  plan->hubs = k;
  plan->halo_slots = halo_.size(0);
  plan->in_edges = plan->out_edges = make_row_lists(row_offsets_, col_, groups, view);
  plan->halo_uses = make_row_lists(use_offsets_, use_row_, groups, view);
  plan->hub_in = plan->hub_out = make_row_lists(hub_row_offsets_, hub_col_, groups, view);
  for (int part = 0; part < parts_; ++part)
    plan->hub_counts.push_back(offsets[part + 1] - offsets[part]);
  plan->hub_rows = hub_rows_;
  plan->hub_targets = at::arange(hub_rows_.cpu().numel(), at::kLong);

  const at::Tensor degree_n = at::empty({n}, at::kInt);
  plan->degree_n = degree_n;
  auto* degree = degree_n.mutable_data_ptr<std::int32_t>();
  for (std::int64_t row = 0; row < n; ++row) {
    degree[row] = static_cast<std::int32_t>(plan->in_edges.size(row));
    plan->entries += degree[row];
  }
  for (std::int64_t hub = 0; hub < k; ++hub) plan->entries += plan->hub_in.size(hub);
  const auto own_hub = values_of<std::int64_t>(hub_rows_.cpu());
  const auto rank_begin = first_own_hub_;
  const auto* of_group = hub_degree_.const_data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < own_hub.size(); ++i) {
    const auto* counts = of_group + (rank_begin + static_cast<std::int64_t>(i)) * groups;
    for (int group = 0; group < groups; ++group)
      if (group < view.drop_begin || group >= view.drop_end) degree[own_hub[i]] += counts[group];
  }

  const auto same = std::find_if(plans_.begin(), plans_.end(),
                                 [&](const KeptPlan& kept) { return kept.limit == limit; });
  if (same == plans_.end()) {
    add_exchange(limit, *plan);
  } else {
    const GraphPlan& other = *same->plan;
    plan->halo = other.halo;
    plan->send_counts = other.send_counts;
    plan->send_rows = other.send_rows;
    plan->receive_counts = other.receive_counts;
    plan->receive_rows = other.receive_rows;
    plan->homecoming = other.homecoming;
    plan->home_begin = other.home_begin;
  }
  return plan;
}

void Shard::add_exchange(int limit, GraphPlan& plan) const {
  plan.receive_counts = counts_below(halo_offsets_, halo_first_group_, limit);
  plan.receive_rows = to_tensor(prefixes(halo_offsets_, plan.receive_counts));
  plan.halo = plan.receive_rows.cpu().size(0);
  plan.send_counts = counts_below(send_offsets_, send_first_group_, limit);
  const at::Tensor sent = to_tensor(prefixes(send_offsets_, plan.send_counts));
  plan.send_rows = send_rows_.index_select(0, sent);
  plan.home_begin = interior_;
  plan.homecoming = places_of(plan.send_rows.cpu(), interior_, owned_.size(0));
}

at::Tensor Shard::own_hub_neighbours() const {
  const std::int64_t groups = cut_.groups();
  const at::Tensor pointers = hub_row_offsets_.cpu().view({hub_count(), groups + 1});
  return (pointers.slice(1, 1) - pointers.slice(1, 0, groups)).flatten();
}

std::string Shard::describe_hubs() const {
  std::string text;
  for (const at::Tensor* tensor : {&hubs_, &hub_offsets_, &hub_degree_})
    text.append(static_cast<const char*>(tensor->const_data_ptr()), tensor->nbytes());
  return text;
}

std::int64_t Shard::bytes() const {
  std::int64_t bytes = 0;
  for (const at::Tensor* tensor :
       {&owned_, &halo_, &halo_offsets_, &halo_first_group_, &send_offsets_, &send_rows_,
        &send_first_group_, &hubs_, &hub_offsets_, &hub_degree_, &row_offsets_.cpu(), &col_.cpu(),
        &hub_row_offsets_.cpu(), &hub_col_.cpu(), &hub_rows_.cpu(), &use_offsets_.cpu(),
        &use_row_.cpu()}) {
    bytes += static_cast<std::int64_t>(tensor->nbytes());
  }
  std::set<int> limits;
  for (const auto& [view, limit, plan] : plans_) {
    bytes += static_cast<std::int64_t>(plan->degree_n.cpu().nbytes());
    if (!limits.insert(limit).second) continue;
    for (const at::Tensor* tensor :
         {&plan->send_rows.cpu(), &plan->receive_rows.cpu(), &plan->homecoming.pointers.cpu(),
          &plan->homecoming.index.cpu()}) {
      bytes += static_cast<std::int64_t>(tensor->nbytes());
    }
  }
  return bytes;
}

NodeMap::NodeMap(Communicator& world, const at::Tensor& owned, std::int64_t nodes) {
  const auto [ids, counts] = world.all_gather_varying(owned.contiguous(), Traffic::control);
  *this = NodeMap(ids, counts, nodes);
}

NodeMap::NodeMap(const at::Tensor& ids_N, const std::vector<std::int64_t>& counts,
                 std::int64_t nodes) {
  const auto ids = values_of<std::int64_t>(ids_N);
  if (static_cast<std::int64_t>(ids.size()) != nodes) {
    throw DataError("the ranks own {} nodes, the dataset has {}", ids.size(), nodes);
  }
  owner_.assign(nodes, -1);
  local_.assign(nodes, -1);
  std::size_t next = 0;
  for (std::size_t rank = 0; rank < counts.size(); ++rank) {
    for (std::int64_t local = 0; local < counts[rank]; ++local) {
      const std::int64_t node = ids[next++];
      if (node < 0 || node >= nodes || owner_[node] >= 0) {
        throw DataError("node {} of {} is owned twice or unknown (rank {})", node, nodes, rank);
      }
      owner_[node] = static_cast<std::int32_t>(rank);
      local_[node] = static_cast<std::int32_t>(local);
    }
  }
}

}  // namespace graphlora
