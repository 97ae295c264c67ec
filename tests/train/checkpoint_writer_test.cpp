// Saves beside training: what they hold, how they fail, and that whatever ends a save at any point
// leaves a whole step to go on from.
#include "train/checkpoint_writer.hpp"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/file_hook.hpp"
#include "support/devices.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {
namespace fs = std::filesystem;

/// Announces files to a function for as long as it lives.
class Hook {
 public:
  explicit Hook(FileHook hook) { file_hook_for_test = std::move(hook); }
  ~Hook() { file_hook_for_test = {}; }
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;
};

class CheckpointWriterTest : public OnSetting {
 protected:
  void SetUp() override {
    OnSetting::SetUp();
    if (IsSkipped()) return;
    shared_.emplace();
    workspace_ = std::make_unique<Workspace>(job(), shared_->path(), PartitionConfig{});
    model_ =
        std::make_unique<Recommender>(job(), *workspace_, kTinyLlama, tiny_model_config(),
                                      tiny_embeddings(*workspace_, kWidth, at::kDouble), false);
    optimizer_ = std::make_unique<Optimizer>(model_->parameters(), OptimizerConfig{});
  }
  fs::path output() const { return shared_->directory() / "out"; }
  static bool root() { return test::world().rank() == 0; }

  /// Every value of the model.
  void fill(double value) {
    const at::NoGradGuard guard;
    for (const Parameter& p : model_->parameters()) at::Tensor(p.value).fill_(value);
    model_->table().weight_nD.fill_(value);
  }
  void start(CheckpointWriter& writer, std::int64_t step, std::int64_t best = -1) {
    fill(static_cast<double>(step));
    TrainingState state;
    state.step = step;
    state.best_step = best;
    writer.start(*model_, *optimizer_, state, {});
  }
  /// Saves a step whose every value is its number, after `best` was the best one; false if that
  /// failed.
  bool save(const fs::path& where, std::int64_t step, std::int64_t keep = 0,
            std::int64_t best = -1) {
    CheckpointWriter writer(job(), world(), {where, keep});
    start(writer, step, best);
    writer.finish();
    return !writer.failed();
  }
  /// The step that a run goes on from, all of whose values must be right. Local to rank 0.
  std::int64_t resumed_step(const fs::path& where) {
    const ResumePoint point = find_resume_point(where);
    if (!point.step) return -1;
    const Checkpoint checkpoint(*point.step, true, true);
    const std::int64_t step = checkpoint.state().step;
    fill(-1);
    checkpoint.load_parameters(*model_);
    for (const Parameter& p : model_->parameters())
      EXPECT_TRUE(p.value.eq(static_cast<double>(step)).all().item<bool>()) << p.name;
    const at::Tensor all = at::arange(workspace_->dataset->nodes(), at::kLong);
    EXPECT_TRUE(read_embeddings(*point.step, all, all.numel(), at::kDouble)
                    .weight_nD.eq(static_cast<double>(step))
                    .all()
                    .item<bool>());
    return step;
  }
  /// The step that BEST names, which must be whole. Local to rank 0.
  static std::int64_t best_step(const fs::path& where) {
    EXPECT_TRUE(fs::exists(where / "BEST"));
    return Checkpoint(where, /*prefer_latest=*/false, /*verify=*/true).state().step;
  }
  /// Names in an output, but for whole steps.
  static std::set<std::string> others(const fs::path& where) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(where))
      if (!fs::exists(entry.path() / "manifest.json") ||
          entry.path().filename().string().find(".tmp-") != std::string::npos)
        names.insert(entry.path().filename());
    return names;
  }

  std::optional<SharedDataset> shared_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Recommender> model_;
  std::unique_ptr<Optimizer> optimizer_;
};

TEST_P(CheckpointWriterTest, HoldsWhatTheModelWasWhenItStarted) {
  CheckpointWriter writer(job(), world(), {output(), 0});
  start(writer, 1, /*best=*/1);
  fill(99);
  // As the steps of training would tell.
  std::int64_t rounds = 0;
  for (bool published = false; !published && rounds < 100'000; ++rounds) {
    const auto mine = writer.status();
    const at::Tensor sums = at::tensor({mine.done ? 1 : 0, mine.failed ? 1 : 0}, at::kLong);
    world().all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
    writer.advance(sums[0].item<std::int64_t>(), sums[1].item<std::int64_t>());
    const at::Tensor there = at::full({1}, fs::exists(output() / "BEST") ? 1 : 0, at::kLong);
    world().broadcast(there, 0, Traffic::control).wait();
    published = there.item<std::int64_t>() == 1;
  }
  writer.finish();
  EXPECT_FALSE(writer.failed());
  EXPECT_NO_THROW(writer.require_saved());
  if (!root()) return;
  EXPECT_EQ(resumed_step(output()), 1);
  EXPECT_EQ(others(output()), (std::set<std::string>{"LATEST", "BEST"}));
  EXPECT_EQ(read_file(output() / "BEST"), "step-000001\n");
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(step_directory(output(), 1)))
    names.insert(entry.path().filename());
  EXPECT_EQ(names,
            (std::set<std::string>{"adapter", "adapter_config.json", "adapter_model.safetensors",
                                   "graphlora.safetensors", "optimizer.safetensors",
                                   "manifest.json", "embeddings-00000-of-00001.safetensors"}));
}

