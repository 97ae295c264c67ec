#include "train/plan/cluster.hpp"

#include "core/error.hpp"
#include "core/options.hpp"

namespace graphlora::plan {

Cluster read_cluster(const std::filesystem::path& path) {
  Cluster cluster;
  std::string kind = "gpu";
  OptionTable table("plan");
  table.add_required("", "name", &cluster.name, "")
      .add_required("", "nodes", &cluster.nodes, "", in_range(cluster.nodes, 1, 1 << 20))
      .add_required("", "device.kind", &kind, "", one_of(kind, {"gpu", "cpu"}))
      .add_required("", "device.type", &cluster.type, "")
      .add_required("", "device.per-node", &cluster.per_node, "",
                    in_range(cluster.per_node, 1, 1 << 10));
  struct Quantity {
    const char* key;
    Unit unit;
    double* value;
    std::string text = {};
  };
  std::vector<Quantity> quantities{
      {"device.memory", Unit::bytes, &cluster.memory},
      {"device.program", Unit::bytes, &cluster.program},
      {"device.matrix-rate", Unit::flops_per_second, &cluster.matrix_rate},
      {"device.memory-bandwidth", Unit::bytes_per_second, &cluster.memory_bandwidth},
      {"device.memory-efficiency", Unit::share, &cluster.memory_efficiency},
      {"device.edges", Unit::per_second, &cluster.edges},
      {"device.loading", Unit::per_second, &cluster.loading},
      {"device.overhead", Unit::seconds, &cluster.overhead},
      {"node-link.latency", Unit::seconds, &cluster.within.latency},
      {"node-link.bandwidth", Unit::bytes_per_second, &cluster.within.bandwidth},
      {"network.latency", Unit::seconds, &cluster.between.latency},
      {"network.bandwidth", Unit::bytes_per_second, &cluster.between.bandwidth}};
  // What is wrong with a value, for the table to name file, line and key with it.
  const auto problem = [](const auto& parse) -> std::string {
    try {
      parse();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return {};
  };
  for (Quantity& quantity : quantities) {
    table.add_required("", quantity.key, &quantity.text, "", [&quantity, &problem] {
      return problem([&] { *quantity.value = parse_quantity(quantity.text, quantity.unit); });
    });
  }
  std::string curve;
  table.add_required("", "device.matrix-efficiency", &curve, "", [&] {
    return problem(
        [&] { cluster.matrix_efficiency = parse_curve(curve, Unit::tokens, Unit::share); });
  });
  try {
    table.parse({"--config", path.string()});
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    if (message.find(path.string()) != std::string::npos) throw;
    throw ConfigError("{}: {}", path.string(), message);
  }
  cluster.gpu = kind == "gpu";
  return cluster;
}

}  // namespace graphlora::plan
