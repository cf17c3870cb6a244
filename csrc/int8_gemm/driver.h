#pragma once

#include <torch/csrc/stable/ops.h>
#include <unistd.h>

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
// Rows that are prepared and multiplied at a time where the weights stay in L2.
inline constexpr int64_t kRowChunk = 64;
// Bytes of this CPU's L2, a core's own. 1 MB where the system does not say.
inline int64_t l2_bytes() {
  static const int64_t bytes = [] {
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return found > 0 ? int64_t{found} : int64_t{1} << 20;
  }();
  return bytes;
}

// Scratch of the calling thread, one for each purpose; grows, and is freed with the thread. No call keeps it beyond its
// own end.
enum class Scratch { rows, scales };

template <Scratch>
char* workspace(size_t bytes) {
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
    if (panels * panel_bytes(k_) <= l2_bytes() / 2 && m_ >= 2 * threads * path_.tile_rows) {
      // The weights stay in every core's L2: the threads share the rows.
      const int64_t grain = ceil_div(kGrain, std::max<int64_t>(1, n_ * k_));
      torch::stable::parallel_for(0, m_, grain, [&](int64_t begin, int64_t end) { row_range(begin, end, panels); });
      return;
    }
    // The threads share the panels: each weight is read by one core, once for as many rows as half of L2 holds.
    const int64_t chunks = ceil_div(m_ * stride_, l2_bytes() / 2);
    const int64_t step = ceil_div(ceil_div(m_, chunks), path_.tile_rows) * path_.tile_rows;
    char* rows = workspace<Scratch::rows>(static_cast<size_t>(std::min(step, m_) * stride_));
    for (int64_t m = 0; m < m_; m += step) panel_ranges(rows, m, std::min(step, m_ - m), panels);
  }

 private:
  const Path& path_;
  const int64_t m_, n_, k_;
  const int8_t* packed_;
  const Prepare prepare_;
  const Epilogue& epilogue_;
  const int64_t stride_ = prepared_stride(path_, k_);

  // Rows [begin, end) against all panels. A few tiles of rows at a time, so that what is prepared is still in L1 or
  // close, and takes no room in L2 from the weights, the input and the output.
  void row_range(int64_t begin, int64_t end, int64_t panels) const {
    const int64_t step = std::min<int64_t>(end - begin, std::max<int64_t>(kRowChunk, path_.tile_rows));
    char* rows = workspace<Scratch::rows>(static_cast<size_t>(step * stride_));
    for (int64_t m = begin; m < end; m += step) {
      const int64_t count = std::min(step, end - m);
      for (int64_t r = 0; r < count; ++r) prepare_(m + r, rows + r * stride_);
      path_.block({rows, stride_, m, count, packed_, n_, k_, 0, panels}, epilogue_);
    }
  }

  // Rows [m, m + count) against all panels, which the threads share: in blocks of a fifth of L2, which is then read
  // again for each tile of rows.
  void panel_ranges(char* rows, int64_t m, int64_t count, int64_t panels) const {
    const int64_t row_grain = ceil_div(kGrain / 16, std::max<int64_t>(1, k_));  // preparing costs ~16 MACs an element
    torch::stable::parallel_for(0, count, row_grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) prepare_(m + r, rows + r * stride_);
    });
    const int64_t step = std::max<int64_t>(1, l2_bytes() / 5 / panel_bytes(k_));
    const int64_t panel_grain = ceil_div(kGrain, std::max<int64_t>(1, count * k_ * kPanel));
    torch::stable::parallel_for(0, panels, panel_grain, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += step) {
        const int64_t last = std::min(end, first + step), next = std::min(end, last + step);
        path_.block({rows, stride_, m, count, packed_, n_, k_, first, last, next}, epilogue_);
      }
    });
  }
};

}  // namespace pyprod::int8_gemm
