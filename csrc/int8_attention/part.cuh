#pragma once

#include "common/cuda/primitives.cuh"
#include "int8_attention/cuda.h"

namespace pyprod::int8_attention {

template <class T>
__device__ __forceinline__ const T* row_of(const CudaPart& part, int64_t batch, int64_t head, int64_t token) {
  return reinterpret_cast<const T*>(part.data + batch * part.batch_stride + head * part.head_stride +
                                    token * part.token_stride);
}

}  // namespace pyprod::int8_attention
