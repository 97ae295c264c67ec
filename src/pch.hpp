// Precompiled header: LibTorch takes fifteen seconds a translation unit without it. GCC
// instantiates what inline functions of its headers need in every unit again, so that rarely used
// ones stay out (torch/csrc/autograd: 1.4 s a unit).
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