TEST_P(CheckpointWriterTest, OneAtATimeAndTheNewestAreKept) {
  CheckpointWriter writer(job(), world(), {output(), 2});
  for (std::int64_t step = 1; step <= 5; ++step) start(writer, step, step < 2 ? -1 : 2);
  writer.finish();
  if (!root()) return;
  EXPECT_EQ(resumed_step(output()), 5);
  for (std::int64_t step = 1; step <= 5; ++step)
    EXPECT_EQ(fs::exists(step_directory(output(), step)), step == 2 || step >= 4) << step;
}

/// One rank's disk is full: all ranks go on, one says why, nothing is left, the next save works.
TEST_P(CheckpointWriterTest, AFailureOfOneRankFailsTheSaveOnAll) {
  EXPECT_TRUE(save(output(), 1));
  const bool full = world().rank() == world().size() - 1;
  CheckpointWriter writer(job(), world(), {output(), 0});
  {
    const Hook hook([&](FileStep step, const fs::path& path) {
      if (full && step == FileStep::sync) throw DataError("{}: no space", path.string());
    });
    start(writer, 2);
    writer.finish();
  }
  EXPECT_TRUE(writer.failed());
  if (full) {
    EXPECT_THROW(writer.require_saved(), DataError);
  } else {
    EXPECT_NO_THROW(writer.require_saved());
  }
  world().barrier();
  if (root()) {
    EXPECT_EQ(resumed_step(output()), 1);
    EXPECT_EQ(others(output()), (std::set<std::string>{"LATEST"}));
  }
  world().barrier();
  start(writer, 3);
  writer.finish();
  EXPECT_FALSE(writer.failed());
  EXPECT_NO_THROW(writer.require_saved());
  if (!root()) return;
  EXPECT_EQ(resumed_step(output()), 3);
}

TEST_P(CheckpointWriterTest, WhatStandsInTheWayFailsTheSave) {
  EXPECT_TRUE(save(output(), 1));
  if (root()) write_file(output() / "step-000002", "mine");
  world().barrier();
  EXPECT_FALSE(save(output(), 2));
  EXPECT_TRUE(save(output(), 3));
  if (!root()) return;
  EXPECT_EQ(read_file(output() / "step-000002"), "mine");
}

/// The lock went to another run.
TEST_P(CheckpointWriterTest, AFailedCheckPublishesNothing) {
  CheckpointWriter writer(job(), world(), {output(), 0, [] { throw DataError("taken"); }});
  start(writer, 1);
  writer.finish();
  EXPECT_TRUE(writer.failed());
  world().barrier();
  if (!root()) return;
  EXPECT_TRUE(!fs::exists(output()) || fs::is_empty(output()));
}

TEST_P(CheckpointWriterTest, LeftUnfinishedItLeavesNothing) {
  EXPECT_TRUE(save(output(), 1));
  {
    CheckpointWriter writer(job(), world(), {output(), 0});
    start(writer, 2);
    if (world().size() > 1) writer.finish();  // others' threads may still write
  }
  world().barrier();
  if (!root()) return;
  EXPECT_EQ(others(output()), (std::set<std::string>{"LATEST"}));
  EXPECT_EQ(resumed_step(output()), world().size() > 1 ? 2 : 1);
}

/// Three steps, the first and the third the best so far: the save of the third deletes the others.
constexpr std::int64_t kKeep = 1;

