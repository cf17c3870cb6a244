#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <string>

namespace pyprod {

// A string that an op takes. As std::string, torch's conversion would leave one behind in each call (2.13:
// ToImpl<std::string> news one and returns a copy).
struct StringArgument : std::string {
  using std::string::string;
};

}  // namespace pyprod

template <>
struct torch::stable::detail::ToImpl<pyprod::StringArgument> {
  static pyprod::StringArgument call(StableIValue value, uint64_t extension_build_version, bool is_internal) {
    const auto handle = ToImpl<StringHandle>::call(value, extension_build_version, is_internal);
    const char* data = nullptr;
    size_t length = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    pyprod::StringArgument text(data, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
