/*
 * Dense matrix times rows of floats in the exact order of dot16, weights decoded in registers.
 *
 * Two threads share a row of weights (dense_layout.h). dot16 is a chain of K/16 additions for each of its sixteen sums, but there
 * are as many chains as rows: what counts is that the weights come without a break. A block takes 64 rows; their units of 256
 * columns pass through STAGES buffers in shared memory by cp.async, 16 bytes a piece, together with the same columns of x.
 * Rows in shared memory are an odd multiple of 32 bytes apart: the four rows that are read at a time meet all 32 banks.
 */
#include "dense_layout.h"
#include "kernels.h"

namespace bn {
namespace {

constexpr int ROWS = 64;
constexpr int THREADS = 2 * ROWS;
constexpr int STEPS = 4; /* of 16 columns, decoded at a time */

__host__ __device__ constexpr int pitchOf(int dtype) {
  return dtype == BN_F32 ? 1056 : dtype == BN_Q8_0 ? 288 : dtype == BN_AFFINE ? 352 : dtype == BN_Q6_K ? 224 : 544;
}
__host__ __device__ constexpr int stagesOf(int dtype) { return dtype == BN_F32 ? 2 : isPacked(dtype) ? 4 : 3; }
__host__ __device__ constexpr int stageBytes(int dtype, int tokens) { return ROWS * pitchOf(dtype) + tokens * UNIT * 4; }

/* Values of this thread's lanes in STEPS steps, quarter `quarter` of a unit. */
template <int DTYPE>
__device__ __forceinline__ void decodeQuarter(const uint8_t* unit, int quarter, int p, float (&w)[STEPS][8]) {
  if (DTYPE == BN_F32) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const float4* at = reinterpret_cast<const float4*>(unit + (quarter * 64 + s * 16 + p * 8) * 4);
      const float4 v = at[0], u = at[1];
      w[s][0] = v.x, w[s][1] = v.y, w[s][2] = v.z, w[s][3] = v.w;
      w[s][4] = u.x, w[s][5] = u.y, w[s][6] = u.z, w[s][7] = u.w;
    }
  } else if (DTYPE == BN_F16 || DTYPE == BN_BF16) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const uint4 v = *reinterpret_cast<const uint4*>(unit + (quarter * 64 + s * 16 + p * 8) * 2);
      const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        w[s][2 * i] = DTYPE == BN_F16 ? halfToFloat(words[i] & 0xffffu) : __uint_as_float(words[i] << 16);
        w[s][2 * i + 1] = DTYPE == BN_F16 ? halfToFloat(words[i] >> 16) : __uint_as_float(words[i] & 0xffff0000u);
      }
    }
  } else if (DTYPE == BN_Q8_0 || DTYPE == BN_AFFINE) {
#pragma unroll
    for (int pair = 0; pair < STEPS / 2; pair++) {
      const int group = quarter * 2 + pair;
      const uint4 v = *reinterpret_cast<const uint4*>(unit + group * 32 + p * 16);
      const float bias = DTYPE == BN_Q8_0 ? -128.0f : 0.0f;
      bytesToFloats(v.x, bias, w[2 * pair]);
      bytesToFloats(v.y, bias, w[2 * pair] + 4);
      bytesToFloats(v.z, bias, w[2 * pair + 1]);
      bytesToFloats(v.w, bias, w[2 * pair + 1] + 4);
      const uint8_t* scales = unit + UNIT;
      const float a = DTYPE == BN_Q8_0 ? halfToFloat(load16(scales + group * 2)) : loadFloat(scales + group * 8);
      const float b = DTYPE == BN_Q8_0 ? 0.0f : loadFloat(scales + group * 8 + 4);
#pragma unroll
      for (int s = 2 * pair; s < 2 * pair + 2; s++) {
#pragma unroll
        for (int e = 0; e < 8; e++) w[s][e] = DTYPE == BN_Q8_0 ? a * w[s][e] : a * w[s][e] - b;
      }
    }
  } else {
    const uint4 low = *reinterpret_cast<const uint4*>(unit + quarter * 32 + p * 16);
    const uint2 high = *reinterpret_cast<const uint2*>(unit + Q6_HIGH + quarter * 16 + p * 8);
    const unsigned lows[4] = {low.x, low.y, low.z, low.w};
    const float d = halfToFloat(load16(unit + Q6_D));
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const unsigned bits = (s < 2 ? high.x : high.y) >> 4 * (s & 1);
      bytesToFloats((lows[s] & 0x0f0f0f0fu) | (bits & 0x03030303u) << 4, -32.0f, w[s]);
      bytesToFloats((lows[s] >> 4 & 0x0f0f0f0fu) | (bits >> 2 & 0x03030303u) << 4, -32.0f, w[s] + 4);
      const float scale = static_cast<float>(static_cast<int8_t>(unit[Q6_SCALES + quarter * 4 + s]));
      /* scale * code is an integer of 13 bits: exact; then the one product with d, also exact. */
#pragma unroll
      for (int e = 0; e < 8; e++) w[s][e] = d * (scale * w[s][e]);
    }
  }
}

