#pragma once

#include <unistd.h>

#include <algorithm>

#include "common/scratch.h"
#include "int8_gemm/path.h"

// Blocking and threads, the same for every path.

namespace pyprod::int8_gemm {

// A parallel region of 2 threads costs 1.5 us when its threads are awake and 10 when they sleep: a thread that gets
// less work than this is not worth waking.
inline constexpr int64_t kGrainNanoseconds = 5000;
// Of reading weights from L2 or L3; few rows are bound by it.
inline constexpr int64_t kBytesPerNanosecond = 100;
// Elements that are prepared in kGrainNanoseconds, 12 per nanosecond.
inline constexpr int64_t kPrepareGrain = 60000;
// Fewer rows than these are not worth reading weights from L3 for: AMX multiplies a byte of them by 110 rows in that
// time.
inline constexpr int64_t kFewestRows = 128;
// Bytes of weights per nanosecond that each of several threads may read from L3 or memory while it multiplies. Where
// its rows are so many that it needs no more, it reads all weights, and nothing that another core prepared: two threads
// of a Zen 4 take 710 instead of 741 us for 512 x 384 x 1536 and 67.6 instead of 73.5 ms for 512 x 14336 x 4096.
inline constexpr int64_t kSharedBytesPerNanosecond = 5;
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

// Purposes of scratch (common/scratch.h).
struct Rows;        // prepared activations
struct Scales;      // of rows
struct ZeroPoints;  // of rows

// Bytes from one prepared row to the next: an odd number of cache lines, so that the rows of a tile never share a
// cache set (a stride of 4096 costs 21% at K = 4096).
inline int64_t prepared_stride(const Path& path, int64_t k) {
  return (ceil_div(padded_k(k) * path.activation_bytes, 64) | 1) * 64;
}

// One GEMM on `threads` (common/parallel.h: TorchThreads). `prepare(m, row)` writes row m's prepared activations; it is
// called from several threads, never twice for a row.
template <class Threads, class Prepare>
class Driver {
 public:
  Driver(const Threads& threads, const Path& path, int64_t m, int64_t n, int64_t k, const int8_t* packed,
         Prepare prepare, const Epilogue& epilogue)
      : threads_(threads), path_(path), m_(m), n_(n), k_(k), packed_(packed), prepare_(prepare), epilogue_(epilogue) {}

  void run() const {
    if (m_ == 0 || n_ == 0) return;
    const int64_t threads = threads_.count(), panels = ceil_div(n_, kPanel);
    if (panels * panel_bytes(k_) <= l2_bytes() / 2 && m_ >= 2 * threads * path_.tile_rows) {
      // The weights stay in every core's L2: the threads share the rows.
      threads_.run(0, m_, grain(n_, 0), [&](int64_t begin, int64_t end) { row_range(begin, end, panels); });
      return;
    }
    const bool many_rows = m_ >= threads * path_.macs_per_nanosecond / kSharedBytesPerNanosecond;
    if (threads > 1 && many_rows) return share_rows(panels);
    share_panels(panels);
  }

 private:
  const Threads threads_;
  const Path& path_;
  const int64_t m_, n_, k_;
  const int8_t* packed_;
  const Prepare prepare_;
  const Epilogue& epilogue_;
  const int64_t stride_ = prepared_stride(path_, k_);

  // How many steps of `macs` * k multiplications and `bytes` * k of weights are worth a thread.
  int64_t grain(int64_t macs, int64_t bytes) const {
    const int64_t nanoseconds = std::max(macs * k_ / path_.macs_per_nanosecond, bytes * k_ / kBytesPerNanosecond);
    return ceil_div(kGrainNanoseconds, std::max<int64_t>(1, nanoseconds));
  }

  // Rows [begin, end) against all panels. A few tiles of rows at a time, so that what is prepared is still in L1 or
  // close, and takes no room in L2 from the weights, the input and the output.
  void row_range(int64_t begin, int64_t end, int64_t panels) const {
    const int64_t step = std::min<int64_t>(end - begin, std::max<int64_t>(kRowChunk, path_.tile_rows));
    char* rows = scratch<Rows>(static_cast<size_t>(step * stride_));
    for (int64_t m = begin; m < end; m += step) {
      const int64_t count = std::min(step, end - m);
      for (int64_t r = 0; r < count; ++r) prepare_(m + r, rows + r * stride_);
      path_.block({rows, stride_, m, count, packed_, n_, k_, 0, panels, panels, false}, epilogue_);
    }
  }

