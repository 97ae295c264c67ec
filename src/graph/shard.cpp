#include "graph/shard.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kBlocks = 512;  // of a RowLists: enough for any number of threads
constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

template <class T>
at::Tensor to_tensor(const std::vector<T>& values) {
  const auto dtype = c10::CppTypeToScalarType<T>::value;
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<T>());
  return tensor;
}

// Boundaries of runs of rows with about equal work: entries plus two a row.
std::vector<std::int64_t> equal_blocks(std::span<const std::int64_t> runs) {
  const auto rows = static_cast<std::int64_t>(runs.size()) / 4;
  const auto work = [&](std::int64_t row) {
    const auto* run = runs.data() + 4 * row;
    return run[1] - run[0] + run[3] - run[2] + 2;
  };
  std::int64_t total = 0;
  for (std::int64_t row = 0; row < rows; ++row) total += work(row);
  std::vector<std::int64_t> blocks{0};
  std::int64_t done = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    done += work(row);
    if (done >= total / kBlocks * static_cast<std::int64_t>(blocks.size())) {
      if (row + 1 < rows) blocks.push_back(row + 1);
    }
  }
  blocks.push_back(rows);
  return blocks;
}

// Runs of every row of a (row, group) pointer array under a view.
at::Tensor runs_under(std::span<const std::int64_t> offsets, std::int64_t rows, int groups,
                      const CutView& view) {
  at::Tensor runs = at::empty({rows, 4}, at::kLong);
  auto* run = runs.mutable_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < rows; ++row, run += 4) {
    const auto* pointers = offsets.data() + row * (groups + 1);
    run[0] = pointers[0];
    run[1] = pointers[view.drop_begin];
    run[2] = pointers[view.drop_end];
    run[3] = pointers[groups];
    if (run[1] == run[2]) run[1] = run[2] = run[3];
  }
  return runs;
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

const at::Tensor& DeviceTensor::to(at::Device device, at::ScalarType dtype) const {
  if (cpu_.device() == device && cpu_.scalar_type() == dtype) return cpu_;
  if (!copy_.defined() || copy_.device() != device || copy_.scalar_type() != dtype) {
    copy_ = cpu_.to(device, dtype);
  }
  return copy_;
}

