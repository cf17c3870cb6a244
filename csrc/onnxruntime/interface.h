#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// What a custom operator needs of ONNX Runtime's C interface (onnxruntime_c_api.h), which no wheel brings. That
// interface is a table of functions that only ever grows at its end, so a function is its place in the table, and a
// library that asks for version 17 (January 2024) runs with every later ONNX Runtime.

namespace pyprod::onnxruntime {

inline constexpr uint32_t kVersion = 17;

// ONNX Runtime's own; only pointers to them are passed on.
struct Status;
struct SessionOptions;
struct Domain;
struct Value;
struct TypeAndShape;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;

enum class ElementType : int { f32 = 1, i8 = 3 };
enum class ErrorCode : int { fail = 1, invalid_argument = 2 };
enum class Presence : int { required = 0, optional = 1 };

// The functions of ONNX Runtime, the last one used being the last one named.
struct Table {
  const void* places[275];
};

template <int kPlace, class Function>
struct Entry;

template <int kPlace, class Result, class... Arguments>
struct Entry<kPlace, Result(Arguments...)> {
  static Result call(const Table* table, Arguments... arguments) {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(table->places[kPlace]))(arguments...);
  }
};

// What returns a Status returns null where nothing went wrong.
using CreateStatus = Entry<0, Status*(ErrorCode, const char*)>;
using GetErrorMessage = Entry<2, const char*(const Status*)>;
using CreateDomain = Entry<26, Status*(const char*, Domain**)>;
using AddOp = Entry<27, Status*(Domain*, const struct CustomOp*)>;
using AddDomain = Entry<28, Status*(SessionOptions*, Domain*)>;
using GetData = Entry<51, Status*(const Value*, void**)>;
using CreateTypeAndShape = Entry<57, Status*(TypeAndShape**)>;
using SetElementType = Entry<58, Status*(TypeAndShape*, ElementType)>;
using SetSizes = Entry<59, Status*(TypeAndShape*, const int64_t*, size_t)>;
using GetElementType = Entry<60, Status*(const TypeAndShape*, ElementType*)>;
using GetRank = Entry<61, Status*(const TypeAndShape*, size_t*)>;
using GetSizes = Entry<62, Status*(const TypeAndShape*, int64_t*, size_t)>;
using GetSizeNames = Entry<63, Status*(const TypeAndShape*, const char**, size_t)>;
using GetTypeAndShape = Entry<65, Status*(const Value*, TypeAndShape**)>;
using GetStringAttribute = Entry<87, Status*(const KernelInfo*, const char*, char*, size_t*)>;
using GetInputCount = Entry<88, Status*(const KernelContext*, size_t*)>;
using GetInput = Entry<90, Status*(const KernelContext*, size_t, const Value**)>;
using GetOutput = Entry<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Entry<93, void(Status*)>;
using ReleaseTypeAndShape = Entry<99, void(TypeAndShape*)>;
using GetInputShape = Entry<268, Status*(const ShapeContext*, size_t, TypeAndShape**)>;  // stays the context's
using SetOutputShape = Entry<270, Status*(const ShapeContext*, size_t, const TypeAndShape*)>;
using SetSizeNames = Entry<271, Status*(TypeAndShape*, const char**, size_t)>;
using ParallelFor = Entry<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>;

struct ApiBase {
  const Table* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// What an operator gives ONNX Runtime; it keeps the pointer for as long as it lives.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Table*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  Presence (*input_presence)(const CustomOp*, size_t);
  Presence (*output_presence)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_least)(const CustomOp*);
  int (*variadic_input_alike)(const CustomOp*);
  int (*variadic_output_least)(const CustomOp*);
  int (*variadic_output_alike)(const CustomOp*);
  Status* (*create_kernel_checked)(const CustomOp*, const Table*, const KernelInfo*, void** kernel);
  Status* (*compute_checked)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, ShapeContext*);  // is not given the table
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
};

// Throws std::runtime_error with what ONNX Runtime says, if it says anything.
inline void check(const Table* table, Status* status) {
  if (status == nullptr) return;
  const std::string message = GetErrorMessage::call(table, status);
  ReleaseStatus::call(table, status);
  throw std::runtime_error(message);
}

// Runs f; what it throws becomes ONNX Runtime's error.
template <class F>
Status* guarded(const Table* table, const F& f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    return CreateStatus::call(table, ErrorCode::invalid_argument, error.what());
  }
}

// A tensor that a kernel is given: where it lies, of what type and shape.
struct Tensor {
  void* data = nullptr;
  ElementType type = ElementType::f32;
  std::vector<int64_t> sizes;
};

inline Tensor tensor_of(const Table* table, const Value* value) {
  Tensor tensor;
  check(table, GetData::call(table, value, &tensor.data));
  TypeAndShape* found = nullptr;
  check(table, GetTypeAndShape::call(table, value, &found));
  Status* failed = GetElementType::call(table, found, &tensor.type);
  size_t rank = 0;
  if (failed == nullptr) failed = GetRank::call(table, found, &rank);
  tensor.sizes.resize(rank);
  if (failed == nullptr) failed = GetSizes::call(table, found, tensor.sizes.data(), rank);
  ReleaseTypeAndShape::call(table, found);
  check(table, failed);
  return tensor;
}

// Input `index` of a call; data is null where an optional one is left out.
inline Tensor input(const Table* table, const KernelContext* context, size_t index) {
  size_t count = 0;
  check(table, GetInputCount::call(table, context, &count));
  const Value* value = nullptr;
  if (index < count) check(table, GetInput::call(table, context, index, &value));
  return value != nullptr ? tensor_of(table, value) : Tensor{};
}

}  // namespace pyprod::onnxruntime
