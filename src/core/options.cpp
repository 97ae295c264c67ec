#include "core/options.hpp"

#include <fmt/ranges.h>

#include <boost/program_options.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>

#include "core/edit_distance.hpp"
#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace po = boost::program_options;
namespace {

constexpr std::size_t kMaxIniBytes = 1 << 20;
constexpr unsigned kHelpWidth = 100;

template <class... Fs>
struct Overload : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overload(Fs...) -> Overload<Fs...>;

template <class Number>
Number parse_number(const std::string& text, const char* what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range)
    throw std::invalid_argument(fmt::format("'{}' is out of range", text));
  if (error != std::errc{} || end != text.data() + text.size() || text.empty())
    throw std::invalid_argument(fmt::format("expected {}, got '{}'", what, text));
  return value;
}

std::vector<std::string> parse_list(const std::string& text) {
  std::vector<std::string> parts;
  if (text.empty()) return parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t comma = text.find(',', begin);
    parts.push_back(text.substr(begin, comma == std::string::npos ? comma : comma - begin));
    if (parts.back().empty() || parts.back().find_first_of(" \t") != std::string::npos)
      throw std::invalid_argument(
          fmt::format("expected a list separated by commas without spaces, got '{}'", text));
    if (comma == std::string::npos) return parts;
    begin = comma + 1;
  }
}

/// Throws std::invalid_argument that says what is wrong with the text.
void assign(const OptionTable::Target& target, const std::string& text) {
  std::visit(
      Overload{
          [&](bool* out) {
            if (text != "true" && text != "false")
              throw std::invalid_argument(fmt::format("expected true or false, got '{}'", text));
            *out = text == "true";
          },
          [&](std::int64_t* out) { *out = parse_number<std::int64_t>(text, "a whole number"); },
          [&](double* out) {
            const double value = parse_number<double>(text, "a number");
            if (!std::isfinite(value))
              throw std::invalid_argument(fmt::format("expected a finite number, got '{}'", text));
            *out = value;
          },
          [&](std::string* out) { *out = text; },
          [&](std::vector<std::string>* out) { *out = parse_list(text); },
          [&](std::vector<std::int64_t>* out) {
            std::vector<std::int64_t> values;
            for (const std::string& part : parse_list(text))
              values.push_back(parse_number<std::int64_t>(part, "whole numbers"));
            *out = std::move(values);
          },
      },
      target);
}

std::string to_text(const OptionTable::Target& target) {
  return std::visit(Overload{
                        [](const bool* value) { return std::string(*value ? "true" : "false"); },
                        [](const std::int64_t* value) { return fmt::format("{}", *value); },
                        [](const double* value) { return fmt::format("{}", *value); },
                        [](const std::string* value) { return *value; },
                        [](const auto* list) { return fmt::format("{}", fmt::join(*list, ",")); },
                    },
                    target);
}

const char* default_placeholder(const OptionTable::Target& target) {
  return std::visit(Overload{
                        [](const bool*) { return "BOOL"; },
                        [](const std::int64_t*) { return "N"; },
                        [](const double*) { return "X"; },
                        [](const std::string*) { return "TEXT"; },
                        [](const std::vector<std::string>*) { return "LIST"; },
                        [](const std::vector<std::int64_t>*) { return "LIST"; },
                    },
                    target);
}

bool is_switch(const OptionTable::Target& target) { return std::holds_alternative<bool*>(target); }

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

/// The line up to its comment: a # at its start or behind a blank.
std::string without_comment(const std::string& line) {
  for (std::size_t at = line.find('#'); at != std::string::npos; at = line.find('#', at + 1))
    if (at == 0 || line[at - 1] == ' ' || line[at - 1] == '\t') return line.substr(0, at);
  return line;
}

/// The value of an INI line from its = on: what stands in double quotes, or else the text without
/// comment and outer blanks. Throws std::invalid_argument.
std::string ini_value(const std::string& text) {
  const std::string value = trimmed(text.substr(1));
  if (!value.starts_with('"')) return trimmed(without_comment(text).substr(1));
  const std::size_t end = value.find('"', 1);
  if (end == std::string::npos || trimmed(without_comment(value.substr(end))) != "\"")
    throw std::invalid_argument("a value that begins with \" must end with the next one");
  return value.substr(1, end - 1);
}

/// A default as help and docs show it: in quotes where its blanks would be overlooked.
std::string shown(const OptionTable::Target& target) {
  const std::string text = to_text(target);
  return text == trimmed(text) ? text : '"' + text + '"';
}

