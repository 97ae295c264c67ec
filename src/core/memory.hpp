// What memory this process takes and gives back, and what the machine has left, as Linux tells.
#pragma once
#include <cstdint>

namespace graphlora {

/// Resident now, mapped files included.
std::int64_t resident_memory_bytes();
/// The highest resident size so far.
std::int64_t peak_memory_bytes();
/// This process' own pages, and its share of those that it maps with others (PSS); 0 where the
/// kernel does not tell.
std::int64_t proportional_set_bytes();
/// What the kernel could hand out, its caches included; the largest number where it does not say.
std::int64_t available_memory_bytes();
/// Memory of this machine, and what of it is set aside as explicit huge pages; 0 where the kernel
/// does not say.
std::int64_t total_memory_bytes();
std::int64_t huge_page_bytes();
/// Gives pages that the allocator holds without using them back to the system: after much was
/// allocated that will not be needed again.
void release_free_memory();

}  // namespace graphlora
