#include "data/added_tokens.hpp"

#include <algorithm>

#include "data/unicode.hpp"

namespace graphlora {

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
    if (!tokens_[i].content.empty()) {
      first_[static_cast<std::uint8_t>(tokens_[i].content[0])].push_back(i);
    }
  }
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Span>& spans) const {
  std::size_t done = 0;  // text before it is in a span
  for (std::size_t i = 0; i < text.size();) {
    const AddedToken* token = nullptr;
    for (const std::uint32_t candidate : first_[static_cast<std::uint8_t>(text[i])]) {
      if (text.substr(i).starts_with(tokens_[candidate].content)) {
        token = &tokens_[candidate];
        break;
      }
    }
    if (token == nullptr) {
      ++i;
      continue;
    }
    std::size_t begin = i;
    std::size_t end = i + token->content.size();
    i = end;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token->lstrip) {
      begin = std::max(begin - trailing_white_space(text.substr(0, begin)), done);
    }
    if (token->rstrip) {
      end += leading_white_space(text.substr(end));
    }
    // Inside the white space that the one before took.
    if (begin < done || begin >= end) continue;
    if (done < begin) {
      spans.push_back({-1, text.substr(done, begin - done)});
    }
    spans.push_back({token->id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) {
    spans.push_back({-1, text.substr(done)});
  }
}

}  // namespace graphlora
