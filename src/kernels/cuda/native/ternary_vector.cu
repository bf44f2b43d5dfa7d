/*
 * Ternary matrix times few rows of codes: weights go by once, everything else is in the caches.
 *
 * A packed row (src/tensors/packed.ts) is used as it is: 16 bytes of it, a chunk, are four words, and
 *
 *     word >> 6, >> 4, >> 2, >> 0,   & 0x03030303      four codes each, of the columns in plane 0, 1, 2, 3
 *
 * of which chunk c of a plane of activations (commands.md) has the partners: for each word four dp4a. Codes are 0, 1, 2 for -1, 0, 1,
 * so the sum of the activations is taken off at the end.
 *
 * LANES threads share a row, each takes every LANES-th chunk: 128 bytes and more in one piece. `unroll` chunks a thread are on their
 * way at a time, the first of them before the kernel that makes the activations has ended. ROWS rows a thread use what
 * was loaded of the activations.
 */
#include "kernels.h"
#include "numbers.cuh"

namespace bn {
namespace {

constexpr int THREADS = 128;

__device__ __forceinline__ int dotWord(unsigned word, const unsigned (&planes)[4], int sum) {
  sum = __dp4a(static_cast<int>(word >> 6 & 0x03030303u), static_cast<int>(planes[0]), sum);
  sum = __dp4a(static_cast<int>(word >> 4 & 0x03030303u), static_cast<int>(planes[1]), sum);
  sum = __dp4a(static_cast<int>(word >> 2 & 0x03030303u), static_cast<int>(planes[2]), sum);
  return __dp4a(static_cast<int>(word & 0x03030303u), static_cast<int>(planes[3]), sum);
}

__device__ __forceinline__ int dotChunk(const uint4& w, const uint4 (&q)[4], int sum) {
  sum = dotWord(w.x, {q[0].x, q[1].x, q[2].x, q[3].x}, sum);
  sum = dotWord(w.y, {q[0].y, q[1].y, q[2].y, q[3].y}, sum);
  sum = dotWord(w.z, {q[0].z, q[1].z, q[2].z, q[3].z}, sum);
  return dotWord(w.w, {q[0].w, q[1].w, q[2].w, q[3].w}, sum);
}

/* With several tokens registers go to activations. */
__host__ __device__ constexpr int unrollOf(int tokens) { return tokens == 1 ? 5 : tokens == 2 ? 4 : 2; }

template <int LANES, int ROWS, int TOKENS>
__global__ void __launch_bounds__(THREADS) ternaryVectorKernel(TernaryArgs args) {
  constexpr int UNROLL = unrollOf(TOKENS);
  const int lane = static_cast<int>(threadIdx.x) % LANES, group = static_cast<int>(threadIdx.x) / LANES;
  const int tile = static_cast<int>(blockIdx.x);
  int which = 0;
  while (which + 1 < args.count && tile >= args.matrices[which + 1].firstTile) which++;
  const TernaryArgs::Matrix& matrix = args.matrices[which];

  const int stride = static_cast<int>(codeStride(args.columns));
  const int chunks = stride / 64, plane = stride / 4, rowBytes = stride / 4;
  const uint8_t* weights[ROWS];
  int rows[ROWS];
  for (int r = 0; r < ROWS; r++) {
    rows[r] = ((tile - matrix.firstTile) * ROWS + r) * (THREADS / LANES) + group;
    weights[r] = matrix.weights + static_cast<int64_t>(least(rows[r], matrix.rows - 1)) * rowBytes;
  }

  uint4 w[ROWS][UNROLL];
  const auto fetch = [&](int from) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int chunk = from + u * LANES;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        w[r][u] = chunk < chunks ? loadStream(weights[r] + chunk * 16) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  fetch(lane);
  gridWait();

  int sums[ROWS][TOKENS] = {};
  for (int from = lane; from < chunks; from += UNROLL * LANES) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int chunk = least(from + u * LANES, chunks - 1);
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const int8_t* codes = args.codes + static_cast<int64_t>(least(t, args.n - 1)) * stride + chunk * 16;
        uint4 q[4];
#pragma unroll
        for (int p = 0; p < 4; p++) q[p] = *reinterpret_cast<const uint4*>(codes + p * plane);
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r][t] = dotChunk(w[r][u], q, sums[r][t]);
      }
    }
    fetch(from + UNROLL * LANES);
  }

#pragma unroll
  for (int t = 0; t < TOKENS; t++) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      int sum = sums[r][t];
#pragma unroll
      for (int by = LANES / 2; by > 0; by >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, by);
      if (lane == 0 && rows[r] < matrix.rows && t < args.n) {
        const RowMeta meta = args.meta[t];
        matrix.out[static_cast<int64_t>(t) * matrix.rows + rows[r]] =
            ternaryResult(sum - meta.sum, meta.scale, matrix.scale);
      }
    }
  }
}

template <int LANES, int ROWS, int TOKENS>
cudaError_t start(const Stream& on, TernaryArgs& args) {
  constexpr int TILE = THREADS / LANES * ROWS;
  int tiles = 0;
  for (int i = 0; i < args.count; i++) {
    args.matrices[i].firstTile = tiles;
    tiles += ceilDiv(args.matrices[i].rows, TILE);
  }
  return launch(on, ternaryVectorKernel<LANES, ROWS, TOKENS>, dim3(static_cast<unsigned>(tiles)), THREADS, 0, args);
}

template <int LANES>
cudaError_t startTokens(const Stream& on, TernaryArgs& args, bool twoRows) {
  if (args.n == 1) return twoRows ? start<LANES, 2, 1>(on, args) : start<LANES, 1, 1>(on, args);
  if (args.n == 2) return start<LANES, 2, 2>(on, args);
  return start<LANES, 2, 4>(on, args);
}

}  // namespace

/* At most 4 rows of codes: from there on unpacking for tensor cores costs less than dp4a for every row. */
cudaError_t runTernaryVector(const Stream& on, TernaryArgs args) {
  const int chunks = static_cast<int>(codeStride(args.columns) / 64);
  int rows = 0;
  for (int i = 0; i < args.count; i++) rows += args.matrices[i].rows;
  /* As many lanes a row as leave each thread at least two rounds of loads, or else more of them so that short and wide matrices fill the card. */
  const int lanes = chunks <= 72 ? 8 : chunks <= 144 ? 16 : 32;
  const bool twoRows = rows / 2 * lanes >= on.sms * 512;
  if (lanes == 8) return startTokens<8>(on, args, twoRows);
  if (lanes == 16) return startTokens<16>(on, args, twoRows);
  return startTokens<32>(on, args, twoRows);
}

cudaError_t runTernary(const Stream& on, const TernaryArgs& args) {
  return args.n <= 4 ? runTernaryVector(on, args) : runTernaryMatrix(on, args);
}

}  // namespace bn
