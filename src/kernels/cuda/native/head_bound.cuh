/*
 * How far an estimate of a product can be from the product of dot16, proven: what lets DENSE_TOP_K (head.cu) leave rows out.
 *
 * A row of the matrix is w, a row of the input x, K columns (KP when padded to UNIT). w' and x' are what the tensor cores get: each
 * number times a power of two that is the same for the whole row, rounded to f16. |.| is the Euclidean norm, u = 2^-24. The estimate
 * is what mma.m16n8k16 makes of the sum of w' x'. In units of the two scales:
 *
 *     |estimate - dot16|  <=  E  =  |w| (|x - x'| + c |x|) + |w - w'| (|x| + |x - x'|),      c = (1.125 KP + 64) 2^-22
 *
 * 1. Rounding to f16.  |sum w x - sum w' x'|  <=  |w| |x - x'| + |w - w'| |x'|, by Cauchy and Schwarz, and |x'| <= |x| + |x - x'|.
 *    Both differences are measured, not guessed: exact in f32 (an f32 less its own rounding to 11 bits), their squares summed in f64.
 *
 * 2. Tensor cores. NVIDIA documents no order and no rounding. Measured (Fasi, Higham, Mikaitis, Pranesh: "Numerical behavior of
 *    NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021; V100, T4, A100. Xie, Wang, Yang, Yang: "MMA-Sim", arXiv 2511.10909,
 *    2025, and Khattak, Mikaitis: "Accurate models of NVIDIA tensor cores", arXiv 2512.07004, 2025; V100 to B200): products of f16 are
 *    exact, subnormal ones included; the addends of a block, 4 products and the accumulator on V100, 8 on A100, 16 on H100, are aligned
 *    to the greatest exponent and cut off, not rounded, below 2^-23 of it on V100, 2^-24 on A100 and 2^-25 on H100; their sum is then
 *    normalised, again cutting off. Let every instruction be B blocks of 16/B products in any order, whatever B from 1 to 16, and
 *    S = sum |w' x'|. The addend with the greatest exponent loses nothing, each other one less than 2^-23 of a bound M of what 2 is
 *    raised to by that exponent and of all partial sums, and so does the result: at most B (16/B + 1) <= 32 times 2^-23 M an
 *    instruction, KP * 2^-22 M in all. Partial sums are at most S and the errors so far; so M = 1.07 |w'| |x'| will do with K at most
 *    2^18, where KP * 2^-22 is 1/16; for K = 2560 it is 1.0007. And |w'| |x'| <= 1.002 |w| |x|.
 *    The exponent of a product is the sum of those of its factors, which is -14 for a subnormal one, however small that is: the product
 *    may be far below two to that power. But the power is no more than |w'| |x'| where the greatest of w' and of x' are at least
 *    2^-14. Scaled rows have them near 2^13 and 2^14; rows of an f16 matrix, which are not scaled, are out of range below 2^-14.
 *    That bits down to 2^-23 are kept, and subnormal numbers, is what `bn_open` has every card show (the self-test in elementwise.cu).
 *
 * 3. dot16. Sixteen chains of K/16 products and sums and four more sums, each rounded: (K/16 + 5) u |w| |x|, to second order less than
 *    (KP/16 + 6) u = (KP/64 + 1.5) 2^-22. Products below 2^-126 lose 2^-150 each at most, see 5.
 *
 * 4. estimate - E and estimate + E are rounded as well: 2 u (|w'| |x'| + E), less than 2^-22 |w| |x|.
 *    2, 3 and 4 together are less than (1.1 KP + 3) 2^-22 |w| |x|, for K = 2560 less than (1.02 KP + 3). What c has beyond that is
 *    margin. Norms and their products are enlarged by UP for being rounded themselves.
 *
 * 5. Range. A row is taken only with its greatest magnitude between 2^-40, or 2^-14 of an f16 matrix, and 2^40 (or 0). So nothing
 *    overflows: products of dot16 are below 2^80, those of w' x' below 2^31. And E is at least 64 * 2^-22 * 2^-80 = 2^-96, beside which
 *    the 2^-150 of what vanishes in products is nothing, and so is what scaling takes from numbers below 2^-126. A row out of range,
 *    infinite or not a number has E = infinity: its products are computed.
 *
 * How coarse is it? For K = 2560, c is 0.00070, and |x - x'| about 0.0002 |x|. The products of random w with x are spread by
 * |w| |x| / sqrt(K) = 0.02 |w| |x|: E is a 22nd of that. Of 128256 such products the 40th greatest is 3.4 spreads above the middle,
 * where their number falls by e^(3.7 d) over d spreads: 40 (e^(3.7 * 2/22) - 1) = 16 candidates besides the 40.
 */
#ifndef BITNET_CUDA_HEAD_BOUND_H
#define BITNET_CUDA_HEAD_BOUND_H

#include "dense_layout.h"
#include "kernels.h"

namespace bn {

constexpr int MAX_ESTIMATED_COLUMNS = 1 << 18;

/* Greatest magnitudes of rows that are estimated, and what f16 gets of them: x below 2^15, w below 2^14. */
constexpr float LEAST_MAGNITUDE = 0x1p-40f, GREATEST_MAGNITUDE = 0x1p40f, LEAST_NORMAL_HALF = 0x1p-14f;
constexpr int X_EXPONENT = 14, W_EXPONENT = 13;
constexpr float UP = 1.001f;

__host__ __device__ constexpr int64_t paddedColumns(int columns) { return (static_cast<int64_t>(columns) + UNIT - 1) / UNIT * UNIT; }

/* c of the bound. */
__device__ __forceinline__ float roundingFactor(int columns) {
  return (1.125f * static_cast<float>(paddedColumns(columns)) + 64.0f) * 0x1p-22f;
}

/* Of a row of the matrix, in DENSE_INDEX's buffer: `rows` floats each. */
struct RowIndex {
  const float* norm;
  const float* error;
  const float* scale; /* of w', a power of two */
  __host__ __device__ RowIndex(const float* at, int rows) : norm(at), error(at + rows), scale(at + 2 * static_cast<int64_t>(rows)) {}
};

/* An interval that has the product in it; everything where the bound does not hold. */
struct Interval {
  float low, high;
};
__device__ __forceinline__ Interval around(float estimate, const RowIndex& index, int row, const ErrorFactors& x) {
  const float e = index.norm[row] * x.ofNorm + index.error[row] * x.ofError;
  if (!(e < infinity()) || !(fabsf(estimate) < infinity())) return {-infinity(), infinity()};
  return {estimate - e, estimate + e};
}

/* 2^exponent, which is that of a normal number. */
__device__ __forceinline__ float powerOfTwo(int exponent) { return __int_as_float((exponent + 127) << 23); }
__device__ __forceinline__ int exponentOf(float x) { return (__float_as_int(x) >> 23 & 255) - 127; }

}  // namespace bn

#endif
