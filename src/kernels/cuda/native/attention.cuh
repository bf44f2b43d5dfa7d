/* Scores of attention, as attention.cu and attention_split.cu both make them: four threads to a position. */
#ifndef BITNET_CUDA_ATTENTION_H
#define BITNET_CUDA_ATTENTION_H

#include "cache.cuh"

namespace bn {

__host__ __device__ constexpr int paddedDim(int headDim) { return (headDim + 15) / 16 * 16; }

/* The queries of HEADS heads of a row side by side in shared memory, zeros where there is no head or no column. */
template <int HEADS, int THREADS>
__device__ __forceinline__ void loadQueries(float* q, const AttentionArgs& args, int64_t row, int firstHead, int heads, int d) {
  const int padded = paddedDim(d);
  for (int i = static_cast<int>(threadIdx.x); i < HEADS * padded; i += THREADS) {
    const int head = i / padded, k = i % padded;
    q[i] = head < heads && k < d ? args.q[(row * args.nHeads + firstHead + head) * d + k] : 0.0f;
  }
}

/*
 * dot16(q, key) * scale of HEADS queries and one key, by the four threads of a quad: thread p has the sums 4p .. 4p + 3, so that the
 * four read whole sectors. All of a warp call it, and all four threads of a quad get the scores. DIM: the head dimension, where it is
 * a usual one, so that the loop over it unrolls; else 0.
 */
template <int HEADS, bool HALF, int DIM>
__device__ __forceinline__ void scoreQuad(float (&out)[HEADS], const float* q, const unsigned char* keys, int64_t key, int d, float scale) {
  [[maybe_unused]] constexpr int COLUMNS_AHEAD = DIM == 0 ? 2 : 8;
  const int p = static_cast<int>(threadIdx.x & 3), padded = paddedDim(d);
  const bool wide = d % 4 == 0;
  float s[HEADS][4] = {};
  /* Sums of columns that are not there are left alone: adding 0 * 0 would be harmless, but is not what the contract says. */
#pragma unroll COLUMNS_AHEAD
  for (int at = 4 * p; at < d; at += 16) {
    float k[4] = {};
    if (wide) {
      const float4 v = loadCached4<HALF>(keys, key + at);
      k[0] = v.x, k[1] = v.y, k[2] = v.z, k[3] = v.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) k[e] = at + e < d ? loadCached<HALF>(keys, key + at + e) : 0.0f;
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      const float4 v = *reinterpret_cast<const float4*>(q + h * padded + at);
      const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (wide || at + e < d) s[h][e] = s[h][e] + x[e] * k[e];
    }
  }
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
#pragma unroll
    for (int e = 0; e < 4; e++) s[h][e] = s[h][e] + __shfl_xor_sync(FULL_WARP, s[h][e], 2);
#pragma unroll
    for (int e = 0; e < 4; e++) s[h][e] = s[h][e] + __shfl_xor_sync(FULL_WARP, s[h][e], 1);
    out[h] = ((s[h][0] + s[h][2]) + (s[h][1] + s[h][3])) * scale;
  }
}

}  // namespace bn

#endif
