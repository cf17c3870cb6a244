#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#include <string>

#include "emulator/machine.h"

// The primitives of common/cuda/device.cuh, on the emulator. What each does is said there.

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define PYPROD_SM90A 1

namespace pyprod::cuda {

using emulator::Fault;
using emulator::machine;

inline int thread() { return machine().thread(); }
inline int threads() { return machine().grid().threads; }
inline int block_x() { return machine().block().x; }
inline int block_y() { return machine().block().y; }
inline int blocks_x() { return machine().grid().blocks_x; }
inline uint8_t* shared_memory() { return machine().block().shared; }

namespace detail {

template <class T>
T& as(void* given) {
  return *static_cast<T*>(given);
}

using Given = std::vector<void*>;

template <class Act>
void meet_warp(void* gives, const Act& act, const char* what) {
  const int thread = machine().thread(), warp = thread / 32, threads = machine().grid().threads;
  const int size = threads - 32 * warp < 32 ? threads - 32 * warp : 32;
  machine().meet(machine().block().warps[static_cast<size_t>(warp)], size, thread % 32, gives, act, what);
}

template <class Act>
void meet_warpgroup(void* gives, const Act& act, const char* what) {
  const int thread = machine().thread();
  if (machine().grid().threads < 128 * (thread / 128 + 1)) throw Fault(std::string(what) + ": not a whole warpgroup");
  machine().meet(machine().block().warpgroups[static_cast<size_t>(thread / 128)], 128, thread % 128, gives, act, what);
}

inline emulator::Groups& wgmmas() { return machine().block().wgmmas[static_cast<size_t>(machine().thread() / 128)]; }

}  // namespace detail

inline void sync_block() {
  machine().meet(
      machine().block().all, machine().grid().threads, machine().thread(), nullptr, [](detail::Given&) {},
      "sync_block");
}

inline void sync_warp() {
  detail::meet_warp(nullptr, [](detail::Given&) {}, "sync_warp");
}

template <class T>
inline T shuffle_xor(T value, int lanes) {
  T mine[2] = {value, value};
  const auto exchange = [lanes](detail::Given& given) {
    for (size_t lane = 0; lane < given.size(); ++lane)
      static_cast<T*>(given[lane])[1] = static_cast<T*>(given[lane ^ static_cast<size_t>(lanes)])[0];
  };
  detail::meet_warp(mine, exchange, "shuffle_xor");
  return mine[1];
}

inline void cp_async16(void* to, const void* from, bool valid) {
  machine().check_shared("cp_async16", to, 16, 16);
  if (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) throw Fault("cp_async16: the source is not aligned");
  auto copy = [=] { valid ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); };
  if (machine().flip()) return copy();
  machine().copies().open.push_back(copy);
}

inline void cp_async_commit() {
  auto& copies = machine().copies();
  copies.committed.push_back(std::move(copies.open));
  copies.open.clear();
}

template <int kPending>
inline void cp_async_wait() {
  machine().copies().finish_until(kPending);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  machine().check_shared("load_matrix_x4", row, 16, 16);
  struct Lane {
    const void* row;
    uint32_t* words;
  } mine = {row, r};
  const auto load = [](detail::Given& given) {
    for (size_t matrix = 0; matrix < 4; ++matrix)
      for (size_t lane = 0; lane < 32; ++lane) {
        const auto* from = static_cast<const uint8_t*>(detail::as<Lane>(given[8 * matrix + lane / 4]).row);
        std::memcpy(&detail::as<Lane>(given[lane]).words[matrix], from + 4 * (lane % 4), 4);
      }
  };
  detail::meet_warp(&mine, load, "load_matrix_x4");
}

