#include "dist/collective_directory.hpp"

namespace graphlora {

CollectiveDirectory::CollectiveDirectory(Job& job, const std::filesystem::path& target,
                                         const std::string& marker) {
  job.agree([&] {
    if (job.world()->rank() == 0) directory_.emplace(target, marker);
  });
  path_ = job.world()->broadcast_text(directory_ ? directory_->path().string() : "", 0,
                                      Traffic::control);
}

void CollectiveDirectory::commit() {
  if (directory_) directory_->commit();
}

}  // namespace graphlora
