// How far apart two words are.
#pragma once
#include <cstddef>
#include <string_view>

namespace graphlora {

/// Edit distance with insertions, deletions, replacements and swaps of neighbours. Costs the
/// product of the lengths: bound them where input may be hostile.
std::size_t edit_distance(std::string_view a, std::string_view b);
std::size_t edit_distance(std::u32string_view a, std::u32string_view b);

}  // namespace graphlora
