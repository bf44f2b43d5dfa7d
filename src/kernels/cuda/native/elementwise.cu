/* Ops on single elements, and the small kernel that proves the arithmetic. */
#include "kernels.h"
#include "numbers.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;

__device__ __forceinline__ float element(int op, float a, float b, float factor) {
  switch (op) {
    case BN_GATED_RELU2: return relu2(a, b);
    case BN_GATED_SILU: return silu(a, b);
    case BN_GATED_GELU: return gelu(a, b);
    case BN_ADD: return a + b;
    case BN_SCALE: return a * factor;
    default: return a;
  }
}

__global__ void __launch_bounds__(THREADS) elementsKernel(ElementArgs args) {
  gridWait();
  const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < args.length; i += step) {
    const float b = args.b == nullptr ? 0.0f : args.b[i];
    args.out[i] = element(args.op, args.a[i], b, args.factor);
  }
}

/* Elements of A and B of the self-test's product, of all bytes and signs. */
__device__ __forceinline__ int elementA(int row, int k) { return static_cast<int8_t>(row * 37 + k * 11 + 128); }
__device__ __forceinline__ int elementB(int k, int column) { return static_cast<int8_t>(column * 53 - k * 29); }

/* Whether tensor cores have fragments and signs as `mmaS8` draws them, in the elements that this thread gets. */
__device__ bool multipliesMatrices() {
  const int lane = static_cast<int>(threadIdx.x & 31), g = lane / 4, t = lane % 4;
  unsigned a[4] = {}, b[2] = {};
  for (int e = 0; e < 4; e++) {
    for (int i = 0; i < 4; i++) a[i] |= (static_cast<unsigned>(elementA(g + i % 2 * 8, i / 2 * 16 + 4 * t + e)) & 0xffu) << 8 * e;
    for (int i = 0; i < 2; i++) b[i] |= (static_cast<unsigned>(elementB(i * 16 + 4 * t + e, g)) & 0xffu) << 8 * e;
  }
  int d[4] = {1, 2, 3, 4};
  mmaS8(d, a, b);
  bool right = true;
  for (int i = 0; i < 4; i++) {
    int sum = i + 1;
    for (int k = 0; k < 32; k++) sum += elementA(g + i / 2 * 8, k) * elementB(k, 2 * t + i % 2);
    right = right && sum == d[i];
  }
  return right;
}

/* Whether mmaF16 takes its operands from where platform.h says: A[i][k] = i + 16 k, B[k][j] = 8 k + j, sums exact in any order. */
__device__ bool mmaIsPlaced() {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const auto pair = [](int first, int step) { return floatsToHalves(static_cast<float>(first), static_cast<float>(first + step)); };
  const unsigned a[4] = {pair(g + 32 * t, 16), pair(g + 8 + 32 * t, 16), pair(g + 128 + 32 * t, 16), pair(g + 136 + 32 * t, 16)};
  const unsigned b[2] = {pair(g + 16 * t, 8), pair(g + 64 + 16 * t, 8)};
  float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  mmaF16(d, a, b);
  bool right = true;
  for (int k = 0; k < 4; k++) {
    const int i = g + k / 2 * 8, j = 2 * t + k % 2;
    if (d[k] != static_cast<float>(1 + 16 * i * j + 960 * i + 1920 * j + 158720)) right = false;
  }
  return right;
}

/*
 * Whether it keeps what head_bound.cuh counts on: 2^-23 beside 1, in each of 16 products beside the accumulator and beside one of them;
 * and subnormal numbers on either side.
 */
__device__ bool mmaKeepsBits() {
  const unsigned small = floatsToHalves(0x1p-12f, 0x1p-12f), tiny = floatsToHalves(0x1p-11f, 0x1p-11f);
  const unsigned first = floatsToHalves(0x1p11f, 0x1p-12f); /* times 2^-11: 1, and 2^-23 */
  const bool leads = threadIdx.x % 4 == 0;
  float beside[4] = {1.0f, 1.0f, -1.0f, -1.0f}, among[4] = {};
  const unsigned negative = small | 0x80008000u, b[2] = {tiny, tiny};
  mmaF16(beside, {small, negative, small, negative}, b);
  mmaF16(among, {leads ? first : small, leads ? first : small, small, small}, b);
  const unsigned one = 0x3c003c00u, least = 0x00010001u;
  float left[4] = {}, other[4] = {};
  mmaF16(left, {least, least, least, least}, {one, one});
  mmaF16(other, {one, one, one, one}, {least, least});
  bool right = true;
  for (int i = 0; i < 4; i++) {
    if (left[i] != 0x1p-20f || other[i] != 0x1p-20f) right = false;
    if (beside[i] != (i < 2 ? 1.0f : -1.0f) * (1.0f + 0x1p-19f)) right = false;
    if (among[i] != 1.0f + 15.0f * 0x1p-23f) right = false;
  }
  return right;
}

/* Each rule with operands that come from memory, so that the compiler cannot work them out. */
__global__ void __launch_bounds__(32) selfTestKernel(int* result) {
  gridWait();
  const float one = __int_as_float(result[1]); /* 1.0f */
  int broken = 0;
  const float a = one + 0x1p-12f;
  if (a * a - (one + 0x1p-11f) != 0.0f) broken = 1; /* the product has to be rounded: fused, 2^-24 is left */
  if (one * 10.0f / (one * 3.0f) != 3.33333325f) broken = 2;
  if (one * 0x1p-126f * 0.5f == 0.0f) broken = 3; /* subnormal numbers have to stay */
  if (sqrtf(one * 2.0f) != 1.41421354f) broken = 4;
  if (__float_as_uint(expF32(one * -2.5f)) != 0x3da81c2eu) broken = 5;
  if (floatToHalf(one * 65519.0f) != 0x7bffu || halfToFloat(1u) != 0x1p-24f * one) broken = 6;
  if (floatsToHalves(one, one * 65519.0f) != 0x7bff3c00u) broken = 6; /* products of matrices are the same with both swapped */
  if (__dp4a(0x02010002, static_cast<int>(0x80ff7f80u), 0) != -256 - 1 - 256) broken = 7;
  if (__ballot_sync(FULL_WARP, multipliesMatrices()) != FULL_WARP) broken = 8; /* and all have read what is overwritten */
  if (__ballot_sync(FULL_WARP, mmaIsPlaced()) != FULL_WARP) broken = 9;
  if (__ballot_sync(FULL_WARP, mmaKeepsBits()) != FULL_WARP) broken = 10;
  if (threadIdx.x == 0) result[0] = broken, result[1] = BN_WAITS;
}

}  // namespace

cudaError_t runElements(const Stream& on, const ElementArgs& args) {
  const int64_t blocks = least(ceilDiv(args.length, static_cast<int64_t>(THREADS)), static_cast<int64_t>(on.sms) * 16);
  return launch(on, elementsKernel, dim3(static_cast<unsigned>(blocks)), THREADS, 0, args);
}

cudaError_t runSelfTest(const Stream& on, int* result) { return launch(on, selfTestKernel, dim3(1), 32, 0, result); }

}  // namespace bn
