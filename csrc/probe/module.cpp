// pyprod._probe: what is not a tensor and what Python's own overhead would spoil. Knows nothing of torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/cpu_features.h"
#include "probe/callgrind.h"
#include "probe/ceilings.h"
#include "probe/counters.h"
#include "probe/ladder.h"
#include "probe/sampler.h"

namespace py = pybind11;
namespace probe = pyprod::probe;

namespace {

py::bytes sample(const py::function& call, int64_t max_count, int64_t max_ns) {
  if (max_count < 1) throw py::value_error("max_count must be >= 1, got " + std::to_string(max_count));
  if (max_ns < 0) throw py::value_error("max_ns must be >= 0, got " + std::to_string(max_ns));
  std::vector<int64_t> durations;
  // A growing vector copies between two calls, not within one; reserve what is cheap so that it seldom does.
  durations.reserve(static_cast<size_t>(std::min<int64_t>(max_count, 1 << 16)));
  if (!probe::sample(call.ptr(), max_count, max_ns, durations)) throw py::error_already_set();
  return {reinterpret_cast<const char*>(durations.data()), durations.size() * sizeof(int64_t)};
}

// Median distance of two clock reads with nothing between them: what every sample contains and no call caused.
int64_t clock_overhead_ns() {
  std::vector<int64_t> gaps(10'001);
  for (int64_t& gap : gaps) {
    const int64_t start = probe::now_ns();
    gap = probe::now_ns() - start;
  }
  std::nth_element(gaps.begin(), gaps.begin() + gaps.size() / 2, gaps.end());
  return gaps[gaps.size() / 2];
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const auto& [name, present] : pyprod::detect_cpu().list())
    if (present) names.emplace_back(name);
  return names;
}

std::vector<std::pair<std::string, bool>> ladder_rungs() {
  std::vector<std::pair<std::string, bool>> found;
  for (const probe::Rung& rung : probe::ladder()) {
    if (rung.supported()) found.emplace_back(rung.name, rung.packed);
  }
  return found;
}

void ladder_product(const std::string& name, uintptr_t a, uintptr_t w, int64_t m, int64_t n, int64_t k, uintptr_t out) {
  for (const probe::Rung& rung : probe::ladder()) {
    if (rung.name != name || !rung.supported()) continue;
    rung.product(reinterpret_cast<const int8_t*>(a), reinterpret_cast<const int8_t*>(w), m, n, k,
                 reinterpret_cast<int32_t*>(out));
    return;
  }
  throw py::value_error("ladder_product: this CPU has no rung " + name);
}

}  // namespace

PYBIND11_MODULE(_probe, m) {
  m.doc() = "CPU features, a sampling loop and hardware counters, without Python's overhead. Needs no torch.";
  m.attr("CLOCK") = "CLOCK_MONOTONIC_RAW";
  m.def("now_ns", &probe::now_ns, "The sampling clock, ns.");
  m.def("clock_overhead_ns", &clock_overhead_ns, "Median ns between two reads of the clock with nothing between.");
  m.def("cpu_features", &cpu_features, "Instruction set extensions that this CPU and kernel offer.");
  m.def("sample", &sample, py::arg("call"), py::arg("max_count"), py::arg("max_ns") = 0,
        "Duration of each of up to max_count calls of call(), as bytes of int64 ns.");

  probe::define_ceilings(m);
  m.def("ladder_rungs", &ladder_rungs, "Rungs that this CPU can run, and whether each takes packed weights.");
  m.def("ladder_product", &ladder_product, py::arg("name"), py::arg("a"), py::arg("w"), py::arg("m"), py::arg("n"),
        py::arg("k"), py::arg("out"), py::call_guard<py::gil_scoped_release>(),
        "out[m, n] = a[m, k] * w[n, k]^T by one rung; dense arrays, by address.");
  m.def("under_valgrind", &probe::under_valgrind, "Whether valgrind runs this process.");
  m.def("start_counting", &probe::start_counting, "Have callgrind count instructions from here.");
  m.def("stop_counting", &probe::stop_counting, py::arg("name"), "Have callgrind write a count and stop.");

  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const probe::CounterError& error) {
      PyErr_SetObject(PyExc_OSError, py::make_tuple(error.code, error.message).ptr());
    }
  });
  py::class_<probe::Counters>(m, "Counters", "Cycles and instructions of this thread in user space.")
      .def(py::init<>())
      .def("start", &probe::Counters::start)
      .def("stop", &probe::Counters::stop)
      .def("close", &probe::Counters::close);
}
