// What flight recordings say: of one rank, and of all ranks of a job side by side.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>

namespace graphlora {

/// Whether the directory holds recordings.
bool holds_recordings(const std::filesystem::path& directory);

/// Describes the recording in a file: who wrote it and why, and the last operations in words.
/// Throws DataError or nlohmann's exceptions where it is none.
nlohmann::ordered_json describe_recording(const std::filesystem::path& file);

/// Compares the recordings in a directory, those of its newest job: which ranks left none, which
/// are behind on an axis and in which operation, and the first operation in which ranks of an axis
/// did not do the same. Throws DataError or nlohmann's exceptions where they are damaged.
nlohmann::ordered_json compare_recordings(const std::filesystem::path& directory);

}  // namespace graphlora
