#include "emulator/machine.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>
#include <exception>
#include <utility>

namespace pyprod::emulator {
namespace {

constexpr size_t kStack = 256 << 10;  // mapped on demand: a kernel's thread touches a few pages of it
constexpr size_t kAlignment = 1024;   // of shared memory

thread_local Machine* current = nullptr;

void end_phase_if_complete(BarrierState& state) {
  if (state.pending != 0 || state.bytes != 0) return;
  ++state.phase;
  state.pending = state.arrivals;
}

}  // namespace

struct Fiber {
  ucontext_t context, scheduler;
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  Block* block = nullptr;
  int thread = 0;
  bool done = false;
  double laziness = 0;  // how often it is passed over
  std::function<bool()> ready;
  const char* waits_for = "";
  Groups copies;
  std::function<void()> body;
  std::exception_ptr thrown;

  Fiber() {
    if (stack == MAP_FAILED) throw Fault("emulator: no memory for a thread's stack");
  }
  ~Fiber() { munmap(stack, kStack); }
  Fiber(const Fiber&) = delete;

  static void enter(unsigned high, unsigned low) {
    auto* fiber = reinterpret_cast<Fiber*>(uint64_t{high} << 32 | low);
    try {
      fiber->body();
    } catch (...) {
      fiber->thrown = std::current_exception();
    }
    fiber->done = true;
    swapcontext(&fiber->context, &fiber->scheduler);
  }

