// Errors in data that every rank meets at the same place of a collective computation.
#pragma once
#include <exception>

#include "dist/job.hpp"

namespace graphlora {

/// Runs `body`, which may be collective: where it throws a DataError, it does so on every rank, and
/// rank 0 says it for all (Job::agree). Collective.
template <class Body>
void agree_on_data(Job& job, const Body& body) {
  std::exception_ptr failure;
  try {
    body();
  } catch (const DataError&) {
    failure = std::current_exception();
  }
  job.agree([&] {
    if (failure) std::rethrow_exception(failure);
  });
}

}  // namespace graphlora
