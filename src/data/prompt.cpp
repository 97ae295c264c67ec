#include "data/prompt.hpp"

#include <algorithm>
#include <optional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

constexpr std::int32_t kAnchor = -1;
constexpr std::size_t kMaxTemplateBytes = 1 << 20;

std::string read_source(const PromptConfig& config) {
  if (!config.template_text.empty()) return config.template_text;
  return config.templates.empty() ? kDefaultTemplates
                                  : read_file(config.templates, kMaxTemplateBytes);
}

std::string source_name(const PromptConfig& config) {
  if (!config.template_text.empty()) return "the checkpoint's templates";
  return config.templates.empty() ? "the built-in templates" : config.templates;
}

}  // namespace

PromptBuilder::PromptBuilder(const Dataset& dataset, const Tokenizer& tokenizer,
                             const PromptConfig& config, TitleTokens titles)
    : dataset_(dataset),
      tokenizer_(tokenizer),
      config_(config),
      titles_(std::move(titles)),
      source_(read_source(config)) {
  if (config.history < 0) throw ConfigError("--prompt.history must be at least 0");
  const std::vector<PromptTemplate> templates = parse_templates(source_, source_name(config));
  for (const PromptTemplate& t : templates) {
    templates_.push_back({t.weight, tokenize(t.pieces), tokenize(t.empty_history)});
  }
  check_lengths();
  yes_token_ = answer_token(config.yes, "--prompt.yes", templates);
  no_token_ = answer_token(config.no, "--prompt.no", templates);
  if (yes_token_ == no_token_) {
    throw ConfigError("--prompt.yes and --prompt.no are the same token ({})", yes_token_);
  }
}

PromptBuilder::Wording PromptBuilder::tokenize(
    const std::vector<PromptTemplate::Piece>& pieces) const {
  Wording wording;
  wording.fixed_tokens = tokenizer_.bos() ? 1 : 0;
  bool in_prefix = true;
  for (const auto& [kind, text] : pieces) {
    Piece& piece = wording.pieces.emplace_back(Piece{kind, {}});
    if (in_prefix && (kind == Kind::title || kind == Kind::item)) {
      in_prefix = false;
      wording.prefix_tokens = wording.fixed_tokens;
    }
    if (kind == Kind::literal) {
      piece.tokens = tokenizer_.encode(text);
      wording.fixed_tokens += static_cast<std::int64_t>(piece.tokens.size());
    } else if (kind == Kind::user || kind == Kind::item) {
      ++wording.fixed_tokens;
    } else if (kind == Kind::title) {
      wording.has_title = true;
    } else {
      wording.has_history = true;
      wording.history_in_prefix = in_prefix;
    }
  }
  return wording;
}

void PromptBuilder::check_lengths() const {
  // Here and not at the row in question: hours into a run is too late to learn of it.
  for (std::int64_t item = 0; item < dataset_.items(); ++item) {
    for (const Template& t : templates_) {
      const std::int64_t needed =
          t.without.fixed_tokens +
          (t.without.has_title ? static_cast<std::int64_t>(titles_.first(item).size()) : 0);
      if (needed > config_.max_tokens) {
        throw ConfigError(
            "--prompt.max-tokens {} is too few: the question about item \"{}\" alone needs {} "
            "tokens",
            config_.max_tokens, dataset_.item_id(item), needed);
      }
    }
  }
}

std::int32_t PromptBuilder::answer_token(const std::string& word, const char* option,
                                         const std::vector<PromptTemplate>& templates) const {
  // What the model would write behind the prompt's end: " Yes" alone is two tokens of a
  // SentencePiece tokenizer, behind a word it is one.
  std::optional<std::int32_t> token;
  const auto check = [&](const std::string& end, const std::string& place) {
    const std::vector<std::int32_t> context = tokenizer_.encode(end);
    const std::vector<std::int32_t> ids = tokenizer_.encode(end + word);
    if (ids.size() < context.size() || !std::equal(context.begin(), context.end(), ids.begin())) {
      throw ConfigError(
          "{}: {}, \"{}\" does not become a token of its own: change the word (with or without a "
          "space in front) or the template's end",
          option, place, word);
    }
    if (ids.size() != context.size() + 1) {
      throw ConfigError("{}: \"{}\" is {} tokens of this model, it must be one", option, word,
                        ids.size() - context.size());
    }
    if (token.value_or(ids.back()) != ids.back()) {
      throw ConfigError("{}: {}, \"{}\" is token {}, behind another template's end token {}",
                        option, place, word, ids.back(), *token);
    }
    token = ids.back();
  };
  for (const PromptTemplate& t : templates) {
    for (const auto* pieces : {&t.pieces, &t.empty_history}) {
      const PromptTemplate::Piece& last = pieces->back();
      if (last.kind == Kind::literal) {
        check(last.text, fmt::format("behind the end of the template at {}", t.where));
      }
    }
  }
  if (!token) check("", "on its own");
  return *token;
}

std::span<const std::int64_t> PromptBuilder::history(std::int64_t row) const {
  if (config_.history == 0) return {};
  return dataset_.liked_before(dataset_.user()[row], dataset_.time()[row], config_.history);
}

std::uint64_t PromptBuilder::history_hash(std::int64_t row) const {
  std::uint64_t hash = 0;
  for (const std::int64_t item : history(row)) {
    hash = splitmix64(hash ^ static_cast<std::uint64_t>(item));
  }
  return hash;
}

