#include "train/checkpoint_writer.hpp"

#include <chrono>
#include <utility>

#include "core/error.hpp"
#include "core/log.hpp"

namespace graphlora {

CheckpointWriter::CheckpointWriter(Job& job, Communicator& world, Options options)
    : job_(job), world_(world), options_(std::move(options)) {}

CheckpointWriter::~CheckpointWriter() {
  // Before the directory goes, in which it writes.
  if (work_.valid()) work_.wait();
}

void CheckpointWriter::run(std::function<void()> work) {
  work_ = std::async(std::launch::async, std::move(work));
}

void CheckpointWriter::start(Recommender& model, Optimizer& optimizer, const TrainingState& state,
                             const RunIdentity& identity) {
  finish();
  step_ = state.step;
  std::string path;
  if (world_.rank() == 0) {
    try {
      directory_.emplace(step_directory(options_.output, step_), "manifest.json");
      path = directory_->path().string();
    } catch (const std::exception& error) {
      cause_ = error.what();
    }
  }
  path = world_.broadcast_text(path, 0, Traffic::control);
  if (path.empty()) return end(/*failed=*/true);
  contents_ = std::make_shared<const CheckpointContents>(job_, model, optimizer, state, identity);
  stage_ = Stage::writing;
  run([contents = contents_, path] { contents->write(path); });
}

CheckpointWriter::Status CheckpointWriter::status() {
  if (work_.valid() && work_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    try {
      work_.get();
    } catch (const std::exception& error) {
      cause_ = error.what();
    }
  }
  return {!work_.valid(), !cause_.empty()};
}

void CheckpointWriter::advance(std::int64_t done, std::int64_t failed) {
  if (stage_ == Stage::idle || done < world_.size()) return;
  if (stage_ == Stage::publishing || failed > 0) return end(failed > 0);
  stage_ = Stage::publishing;
  if (world_.rank() == 0) run([this] { publish(); });
}

void CheckpointWriter::publish() {
  contents_->write_manifest(directory_->path());
  if (options_.before_publishing) options_.before_publishing();
  const auto check_lock = [&] {
    if (options_.check_lock) options_.check_lock();
  };
  check_lock();
  directory_->commit();
  check_lock();
  mark_latest(options_.output, step_);
  // Also one of before, where BEST could not be replaced then: --keep would delete it.
  mark_best(options_.output, contents_->best_step());
  check_lock();
  try {
    delete_old_steps(options_.output, options_.keep);
  } catch (const Error& error) {
    log::warn("old steps are not deleted: {}", error.what());
  }
}

void CheckpointWriter::end(bool failed) {
  stage_ = Stage::idle;
  contents_.reset();
  directory_.reset();
  failed_ = failed;
  last_cause_ = std::exchange(cause_, {});
  if (!last_cause_.empty()) log::warn("step {} is not saved: {}", step_, last_cause_);
}

void CheckpointWriter::finish() {
  while (stage_ != Stage::idle) {
    if (work_.valid()) work_.wait();
    const Status mine = status();
    const at::Tensor sums = at::tensor({mine.done ? 1 : 0, mine.failed ? 1 : 0}, at::kLong);
    world_.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
    advance(sums[0].item<std::int64_t>(), sums[1].item<std::int64_t>());
  }
}

void CheckpointWriter::require_saved() const {
  if (!last_cause_.empty())
    throw DataError("the last step, {}, is not saved: {}", step_, last_cause_);
}

}  // namespace graphlora
