// What stands behind a path: a dataset, a partition, embeddings, a checkpoint, an LLM, flight
// recordings, a safetensors file.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace graphlora {

/// Opens and checks whatever `path` is (a dataset's and a checkpoint's checksums too) and describes
/// it; "kind" names it. Throws DataError if it is nothing known or damaged.
nlohmann::ordered_json describe(const std::filesystem::path& path);

/// A description as indented lines for people.
std::string to_text(const nlohmann::ordered_json& description);

}  // namespace graphlora
