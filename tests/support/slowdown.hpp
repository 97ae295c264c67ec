// How much slower tests of time may be.
#pragma once

namespace graphlora::test {

#ifdef __SANITIZE_ADDRESS__
inline constexpr double kSlowdown = 10;
#else
inline constexpr double kSlowdown = 1;
#endif

}  // namespace graphlora::test
