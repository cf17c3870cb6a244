#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "onnxruntime/interface.h"

namespace pyprod::onnxruntime {

// The threads of the session that a kernel runs in, as int8_gemm/driver.h takes them.
class Threads {
 public:
  Threads(const Table* table, const KernelContext* context) : table_(table), context_(context) {}

  // ONNX Runtime does not tell how many it has: as many as this process may run at once, its default.
  int64_t count() const {
    static const int64_t cpus = [] {
      cpu_set_t set;
      return sched_getaffinity(0, sizeof set, &set) == 0 ? int64_t{CPU_COUNT(&set)} : int64_t{1};
    }();
    return cpus;
  }

  // f(from, to) for equal parts of [begin, end), each of `grain` items or more. f may throw.
  template <class F>
  void run(int64_t begin, int64_t end, int64_t grain, const F& f) const {
    const int64_t items = end - begin, parts = std::min(count(), (items + grain - 1) / grain);
    if (items <= 0) return;
    if (parts <= 1) return f(begin, end);
    Work<F> work = {begin, end, (items + parts - 1) / parts, f, nullptr, false};
    check(table_, ParallelFor::call(table_, context_, &Work<F>::part, static_cast<size_t>(parts), 0, &work));
    if (work.error) std::rethrow_exception(work.error);
  }

 private:
  template <class F>
  struct Work {
    int64_t begin, end, step;
    const F& f;
    std::exception_ptr error;
    std::atomic<bool> failed;

    static void part(void* work, size_t index) {
      Work& self = *static_cast<Work*>(work);
      const int64_t from = self.begin + static_cast<int64_t>(index) * self.step;
      const int64_t to = std::min(self.end, from + self.step);
      try {
        if (from < to) self.f(from, to);
      } catch (...) {
        if (!self.failed.exchange(true)) self.error = std::current_exception();
      }
    }
  };

  const Table* table_;
  const KernelContext* context_;
};

}  // namespace pyprod::onnxruntime
