#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <optional>
#include <string>

// torch's own conversion of a string argument leaves a std::string behind in each call (2.13: ToImpl<std::string> news
// one and returns a copy). This specialization takes its place for optional strings, the only ones our ops take.

template <>
struct torch::stable::detail::ToImpl<std::optional<std::string>> {
  static std::optional<std::string> call(StableIValue value, uint64_t extension_build_version, bool is_internal) {
    const auto handle = ToImpl<std::optional<StringHandle>>::call(value, extension_build_version, is_internal);
    if (!handle.has_value()) return std::nullopt;
    const char* data = nullptr;
    size_t length = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(*handle, &data));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(*handle, &length));
    std::string text(data, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(*handle));
    return text;
  }
};
