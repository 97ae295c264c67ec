#include "fuzz/mutate.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

namespace graphlora::fuzz {
namespace {

using Json = nlohmann::ordered_json;

std::size_t below(std::size_t limit, Random& random) { return random() % limit; }

std::uint64_t odd_number(Random& random) {
  const std::uint64_t power = std::uint64_t{1} << below(64, random);
  return power + below(3, random) - 1;
}

/// Text out of what such files hold, and what they should not.
std::string odd_string(Random& random) {
  static const std::vector<std::string> kStrings{"",
                                                 " ",
                                                 "\n",
                                                 std::string(1, '\0'),
                                                 "\xed\xa0\x80",
                                                 "\xff",
                                                 "\xf4\x8f\xbf\xbf",
                                                 "\"",
                                                 "\\",
                                                 "..",
                                                 "../x",
                                                 "/",
                                                 "model.safetensors",
                                                 "a-of-2.safetensors",
                                                 "__metadata__",
                                                 "F32",
                                                 "BF16",
                                                 "I64",
                                                 "U8",
                                                 "BPE",
                                                 "ByteLevel",
                                                 "Sequence",
                                                 "Split",
                                                 "Prepend",
                                                 "Replace",
                                                 "Metaspace",
                                                 "ByteFallback",
                                                 "Fuse",
                                                 "Strip",
                                                 "NFC",
                                                 "NFKC",
                                                 "Digits",
                                                 "TemplateProcessing",
                                                 "Isolated",
                                                 "(?:",
                                                 "(a*)*b",
                                                 "\\p{L}+",
                                                 "(?<=x)",
                                                 "[^\\r\\n]",
                                                 "\xe2\x96\x81",
                                                 "<0x41>",
                                                 "<0xZZ>",
                                                 "llama3",
                                                 "linear",
                                                 "dynamic",
                                                 "yarn",
                                                 "default",
                                                 "LlamaForCausalLM",
                                                 "Qwen3ForCausalLM",
                                                 "float16",
                                                 "sliding_attention",
                                                 "silu",
                                                 "gelu",
                                                 "head_dim",
                                                 "rope_type",
                                                 "id",
                                                 "content",
                                                 "ids",
                                                 "single"};
  std::string text = kStrings[below(kStrings.size(), random)];
  if (below(8, random) == 0)
    for (std::size_t i = below(12, random); i > 0 && text.size() < 100'000; --i) text += text;
  return text;
}

Json odd_value(Random& random) {
  switch (below(9, random)) {
    case 0:
      return nullptr;
    case 1:
      return below(2, random) == 0;
    case 2:
      return odd_number(random);
    case 3:
      return -static_cast<std::int64_t>(odd_number(random) >> 1);
    case 4: {
      const double values[] = {0.0, -0.0, 0.5, -1.5, 1e-308, 1e308, 4294967296.5, 1e19};
      return values[below(std::size(values), random)];
    }
    case 5:
      return below(20, random);
    case 6:
      return Json::array();
    case 7: {
      Json nested = Json::array();
      for (std::size_t depth = below(2, random) * 300; depth > 0; --depth)
        nested = Json::array({nested});
      return below(2, random) == 0 ? nested : Json::object();
    }
    default:
      return odd_string(random);
  }
}

void collect(Json& value, std::vector<Json*>& all) {
  all.push_back(&value);
  if (value.is_structured())
    for (Json& child : value) collect(child, all);
}

void change(Json& root, Random& random) {
  std::vector<Json*> all;
  collect(root, all);
  Json& value = *all[below(all.size(), random)];
  switch (below(8, random)) {
    case 0:
    case 1:
      value = odd_value(random);
      break;
    case 2: {
      Json other = *all[below(all.size(), random)];
      value = std::move(other);
      break;
    }
    case 3:
      if (value.is_structured() && !value.empty())
        value.erase(
            std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size(), random))));
      break;
    case 4:
      if (value.is_object())
        value[odd_string(random)] = odd_value(random);
      else if (value.is_array())
        value.insert(value.begin() + static_cast<std::ptrdiff_t>(below(value.size() + 1, random)),
                     odd_value(random));
      break;
    case 5:
      value = below(2, random) == 0 ? Json::array({value}) : Json{{odd_string(random), value}};
      break;
    case 6:
      if (value.is_number_integer())
        value = value.get<std::int64_t>() + static_cast<std::int64_t>(below(17, random)) - 8;
      else if (value.is_string())
        value = mutate_bytes(value.get<std::string>(), random);
      break;
    default:  // one of its members twice, or under another name
      if (value.is_array() && !value.empty()) {
        Json copy = value[below(value.size(), random)];
        value.push_back(std::move(copy));
      } else if (value.is_object() && !value.empty()) {
        const auto member =
            std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size(), random)));
        Json copy = member.value();
        value[odd_string(random)] = std::move(copy);
      }
  }
}

}  // namespace

std::string mutate_bytes(const std::string& original, Random& random) {
  std::string bytes = original;
  for (std::size_t n = 1 + below(4, random); n > 0; --n) {
    if (bytes.empty()) bytes = odd_string(random);
    if (bytes.empty()) return bytes;
    const std::size_t at = below(bytes.size(), random);
    switch (below(8, random)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8, random)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        bytes.erase(at, 1 + below(16, random));
        break;
      case 3:
        bytes.insert(at, bytes.substr(below(bytes.size(), random), 1 + below(64, random)));
        break;
      case 4:
        bytes.insert(at, odd_string(random));
        break;
      case 5:
        if (below(4, random) == 0) bytes.resize(at);
        break;
      default: {
        const std::uint64_t number = odd_number(random);
        const std::size_t size =
            std::min<std::size_t>(below(2, random) == 0 ? 4 : 8, bytes.size() - at);
        std::memcpy(bytes.data() + at, &number, size);
      }
    }
  }
  return bytes;
}

std::string mutate_json(const std::string& text, Random& random) {
  Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded() || below(10, random) == 0) return mutate_bytes(text, random);
  for (std::size_t n = 1 + below(3, random); n > 0; --n) change(root, random);
  std::string out = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  return below(10, random) == 0 ? mutate_bytes(out, random) : out;
}

std::string mutate_safetensors(const std::string& bytes, Random& random) {
  std::uint64_t size = 0;
  if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
  if (bytes.size() < sizeof size || size > bytes.size() - sizeof size || below(8, random) == 0)
    return mutate_bytes(bytes, random);
  std::string header = bytes.substr(sizeof size, size);
  const std::string data = bytes.substr(sizeof size + size);
  if (below(8, random) == 0) {
    size = odd_number(random);
  } else {
    header = mutate_json(header, random);
    size = header.size();
    if (below(16, random) == 0) size += below(33, random) - 16;
  }
  std::string out(reinterpret_cast<const char*>(&size), sizeof size);
  out += header + data;
  if (below(16, random) == 0) out.resize(below(out.size() + 1, random));
  return out;
}

}  // namespace graphlora::fuzz
