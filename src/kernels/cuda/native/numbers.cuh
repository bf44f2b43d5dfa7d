/*
 * Arithmetic that gives the bits of src/kernels/ts. f32 operations round after every step: the library is compiled with -fmad=false
 * -prec-div=true -prec-sqrt=true -ftz=false, without which nothing here is true; `selfTest` of context.cu looks whether it is.
 */
#ifndef BITNET_CUDA_NUMBERS_H
#define BITNET_CUDA_NUMBERS_H

#include "platform.h"

namespace bn {

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ float quietNaN() { return __uint_as_float(0x7fc00000u); }
__device__ __forceinline__ bool isNaN(float x) { return x != x; }

template <typename T>
__host__ __device__ __forceinline__ T least(T a, T b) { return b < a ? b : a; }
template <typename T>
__host__ __device__ __forceinline__ T greatest(T a, T b) { return a < b ? b : a; }
template <typename T>
__host__ __device__ __forceinline__ T ceilDiv(T a, T b) { return (a + b - 1) / b; }

/* `expF32` of src/numeric/exp.ts, step for step. */
__device__ __forceinline__ float expF32(float x) {
  const float n = rintf(x * 1.4426950408889634f);
  float r = x - n * 0.693359375f;
  r = r - n * -0.00021219444005469057f;
  float y = 1.98756915e-4f;
  y = y * r + 1.39819995e-3f;
  y = y * r + 8.33345191e-3f;
  y = y * r + 4.16657959e-2f;
  y = y * r + 1.66666655e-1f;
  y = y * r + 5.00000012e-1f;
  y = y * r * r + r + 1.0f;
  /* 2^n as bits; n is outside -126 .. 127 only where the result is replaced below. */
  const float clamped = n < -126.0f ? -126.0f : n > 127.0f ? 127.0f : n;
  y = y * __int_as_float((static_cast<int>(clamped) + 127) << 23);
  if (x < -87.0f) return 0.0f;
  if (x > 88.0f) return infinity();
  return isNaN(x) ? quietNaN() : y;
}

/* Activations of `gatedRelu2`, `gatedSilu` and `gatedGelu`. */
__device__ __forceinline__ float relu2(float gate, float up) {
  const float r = gate > 0.0f || isNaN(gate) ? gate : 0.0f;
  return r * r * up;
}
__device__ __forceinline__ float silu(float gate, float up) { return gate / (1.0f + expF32(-gate)) * up; }
__device__ __forceinline__ float gelu(float gate, float up) {
  const float t = 1.5957691216057308f * gate * (1.0f + 0.044715f * gate * gate);
  return gate / (1.0f + expF32(-t)) * up;
}

/* f32(sum of codes times trits) / scale of the row * scale of the matrix, each step rounded. */
__device__ __forceinline__ float ternaryResult(int sum, float rowScale, float weightScale) {
  return static_cast<float>(sum) / rowScale * weightScale;
}

/* ---- sums over a warp or a block; every thread gets the result ---- */

__device__ __forceinline__ int warpSum(int v) {
  for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(FULL_WARP, v, by);
  return v;
}
__device__ __forceinline__ double warpSum(double v) {
  for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(FULL_WARP, v, by);
  return v;
}
/* Greatest of the lanes, NaN ignored. */
__device__ __forceinline__ float warpMax(float v) {
  for (int by = 16; by > 0; by >>= 1) {
    const float other = __shfl_xor_sync(FULL_WARP, v, by);
    if (other > v || isNaN(v)) v = other;
  }
  return v;
}

/*
 * f32(sum8d(terms) / divisor) of terms that are not negative, from a sum in any other order.
 *
 * sum8d is a chain of count/8 dependent additions, far too slow for one row; but only its rounding to f32 is ever used. Two f64 sums
 * of the same non-negative terms, in whatever order, differ by less than 2 (count + 8) 2^-53 of their value. Where both ends
 * of that interval give the same f32, so does sum8d, because division and rounding keep order. Where they do not (for 6912 terms
 * some five times in a hundred thousand) `settled` becomes false and the caller has to add in order. NaN and infinity need no order.
 */
__device__ __forceinline__ float settle(double sum, int count, double divisor, bool& settled) {
  const double doubt = sum * (2.0 * (count + 8) * 1.1102230246251565e-16);
  const float low = static_cast<float>((sum - doubt) / divisor);
  const float high = static_cast<float>((sum + doubt) / divisor);
  const float middle = static_cast<float>(sum / divisor);
  settled = low == high || !(sum - sum == 0.0);
  return settled && low == high ? low : middle;
}

/* sum8d in order, by one warp; `term(i)` is an f32. For `settle`'s rare no, so its speed does not matter. */
template <typename Term>
__device__ double sum8dInOrder(int count, Term term) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  double s = 0.0;
  if (lane < 8)
    for (int i = lane; i < count; i += 8) s += static_cast<double>(term(i));
  s += __shfl_xor_sync(FULL_WARP, s, 4);
  s += __shfl_xor_sync(FULL_WARP, s, 2);
  s += __shfl_xor_sync(FULL_WARP, s, 1);
  return __shfl_sync(FULL_WARP, s, 0);
}

}  // namespace bn

#endif
