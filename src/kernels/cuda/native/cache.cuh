/* How keys and values are found and read: (layer, kvHead, position, headDim), f32 or f16. */
#ifndef BITNET_CUDA_CACHE_H
#define BITNET_CUDA_CACHE_H

#include "kernels.h"
#include "numbers.cuh"

namespace bn {

/* Element at which the positions of one head begin. */
__device__ __forceinline__ int64_t headStart(const CacheShape& cache, int kvHead) {
  return (static_cast<int64_t>(cache.layer) * cache.nKvHeads + kvHead) * cache.context * cache.headDim;
}

/* Distance of the scores of two heads where they lie one after the other: a multiple of 4, so that they are read by four. */
__host__ __device__ constexpr int64_t scoreStride(int context) { return (static_cast<int64_t>(context) + 3) / 4 * 4; }

template <bool HALF>
__device__ __forceinline__ float loadCached(const unsigned char* base, int64_t at) {
  return HALF ? halfToFloat(reinterpret_cast<const uint16_t*>(base)[at]) : reinterpret_cast<const float*>(base)[at];
}

/* Four values from a multiple of 4 on, of a row that begins at one. */
template <bool HALF>
__device__ __forceinline__ float4 loadCached4(const unsigned char* base, int64_t at) {
  if (!HALF) return *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(base) + at);
  const uint2 v = *reinterpret_cast<const uint2*>(reinterpret_cast<const uint16_t*>(base) + at);
  return make_float4(halfToFloat(v.x & 0xffffu), halfToFloat(v.x >> 16), halfToFloat(v.y & 0xffffu), halfToFloat(v.y >> 16));
}

__device__ __forceinline__ void storeCached(unsigned char* base, bool half, int64_t at, float value) {
  if (half) reinterpret_cast<uint16_t*>(base)[at] = static_cast<uint16_t>(floatToHalf(value));
  else reinterpret_cast<float*>(base)[at] = value;
}

/*
 * The sum of `count` terms as the contract has it, and the terms themselves in place of the scores: by one warp. What it needs to
 * know of other threads' scores must be behind a barrier.
 */
__device__ __forceinline__ float softmaxTerms(float* scores, int count) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  float max = -infinity();
  for (int j = lane; j < count; j += 32) max = scores[j] > max ? scores[j] : max;
  max = warpMax(max);
  double sum = 0.0;
  for (int j = lane; j < count; j += 32) {
    const float e = expF32(scores[j] - max);
    scores[j] = e;
    sum += static_cast<double>(e);
  }
  sum = warpSum(sum);
  __syncwarp();
  bool settled;
  const float total = settle(sum, count, 1.0, settled);
  return settled ? total : static_cast<float>(sum8dInOrder(count, [scores](int j) { return scores[j]; }));
}

}  // namespace bn

#endif
