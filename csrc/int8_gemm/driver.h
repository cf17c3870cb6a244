#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "int8_gemm/path.h"

// Blocking and threads, the same for every path.

namespace pyprod::int8_gemm {

// A parallel region costs 1.9 us on 2 threads; 2^19 multiply-adds take 2.2 us at 234 G/s: less than that per thread is
// not worth sharing.
inline constexpr int64_t kGrain = 1 << 19;
// Of weights in one block: with the activations and the output's lines they fit a 1 MB L2.
inline constexpr int64_t kWeightBlock = 400 << 10;
// Of prepared activations in one block.
inline constexpr int64_t kActivationBlock = 256 << 10;

// Scratch of the calling thread; grows, and is freed with the thread. No call keeps it beyond its own end.
inline char* workspace(size_t bytes) {
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<char, Free> buffer;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    buffer.reset(static_cast<char*>(std::aligned_alloc(64, rounded)));
    capacity = buffer ? rounded : 0;
    if (!buffer) throw std::bad_alloc();
  }
  return buffer.get();
}

// Bytes from one prepared row to the next: an odd number of cache lines, so that the rows of a tile never share a
// cache set (a stride of 4096 costs 21% at K = 4096).
inline int64_t prepared_stride(const Path& path, int64_t k) {
  return (ceil_div(padded_k(k) * path.activation_bytes, 64) | 1) * 64;
}

// One GEMM. `prepare(m, row)` writes row m's prepared activations; it is called from several threads, never twice for
// a row.
template <class Prepare>
class Driver {
 public:
  Driver(const Path& path, int64_t m, int64_t n, int64_t k, const int8_t* packed, Prepare prepare,
         const Epilogue& epilogue)
      : path_(path), m_(m), n_(n), k_(k), packed_(packed), prepare_(prepare), epilogue_(epilogue) {}

  void run() const {
    if (m_ == 0 || n_ == 0) return;
    const int64_t threads = torch::stable::get_num_threads(), panels = ceil_div(n_, kPanel);
    if (m_ >= 2 * threads * path_.tile_rows) {
      const int64_t grain = ceil_div(kGrain, std::max<int64_t>(1, n_ * k_));
      torch::stable::parallel_for(0, m_, grain, [&](int64_t begin, int64_t end) { row_range(begin, end, panels); });
      return;
    }
    // Few rows: all of them are prepared first, then the threads share the panels.
    char* rows = workspace(static_cast<size_t>(m_ * stride_));
    const int64_t row_grain = ceil_div(kGrain / 16, std::max<int64_t>(1, k_));  // preparing costs ~16 MACs an element
    torch::stable::parallel_for(0, m_, row_grain, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) prepare_(m, rows + m * stride_);
    });
    const int64_t panel_grain = ceil_div(kGrain, std::max<int64_t>(1, m_ * k_ * kPanel));
    torch::stable::parallel_for(0, panels, panel_grain,
                                [&](int64_t begin, int64_t end) { blocks(rows, 0, m_, begin, end); });
  }

 private:
  const Path& path_;
  const int64_t m_, n_, k_;
  const int8_t* packed_;
  const Prepare prepare_;
  const Epilogue& epilogue_;
  const int64_t stride_ = prepared_stride(path_, k_);

  // Rows [begin, end) against all panels, prepared a block at a time in this thread's own scratch.
  void row_range(int64_t begin, int64_t end, int64_t panels) const {
    const int64_t tiles = std::max<int64_t>(1, kActivationBlock / (stride_ * path_.tile_rows));
    const int64_t step = std::min(end - begin, tiles * path_.tile_rows);
    char* rows = workspace(static_cast<size_t>(step * stride_));
    for (int64_t m = begin; m < end; m += step) {
      const int64_t count = std::min(step, end - m);
      for (int64_t r = 0; r < count; ++r) prepare_(m + r, rows + r * stride_);
      blocks(rows, m, count, 0, panels);
    }
  }

  // `count` prepared rows, the first of which is row m, against panels [begin, end), as many as L2 holds at a time.
  void blocks(const char* rows, int64_t m, int64_t count, int64_t begin, int64_t end) const {
    const int64_t step = std::max<int64_t>(1, kWeightBlock / panel_bytes(k_));
    for (int64_t first = begin; first < end; first += step) {
      path_.block({rows, stride_, m, count, packed_, n_, k_, first, std::min(end, first + step)}, epilogue_);
    }
  }
};

}  // namespace pyprod::int8_gemm
