#include "data/readers/bad_lines.hpp"

namespace graphlora {

void BadLines::add(const BadLine& bad) {
  if (++count_ > limit_) {
    // A file with a single fault needs no word about how many there may be.
    if (limit_ == 0) throw bad;
    throw DataError("{}; this is malformed line {}, --max-bad-lines allows {}", bad.what(), count_,
                    limit_);
  }
  if (examples_.size() < kExamples) examples_.emplace_back(bad.what());
}

}  // namespace graphlora