/// Paragraphs broken into lines of the terminal's width; indented lines stay as they are.
std::string wrapped(const std::string& text) {
  std::istringstream paragraphs(text);
  std::string out;
  for (std::string paragraph; std::getline(paragraphs, paragraph);) {
    if (paragraph.starts_with(' ')) {
      out += paragraph + '\n';
      continue;
    }
    std::istringstream words(paragraph);
    std::size_t column = 0;
    for (std::string word; words >> word; column += word.size()) {
      if (column > 0 && column + 1 + word.size() > kHelpWidth) {
        out += '\n';
        column = 0;
      } else if (column > 0) {
        out += ' ';
        ++column;
      }
      out += word;
    }
    out += '\n';
  }
  return out;
}

/// Text inside a Markdown table cell.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '<' || c == '*' || c == '_') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

OptionTable::OptionTable(std::string command, std::string summary, std::string description)
    : command_(std::move(command)),
      summary_(std::move(summary)),
      description_(std::move(description)) {}

OptionTable& OptionTable::example(std::string command_line, std::string explanation) {
  examples_.emplace_back(std::move(command_line), std::move(explanation));
  return *this;
}

OptionTable& OptionTable::add(std::string group, std::string name, Target target, std::string help,
                              Check check) {
  if (find(name) || name == "config" || name == "help")
    throw std::logic_error("option added twice: " + name);
  Option option{.group = std::move(group),
                .name = std::move(name),
                .placeholder = default_placeholder(target),
                .help = std::move(help),
                .default_text = shown(target),
                .target = target,
                .check = std::move(check)};
  // A leading word in capitals with a colon ("DIR: …") is the placeholder.
  const std::size_t colon = option.help.find(": ");
  const std::string word = option.help.substr(0, colon);
  if (colon != std::string::npos && !word.empty() &&
      word.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_,") == std::string::npos) {
    option.placeholder = word;
    option.help.erase(0, colon + 2);
  }
  options_.push_back(std::move(option));
  return *this;
}

OptionTable& OptionTable::add_required(std::string group, std::string name, Target target,
                                       std::string help, Check check) {
  add(std::move(group), std::move(name), target, std::move(help), std::move(check));
  options_.back().required = true;
  return *this;
}

OptionTable& OptionTable::add_positional(std::string group, std::string name, Target target,
                                         std::string help, Check check, bool required) {
  add(std::move(group), std::move(name), target, std::move(help), std::move(check));
  options_.back().required = required;
  options_.back().positional = true;
  return *this;
}

OptionTable& OptionTable::add_repeatable(std::string group, std::string name,
                                         std::vector<std::string>* target, std::string help,
                                         Check check) {
  add(std::move(group), std::move(name), target, std::move(help), std::move(check));
  options_.back().repeatable = true;
  return *this;
}

const OptionTable::Option* OptionTable::find(const std::string& name) const {
  for (const Option& option : options_)
    if (option.name == name) return &option;
  return nullptr;
}

OptionTable::Option& OptionTable::named(const std::string& name) {
  return const_cast<Option&>(*find(name));
}

std::string OptionTable::nearest(const std::string& name) const {
  std::vector<std::string> names{"config", "help"};
  for (const Option& option : options_) names.push_back(option.name);
  return nearest_name(name, names);
}

bool OptionTable::given(const std::string& name) const {
  const Option* option = find(name);
  return option && !option->origin.empty();
}

namespace {

/// Sets an option from the text that `read` returns, or adds it to a repeatable one's list; what is
/// wrong becomes a ConfigError that starts with the origin.
template <class Option, class Read>
void set(Option& option, const std::string& origin, const Read& read) {
  option.origin = origin;
  try {
    if (option.repeatable) {
      std::get<std::vector<std::string>*>(option.target)->push_back(read());
    } else {
      assign(option.target, read());
    }
  } catch (const std::invalid_argument& error) {
    throw ConfigError("{}: {}", origin, error.what());
  }
}

}  // namespace

