// int8_cnn: every step of a plan, without leaving C++ in between.

#include "int8_conv2d/plan.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "common/checks.h"
#include "common/output.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "int8_conv2d/conv.h"
#include "int8_conv2d/pool.h"
#include "int8_gemm/driver.h"

namespace pyprod::int8_conv2d {
namespace {

constexpr const char* kOp = "int8_cnn";
// Images that go through the network together: enough for the weights to be read seldom, few enough for memory.
constexpr int64_t kMaxGroup = 16;

#define CHECK_PLAN(condition, what) PYPROD_CHECK(condition, kOp, ": plan is damaged: ", what)

// A plan's parts in place, checked: nothing that it says leads beyond its own bytes or an image's scratch.
class Plan {
 public:
  explicit Plan(const Tensor& plan) : bytes_(static_cast<const char*>(plan.const_data_ptr())), size_(plan.numel()) {
    CHECK_PLAN(reinterpret_cast<uintptr_t>(bytes_) % 8 == 0, "not aligned to 8 bytes");
    CHECK_PLAN(size_ >= static_cast<int64_t>(sizeof(PlanHeader)), "no header");
    header_ = reinterpret_cast<const PlanHeader*>(bytes_);
    CHECK_PLAN(header_->magic == kPlanMagic, "not a plan, or one of another version");
    const int64_t room = size_ / static_cast<int64_t>(sizeof(PlanValue));
    CHECK_PLAN(header_->values >= 2 && header_->values <= room && header_->steps >= 1 && header_->steps <= room,
               "numbers of values and steps");
    const int64_t tables = header_->values * static_cast<int64_t>(sizeof(PlanValue)) +
                           header_->steps * static_cast<int64_t>(sizeof(PlanStep));
    CHECK_PLAN(tables <= size_ - static_cast<int64_t>(sizeof(PlanHeader)), "tables");
    values_ = reinterpret_cast<const PlanValue*>(header_ + 1);
    steps_ = reinterpret_cast<const PlanStep*>(values_ + header_->values);
    CHECK_PLAN(header_->scratch_bytes >= 0 && header_->scratch_bytes < (int64_t{1} << 40), "scratch");
    for (int64_t i = 0; i < header_->values; ++i) check_value(values_[i]);
    for (int64_t i = 0; i < header_->steps; ++i) check_step(steps_[i]);
    CHECK_PLAN(values_[0].type == static_cast<int64_t>(Element::int8), "input type");
    CHECK_PLAN(last().type == static_cast<int64_t>(Element::float32), "output type");
    CHECK_PLAN(steps_[header_->steps - 1].output == header_->values - 1, "no output");
  }

  const PlanHeader& header() const { return *header_; }
  const PlanValue& value(int64_t i) const { return values_[i]; }
  const PlanValue& last() const { return values_[header_->values - 1]; }
  const PlanStep& step(int64_t i) const { return steps_[i]; }

  Shape shape(int64_t i) const { return {values_[i].h, values_[i].w, values_[i].c}; }
  Element type(int64_t i) const { return static_cast<Element>(values_[i].type); }
  Quantization quantization(int64_t i) const {
    return {std::bit_cast<float>(static_cast<uint32_t>(values_[i].scale_bits)),
            static_cast<int32_t>(values_[i].zero_point)};
  }

  Conv conv(const PlanStep& s) const {
    Conv c;
    c.in = shape(s.input);
    c.out = shape(s.output);
    c.window = window(s);
    c.x = quantization(s.input);
    c.y = quantization(s.output);
    c.packed = reinterpret_cast<const int8_t*>(bytes_ + s.packed);
    c.w_scale = reinterpret_cast<const float*>(bytes_ + s.w_scale);
    c.bias = s.bias >= 0 ? reinterpret_cast<const float*>(bytes_ + s.bias) : nullptr;
    c.activation = static_cast<Activation>(s.activation);
    c.out_type = type(s.output);
    if (s.residual >= 0) {
      c.residual = quantization(s.residual);
      c.residual_type = type(s.residual);
    }
    return c;
  }

  static Window window(const PlanStep& s) {
    return {s.window[0], s.window[1], s.window[2], s.window[3], s.window[4], s.window[5], s.window[6], s.window[7]};
  }

