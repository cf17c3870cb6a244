#pragma once

#include <algorithm>
#include <cstring>

#include "common/scratch.h"
#include "int8_conv2d/conv.h"
#include "int8_gemm/layout.h"

// What the direct convolutions share: an image's lines with their border, and weights in the order of a window's lines.

namespace pyprod::int8_conv2d {

// Bytes as they are.
struct CopyRun {
  static constexpr uint8_t kFlip = 0;
  static void copy(int8_t* to, const int8_t* from, int64_t n) { copy_run(to, from, n); }
};

// Lines of an image with its border, `width` pixels each, in `bytes` of scratch memory of this thread. Copy::copy()
// xors each byte with Copy::kFlip.
template <class Copy>
class Band {
 public:
  Band(const Conv& conv, int64_t width, int64_t bytes)
      : conv_(conv), line_(width * conv.in.c), data_(scratch<Rows>(static_cast<size_t>(bytes))) {}

  // Copies lines [begin, end), counted with the border. Returns where line 0 would be.
  const char* copy(const int8_t* image, int64_t begin, int64_t end) {
    // The border stays for the next image, where a band is all of it.
    if (begin != begin_ || end != end_)
      std::memset(data_, conv_.x.zero_point ^ Copy::kFlip, static_cast<size_t>((end - begin) * line_));
    begin_ = begin;
    end_ = end;
    const int64_t top = conv_.window.pad_h, bytes = conv_.in.w * conv_.in.c;
    const int64_t last = std::min(end, top + conv_.in.h);
    for (int64_t y = std::max(begin, top); y < last; ++y) {
      char* to = data_ + (y - begin) * line_ + conv_.window.pad_w * conv_.in.c;
      Copy::copy(reinterpret_cast<int8_t*>(to), image + (y - top) * bytes, bytes);
    }
    return data_ - begin * line_;
  }

 private:
  const Conv& conv_;
  const int64_t line_;
  char* const data_;
  int64_t begin_ = -1, end_ = -1;
};

// The weights of every panel by window line, `padded` bytes of a channel for each, in scratch memory, with zeros where
// a line reads bytes of the next pixel; null where they are so in place.
inline const int8_t* by_lines(const Conv& conv, int64_t padded) {
  using int8_gemm::kPanel;
  using int8_gemm::kRowBytes;
  const int64_t run = conv.window.kernel_w * conv.in.c;
  if (run == padded) return nullptr;
  const int64_t panels = int8_gemm::ceil_div(conv.out.c, kPanel), bytes = conv.window.kernel_h * padded * kPanel;
  auto* const copy = reinterpret_cast<int8_t*>(scratch<Patch>(static_cast<size_t>(panels * bytes)));
  std::memset(copy, 0, static_cast<size_t>(panels * bytes));
  for (int64_t p = 0; p < panels; ++p) {
    const int8_t* panel = conv.packed + p * int8_gemm::panel_bytes(conv.k()) + kRowBytes;
    for (int64_t k = 0; k < conv.k(); ++k) {
      const int64_t to = k / run * padded + k % run;
      const int8_t* source = panel + kRowBytes * (k / 4) + k % 4;
      int8_t* target = copy + p * bytes + kRowBytes * (to / 4) + to % 4;
      for (int n = 0; n < kPanel; ++n) target[4 * n] = source[4 * n];
    }
  }
  return copy;
}

}  // namespace pyprod::int8_conv2d
