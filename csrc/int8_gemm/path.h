#pragma once

#include <cstdint>
#include <vector>

#include "common/activation.h"
#include "common/float_types.h"
#include "int8_gemm/layout.h"

namespace pyprod::int8_gemm {

// What becomes of an int32 accumulator: out = activation(acc * row_scale * col_scale + bias) + residual, in float32,
// evaluated in exactly that order: every path gives the same bits.
struct Epilogue {
  const float* row_scale;  // [M]
  const float* col_scale;  // [N]
  const float* bias;       // [N], or null
  Activation activation;
  const void* residual;  // [M, N] of type `type`, rows `out_stride` elements apart, or null
  void* out;             // [M, N]
  int64_t out_stride;
  Float type;
};

// One instruction set. A path keeps activations in a form of its own ("prepared": unsigned bytes, int16 ...), an
// element of which stands for one int8 and depends on nothing else: prepared rows may be put together from pieces.
// A row must be readable up to a multiple of 64 bytes; what lies beyond padded_k(k) elements does not matter.
struct Path {
  const char* name;
  bool (*supported)();
  int tile_rows;         // rows that tile() takes at most
  int row_unit;          // many rows are best cut into tiles of a multiple of it; 1: into equal ones
  int activation_bytes;  // of a prepared element

  // Copies k int8 into prepared form.
  void (*prepare)(const int8_t* a, int64_t k, void* prepared);
  // Quantizes k floats into prepared form; returns the scale (common/quantize.h).
  float (*prepare_quantized)(Float type, const void* x, int64_t k, void* prepared);
  // Quantizes k floats to int8; returns the scale.
  float (*quantize)(Float type, const void* x, int64_t k, int8_t* q);
  // acc[rows][32] = a[rows, k] * panel, exact. `stride`: bytes from one prepared row to the next. Works alone; many
  // calls belong into a TileScope.
  void (*tile)(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc);
  // Applies `epilogue` to acc[rows][32], which is the corner (m, n) of the output; columns beyond N are not written.
  void (*finish)(const Epilogue& epilogue, int64_t m, int rows, int64_t n, int cols, const int32_t* acc);
  // For TileScope; null where there is no such state.
  void (*open)() = nullptr;
  void (*close)() = nullptr;
};

// While it lives, tile() calls of this thread share the processor's tile configuration (AMX: 190 cycles to set, 12 to
// drop). One per thread and parallel region, not nested. Foreign code that may use AMX itself (a torch op) must not run
// inside.
class TileScope {
 public:
  explicit TileScope(const Path& path) : path_(path) {
    if (path_.open != nullptr) path_.open();
  }
  ~TileScope() {
    if (path_.close != nullptr) path_.close();
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  const Path& path_;
};

extern const Path kPortable;
#if defined(__x86_64__)
extern const Path kAvx2;
extern const Path kAvx512Vnni;
extern const Path kAmx;
#endif

// The best path of this CPU, or the one that the environment variable PYPROD_ISA names. Chosen once per process.
// Throws std::runtime_error when PYPROD_ISA names no path or one that this CPU can't run.
const Path& path();

inline int64_t padded_k(int64_t k) { return ceil_div(k, 4) * 4; }

}  // namespace pyprod::int8_gemm
