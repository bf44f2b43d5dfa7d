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

__device__ __forceinline__ float loadCached(const unsigned char* base, bool half, int64_t at) {
  return half ? halfToFloat(reinterpret_cast<const uint16_t*>(base)[at]) : reinterpret_cast<const float*>(base)[at];
}

__device__ __forceinline__ void storeCached(unsigned char* base, bool half, int64_t at, float value) {
  if (half) reinterpret_cast<uint16_t*>(base)[at] = static_cast<uint16_t>(floatToHalf(value));
  else reinterpret_cast<float*>(base)[at] = value;
}

/* Four values from a multiple of 4 on, of a row that begins at one. */
__device__ __forceinline__ void loadCached4(const unsigned char* base, bool half, int64_t at, float (&out)[4]) {
  if (half) {
    const uint2 v = *reinterpret_cast<const uint2*>(reinterpret_cast<const uint16_t*>(base) + at);
    out[0] = halfToFloat(v.x & 0xffffu), out[1] = halfToFloat(v.x >> 16);
    out[2] = halfToFloat(v.y & 0xffffu), out[3] = halfToFloat(v.y >> 16);
  } else {
    const float4 v = *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(base) + at);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
  }
}

}  // namespace bn

#endif
