#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace pyprod {

// Scratch of the calling thread, 64-byte aligned; grows, and is freed with the thread. A call keeps it only until the
// next one of the same thread. A call that holds several pieces at once names each by a type of its own.
template <class Purpose = void>
char* scratch(size_t bytes) {
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<char, Free> buffer;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    buffer.reset();  // first, or both are held at once
    buffer.reset(static_cast<char*>(std::aligned_alloc(64, rounded)));
    capacity = buffer ? rounded : 0;
    if (!buffer) throw std::bad_alloc();
  }
  return buffer.get();
}

}  // namespace pyprod
