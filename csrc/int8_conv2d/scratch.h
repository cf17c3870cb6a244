#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace pyprod::int8_conv2d {

enum class Purpose { patch, residual, rows, values };

// Scratch of the calling thread, 64-byte aligned, one for each purpose; grows, and is freed with the thread.
template <Purpose>
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

}  // namespace pyprod::int8_conv2d
