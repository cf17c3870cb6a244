#pragma once

#include <cstdint>

// A whole CNN in one int8 tensor: header, values, steps, then constants, each at a multiple of 64 bytes. Everything
// that a call needs is read in place: no list of tensors to unpack, no parsing (pyprod/kernels/cnn.py writes it).
// Integers are int64 and floats are stored as their bits in the low half, native byte order.

namespace pyprod::int8_conv2d {

inline constexpr int64_t kPlanMagic = 0x316e6e6364727079;  // "pyrdcnn1"

struct PlanHeader {
  int64_t magic;
  int64_t values, steps;  // how many of each
  int64_t scratch_bytes;  // of all values of one image
  int64_t weight_bytes;   // of all packed weights
  int64_t operations;     // multiply-adds for one image
  int64_t reserved[2];
};

// A tensor between steps, [h, w, c] for each image. Value 0 is the quantized input, the last one the output.
struct PlanValue {
  int64_t h, w, c;
  int64_t type;        // Element
  int64_t scale_bits;  // int8 only
  int64_t zero_point;
  int64_t offset;  // into an image's scratch, a multiple of 64
  int64_t reserved;
};

enum class StepKind : int64_t { conv, max_pool, mean };

struct PlanStep {
  int64_t kind;
  int64_t input, residual, output;  // values; residual -1: none
  int64_t window[8];                // kernel, stride, pad, dilation: h and w of each
  int64_t activation;               // Activation
  int64_t packed, w_scale, bias;    // where in the plan; bias -1: none
};

}  // namespace pyprod::int8_conv2d
