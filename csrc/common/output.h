#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/tensor.h>

#include <array>

#include "common/checks.h"
#include "common/huge_pages.h"

namespace pyprod {

// glibc maps blocks of 32 MB and more anew each time, whatever it is told, and every small page of them costs a fault
// when it is written: int8_linear of 2048 rows by 14336 x 4096 (117 MB) takes 610 ms so, 549 in huge pages.
inline constexpr int64_t kMappedElements = int64_t{8} << 20;

// A contiguous tensor for an op's result, uninitialized, on the device of `like`. torch::stable::new_empty does the
// same through the dispatcher: 7300 instructions instead of 2300, of 39000 that the smallest int8_linear takes from
// Python.
inline Tensor new_output(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType type) {
  constexpr size_t kMostDimensions = 64;  // torch's own limit
  PYPROD_CHECK(sizes.size() <= kMostDimensions, "an output has at most ", kMostDimensions, " dimensions");
  std::array<int64_t, kMostDimensions> strides;
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i] > 0 ? sizes[i] : 1) strides[i] = stride;
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype, device_type, device_index, &made));
  Tensor output(made);
  if (stride >= kMappedElements && output.is_cpu()) {
    advise_huge_pages(output.const_data_ptr(), static_cast<size_t>(output.numel()) * output.element_size());
  }
  return output;
}

}  // namespace pyprod
