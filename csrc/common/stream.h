#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

// Writing results that are larger than the cache past it: an ordinary store first reads the line it is about to
// replace, a third of the traffic of a copy (15 against 27 GB/s for a copy of 64 MB on one core of a Sapphire Rapids
// Xeon).

namespace pyprod {

// Results of a call from this size on are streamed. Where they fit a 2 MB L2 or nearly so, ordinary stores win and
// leave them there for the next layer (an add and norm that writes 3 MB: 391 against 459 us); beyond, streaming does (6
// MB: 891 against 1135 us; 8 MB: 1383 against 1953 us).
inline constexpr int64_t kStreamBytes = 4 << 20;

// Copies past the cache. Four 16-byte stores fill a line in the write-combining buffer: wider ones gain nothing.
inline void stream_copy(void* to, const void* from, int64_t bytes) {
  int64_t done = 0;
#if defined(__x86_64__)
  char* out = static_cast<char*>(to);
  const char* in = static_cast<const char*>(from);
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    for (; done + 16 <= bytes; done += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + done),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + done)));
    }
  }
#endif
  std::memcpy(static_cast<char*>(to) + done, static_cast<const char*>(from) + done, static_cast<size_t>(bytes - done));
}

// Makes streamed results visible to other threads before anything that this thread writes later.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

inline void copy_out(void* to, const void* from, int64_t bytes, bool stream) {
  if (stream) return stream_copy(to, from, bytes);
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace pyprod
