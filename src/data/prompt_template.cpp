#include "data/prompt_template.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

using Kind = PromptTemplate::Piece::Kind;
using Pieces = std::vector<PromptTemplate::Piece>;

constexpr double kMaxWeight = 1e9;

constexpr std::pair<std::string_view, Kind> kPlaceholders[] = {
    {"history", Kind::history}, {"user", Kind::user}, {"title", Kind::title}, {"item", Kind::item}};

std::ptrdiff_t count(const Pieces& pieces, Kind kind) {
  return std::count_if(pieces.begin(), pieces.end(),
                       [kind](const auto& p) { return p.kind == kind; });
}

/// A section's body, line by line, and where it stands.
struct Body {
  std::string text;
  int line = 0;  // of the text's first line
};

class Parser {
 public:
  Parser(const std::string& text, const std::string& file) : text_(text), file_(file) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  std::vector<PromptTemplate> parse() {
    if (const std::size_t at = find_invalid_utf8(text_); at != std::string_view::npos) {
      line_ = 1 + static_cast<int>(std::count(text_.begin(), text_.begin() + at, '\n'));
      fail(line_, "not UTF-8");
    }
    while (const auto line = next_line()) {
      if (line->starts_with("[template")) {
        finish();
        templates_.emplace_back();
        templates_.back().where = fmt::format("{}:{}", file_, line_);
        templates_.back().weight = read_weight(*line);
        body_ = Body{};
        empty_history_ = false;
      } else if (line->starts_with("[empty")) {
        if (*line != "[empty history]") fail(line_, "expected [empty history], found {}", *line);
        if (templates_.empty() || empty_history_) {
          fail(line_, "[empty history] must follow its [template]");
        }
        finish();
        body_ = Body{};
        empty_history_ = true;
      } else if (!templates_.empty()) {
        if (body_.text.empty() && line->empty()) continue;
        if (body_.text.empty()) body_.line = line_;
        body_.text.append(*line).push_back('\n');
      } else if (!line->empty() && !line->starts_with(';')) {
        fail(line_, "expected [template], found \"{}\"", line->substr(0, 40));
      }
    }
    if (templates_.empty()) fail(std::max(line_, 1), "no [template]");
    finish();
    double total = 0;
    for (const PromptTemplate& t : templates_) total += t.weight;
    if (!(total > 0)) fail(1, "the weights of all templates are 0");
    return std::move(templates_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(int line, fmt::format_string<Args...> text, Args&&... args) const {
    throw ConfigError("{}:{}: {}", file_, line, fmt::format(text, std::forward<Args>(args)...));
  }

  std::optional<std::string_view> next_line() {
    if (text_.empty()) return std::nullopt;
    const std::size_t end = text_.find('\n');
    std::string_view line = text_.substr(0, end);
    text_.remove_prefix(end == std::string_view::npos ? text_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++line_;
    return line;
  }

  double read_weight(std::string_view line) const {
    if (line == "[template]") return 1;
    constexpr std::string_view kStart = "[template weight=";
    double weight = -1;
    if (line.starts_with(kStart) && line.ends_with(']')) {
      const std::string_view number = line.substr(kStart.size(), line.size() - kStart.size() - 1);
      const auto [end, error] =
          std::from_chars(number.data(), number.data() + number.size(), weight);
      if (error != std::errc() || end != number.data() + number.size()) weight = -1;
    }
    if (!(weight >= 0 && weight <= kMaxWeight)) {
      fail(line_, "expected [template] or [template weight=W] with W from 0 to {}, found {}",
           kMaxWeight, line);
    }
    return weight;
  }

  /// Splits the section that ends here into its pieces and checks them.
  void finish() {
    if (templates_.empty()) return;
    PromptTemplate& current = templates_.back();
    while (body_.text.ends_with('\n')) body_.text.pop_back();
    if (body_.text.empty()) throw ConfigError("{}: the template has no text", current.where);
    Pieces& pieces = empty_history_ ? current.empty_history : current.pieces;
    pieces = split(body_);
    for (const auto& [name, kind] : kPlaceholders) {
      const auto n = count(pieces, kind);
      const bool needed = kind == Kind::user || kind == Kind::item;
      if (n > 1 || (needed && n == 0)) {
        fail(body_.line, "{{{}}} must stand {} in a template, found {} times", name,
             needed ? "exactly once" : "at most once", n);
      }
    }
    if (empty_history_ && count(pieces, Kind::history) != 0) {
      fail(body_.line, "{{history}} in the wording for an empty history");
    }
  }

  Pieces split(const Body& body) const {
    Pieces pieces;
    std::string literal;
    int line = body.line;
    const std::string_view text = body.text;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (c == '\n') ++line;
      if (c != '{' && c != '}') {
        literal.push_back(c);
      } else if (i + 1 < text.size() && text[i + 1] == c) {
        literal.push_back(c);
        ++i;
      } else {
        const std::size_t end = c == '{' ? text.find('}', i) : std::string_view::npos;
        const std::string_view name =
            end == std::string_view::npos ? "" : text.substr(i + 1, end - i - 1);
        const auto* known = std::find_if(std::begin(kPlaceholders), std::end(kPlaceholders),
                                         [&](const auto& entry) { return entry.first == name; });
        if (known == std::end(kPlaceholders)) {
          fail(line,
               "unknown placeholder \"{}\" (known: {{history}}, {{user}}, {{title}}, {{item}}; a "
               "brace itself is {})",
               end == std::string_view::npos
                   ? text.substr(i, 1)
                   : text.substr(i, std::min<std::size_t>(end + 1 - i, 40)),
               c == '{' ? "{{" : "}}");
        }
        if (!literal.empty()) pieces.push_back({Kind::literal, std::exchange(literal, {})});
        pieces.push_back({known->second, {}});
        i = end;
      }
    }
    if (!literal.empty()) pieces.push_back({Kind::literal, literal});
    return pieces;
  }

  std::string_view text_;
  std::string file_;
  int line_ = 0;
  std::vector<PromptTemplate> templates_;
  Body body_;
  bool empty_history_ = false;
};

}  // namespace

std::vector<PromptTemplate> parse_templates(const std::string& text, const std::string& file) {
  std::vector<PromptTemplate> templates = Parser(text, file).parse();
  for (PromptTemplate& t : templates) {
    const bool shows_history = count(t.pieces, Kind::history) != 0;
    if (shows_history && t.empty_history.empty()) {
      throw ConfigError(
          "{}: the template uses {{history}}: add an [empty history] section with the wording for "
          "users without any",
          t.where);
    }
    if (!shows_history) t.empty_history = t.pieces;
  }
  return templates;
}

}  // namespace graphlora
