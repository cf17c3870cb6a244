// The microbenchmarks behind `pyprod env --ceilings`: what they measure is in docs/ceilings.md.

#include "probe/ceilings.h"

#include <pybind11/stl.h>
#include <sys/mman.h>

#include <cstring>

#include "probe/arithmetic.h"
#include "probe/memory.h"
#include "probe/team.h"

namespace py = pybind11;

namespace pyprod::probe {
namespace {

constexpr int64_t kHugePage = 2 << 20;

template <class Item>
Item named(const std::vector<Item>& items, const std::string& name) {
  std::string known;
  for (const Item& item : items) {
    if (name == item.name) return item;
    known += (known.empty() ? "" : ", ") + std::string(item.name);
  }
  throw py::value_error(name + " is not one of those this CPU can run: " + known);
}

template <class Item>
std::vector<std::string> names(const std::vector<Item>& items) {
  std::vector<std::string> all;
  for (const Item& item : items) all.emplace_back(item.name);
  return all;
}

void check(int repetitions, int64_t min_ns) {
  if (repetitions < 1) throw py::value_error("repetitions must be >= 1, got " + std::to_string(repetitions));
  if (min_ns < 0) throw py::value_error("min_ns must be >= 0, got " + std::to_string(min_ns));
}

std::vector<double> per_second(const std::vector<int64_t>& durations, double amount) {
  std::vector<double> rates;
  for (const int64_t ns : durations) rates.push_back(amount * 1e9 / static_cast<double>(ns));
  return rates;
}

std::vector<double> arithmetic_rates(const std::string& name, std::vector<int> cpus, int repetitions, int64_t min_ns) {
  check(repetitions, min_ns);
  const Arithmetic loop = named(arithmetics(), name);
  Team team(std::move(cpus));
  const py::gil_scoped_release released;
  int64_t passes = 0;
  const auto durations = team.run(repetitions, min_ns, passes, [](int) {}, [&](int, int64_t n) { loop.run(n); });
  return per_second(durations, static_cast<double>(loop.ops) * static_cast<double>(passes) * team.size());
}

// Anonymous memory of a wished page size: "huge" asks for it, the kernel may refuse; plain pages are certain.
class Pages {
 public:
  Pages(int64_t bytes, bool huge) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage + kHugePage) {
    base_ = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    madvise(base_, static_cast<size_t>(bytes_), huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  Pages(const Pages&) = delete;
  ~Pages() { munmap(base_, static_cast<size_t>(bytes_)); }

  char* data() const {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base_) + kHugePage - 1) / kHugePage * kHugePage);
  }

 private:
  int64_t bytes_;
  void* base_;
};

// `bytes` are those of all threads together, of a copy source and target; each thread goes through its own share.
std::vector<double> memory_rates(const std::string& name, int64_t bytes, bool huge, std::vector<int> cpus,
                                 int repetitions, int64_t min_ns) {
  check(repetitions, min_ns);
  const Pattern pattern = named(patterns(), name);
  Team team(std::move(cpus));
  const bool both = pattern.reads && pattern.writes;
  const int64_t share = bytes / team.size() / (both ? 2 : 1) / kStep * kStep;
  if (share == 0) throw py::value_error("bytes must be at least " + std::to_string(2 * kStep) + " for each thread");
  const py::gil_scoped_release released;
  std::vector<std::unique_ptr<Pages>> sources, targets;
  for (int thread = 0; thread < team.size(); ++thread) {
    sources.push_back(std::make_unique<Pages>(pattern.reads ? share : kStep, huge));
    targets.push_back(std::make_unique<Pages>(pattern.writes ? share : kStep, huge));
  }
  // Written by the thread that goes through it: that places it in the memory next to that CPU.
  const auto prepare = [&](int thread) {
    const auto t = static_cast<size_t>(thread);
    std::memset(sources[t]->data(), thread + 1, static_cast<size_t>(pattern.reads ? share : kStep));
    if (pattern.writes) std::memset(targets[t]->data(), 0, static_cast<size_t>(share));
  };
  const auto work = [&](int thread, int64_t passes) {
    const auto t = static_cast<size_t>(thread);
    for (int64_t i = 0; i < passes; ++i) pattern.run(targets[t]->data(), sources[t]->data(), share);
  };
  int64_t passes = 0;
  const auto durations = team.run(repetitions, min_ns, passes, prepare, work);
  for (int thread = 0; pattern.writes && thread < team.size(); ++thread) {
    const char* target = targets[static_cast<size_t>(thread)]->data();
    for (const int64_t at : {int64_t{0}, share / 2 + 1, share - 1})
      if (target[at] != static_cast<char>(thread + 1)) throw std::runtime_error(name + " did not write what it timed");
  }
  return per_second(durations, static_cast<double>(share) * (both ? 2 : 1) * static_cast<double>(passes) * team.size());
}

// Seconds of one empty region by torch_parallel_for (torch/csrc/stable/c/shim.h), whose address is given.
std::vector<double> parallel_region_seconds(uintptr_t address, int threads, int repetitions) {
  check(repetitions, 0);
  using Body = void (*)(int64_t, int64_t, void*);
  const auto parallel_for = reinterpret_cast<int32_t (*)(int64_t, int64_t, int64_t, Body, void*)>(address);
  constexpr int kRegions = 200;
  std::vector<double> seconds;
  const py::gil_scoped_release released;
  for (int i = -1; i < repetitions; ++i) {  // the first starts the threads
    const int64_t start = now_ns();
    for (int region = 0; region < kRegions; ++region)
      if (parallel_for(0, threads, 1, [](int64_t, int64_t, void*) {}, nullptr) != 0)
        throw std::runtime_error("torch_parallel_for failed");
    if (i >= 0) seconds.push_back(static_cast<double>(now_ns() - start) * 1e-9 / kRegions);
  }
  return seconds;
}

}  // namespace

void define_ceilings(py::module_& m) {
  m.def("arithmetics", [] { return names(arithmetics()); }, "Arithmetic loops that this CPU can run.");
  m.def("memory_patterns", [] { return names(patterns()); }, "Ways through memory that this CPU can time.");
  m.def("arithmetic_rates", &arithmetic_rates, py::arg("name"), py::arg("cpus"), py::arg("repetitions"),
        py::arg("min_ns"), "Operations per second of all CPUs together, one value a repetition.");
  m.def("memory_rates", &memory_rates, py::arg("pattern"), py::arg("bytes"), py::arg("huge"), py::arg("cpus"),
        py::arg("repetitions"), py::arg("min_ns"), "Bytes per second of all CPUs together, one value a repetition.");
  m.def("parallel_region_seconds", &parallel_region_seconds, py::arg("address"), py::arg("threads"),
        py::arg("repetitions"), "Seconds of an empty parallel region, one value a repetition.");
}

}  // namespace pyprod::probe
