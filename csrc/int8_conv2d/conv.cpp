#include "int8_conv2d/conv.h"

#include "common/parallel.h"
#include "common/scratch.h"
#include "int8_conv2d/direct.h"
#include "int8_conv2d/finish.h"
#include "int8_gemm/driver.h"

namespace pyprod::int8_conv2d {
namespace {

using int8_gemm::Epilogue;
using int8_gemm::Path;
using int8_gemm::Store;

// Reads patches out of images, one for each position of the window.
class Patches {
 public:
  Patches(const Conv& conv, const int8_t* x)
      : in_(conv.in),
        window_(conv.window),
        x_(x),
        width_(static_cast<uint32_t>(conv.out.w)),
        height_(static_cast<uint32_t>(conv.out.h)),
        zero_(static_cast<int8_t>(conv.x.zero_point)) {}

  // Patches [m, m + count) in the order [images, out.h, out.w], `stride` bytes apart; the elements of each in the order
  // [kernel_h, kernel_w, c].
  void copy(int64_t m, int64_t count, int8_t* to, int64_t stride) const {
    const uint32_t line = static_cast<uint32_t>(m) / width_;
    uint32_t column = static_cast<uint32_t>(m) % width_, y = line % height_;
    const int8_t* image = x_ + line / height_ * in_.size();
    for (int64_t r = 0; r < count; ++r, to += stride) {
      one(image, y * window_.stride_h - window_.pad_h, column * window_.stride_w - window_.pad_w, to);
      if (++column < width_) continue;
      column = 0;
      if (++y < height_) continue;
      y = 0;
      image += in_.size();
    }
  }

 private:
  const Shape in_;
  const Window window_;
  const int8_t* x_;
  const uint32_t width_, height_;
  const int8_t zero_;

  void one(const int8_t* image, int64_t y, int64_t x, int8_t* to) const {
    const int64_t run = window_.kernel_w * in_.c, line = in_.w * in_.c;
    const bool inside = window_.dilation_w == 1 && x >= 0 && x + window_.kernel_w <= in_.w;
    for (int64_t i = 0; i < window_.kernel_h; ++i, to += run) {
      const int64_t row = y + i * window_.dilation_h;
      if (row < 0 || row >= in_.h) {
        std::memset(to, zero_, static_cast<size_t>(run));
      } else if (inside) {
        copy_run(to, image + row * line + x * in_.c, run);
      } else if (window_.dilation_w == 1) {
        dense(image + row * line, x, to);
      } else {
        dilated(image + row * line, x, to);
      }
    }
  }

  void dense(const int8_t* row, int64_t x, int8_t* to) const {
    const int64_t first = std::clamp<int64_t>(-x, 0, window_.kernel_w);
    const int64_t last = std::clamp<int64_t>(in_.w - x, first, window_.kernel_w);
    if (first > 0) std::memset(to, zero_, static_cast<size_t>(first * in_.c));
    copy_run(to + first * in_.c, row + (x + first) * in_.c, (last - first) * in_.c);
    const int64_t rest = window_.kernel_w - last;
    if (rest > 0) std::memset(to + last * in_.c, zero_, static_cast<size_t>(rest * in_.c));
  }

  void dilated(const int8_t* row, int64_t x, int8_t* to) const {
    for (int64_t j = 0; j < window_.kernel_w; ++j, to += in_.c) {
      const int64_t column = x + j * window_.dilation_w;
      if (column < 0 || column >= in_.w) {
        std::memset(to, zero_, static_cast<size_t>(in_.c));
      } else {
        copy_run(to, row + column * in_.c, in_.c);
      }
    }
  }
};

// Whether the path's prepared activations are int8 as they stand: a patch then needs no second copy.
bool keeps_int8(const Path& path) { return path.activation_bytes == 1 && path.flip == 0; }

// ReLU of what is already stored: after a residual, which the epilogue adds last; or in int8, where it is a bound.
void relu(const Conv& conv, int64_t count, void* out) {
  if (conv.out_type == Element::float32) {
    float* y = static_cast<float*>(out);
    parallel_for(0, count, 1 << 15, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = activate<Activation::relu>(y[i]);
    });
  } else if (conv.y.zero_point > -128) {
    int8_t* y = static_cast<int8_t*>(out);
    const int8_t zero = static_cast<int8_t>(conv.y.zero_point);
    parallel_for(0, count, 1 << 17, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = y[i] > zero ? y[i] : zero;
    });
  }
}

