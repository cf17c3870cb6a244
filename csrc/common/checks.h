#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/activation.h"
#include "common/float_types.h"
#include "common/string_argument.h"

// The border between torch and the kernels: every argument is checked here, before any memory is touched. A message
// names the op, the argument, what it got and what it needs.

namespace pyprod {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// A macro, so that the message's parts are built only when the check fails.
#define PYPROD_CHECK(condition, ...) \
  do {                               \
    if (!(condition)) [[unlikely]]   \
      ::pyprod::refuse(__VA_ARGS__); \
  } while (false)

// Python's name of a dtype: "float32".
inline std::string dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return torch::headeronly::toString(type);
  }
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType need) {
  PYPROD_CHECK(t.scalar_type() == need, op, ": ", name, " must be ", dtype_name(need), ", got ",
               dtype_name(t.scalar_type()));
}

inline Float check_float(const char* op, const char* name, ScalarType got) {
  switch (got) {
    case ScalarType::Float:
      return Float::f32;
    case ScalarType::BFloat16:
      return Float::bf16;
    case ScalarType::Half:
      return Float::f16;
    default:
      refuse(op, ": ", name, " must be float32, bfloat16 or float16, got ", dtype_name(got));
  }
}

inline void check_same_device(const char* op, const char* name, const Tensor& t, const Tensor& first) {
  PYPROD_CHECK(t.is_cuda() == first.is_cuda() && t.is_cpu() == first.is_cpu() &&
                   t.get_device_index() == first.get_device_index(),
               op, ": ", name, " must be on the device of the first argument");
}

// A contiguous float32 vector of n values.
inline void check_vector(const char* op, const char* name, const Tensor& t, int64_t n, const Tensor& first) {
  check_dtype(op, name, t, ScalarType::Float);
  PYPROD_CHECK(t.dim() == 1 && t.size(0) == n, op, ": ", name, " must be [", n, "], got ", shape_text(t));
  PYPROD_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous");
  check_same_device(op, name, t, first);
}

inline Activation check_activation(const char* op, const std::optional<StringArgument>& name) {
  if (!name.has_value()) return Activation::none;
  if (*name == "relu") return Activation::relu;
  if (*name == "gelu") return Activation::gelu;
  if (*name == "gelu_tanh") return Activation::gelu_tanh;
  if (*name == "silu") return Activation::silu;
  refuse(op, ": activation must be None, relu, gelu, gelu_tanh or silu, got ", *name);
}

}  // namespace pyprod
