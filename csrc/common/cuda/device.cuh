#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda/wgmma.cuh"

// The primitives as PTX, and how a kernel is started.

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PYPROD_SM90A 1  // a kernel of Hopper's own instructions has a body
#endif

namespace pyprod::cuda {

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int block_x() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_y() { return static_cast<int>(blockIdx.y); }
__device__ __forceinline__ int blocks_x() { return static_cast<int>(gridDim.x); }

// The block's dynamic shared memory, 1024-byte aligned: what 128-byte swizzling needs.
__device__ __forceinline__ uint8_t* shared_memory() {
  extern __shared__ __align__(1024) uint8_t memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

__device__ __forceinline__ int32_t shuffle_xor(int32_t value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

// Copies 16 bytes from global to shared memory in the background; zeros instead when `valid` is false (`from` is then
// not read, but must be a pointer into the same allocation).
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's latest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 16-byte matrices: lane i names row i % 8 of matrix i / 8, and gets word i % 4 of row i / 4 of each.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16, 8] += a[16, 32] * b[32, 8], int8 to int32. With g = lane / 4, t = lane % 4 a thread holds (PTX ISA, m16n8k32):
// a: rows g, g + 8, g, g + 8 at k = 4t, 4t, 4t + 16, 4t + 16 (four k a word); b: column g at k = 4t, 4t + 16;
// c: rows g, g, g + 8, g + 8 at columns 2t, 2t + 1, 2t, 2t + 1.
__device__ __forceinline__ void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// What follows is sm_90a.

// A barrier in shared memory: a phase is over when `arrivals` threads came and the bytes they expect have landed.
using Barrier = uint64_t;

__device__ __forceinline__ void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes initialized barriers visible to the copy engine; the block's threads need a sync_block() besides.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_arrive_expect(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity is over: 0 for the first, 1 for the second, ...
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred over;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n@!over bra again;\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Bytes in global memory, [planes, rows, columns], to be copied by tiles of `tile_planes` x `tile_rows` x 128 bytes. In
// shared memory a tile is rows of 128 bytes, their eight 16-byte chunks exchanged: chunk c of row r lies at c ^ r % 8.
struct TensorMap {
  CUtensorMap map;
};

// Copies the tile whose corner is column x of row y of plane z; zeros where it leaves the tensor. All its bytes count
// on `barrier`.
__device__ __forceinline__ void tensor_copy(void* to, const TensorMap& map, int x, int y, int z, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<uint64_t>(&map.map)), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
      : "memory");
}

// The matrix descriptor of a tile of 128-byte rows as tensor_copy() lays it: K-major, 128-byte swizzle, groups of eight
// rows 1024 bytes apart (PTX ISA, wgmma: addresses in units of 16 bytes).
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile) {
  return uint64_t{(shared_address(tile) & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

// Columns further along the rows of a tile; within 128 bytes the swizzle does not see it.
__device__ __forceinline__ uint64_t advance_descriptor(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes / 16);
}

// Between this warpgroup's other accesses to registers and a wgmma that reads or adds to them.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Sets how many registers each thread of this warpgroup has, a multiple of 8: fewer than now, or more, once others have
// given up enough. The compiler heeds it in the one branch that follows.
template <int kCount>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

template <int kCount>
__device__ __forceinline__ void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Blocks of a cluster reach each other's shared memory.
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

__device__ __forceinline__ int cluster_size() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}

// All threads of all blocks of the cluster.
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Where the block `rank` of the cluster has what this block has at `pointer`.
template <class T>
__device__ __forceinline__ const T* in_block(const T* pointer, int rank) {
  uint64_t there;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<uint64_t>(pointer)), "r"(rank));
  return reinterpret_cast<const T*>(there);
}

// How a kernel is started: blocks, of which `cluster` in x form a cluster, and bytes of shared memory of each.
struct Launch {
  int blocks_x, blocks_y, threads, shared, cluster = 1;
};

// Starts a kernel; null, or CUDA's message.
template <class... Params, class... Args>
const char* launch(void (*kernel)(Params...), const Launch& shape, void* stream, const Args&... args) {
  cudaError_t error = cudaSuccess;
  if (shape.shared > 48 << 10)  // above, a kernel must have asked
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks_x), static_cast<unsigned>(shape.blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  error = cudaLaunchKernelEx(&config, kernel, Params(args)...);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// The GPU that this thread's calls go to.
struct Device {
  int major, processors;
};

inline Device current_device() {
  int id = 0;
  Device device = {};
  cudaGetDevice(&id);
  cudaDeviceGetAttribute(&device.major, cudaDevAttrComputeCapabilityMajor, id);
  cudaDeviceGetAttribute(&device.processors, cudaDevAttrMultiProcessorCount, id);
  return device;
}

// What a TensorMap describes. `data` and the strides are multiples of 16 bytes.
struct TensorView {
  const int8_t* data;
  int64_t columns, rows, planes, row_stride, plane_stride;
  int tile_rows, tile_planes;
};

// Null, or what the driver refuses. Its function is looked up by the runtime: no link to libcuda.
inline const char* make_tensor_map(TensorMap* out, const TensorView& view) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  if (encode == nullptr) return "the driver has no cuTensorMapEncodeTiled";
  const auto u64 = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const auto u32 = [](int value) { return static_cast<cuuint32_t>(value); };
  const cuuint64_t sizes[] = {u64(view.columns), u64(view.rows), u64(view.planes)};
  const cuuint64_t strides[] = {u64(view.row_stride), u64(view.plane_stride)};
  const cuuint32_t tile[] = {128, u32(view.tile_rows), u32(view.tile_planes)}, steps[] = {1, 1, 1};
  const CUresult result = encode(&out->map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<int8_t*>(view.data), sizes,
                                 strides, tile, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? nullptr : "cuTensorMapEncodeTiled refused a tensor";
}

}  // namespace pyprod::cuda
