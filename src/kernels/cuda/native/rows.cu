/*
 * RMSNorm and absmax quantisation, a block to a row, with what comes directly before them in every graph: the sum with the residual
 * stream or the gated activation. The row stays in shared memory from the first pass to the last.
 *
 *     made    a | a + b | gated(a, b)                     kept in device memory where others read it
 *     normed  (x * r) * gain,  r = 1 / sqrt(f32(sum8d(x * x) / K) + eps)
 *     codes   round(x * 127 / max |x|), in planes of a quarter (commands.md), with scale and sum
 */
#include "kernels.h"
#include "numbers.cuh"

namespace bn {
namespace {

constexpr int MAX_WARPS = 32;

/* Before the row in shared memory. */
struct Partials {
  double sums[MAX_WARPS];
  float maxima[MAX_WARPS];
  int counts[MAX_WARPS];
  float r;
  int pad[3];
};

template <typename T>
__device__ __forceinline__ T blockSum(T mine, T* partials) {
  mine = warpSum(mine);
  if ((threadIdx.x & 31) == 0) partials[threadIdx.x / 32] = mine;
  __syncthreads();
  T all = 0;
  for (unsigned w = 0; w < blockDim.x / 32; w++) all += partials[w];
  return all;
}

__device__ __forceinline__ float blockMax(float mine, float* partials) {
  mine = warpMax(mine);
  if ((threadIdx.x & 31) == 0) partials[threadIdx.x / 32] = mine;
  __syncthreads();
  float all = partials[0];
  for (unsigned w = 1; w < blockDim.x / 32; w++) all = partials[w] > all ? partials[w] : all;
  return all;
}

__device__ __forceinline__ float makeElement(Made made, float a, const float* b, int64_t at) {
  switch (made) {
    case Made::ADDED: return a + b[at];
    case Made::RELU2: return relu2(a, b[at]);
    case Made::SILU: return silu(a, b[at]);
    case Made::GELU: return gelu(a, b[at]);
    default: return a;
  }
}

template <bool NORM, bool QUANTIZE>
__global__ void __launch_bounds__(1024) rowsKernel(RowsArgs args) {
  BN_SHARED(Partials, partials);
  float* const row = reinterpret_cast<float*>(partials + 1);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int columns = args.columns;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * columns;
  gridWait();

  double squares = 0.0;
  float absmax = 1e-5f;
  for (int i = thread; i < columns; i += threads) {
    const float x = makeElement(args.made, args.a[start + i], args.b, start + i);
    if (args.kept != nullptr) args.kept[start + i] = x;
    row[i] = x;
    if (NORM) squares += static_cast<double>(x * x);
    else if (fabsf(x) > absmax) absmax = fabsf(x);
  }

  if (NORM) {
    const double sum = blockSum(squares, partials->sums);
    bool settled;
    float mean = settle(sum, columns, static_cast<double>(columns), settled);
    if (!settled) { /* the same for all threads: they have the same sum */
      if (thread < 32) {
        const double inOrder = sum8dInOrder(columns, [row](int i) { return row[i] * row[i]; });
        if (thread == 0) partials->r = static_cast<float>(inOrder / static_cast<double>(columns));
      }
      __syncthreads();
      mean = partials->r;
    }
    const float r = 1.0f / sqrtf(mean + args.eps);
    for (int i = thread; i < columns; i += threads) {
      const float y = row[i] * r * args.gain[i];
      if (args.normed != nullptr) args.normed[start + i] = y;
      if (QUANTIZE) {
        row[i] = y;
        if (fabsf(y) > absmax) absmax = fabsf(y);
      }
    }
  }

  if (QUANTIZE) {
    absmax = blockMax(absmax, partials->maxima);
    const float scale = 127.0f / absmax;
    const int stride = static_cast<int>(codeStride(columns)), plane = stride / 4;
    int8_t* const codes = args.codes + static_cast<int64_t>(blockIdx.x) * stride;
    int sum = 0;
    for (int i = thread; i < stride; i += threads) {
      const float scaled = i < columns ? rintf(row[i] * scale) : 0.0f;
      const int code = isNaN(scaled) ? 0 : static_cast<int>(greatest(-128.0f, least(127.0f, scaled)));
      codes[(i >> 5 & 3) * plane + (i >> 7) * 32 + (i & 31)] = static_cast<int8_t>(code);
      sum += code;
    }
    sum = blockSum(sum, partials->counts);
    if (thread == 0) args.meta[blockIdx.x] = {scale, sum};
  }
}

}  // namespace

int maxRowColumns(size_t sharedLimit) {
  return static_cast<int>(least(size_t(40000), (sharedLimit - sizeof(Partials)) / sizeof(float)));
}

cudaError_t runRows(const Stream& on, const RowsArgs& args) {
  const int threads = args.columns <= 512 ? 128 : args.columns <= 4096 ? 512 : 1024;
  const size_t shared = sizeof(Partials) + sizeof(float) * static_cast<size_t>(args.columns);
  const dim3 grid(static_cast<unsigned>(args.n));
  if (args.gain == nullptr) return launch(on, rowsKernel<false, true>, grid, threads, shared, args);
  if (args.codes == nullptr) return launch(on, rowsKernel<true, false>, grid, threads, shared, args);
  return launch(on, rowsKernel<true, true>, grid, threads, shared, args);
}

}  // namespace bn
