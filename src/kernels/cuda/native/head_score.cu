/*
 * Estimates of the products of a dense matrix with many rows of input, on tensor cores; head_bound.cuh tells how good they are.
 *
 * A warp has 16 rows of the matrix and all rows of input of its block. Both come through shared memory by cp.async, CHUNK columns at a
 * time; a lane decodes what it needs of its two rows to f16, so every weight is decoded once. The tensor cores do not care which column
 * is which as long as both sides agree: of 64 columns lane t of four takes
 *
 *     c0 .. c0+7 and c0+16 .. c0+23, c0 = 32 (t / 2) + 8 (t % 2)
 *
 * which are 16 bytes of codes (dense_layout.h) or twice 16 bytes of f16, and gives four each to four instructions. The pitches let
 * eight lanes that read 16 bytes each meet all 32 banks.
 */
#include "head_bound.cuh"

namespace bn {
namespace {

constexpr int ROWS = 128;
constexpr int THREADS = 256;
constexpr int STAGES = 2;

__host__ __device__ constexpr bool isTwoBytes(int dtype) { return dtype == BN_F16 || dtype == BN_BF16; }
__host__ __device__ constexpr int chunkOf(int dtype) { return isTwoBytes(dtype) ? 128 : UNIT; }
__host__ __device__ constexpr int chunkBytes(int dtype) { return isTwoBytes(dtype) ? 256 : unitBytes(dtype); }
__host__ __device__ constexpr int weightPitch(int dtype) { return isTwoBytes(dtype) ? 288 : dtype == BN_Q6_K ? 224 : 320; }
__host__ __device__ constexpr int xPitch(int dtype) { return chunkOf(dtype) * 2 + 32; }
__host__ __device__ constexpr int stageBytes(int dtype, int tokens) { return ROWS * weightPitch(dtype) + tokens * xPitch(dtype); }

/* ---- once for a matrix ---- */

/* Norm, error and scale of each row: a warp a row. What is f16 the tensor cores get as it is; for its range see 2 of head_bound.cuh. */
__global__ void __launch_bounds__(THREADS) indexKernel(DenseIndexArgs args) {
  gridWait();
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int row = static_cast<int>(blockIdx.x) * (THREADS / 32) + static_cast<int>(threadIdx.x / 32);
  if (row >= args.rows) return; /* the whole warp */
  const uint8_t* const weights = args.weights + row * denseRowBytes(args.dtype, args.columns);
  float greatest = 0.0f;
  int wild = 0;
  for (int i = lane; i < args.columns; i += 32) {
    const float magnitude = fabsf(denseValue(args.dtype, weights, i));
    if (magnitude > greatest) greatest = magnitude;
    if (!(magnitude <= GREATEST_MAGNITUDE)) wild = 1;
  }
  greatest = warpMax(greatest);
  wild = warpSum(wild);
  if (greatest > 0.0f && greatest < (args.dtype == BN_F16 ? LEAST_NORMAL_HALF : LEAST_MAGNITUDE)) wild = 1;
  const float scale = wild != 0 || greatest == 0.0f || args.dtype == BN_F16 ? 1.0f : powerOfTwo(W_EXPONENT - exponentOf(greatest));
  double squares = 0.0, errors = 0.0;
  for (int i = lane; i < args.columns; i += 32) {
    const float w = denseValue(args.dtype, weights, i) * scale;
    const float error = w - halfToFloat(floatToHalf(w));
    squares += static_cast<double>(w) * static_cast<double>(w);
    errors += static_cast<double>(error) * static_cast<double>(error);
  }
  squares = warpSum(squares);
  errors = warpSum(errors);
  if (lane != 0) return;
  const float unit = 1.0f / scale;
  args.index[row] = wild != 0 ? infinity() : static_cast<float>(sqrt(squares)) * UP * unit;
  args.index[row + static_cast<int64_t>(args.rows)] = static_cast<float>(sqrt(errors)) * UP * unit;
  args.index[row + 2 * static_cast<int64_t>(args.rows)] = scale;
}

/* ---- rows of input ---- */

/* x' and the factors of its error: a block a row. A row that is out of range becomes zeros with an infinite error. */
__global__ void __launch_bounds__(THREADS) prepareKernel(const float* x, int columns, uint16_t* halves, ErrorFactors* factors) {
  BN_SHARED(double, shared);
  gridWait();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int64_t padded = paddedColumns(columns);
  const float* const from = x + static_cast<int64_t>(blockIdx.x) * columns;
  uint16_t* const to = halves + static_cast<int64_t>(blockIdx.x) * padded;
  float greatest = 0.0f;
  for (int i = thread; i < columns; i += THREADS) {
    const float magnitude = fabsf(from[i]);
    if (magnitude > greatest) greatest = magnitude;
    if (!(magnitude <= GREATEST_MAGNITUDE)) greatest = infinity(); /* and nothing is greater */
  }
  greatest = warpMax(greatest);
  if ((thread & 31) == 0) shared[warp] = static_cast<double>(greatest);
  __syncthreads();
  for (int i = 0; i < THREADS / 32; i++) {
    const float other = static_cast<float>(shared[i]);
    if (other > greatest) greatest = other;
  }
  __syncthreads();
  const bool wild = greatest == infinity() || (greatest > 0.0f && greatest < LEAST_MAGNITUDE);
  const float scale = wild || greatest == 0.0f ? 1.0f : powerOfTwo(X_EXPONENT - exponentOf(greatest));
  double squares = 0.0, errors = 0.0;
  for (int i = thread; i < padded; i += THREADS) {
    const float value = i < columns && !wild ? from[i] * scale : 0.0f;
    const unsigned half = floatToHalf(value);
    const float error = value - halfToFloat(half);
    to[i] = static_cast<uint16_t>(half);
    squares += static_cast<double>(value) * static_cast<double>(value);
    errors += static_cast<double>(error) * static_cast<double>(error);
  }
  squares = warpSum(squares);
  errors = warpSum(errors);
  if ((thread & 31) == 0) shared[warp] = squares, shared[THREADS / 32 + warp] = errors;
  __syncthreads();
  if (thread != 0) return;
  for (int i = 1; i < THREADS / 32; i++) squares += shared[i], errors += shared[THREADS / 32 + i];
  const float norm = static_cast<float>(sqrt(squares)) * UP, error = static_cast<float>(sqrt(errors)) * UP;
  ErrorFactors out = {(error + roundingFactor(columns) * norm) * UP, (norm + error) * UP};
  if (wild) out.ofNorm = out.ofError = infinity();
  factors[blockIdx.x] = out;
}

/* ---- estimates ---- */

/*
 * Of this lane's 16 columns of the 64 from `step` on, the eight from c0 + 16 * half on as pairs of f16. Their values are those of
 * `denseValue`. Both halves may lie in the same bytes; the compiler reads them once.
 */
template <int DTYPE>
__device__ __forceinline__ void decode(const unsigned char* row, int step, int half, int t, float scale, unsigned (&out)[4]) {
  if (isTwoBytes(DTYPE)) {
    const uint4 v = *reinterpret_cast<const uint4*>(row + step * 128 + (t / 2) * 64 + (t % 2) * 16 + half * 32);
    const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out[i] = DTYPE == BN_F16 ? words[i]
                               : floatsToHalves(__uint_as_float(words[i] << 16) * scale, __uint_as_float(words[i] & 0xffff0000u) * scale);
    }
    return;
  }
  float w[8];
  if (DTYPE == BN_Q6_K) {
    const uint2 both = *reinterpret_cast<const uint2*>(row + step * 32 + (t % 2) * 16 + (t / 2) * 8);
    const unsigned low = half == 0 ? both.x : both.y;
    const unsigned high = *reinterpret_cast<const unsigned*>(row + Q6_HIGH + step * 16 + (t % 2) * 8 + (t / 2) * 4) >> 4 * half;
    bytesToFloats((low & 0x0f0f0f0fu) | (high & 0x03030303u) << 4, -32.0f, w);
    bytesToFloats((low >> 4 & 0x0f0f0f0fu) | (high >> 2 & 0x03030303u) << 4, -32.0f, w + 4);
    const float d = halfToFloat(load16(row + Q6_D));
    const float group = static_cast<float>(static_cast<int8_t>(row[Q6_SCALES + step * 4 + (t / 2) * 2 + half]));
#pragma unroll
    for (int e = 0; e < 8; e++) w[e] = d * (group * w[e]);
  } else {
    const uint4 both = *reinterpret_cast<const uint4*>(row + step * 64 + t * 16);
    const int group = step * 2 + t / 2;
    const float a = DTYPE == BN_Q8_0 ? halfToFloat(load16(row + UNIT + group * 2)) : loadFloat(row + UNIT + group * 8);
    const float b = DTYPE == BN_Q8_0 ? 0.0f : loadFloat(row + UNIT + group * 8 + 4);
    bytesToFloats(half == 0 ? both.x : both.z, DTYPE == BN_Q8_0 ? -128.0f : 0.0f, w);
    bytesToFloats(half == 0 ? both.y : both.w, DTYPE == BN_Q8_0 ? -128.0f : 0.0f, w + 4);
#pragma unroll
    for (int e = 0; e < 8; e++) w[e] = DTYPE == BN_Q8_0 ? a * w[e] : a * w[e] - b;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = floatsToHalves(w[2 * i] * scale, w[2 * i + 1] * scale);
}

template <int DTYPE, int TOKENS>
__global__ void __launch_bounds__(THREADS, 2) headScoreKernel(DenseArgs args, const float* index, const uint16_t* halves) {
  constexpr int CHUNK = chunkOf(DTYPE), STAGE = stageBytes(DTYPE, TOKENS), PIECES = chunkBytes(DTYPE) / 16;
  constexpr int WEIGHT_PITCH = weightPitch(DTYPE), X_PITCH = xPitch(DTYPE);
  BN_SHARED(unsigned char, shared);
  const int thread = static_cast<int>(threadIdx.x), g = thread % 32 / 4, t = thread % 4;
  /* Blocks with the same rows follow one another: all but the first find them in the L2. */
  const int tokenTiles = ceilDiv(args.n, TOKENS);
  const int firstRow = static_cast<int>(blockIdx.x) / tokenTiles * ROWS, firstToken = static_cast<int>(blockIdx.x) % tokenTiles * TOKENS;
  const int64_t rowBytes = denseRowBytes(DTYPE, args.columns), padded = paddedColumns(args.columns);
  const int chunks = ceilDiv(args.columns, CHUNK);

  const auto sendWeights = [&](int chunk) {
    unsigned char* const stage = shared + chunk % STAGES * STAGE;
#pragma unroll 2
    for (int i = thread; i < ROWS * PIECES; i += THREADS) {
      const int row = i / PIECES, piece = i % PIECES;
      const int64_t at = static_cast<int64_t>(chunk) * chunkBytes(DTYPE) + piece * 16;
      const bool valid = firstRow + row < args.rows && at < rowBytes;
      const uint8_t* from = args.weights;
      if (valid) from += static_cast<int64_t>(firstRow + row) * rowBytes + at;
      copyAsync(stage + row * WEIGHT_PITCH + piece * 16, from, valid);
    }
  };
  const auto sendX = [&](int chunk) {
    unsigned char* const stage = shared + chunk % STAGES * STAGE + ROWS * WEIGHT_PITCH;
#pragma unroll 2
    for (int i = thread; i < TOKENS * (CHUNK / 8); i += THREADS) {
      const int token = i / (CHUNK / 8), piece = i % (CHUNK / 8);
      const bool valid = firstToken + token < args.n;
      const uint16_t* from = halves;
      if (valid) from += (firstToken + token) * padded + chunk * CHUNK + piece * 8;
      copyAsync(stage + token * X_PITCH + piece * 16, from, valid);
    }
  };

  sendWeights(0);
  gridWait();
  sendX(0);
  copyCommit();
  float scales[2] = {1.0f, 1.0f};
  const int mine = thread / 32 * 16 + g; /* and mine + 8 */
  for (int i = 0; i < 2; i++) {
    const int row = firstRow + mine + 8 * i;
    if (row < args.rows) scales[i] = RowIndex(index, args.rows).scale[row];
  }

  float sums[TOKENS / 8][4] = {};
  for (int chunk = 0; chunk < chunks; chunk++) {
    if (chunk + 1 < chunks) {
      sendWeights(chunk + 1);
      sendX(chunk + 1);
    }
    copyCommit();
    copyWait<1>();
    __syncthreads();
    const unsigned char* const stage = shared + chunk % STAGES * STAGE;
    const unsigned char* const x = stage + ROWS * WEIGHT_PITCH + (t / 2) * 64 + (t % 2) * 16;
#pragma unroll 1
    for (int step = 0; step < CHUNK / 64; step++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        unsigned upper[4], lower[4];
        decode<DTYPE>(stage + mine * WEIGHT_PITCH, step, half, t, scales[0], upper);
        decode<DTYPE>(stage + (mine + 8) * WEIGHT_PITCH, step, half, t, scales[1], lower);
#pragma unroll
        for (int tile = 0; tile < TOKENS / 8; tile++) {
          const uint4 b = *reinterpret_cast<const uint4*>(x + (tile * 8 + g) * X_PITCH + step * 128 + half * 32);
          mmaF16(sums[tile], {upper[0], lower[0], upper[1], lower[1]}, {b.x, b.y});
          mmaF16(sums[tile], {upper[2], lower[2], upper[3], lower[3]}, {b.z, b.w});
        }
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int tile = 0; tile < TOKENS / 8; tile++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = firstRow + mine + i / 2 * 8, token = firstToken + tile * 8 + 2 * t + i % 2;
      if (row < args.rows && token < args.n) args.out[static_cast<int64_t>(token) * args.rows + row] = sums[tile][i] / scales[i / 2];
    }
  }
}

template <int DTYPE, int TOKENS>
cudaError_t start(const Stream& on, const DenseArgs& args, const float* index, const uint16_t* halves) {
  const dim3 grid(static_cast<unsigned>(ceilDiv(args.rows, ROWS)) * static_cast<unsigned>(ceilDiv(args.n, TOKENS)));
  return launch(on, headScoreKernel<DTYPE, TOKENS>, grid, THREADS, STAGES * stageBytes(DTYPE, TOKENS), args, index, halves);
}

template <int DTYPE>
cudaError_t startTokens(const Stream& on, const DenseArgs& args, const float* index, const uint16_t* halves) {
  const bool fits = size_t(STAGES * stageBytes(DTYPE, 64)) <= on.sharedLimit; /* not where a block gets 99 KiB */
  return args.n > 16 && fits ? start<DTYPE, 64>(on, args, index, halves) : start<DTYPE, 16>(on, args, index, halves);
}

}  // namespace

cudaError_t runDenseIndex(const Stream& on, const DenseIndexArgs& args) {
  return launch(on, indexKernel, dim3(static_cast<unsigned>(ceilDiv(args.rows, THREADS / 32))), THREADS, 0, args);
}

cudaError_t runHeadScores(const Stream& on, const DenseArgs& args, const float* index, uint16_t* halves, ErrorFactors* factors) {
  const size_t shared = 2 * (THREADS / 32) * sizeof(double);
  const dim3 grid(static_cast<unsigned>(args.n));
  const cudaError_t e = launch(on, prepareKernel, grid, THREADS, shared, args.x, args.columns, halves, factors);
  if (e != cudaSuccess) return e;
  switch (args.dtype) {
    case BN_F16: return startTokens<BN_F16>(on, args, index, halves);
    case BN_BF16: return startTokens<BN_BF16>(on, args, index, halves);
    case BN_Q8_0: return startTokens<BN_Q8_0>(on, args, index, halves);
    case BN_Q6_K: return startTokens<BN_Q6_K>(on, args, index, halves);
    default: return startTokens<BN_AFFINE>(on, args, index, halves);
  }
}

}  // namespace bn