 private:
  const char* bytes_;
  const int64_t size_;
  const PlanHeader* header_;
  const PlanValue* values_;
  const PlanStep* steps_;

  static bool small(int64_t n, int64_t least) { return n >= least && n < (1 << 20); }

  void check_value(const PlanValue& v) const {
    CHECK_PLAN(small(v.h, 1) && small(v.w, 1) && small(v.c, 1) && v.h * v.w <= (1 << 27) / v.c, "a value's sizes");
    CHECK_PLAN(v.type == 0 || v.type == 1, "a value's type");
    const int64_t bytes = v.h * v.w * v.c * (v.type == 0 ? 1 : 4);
    CHECK_PLAN(v.offset >= 0 && v.offset % 64 == 0 && v.offset <= header_->scratch_bytes - bytes, "a value's place");
    const float scale = std::bit_cast<float>(static_cast<uint32_t>(v.scale_bits));
    CHECK_PLAN(v.type == 1 || (scale >= FLT_MIN && scale <= FLT_MAX && v.zero_point >= -128 && v.zero_point <= 127),
               "a value's quantization");
  }

  void check_step(const PlanStep& s) const {
    const auto known = [&](int64_t value) { return value >= 0 && value < header_->values; };
    CHECK_PLAN(known(s.input) && known(s.output) && s.output > 0 && (s.residual == -1 || known(s.residual)),
               "a step's values");
    const Shape in = shape(s.input), out = shape(s.output);
    for (int i = 0; i < 8; ++i) CHECK_PLAN(small(s.window[i], i == 4 || i == 5 ? 0 : 1), "a step's window");
    switch (static_cast<StepKind>(s.kind)) {
      case StepKind::conv:
        CHECK_PLAN(slide(in, window(s), out.c) == out && type(s.input) == Element::int8, "a convolution's shape");
        CHECK_PLAN(s.residual == -1 || shape(s.residual) == out, "a residual's shape");
        CHECK_PLAN(s.activation >= 0 && s.activation <= static_cast<int64_t>(Activation::silu), "an activation");
        return check_constants(s, s.window[0] * s.window[1] * in.c, out.c);
      case StepKind::max_pool:
        CHECK_PLAN(
            slide(in, window(s), in.c) == out && type(s.input) == Element::int8 && type(s.output) == Element::int8,
            "a pool's shape");
        return;
      case StepKind::mean:
        CHECK_PLAN((out == Shape{1, 1, in.c}), "a mean's shape");
        return;
      default:
        CHECK_PLAN(false, "a step's kind");
    }
  }

  void check_constants(const PlanStep& s, int64_t k, int64_t n) const {
    CHECK_PLAN(k >= 1 && k <= std::numeric_limits<int32_t>::max() / (255 * 128), "a weight's size");
    check_range(s.packed, int8_gemm::ceil_div(n, int8_gemm::kPanel) * int8_gemm::panel_bytes(k));
    check_range(s.w_scale, n * 4);
    if (s.bias != -1) check_range(s.bias, n * 4);
  }

  void check_range(int64_t offset, int64_t bytes) const {
    CHECK_PLAN(offset >= 0 && offset % 64 == 0 && bytes <= size_ && offset <= size_ - bytes, "a constant's place");
  }
};

// Runs images through a plan, a group at a time: all of them together through each step.
class Run {
 public:
  Run(const Plan& plan, const float* x, float* y) : plan_(plan), x_(x), y_(y) {}

  void images(int64_t begin, int64_t end) const {
    const int64_t group = std::min(group_size(), end - begin);
    char* scratch_bytes = scratch<Values>(static_cast<size_t>(group * plan_.header().scratch_bytes));
    for (int64_t first = begin; first < end; first += group) {
      through(first, std::min(group, end - first), scratch_bytes);
    }
  }

 private:
  const Plan& plan_;
  const float* x_;
  float* y_;

  // As many images as fit a half of L2; but where the weights don't fit it either, reading those seldom counts more.
  int64_t group_size() const {
    const PlanHeader& h = plan_.header();
    const int64_t half = int8_gemm::l2_bytes() / 2;
    if (h.weight_bytes > half) return kMaxGroup;
    return std::clamp<int64_t>((half - h.weight_bytes / 2) / std::max<int64_t>(1, h.scratch_bytes), 1, kMaxGroup);
  }

