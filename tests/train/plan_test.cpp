// Predictions: units, cluster files, formulas against numbers worked out by hand, calibration.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/llm_flops.hpp"
#include "support/temporary_directory.hpp"
#include "support/tiny_world.hpp"
#include "train/benchmark/measure_run.hpp"
#include "train/plan/calibrate.hpp"

namespace graphlora {
namespace {

using namespace plan;  // NOLINT: of the tests

/// The one line that `body` throws.
template <class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(PlanQuantity, UnitsAndWhatIsRefused) {
  EXPECT_EQ(parse_quantity("80 GB", Unit::bytes), 80e9);
  EXPECT_EQ(parse_quantity(" 2GiB ", Unit::bytes), 2.0 * (1 << 30));
  EXPECT_DOUBLE_EQ(parse_quantity("400 Gbit/s", Unit::bytes_per_second), 50e9);
  EXPECT_DOUBLE_EQ(parse_quantity("5 us", Unit::seconds), 5e-6);
  EXPECT_DOUBLE_EQ(parse_quantity("40 %", Unit::share), 0.4);
  const auto refused = [](const char* text, Unit unit, const char* part) {
    const std::string message = message_of([&] { parse_quantity(text, unit); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused("80", Unit::bytes, "has no unit");
  refused("80 s", Unit::bytes, "'s' is none of B, kB");
  refused("-80 GB", Unit::bytes, "above 0");
  refused("0 GB", Unit::bytes, "above 0");
  refused("nan GB", Unit::bytes, "above 0");
  refused("1e400 GB", Unit::bytes, "no number");
  refused("GB", Unit::bytes, "no number");
  refused("", Unit::bytes, "no number");
  refused("101 %", Unit::share, "over 100 %");
  EXPECT_NE(message_of([] {
              parse_curve("256 tokens 20 %", Unit::tokens, Unit::share);
            }).find("no point"),
            std::string::npos);
  EXPECT_NE(message_of([] {
              parse_curve("256 tokens: 20 %, 256 tokens: 30 %", Unit::tokens, Unit::share);
            }).find("does not come behind"),
            std::string::npos);
}

TEST(PlanQuantity, CurvesAreReadBetweenTheirPoints) {
  const Curve curve =
      parse_curve("100 tokens: 20 %, 10000 tokens: 40 %", Unit::tokens, Unit::share);
  EXPECT_DOUBLE_EQ(curve.at(1), 0.2);
  EXPECT_NEAR(curve.at(1000), 0.3, 1e-12);
  EXPECT_DOUBLE_EQ(curve.at(1e6), 0.4);
}

TEST(PlanCluster, ExamplesAreRead) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs/clusters")) {
    if (entry.path().extension() != ".ini") continue;
    ++files;
    const Cluster cluster = read_cluster(entry.path());
    EXPECT_GT(cluster.devices(), 1) << entry.path();
    EXPECT_GE(cluster.within.bandwidth, cluster.between.bandwidth) << entry.path();
  }
  EXPECT_GE(files, 3);
  const Cluster h100 = read_cluster("configs/clusters/h100-infiniband.ini");
  EXPECT_EQ(h100.devices(), 512);
  EXPECT_DOUBLE_EQ(h100.matrix_rate, 989e12);
  EXPECT_DOUBLE_EQ(h100.between.bandwidth, 50e9);
}

TEST(PlanCluster, WrongFilesNameTheKey) {
  const TemporaryDirectory directory;
  const std::string good = read_file("configs/clusters/cpu.ini");
  const auto refused = [&](const std::string& from, const std::string& to,
                           const std::string& part) {
    std::string text = good;
    const std::size_t place = text.find(from);
    ASSERT_NE(place, std::string::npos) << from;
    text.replace(place, from.size(), to);
    const std::string path = directory.write("x.ini", text);
    const std::string message = message_of([&] { read_cluster(path); });
    EXPECT_NE(message.find("x.ini"), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused("memory = 4 GiB", "memory = 4", "memory: '4' has no unit");
  refused("memory = 4 GiB", "memory = 4 GB/s", "memory");
  refused("memory = 4 GiB", "", "memory");
  refused("memory = 4 GiB", "memry = 4 GiB", "memry");
  refused("latency = 10 us", "latency = -10 us", "node-link.latency");
  refused("per-node = 64", "per-node = 0", "per-node");
  refused("kind = cpu", "kind = tpu", "kind");
  refused("64 tokens: 30 %", "64 tokens: 130 %", "matrix-efficiency");
  EXPECT_NE(message_of([] { read_cluster("/nonexistent.ini"); }).find("/nonexistent.ini"),
            std::string::npos);
}

TEST(PlanWorkload, Statistics) {
  const TemporaryDirectory directory;
  const nlohmann::json good{{"users", 1000},         {"items", 100},
                            {"edges", 20000},        {"tokens_per_example", 150},
                            {"embedding_width", 32}, {"share_of_random_halo", 1}};
  const std::string path = directory.write("s.json", good.dump());
  const Workload w = read_statistics(path);
  EXPECT_EQ(w.nodes(), 1100);
  const Share share = w.share(4);
  EXPECT_DOUBLE_EQ(share.owned, 275);
  EXPECT_DOUBLE_EQ(share.entries, 10000);
  // 1,000 users of 20 likes and 100 items of 200: each is missed by a part with probability
  // .75^degree.
  EXPECT_NEAR(share.halo,
              3 * (1000 * (1 - std::pow(0.75, 20)) + 100 * (1 - std::pow(0.75, 200))) / 4, 1e-9);
  EXPECT_EQ(w.share(1).halo, 0);
  const auto refused = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json json = good;
    if (value.is_null())
      json.erase(key);
    else
      json[key] = value;
    directory.write("s.json", json.dump());
    const std::string message = message_of([&] { read_statistics(path); });
    EXPECT_NE(message.find(key), std::string::npos) << message;
  };
  refused("users", nullptr);
  refused("users", 0);
  refused("edges", -1);
  refused("tokens_per_example", "many");
  refused("share_of_random_halo", 1.5);
}

Cluster plain_cluster() {
  Cluster c;
  c.gpu = true;
  c.nodes = 2;
  c.per_node = 4;
  c.memory = 80e9;
  c.program = 1e9;
  c.matrix_rate = 100e12;
  c.matrix_efficiency.points = {{1000, 0.5}};
  c.memory_bandwidth = 1e12;
  c.edges = 1e9;
  c.loading = 1e6;
  c.overhead = 0.25;
  c.within = {1e-5, 100e9};
  c.between = {2e-5, 10e9};
  return c;
}

Workload plain_workload() {
  Workload w;
  w.users = 700'000;
  w.items = 100'000;
  w.edges = 10'000'000;
  w.tokens_per_example = 100;
  w.embedding_width = 64;
  w.degrees = {{10'000'000 / 700'000.0, 700'000}, {100, 100'000}};
  return w;
}

Model seven_billion() {
  return {.config = read_llama_config("configs/clusters/llama-7b.json"),
          .settings = {},
          .file_bytes = 0};
}

double seconds_of(const Prediction& p, const std::string& name) {
  for (const Part& part : p.parts)
    if (part.name == name) return part.seconds;
  return 0;
}

TEST(PlanPrediction, PartsAreTheFormulasNumbers) {
  TrainConfig train;
  train.batch_size = 64;
  const Layout layout{.ranks = 8, .tensor_parallel = 1, .batch_size = 64, .micro_batch = 100000};
  const Prediction p = predict(plain_cluster(), plain_workload(), seven_billion(), train, layout);
  const double tokens = 800, rows = 100'000;
  EXPECT_DOUBLE_EQ(seconds_of(p, "prompts"), tokens / 1e6);
  EXPECT_DOUBLE_EQ(seconds_of(p, "sums over edges"), 6 * 2'500'000 / 1e9);
  EXPECT_DOUBLE_EQ(seconds_of(p, "E through the neck"), 2 * rows * 64 * 4 / 1e12);
  // Layers of 4·H² and 3·H·I, the last one's keys and values only; forward and one backward.
  const double h = 4096, i = 11008, linear = 4 * (31 * (4 * h * h + 3 * h * i) + 2 * h * h),
               attention = 14 * h * 50 * 31;
  const ModelSlice whole = ModelSlice::whole(seven_billion().config);
  EXPECT_DOUBLE_EQ(linear_flops(seven_billion().config, whole), linear);
  EXPECT_DOUBLE_EQ(attention_flops(seven_billion().config, whole, 100), attention);
  EXPECT_DOUBLE_EQ(seconds_of(p, "LLM"), tokens * (linear + attention) / 50e12);
  // Adapters of q and v, 8 wide, in 32 layers, over the network of two nodes.
  const double adapters = 32 * 2 * 2 * h * 8 * 4, dense = 4 * (640 * 65 + h * 641 + 8 * 65);
  EXPECT_NEAR(seconds_of(p, "gradients"),
              2 * 2 * 3 * 2e-5 + 2 * 7.0 / 8 * (adapters + dense) / 10e9, 1e-9);
  EXPECT_NEAR(seconds_of(p, "update"), (rows * 64 * 24 + 28 * (adapters + dense) / 4) / 1e12,
              1e-12);
  EXPECT_EQ(seconds_of(p, "other"), 0.25);
  double sum = 0;
  for (const Part& part : p.parts) sum += part.seconds;
  EXPECT_DOUBLE_EQ(p.step_seconds, sum);
  EXPECT_EQ(p.bound, Bound::compute);
  EXPECT_TRUE(p.fits);
  double memory = 0;
  for (const auto& [name, bytes] : p.memory) memory += bytes;
  EXPECT_DOUBLE_EQ(p.memory_bytes, memory);
}

TEST(PlanPrediction, NamesWhatLimits) {
  TrainConfig train;
  const Layout layout{.ranks = 8, .tensor_parallel = 1, .batch_size = 8, .micro_batch = 4096};
  Cluster slow = plain_cluster();
  slow.between.bandwidth = 1e5;
  EXPECT_EQ(predict(slow, plain_workload(), seven_billion(), train, layout).bound, Bound::network);
  slow = plain_cluster();
  slow.edges = 1e5;
  EXPECT_EQ(predict(slow, plain_workload(), seven_billion(), train, layout).bound, Bound::memory);
  Cluster small = plain_cluster();
  small.memory = 10e9;
  EXPECT_FALSE(predict(small, plain_workload(), seven_billion(), train, layout).fits);
}

TEST(PlanSearch, FitsFirstThenByTime) {
  Cluster cluster = plain_cluster();
  cluster.memory = 17e9;
  TrainConfig train;
  train.batch_size = 512;
  const auto found =
      search(cluster, plain_workload(), seven_billion(), train, 8, 0, {1024, 4096, 16384});
  EXPECT_EQ(found.size(), 3u * 2 * 3) << "micro-batches, recompute, tensor groups of 1, 2, 4";
  EXPECT_TRUE(found.front().fits);
  EXPECT_FALSE(found.back().fits);
  for (std::size_t i = 1; i < found.size(); ++i) {
    if (found[i].fits) {
      EXPECT_GE(found[i].step_seconds, found[i - 1].step_seconds);
    }
    EXPECT_LE(found[i].fits, found[i - 1].fits);
  }
  EXPECT_EQ(search(cluster, plain_workload(), seven_billion(), train, 8, 2, {1024}).size(), 2u);
  train.batch_size = 1;
  for (const Prediction& p :
       search(cluster, plain_workload(), seven_billion(), train, 4, 0, {1024}))
    EXPECT_EQ(p.layout.replicas(), 1) << "no replica without an example";
}

TEST(PlanSearch, RefusesWhatItCannotPredict) {
  Model model = seven_billion();
  model.settings.gnn.type = "gat";
  EXPECT_NE(message_of([&] { require_predictable(model); }).find("--gnn.type gat"),
            std::string::npos);
}

TEST(PlanCalibration, GivesBackTheStepThatItWasMadeFrom) {
  const test::SharedDataset data("user-time", 200, 40);
  Job& job = test::job();
  const Workspace workspace(job, data.path(), {});
  ModelConfig settings = test::tiny_model_config();
  Recommender model(job, workspace, test::kTinyLlama, settings,
                    test::tiny_embeddings(workspace, 10, at::kDouble), false);
  TrainConfig train;
  train.batch_size = 32;
  train.micro_batch = 600;
  const benchmark::Run run = benchmark::measure_run(job, model, train,
                                                    {.repetitions = {1, 7},
                                                     .model_directory = test::kTinyLlama,
                                                     .scratch = data.directory() / "save",
                                                     .version = "here"});
  job.agree([&] {
    if (job.world()->rank() != 0) return;
    std::string used;
    const Cluster cluster = calibrated(read_cluster("configs/clusters/cpu.ini"), {run},
                                       model.llm().config().hidden_size, job.world()->size(), used);
    EXPECT_NE(used.find(fmt::format("{} ranks", job.world()->size())), std::string::npos) << used;
    Workload workload =
        workload_of(data.path(), test::kTinyLlama, {}, settings, workspace.partition);
    workload.embedding_width = 10;
    // By its own step, so that what is compared is the arithmetic and not the machine's mood.
    workload.tokens_per_example = run.tokens_per_step / 32;
    EXPECT_EQ(workload.share(job.world()->size()).source,
              fmt::format("partition-{}", job.world()->size()));
    const Prediction p = predict(
        cluster, workload,
        {.config = model.llm().config(),
         .settings = settings,
         .file_bytes = static_cast<std::int64_t>(
             std::filesystem::file_size(test::kTinyLlama / "model.safetensors"))},
        train,
        {.ranks = job.world()->size(), .tensor_parallel = 1, .batch_size = 32, .micro_batch = 600});
    const std::vector<double> steps = run.find("step")->slowest();
    const double measured = std::reduce(steps.begin(), steps.end()) / std::size(steps);
    // The same machine at a time when it was three times as slow, with fewer repetitions and longer
    // prompts: both count. What measured something else does not.
    benchmark::Run slow = run;
    slow.tokens_per_step *= 2;
    for (auto& one : slow.measurements) {
      for (auto& seconds : one.seconds_P) {
        seconds.resize(3);
        for (double& second : seconds) second *= 3;
      }
    }
    benchmark::Run foreign = slow;
    foreign.setting["sizes"]["dataset_fingerprint"] = "another";
    const Cluster both = calibrated(cluster, {run, slow, foreign}, model.llm().config().hidden_size,
                                    job.world()->size(), used);
    const std::vector<double> prompts = run.find("phase", "prompts")->slowest();
    const double seconds = std::reduce(prompts.begin(), prompts.end()) +
                           3 * std::reduce(prompts.begin(), prompts.begin() + 3);
    const double tokens = (7 + 3 * 2) * run.tokens_per_step / job.world()->size();
    EXPECT_NEAR(both.loading / (tokens / seconds), 1, 1e-9);
    EXPECT_NE(used.find("2 runs"), std::string::npos) << used;
    EXPECT_GT(p.step_seconds, 0.4 * measured);
    EXPECT_LT(p.step_seconds, 2.5 * measured);
    const auto peak =
        static_cast<double>(*std::max_element(run.memory_P.begin(), run.memory_P.end()));
    EXPECT_NEAR(p.memory_bytes / peak, 1, 0.1);
  });
  job.agree([&] {
    std::string used;
    EXPECT_THROW(calibrated({}, {}, 576, 1, used), DataError);
  });
}

}  // namespace
}  // namespace graphlora
