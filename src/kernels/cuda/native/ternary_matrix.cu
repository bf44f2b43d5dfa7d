/*
 * Ternary matrix times many rows of codes, on the int8 tensor cores (mma.m16n8k32).
 *
 * The order of the columns within a product does not matter as long as both sides have the same, so the fragments are what lies
 * together in memory. A span is 256 columns, 64 bytes of a packed row: lane (g, t) of a warp loads the 16 bytes t of rows g
 * and g + 8, and those 64 codes a row are its part of eight products, a word of it two of them:
 *
 *     word j     planes 0, 1   k-step 2j        a[0], a[2] = codes of plane 0, 1 of row g;  a[1], a[3] of row g + 8
 *                planes 2, 3   k-step 2j + 1    b[0], b[1] = word j of the activations' chunk t of plane 0, 1 (2, 3), token g
 *
 * So the weights go from device memory to registers, 16 bytes a load, and are unpacked there; only activations pass through shared
 * memory, two stages deep by cp.async. A token's 256 bytes of a span are four planes of 64 bytes; planes 0 and 1, 2 and 3 change
 * places in odd tokens, so that the eight lanes that load 16 bytes at a time meet all 32 banks.
 *
 * A block has WM x WN x WK warps: WM * MT * 16 rows, WN * NT * 8 tokens, and WK warps that take every WK-th span, whose sums are put
 * together at the end. They are integers: no order changes a bit.
 */
#include "kernels.h"
#include "numbers.cuh"

namespace bn {
namespace {

constexpr int SPAN_BYTES = 256;  /* of activations */
constexpr int SPAN_WEIGHTS = 64; /* bytes of a packed row */

template <int MT, int NT, int WM, int WN, int WK>
struct Tile {
  static constexpr int ROWS = WM * MT * 16;
  static constexpr int TOKENS = WN * NT * 8;
  static constexpr int THREADS = 32 * WM * WN * WK;
  static constexpr int STAGE_BYTES = WK * TOKENS * SPAN_BYTES;
  static constexpr int SHARED_BYTES = 2 * STAGE_BYTES;
  static_assert((WK - 1) * ROWS * TOKENS * 4 <= SHARED_BYTES, "the sums of the other warps have to fit");
};

__device__ __forceinline__ int planeAt(int plane, int token) { return (plane ^ (token & 1)) * 64; }

/* Sends the activations of WK spans from `span` on their way. */
template <typename T, int WK>
__device__ __forceinline__ void sendStage(unsigned char* stage, const TernaryArgs& args, int firstToken, int span,
                                          int chunks, int stride) {
  constexpr int PIECES = WK * T::TOKENS * (SPAN_BYTES / 16);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < PIECES; i += T::THREADS) {
    const int part = i % 4, plane = i / 4 % 4, token = i / 16 % T::TOKENS, k = i / 16 / T::TOKENS;
    const int chunk = (span + k) * 4 + part, row = firstToken + token;
    const bool valid = chunk < chunks && row < args.n;
    const int8_t* from = args.codes;
    if (valid) from += static_cast<int64_t>(row) * stride + plane * (stride / 4) + chunk * 16;
    copyAsync(stage + (k * T::TOKENS + token) * SPAN_BYTES + planeAt(plane, token) + part * 16, from, valid);
  }
}

__device__ __forceinline__ unsigned wordOf(const uint4& v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

template <int MT, int NT, int WM, int WN, int WK>
__global__ void __launch_bounds__(32 * WM * WN * WK) ternaryMatrixKernel(TernaryArgs args) {
  using T = Tile<MT, NT, WM, WN, WK>;
  BN_SHARED(unsigned char, shared);
  const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const int warpM = warp % WM, warpN = warp / WM % WN, warpK = warp / WM / WN;

  const int tile = static_cast<int>(blockIdx.x);
  int which = 0;
  while (which + 1 < args.count && tile >= args.matrices[which + 1].firstTile) which++;
  const TernaryArgs::Matrix& matrix = args.matrices[which];
  const int firstRow = (tile - matrix.firstTile) * T::ROWS + warpM * MT * 16;
  const int firstToken = static_cast<int>(blockIdx.y) * T::TOKENS;

  const int stride = static_cast<int>(codeStride(args.columns));
  const int chunks = stride / 64, spans = ceilDiv(chunks, 4);
  const uint8_t* weights[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = least(firstRow + m * 16 + h * 8 + g, matrix.rows - 1);
      weights[m][h] = matrix.weights + static_cast<int64_t>(row) * (stride / 4) + t * 16;
    }
  }
  uint4 w[MT][2];
  const auto fetch = [&](int span) {
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const bool valid = span * 4 + t < chunks;
        w[m][h] = valid ? *reinterpret_cast<const uint4*>(weights[m][h] + span * SPAN_WEIGHTS) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  fetch(warpK);
  gridWait();
  sendStage<T, WK>(shared, args, firstToken, 0, chunks, stride);
  copyCommit();

  int sums[MT][NT][4] = {};
  const int stages = ceilDiv(spans, WK);
  for (int s = 0; s < stages; s++) {
    if (s + 1 < stages) sendStage<T, WK>(shared + ((s + 1) & 1) * T::STAGE_BYTES, args, firstToken, (s + 1) * WK, chunks, stride);
    copyCommit();
    copyWait<1>();
    __syncthreads();

    unsigned codes[MT][2][4][4]; /* [row g or g + 8][word][plane] */
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const unsigned word = wordOf(w[m][h], j);
#pragma unroll
          for (int p = 0; p < 4; p++) codes[m][h][j][p] = word >> (6 - 2 * p) & 0x03030303u;
        }
      }
    }
    fetch((s + 1) * WK + warpK);

