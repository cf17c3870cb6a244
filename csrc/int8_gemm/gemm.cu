// Which of the GEMM kernels runs.

#include "common/cuda/primitives.cuh"
#include "int8_gemm/cuda.h"

namespace pyprod::int8_gemm {

const char* launch_gemm(const CudaGemm& gemm, void* stream) {
  if (gemm.m == 0 || gemm.n == 0) return nullptr;
  const cuda::Device device = cuda::current_device();
  // wgmma is Hopper's alone; a tensor map has no empty tensors.
  if (PYPROD_HAS_SM90A && device.major == 9 && gemm.k > 0) return launch_wgmma(gemm, stream, device.processors);
  return launch_mma(gemm, stream);
}

}  // namespace pyprod::int8_gemm
