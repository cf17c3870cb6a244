// The CUDA kernels on the emulator, for tests: plain C functions over host memory. Each returns null, or what went
// wrong.

#include <cstdint>
#include <string>

#include "activation_quantize/cuda.h"
#include "emulator/machine.h"
#include "int8_attention/cuda.h"
#include "int8_gemm/cuda.h"
#include "norm/cuda.h"

using namespace pyprod;

struct EmulatorSettings {
  int asynchrony, major, processors;
  uint64_t seed;
};

namespace {

// Runs a launch on an emulator of its own; the message lives until the next.
template <class Launch>
const char* emulate(const EmulatorSettings& settings, const Launch& launch) {
  static std::string message;
  emulator::Machine machine(
      {static_cast<emulator::Asynchrony>(settings.asynchrony), settings.seed, settings.major, settings.processors});
  emulator::use(&machine);
  const char* error = launch();
  emulator::use(nullptr);
  if (error == nullptr) return nullptr;
  message = error;
  return message.c_str();
}

}  // namespace

extern "C" {

const char* emulate_gemm(const EmulatorSettings* settings, const int8_gemm::CudaGemm* gemm) {
  return emulate(*settings, [&] { return int8_gemm::launch_gemm(*gemm, nullptr); });
}

const char* emulate_quantize(const EmulatorSettings* settings, int type, const void* x, const float* multiplier,
                             int64_t x_stride, int64_t m, int64_t k, int8_t* q, int64_t q_stride, float* scale,
                             int32_t* zero_point) {
  return emulate(*settings, [&] {
    return int8_gemm::launch_quantize({static_cast<Float>(type), x, multiplier}, x_stride, m, k, q, q_stride, scale,
                                      zero_point, nullptr);
  });
}
const char* emulate_pad(const EmulatorSettings* settings, int is_unsigned, const void* x, int64_t x_stride, int64_t m,
                        int64_t k, int8_t* q, int64_t q_stride) {
  return emulate(*settings,
                 [&] { return int8_gemm::launch_pad(is_unsigned != 0, x, x_stride, m, k, q, q_stride, nullptr); });
}
const char* emulate_activation(const EmulatorSettings* settings, const activation_quantize::CudaRows* rows) {
  return emulate(*settings, [&] { return activation_quantize::launch(*rows, nullptr); });
}

const char* emulate_norm(const EmulatorSettings* settings, const norm::CudaRows* rows) {
  return emulate(*settings, [&] { return norm::launch(*rows, nullptr); });
}
const char* emulate_attention(const EmulatorSettings* settings, const int8_attention::CudaAttention* attention) {
  return emulate(*settings, [&] { return int8_attention::launch(*attention, nullptr); });
}
}
