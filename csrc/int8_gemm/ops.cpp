// The matrix product alone and the quantization alone on the CPU (whole linear layers: linear.cpp).

#include "int8_gemm/ops.h"

#include <torch/csrc/stable/library.h>

#include "common/isa.h"
#include "common/parallel.h"
#include "int8_gemm/driver.h"

namespace pyprod::int8_gemm {
namespace {

std::string isa_name() { return kIsaNames[static_cast<int>(isa())]; }

std::tuple<Tensor, Tensor> quantize_per_token(const Tensor& x_in) {
  const Float type = check_quantize(x_in);
  const Path& isa = path();
  const Tensor x = plain_rows(x_in);
  const int64_t rows = rows_of(x), k = x.size(x.dim() - 1), stride = row_stride(x);
  Tensor q = new_output(x, x.sizes(), ScalarType::Char);
  Tensor scale = new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
  const char* from = static_cast<const char*>(x.const_data_ptr());
  int8_t* to = static_cast<int8_t*>(q.mutable_data_ptr());
  float* scales = static_cast<float*>(scale.mutable_data_ptr());
  const int64_t bytes = stride * item_size(type);
  parallel_for(0, rows, ceil_div(1 << 15, std::max<int64_t>(1, k)), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) scales[m] = isa.quantize({type, from + m * bytes}, k, to + m * k);
  });
  return {q, scale};
}

Tensor gemm(const Tensor& a_in, const Tensor& packed, int64_t n, int64_t k) {
  check_gemm(a_in, packed, n, k);
  const Path& isa = path_for(a_in.size(0));
  const Tensor a = plain_rows(a_in);
  const int64_t m = a.size(0), stride = row_stride(a);
  Tensor out = new_output(a, {m, n}, ScalarType::Int);
  const int8_t* from = static_cast<const int8_t*>(a.const_data_ptr());
  Epilogue epilogue;
  epilogue.store = Store::sums;
  epilogue.out = out.mutable_data_ptr();
  epilogue.out_stride = n;
  const auto prepare = [&](int64_t row, void* prepared) { isa.prepare(from + row * stride, k, prepared); };
  Driver(TorchThreads(), isa, m, n, k, static_cast<const int8_t*>(packed.const_data_ptr()), prepare, epilogue).run();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("isa() -> str");
  m.def("quantize_per_token(Tensor x) -> (Tensor, Tensor)");
  m.def("int8_gemm(Tensor a, Tensor packed, int n, int k) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa_name)); }

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) {
  m.impl("quantize_per_token", TORCH_BOX(&quantize_per_token));
  m.impl("int8_gemm", TORCH_BOX(&gemm));
}

}  // namespace pyprod::int8_gemm