/* ROWS rows of the matrix, and TOKENS of `n` rows of x: themselves, or those that `picked` names. */
template <int DTYPE, int TOKENS, int STAGES>
__device__ __forceinline__ void denseTile(const DenseArgs& args, unsigned char* shared, int firstRow, int firstToken, int n,
                                          const int* picked) {
  constexpr int PITCH = pitchOf(DTYPE), PIECES = unitBytes(DTYPE) / 16;
  constexpr int STAGE = stageBytes(DTYPE, TOKENS);
  const int thread = static_cast<int>(threadIdx.x), p = thread & 1, mine = thread / 2;
  const auto rowOf = [&](int token) { return static_cast<int64_t>(picked == nullptr ? token : picked[token]); };
  const int64_t rowBytes = denseRowBytes(DTYPE, args.columns);
  const int units = ceilDiv(args.columns, UNIT);

  const auto sendWeights = [&](int unit) {
    unsigned char* stage = shared + unit % STAGES * STAGE;
    for (int i = thread; i < ROWS * PIECES; i += THREADS) {
      const int row = i / PIECES, piece = i % PIECES;
      const int64_t at = static_cast<int64_t>(unit) * unitBytes(DTYPE) + piece * 16;
      const bool valid = firstRow + row < args.rows && at < rowBytes;
      const uint8_t* from = args.weights;
      if (valid) from += static_cast<int64_t>(firstRow + row) * rowBytes + at;
      copyAsync(stage + row * PITCH + piece * 16, from, valid);
    }
  };
  const auto sendX = [&](int unit) {
    unsigned char* stage = shared + unit % STAGES * STAGE + ROWS * PITCH;
    for (int i = thread; i < TOKENS * UNIT / 4; i += THREADS) {
      const int token = firstToken + i / (UNIT / 4), column = unit * UNIT + i % (UNIT / 4) * 4;
      const bool valid = token < n && column < args.columns;
      const float* from = args.x;
      if (valid) from += rowOf(token) * args.columns + column;
      copyAsync(stage + i * 16, from, valid);
    }
  };

  for (int u = 0; u < STAGES - 1 && u < units; u++) sendWeights(u);
  gridWait();
  for (int u = 0; u < STAGES - 1; u++) {
    if (u < units) sendX(u);
    copyCommit();
  }

  float sums[TOKENS][8] = {};
  for (int u = 0; u < units; u++) {
    if (u + STAGES - 1 < units) {
      sendWeights(u + STAGES - 1);
      sendX(u + STAGES - 1);
    }
    copyCommit();
    copyWait<STAGES - 1>();
    __syncthreads();
    const unsigned char* stage = shared + u % STAGES * STAGE;
    const float* x = reinterpret_cast<const float*>(stage + ROWS * PITCH) + p * 8;
    const int steps = least(16, (args.columns - u * UNIT) / 16);
    for (int quarter = 0; quarter * STEPS < steps; quarter++) {
      float w[STEPS][8];
      decodeQuarter<DTYPE>(stage + mine * PITCH, quarter, p, w);
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        if (quarter * STEPS + s >= steps) break;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
          const float4* at = reinterpret_cast<const float4*>(x + t * UNIT + (quarter * STEPS + s) * 16);
          const float4 v = at[0], y = at[1];
          const float xs[8] = {v.x, v.y, v.z, v.w, y.x, y.y, y.z, y.w};
#pragma unroll
          for (int e = 0; e < 8; e++) sums[t][e] = sums[t][e] + w[s][e] * xs[e];
        }
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int t = 0; t < TOKENS; t++) {
    float s[8];
#pragma unroll
    for (int e = 0; e < 8; e++) s[e] = sums[t][e] + __shfl_xor_sync(FULL_WARP, sums[t][e], 1);
#pragma unroll
    for (int e = 0; e < 4; e++) s[e] = s[e] + s[e + 4];
    const int row = firstRow + mine, token = firstToken + t;
    if (p == 0 && row < args.rows && token < n) args.out[rowOf(token) * args.rows + row] = (s[0] + s[2]) + (s[1] + s[3]);
  }
}