void OptionTable::read_ini(const std::filesystem::path& path) {
  std::string text;
  try {
    text = read_file(path, kMaxIniBytes);
  } catch (const Error& error) {
    throw ConfigError("--config: {}", error.what());
  }
  // Boost's parser knows neither line numbers nor quotes.
  std::istringstream lines(text);
  std::string line, section;
  for (int number = 1; std::getline(lines, line); ++number) {
    const std::string where = fmt::format("{}:{}", path.string(), number);
    if (line.find('\0') != std::string::npos)
      throw ConfigError("{}: a NUL byte; this is not an INI file", where);
    const std::string bare = trimmed(without_comment(line));
    if (bare.empty()) continue;
    if (bare.starts_with('[')) {
      if (bare.size() < 3 || !bare.ends_with(']'))
        throw ConfigError("{}: expected a section like [lora], got '{}'", where, bare);
      section = bare.substr(1, bare.size() - 2) + ".";
      continue;
    }
    const std::string key = trimmed(bare.substr(0, bare.find('=')));
    if (key.empty() || key == bare)
      throw ConfigError("{}: expected key = value, [section] or # comment, got '{}'", where, bare);
    const std::string name = section + key;
    if (!find(name)) {
      if (find(key) && !section.empty())
        throw ConfigError("{}: unknown option {}; '{}' stands above the first section", where, name,
                          key);
      throw ConfigError("{}: unknown option {} of graphlora {}; the nearest is {}", where, name,
                        command_, nearest(name));
    }
    Option& option = named(name);
    if (!option.origin.empty() && !option.repeatable)
      throw ConfigError("{}: {} is given twice; first at {}", where, name,
                        option.origin.substr(0, option.origin.rfind(": ")));
    set(option, fmt::format("{}: {}", where, name),
        [&] { return ini_value(line.substr(line.find('='))); });
  }
}

bool OptionTable::parse(const std::vector<std::string>& arguments) {
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) return false;

  po::options_description known;
  known.add_options()("config", po::value<std::string>());
  for (const Option& option : options_)
    known.add_options()(option.name.c_str(), po::value<std::string>());
  // Boost has no switch that may have a value, so a bare one is given its value here.
  std::vector<std::string> words = arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const Option* option = words[i].starts_with("--") ? find(words[i].substr(2)) : nullptr;
    const bool detached =
        i + 1 < words.size() && (words[i + 1] == "true" || words[i + 1] == "false");
    if (option && is_switch(option->target) && !detached) words[i] += "=true";
  }

  namespace style = po::command_line_style;
  std::vector<std::string> positional;
  for (const Option& option : options_)
    if (option.positional) positional.push_back(option.name);
  std::vector<po::option> flags;
  try {
    po::command_line_parser parser(words);
    parser.options(known)
        .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
        .allow_unregistered();
    flags = parser.run().options;
  } catch (const po::error& error) {
    throw ConfigError("{}; see graphlora {} --help", error.what(), command_);
  }

  std::vector<std::pair<std::string, std::string>> given;
  std::string config;
  std::size_t position = 0;
  for (const po::option& flag : flags) {
    std::string name = flag.string_key;
    if (name.empty() || flag.position_key >= 0) {
      const std::string& word = flag.original_tokens.empty() ? name : flag.original_tokens[0];
      if (word == "-h") throw ConfigError("unknown flag -h; the nearest is --help");
      if (position >= positional.size())
        throw ConfigError("unexpected argument '{}'; see graphlora {} --help", word, command_);
      given.emplace_back(positional[position++], word);
      continue;
    }
    if (flag.unregistered)
      throw ConfigError("unknown flag --{} of graphlora {}; the nearest is --{}", name, command_,
                        nearest(name));
    const std::string value = flag.value.empty() ? "" : flag.value[0];
    const std::string flag_inside = value.substr(0, value.find('='));
    if (value.starts_with("--") && (find(flag_inside.substr(2)) || flag_inside == "--config"))
      throw ConfigError("--{} needs a value, but {} follows it", name, flag_inside);
    if (name == "config" && value.empty()) throw ConfigError("--config: expected a file, got ''");
    given.emplace_back(name, value);
  }
  for (auto item = given.begin(); item != given.end(); ++item) {
    const auto same = [&](const auto& other) { return other.first == item->first; };
    const Option* option = find(item->first);
    if (std::find_if(given.begin(), item, same) != item && !(option && option->repeatable))
      throw ConfigError("--{} is given twice", item->first);
    if (item->first == "config") config = item->second;
  }

  for (Option& option : options_) option.origin.clear();
  const auto clear = [](const Option& option) {
    if (option.repeatable) std::get<std::vector<std::string>*>(option.target)->clear();
  };
  for (const Option& option : options_) clear(option);
  if (!config.empty()) read_ini(config);
  // Flags win: they replace what a file lists.
  for (const auto& [name, text] : given)
    if (name != "config") clear(named(name));
  for (const auto& [name, text] : given)
    if (name != "config") set(named(name), "--" + name, [&text = text] { return text; });

  for (const Option& option : options_) {
    if (option.required && option.origin.empty()) {
      if (option.positional) throw ConfigError("{} is required: {}", option.placeholder, usage());
      throw ConfigError("--{} {} is required ({}); see graphlora {} --help", option.name,
                        option.placeholder, option.help, command_);
    }
    if (!option.check) continue;
    if (const std::string wrong = option.check(); !wrong.empty())
      throw ConfigError("{}: {}", option.origin.empty() ? "--" + option.name : option.origin,
                        wrong);
  }
  return true;
}

