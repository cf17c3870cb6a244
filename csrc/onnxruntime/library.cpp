// What ONNX Runtime calls when SessionOptions.register_custom_ops_library() is given this library.

#include <string>

#include "onnxruntime/int8_linear.h"

namespace pyprod::onnxruntime {
namespace {

Domain* make_domain(const Table* table) {
  Domain* domain = nullptr;
  check(table, CreateDomain::call(table, "pyprod", &domain));
  check(table, AddOp::call(table, domain, &int8_linear(table)));
  return domain;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
  const Table* table = base->get_api(kVersion);
  if (table == nullptr) {  // older than 1.17: it says so on stderr itself; a message needs a table, which version 1 has
    const std::string message = std::string("pyprod needs ONNX Runtime 1.17 or newer, this is ") + base->get_version();
    return CreateStatus::call(base->get_api(1), ErrorCode::fail, message.c_str());
  }
  return guarded(table, [&] {
    static Domain* const domain = make_domain(table);  // sessions keep pointing to it
    check(table, AddDomain::call(table, options, domain));
  });
}

}  // namespace pyprod::onnxruntime
