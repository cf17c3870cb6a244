// Plain C++: runs anywhere, and is the twin that the vector paths are compared with.

#include "norm/row.h"

namespace pyprod::norm {
namespace {

template <bool kSquare>
float sum_of(const float* x, int64_t k, float mean) {
  float partial[kPartials] = {};
  int64_t i = 0;
  for (; i + kPartials <= k; i += kPartials) {
    for (int j = 0; j < kPartials; ++j) {
      const float d = x[i + j] - mean;
      partial[j] += kSquare ? d * d : x[i + j];
    }
  }
  return finish_sum<kSquare>(partial, x + i, k - i, mean);
}

float sum(const float* x, int64_t k) { return sum_of<false>(x, k, 0.0f); }
float squares(const float* x, int64_t k, float mean) { return sum_of<true>(x, k, mean); }

void row(const Norm& norm, const Row& row, float* scratch) { run<Loops<sum, squares>>(norm, row, scratch); }

}  // namespace

const Kernel kPortable = row;

}  // namespace pyprod::norm
