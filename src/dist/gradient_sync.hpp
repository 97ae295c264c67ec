// Bucketed all-reduce of dense gradients: the only synchronization of parameters there is.
#pragma once
#include <optional>
#include <vector>

#include "dist/parameter.hpp"
#include "dist/process_grid.hpp"

namespace graphlora {

/// Sums gradients over the axis of each parameter's Placement. Parameters without a gradient
/// contribute zeros, so that every rank issues the same operations.
class GradientSync {
 public:
  /// The parameters must be the same, in the same order, on every rank of an axis. `bucket_bytes`:
  /// size of a bucket.
  GradientSync(ProcessGrid& grid, std::vector<Parameter> parameters,
               std::int64_t bucket_bytes = 8 << 20);

  /// Copies the gradients of `placement`'s parameters into buckets and starts their reductions.
  void start(const std::vector<Placement>& placements);
  /// Waits for all that was started and writes the sums back to value.grad().
  void wait();

  /// Bytes of all the parameters' gradients: what a step must move, to compare with the
  /// communicator's counter.
  std::int64_t bytes_per_step() const;
  /// Test hook: pretend that `placement` belonged to `axis` (none: not reduced). Mutation tests
  /// break the table by it.
  void override_axis_for_test(Placement placement, std::optional<Axis> axis);

 private:
  /// The table's axis, or the one a test set; none: not reduced.
  std::optional<Axis> axis_of(Placement placement) const;

  struct Bucket {
    Axis axis;
    std::vector<std::size_t> members;
    at::Tensor flat;
  };
  ProcessGrid& grid_;
  std::vector<Parameter> parameters_;
  std::int64_t bucket_bytes_;
  std::vector<std::pair<Placement, std::optional<Axis>>> overrides_;
  std::vector<std::pair<Bucket, Handle>> running_;
};

/// Throws CommError naming the first parameter whose bytes differ between ranks that should hold
/// the same ones. Collective over the grid.
void check_replicas_equal(ProcessGrid& grid, const std::vector<Parameter>& parameters);

}  // namespace graphlora
