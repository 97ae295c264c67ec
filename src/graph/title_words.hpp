// Words that generated titles are made of.
#pragma once
#include <span>
#include <string_view>

namespace graphlora {

/// Common English adjectives and the like, the first words of pairs; all different.
std::span<const std::string_view> title_adjectives();
/// Common English nouns: each community has a few of its own; all different.
std::span<const std::string_view> title_nouns();

}  // namespace graphlora
