#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "common/checks.h"

// What every op's CUDA implementation does beside its launches: nothing but the stable ABI is used, and the library
// that holds it also loads on a torch without CUDA.

// Weak: libtorch_cuda has it, a CPU torch does not. Stream::nativeHandle() of the stable ABI would need torch 2.13.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace pyprod {

// The current stream of a tensor's device, which is the current device for as long as this lives.
class OnDevice {
 public:
  OnDevice(const char* op, const Tensor& t) : op_(op), guard_(t.get_device_index()) {
    PYPROD_CHECK(aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch is built without CUDA");
    PYPROD_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_) == 0, op, ": no CUDA stream");
  }

  void* stream() const { return stream_; }

  // What a launch returned.
  void check(const char* error) const { PYPROD_CHECK(error == nullptr, op_, ": CUDA: ", error); }

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace pyprod