namespace detail {

// c += a * b of one lane's four results, where a and b are the matrices that all 32 lanes hold.
inline void multiply_lane(int32_t* c, size_t lane, const int8_t (&a)[16][32], const int8_t* b, size_t b_row) {
  for (size_t i = 0; i < 4; ++i) {
    const int8_t* left = a[lane / 4 + i / 2 * 8];
    const int8_t* right = b + (2 * (lane % 4) + i % 2) * b_row;
    int32_t sum = 0;
    for (int k = 0; k < 32; ++k) sum += left[k] * right[k];
    c[i] += sum;
  }
}

// Rows g, g + 8 of a 16 x 32 matrix from the four words of each lane.
inline void place_a(int8_t (&a)[16][32], size_t lane, const uint32_t* words) {
  for (size_t i = 0; i < 4; ++i) std::memcpy(&a[lane / 4 + i % 2 * 8][4 * (lane % 4) + i / 2 * 16], &words[i], 4);
}

}  // namespace detail

inline void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Lane {
    int32_t* c;
    const uint32_t *a, *b;
  } mine = {c, a, b};
  const auto multiply = [](detail::Given& given) {
    int8_t a[16][32], b[8][32];
    for (size_t lane = 0; lane < 32; ++lane) {
      const auto& its = detail::as<Lane>(given[lane]);
      detail::place_a(a, lane, its.a);
      for (size_t i = 0; i < 2; ++i) std::memcpy(&b[lane / 4][4 * (lane % 4) + 16 * i], &its.b[i], 4);
    }
    for (size_t lane = 0; lane < 32; ++lane)
      detail::multiply_lane(detail::as<Lane>(given[lane]).c, lane, a, &b[0][0], 32);
  };
  detail::meet_warp(&mine, multiply, "mma_s8");
}

using Barrier = uint64_t;

inline void barrier_init(Barrier* barrier, int arrivals) { machine().init_barrier(barrier, arrivals); }
inline void barrier_init_fence() {}
inline void barrier_arrive(Barrier* barrier) { machine().arrive(barrier, 0); }
inline void barrier_arrive_expect(Barrier* barrier, int bytes) { machine().arrive(barrier, bytes); }

inline void barrier_wait(Barrier* barrier, int parity) {
  machine().wait([&m = machine(), barrier, parity] { return m.phase_over(barrier, parity); }, "barrier_wait");
}

struct TensorView {
  const int8_t* data;
  int64_t columns, rows, planes, row_stride, plane_stride;
  int tile_rows, tile_planes;
};

using TensorMap = TensorView;

// The byte of a tile of 128-byte rows where column k of row r lies.
inline size_t swizzled(size_t r, size_t k) { return 128 * r + (k ^ (r % 8 * 16)); }

inline void copy_tile(int8_t* to, const TensorView& view, int64_t x, int64_t y, int64_t z) {
  const auto within = [](int64_t at, int64_t size) { return at >= 0 && at < size; };
  for (int plane = 0; plane < view.tile_planes; ++plane)
    for (int row = 0; row < view.tile_rows; ++row)
      for (int k = 0; k < 128; ++k) {
        const bool inside = within(x + k, view.columns) && within(y + row, view.rows) && within(z + plane, view.planes);
        const int8_t* from = view.data + (z + plane) * view.plane_stride + (y + row) * view.row_stride + x + k;
        to[swizzled(static_cast<size_t>(plane * view.tile_rows + row), static_cast<size_t>(k))] = inside ? *from : 0;
      }
}

inline void tensor_copy(void* to, const TensorMap& map, int x, int y, int z, Barrier* barrier) {
  const int bytes = 128 * map.tile_rows * map.tile_planes;
  machine().check_shared("tensor_copy", to, static_cast<size_t>(bytes), 1024);
  machine().in_background([&m = machine(), to, map, x, y, z, bytes, barrier] {
    copy_tile(static_cast<int8_t*>(to), map, x, y, z);
    m.land(barrier, bytes);
  });
}

inline uint64_t tile_descriptor(const void* tile) {
  return static_cast<uint64_t>(static_cast<const uint8_t*>(tile) - shared_memory());
}

inline uint64_t advance_descriptor(uint64_t descriptor, int bytes) { return descriptor + static_cast<uint64_t>(bytes); }

inline void wgmma_fence() {
  detail::meet_warpgroup(nullptr, [](detail::Given&) {}, "wgmma_fence");
}

