#include "dist/signs_of_life.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/file.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

nlohmann::json to_json(const Sign& sign) {
  return {{"beat", sign.beat}, {"waits", sign.waits}, {"idle", sign.idle}, {"doing", sign.doing}};
}

Sign sign_of(const nlohmann::json& json) {
  Sign sign;
  json.at("beat").get_to(sign.beat);
  json.at("waits").get_to(sign.waits);
  json.at("idle").get_to(sign.idle);
  json.at("doing").get_to(sign.doing);
  return sign;
}

void write_line(const fs::path& path, const nlohmann::json& json) {
  write_file(path, json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

SignsOfLife::SignsOfLife(fs::path directory, std::int64_t run)
    : directory_(std::move(directory)), run_(run) {}

void SignsOfLife::write(int rank, const Sign& sign) const {
  make_directories(directory_);
  write_line(sign_file(rank), to_json(sign));
}

std::optional<Sign> SignsOfLife::read(int rank) const {
  try {
    return sign_of(read_json(sign_file(rank)));
  } catch (const std::exception&) {  // NOLINT: not there, withdrawn meanwhile, or foreign
    return std::nullopt;
  }
}

Signs SignsOfLife::read_all(int ranks, const std::function<void()>& between) const {
  Signs signs;
  for (int rank = 0; rank < ranks; ++rank) {
    between();
    if (auto sign = read(rank)) signs[rank] = std::move(*sign);
  }
  return signs;
}

void SignsOfLife::write_table(const Signs& signs) const {
  nlohmann::json table = nlohmann::json::array();
  for (const auto& [rank, sign] : signs) {
    table.push_back(to_json(sign));
    table.back()["rank"] = rank;
  }
  make_directories(directory_);
  write_line(table_file(), table);
}

Signs SignsOfLife::read_table() const {
  Signs signs;
  try {
    for (const nlohmann::json& row : read_json(table_file()))
      signs[row.at("rank").get<int>()] = sign_of(row);
  } catch (const std::exception&) {  // NOLINT: as in read()
    return {};
  }
  return signs;
}

void SignsOfLife::remove(int rank) const {
  std::error_code ignored;
  fs::remove(sign_file(rank), ignored);
}

void SignsOfLife::remove_table() const {
  std::error_code ignored;
  fs::remove(table_file(), ignored);
}

fs::path SignsOfLife::asked_file() const { return directory_ / fmt::format("asked-{}", run_); }

fs::path SignsOfLife::sign_file(int rank) const {
  return directory_ / fmt::format("alive-{}-{:05}", run_, rank);
}

fs::path SignsOfLife::table_file() const { return directory_ / fmt::format("alive-{}", run_); }

}  // namespace graphlora