Epilogue epilogue_of(const Conv& conv, const void* residual, void* out, bool relu_later) {
  Epilogue e;
  e.col_scale = conv.w_scale;
  e.bias = conv.bias;
  e.activation = relu_later ? Activation::none : conv.activation;
  e.residual = residual;
  e.out = out;
  e.out_stride = conv.out.c;
  e.scale = conv.x.scale;
  e.zero_point = conv.x.zero_point;
  if (conv.out_type == Element::int8) {
    e.store = Store::int8;
    e.out_inverse_scale = 1.0f / conv.y.scale;
    e.out_zero_point = conv.y.zero_point;
  }
  return e;
}

// Through the driver and the epilogue of int8_gemm: any activation, any instruction set, weights of any size.
void run_by_driver(const Conv& conv, const Path& path, int64_t m, const int8_t* x, const void* residual, void* out) {
  const int64_t n = conv.out.c, k = conv.k();
  const bool direct = keeps_int8(path);
  const bool relu_later =
      conv.activation == Activation::relu && (residual != nullptr || conv.out_type == Element::int8);
  const int8_t* quantized = nullptr;  // a residual that must become float before it is added
  float* floats = nullptr;
  if (residual != nullptr && conv.residual_type == Element::int8) {
    quantized = static_cast<const int8_t*>(residual);
    residual = floats = reinterpret_cast<float*>(scratch<Residual>(static_cast<size_t>(m * n) * sizeof(float)));
  }
  const Patches patches(conv, x);
  const auto prepare = [&](int64_t row, void* prepared) {
    if (quantized != nullptr) dequantize_run(quantized + row * n, n, conv.residual, floats + row * n);
    if (direct) return patches.copy(row, 1, static_cast<int8_t*>(prepared), 0);
    int8_t* patch = reinterpret_cast<int8_t*>(scratch<Patch>(static_cast<size_t>(k)));
    patches.copy(row, 1, patch, 0);
    path.prepare(patch, k, prepared);
  };
  const Epilogue epilogue = epilogue_of(conv, residual, out, relu_later);
  int8_gemm::Driver(TorchThreads(), path, m, n, k, conv.packed, prepare, epilogue).run();
  if (relu_later) relu(conv, m * n, out);
}

// With our own finish. The weights stay in L2, so that the threads share the pixels.
void run_by_tiles(const Conv& conv, const Path& path, int64_t m, const int8_t* x, const void* residual, void* out) {
  const int64_t n = conv.out.c, k = conv.k(), panels = int8_gemm::ceil_div(n, int8_gemm::kPanel);
  const int64_t stride = int8_gemm::prepared_stride(path, k), bytes = int8_gemm::panel_bytes(k);
  const bool direct = keeps_int8(path);
  const Patches patches(conv, x);
  parallel_for(0, m, int8_gemm::ceil_div(kGrain, n * k), [&](int64_t begin, int64_t end) {
    char* rows = scratch<Rows>(static_cast<size_t>(path.tile_rows * stride));
    int8_t* patch = reinterpret_cast<int8_t*>(scratch<Patch>(static_cast<size_t>(k)));
    alignas(64) int32_t acc[int8_gemm::kMaxTileRows * int8_gemm::kPanel];
    const int8_gemm::TileScope scope(path);
    for (int64_t row = begin; row < end; row += path.tile_rows) {
      const int count = static_cast<int>(std::min<int64_t>(path.tile_rows, end - row));
      if (direct) {
        patches.copy(row, count, reinterpret_cast<int8_t*>(rows), stride);
      } else {
        for (int r = 0; r < count; ++r) {
          patches.copy(row + r, 1, patch, 0);
          path.prepare(patch, k, rows + r * stride);
        }
      }
      for (int64_t p = 0; p < panels; ++p) {
        const int8_t* panel = conv.packed + p * bytes;
        path.tile(count, rows, stride, panel, k, acc);
        finish_avx512(conv, residual, out, row, count, p * int8_gemm::kPanel, acc, panel);
      }
    }
  });
}

}  // namespace

void run_conv(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out) {
  const int64_t m = images * conv.out.h * conv.out.w, weights = conv.out.c * conv.k();
  if (m == 0 || conv.out.c == 0) return;
  if (has_direct_amx(conv)) return run_direct_amx(conv, images, x, residual, out);
  if (has_direct_vnni(conv)) return run_direct_vnni(conv, images, x, residual, out);
  const Path& path = int8_gemm::path_for(m);
  if (has_finish_avx512(conv) && weights <= int8_gemm::l2_bytes() / 2) {
    run_by_tiles(conv, path, m, x, residual, out);
  } else {
    run_by_driver(conv, path, m, x, residual, out);
  }
}

}  // namespace pyprod::int8_conv2d
