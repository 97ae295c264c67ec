// Regular expressions of tokenizer files: Oniguruma's syntax, as far as PCRE2 means the same by it.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace graphlora {

/// Compiled (and, where the machine allows, JIT-compiled) once; matching is thread-safe with one
/// Workspace a thread.
class Regex {
 public:
  struct Match {
    std::size_t begin, end;
  };
  /// Memory that a match needs.
  class Workspace {
   public:
    Workspace();
    ~Workspace();
    Workspace(Workspace&&) noexcept;

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  /// `pattern` in Oniguruma's (Ruby's) syntax. Throws DataError, prefixed by `where`, if it is
  /// malformed, could match the empty string, or uses something that PCRE2 reads differently.
  Regex(const std::string& pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// The first match at or behind `from` in well-formed UTF-8, or false. Throws DataError at
  /// PCRE2's limits.
  bool find(std::string_view subject, std::size_t from, Match& match, Workspace& workspace) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace graphlora