  // Each thread reads all of the weights, and nothing that another one prepared.
  void share_rows(int64_t panels) const {
    threads_.run(0, m_, ceil_div(m_, threads_.count()), [&](int64_t begin, int64_t end) {
      chunks(begin, end, [&](char* rows, int64_t m, int64_t count, bool cut_k) {
        for (int64_t r = 0; r < count; ++r) prepare_(m + r, rows + r * stride_);
        blocks(rows, m, count, 0, panels, cut_k);
      });
    });
  }

  // Each weight is read by one core.
  void share_panels(int64_t panels) const {
    const int64_t row_grain = ceil_div(kPrepareGrain, std::max<int64_t>(1, k_));
    chunks(0, m_, [&](char* rows, int64_t m, int64_t count, bool cut_k) {
      threads_.run(0, count, row_grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) prepare_(m + r, rows + r * stride_);
      });
      threads_.run(0, panels, grain(count * kPanel, kPanel),
                   [&](int64_t begin, int64_t end) { blocks(rows, m, count, begin, end, cut_k); });
    });
  }

  // Calls each(rows, m, count, cut_k) for rows [begin, end), as many at a time as half of L2 holds prepared, or as the
  // path takes when it cuts k; `rows` has room for them.
  template <class Each>
  void chunks(int64_t begin, int64_t end, const Each& each) const {
    const int64_t fit = l2_bytes() / 2 / stride_, all = end - begin;
    const bool cut_k = path_.cut_rows > 0 && fit < kFewestRows && all > fit;
    const int64_t count = ceil_div(all, cut_k ? path_.cut_rows : std::max<int64_t>(1, fit));
    const int64_t step = ceil_div(ceil_div(all, count), path_.tile_rows) * path_.tile_rows;
    char* rows = scratch<Rows>(static_cast<size_t>(std::min(step, all) * stride_));
    for (int64_t m = begin; m < end; m += step) each(rows, m, std::min(step, end - m), cut_k);
  }

  // Prepared rows against panels [begin, end), in blocks of a fifth of L2, which is then read again for each tile of
  // rows; with `cut_k` the path makes the blocks.
  void blocks(const char* rows, int64_t m, int64_t count, int64_t begin, int64_t end, bool cut_k) const {
    const int64_t step = cut_k ? end - begin : std::max<int64_t>(1, l2_bytes() / 5 / panel_bytes(k_));
    for (int64_t first = begin; first < end; first += step) {
      const int64_t last = std::min(end, first + step), next = std::min(end, last + step);
      path_.block({rows, stride_, m, count, packed_, n_, k_, first, last, next, cut_k}, epilogue_);
    }
  }
};

// Rows of floats that are quantized on the way, `stride` bytes apart.
struct FloatRows {
  Float type;
  const void* x;
  int64_t stride;
  const float* multiplier;
  bool asymmetric;

  FloatRow row(int64_t m) const { return {type, static_cast<const char*>(x) + m * stride, multiplier, asymmetric}; }
};

// A GEMM of m such rows. The epilogue's scales and zero points of rows are those that are found.
template <class Threads>
void run_quantized(const Threads& threads, const FloatRows& x, int64_t m, int64_t n, int64_t k, const int8_t* packed,
                   Epilogue epilogue) {
  const Path& path = path_for(m);
  float* scales = reinterpret_cast<float*>(scratch<Scales>(static_cast<size_t>(m) * sizeof(float)));
  int32_t* zero_points = nullptr;
  if (x.asymmetric)
    zero_points = reinterpret_cast<int32_t*>(scratch<ZeroPoints>(static_cast<size_t>(m) * sizeof(int32_t)));
  epilogue.row_scale = scales;
  epilogue.row_zero_point = zero_points;
  const auto prepare = [&](int64_t row, void* prepared) {
    const RowCode code = path.prepare_quantized(x.row(row), k, prepared);
    scales[row] = code.scale;
    if (zero_points != nullptr) zero_points[row] = code.zero_point;
  };
  Driver(threads, path, m, n, k, packed, prepare, epilogue).run();
}

}  // namespace pyprod::int8_gemm
