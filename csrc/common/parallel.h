#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>

// torch's threads, safe in a child of fork().
//
// GNU OpenMP, which torch runs on, keeps the threads of a region waiting for the next one. A forked child inherits the
// list of them but no threads, and its first region waits for them forever: torch's own ops hang there, as they do in
// any program on GNU OpenMP. So in a child our regions run in the calling thread alone: slower, never wrong or stuck.

namespace pyprod {

inline std::atomic<bool> is_forked_child = false;
inline const int fork_is_watched = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });

// Threads that a region may use: torch.set_num_threads, or 1 in a forked child.
inline int64_t num_threads() { return is_forked_child ? 1 : torch::stable::get_num_threads(); }

// Calls f(from, to) for parts of [begin, end), from several threads when there are more than `grain` items. f may
// throw.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (!is_forked_child) return torch::stable::parallel_for(begin, end, grain, f);
  if (begin < end) f(begin, end);
}

// The same as an object, for code that is also built for other owners of threads (onnxruntime/threads.h).
struct TorchThreads {
  int64_t count() const { return num_threads(); }
  template <class F>
  void run(int64_t begin, int64_t end, int64_t grain, const F& f) const {
    parallel_for(begin, end, grain, f);
  }
};

}  // namespace pyprod