template <int DTYPE, int TOKENS, int STAGES>
__global__ void __launch_bounds__(THREADS, 2) denseKernel(DenseArgs args) {
  BN_SHARED(unsigned char, shared);
  /* Blocks with the same rows follow one another: all but the first find them in the L2. */
  const int tokenTiles = ceilDiv(args.n, TOKENS);
  const int firstRow = static_cast<int>(blockIdx.x) / tokenTiles * ROWS, firstToken = static_cast<int>(blockIdx.x) % tokenTiles * TOKENS;
  denseTile<DTYPE, TOKENS, STAGES>(args, shared, firstRow, firstToken, args.n, nullptr);
}

/* Mostly there is nothing to do, so a block takes all that there may be, instead of many blocks that end at once. */
template <int DTYPE, int TOKENS, int STAGES>
__global__ void __launch_bounds__(THREADS, 2) densePickedKernel(DenseArgs args, const int* picked) {
  BN_SHARED(unsigned char, shared);
  gridWait();
  const int n = picked[0];
  for (int first = 0; first < n; first += TOKENS) {
    denseTile<DTYPE, TOKENS, STAGES>(args, shared, static_cast<int>(blockIdx.x) * ROWS, first, n, picked + 1);
  }
}

/* Any number of columns: sixteen threads a row, a value each at a time. */
__global__ void __launch_bounds__(THREADS) denseAnyKernel(DenseArgs args) {
  gridWait();
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int row = static_cast<int>(blockIdx.x) * (THREADS / 16) + static_cast<int>(threadIdx.x) / 16;
  const uint8_t* weights = args.weights + least(row, args.rows - 1) * denseRowBytes(args.dtype, args.columns);
  const float* x = args.x + static_cast<int64_t>(blockIdx.y) * args.columns;
  float s = 0.0f;
  for (int i = lane; i < args.columns; i += 16) s = s + denseValue(args.dtype, weights, i) * x[i];
  for (int by = 8; by > 0; by >>= 1) s = s + __shfl_xor_sync(FULL_WARP, s, by);
  if (lane == 0 && row < args.rows) args.out[static_cast<int64_t>(blockIdx.y) * args.rows + row] = s;
}

cudaError_t startAny(const Stream& on, const DenseArgs& args) {
  const dim3 grid(static_cast<unsigned>(ceilDiv(args.rows, THREADS / 16)), static_cast<unsigned>(args.n));
  return launch(on, denseAnyKernel, grid, THREADS, 0, args);
}

template <int N>
struct Number {
  static constexpr int value = N;
};

