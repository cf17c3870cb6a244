// AMX-INT8: tdpbssd multiplies signed bytes, 16 rows by 16 channels by 64 k in an instruction, so activations stay int8
// and the panel's first row (layout.h) is not needed. A panel is two tiles of weights, read in place.

#if defined(__x86_64__)

#include "common/amx.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cpu_features.h"
#include "int8_gemm/quantize_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8,prefer-vector-width=512")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 32;                  // 2 x 2 tiles of sums, 2 of activations, 2 of weights: all eight
constexpr int kHalf = 16;                  // rows and channels of a tile
constexpr int kStep = 64;                  // k of a tile
constexpr int kStepWords = kStep / 4;      // a panel's rows in a tile of weights
constexpr int64_t kAccBytes = kPanel * 4;  // a row of sums

// Linux gives the tile registers (8 KB of state a thread) only to processes that ask: arch/x86/xstate.rst.
bool permitted() {
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool supported() {
  const CpuFeatures has = detect_cpu();
  return has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl && has.avx512_vnni && has.amx_tile &&
         has.amx_int8 && permitted();
}

// Of this thread: the height its tiles are configured for, 0: not configured.
thread_local int configured_rows = 0;
thread_local bool opened = false;

// Sums are tiles 0 to 3 (rows 0-15, 0-15, 16-31, 16-31), activations 4 and 5, weights 6 and 7.
void configure(int rows) {
  if (configured_rows == rows) return;
  TileConfig config;
  const int height[] = {std::min(rows, kHalf), std::max(rows - kHalf, 0)};
  for (int t = 0; t < 8; ++t) {
    const int tall = t >= 6 ? kHalf : height[t == 2 || t == 3 || t == 5];
    config.rows[t] = static_cast<uint8_t>(tall);
    config.row_bytes[t] = tall > 0 ? kStep : 0;
  }
  TILE_CONFIGURE(config);
  configured_rows = rows;
}

void release() {
  if (configured_rows != 0) TILE_RELEASE();
  configured_rows = 0;
}

void open() { opened = true; }

void close() {
  release();
  opened = false;
}

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<int8_t, 0>(a, k, static_cast<int8_t*>(prepared));
}

TARGET void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<int8_t, -128>(a, k, static_cast<int8_t*>(prepared));
}

TARGET float prepare_quantized(Float type, const void* x, int64_t k, void* prepared) {
  std::memset(static_cast<char*>(prepared) + k, 0, static_cast<size_t>(padded_k(k) - k));
  return quantize_row_avx512<0>(type, x, k, prepared);
}

TARGET float quantize(Float type, const void* x, int64_t k, int8_t* q) { return quantize_row_avx512<0>(type, x, k, q); }

// The last words of a panel, zeros after them: a tile read in place would reach beyond the weight.
PYPROD_INLINE void copy_tail(const int8_t* weights, int64_t words, int8_t* tail) {
  std::memcpy(tail, weights, static_cast<size_t>(words * kRowBytes));
  std::memset(tail + words * kRowBytes, 0, static_cast<size_t>((kStepWords - words) * kRowBytes));
}

// A step of one tile of rows, or of two: adds a[rows, 64] * weights to the sums.
template <bool kTwo>
PYPROD_INLINE void step(const char* a, int64_t stride, const int8_t* weights) {
  TILE_LOAD(4, a, stride);
  if constexpr (kTwo) TILE_LOAD(5, a + kHalf * stride, stride);
  TILE_LOAD_ONCE(6, weights, kRowBytes);
  TILE_MULTIPLY(0, 4, 6);
  if constexpr (kTwo) TILE_MULTIPLY(2, 5, 6);
  TILE_LOAD_ONCE(7, weights + kStep, kRowBytes);
  TILE_MULTIPLY(1, 4, 7);
  if constexpr (kTwo) TILE_MULTIPLY(3, 5, 7);
}

// A finished tile whose epilogue is yet to run: it is interleaved with the next tile's steps, a few rows after each,
// because the vector units and the store buffer are idle while the tile unit multiplies.
struct Pending {
  const Epilogue* epilogue = nullptr;
  int64_t m = 0, n = 0;
  int rows = 0, cols = 0, done = 0;
  const int32_t* acc = nullptr;
  const int8_t* panel = nullptr;
};

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel);

// Finishes rows until `until` are done; whole groups of four (finish_tile) unless it is the end.
PYPROD_INLINE void advance(Pending& p, int until) {
  until = until >= p.rows ? p.rows : until / 4 * 4;
  if (until <= p.done) return;
  finish(*p.epilogue, p.m + p.done, until - p.done, p.n, p.cols, p.acc + p.done * kPanel, p.panel);
  p.done = until;
}

