#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

// A GPU as its programs may see it, on one CPU thread: a fiber per CUDA thread, one cluster of blocks at a time. What
// the hardware leaves open is chosen against the program: which thread runs next, and when background work happens. A
// program that forgets to wait, or lets go too early, computes garbage, stops for ever, or is stopped here.

namespace pyprod::emulator {

// What no correct program does: a misaligned copy, a barrier that too many arrive at, threads that wait for ever.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// When background work (copies, wgmma) is done.
enum class Asynchrony : int {
  eager,   // as it is issued: finds readers of what should not be there yet
  late,    // when a thread waits for it, or nothing else can go on: finds those who do not wait
  random,  // in between, and out of order where order is not promised; some warps run far ahead of others
};

struct Settings {
  Asynchrony asynchrony = Asynchrony::random;
  uint64_t seed = 0;
  int major = 9;  // compute capability
  int processors = 3;
};

struct Grid {
  int blocks_x, blocks_y, threads, shared, cluster;
};

// Threads that meet: the last one acts for all.
struct Meeting {
  int arrived = 0;
  uint64_t generation = 0;
  std::vector<void*> given;  // by each, in the order of their places
};

struct BarrierState {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // expected less landed
  uint64_t phase = 0;
};

// Work in the order of its issue, in groups.
struct Groups {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> committed;

  void finish_until(size_t pending);  // all but the latest `pending` groups
  bool unfinished() const;
};

struct Block {
  int x, y, rank, left;  // of its threads; with the last one its shared memory goes
  std::vector<uint8_t> raw;
  uint8_t* shared;
  Meeting all;
  std::vector<Meeting> warps, warpgroups;
  std::vector<Groups> wgmmas;  // of each warpgroup
};

struct Fiber;

class Machine {
 public:
  explicit Machine(const Settings& settings);
  ~Machine();

  // Runs every block of the grid; throws Fault.
  void run(const Grid& grid, const std::function<void()>& kernel);

  const Settings settings;

  // What follows is for the primitives, in a thread of the kernel.

  Block& block();
  int thread() const;
  const Grid& grid() const { return grid_; }
  Groups& copies();  // this thread's cp.async

  // Lets others run until `ready`.
  void wait(const std::function<bool()>& ready, const char* what);

  // Meets `size` threads, as number `place` of them; the last one calls act(what each gave).
  void meet(Meeting& meeting, int size, int place, void* gives, const std::function<void(std::vector<void*>&)>& act,
            const char* what);

  Meeting& cluster_meeting() { return cluster_meeting_; }
  Block& block_of_rank(int rank);

  // Work that ends by itself, in any order.
  void in_background(std::function<void()> work);
  bool flip();  // a coin for random asynchrony: whether to do it now

  void init_barrier(const void* at, int arrivals);
  void arrive(const void* at, int64_t bytes_expected);
  void land(const void* at, int64_t bytes);
  bool phase_over(const void* at, int parity);

  // `bytes` from `at` lie in this block's shared memory, aligned.
  void check_shared(const char* what, const void* at, size_t bytes, size_t alignment);

 private:
  void run_cluster(int first_block);
  bool run_pass();
  void finish_one();
  BarrierState& barrier(const char* what, const void* at);

  std::mt19937_64 random_;
  Grid grid_ = {};
  std::function<void()> kernel_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* running_ = nullptr;
  Meeting cluster_meeting_;
  std::vector<std::function<void()>> background_;
  std::unordered_map<const void*, BarrierState> barriers_;
};

// The machine whose kernel runs in this (host) thread, or that runs the next one.
Machine& machine();
void use(Machine* machine);

}  // namespace pyprod::emulator
