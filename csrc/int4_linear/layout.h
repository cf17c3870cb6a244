#pragma once

#include <cstdint>

// A packed weight w_q[N, K] in 0..15 with a float16 scale and, if `zeros`, a zero point for each channel and each group
// of `group` neighboring k is uint8 [panels, groups, group_bytes], contiguous. A group of a panel of 32 channels is
//
//     float16 scale[32];  float16 zero[32], if `zeros`;  then for every 8 k, from front to back,
//     uint8 word[32][4]:  word[n][j] = w_q[n, k + j] | w_q[n, k + 4 + j] << 4
//
// Four k of one channel are one 32-bit word in either nibble: what vpdpbusd takes, after one AND. Scales lie with what
// they scale: a panel is read front to back as one stream. Where n >= N the scale is 0; where k >= K activations are.

namespace pyprod::int4_linear {

inline constexpr int kPanel = 32;                    // output channels of a panel
inline constexpr int64_t kWordBytes = 4 * kPanel;    // 8 k of a panel
inline constexpr int64_t kHeaderBytes = 2 * kPanel;  // the scales, or the zero points, of a group

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t group_bytes(int64_t group, bool zeros) {
  return (zeros ? 2 : 1) * kHeaderBytes + group / 8 * kWordBytes;
}

}  // namespace pyprod::int4_linear