// Weights that come after this block, fetched into L2 bit by bit while the tile unit multiplies: L3 gives 8 bytes per
// cycle, a tile of 32 rows takes 32.
struct Ahead {
  const char* next;
  const char* end;
  int64_t lines;  // per step
};

PYPROD_INLINE void fetch(Ahead& ahead) {
  const char* until = std::min(ahead.next + ahead.lines * 64, ahead.end);
  for (; ahead.next < until; ahead.next += 64) _mm_prefetch(ahead.next, _MM_HINT_T1);
}

template <bool kTwo>
TARGET void multiply(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc, Pending& previous,
                     Ahead& ahead) {
  TILE_ZERO(0);
  TILE_ZERO(1);
  if constexpr (kTwo) {
    TILE_ZERO(2);
    TILE_ZERO(3);
  }
  const int8_t* weights = panel + kRowBytes;
  const int64_t words = ceil_div(k, 4), steps = ceil_div(words, kStepWords);
  const int share = static_cast<int>(steps > 0 ? ceil_div(256 * int64_t{previous.rows}, steps) : 0);  // 1/256 rows
  int due = 0;
  for (int64_t i = 0; i < words / kStepWords; ++i, a += kStep, weights += kStepWords * kRowBytes) {
    step<kTwo>(a, stride, weights);
    fetch(ahead);
    due += share;
    advance(previous, due >> 8);
  }
  if (words % kStepWords > 0) {
    alignas(64) int8_t tail[kStepWords * kRowBytes];
    copy_tail(weights, words % kStepWords, tail);
    step<kTwo>(a, stride, tail);
  }
  advance(previous, previous.rows);
  TILE_STORE(0, acc, kAccBytes);
  TILE_STORE(1, acc + kHalf, kAccBytes);
  if constexpr (kTwo) {
    TILE_STORE(2, acc + kHalf * kPanel, kAccBytes);
    TILE_STORE(3, acc + kHalf * kPanel + kHalf, kAccBytes);
  }
}

void multiply(int rows, const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc, Pending& previous,
              Ahead& ahead) {
  configure(rows);
  if (rows > kHalf) {
    multiply<true>(a, stride, panel, k, acc, previous, ahead);
  } else {
    multiply<false>(a, stride, panel, k, acc, previous, ahead);
  }
}

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  Pending none;
  Ahead nothing = {};
  multiply(rows, static_cast<const char*>(a), stride, panel, k, acc, none, nothing);
  if (!opened) release();
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_avx512(e, m, rows, n, cols, acc, panel);
}

// Whole tiles of 32 rows and the rest last: a new height costs a configuration.
void block(const Block& b, const Epilogue& epilogue) {
  alignas(64) int32_t acc[2][kMaxTileRows * kPanel];
  Pending pending;
  int current = 0;
  const int64_t bytes = panel_bytes(b.k), steps = std::max<int64_t>(1, b.k / kStep);
  const int64_t tiles = ceil_div(b.count, kRows);
  const char* packed = reinterpret_cast<const char*>(b.packed);
  // Tiles of rows share out the next block among them. A single one fetches the next panel while it works on this one,
  // if it is high enough to leave time for it: 32 rows of K = 4096 take 9% less, 16 rows would take 2 to 9% more.
  const int64_t share = ceil_div((b.next - b.end) * bytes, 64 * tiles * (b.end - b.begin) * steps);
  const int64_t lines = tiles > 1 ? share : b.count > kHalf ? kStepWords * kRowBytes / 64 : 0;
  Ahead ahead = {packed + (tiles > 1 ? b.end : b.begin + 1) * bytes, packed + b.next * bytes, lines};
  const TileScope scope(kAmx);
  for (int64_t r = 0; r < b.count; r += kRows) {
    const int height = static_cast<int>(std::min<int64_t>(kRows, b.count - r));
    for (int64_t p = b.begin; p < b.end; ++p, current ^= 1) {
      const int8_t* panel = b.packed + p * bytes;
      multiply(height, b.rows + r * b.stride, b.stride, panel, b.k, acc[current], pending, ahead);
      pending = {&epilogue, b.m + r, p * kPanel, height, columns(b, p), 0, acc[current], panel};
    }
  }
  advance(pending, pending.rows);
}

}  // namespace

const Path kAmx = {.name = "amx",
                   .supported = supported,
                   .tile_rows = kRows,
                   .activation_bytes = sizeof(int8_t),
                   .macs_per_nanosecond = 2000,
                   .prepare = prepare,
                   .prepare_unsigned = prepare_unsigned,
                   .prepare_quantized = prepare_quantized,
                   .quantize = quantize,
                   .tile = tile,
                   .finish = finish,
                   .block = block,
                   .open = open,
                   .close = close};

}  // namespace pyprod::int8_gemm

#endif
