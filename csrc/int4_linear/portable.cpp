// Plain C++: runs anywhere, and is the twin that the vector paths are compared with.

#include "int4_linear/rows.h"

namespace pyprod::int4_linear {
namespace {

void prepare(const Linear& linear, const void* x, int64_t m) { prepare_row(linear, x, m); }

// dot[n] of one group.
void dot_group(const int8_t* q, const uint8_t* words, int64_t group, int32_t* dot) {
  for (int64_t k = 0; k < group; k += 8, words += kWordBytes) {
    for (int n = 0; n < kPanel; ++n) {
      for (int j = 0; j < 4; ++j) {
        const int byte = words[4 * n + j];
        dot[n] += (byte & 15) * q[k + j] + (byte >> 4) * q[k + 4 + j];
      }
    }
  }
}

void tile(const Linear& linear, int64_t m, int, int64_t panel) {
  const int64_t bytes = group_bytes(linear.group, linear.zeros);
  const uint8_t* from = linear.packed + panel * linear.groups * bytes;
  const int8_t* q = linear.q + m * linear.groups * linear.group;
  float acc[kPanel] = {};
  for (int64_t g = 0; g < linear.groups; ++g, from += bytes, q += linear.group) {
    int32_t dot[kPanel] = {};
    dot_group(q, from + (linear.zeros ? 2 : 1) * kHeaderBytes, linear.group, dot);
    add_group(linear, from, linear.sums[m * linear.groups + g], dot, acc);
  }
  finish_row(linear, m, panel, acc);
}

}  // namespace

const Path kPortable = {1, prepare, tile};

}  // namespace pyprod::int4_linear
