// One table of options serves flags, INI files, --help and docs/configuration.md.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace graphlora {

/// Options of one command, bound to variables whose present values are the defaults. Flags
/// (Boost.Program_options) and INI files fill the same table: flags win; an unknown or repeated
/// key, an abbreviation or a value out of range is a ConfigError that names the nearest known
/// option or FILE:LINE. In an INI file, options without a dot stand above the first section, and a
/// section [lora] makes `rank = 8` the option lora.rank; a # at a line's start or behind a blank
/// begins a comment; a value in double quotes keeps its blanks and every #.
class OptionTable {
 public:
  using Target = std::variant<bool*, std::int64_t*, double*, std::string*,
                              std::vector<std::string>*, std::vector<std::int64_t>*>;
  /// Checks the value after parsing; returns an empty string, or what is wrong with it.
  using Check = std::function<std::string()>;

  OptionTable() = default;
  /// `summary`: one line without a full stop; `description`: a paragraph or more for --help.
  explicit OptionTable(std::string command, std::string summary = {}, std::string description = {});

  /// An example for --help: a command line, and one line that says what it does.
  OptionTable& example(std::string command_line, std::string explanation);

  /// `name` without dashes, for example "lora.rank". Options with the same `group` stand together
  /// in --help. Lists are comma-separated without spaces. A bool is a switch: --x, --x true,
  /// --x false. A string's `help` may start with its placeholder and a colon: "DIR: where …".
  OptionTable& add(std::string group, std::string name, Target target, std::string help,
                   Check check = {});
  /// As `add`, and parsing fails when it was given neither as a flag nor in the INI file.
  OptionTable& add_required(std::string group, std::string name, Target target, std::string help,
                            Check check = {});
  /// A list that takes one value, commas and all, each time it is given: --x A --x B.
  OptionTable& add_repeatable(std::string group, std::string name, std::vector<std::string>* target,
                              std::string help, Check check = {});
  /// Given as the command's one argument without dashes (`inspect PATH`); --name VALUE works too.
  OptionTable& add_positional(std::string group, std::string name, Target target, std::string help,
                              Check check = {}, bool required = true);

  /// Parses `arguments` (without program and command). `--config FILE` and `--help` are always
  /// known. Returns false when --help was asked for (nothing was checked then). Throws ConfigError.
  bool parse(const std::vector<std::string>& arguments);

  const std::string& command() const { return command_; }
  const std::string& summary() const { return summary_; }
  /// Whether the option was given, by a flag or the INI file.
  bool given(const std::string& name) const;
  /// Description, usage, examples and all options with defaults, wrapped for a terminal.
  std::string help() const;
  /// The same in Markdown, for docs/configuration.md; the group named is left out.
  std::string markdown(const std::string& without_group = {}) const;
  /// One group's options as a Markdown table; empty if there is no such group.
  std::string markdown_group(const std::string& group) const;
  /// Every option's value as text, in table order: what a run used (manifest.json).
  std::vector<std::pair<std::string, std::string>> values() const;

  /// Ties the life of the bound variables to the table's (and its copies').
  void keep(std::shared_ptr<void> variables) { variables_ = std::move(variables); }

 private:
  struct Option {
    std::string group, name, placeholder, help, default_text;
    Target target;
    Check check;
    bool required = false, positional = false, repeatable = false;
    std::string origin = {};  // "--lora.rank" or "train.ini:7: lora.rank"; empty: default
  };
  const Option* find(const std::string& name) const;
  Option& named(const std::string& name);
  std::string nearest(const std::string& name) const;
  std::vector<std::string> groups() const;
  std::string usage() const;
  void read_ini(const std::filesystem::path& path);

  std::string command_, summary_, description_;
  std::vector<std::pair<std::string, std::string>> examples_;
  std::vector<Option> options_;
  std::shared_ptr<void> variables_;
};

/// The table of an option struct (a struct whose member `OptionTable table()` binds its own
/// members), with the struct's life tied to the table's: for --help and docs, which need no Job.
template <class Options>
OptionTable table_of() {
  auto options = std::make_shared<Options>();
  OptionTable table = options->table();
  table.keep(std::move(options));
  return table;
}

/// The candidate with the least edit distance to `name` (also measured against what follows a
/// candidate's last dot); empty if there are no candidates.
std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates);

/// Ready-made checks. The value is referred to, so it must live as long as the table.
OptionTable::Check in_range(const std::int64_t& value, std::int64_t low, std::int64_t high);
OptionTable::Check in_range(const double& value, double low, double high);
OptionTable::Check one_of(const std::string& value, std::vector<std::string> choices);

}  // namespace graphlora