  void start(std::function<void()> run) {
    body = std::move(run);
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    const auto self = reinterpret_cast<uint64_t>(this);
    makecontext(&context, reinterpret_cast<void (*)()>(&enter), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
  }

  void resume() {
    swapcontext(&scheduler, &context);
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
  }

  void yield() { swapcontext(&context, &scheduler); }
};

Machine& machine() {
  if (current == nullptr) throw Fault("emulator: no machine is in use");
  return *current;
}

void use(Machine* machine) { current = machine; }

bool Groups::unfinished() const {
  for (const auto& group : committed)
    if (!group.empty()) return true;
  return !open.empty();
}

void Groups::finish_until(size_t pending) {
  while (committed.size() > pending) {
    for (auto& work : committed.front()) work();
    committed.pop_front();
  }
}

Machine::Machine(const Settings& settings) : settings(settings), random_(settings.seed) {}

Machine::~Machine() = default;

void Machine::run(const Grid& grid, const std::function<void()>& kernel) {
  if (grid.cluster < 1 || grid.cluster > 8 || grid.blocks_x % grid.cluster != 0)
    throw Fault("launch: clusters of 1 to 8 blocks that divide the grid");
  if (grid.threads < 1 || grid.threads > 1024) throw Fault("launch: 1 to 1024 threads");
  // Of a block: sm_86, sm_89 and sm_120 have 99 KB, which mma.sync's kernels keep to; sm_90 has 227.
  if (grid.shared > (settings.major == 9 ? 227 : 99) << 10)
    throw Fault("launch: more shared memory than a block can have");
  grid_ = grid;
  kernel_ = kernel;
  for (int first = 0; first < grid.blocks_x * grid.blocks_y; first += grid.cluster) run_cluster(first);
}

void Machine::run_cluster(int first_block) {
  blocks_.clear();
  fibers_.clear();
  barriers_.clear();
  cluster_meeting_ = {};
  for (int rank = 0; rank < grid_.cluster; ++rank) {
    auto block = std::make_unique<Block>();
    block->x = (first_block + rank) % grid_.blocks_x;
    block->y = (first_block + rank) / grid_.blocks_x;
    block->rank = rank;
    block->left = grid_.threads;
    block->raw.assign(static_cast<size_t>(grid_.shared) + kAlignment, 0x5a);
    const auto start = reinterpret_cast<uintptr_t>(block->raw.data());
    block->shared = block->raw.data() + (kAlignment - start % kAlignment) % kAlignment;
    block->warps.resize(static_cast<size_t>(grid_.threads + 31) / 32);
    block->warpgroups.resize(static_cast<size_t>(grid_.threads + 127) / 128);
    block->wgmmas.resize(block->warpgroups.size());
    blocks_.push_back(std::move(block));
  }
  std::uniform_int_distribution<int> three(0, 2);
  constexpr double kLaziness[] = {0, 0.5, 0.97};
  for (auto& block : blocks_) {
    double laziness = 0;
    for (int thread = 0; thread < grid_.threads; ++thread) {
      if (thread % 32 == 0 && settings.asynchrony == Asynchrony::random) laziness = kLaziness[three(random_)];
      auto fiber = std::make_unique<Fiber>();
      fiber->block = block.get();
      fiber->thread = thread;
      fiber->laziness = laziness;
      fiber->start(kernel_);
      fibers_.push_back(std::move(fiber));
    }
  }
  while (run_pass()) {
  }
  for (auto& fiber : fibers_)
    if (fiber->copies.unfinished()) throw Fault("the kernel ended before its cp.async copies");
  for (auto& block : blocks_)
    for (auto& groups : block->wgmmas)
      if (groups.unfinished()) throw Fault("the kernel ended before its wgmmas");
  if (!background_.empty()) throw Fault("the kernel ended before its bulk copies");
}

// Every fiber once, from a random one on; whether any is left.
bool Machine::run_pass() {
  const size_t start = random_() % fibers_.size();
  bool left = false, passed_over = false, moved = false;
  std::uniform_real_distribution<double> unit(0, 1);
  for (size_t i = 0; i < fibers_.size(); ++i) {
    Fiber& fiber = *fibers_[(start + i) % fibers_.size()];
    if (fiber.done) continue;
    left = true;
    if (fiber.ready && !fiber.ready()) continue;
    if (fiber.laziness > 0 && unit(random_) < fiber.laziness) {
      passed_over = true;
      continue;
    }
    fiber.ready = nullptr;
    running_ = &fiber;
    fiber.resume();
    running_ = nullptr;
    moved = true;
    if (fiber.done && --fiber.block->left == 0)
      std::memset(fiber.block->shared, 0xa5, static_cast<size_t>(grid_.shared));
    if (settings.asynchrony == Asynchrony::random && !background_.empty() && random_() % 64 == 0) finish_one();
  }
  if (!left || moved || passed_over) return left;
  if (background_.empty()) {
    const Fiber* stuck = nullptr;
    for (const auto& fiber : fibers_)
      if (!fiber->done) stuck = fiber.get();
    throw Fault("deadlock: thread " + std::to_string(stuck->thread) + " of block " + std::to_string(stuck->block->x) +
                " waits at " + stuck->waits_for);
  }
  finish_one();
  return true;
}

void Machine::finish_one() {
  const size_t which = settings.asynchrony == Asynchrony::random ? random_() % background_.size() : 0;
  const auto work = std::move(background_[which]);
  background_.erase(background_.begin() + static_cast<std::ptrdiff_t>(which));
  work();
}

Block& Machine::block() { return *running_->block; }
int Machine::thread() const { return running_->thread; }
Groups& Machine::copies() { return running_->copies; }

void Machine::wait(const std::function<bool()>& ready, const char* what) {
  Fiber& fiber = *running_;
  if (ready() && settings.asynchrony != Asynchrony::random) return;
  fiber.ready = ready;
  fiber.waits_for = what;
  fiber.yield();
}

void Machine::meet(Meeting& meeting, int size, int place, void* gives,
                   const std::function<void(std::vector<void*>&)>& act, const char* what) {
  const uint64_t generation = meeting.generation;
  meeting.given.resize(static_cast<size_t>(size));
  meeting.given[static_cast<size_t>(place)] = gives;
  if (++meeting.arrived == size) {
    act(meeting.given);
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  Fiber& fiber = *running_;
  fiber.ready = [&meeting, generation] { return meeting.generation != generation; };
  fiber.waits_for = what;
  fiber.yield();
}

Block& Machine::block_of_rank(int rank) {
  if (rank < 0 || rank >= grid_.cluster) throw Fault("in_block: no block of this rank in the cluster");
  return *blocks_[static_cast<size_t>(rank)];
}

void Machine::in_background(std::function<void()> work) {
  if (settings.asynchrony == Asynchrony::eager) return work();
  background_.push_back(std::move(work));
}

bool Machine::flip() {
  if (settings.asynchrony == Asynchrony::random) return random_() % 2 == 0;
  return settings.asynchrony == Asynchrony::eager;
}

BarrierState& Machine::barrier(const char* what, const void* at) {
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) throw Fault(std::string(what) + ": the barrier is not initialized");
  return found->second;
}

void Machine::init_barrier(const void* at, int arrivals) {
  check_shared("barrier_init", at, 8, 8);
  if (arrivals < 1) throw Fault("barrier_init: needs an arrival at least");
  if (barriers_.count(at)) throw Fault("barrier_init: it is in use");
  barriers_[at] = {arrivals, arrivals, 0, 0};
}

void Machine::arrive(const void* at, int64_t bytes_expected) {
  BarrierState& state = barrier("barrier_arrive", at);
  if (state.pending == 0) throw Fault("barrier_arrive: more arrivals than the phase has");
  state.bytes += bytes_expected;
  --state.pending;
  end_phase_if_complete(state);
}

void Machine::land(const void* at, int64_t bytes) {
  BarrierState& state = barrier("copy", at);
  state.bytes -= bytes;
  end_phase_if_complete(state);
}

// As the hardware: the parity of the phase before the current one is what is over.
bool Machine::phase_over(const void* at, int parity) {
  return static_cast<int>(barrier("barrier_wait", at).phase % 2) != parity;
}

void Machine::check_shared(const char* what, const void* at, size_t bytes, size_t alignment) {
  const auto* from = static_cast<const uint8_t*>(at);
  const Block& here = block();
  if (from < here.shared || from + bytes > here.shared + grid_.shared)
    throw Fault(std::string(what) + ": outside of shared memory");
  if (static_cast<size_t>(from - here.shared) % alignment != 0)
    throw Fault(std::string(what) + ": must be " + std::to_string(alignment) + "-byte aligned");
}

}  // namespace pyprod::emulator
