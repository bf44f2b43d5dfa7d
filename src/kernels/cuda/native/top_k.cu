/*
 * The greatest elements of long rows: what of the logits has to travel. Floats are ordered as unsigned integers; a first pass counts
 * them by their upper 11 bits, a second counts those of the bin with the k-th by their next 11, a third takes everything from there on.
 * So ties, and neighbours in the last 10 bits, come along: `room` has space for some.
 *
 * Of estimates (head.cu) the lower ends of their intervals are counted, and taken is what reaches the k-th of them with its upper end.
 */
#include "head_bound.cuh"
#include "kernels.h"
#include "numbers.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;
constexpr int BINS = 2048;
constexpr int BINS_PER_THREAD = BINS / THREADS;
constexpr int MAX_BLOCKS = 64;

/* Greater floats have greater keys; both zeros have the same. */
__device__ __forceinline__ unsigned keyOf(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Found {
  int bin;
  int above; /* elements in greater bins */
};

/* The bin of the k-th greatest element. All threads of the block call it; `shared` has THREADS + 2 words. */
__device__ Found findBin(const unsigned* counts, int k, int* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int top = BINS - 1 - thread * BINS_PER_THREAD; /* thread 0 has the greatest bins */
  int mine = 0;
  for (int i = 0; i < BINS_PER_THREAD; i++) mine += static_cast<int>(counts[top - i]);
  __syncthreads(); /* a call before may still be read */
  shared[thread] = mine;
  if (thread == 0) shared[THREADS] = 0, shared[THREADS + 1] = 0;
  __syncthreads();
  int above = 0;
  for (int i = 0; i < thread; i++) above += shared[i];
  if (above < k && above + mine >= k) {
    int bin = top;
    while (above + static_cast<int>(counts[bin]) < k) above += static_cast<int>(counts[bin--]);
    shared[THREADS] = bin;
    shared[THREADS + 1] = above;
  }
  __syncthreads();
  return {shared[THREADS], shared[THREADS + 1]};
}

__global__ void __launch_bounds__(THREADS) clearKernel(TopKArgs args) {
  gridWait();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * BINS; i += THREADS) args.scratch[blockIdx.x * 2 * BINS + i] = 0;
  if (threadIdx.x < 2) args.out[blockIdx.x * (2 + 2 * static_cast<int64_t>(args.room)) + threadIdx.x] = 0;
}

/* Products: each is its own interval. */
struct Exact {
  __device__ Interval interval(int, int, float value) const { return {value, value}; }
  __device__ void leave(int, int) const {}
};

struct Estimated {
  RowIndex index;
  const ErrorFactors* factors;
  float* estimates;
  int columns;
  __device__ Interval interval(int row, int column, float value) const { return around(value, index, column, factors[row]); }
  __device__ void leave(int row, int column) const { estimates[static_cast<int64_t>(row) * columns + column] = -infinity(); }
};

/* PASS 0 and 1 count, PASS 2 takes. */
template <int PASS, typename Source>
__global__ void __launch_bounds__(THREADS) topKKernel(TopKArgs args, Source source) {
  BN_SHARED(unsigned, local);
  int* const words = reinterpret_cast<int*>(local + BINS);
  const int thread = static_cast<int>(threadIdx.x);
  unsigned* const counts = args.scratch + static_cast<int64_t>(blockIdx.y) * 2 * BINS;
  int* const out = args.out + blockIdx.y * (2 + 2 * static_cast<int64_t>(args.room));
  const float* const x = args.x + static_cast<int64_t>(blockIdx.y) * args.columns;
  gridWait();

  unsigned prefix = 0;
  if (PASS > 0) {
    const Found first = findBin(counts, args.k, words);
    prefix = static_cast<unsigned>(first.bin);
    if (PASS == 2) prefix = prefix << 11 | static_cast<unsigned>(findBin(counts + BINS, args.k - first.above, words).bin);
  }
  if (PASS < 2) {
    for (int i = thread; i < BINS; i += THREADS) local[i] = 0;
    __syncthreads();
  }
  const int step = static_cast<int>(gridDim.x) * THREADS;
  for (int i = static_cast<int>(blockIdx.x) * THREADS + thread; i < args.columns; i += step) {
    const float value = x[i];
    const Interval interval = source.interval(static_cast<int>(blockIdx.y), i, value);
    const unsigned key = keyOf(PASS < 2 ? interval.low : interval.high);
    if (isNaN(interval.low)) {
      atomicOr(reinterpret_cast<unsigned*>(out + 1), 1u);
    } else if (PASS == 0) {
      atomicAdd(local + (key >> 21), 1u);
    } else if (PASS == 1) {
      if (key >> 21 == prefix) atomicAdd(local + (key >> 10 & (BINS - 1)), 1u);
    } else if (key >> 10 >= prefix) {
      const int at = atomicAdd(out, 1);
      if (at < args.room) {
        out[2 + 2 * static_cast<int64_t>(at)] = i;
        out[3 + 2 * static_cast<int64_t>(at)] = __float_as_int(value);
      } else {
        atomicOr(reinterpret_cast<unsigned*>(out + 1), 2u);
      }
    } else {
      source.leave(static_cast<int>(blockIdx.y), i);
    }
  }
  if (PASS < 2) {
    __syncthreads();
    for (int i = thread; i < BINS; i += THREADS)
      if (local[i] != 0) atomicAdd(counts + PASS * BINS + i, local[i]);
  }
}

template <typename Source>
cudaError_t startPasses(const Stream& on, const TopKArgs& args, Source source) {
  const size_t shared = (BINS + THREADS + 2) * sizeof(int);
  const int blocks = least(MAX_BLOCKS, ceilDiv(args.columns, THREADS));
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(args.n));
  cudaError_t e = launch(on, clearKernel, dim3(static_cast<unsigned>(args.n)), THREADS, 0, args);
  if (e == cudaSuccess) e = launch(on, topKKernel<0, Source>, grid, THREADS, shared, args, source);
  if (e == cudaSuccess) e = launch(on, topKKernel<1, Source>, grid, THREADS, shared, args, source);
  if (e == cudaSuccess) e = launch(on, topKKernel<2, Source>, grid, THREADS, shared, args, source);
  return e;
}

}  // namespace

cudaError_t runTopK(const Stream& on, const TopKArgs& args) { return startPasses(on, args, Exact()); }

cudaError_t runTopEstimates(const Stream& on, const TopKArgs& args, float* estimates, const float* index, const ErrorFactors* factors) {
  return startPasses(on, args, Estimated{RowIndex(index, args.columns), factors, estimates, args.columns});
}

size_t topKScratch(int n) { return static_cast<size_t>(n) * 2 * BINS; }

}  // namespace bn
