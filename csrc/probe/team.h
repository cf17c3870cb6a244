#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "probe/sampler.h"

namespace pyprod::probe {

// Threads pinned to one CPU each, which do a share of the work at the same time. The caller itself is never pinned.
class Team {
 public:
  explicit Team(std::vector<int> cpus) : cpus_(std::move(cpus)) {
    if (cpus_.empty()) throw std::invalid_argument("cpus must not be empty");
  }

  int size() const { return static_cast<int>(cpus_.size()); }

  // Runs `prepare(thread)`, then `repetitions` times `work(thread, passes)`, all threads starting each repetition
  // together; returns ns from the first start to the last end of each, and sets `passes` so that one takes `min_ns`.
  template <class Prepare, class Work>
  std::vector<int64_t> run(int repetitions, int64_t min_ns, int64_t& passes, Prepare prepare, Work work) {
    std::vector<int64_t> durations;
    std::atomic<int> failed = 0;
    std::vector<int64_t> starts(cpus_.size()), ends(cpus_.size());
    passes = 1;
    bool calibrated = false, done = false;
    const auto body = [&](int thread) {
      if (!pin(cpus_[static_cast<size_t>(thread)])) ++failed;
      prepare(thread);
      wait();
      while (!done && failed == 0) {
        starts[static_cast<size_t>(thread)] = now_ns();
        work(thread, passes);
        ends[static_cast<size_t>(thread)] = now_ns();
        wait();
        if (thread == 0) {
          const int64_t took = std::max<int64_t>(
              1, *std::max_element(ends.begin(), ends.end()) - *std::min_element(starts.begin(), starts.end()));
          if (calibrated) durations.push_back(took);
          // The first long enough run also warms caches and clock up; it is not counted.
          if (!calibrated && !(calibrated = took >= min_ns)) passes *= std::clamp<int64_t>(min_ns / took + 1, 2, 16);
          done = static_cast<int>(durations.size()) == repetitions;
        }
        wait();
      }
    };
    std::vector<std::thread> threads;
    for (int thread = 0; thread < size(); ++thread) threads.emplace_back(body, thread);
    for (std::thread& thread : threads) thread.join();
    if (failed != 0) throw std::runtime_error("can't pin a thread to each of the given CPUs");
    return durations;
  }

 private:
  std::vector<int> cpus_;
  std::atomic<int> arrived_ = 0, round_ = 0;

  static bool pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
  }

  // A spinning barrier: threads leave it within a cache miss of each other, not a wake-up (50 us) apart.
  void wait() {
    const int round = round_.load();
    if (++arrived_ == size()) {
      arrived_ = 0;
      ++round_;
    } else {
      while (round_.load() == round) std::this_thread::yield();
    }
  }
};

}  // namespace pyprod::probe
