#include "place/place.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// glibc's own, under names that no preloaded library hides: dlsym() itself may allocate and free.
extern "C" void __libc_free(void*);
extern "C" void* __libc_memalign(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);

namespace {

constexpr size_t kLine = 64, kPage = 4096;
// A block begins up to so many pages after the last: 32 pages are the sets of a 2 MB second level cache.
constexpr size_t kMostPages = 32;
constexpr size_t kClasses = 512;  // different sizes that can be kept for reuse; more are not reused

char* base = nullptr;
size_t capacity = 0;  // bytes from `base`
size_t cursor = 0;    // where the next new block may begin
uint64_t random_state = 0;
bool entered = false;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

// By the number of a block's first line, from 1; 0 is no block. Private, and touched only where blocks begin.
struct Block {
  uint32_t lines, previous, next;  // the neighbors among live blocks, or (next) among free ones of this size
  uint32_t aside;                  // where its copy begins, in lines from 1; 0: it has none
};
Block* blocks = nullptr;
uint32_t live = 0;  // the first

struct FreeList {
  uint32_t lines, first;
};
FreeList free_lists[kClasses];
size_t classes = 0;

char* aside = nullptr;
size_t aside_capacity = 0;

struct Lock {
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};

uint64_t draw() {  // splitmix64 (Steele, Lea, Flood 2014)
  uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void* map_private(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return p;
}

bool is_ours(const void* p) {
  const char* c = static_cast<const char*>(p);
  return base != nullptr && c >= base && c < base + capacity;
}

FreeList* list_of(uint32_t lines, bool make) {
  for (size_t i = 0; i < classes; ++i) {
    if (free_lists[i].lines == lines) return &free_lists[i];
  }
  if (!make || classes == kClasses) return nullptr;
  free_lists[classes] = {lines, 0};
  return &free_lists[classes++];
}

char* address(uint32_t block) { return base + (block - 1) * kLine; }

uint32_t block_at(const void* p) { return static_cast<uint32_t>((static_cast<const char*>(p) - base) / kLine) + 1; }

void link(uint32_t block) {
  blocks[block].aside = blocks[block].previous = 0;
  blocks[block].next = live;
  if (live != 0) blocks[live].previous = block;
  live = block;
}

void unlink(uint32_t block) {
  const Block& b = blocks[block];
  (b.previous != 0 ? blocks[b.previous].next : live) = b.next;
  if (b.next != 0) blocks[b.next].previous = b.previous;
}

// 0: the memory is used up; the caller then takes the heap's.
uint32_t take(size_t alignment, size_t bytes) {
  const uint32_t lines = static_cast<uint32_t>((bytes + kLine - 1) / kLine);
  if (FreeList* list = list_of(lines, false); list != nullptr && list->first != 0) {
    const uint32_t block = list->first;
    if (reinterpret_cast<uintptr_t>(address(block)) % alignment == 0) {
      list->first = blocks[block].next;
      return block;
    }
  }
  size_t start = (cursor + kPage - 1) / kPage * kPage + draw() % kMostPages * kPage + draw() % (kPage / kLine) * kLine;
  start = (start + alignment - 1) / alignment * alignment;  // a power of two; `base` is aligned to a huge page
  if (start + lines * kLine > capacity) return 0;
  cursor = start + lines * kLine;
  const uint32_t block = block_at(base + start);
  blocks[block].lines = lines;
  return block;
}

void give_back(uint32_t block) {
  unlink(block);
  if (FreeList* list = list_of(blocks[block].lines, true)) {
    blocks[block].next = list->first;
    list->first = block;
  }
}

void* aligned(size_t alignment, size_t bytes) {
  if (entered && bytes >= kLine) {
    const Lock lock;
    if (const uint32_t block = take(alignment, bytes)) {
      link(block);
      return address(block);
    }
  }
  return __libc_memalign(alignment, bytes);
}

}  // namespace

void place_memory(char* memory, size_t bytes) {
  base = memory;
  capacity = bytes;
  blocks = static_cast<Block*>(map_private((bytes / kLine + 1) * sizeof(Block)));
}

void place_reset(uint64_t seed) {
  const Lock lock;
  cursor = 0;
  classes = 0;
  random_state = seed;
  for (uint32_t block = live; block != 0; block = blocks[block].next) {
    const size_t end = (block - 1 + blocks[block].lines) * kLine;
    if (end > cursor) cursor = end;
  }
}

void place_enter() {
  const Lock lock;
  for (uint32_t block = live; block != 0; block = blocks[block].next) {
    const Block& b = blocks[block];
    if (b.aside != 0) memcpy(address(block), aside + (b.aside - 1) * kLine, b.lines * kLine);
  }
  entered = true;
}

size_t place_leave() {
  const Lock lock;
  entered = false;
  size_t lines = 0;
  for (uint32_t block = live; block != 0; block = blocks[block].next) {
    blocks[block].aside = static_cast<uint32_t>(lines) + 1;
    lines += blocks[block].lines;
  }
  if (lines * kLine > aside_capacity) {
    if (aside != nullptr) munmap(aside, aside_capacity);
    aside_capacity = lines * kLine * 2;
    aside = static_cast<char*>(map_private(aside_capacity));
  }
  for (uint32_t block = live; block != 0; block = blocks[block].next) {
    memcpy(aside + (blocks[block].aside - 1) * kLine, address(block), blocks[block].lines * kLine);
  }
  return lines * kLine;
}

size_t place_extent() {
  const Lock lock;
  return cursor;
}

PYPROD_EXPORT int posix_memalign(void** result, size_t alignment, size_t bytes) noexcept {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  void* p = aligned(alignment, bytes);
  if (p == nullptr) return ENOMEM;
  *result = p;
  return 0;
}

PYPROD_EXPORT void* aligned_alloc(size_t alignment, size_t bytes) noexcept { return aligned(alignment, bytes); }

PYPROD_EXPORT void* memalign(size_t alignment, size_t bytes) noexcept { return aligned(alignment, bytes); }

PYPROD_EXPORT void free(void* p) noexcept {
  if (!is_ours(p)) return __libc_free(p);
  const Lock lock;
  give_back(block_at(p));
}

PYPROD_EXPORT void* realloc(void* p, size_t bytes) noexcept {
  if (!is_ours(p)) return __libc_realloc(p, bytes);
  const size_t held = blocks[block_at(p)].lines * kLine;
  void* fresh = malloc(bytes);
  if (fresh == nullptr) return nullptr;
  memcpy(fresh, p, held < bytes ? held : bytes);
  free(p);
  return fresh;
}