/*
 * Has `begin(tokens, stages, bytes)` start a kernel that the card has shared memory for: where a block gets 99 KiB with fewer stages, or
 * else with fewer tokens at a time. F32 has no such kernel.
 */
template <int DTYPE, int TOKENS, typename Begin, typename Otherwise>
cudaError_t fitting(const Stream& on, Begin begin, Otherwise otherwise) {
  constexpr int STAGES = stagesOf(DTYPE), STAGE = stageBytes(DTYPE, TOKENS);
  if (size_t(STAGES * STAGE) <= on.sharedLimit) return begin(Number<TOKENS>(), Number<STAGES>(), STAGES * STAGE);
  if constexpr (DTYPE == BN_F16 || DTYPE == BN_BF16) {
    if (size_t(2 * STAGE) <= on.sharedLimit) return begin(Number<TOKENS>(), Number<2>(), 2 * STAGE);
  }
  if constexpr (TOKENS > 1) return fitting<DTYPE, TOKENS / 2>(on, begin, otherwise);
  return otherwise();
}

template <int DTYPE, int TOKENS>
cudaError_t start(const Stream& on, const DenseArgs& args) {
  const auto begin = [&](auto tokens, auto stages, int bytes) {
    const dim3 grid(static_cast<unsigned>(ceilDiv(args.rows, ROWS)) * static_cast<unsigned>(ceilDiv(args.n, tokens.value)));
    return launch(on, denseKernel<DTYPE, tokens.value, stages.value>, grid, THREADS, static_cast<size_t>(bytes), args);
  };
  return fitting<DTYPE, TOKENS>(on, begin, [&] { return startAny(on, args); });
}

template <int DTYPE>
cudaError_t startTokens(const Stream& on, const DenseArgs& args) {
  if (args.n == 1) return start<DTYPE, 1>(on, args);
  if (args.n == 2) return start<DTYPE, 2>(on, args);
  return args.n <= 4 ? start<DTYPE, 4>(on, args) : start<DTYPE, 8>(on, args);
}

constexpr int PICKED_TOKENS = 8;

template <int DTYPE>
cudaError_t startPicked(const Stream& on, const DenseArgs& args, const int* picked) {
  const auto begin = [&](auto tokens, auto stages, int bytes) {
    const dim3 grid(static_cast<unsigned>(ceilDiv(args.rows, ROWS)));
    return launch(on, densePickedKernel<DTYPE, tokens.value, stages.value>, grid, THREADS, static_cast<size_t>(bytes), args, picked);
  };
  return fitting<DTYPE, PICKED_TOKENS>(on, begin, [] { return static_cast<cudaError_t>(cudaErrorInvalidValue); });
}

}  // namespace

cudaError_t runDensePicked(const Stream& on, const DenseArgs& args, const int* picked) {
  switch (args.dtype) {
    case BN_F16: return startPicked<BN_F16>(on, args, picked);
    case BN_BF16: return startPicked<BN_BF16>(on, args, picked);
    case BN_Q8_0: return startPicked<BN_Q8_0>(on, args, picked);
    case BN_Q6_K: return startPicked<BN_Q6_K>(on, args, picked);
    default: return startPicked<BN_AFFINE>(on, args, picked);
  }
}

cudaError_t runDense(const Stream& on, const DenseArgs& args) {
  if (args.columns % 32 != 0 || reinterpret_cast<uintptr_t>(args.x) % 16 != 0) return startAny(on, args);
  switch (args.dtype) {
    case BN_F32: return startTokens<BN_F32>(on, args);
    case BN_F16: return startTokens<BN_F16>(on, args);
    case BN_BF16: return startTokens<BN_BF16>(on, args);
    case BN_Q8_0: return startTokens<BN_Q8_0>(on, args);
    case BN_Q6_K: return startTokens<BN_Q6_K>(on, args);
    default: return startTokens<BN_AFFINE>(on, args);
  }
}

}  // namespace bn
