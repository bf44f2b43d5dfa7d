/*
 * The few things for which nvcc and the CPU shim (test/cuda/shim) need different words. Everything else of the library is the same
 * source for both.
 */
#ifndef BITNET_CUDA_PLATFORM_H
#define BITNET_CUDA_PLATFORM_H

#include <cstddef>
#include <cstdint>

#ifdef BN_SHIM
#include "shim.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

/*
 * The dynamic shared memory of a block, as a pointer. All shared memory is dynamic: one place to look for sizes, and the shim can
 * poison it and know where it ends.
 */
#ifdef BN_SHIM
#define BN_SHARED(T, name) T* name = static_cast<T*>(shim::sharedMemory())
#else
#define BN_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char bnShared[]; \
  T* name = reinterpret_cast<T*>(bnShared)
#endif

namespace bn {

constexpr unsigned FULL_WARP = 0xffffffffu;

/* How kernels are launched on a context's stream. */
struct Stream {
  cudaStream_t stream;
  /* Kernels may begin before the one before has ended: compute capability 9.0. See gridWait. */
  bool overlap;
  int sms;
  /* Most shared memory of a block: 163 KiB on compute capability 8.0, 227 on 9.0 and 10.0, but 99 on 8.6, 8.9 and 12.0. */
  size_t sharedLimit;
  uint64_t* launches;
};

/*
 * Starts a kernel; returns the runtime's code. More than 48 KiB of shared memory have to be asked for: always the most there is, because
 * the limit belongs to the kernel and not to the launch, and must not shrink under a graph that needs more. Grids of zero blocks do
 * nothing.
 */
template <typename... P, typename... A>
cudaError_t launch(const Stream& on, void (*kernel)(P...), dim3 grid, int threads, size_t sharedBytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return static_cast<cudaError_t>(cudaSuccess);
  if (sharedBytes > on.sharedLimit) return static_cast<cudaError_t>(cudaErrorInvalidValue);
  (*on.launches)++;
#ifdef BN_SHIM
  return shim::launch(on.stream, on.overlap, grid, dim3(threads), sharedBytes, [=] { kernel(static_cast<P>(args)...); });
#else
  if (sharedBytes > 48 * 1024) {
    const cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(on.sharedLimit));
    if (e != cudaSuccess) return e;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = sharedBytes;
  config.stream = on.stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = on.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
#endif
}

/*
 * Whether gridWait waits in the code that runs. The card does not tell: the driver makes code for a card of 9.0 from PTX for 8.0 where
 * a library was built so, and in that a wait is nothing. Kernels without one must not overlap: the end of a kernel lets the next
 * begin before what it wrote can be seen.
 */
#ifdef BN_SHIM
#define BN_WAITS shim::waits()
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define BN_WAITS 1
#else
#define BN_WAITS 0
#endif

/*
 * Lets the next kernel's blocks come as soon as there is room, and waits for the kernels before. With `Stream.overlap` (programmatic
 * dependent launch) a kernel's blocks may be on the card while earlier kernels still run. What they do before this call must depend on
 * nothing but weights and launch parameters: weights are written by copies, which are always waited for, and by bn_pack_dense, which
 * waits for itself.
 *
 * Whoever has passed it knows that all earlier kernels have ended, although griddepcontrol.wait speaks only of the one before (PTX ISA:
 * until all prerequisite grids have completed and their memory operations are visible). For that one cannot have completed before all
 * its threads have passed theirs: so every thread of every kernel comes here before it can return. What follows a list, a copy or
 * another graph, is an ordinary dependency on its last kernel.
 *
 * Loads stay behind it because the asm is volatile and clobbers memory. That is worth nothing for a load that the compiler believes
 * constant, so no kernel has a __restrict__ pointer or calls __ldg: build.mjs looks at what became of it.
 */
__device__ __forceinline__ void gridWait() {
#ifndef BN_SHIM
#if BN_WAITS
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#endif
}

/*
 * 16 bytes of weights, which are read once and by nobody else: not kept in L1. By the path for constants (.nc), which is not coherent:
 * only for what no kernel writes.
 */
__device__ __forceinline__ uint4 loadStream(const void* at) {
#ifdef BN_SHIM
  return *static_cast<const uint4*>(at);
#else
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
#endif
}

/* 16 bytes from device to shared memory, behind the thread's back; zeros where not `valid`. Both ends are multiples of 16. */
__device__ __forceinline__ void copyAsync(void* to, const void* from, bool valid) {
#ifdef BN_SHIM
  shim::sendCopy(to, from, valid);
#else
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void copyCommit() {
#ifdef BN_SHIM
  shim::commitCopies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits for all but the newest PENDING groups of this thread's copies; a barrier must follow before others read them. */
template <int PENDING>
__device__ __forceinline__ void copyWait() {
#ifdef BN_SHIM
  shim::awaitCopies(PENDING);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/*
 * d += A B on the tensor cores, A 16 x 32 and B 32 x 8 of signed bytes. Of lane l, with g = l / 4 and t = l % 4 (PTX ISA, mma.m16n8k32):
 *
 *     a[0] A[g][4t..4t+3]   a[1] A[g+8][4t..]   a[2] A[g][16+4t..]   a[3] A[g+8][16+4t..]
 *     b[0] B[4t..4t+3][g]   b[1] B[16+4t..][g]
 *     d[0] D[g][2t]         d[1] D[g][2t+1]     d[2] D[g+8][2t]      d[3] D[g+8][2t+1]
 */
__device__ __forceinline__ void mmaS8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef BN_SHIM
  const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const shim::Slots& all = shim::meetWarp(FULL_WARP, mine, sizeof(mine));
  const int lane = static_cast<int>(threadIdx.x & 31), g = lane / 4, t = lane % 4;
  for (int k4 = 0; k4 < 8; k4++) {
    const int half = k4 / 4, from = k4 % 4;
    for (int column = 0; column < 2; column++) {
      const int bWord = static_cast<int>(all.words[(2 * t + column) * 4 + from][4 + half]);
      d[column] = __dp4a(static_cast<int>(all.words[g * 4 + from][2 * half]), bWord, d[column]);
      d[2 + column] = __dp4a(static_cast<int>(all.words[g * 4 + from][2 * half + 1]), bWord, d[2 + column]);
    }
  }
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/*
 * d += A B on the tensor cores, A 16 x 16 and B 16 x 8 of f16, in pairs with the lower column in the lower half; the sum as the cards
 * make it, which is not that of f32 operations (head_bound.cuh). Of lane l, with g = l / 4 and t = l % 4 (PTX ISA, mma.m16n8k16):
 *
 *     a[0] A[g][2t..2t+1]   a[1] A[g+8][2t..]   a[2] A[g][8+2t..]   a[3] A[g+8][8+2t..]
 *     b[0] B[2t..2t+1][g]   b[1] B[8+2t..][g]
 *     d[0] D[g][2t]         d[1] D[g][2t+1]     d[2] D[g+8][2t]     d[3] D[g+8][2t+1]
 */
__device__ __forceinline__ void mmaF16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef BN_SHIM
  const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const shim::Slots& all = shim::meetWarp(FULL_WARP, mine, sizeof(mine));
  const int lane = static_cast<int>(threadIdx.x & 31), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++) {
    unsigned left[8], right[8]; /* pairs of columns */
    for (int pair = 0; pair < 8; pair++) {
      left[pair] = all.words[g * 4 + pair % 4][i / 2 + pair / 4 * 2];
      right[pair] = all.words[(2 * t + i % 2) * 4 + pair % 4][4 + pair / 4];
    }
    d[i] = shim::tensorSum(d[i], left, right);
  }
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ float halfToFloat(unsigned bits) {
#ifdef BN_SHIM
  const unsigned sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude < 0x400u) return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-24f));
  return __uint_as_float(sign | ((magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u)));
#else
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
#endif
}

/* To nearest, ties to even; 65520 and above give infinity. */
__device__ __forceinline__ unsigned floatToHalf(float x) {
#ifdef BN_SHIM
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) return sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
  return sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
#else
  return __half_as_ushort(__float2half_rn(x));
#endif
}

/* Two at once, the first in the lower half. */
__device__ __forceinline__ unsigned floatsToHalves(float low, float high) {
#ifdef BN_SHIM
  return floatToHalf(low) | floatToHalf(high) << 16;
#else
  unsigned out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#endif
}

}  // namespace bn

#endif
