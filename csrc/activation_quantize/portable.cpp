// Plain C++: runs anywhere, and is the twin that the vector paths are compared with.

#include "activation_quantize/row.h"

namespace pyprod::activation_quantize {
namespace {

void row(const Row& row, float* y) { run<1>(row, y); }

}  // namespace

const Kernel kPortable = row;

}  // namespace pyprod::activation_quantize
