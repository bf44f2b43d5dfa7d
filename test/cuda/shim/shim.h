/*
 * CUDA on a CPU, for tests: enough of the language and of the runtime that the library's own sources compile with a C++ compiler and
 * run with the meaning they have on a card. `-DBN_SHIM`; nothing here is in the library that is shipped.
 *
 * Every thread of a block is a coroutine. They run one at a time, in an order that a seed chooses, and change over only where CUDA
 * lets them meet: at __syncthreads and at warp operations. So a barrier that is missing is a wrong answer here too, in most orders,
 * and a barrier that not all reach is an error instead of a hang. Asynchronous copies arrive at the last moment, which shows who reads
 * without waiting; with a seed every other one arrives at once, which shows who sends over what others still read. Shared memory is
 * filled with 0xCD before each block, device memory when it is taken, and each piece of device memory stands between guards that are
 * looked at when it is given back and at every wait.
 */
#ifndef BITNET_CUDA_SHIM_H
#define BITNET_CUDA_SHIM_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

/* ---- threads ---- */

namespace shim {
struct Place {
  dim3 threadIdx, blockIdx, blockDim, gridDim;
};
extern Place* here;
constexpr int SLOT_WORDS = 8;
/* What lane l of this warp has put down; valid until this thread's next warp operation but one. */
struct Slots {
  uint32_t words[32][SLOT_WORDS];
};
void meetBlock();
const Slots& meetWarp(unsigned mask, const void* data, int bytes);
void* sharedMemory();
/* cp.async: 16 bytes arrive when their thread waits for their group or, with a seed, at once. Both ends are multiples of 16. */
void sendCopy(void* to, const void* from, bool valid);
void commitCopies();
void awaitCopies(unsigned pending);
/* start + sum of 8 pairs of f16 times 8 pairs, with the errors that a tensor core may make (tensor.cpp). */
float tensorSum(float start, const unsigned* left, const unsigned* right);
}  // namespace shim

#define threadIdx (shim::here->threadIdx)
#define blockIdx (shim::here->blockIdx)
#define blockDim (shim::here->blockDim)
#define gridDim (shim::here->gridDim)

inline void __syncthreads() { shim::meetBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::meetWarp(mask, nullptr, 0); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  T out;
  std::memcpy(&out, shim::meetWarp(mask, &value, sizeof(T)).words[lane & 31], sizeof(T));
  return out;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int by) {
  T out;
  const int lane = static_cast<int>(threadIdx.x & 31) ^ by;
  std::memcpy(&out, shim::meetWarp(mask, &value, sizeof(T)).words[lane], sizeof(T));
  return out;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint32_t mine = predicate != 0;
  const shim::Slots& all = shim::meetWarp(mask, &mine, sizeof(mine));
  unsigned bits = 0;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1 && all.words[lane][0]) bits |= 1u << lane;
  return bits;
}

template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
inline unsigned atomicOr(unsigned* at, unsigned value) {
  const unsigned before = *at;
  *at = before | value;
  return before;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }

/* With constant shifts: as a loop, which the compiler keeps, it is a third of the time of a story. */
inline int __dp4a(int a, int b, int c) {
  return c + static_cast<int8_t>(a) * static_cast<int8_t>(b) + static_cast<int8_t>(a >> 8) * static_cast<int8_t>(b >> 8) +
         static_cast<int8_t>(a >> 16) * static_cast<int8_t>(b >> 16) + (a >> 24) * (b >> 24);
}

/* ---- the runtime ---- */

typedef int cudaError_t;
enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidPtx = 218,
  cudaErrorJitCompilerNotFound = 221,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719
};
typedef struct shimStream* cudaStream_t;
typedef struct shimGraph* cudaGraph_t;
typedef struct shimGraph* cudaGraphExec_t;
enum { cudaStreamNonBlocking = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
};

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaDeviceReset();
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void**, size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaMallocHost(void**, size_t);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);

namespace shim {
/* Whether the code that runs waits for the kernels before it: see BN_WAITS. */
bool waits();
/* `overlap`: it may begin before the kernel before it has ended. Here it does not. */
cudaError_t launch(cudaStream_t, bool overlap, dim3 grid, dim3 block, size_t sharedBytes, std::function<void()> body);
}  // namespace shim

/*
 * Knobs of the shim, for tests: "seed" (order of threads), "devices", "compute" (80), "driver" (13000; below 0 it fails), "memory"
 * (bytes of the card), "failAfter" (that many calls of the runtime from now on, one fails), "failWith" (its code), "barriers" (0:
 * __syncthreads does nothing), "sms" (multiprocessors, by which kernels are chosen), "shared" (most shared memory of a block: 232448
 * as on compute capability 9.0; 101376 on 8.6 and 8.9), "late" (1: streams do nothing until somebody waits for them, and the host's
 * memory is read only then, as cards do that read pageable memory themselves), "tensor" and "tensorBits" (tensor.cpp), "waits" (1:
 * code for cards on which kernels overlap; a "driver" before 12030 does not capture them), "odd" (1: a name that JSON has to be
 * careful with). Returns 0 for an unknown name.
 */
extern "C" __attribute__((visibility("default"))) int32_t bn_shim_set(const char* name, int64_t value);

/*
 * What was taken from the runtime and not given back: "streams", "graphs", "pinned" pieces of the host's memory, "pieces" of the
 * device's; and "error", which cudaGetLastError would tell whoever asked next. Besides, "overlaps": launches of kernels that may
 * begin early. -1 for an unknown name.
 */
extern "C" __attribute__((visibility("default"))) int64_t bn_shim_get(const char* name);

#endif
