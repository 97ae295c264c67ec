#include "data/readers/fields.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>

#include "data/text.hpp"
#include "data/year_range.hpp"

namespace graphlora {
namespace {

constexpr std::size_t kMaxId = 1024;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

template <class Number>
std::optional<Number> number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

/// Text for a message: short, valid and on one line.
std::string shown(std::string_view text) {
  constexpr std::size_t kShown = 40;
  const std::string clean = clean_title(text.substr(0, kShown));
  return text.size() > kShown ? clean + "…" : clean;
}

std::optional<std::int64_t> date(std::string_view text) {
  const auto digits = [&](std::size_t begin, std::size_t count) -> std::optional<int> {
    const std::string_view part = text.substr(begin, count);
    if (part.size() != count || part.find_first_not_of("0123456789") != part.npos) return {};
    return number<int>(part);
  };
  if (text.size() < 10 || text[4] != '-' || text[7] != '-') return {};
  const auto year = digits(0, 4), month = digits(5, 2), day = digits(8, 2);
  if (!year || !month || !day) return {};
  using namespace std::chrono;
  const year_month_day calendar{std::chrono::year(*year), std::chrono::month(*month),
                                std::chrono::day(*day)};
  if (!calendar.ok()) return {};
  std::int64_t seconds = sys_days(calendar).time_since_epoch() / std::chrono::seconds(1);
  if (text.size() == 10) return seconds;
  if (text.ends_with('Z')) text.remove_suffix(1);
  if (text.size() != 19 || (text[10] != ' ' && text[10] != 'T') || text[13] != ':' ||
      text[16] != ':')
    return {};
  const auto hour = digits(11, 2), minute = digits(14, 2), second = digits(17, 2);
  if (!hour || !minute || !second || *hour > 23 || *minute > 59 || *second > 60) return {};
  return seconds + *hour * 3600 + *minute * 60 + *second;
}

}  // namespace

void split_fields(std::string_view line, std::string_view separator,
                  std::vector<std::string_view>& fields) {
  fields.clear();
  while (true) {
    const std::size_t end = line.find(separator);
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return;
    line.remove_prefix(end + separator.size());
  }
}

std::string_view id_field(const Lines& at, const char* what, std::string_view text) {
  text = trimmed(text);
  if (text.empty()) throw at.error("the {} id is empty", what);
  if (text.size() > kMaxId)
    throw at.error("the {} id has {} bytes, at most {} are allowed", what, text.size(), kMaxId);
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (!ascii && !is_utf8(text))
    throw at.error("the {} id '{}' is not valid UTF-8; convert the file to UTF-8", what,
                   shown(text));
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      throw at.error("the {} id '{}' holds a control character", what, shown(text));
  return text;
}

std::string_view number_id_field(const Lines& at, const char* what, std::string_view text) {
  text = id_field(at, what, text);
  if (text.find_first_not_of("0123456789") != std::string_view::npos)
    throw at.error("the {} id '{}' is no whole number; check --format", what, shown(text));
  return text;
}

float rating_field(const Lines& at, std::string_view text) {
  const auto value = number<float>(trimmed(text));
  if (!value || !std::isfinite(*value) || std::abs(*value) > 1e6F)
    throw at.error("the rating '{}' is no finite number", shown(text));
  return *value;
}

float label_field(const Lines& at, std::string_view text) {
  text = trimmed(text);
  if (text == "true" || text == "True" || text == "TRUE") return 1;
  if (text == "false" || text == "False" || text == "FALSE") return 0;
  const auto value = number<float>(text);
  if (!value || (*value != 0 && *value != 1))
    throw at.error("the label '{}' must be 0 or 1 (--csv.rating names a column of ratings)",
                   shown(text));
  return *value;
}

std::int64_t TimeColumn::field(const Lines& at, std::string_view text) {
  const std::string_view plain = trimmed(text);
  std::optional<std::int64_t> value = number<std::int64_t>(plain);
  if (!value) value = date(plain);
  if (!value) {
    const auto decimal = number<double>(plain);
    if (decimal && std::abs(*decimal) <= static_cast<double>(kMaxTime))
      value = static_cast<std::int64_t>(std::floor(*decimal));
    else if (!decimal || std::isnan(*decimal))
      throw at.error("the time '{}' is neither a number nor a date like 2005-04-02 23:53:47",
                     shown(text));
  }
  if (!value || *value < 0 || *value > kMaxTime)
    throw at.error("the time {} is out of range: 0 to {} (seconds or milliseconds since 1970)",
                   shown(text), kMaxTime);
  const bool milliseconds = *value >= kFirstMilliseconds;
  if (milliseconds_.value_or(milliseconds) != milliseconds)
    throw at.error("the time {} is in {}, the rows before are in {}; give all times in one unit",
                   shown(text), milliseconds ? "milliseconds" : "seconds",
                   milliseconds ? "seconds" : "milliseconds");
  milliseconds_ = milliseconds;
  return *value;
}

std::string title_field(std::string_view text) { return clean_title(text); }

}  // namespace graphlora
