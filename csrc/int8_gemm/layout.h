#pragma once

#include <cstdint>

// A packed weight w[N, K] (int8) is int8 [panels, 1 + ceil(K/4), 32, 4], contiguous; the same on CPU and GPU:
//
//     packed[p, 1 + k/4, n % 32, k % 4] = w[n, k]  with p = n / 32; zero where n >= N or k >= K
//     packed[p, 0, n % 32, :]           = -128 * sum_k w[n, k] as int32, native byte order
//
// Four k of one channel are one 32-bit word: what vpdpbusd and mma.m16n8k32 take. The first row is what must be added
// when activations were shifted by +128 to be unsigned; accumulators start there, so the shift costs nothing.

namespace pyprod::int8_gemm {

inline constexpr int kMaxTileRows = 32;                           // of any path's register tile
inline constexpr int kPanel = 32;                                 // output channels of a panel
inline constexpr int64_t kRowBytes = kPanel * 4;                  // a panel's row: 4 k of 32 channels
inline constexpr int64_t kMaxK = (1 << 17) - 1;                   // |sum| <= K * 128 * 128 must fit int32
inline constexpr int64_t kMaxShiftedK = INT32_MAX / (255 * 128);  // the same where activations have zero points

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t panel_bytes(int64_t k) { return (1 + ceil_div(k, 4)) * kRowBytes; }

}  // namespace pyprod::int8_gemm
