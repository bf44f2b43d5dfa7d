/*
 * DENSE_TOP_K: the k greatest products of a tall matrix, for several rows of input, without computing the others as dot16 does.
 *
 *     estimates of all products, on tensor cores          head_score.cu
 *     what can be among the k greatest, by a bound         top_k.cu, head_bound.cuh
 *     the products of those, exactly                       here
 *     whole rows, where NaN or too many ties forbid that   dense.cu
 *
 * Computing all of 128256 x 2560 for 64 rows takes 2.1e10 products and as many sums in f32, which must not be fused; estimating takes
 * what reading the matrix takes.
 */
#include "head_bound.cuh"

namespace bn {
namespace {

constexpr int THREADS = 128;
constexpr int LANES = 16; /* of dot16 */
constexpr int AHEAD = 8;  /* columns of a lane that are on their way together */

/* The product of each taken pair, by sixteen threads, into the pair and into its place. */
template <int DTYPE>
__global__ void __launch_bounds__(THREADS) headExactKernel(DenseTopKArgs args) {
  gridWait();
  const DenseArgs& dense = args.dense;
  const int token = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % LANES;
  int* const top = args.top + token * (2 + 2 * static_cast<int64_t>(args.room));
  const int count = top[0];
  const int first = static_cast<int>(blockIdx.x) * (THREADS / LANES);
  /* Flags may be set meanwhile by other blocks, but only this one was set before: with too many pairs the row is made whole. */
  if (count > args.room || first >= count) return;
  const int mine = first + static_cast<int>(threadIdx.x) / LANES;
  int* const pair = top + 2 + 2 * static_cast<int64_t>(least(mine, count - 1));
  const int row = pair[0];
  const uint8_t* const weights = dense.weights + row * denseRowBytes(DTYPE, dense.columns);
  const float* const x = dense.x + static_cast<int64_t>(token) * dense.columns;
  float s = 0.0f;
  int i = lane;
  for (; i + (AHEAD - 1) * LANES < dense.columns; i += AHEAD * LANES) {
    float w[AHEAD], v[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) w[j] = denseValue(DTYPE, weights, i + j * LANES), v[j] = x[i + j * LANES];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) s = s + w[j] * v[j];
  }
  for (; i < dense.columns; i += LANES) s = s + denseValue(DTYPE, weights, i) * x[i];
  for (int by = LANES / 2; by > 0; by >>= 1) s = s + __shfl_xor_sync(FULL_WARP, s, by);
  if (lane != 0 || mine >= count) return;
  pair[1] = __float_as_int(s);
  dense.out[static_cast<int64_t>(token) * dense.rows + row] = s;
  if (isNaN(s)) atomicOr(reinterpret_cast<unsigned*>(top + 1), 1u);
}

/* Rows with flags, in no order: picked[0] is their number. One block. */
__global__ void __launch_bounds__(THREADS) pickKernel(const int* top, int room, int n, int* picked) {
  gridWait();
  if (threadIdx.x == 0) picked[0] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += THREADS) {
    if (top[i * (2 + 2 * static_cast<int64_t>(room)) + 1] != 0) picked[1 + atomicAdd(picked, 1)] = i;
  }
}

template <int DTYPE>
cudaError_t startExact(const Stream& on, const DenseTopKArgs& args) {
  const dim3 grid(static_cast<unsigned>(ceilDiv(least(args.room, args.dense.rows), THREADS / LANES)), static_cast<unsigned>(args.dense.n));
  return launch(on, headExactKernel<DTYPE>, grid, THREADS, 0, args);
}

cudaError_t runExact(const Stream& on, const DenseTopKArgs& args) {
  switch (args.dense.dtype) {
    case BN_F16: return startExact<BN_F16>(on, args);
    case BN_BF16: return startExact<BN_BF16>(on, args);
    case BN_Q8_0: return startExact<BN_Q8_0>(on, args);
    case BN_Q6_K: return startExact<BN_Q6_K>(on, args);
    default: return startExact<BN_AFFINE>(on, args);
  }
}

/* counts of the top-k | factors | picked rows | x in f16 */
struct Parts {
  size_t factors, picked, halves, end;
  explicit Parts(const DenseTopKArgs& args) {
    const size_t n = static_cast<size_t>(args.dense.n);
    factors = topKScratch(args.dense.n) * sizeof(unsigned);
    picked = factors + n * sizeof(ErrorFactors);
    halves = (picked + (n + 1) * sizeof(int) + 15) / 16 * 16;
    end = halves + n * static_cast<size_t>(paddedColumns(args.dense.columns)) * sizeof(uint16_t);
  }
};

}  // namespace

size_t denseTopKScratch(const DenseTopKArgs& args) { return Parts(args).end; }

cudaError_t runDenseTopK(const Stream& on, const DenseTopKArgs& args) {
  const DenseArgs& dense = args.dense;
  const Parts parts(args);
  ErrorFactors* const factors = reinterpret_cast<ErrorFactors*>(args.scratch + parts.factors);
  int* const picked = reinterpret_cast<int*>(args.scratch + parts.picked);
  uint16_t* const halves = reinterpret_cast<uint16_t*>(args.scratch + parts.halves);
  const TopKArgs top = {args.top, dense.out, dense.rows, args.k, args.room, dense.n, reinterpret_cast<unsigned*>(args.scratch)};
  cudaError_t e = runHeadScores(on, dense, args.index, halves, factors);
  if (e == cudaSuccess) e = runTopEstimates(on, top, dense.out, args.index, factors);
  if (e == cudaSuccess) e = runExact(on, args);
  if (e == cudaSuccess) e = launch(on, pickKernel, dim3(1), THREADS, 0, args.top, args.room, dense.n, picked);
  if (e == cudaSuccess) e = runDensePicked(on, dense, picked);
  return e;
}

}  // namespace bn
