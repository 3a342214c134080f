// The words that kernels are written in: lanes, warps, blocks, shared memory, and the dozen instructions
// that C++ has no name for. With SALIENCE_CUDA_ON_CPU the same words come from tests/cuda_on_cpu, which runs
// a block's lanes as fibers of one thread.
//
// Every warp has 32 lanes and warp operations take part with all of them: kernels never call one in a branch
// that some lanes of the warp skip. Blocks are one-dimensional, in multiples of 32 threads. A kernel takes
// one struct by value and gets its shared memory from shared_memory<T>().
#pragma once

#include <cstdint>
#include <cstring>

#if defined(SALIENCE_CUDA_ON_CPU)
#include "cuda_on_cpu/simt_host.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define SALIENCE_DEVICE __device__ __forceinline__
#define SALIENCE_PRAGMA(text) _Pragma(#text)
#define SALIENCE_UNROLL SALIENCE_PRAGMA(unroll)
#define SALIENCE_UNROLL_BY(times) SALIENCE_PRAGMA(unroll(times))
// Threads of a block, and blocks that should fit a multiprocessor at once.
#define SALIENCE_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)

namespace salience::cuda {

SALIENCE_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
SALIENCE_DEVICE int threads() { return static_cast<int>(blockDim.x); }
SALIENCE_DEVICE int64_t block() { return static_cast<int64_t>(blockIdx.x); }
SALIENCE_DEVICE int64_t blocks() { return static_cast<int64_t>(gridDim.x); }
SALIENCE_DEVICE int lane() { return static_cast<int>(threadIdx.x) & 31; }
SALIENCE_DEVICE int warp() { return static_cast<int>(threadIdx.x) >> 5; }

// The dynamic shared memory of the block, at least 16-byte aligned.
template <class T>
SALIENCE_DEVICE T& shared_memory() {
  extern __shared__ uint4 salience_shared_memory[];
  return *reinterpret_cast<T*>(salience_shared_memory);
}

SALIENCE_DEVICE void block_barrier() { __syncthreads(); }
SALIENCE_DEVICE void warp_barrier() { __syncwarp(); }

template <class T>
SALIENCE_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
template <class T>
SALIENCE_DEVICE T shuffle(T value, int from_lane) {
  return __shfl_sync(0xFFFFFFFFu, value, from_lane);
}
SALIENCE_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(0xFFFFFFFFu, vote); }
SALIENCE_DEVICE bool any(bool vote) { return __any_sync(0xFFFFFFFFu, vote) != 0; }

// Each returns what was there before.
SALIENCE_DEVICE uint32_t atomic_add(uint32_t* at, uint32_t value) { return atomicAdd(at, value); }
SALIENCE_DEVICE uint64_t atomic_max(uint64_t* at, uint64_t value) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  return atomicMax(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
}

// Sixteen bytes from global to shared memory, both aligned to 16. They are there after copy_async_wait<N>,
// which waits for all groups but the last N (a group is what lies between two commits), and for other threads
// after a barrier that follows.
SALIENCE_DEVICE void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
SALIENCE_DEVICE void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int Groups>
SALIENCE_DEVICE void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#endif
}

// ldmatrix: lane i names row i % 8 of 8 x 8 matrix i / 8, eight halves in shared memory, aligned to 16 bytes.
// Lane i receives elements 2 (i % 4) and 2 (i % 4) + 1 of row i / 4 of each of the four matrices.
SALIENCE_DEVICE void load_matrices(uint32_t (&to)[4], const uint16_t* row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// sum += a b for a: 16 x 16, b: 16 x 8 of halves. With g = lane / 4 and t = lane % 4, registers hold pairs of
// neighbours along the dimension that is summed over (k), the lower index in the lower half:
//   a[0]: row g, k = 2t    a[1]: row g + 8, k = 2t    a[2]: row g, k = 2t + 8    a[3]: row g + 8, k = 2t + 8
//   b0: column g, k = 2t   b1: column g, k = 2t + 8
//   sum[0..1]: row g, columns 2t, 2t + 1              sum[2..3]: row g + 8, the same columns
SALIENCE_DEVICE void multiply_accumulate(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif __CUDA_ARCH__ >= 750
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Sixteen bytes that are read once.
struct Words4 {
  uint32_t x, y, z, w;
};
SALIENCE_DEVICE Words4 load_streaming(const uint16_t* from) {
  const uint4 read = __ldcs(reinterpret_cast<const uint4*>(from));
  return {read.x, read.y, read.z, read.w};
}
SALIENCE_DEVICE Words4 load_words(const uint16_t* from) {
  const uint4 read = *reinterpret_cast<const uint4*>(from);
  return {read.x, read.y, read.z, read.w};
}

SALIENCE_DEVICE uint16_t half_bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
SALIENCE_DEVICE float half_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// Each rounds on its own, whatever the compiler would like to fuse.
SALIENCE_DEVICE double add_rn(double a, double b) { return __dadd_rn(a, b); }
SALIENCE_DEVICE double multiply_rn(double a, double b) { return __dmul_rn(a, b); }
SALIENCE_DEVICE double subtract_rn(double a, double b) { return __dsub_rn(a, b); }
// Only for products that are exact in float64, where fused and separate rounding agree.
SALIENCE_DEVICE double exact_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
// May round twice.
SALIENCE_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SALIENCE_DEVICE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
SALIENCE_DEVICE double divide_rn(double a, double b) { return __ddiv_rn(a, b); }
SALIENCE_DEVICE float divide_floats(float a, float b) { return __fdiv_rn(a, b); }
SALIENCE_DEVICE float add_floats(float a, float b) { return __fadd_rn(a, b); }
SALIENCE_DEVICE float multiply_floats(float a, float b) { return __fmul_rn(a, b); }
SALIENCE_DEVICE double square_root_rn(double a) { return __dsqrt_rn(a); }
SALIENCE_DEVICE float float_rn(double a) { return __double2float_rn(a); }
SALIENCE_DEVICE float float_down(double a) { return __double2float_rd(a); }
SALIENCE_DEVICE float float_up(double a) { return __double2float_ru(a); }

SALIENCE_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }

}  // namespace salience::cuda
#endif
