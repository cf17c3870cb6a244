// AMX-INT8: tdpbssd multiplies signed bytes, 16 rows by 16 channels by 64 k in an instruction, so activations stay int8
// and the panel's first row (layout.h) is not needed. A panel is two tiles of weights, read in place.

#if defined(__x86_64__)

#include "int8_gemm/amx_tile.h"
#include "int8_gemm/driver.h"
#include "int8_gemm/quantize_avx512.h"

namespace pyprod::int8_gemm {
namespace {

using namespace amx;

// Whether a TileScope lives in this thread.
thread_local bool opened = false;

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

TARGET RowCode prepare_quantized(const FloatRow& x, int64_t k, void* prepared) {
  std::memset(static_cast<char*>(prepared) + k, 0, static_cast<size_t>(padded_k(k) - k));
  return quantize_row_avx512<0>(x, k, prepared);
}

TARGET float quantize(const FloatRow& x, int64_t k, int8_t* q) { return quantize_row_avx512<0>(x, k, q).scale; }

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  Pending none;
  Ahead nothing;
  multiply(rows, {static_cast<const char*>(a), stride, panel + kRowBytes, ceil_div(k, 4)}, nullptr, acc, none, nothing);
  if (!opened) release();
}

// All of K at once. Whole tiles of 32 rows and the rest last: a new height costs a configuration.
void block_of_whole_k(const Block& b, const Epilogue& epilogue) {
  alignas(64) int32_t acc[2][kMaxTileRows * kPanel];
  Pending pending;
  int current = 0;
  const int64_t bytes = panel_bytes(b.k), steps = std::max<int64_t>(1, b.k / kStep);
  const int64_t tiles = ceil_div(b.count, kRows);
  const char* packed = reinterpret_cast<const char*>(b.packed);
  // Tiles of rows share out the next block among them. A single one fetches the next panel while it works on this one,
  // if it is high enough to leave time for it: 32 rows of K = 4096 take 9% less, 16 rows would take 2 to 9% more.
  const int64_t share = ceil_div((b.next - b.end) * bytes, 64 * tiles * (b.end - b.begin) * steps);
  // Weights that stay in L2 from call to call need none of it.
  const bool resident = ceil_div(b.n, kPanel) * bytes <= l2_bytes() / 2;
  const int64_t lines = tiles > 1 ? share : b.count > kHalf && !resident ? kStepWords * kRowBytes / 64 : 0;
  const int64_t from = tiles > 1 ? b.end : b.begin + 1;
  Ahead ahead = {packed + from * bytes, bytes, bytes, std::max<int64_t>(0, b.next - from), lines};
  for (int64_t r = 0; r < b.count; r += kRows) {
    const int height = static_cast<int>(std::min<int64_t>(kRows, b.count - r));
    for (int64_t p = b.begin; p < b.end; ++p, current ^= 1) {
      const int8_t* panel = b.packed + p * bytes;
      multiply(height, {b.rows + r * b.stride, b.stride, panel + kRowBytes, ceil_div(b.k, 4)}, nullptr, acc[current],
               pending, ahead);
      pending = {&epilogue, b.m + r, p * kPanel, height, columns(b, p), 0, acc[current], panel};
    }
  }
  advance(pending, pending.rows);
}

// k in parts, so that 32 rows of a part stay in L1 and a part of all rows in L2; the sums wait in scratch memory (512
// KB for all rows and panels of a group) for the next part. Each weight is then read once for 512 rows whatever k is,
// and the next part's weights are fetched into L2 meanwhile. 512 x 4096 x 14336: 74 ms with 64 rows at a time and k
// whole, 37 ms so; below k = 8192, where 128 rows fit L2, it gains nothing.
class CutK {
 public:
  CutK(const Block& block, const Epilogue& epilogue) : b_(block), epilogue_(epilogue) {}

  void run() {
    for (int64_t first = b_.begin; first < b_.end; first += kGroup) {
      const int64_t last = std::min(b_.end, first + kGroup);
      for (int64_t word = 0; word < words_; word += kPartWords) part(first, last, word);
    }
    advance(pending_, pending_.rows);
  }

 private:
  static constexpr int64_t kPartWords = 256;  // of k: 1024
  static constexpr int64_t kGroup = 8;        // panels

  const Block& b_;
  const Epilogue& epilogue_;
  const int64_t words_ = ceil_div(b_.k, 4), bytes_ = panel_bytes(b_.k), tiles_ = ceil_div(b_.count, kRows);
  int32_t* const sums_ =
      reinterpret_cast<int32_t*>(scratch<struct Sums>(static_cast<size_t>(tiles_ * kRows * kGroup * kAccBytes)));
  alignas(64) int32_t acc_[2][kMaxTileRows * kPanel];
  Pending pending_;
  int current_ = 0;

  // All rows against words [word, word + kPartWords) of panels [first, last).
  void part(int64_t first, int64_t last, int64_t word) {
    const int64_t count = std::min(kPartWords, words_ - word);
    const bool final = word + count == words_;
    Ahead ahead = following(first, last, word);
    for (int64_t r = 0; r < b_.count; r += kRows) {
      const int height = static_cast<int>(std::min<int64_t>(kRows, b_.count - r));
      for (int64_t p = first; p < last; ++p) {
        const int8_t* panel = b_.packed + p * bytes_;
        int32_t* sums = sums_ + (r * kGroup + (p - first) * kRows) * kPanel;
        int32_t* to = final ? acc_[current_] : sums;
        const Factors f = {b_.rows + r * b_.stride + 4 * word, b_.stride, panel + (1 + word) * kRowBytes, count};
        multiply(height, f, word > 0 ? sums : nullptr, to, pending_, ahead);
        pending_ = {};
        if (!final) continue;
        pending_ = {&epilogue_, b_.m + r, p * kPanel, height, columns(b_, p), 0, to, panel};
        current_ ^= 1;
      }
    }
  }

  // The weights of the part after this one, shared out among the steps of this one.
  Ahead following(int64_t first, int64_t last, int64_t word) const {
    const int64_t steps = tiles_ * (last - first) * ceil_div(std::min(kPartWords, words_ - word), kStepWords);
    word += kPartWords;
    if (word >= words_) {
      word = 0;
      first = last;
      last = std::min(b_.end, first + kGroup);
    }
    const int64_t width = std::min(kPartWords, words_ - word) * kRowBytes;
    const char* from = reinterpret_cast<const char*>(b_.packed) + first * bytes_ + (1 + word) * kRowBytes;
    return {from, width, bytes_, last - first, ceil_div((last - first) * width, 64 * steps)};
  }
};

void block(const Block& b, const Epilogue& epilogue) {
  const TileScope scope(kAmx);
  if (b.cut_k) return CutK(b, epilogue).run();
  block_of_whole_k(b, epilogue);
}

}  // namespace

const Path kAmx = {.tile_rows = kRows,
                   .activation_bytes = sizeof(int8_t),
                   .macs_per_nanosecond = 2000,
                   .prepare = prepare,
                   .prepare_unsigned = prepare_unsigned,
                   .prepare_quantized = prepare_quantized,
                   .quantize = quantize,
                   .tile = tile,
                   .finish = finish,
                   .block = block,
                   .cut_rows = 512,
                   .open = open,
                   .close = close};

}  // namespace pyprod::int8_gemm

#endif