  void through(int64_t first, int64_t count, char* values) const {
    bool finite[kMaxGroup];
    for (int64_t i = 0; i < count; ++i)
      finite[i] = quantize(first + i, values + place(0, count) + i * plan_.shape(0).size());
    const Shape out = plan_.shape(plan_.header().values - 1);
    float* y = y_ + first * out.size();
    for (int64_t s = 0; s < plan_.header().steps; ++s) step(plan_.step(s), count, values, y);
    for (int64_t i = 0; i < count; ++i) {
      if (!finite[i]) std::fill_n(y + i * out.size(), out.size(), std::numeric_limits<float>::quiet_NaN());
    }
  }

  // Places of `count` images lie behind each other.
  int64_t place(int64_t value, int64_t count) const { return plan_.value(value).offset * count; }

  // From planes to interleaved channels.
  bool quantize(int64_t image, char* to) const {
    const Shape in = plan_.shape(0);
    const float* x = x_ + image * in.size();
    int8_t* q = reinterpret_cast<int8_t*>(to);
    if (in.h * in.w == 1) return quantize_strided(x, in.c, plan_.quantization(0), q, 1);
    bool finite = true;
    for (int64_t c = 0; c < in.c; ++c) {
      finite &= quantize_strided(x + c * in.h * in.w, in.h * in.w, plan_.quantization(0), q + c, in.c);
    }
    return finite;
  }

  void step(const PlanStep& s, int64_t count, char* values, float* result) const {
    const char* x = values + place(s.input, count);
    const bool is_last = s.output == plan_.header().values - 1;
    void* y = is_last ? static_cast<void*>(result) : values + place(s.output, count);
    const int8_t* bytes = reinterpret_cast<const int8_t*>(x);
    const Shape in = plan_.shape(s.input);
    switch (static_cast<StepKind>(s.kind)) {
      case StepKind::conv:
        return run_conv(plan_.conv(s), count, bytes, s.residual >= 0 ? values + place(s.residual, count) : nullptr, y);
      case StepKind::max_pool:
        return max_pool(in, plan_.shape(s.output), Plan::window(s), count, bytes, static_cast<int8_t*>(y));
      case StepKind::mean:
        return mean(in, count, plan_.type(s.input), plan_.quantization(s.input), x, plan_.type(s.output),
                    plan_.quantization(s.output), y);
    }
  }
};

Tensor cnn(const Tensor& x_in, const Tensor& plan_in, int64_t features) {
  check_dtype(kOp, "x", x_in, ScalarType::Float);
  check_dtype(kOp, "plan", plan_in, ScalarType::Char);
  check_same_device(kOp, "plan", plan_in, x_in);
  PYPROD_CHECK(plan_in.dim() == 1 && plan_in.is_contiguous(), kOp, ": plan must be a contiguous vector, got ",
               shape_text(plan_in));
  const Plan plan(plan_in);
  const Shape in = plan.shape(0), out = plan.shape(plan.header().values - 1);
  const bool image = x_in.dim() == 4 && x_in.size(1) == in.c && x_in.size(2) == in.h && x_in.size(3) == in.w;
  const bool rows = (x_in.dim() == 2 || x_in.dim() == 3) && in.h * in.w == 1 && x_in.size(x_in.dim() - 1) == in.c;
  PYPROD_CHECK(image || rows, kOp, ": x must be [batch, ", in.c, ", ", in.h, ", ", in.w, "]",
               in.h * in.w == 1 ? " or rows of channels" : "", ", got ", shape_text(x_in));
  PYPROD_CHECK(features == out.size(), kOp, ": features must be ", out.size(), ", got ", features);
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t batch = x.numel() / in.size();
  Tensor y = new_output(x, {batch, features}, ScalarType::Float);
  const Run run(plan, static_cast<const float*>(x.const_data_ptr()), static_cast<float*>(y.mutable_data_ptr()));
  if (batch < num_threads()) {
    run.images(0, batch);  // the threads share each step
  } else {
    const int64_t grain = std::max<int64_t>(1, kGrain * 4 / std::max<int64_t>(1, plan.header().operations));
    parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) { run.images(begin, end); });
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) { m.def("int8_cnn(Tensor x, Tensor plan, int features) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("int8_cnn", TORCH_BOX(&cnn)); }

}  // namespace pyprod::int8_conv2d