std::vector<std::string> OptionTable::groups() const {
  std::vector<std::string> names;
  for (const Option& option : options_)
    if (std::find(names.begin(), names.end(), option.group) == names.end())
      names.push_back(option.group);
  return names;
}

std::string OptionTable::usage() const {
  std::string line = "graphlora " + command_;
  for (const Option& option : options_) {
    if (option.positional)
      line += option.required ? fmt::format(" {}", option.placeholder)
                              : fmt::format(" [{}]", option.placeholder);
    else if (option.required)
      line += fmt::format(" --{} {}", option.name, option.placeholder);
  }
  return line + " [options]";
}

std::string OptionTable::help() const {
  std::ostringstream out;
  out << summary_ << ".\n\nUsage: " << usage() << "\n";
  if (!description_.empty()) out << "\n" << wrapped(description_);
  if (!examples_.empty()) {
    out << "\nExamples:\n";
    for (const auto& [command_line, explanation] : examples_)
      out << "  # " << explanation << "\n  " << command_line << "\n";
  }
  for (const std::string& group : groups()) {
    po::options_description section(group, kHelpWidth, kHelpWidth * 3 / 5);
    for (const Option& option : options_) {
      if (option.group != group) continue;
      std::string text = option.help;
      if (!option.default_text.empty() && !option.required)
        text += fmt::format(" (default {})", option.default_text);
      if (option.required) text += " (required)";
      if (is_switch(option.target)) {
        section.add_options()(option.name.c_str(), text.c_str());
      } else {
        auto* value = po::value<std::string>();
        value->value_name(option.placeholder);
        section.add_options()(option.name.c_str(), value, text.c_str());
      }
    }
    out << "\n" << section;
  }
  out << "\nOptions may stand in an INI file, too: --config FILE. Flags win.\n";
  return out.str();
}

std::string OptionTable::markdown_group(const std::string& group) const {
  std::string rows;
  for (const Option& option : options_) {
    if (option.group != group) continue;
    rows += fmt::format("| `--{}` | {} | {} |\n", option.name,
                        option.required               ? "*required*"
                        : option.default_text.empty() ? ""
                                                      : fmt::format("`{}`", option.default_text),
                        cell(option.help));
  }
  if (rows.empty()) return {};
  return fmt::format("| {} | default | meaning |\n|---|---|---|\n{}", cell(group), rows);
}

std::string OptionTable::markdown(const std::string& without_group) const {
  std::string out = fmt::format("## {}\n\n{}.\n\n`{}`\n", command_, cell(summary_), usage());
  if (!description_.empty()) out += "\n" + description_ + "\n";
  if (!examples_.empty()) {
    out += "\n```\n";
    for (const auto& [command_line, explanation] : examples_)
      out += fmt::format("# {}\n{}\n", explanation, command_line);
    out += "```\n";
  }
  for (const std::string& group : groups())
    if (group != without_group) out.append("\n").append(markdown_group(group));
  return out;
}

std::vector<std::pair<std::string, std::string>> OptionTable::values() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const Option& option : options_) out.emplace_back(option.name, to_text(option.target));
  return out;
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  // A name of hostile length would cost its square; no option is that long.
  std::string bounded = name.substr(0, 100);
  std::transform(bounded.begin(), bounded.end(), bounded.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  for (const std::string& candidate : candidates) {
    std::size_t distance = edit_distance(bounded, candidate);
    if (const std::size_t dot = candidate.rfind('.'); dot != std::string::npos)
      distance = std::min(distance, edit_distance(bounded, candidate.substr(dot + 1)) + 1);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

OptionTable::Check in_range(const std::int64_t& value, std::int64_t low, std::int64_t high) {
  return [&value, low, high]() -> std::string {
    if (value >= low && value <= high) return {};
    if (high == std::numeric_limits<std::int64_t>::max())
      return fmt::format("must be at least {}, got {}", low, value);
    return fmt::format("must be between {} and {}, got {}", low, high, value);
  };
}

OptionTable::Check in_range(const double& value, double low, double high) {
  return [&value, low, high]() -> std::string {
    if (value >= low && value <= high) return {};
    return fmt::format("must be between {} and {}, got {}", low, high, value);
  };
}

OptionTable::Check one_of(const std::string& value, std::vector<std::string> choices) {
  return [&value, choices = std::move(choices)]() -> std::string {
    if (std::find(choices.begin(), choices.end(), value) != choices.end()) return {};
    return fmt::format("must be one of {}, got '{}'", fmt::join(choices, ", "), value);
  };
}

}  // namespace graphlora
