#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/regex.hpp"

#include <pcre2.h>

#include <array>
#include <cstdint>

#include "core/error.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode_additions.hpp"

namespace graphlora {
namespace {

constexpr std::size_t kJitStack = 4 << 20;
constexpr std::size_t kMaxPattern = 1 << 16;  // those of published tokenizers have a few hundred

struct Free {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// Ranges, for a character class, of what a property also holds in Oniguruma's version of Unicode.
std::string additions(const std::string& property) {
  std::string text;
  for (const auto& [first, last, category] : kNewCodePoints) {
    if (std::string_view(category).starts_with(property)) {
      text += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<std::uint32_t>(first),
                          static_cast<std::uint32_t>(last));
    }
  }
  return text;
}

/// Oniguruma's syntax as PCRE2's. \s means White_Space there, a little more here; what else differs
/// is refused.
std::string translate(const std::string& pattern, const std::string& where) {
  const auto refuse = [&](std::size_t begin, std::size_t length) {
    throw DataError("{}: unsupported regular expression: {} at byte {} of {}", where,
                    shown(pattern.substr(begin, length)), begin, shown(pattern));
  };
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      constexpr std::string_view kSame = "dDrntf\\.*?+-^$|/()[]{}'\"#&~ ,:;<>=!_@%`";
      const std::size_t brace = i + 2;
      if (next == 's') {
        result += "\\p{White_Space}";
      } else if (next == 'S') {
        result += "\\P{White_Space}";
      } else if (next != '\0' && kSame.find(next) != std::string_view::npos) {
        result += {c, next};
      } else if ((next == 'p' || next == 'P' || next == 'x') && brace < pattern.size() &&
                 pattern[brace] == '{' && pattern.find('}', brace) != std::string::npos) {
        const std::size_t end = pattern.find('}', brace) + 1;
        const std::string text = pattern.substr(i, end - i);
        const std::string more = next == 'x' ? "" : additions(text.substr(3, text.size() - 4));
        if (more.empty()) {
          result += text;
        } else if (in_class && next == 'P') {
          refuse(i, text.size());
        } else {
          const std::string all = "\\p" + text.substr(2) + more;
          result += in_class ? all : fmt::format("[{}{}]", next == 'P' ? "^" : "", all);
        }
        i = end - 2;
      } else {
        refuse(i, 2);
      }
      ++i;
      continue;
    }
    if (in_class) {
      if ((c == '[' && next != ':') || (c == '&' && next == '&')) {
        refuse(i, 2);
      }
      if (c == '[') {
        const std::size_t end = pattern.find(":]", i + 2);
        if (end == std::string::npos) {
          refuse(i, 2);
        }
        result += pattern.substr(i, end + 2 - i);
        i = end + 1;
        continue;
      }
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      result += c;
      if (next == '^') {
        result += next;
        ++i;
      }
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') {
        refuse(i + 1, 1);
      }
      continue;
    } else if (c == '(' && next == '?') {
      const std::string_view group = std::string_view(pattern).substr(i + 2);
      constexpr std::array<std::string_view, 8> kSame = {":",  "=",  "!",  ">",
                                                         "<=", "<!", "i:", "-i:"};
      bool known = false;
      for (const std::string_view text : kSame) {
        known = known || group.starts_with(text);
      }
      if (!known) {
        refuse(i, 4);
      }
    } else if (c == '(' && next == '*') {
      refuse(i, 2);
    } else if (c == '}' && next == '+') {
      refuse(i, 2);  // possessive here, a repeated repetition there
    }
    result += c;
  }
  return result;
}

}  // namespace

struct Regex::Workspace::Impl {
  std::unique_ptr<pcre2_match_data, Free> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Free> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free> stack{
      pcre2_jit_stack_create(32 << 10, kJitStack, nullptr)};
};

Regex::Workspace::Workspace() : impl_(std::make_unique<Impl>()) {
  if (!impl_->data || !impl_->context) {
    throw std::bad_alloc();
  }
  if (impl_->stack) {
    pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
  }
}
Regex::Workspace::~Workspace() = default;
Regex::Workspace::Workspace(Workspace&&) noexcept = default;

struct Regex::Impl {
  std::unique_ptr<pcre2_code, Free> code;
  std::string where;
  bool jit = false;
};

Regex::Regex(const std::string& pattern, const std::string& where)
    : impl_(std::make_unique<Impl>()) {
  if (pattern.size() > kMaxPattern) {
    throw DataError("{}: unsupported regular expression of {} bytes, at most {}", where,
                    pattern.size(), kMaxPattern);
  }
  const std::string translated = translate(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->where = where;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                  translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                  &error, &offset, nullptr));
  if (!impl_->code) {
    throw DataError("{}: bad regular expression {}: {}", where, shown(pattern), error_text(error));
  }
  std::uint32_t empty = 0;
  pcre2_pattern_info(impl_->code.get(), PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty != 0) {
    throw DataError("{}: unsupported regular expression {}: it matches the empty string", where,
                    shown(pattern));
  }
  impl_->jit = pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

bool Regex::find(std::string_view subject, std::size_t from, Match& match,
                 Workspace& workspace) const {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  pcre2_match_data* data = workspace.impl_->data.get();
  pcre2_match_context* context = workspace.impl_->context.get();
  const int result =
      impl_->jit ? pcre2_jit_match(impl_->code.get(), text, subject.size(), from, 0, data, context)
                 : pcre2_match(impl_->code.get(), text, subject.size(), from, PCRE2_NO_UTF_CHECK,
                               data, context);
  if (result == PCRE2_ERROR_NOMATCH) {
    return false;
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
  if (result < 0 || offsets[1] <= offsets[0]) {
    throw DataError("{}: the regular expression failed on a text of {} bytes: {}", impl_->where,
                    subject.size(), result < 0 ? error_text(result) : "empty match");
  }
  match = {offsets[0], offsets[1]};
  return true;
}

}  // namespace graphlora