std::int32_t PromptBuilder::draw_template(std::int64_t row, std::uint64_t seed,
                                          std::int64_t epoch) const {
  std::uint64_t hash = splitmix64(seed);
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(dataset_.user()[row]),
        history_hash(row)}) {
    hash = splitmix64(hash ^ part);
  }
  double total = 0;
  for (const Template& t : templates_) total += t.weight;
  double left = static_cast<double>(hash >> 11) * 0x1p-53 * total;
  std::int32_t last = 0;
  for (std::int32_t i = 0; i < templates(); ++i) {
    if (templates_[i].weight <= 0) continue;
    last = i;
    left -= templates_[i].weight;
    if (left < 0) break;
  }
  return last;
}

Question PromptBuilder::question_of(std::int64_t row) const {
  return {dataset_.user_node(row), dataset_.item()[row], history(row)};
}

PromptBuilder::Layout PromptBuilder::layout(const Question& question,
                                            std::int32_t template_index) const {
  const Template& t = templates_.at(template_index);
  const auto title = static_cast<std::int64_t>(titles_.first(question.item).size());
  const auto fixed = [&](const Wording& wording) {
    return wording.fixed_tokens + (wording.has_title ? title : 0);
  };
  // From the newest title back: `rest` counts the titles that others precede.
  const auto limit = static_cast<std::size_t>(config_.history);
  const std::span<const std::int64_t> all =
      question.history.last(std::min(question.history.size(), limit));
  Layout best{&t.without, all.last(0), fixed(t.without)};
  if (!t.with_history.has_history) return best;
  std::int64_t rest = fixed(t.with_history);
  for (std::size_t kept = 1; kept <= all.size(); ++kept) {
    const std::int64_t oldest = all[all.size() - kept];
    const std::int64_t tokens = rest + static_cast<std::int64_t>(titles_.first(oldest).size());
    if (tokens <= config_.max_tokens) best = {&t.with_history, all.last(kept), tokens};
    rest += static_cast<std::int64_t>(titles_.next(oldest).size());
    if (rest > config_.max_tokens) break;
  }
  return best;
}

PromptBuilder::Extent PromptBuilder::extent(std::int64_t row, std::int32_t template_index) const {
  return extent(question_of(row), template_index);
}

PromptBuilder::Extent PromptBuilder::extent(const Question& question,
                                            std::int32_t template_index) const {
  const Layout plan = layout(question, template_index);
  const Wording& wording = *plan.wording;
  std::int64_t private_from = wording.prefix_tokens;
  if (wording.history_in_prefix) {
    for (std::size_t i = 0; i < plan.history.size(); ++i) {
      private_from +=
          std::ssize(i == 0 ? titles_.first(plan.history[i]) : titles_.next(plan.history[i]));
    }
  }
  return {plan.tokens, private_from};
}

Prompt PromptBuilder::build(std::int64_t row, std::int32_t template_index) const {
  Prompt prompt = build(question_of(row), template_index);
  prompt.row = row;
  prompt.label = static_cast<float>(dataset_.label()[row]);
  return prompt;
}

Prompt PromptBuilder::build(const Question& question, std::int32_t template_index) const {
  const Layout plan = layout(question, template_index);
  Prompt prompt;
  prompt.row = -1;
  prompt.template_index = template_index;
  prompt.tokens.reserve(plan.tokens);
  std::int32_t private_from = -1;
  const auto append = [&](std::span<const std::int32_t> tokens) {
    prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
  };
  if (const auto bos = tokenizer_.bos()) prompt.tokens.push_back(*bos);
  for (const Piece& piece : plan.wording->pieces) {
    const auto position = static_cast<std::int32_t>(prompt.tokens.size());
    if ((piece.kind == Kind::title || piece.kind == Kind::item) && private_from < 0)
      private_from = position;
    switch (piece.kind) {
      case Kind::literal:
        append(piece.tokens);
        break;
      case Kind::history:
        for (std::size_t i = 0; i < plan.history.size(); ++i) {
          append(i == 0 ? titles_.first(plan.history[i]) : titles_.next(plan.history[i]));
        }
        break;
      case Kind::title:
        append(titles_.first(question.item));
        break;
      case Kind::user:
      case Kind::item:
        prompt.anchors.push_back({position, piece.kind == Kind::user
                                                ? question.user_node
                                                : dataset_.users() + question.item});
        prompt.tokens.push_back(kAnchor);
        break;
    }
  }
  prompt.private_from = private_from;
  return prompt;
}

std::string PromptBuilder::text(const Prompt& prompt) const {
  std::string text;
  std::size_t done = 0;
  const auto decode_until = [&](std::size_t end) {
    text += tokenizer_.decode({prompt.tokens.begin() + done, prompt.tokens.begin() + end});
  };
  for (const auto& [position, node] : prompt.anchors) {
    decode_until(position);
    text += node == kUnknownNode ? "<user>"
            : node < dataset_.users()
                ? fmt::format("<user:{}>", dataset_.user_id(node))
                : fmt::format("<item:{}>", dataset_.item_id(node - dataset_.users()));
    done = position + 1;
  }
  decode_until(prompt.tokens.size());
  return text;
}

}  // namespace graphlora