template <int kColumns>
inline void wgmma_s8(int32_t (&c)[kColumns / 8][4], const uint32_t (&a)[4], uint64_t b) {
  struct Lane {
    int32_t (*c)[4];
    const uint32_t* a;
    uint64_t b;
  } mine = {c, a, b};
  const uint8_t* shared = shared_memory();
  const auto issue = [shared](detail::Given& given) {
    std::vector<Lane> lanes;
    for (void* lane : given) lanes.push_back(detail::as<Lane>(lane));
    for (const Lane& lane : lanes)
      if (lane.b != lanes[0].b) throw Fault("wgmma_s8: the warpgroup's descriptors differ");
    const auto work = [lanes, shared] {
      static int8_t b[kColumns][32];
      for (size_t r = 0; r < kColumns; ++r)
        for (size_t k = 0; k < 32; ++k) {
          const size_t start = lanes[0].b / 1024 * 1024, column = lanes[0].b % 128 + k;
          std::memcpy(&b[r][k], shared + start + swizzled(r, column), 1);
        }
      for (size_t warp = 0; warp < 4; ++warp) {
        int8_t a[16][32];
        for (size_t lane = 0; lane < 32; ++lane) detail::place_a(a, lane, lanes[32 * warp + lane].a);
        for (size_t lane = 0; lane < 32; ++lane)
          for (size_t j = 0; j < kColumns / 8; ++j)
            detail::multiply_lane(lanes[32 * warp + lane].c[j], lane, a, b[8 * j], 32);
      }
    };
    auto& groups = detail::wgmmas();
    if (groups.open.empty() && groups.committed.empty() && machine().flip()) return work();
    groups.open.push_back(work);  // in order: none overtakes an earlier one
  };
  detail::meet_warpgroup(&mine, issue, "wgmma_s8");
}

inline void wgmma_commit() {
  const auto commit = [](detail::Given&) {
    auto& groups = detail::wgmmas();
    groups.committed.push_back(std::move(groups.open));
    groups.open.clear();
  };
  detail::meet_warpgroup(nullptr, commit, "wgmma_commit");
}

template <int kPending>
inline void wgmma_wait() {
  detail::meet_warpgroup(nullptr, [](detail::Given&) { detail::wgmmas().finish_until(kPending); }, "wgmma_wait");
}

template <int>
inline void release_registers() {}

template <int>
inline void claim_registers() {}

inline int cluster_rank() { return machine().block().rank; }
inline int cluster_size() { return machine().grid().cluster; }

inline void sync_cluster() {
  const auto& grid = machine().grid();
  machine().meet(
      machine().cluster_meeting(), grid.cluster * grid.threads, grid.threads * cluster_rank() + machine().thread(),
      nullptr, [](detail::Given&) {}, "sync_cluster");
}

template <class T>
inline const T* in_block(const T* pointer, int rank) {
  const auto offset = reinterpret_cast<const uint8_t*>(pointer) - shared_memory();
  return reinterpret_cast<const T*>(machine().block_of_rank(rank).shared + offset);
}

struct Launch {
  int blocks_x, blocks_y, threads, shared, cluster = 1;
};

template <class... Params, class... Args>
const char* launch(void (*kernel)(Params...), const Launch& shape, void*, const Args&... args) {
  static thread_local std::string message;
  try {
    machine().run({shape.blocks_x, shape.blocks_y, shape.threads, shape.shared, shape.cluster},
                  [&] { kernel(args...); });
    return nullptr;
  } catch (const std::exception& fault) {
    message = fault.what();
    return message.c_str();
  }
}

struct Device {
  int major, processors;
};

inline Device current_device() { return {machine().settings.major, machine().settings.processors}; }

inline const char* make_tensor_map(TensorMap* out, const TensorView& view) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride % 16 == 0 && view.plane_stride % 16 == 0;
  if (!aligned) return "make_tensor_map: not 16-byte aligned";
  if (view.columns < 1 || view.rows < 1 || view.planes < 1) return "make_tensor_map: empty";
  if (view.tile_rows > 256 || view.tile_planes > 256) return "make_tensor_map: too tall a tile";
  *out = view;
  return nullptr;
}

}  // namespace pyprod::cuda