    const unsigned char* stage = shared + (s & 1) * T::STAGE_BYTES + warpK * T::TOKENS * SPAN_BYTES;
#pragma unroll
    for (int n = 0; n < NT; n++) {
      const int token = (warpN * NT + n) * 8 + g;
      if (firstToken + (warpN * NT + n) * 8 >= args.n) break;
      uint4 q[4];
#pragma unroll
      for (int p = 0; p < 4; p++) {
        q[p] = *reinterpret_cast<const uint4*>(stage + token * SPAN_BYTES + planeAt(p, token) + t * 16);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int p = 0; p < 4; p += 2) {
          const unsigned b[2] = {wordOf(q[p], j), wordOf(q[p + 1], j)};
#pragma unroll
          for (int m = 0; m < MT; m++) {
            const unsigned a[4] = {codes[m][0][j][p], codes[m][1][j][p], codes[m][0][j][p + 1], codes[m][1][j][p + 1]};
            mmaS8(sums[m][n], a, b);
          }
        }
      }
    }
    __syncthreads();
  }

  if (WK > 1) {
    copyWait<0>();
    int* const others = reinterpret_cast<int*>(shared);
    constexpr int WORDS = MT * NT * 4;
    const int place = (warpN * WM + warpM) * 32 + lane;
    if (warpK > 0) {
#pragma unroll
      for (int i = 0; i < WORDS; i++)
        others[((warpK - 1) * WORDS + i) * (WM * WN * 32) + place] = sums[i / (NT * 4)][i / 4 % NT][i % 4];
    }
    __syncthreads();
    if (warpK > 0) return;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      for (int k = 0; k < WK - 1; k++) sums[i / (NT * 4)][i / 4 % NT][i % 4] += others[(k * WORDS + i) * (WM * WN * 32) + place];
    }
  }

#pragma unroll
  for (int n = 0; n < NT; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int token = firstToken + (warpN * NT + n) * 8 + 2 * t + c;
      if (token >= args.n) continue;
      const RowMeta meta = args.meta[token];
      float* const out = matrix.out + static_cast<int64_t>(token) * matrix.rows;
#pragma unroll
      for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int row = firstRow + m * 16 + h * 8 + g;
          if (row < matrix.rows) out[row] = ternaryResult(sums[m][n][2 * h + c] - meta.sum, meta.scale, matrix.scale);
        }
      }
    }
  }
}

template <int MT, int NT, int WM, int WN, int WK>
cudaError_t start(const Stream& on, TernaryArgs& args) {
  using T = Tile<MT, NT, WM, WN, WK>;
  int first = 0;
  for (int i = 0; i < args.count; i++) {
    args.matrices[i].firstTile = first;
    first += ceilDiv(args.matrices[i].rows, T::ROWS);
  }
  const dim3 grid(static_cast<unsigned>(first), static_cast<unsigned>(ceilDiv(args.n, T::TOKENS)));
  return launch(on, ternaryMatrixKernel<MT, NT, WM, WN, WK>, grid, T::THREADS, T::SHARED_BYTES, args);
}

}  // namespace

cudaError_t runTernaryMatrix(const Stream& on, TernaryArgs args) {
  /* Large tiles use what they load most often; where they would leave part of the card idle, small ones, which split the columns. */
  int tiles = 0;
  for (int i = 0; i < args.count; i++) tiles += ceilDiv(args.matrices[i].rows, 128);
  if (tiles * ceilDiv(args.n, 128) >= on.sms && args.n > 64) return start<2, 8, 4, 2, 1>(on, args);
  if (args.n <= 8) return start<1, 1, 2, 1, 4>(on, args);
  if (args.n <= 16) return start<1, 2, 2, 1, 4>(on, args);
  if (args.n <= 32 || Tile<1, 8, 2, 1, 4>::SHARED_BYTES > on.sharedLimit) return start<1, 4, 2, 1, 4>(on, args);
  return start<1, 8, 2, 1, 4>(on, args);
}

}  // namespace bn
