// One table of options serves flags, INI files, --help and docs/configuration.md.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <variant>
#include <vector>

namespace graphlora {

/// Options of one command, bound to variables whose present values are the defaults. Flags and INI
/// files (Boost.Program_options) fill the same table: flags win; an unknown or repeated key, an
/// abbreviation or a value out of range is a ConfigError that names the nearest known option or
/// FILE:LINE.
class OptionTable {
 public:
  using Target = std::variant<bool*, std::int64_t*, double*, std::string*,
                              std::vector<std::string>*, std::vector<std::int64_t>*>;
  /// Checks the value after parsing; returns an empty string, or what is wrong with it.
  using Check = std::function<std::string()>;

  /// `name` without dashes, for example "lora.rank". Options with the same `group` stand together
  /// in --help. Lists are comma-separated without spaces. A bool is a switch: --x, --x true, --x
  /// false.
  OptionTable& add(std::string group, std::string name, Target target, std::string help,
                   Check check = {});
  /// As `add`, and parsing fails when it was given neither as a flag nor in the INI file.
  OptionTable& add_required(std::string group, std::string name, Target target, std::string help,
                            Check check = {});

  /// Parses `arguments` (without program and command). `--config FILE` and `--help` are always
  /// known. Returns false when --help was asked for (nothing was checked then). Throws ConfigError.
  bool parse(const std::vector<std::string>& arguments);

  /// Whether the option was given, by a flag or the INI file.
  bool given(const std::string& name) const;
  /// Text of all options with defaults, wrapped for a terminal.
  std::string help() const;
  /// The same as a Markdown table, for docs/configuration.md.
  std::string markdown() const;
  /// Every option's value as text, in table order: what a run used (manifest.json).
  std::vector<std::pair<std::string, std::string>> values() const;

 private:
  struct Option {
    std::string group, name, help, default_text;
    Target target;
    Check check;
    bool required = false, given = false;
  };
  const Option* find(const std::string& name) const;
  std::vector<Option> options_;
};

/// Ready-made checks.
OptionTable::Check in_range(const std::int64_t& value, std::int64_t low, std::int64_t high);
OptionTable::Check in_range(const double& value, double low, double high);
OptionTable::Check one_of(const std::string& value, std::vector<std::string> choices);

}  // namespace graphlora
