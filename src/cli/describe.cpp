#include "cli/describe.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/dataset.hpp"
#include "data/tokenizer.hpp"
#include "dist/flight_report.hpp"
#include "graph/shard.hpp"
#include "graph/shard_writer.hpp"
#include "model/hf_checkpoint.hpp"
#include "train/checkpoint.hpp"
#include "train/embedding_store.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kRowsPerBlock = 1 << 17;

Json describe_safetensors(const fs::path& path) {
  const SafetensorsReader reader(path);
  Json tensors = Json::object();
  for (const auto& [name, entry] : reader.entries()) {
    tensors[name] = {{"dtype", dtype_name(entry.dtype)},
                     {"shape", entry.shape},
                     {"bytes", entry.end - entry.begin}};
  }
  return {{"kind", "safetensors"},
          {"path", path.string()},
          {"bytes", fs::file_size(path)},
          {"metadata", reader.metadata()},
          {"tensors", tensors}};
}

Json describe_dataset(const fs::path& path) {
  const Dataset dataset(path);
  dataset.verify();
  std::array<std::int64_t, 3> rows{}, liked{}, warm{};
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    const auto split = static_cast<std::size_t>(dataset.split(row));
    ++rows[split];
    liked[split] += dataset.label()[row];
    warm[split] += dataset.warm(row) ? 1 : 0;
  }
  Json splits;
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    const auto i = static_cast<std::size_t>(split);
    splits[to_string(split)] = {{"rows", rows[i]}, {"liked", liked[i]}, {"warm", warm[i]}};
  }
  return {{"kind", "dataset"},
          {"path", path.string()},
          {"users", dataset.users()},
          {"items", dataset.items()},
          {"interactions", dataset.rows()},
          {"splits", splits},
          {"description", dataset.description()}};
}

Json describe_partition(const fs::path& path) {
  const Json report = read_json(path / "partition.json");
  Json files = Json::object();
  for (int part = 0, parts = 1; part < parts; ++part) {
    parts = Shard(path, part).parts();
    const std::string name = shard_file_name(part);
    files[name] = fs::file_size(path / name);
  }
  return {{"kind", "partition"}, {"path", path.string()}, {"bytes", files}, {"report", report}};
}

Json describe_pretrained(const fs::path& path) {
  const Json report = read_json(path / "pretrain.json");
  const auto users = report.at("users").get<std::int64_t>();
  const auto items = report.at("items").get<std::int64_t>();
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (std::min(users, items) < 1 || std::max(users, items) > kMost) {
    throw DataError("{}: {} users and {} items, expected 1 to {}",
                    (path / "pretrain.json").string(), users, items, kMost);
  }
  // Reading rows checks the set of files and these rows' values; blocks bound the memory.
  const std::int64_t nodes = users + items;
  for (std::int64_t begin = 0; begin < nodes; begin += kRowsPerBlock) {
    const at::Tensor rows = at::arange(begin, std::min(begin + kRowsPerBlock, nodes), at::kLong);
    read_embeddings(path, rows, nodes, at::kDouble);
  }
  Json files = Json::object();
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsReader reader(entry.path());
    files[entry.path().filename().string()] = reader.tensor("weight").sizes().vec();
  }
  return {
      {"kind", "pretrained"}, {"path", path.string()}, {"embeddings", files}, {"report", report}};
}

Json describe_checkpoint(const fs::path& path) {
  const Checkpoint checkpoint(path, /*prefer_latest=*/false, /*verify=*/true);
  return {{"kind", "checkpoint"},
          {"path", checkpoint.directory().string()},
          {"manifest", checkpoint.manifest()}};
}

Json describe_llm(const fs::path& path) {
  const HfCheckpoint model(path);
  const LlamaConfig& c = model.config();
  Json description = {{"kind", "model"},
                      {"path", path.string()},
                      {"model_type", c.model_type},
                      {"layers", c.layers},
                      {"hidden_size", c.hidden_size},
                      {"intermediate_size", c.intermediate_size},
                      {"heads", c.heads},
                      {"kv_heads", c.kv_heads},
                      {"head_dim", c.head_dim},
                      {"vocab_size", c.vocab_size},
                      {"max_positions", c.max_positions},
                      {"tied_embeddings", c.tied_embeddings},
                      {"fingerprint", model.fingerprint()}};
  if (fs::exists(path / "tokenizer.json") || fs::exists(path / "tokenizer.model")) {
    const Tokenizer tokenizer(path);
    description["tokens"] = tokenizer.vocabulary_size();
    description["bos"] = tokenizer.bos() ? Json(*tokenizer.bos()) : Json();
  }
  return description;
}

void append_text(const Json& value, const std::string& indent, std::string& text) {
  for (const auto& [name, member] : value.items()) {
    if (member.is_object() && !member.empty()) {
      text += fmt::format("{}{}:\n", indent, name);
      append_text(member, indent + "  ", text);
    } else if (member.is_string()) {
      text += fmt::format("{}{}: {}\n", indent, name, member.get<std::string>());
    } else {
      text += fmt::format("{}{}: {}\n", indent, name, member.dump());
    }
  }
}

}  // namespace

Json describe(const fs::path& path) {
  const std::pair<const char*, Json (*)(const fs::path&)> kinds[] = {
      {"dataset.json", describe_dataset},     {"partition.json", describe_partition},
      {"pretrain.json", describe_pretrained}, {"manifest.json", describe_checkpoint},
      {"BEST", describe_checkpoint},          {"LATEST", describe_checkpoint},
      {"config.json", describe_llm}};
  try {
    if (!fs::exists(path)) throw DataError("{}: does not exist", path.string());
    if (!fs::is_directory(path)) {
      return path.extension() == ".json" ? describe_recording(path) : describe_safetensors(path);
    }
    for (const auto& [file, describe_kind] : kinds) {
      if (fs::exists(path / file)) return describe_kind(path);
    }
    if (holds_recordings(path)) return compare_recordings(path);
  } catch (const fs::filesystem_error& error) {
    throw DataError("{}: {}", path.string(), error.code().message());
  } catch (const Json::exception& error) {
    throw DataError("{}: is damaged ({})", path.string(), error.what());
  }
  throw DataError(
      "{}: is no dataset, partition, pretrained embeddings, checkpoint, LLM or flight recordings "
      "(it has none of dataset.json, partition.json, pretrain.json, manifest.json, BEST, LATEST, "
      "config.json, rank-*.json)",
      path.string());
}

std::string to_text(const Json& description) {
  std::string text;
  append_text(description, "", text);
  return text;
}

}  // namespace graphlora
