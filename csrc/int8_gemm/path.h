#pragma once

#include <cstdint>

#include "common/quantize.h"
#include "int8_gemm/epilogue.h"
#include "int8_gemm/layout.h"

namespace pyprod::int8_gemm {

// `count` prepared rows, the first of which is row m of the output, against panels [begin, end) of a packed weight.
struct Block {
  const char* rows;
  int64_t stride;  // bytes from one row to the next
  int64_t m, count;
  const int8_t* packed;
  int64_t n, k;
  int64_t begin, end;
  int64_t next;  // end of the panels that this thread takes after these: they may be fetched into L2 meanwhile
  bool cut_k;    // k is so long that neither the rows nor some panels fit L2: see Path::cut_rows
};

// One instruction set. A path keeps activations in a form of its own ("prepared": unsigned bytes, int16 ...), an
// element of which stands for one int8 and depends on nothing else: prepared rows may be put together from pieces.
// A row must be readable up to a multiple of 64 bytes; what lies beyond padded_k(k) elements does not matter.
struct Path {
  int tile_rows;            // rows that tile() takes at most
  int activation_bytes;     // of a prepared element
  uint8_t flip = 0;         // of a prepared byte: what it is xor'ed with; 0x80 adds 128
  int macs_per_nanosecond;  // about what a core does, to tell how many threads are worth waking

  // Copies k int8 into prepared form.
  void (*prepare)(const int8_t* a, int64_t k, void* prepared);
  // Copies k uint8, each lowered by 128 to be an int8, into prepared form.
  void (*prepare_unsigned)(const uint8_t* a, int64_t k, void* prepared);
  // Quantizes k floats into prepared form (common/quantize.h).
  RowCode (*prepare_quantized)(const FloatRow& x, int64_t k, void* prepared);
  // Quantizes k floats to int8, symmetric; returns the scale.
  float (*quantize)(const FloatRow& x, int64_t k, int8_t* q);
  // acc[rows][32] = a[rows, k] * panel, exact. `stride`: bytes from one prepared row to the next. Works alone; many
  // calls belong into a TileScope.
  void (*tile)(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc);
  // Applies `epilogue` to acc[rows][32], which is the corner (m, n) of the output; columns beyond N are not written.
  // `panel`: the one that acc was computed from; read only where the epilogue has a zero point, else may be null.
  void (*finish)(const Epilogue& epilogue, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                 const int8_t* panel);
  // All of a block, finished: tile() and finish() in the order that is best here.
  void (*block)(const Block& block, const Epilogue& epilogue);
  // Rows that block() takes at once when it is told to cut k; 0: it can't.
  int cut_rows = 0;
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
extern const Path kAvxVnni;
extern const Path kAvx512Vnni;
extern const Path kAmx;
#endif

// The path of isa() (common/isa.h).
const Path& path();

// The same for a GEMM of `rows` rows: AMX leaves few rows to AVX512-VNNI, unless PYPROD_ISA names it.
const Path& path_for(int64_t rows);

// Of panel p that are part of the output.
inline int columns(const Block& b, int64_t p) {
  return b.n - p * kPanel < kPanel ? static_cast<int>(b.n - p * kPanel) : kPanel;
}

inline int64_t padded_k(int64_t k) { return ceil_div(k, 4) * 4; }

}  // namespace pyprod::int8_gemm