RowLists make_row_lists(at::Tensor runs, at::Tensor index) {
  RowLists lists;
  lists.blocks = equal_blocks(values_of<std::int64_t>(runs));
  lists.runs = DeviceTensor(std::move(runs));
  lists.index = DeviceTensor(std::move(index));
  return lists;
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
  row_offsets_ =
      reader.tensor("row_offsets", at::kLong, {owned_.size(0) * (cut_.groups() + std::int64_t{1})});
  col_ = reader.tensor("col", at::kInt, {-1});
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
  const auto row_offsets = values_of<std::int64_t>(row_offsets_);
  const auto col = values_of<std::int32_t>(col_);
  const auto halo_first_group = values_of<std::uint16_t>(halo_first_group_);
  const auto n = static_cast<std::int64_t>(owned.size());
  const auto h = static_cast<std::int64_t>(halo.size());
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
  check_offsets(row_offsets_, "row_offsets", col_.size(0));

  if (n + h > kMaxIndex || send_rows_.size(0) > kMaxIndex) {
    throw DataError("{}: {} local nodes and {} rows to send are beyond 2^31-1", file, n + h,
                    send_rows_.size(0));
  }

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
  std::uint64_t triangles = 0;
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
        if (c < 0 || c >= n + h || c == row || (e > pointers[group] && col[e - 1] >= c)) {
          throw DataError("{}: col has the bad entry {} in row {} of {} owned and {} halo nodes",
                          file, c, row, n, h);
        }
        if (c < n) {
          const auto low = static_cast<std::uint64_t>(std::min(row, c));
          const auto high = static_cast<std::uint64_t>(std::max(row, c));
          const std::uint64_t hash = splitmix64(splitmix64(low << 32 | high) + group);
          triangles += row < c ? hash : -hash;
          continue;
        }
        boundary = true;
        auto& first = first_group[c - n];
        first = std::min(first, static_cast<std::uint16_t>(group));
        const std::int32_t peer = halo_owner[c - n];
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

void Shard::transpose_halo_block() {
  const auto row_offsets = values_of<std::int64_t>(row_offsets_);
  const auto col = values_of<std::int32_t>(col_);
  const std::int64_t n = owned_.size(0), h = halo_.size(0);
  const int groups = cut_.groups();
  const auto each_use = [&](const auto& visit) {
    for (std::int64_t row = interior_; row < n; ++row) {
      for (int group = 0; group < groups; ++group) {
        const auto* pointers = row_offsets.data() + row * (groups + 1) + group;
        for (std::int64_t e = pointers[0]; e < pointers[1]; ++e) {
          if (col[e] >= n) visit(static_cast<std::int32_t>(row), col[e] - n, group);
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
  for (const auto& [known, plan] : plans_) {
    if (known == view) return plan;
  }
  plans_.emplace_back(view, make_plan(view));
  return plans_.back().second;
}

std::shared_ptr<const GraphPlan> Shard::make_plan(const CutView& view) const {
  const int groups = cut_.groups();
  if (view.drop_begin < 0 || view.drop_begin > view.drop_end || view.drop_end > groups) {
    throw ConfigError("cut: groups {} to {} of {} cannot be left out", view.drop_begin,
                      view.drop_end, groups);
  }
  auto plan = std::make_shared<GraphPlan>();
  const std::int64_t n = owned_.size(0), h = halo_.size(0);
  plan->owned = n;
  plan->interior = interior_;
  plan->halo_slots = h;
  plan->in_edges =
      make_row_lists(runs_under(values_of<std::int64_t>(row_offsets_), n, groups, view), col_);
  plan->halo_uses =
      make_row_lists(runs_under(values_of<std::int64_t>(use_offsets_), h, groups, view), use_row_);

  plan->degree_n = at::empty({n}, at::kInt);
  plan->inverse_sqrt_degree_n = at::empty({n}, at::kDouble);
  const auto* run = plan->in_edges.runs.cpu().const_data_ptr<std::int64_t>();
  auto* degree = plan->degree_n.mutable_data_ptr<std::int32_t>();
  auto* inverse = plan->inverse_sqrt_degree_n.mutable_data_ptr<double>();
  for (std::int64_t row = 0; row < n; ++row, run += 4) {
    const std::int64_t entries = run[1] - run[0] + run[3] - run[2];
    plan->entries += entries;
    degree[row] = static_cast<std::int32_t>(entries);
    inverse[row] = entries > 0 ? 1 / std::sqrt(static_cast<double>(entries)) : 0;
  }
  plan->scale = DeviceTensor(plan->inverse_sqrt_degree_n.unsqueeze(1));

  // A dropped tail leaves a prefix of every peer's rows; a dropped range in between leaves all.
  const int limit = view.drop_end == groups ? view.drop_begin : groups;
  plan->receive_counts = counts_below(halo_offsets_, halo_first_group_, limit);
  plan->receive_rows = DeviceTensor(to_tensor(prefixes(halo_offsets_, plan->receive_counts)));
  plan->halo = plan->receive_rows.cpu().size(0);
  plan->send_counts = counts_below(send_offsets_, send_first_group_, limit);
  const at::Tensor sent = to_tensor(prefixes(send_offsets_, plan->send_counts));
  plan->send_rows = DeviceTensor(send_rows_.index_select(0, sent));

  // Of each boundary row, its places among the rows sent.
  const auto send_rows = values_of<std::int64_t>(plan->send_rows.cpu());
  std::vector<std::int64_t> offsets(n - interior_ + 1, 0);
  for (const std::int64_t row : send_rows) ++offsets[row - interior_ + 1];
  for (std::int64_t row = 0; row < n - interior_; ++row) offsets[row + 1] += offsets[row];
  at::Tensor runs = at::empty({n - interior_, 4}, at::kLong);
  auto* home = runs.mutable_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < n - interior_; ++row, home += 4) {
    home[0] = offsets[row];
    home[1] = home[2] = home[3] = offsets[row + 1];
  }
  std::vector<std::int32_t> places(send_rows.size());
  for (std::size_t s = 0; s < send_rows.size(); ++s) {
    places[offsets[send_rows[s] - interior_]++] = static_cast<std::int32_t>(s);
  }
  plan->homecoming = make_row_lists(runs, to_tensor(places));
  return plan;
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