/// Each file operation of a save fails in turn.
TEST_P(CheckpointWriterTest, AFailureAnywhereLeavesAWholeStep) {
  if (world().size() > 1) GTEST_SKIP() << "of one process";
  const fs::path base = shared_->directory() / "base";
  ASSERT_TRUE(save(base, 1, 0, /*best=*/1));
  ASSERT_TRUE(save(base, 2, 0, 1));
  int failures = 0, late = 0;
  bool reached = true;
  for (int at = 0; reached; ++at) {
    SCOPED_TRACE(at);
    const fs::path where = shared_->directory() / fmt::format("fail-{}", at);
    fs::copy(base, where, fs::copy_options::recursive);
    int seen = 0;
    bool saved = false;
    {
      const Hook hook([&](FileStep, const fs::path& path) {
        if (seen++ == at) throw DataError("{}: injected", path.string());
      });
      saved = save(where, 3, kKeep, /*best=*/3);
    }
    reached = seen > at;
    failures += !saved;
    const std::int64_t step = resumed_step(where), best = best_step(where);
    EXPECT_TRUE(step == 3 || (step == 2 && !saved)) << step;
    EXPECT_TRUE(best == step || (best == 1 && !saved)) << best;
    late += best < step && step == 3;
    auto left = others(where);
    std::erase_if(left, [](const std::string& name) { return name.ends_with(".tmp-old"); });
    EXPECT_EQ(left, (std::set<std::string>{"LATEST", "BEST"}));
    // What is still the best step is named and kept, if it was saved at all.
    const bool whole = fs::exists(step_directory(where, 3));
    EXPECT_TRUE(save(where, 4, kKeep, 3));
    EXPECT_EQ(resumed_step(where), 4);
    EXPECT_EQ(best_step(where), whole ? 3 : 1);
    fs::remove_all(where);
  }
  EXPECT_GT(failures, 30);
  EXPECT_GT(late, 3);  // LATEST was replaced, BEST could not be
}

/// The process ends before each file operation of a save: by kill (what it wrote is there) or by a
/// loss of power (what was not synced is cut). And no name is given to what was not synced, so that
/// no order in which a disk writes can lose a step.
TEST_P(CheckpointWriterTest, AnEndAnywhereLeavesAWholeStep) {
  if (world().size() > 1) GTEST_SKIP() << "of one process";
  const fs::path where = shared_->directory() / "run", images = shared_->directory() / "images";
  ASSERT_TRUE(save(where, 1, 0, /*best=*/1));
  ASSERT_TRUE(save(where, 2, 0, 1));
  int count = 0, cut_files = 0;
  std::set<fs::path> written;  // since their last sync
  std::set<fs::path> renamed;  // parents of what got its name since they were synced
  std::optional<std::pair<FileStep, fs::path>> last;
  {
    const Hook hook([&](FileStep step, const fs::path& path) {
      // What was announced before has been done by now.
      if (last && last->first == FileStep::sync) written.erase(last->second);
      if (last && last->first == FileStep::rename) renamed.insert(last->second.parent_path());
      if (last && last->first == FileStep::sync_directory) renamed.erase(last->second);
      last.emplace(step, path);
      if (step == FileStep::rename) {
        const bool whole_step = path.filename().string().starts_with("step-");
        const bool pointer = path.parent_path() == where && !whole_step;
        for (const fs::path& file : written)
          EXPECT_FALSE(file == path || whole_step || pointer) << file << " before " << path;
        for (const fs::path& parent : renamed)
          EXPECT_FALSE(pointer || (whole_step && parent != where)) << parent << " before " << path;
      }
      const fs::path kill = images / fmt::format("{}-kill", count);
      const fs::path power = images / fmt::format("{}-power", count);
      for (const fs::path& image : {kill, power}) {
        make_directories(image.parent_path());
        fs::copy(where, image, fs::copy_options::recursive);
      }
      for (const fs::path& file : written) {
        const fs::path copy = power / file.lexically_relative(where);
        if (!fs::exists(copy)) continue;
        fs::resize_file(copy, fs::file_size(copy) / 2);
        ++cut_files;
      }
      if (step == FileStep::write) written.insert(path);
      ++count;
    });
    ASSERT_TRUE(save(where, 3, kKeep, /*best=*/3));
  }
  EXPECT_GT(count, 40);
  EXPECT_GT(cut_files, 10);
  std::map<std::int64_t, int> found, best_found;
  for (const auto& entry : fs::directory_iterator(images)) {
    SCOPED_TRACE(entry.path().filename());
    const fs::path& image = entry.path();
    const ResumePoint point = find_resume_point(image);
    const std::int64_t step = resumed_step(image), best = best_step(image);
    ++found[step];
    ++best_found[best];
    EXPECT_LE(best, step);
    tidy_output(image, point.damaged);
    EXPECT_TRUE(save(image, 4, 0, step == 3 ? 3 : 1));
    EXPECT_EQ(resumed_step(image), 4);
    EXPECT_EQ(best_step(image), step == 3 ? 3 : 1);
    EXPECT_EQ(others(image), (std::set<std::string>{"LATEST", "BEST"}));
  }
  EXPECT_EQ(found.size(), 2U);
  EXPECT_GT(found[2], 0);
  EXPECT_GT(found[3], 0);
  EXPECT_EQ(best_found.size(), 2U);
  EXPECT_GT(best_found[1], found[2]);  // some ended between LATEST and BEST
  EXPECT_GT(best_found[3], 0);
}

INSTANTIATE_TEST_SUITE_P(Over, CheckpointWriterTest, kEverySetting, name_of_setting);

}  // namespace
}  // namespace graphlora::test
