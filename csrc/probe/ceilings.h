#pragma once

#include <pybind11/pybind11.h>

namespace pyprod::probe {

// Adds the microbenchmarks to pyprod._probe.
void define_ceilings(pybind11::module_& m);

}  // namespace pyprod::probe
