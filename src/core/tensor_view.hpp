// Between tensors and standard containers, without a copy.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace graphlora {

/// The values of a contiguous CPU tensor; valid as long as the tensor.
template <class T>
std::span<const T> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), static_cast<std::size_t>(tensor.numel())};
}

/// A vector of numbers or of an enum as a tensor to read from; valid as long as the vector.
template <class T>
at::Tensor view_of(const std::vector<T>& values) {
  using Number = typename std::conditional_t<std::is_enum_v<T>, std::underlying_type<T>,
                                             std::type_identity<T>>::type;
  return at::from_blob(const_cast<T*>(values.data()), {static_cast<std::int64_t>(values.size())},
                       c10::CppTypeToScalarType<Number>::value);
}

}  // namespace graphlora
