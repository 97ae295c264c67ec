// Which years' rows are taken.
#pragma once
#include <chrono>
#include <cstdint>

namespace graphlora {

/// Times from this one on are milliseconds (of 1973), those before are seconds (until 5138).
inline constexpr std::int64_t kFirstMilliseconds = 100'000'000'000;

/// Whole years in UTC, both ends included.
class YearRange {
 public:
  static constexpr std::int64_t kFirst = 1970, kLast = 9999;

  YearRange() : YearRange(kFirst, kLast) {}
  YearRange(std::int64_t first, std::int64_t last)
      : first_(first), last_(last), begin_(start_of(first)), end_(start_of(last + 1)) {}

  std::int64_t first() const { return first_; }
  std::int64_t last() const { return last_; }
  bool all() const { return first_ <= kFirst && last_ >= kLast; }

  /// `time`: seconds or milliseconds since 1970.
  bool holds(std::int64_t time) const {
    const std::int64_t seconds = time >= kFirstMilliseconds ? time / 1000 : time;
    return begin_ <= seconds && seconds < end_;
  }

 private:
  static std::int64_t start_of(std::int64_t year) {
    using namespace std::chrono;
    return sys_days(std::chrono::year(static_cast<int>(year)) / January / 1).time_since_epoch() /
           seconds(1);
  }

  std::int64_t first_, last_, begin_, end_;
};

}  // namespace graphlora
