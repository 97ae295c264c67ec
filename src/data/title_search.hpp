// Items by their titles as people type them, and what they may have meant.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.hpp"

namespace graphlora {

/// Items (0…V-1, ascending) whose title is `title`, whatever the case of its letters and the blanks
/// around it; none for text that is not UTF-8. Passes over all titles, keeps none. Throws
/// DataError.
std::vector<std::int64_t> items_titled(const Dataset& dataset, std::string_view title);

/// The titles nearest to `title`, at most `count` different ones, nearest first: by edit distance
/// to the title, to the title without a year or other remark in parentheses at its end, and with an
/// article behind a comma brought to the front ("Matrix, The"), accents set aside; a title that
/// contains the text is near, too. Titles that have little in common with it are left out. Throws
/// DataError.
std::vector<std::string> nearest_titles(const Dataset& dataset, std::string_view title,
                                        std::size_t count);

/// The source ids of users nearest to `id` by edit distance, likewise; of the first million users.
std::vector<std::string> nearest_users(const Dataset& dataset, std::string_view id,
                                       std::size_t count);

}  // namespace graphlora
