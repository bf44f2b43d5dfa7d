/*
 * Causal attention of single rows in the exact order of the contract: the decode step, one row for each sequence, and rests.
 *
 * A block has one row and HEADS query heads that share a key/value head.
 *
 *   scores   four threads to a position; thread p has the sums 4p .. 4p + 3 of dot16, so that the four read whole sectors
 *   terms    e_j = exp(s_j - max), their sum in f64 (see `settle`)
 *   values   a thread to an output element, j ascending: a chain of rounded additions that nothing can shorten, so its loads are
 *            taken sixteen positions ahead
 */
#include "cache.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int AHEAD = 16;
/* Scores stay in shared memory up to here. */
constexpr size_t SHARED_SCORES = 96 * 1024;

struct Partials {
  double sums[WARPS];
  float maxima[WARPS];
  float totals[WARPS];
};

__host__ __device__ constexpr int paddedDim(int headDim) { return (headDim + 15) / 16 * 16; }

template <int HEADS, bool HALF_KEYS, bool HALF_VALUES>
__global__ void __launch_bounds__(THREADS) attentionKernel(AttentionArgs args, int blocksPerKvHead, bool scoresShared) {
  constexpr int PER_HEAD = THREADS / HEADS, WARPS_PER_HEAD = WARPS / HEADS;
  BN_SHARED(Partials, partials);
  const CacheShape& cache = args.cache;
  const int thread = static_cast<int>(threadIdx.x), d = cache.headDim, padded = paddedDim(d);
  float* const q = reinterpret_cast<float*>(partials + 1);
  const int kvHead = static_cast<int>(blockIdx.x) / blocksPerKvHead, group = args.nHeads / cache.nKvHeads;
  const int firstHead = kvHead * group + static_cast<int>(blockIdx.x) % blocksPerKvHead * HEADS;
  const int heads = least(HEADS, (kvHead + 1) * group - firstHead);
  const int64_t row = blockIdx.y;
  float* const scores = scoresShared ? q + HEADS * padded
                                     : args.scores + (row * gridDim.x + blockIdx.x) * HEADS * static_cast<int64_t>(cache.context);
  gridWait();

  const RowPlace place = args.places[row];
  const int count = static_cast<int>(place.position) + 1;
  const int64_t base = headStart(cache, kvHead);
  for (int i = thread; i < HEADS * padded; i += THREADS) {
    const int head = i / padded, k = i % padded;
    q[i] = head < heads && k < d ? args.q[(row * args.nHeads + firstHead + head) * d + k] : 0.0f;
  }
  __syncthreads();

  const int p = thread & 3;
  const bool wide = d % 4 == 0;
  for (int first = 0; first < count; first += THREADS / 4) {
    const int j = first + thread / 4;
    const int64_t key = base + static_cast<int64_t>(least(j, count - 1)) * d;
    float s[HEADS][4] = {};
    /* Sums of columns that are not there are left alone: adding 0 * 0 would be harmless, but is not what the contract says. */
#pragma unroll 8
    for (int at = 4 * p; at < d; at += 16) {
      float k[4] = {};
      if (wide) {
        const float4 v = loadCached4<HALF_KEYS>(place.keys, key + at);
        k[0] = v.x, k[1] = v.y, k[2] = v.z, k[3] = v.w;
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++) k[e] = at + e < d ? loadCached<HALF_KEYS>(place.keys, key + at + e) : 0.0f;
      }
#pragma unroll
      for (int h = 0; h < HEADS; h++) {
        const float4 v = *reinterpret_cast<const float4*>(q + h * padded + at);
        const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (wide || at + e < d) s[h][e] = s[h][e] + x[e] * k[e];
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
      for (int e = 0; e < 4; e++) s[h][e] = s[h][e] + __shfl_xor_sync(FULL_WARP, s[h][e], 2);
#pragma unroll
      for (int e = 0; e < 4; e++) s[h][e] = s[h][e] + __shfl_xor_sync(FULL_WARP, s[h][e], 1);
      if (p == 0 && j < count) scores[h * static_cast<int64_t>(cache.context) + j] = ((s[h][0] + s[h][2]) + (s[h][1] + s[h][3])) * args.scale;
    }
  }
  __syncthreads();

  const int mine = thread / PER_HEAD, within = thread % PER_HEAD;
  float* const terms = scores + mine * static_cast<int64_t>(cache.context);
  float max = -infinity();
  for (int j = within; j < count; j += PER_HEAD) max = terms[j] > max ? terms[j] : max;
  max = warpMax(max);
  if ((thread & 31) == 0) partials->maxima[thread / 32] = max;
  __syncthreads();
  for (int w = 0; w < WARPS_PER_HEAD; w++) max = greatest(max, partials->maxima[mine * WARPS_PER_HEAD + w]);
  double sum = 0.0;
  for (int j = within; j < count; j += PER_HEAD) {
    const float e = expF32(terms[j] - max);
    terms[j] = e;
    sum += static_cast<double>(e);
  }
  sum = warpSum(sum);
  if ((thread & 31) == 0) partials->sums[thread / 32] = sum;
  __syncthreads();
  if (thread % PER_HEAD < 32) {
    double all = 0.0;
    for (int w = 0; w < WARPS_PER_HEAD; w++) all += partials->sums[mine * WARPS_PER_HEAD + w];
    bool settled;
    float total = settle(all, count, 1.0, settled);
    if (!settled) total = static_cast<float>(sum8dInOrder(count, [terms](int j) { return terms[j]; }));
    if (within == 0) partials->totals[mine] = total;
  }
  __syncthreads();

  for (int i = thread; i < heads * d; i += THREADS) {
    const int head = i / d, column = i % d;
    const float* e = scores + head * static_cast<int64_t>(cache.context);
    const int64_t value = base + column;
    float out = 0.0f;
    int j = 0;
    for (; j + AHEAD <= count; j += AHEAD) {
      float v[AHEAD];
#pragma unroll
      for (int u = 0; u < AHEAD; u++) v[u] = loadCached<HALF_VALUES>(place.values, value + static_cast<int64_t>(j + u) * d);
#pragma unroll
      for (int u = 0; u < AHEAD; u++) out = out + e[j + u] * v[u];
    }
    for (; j < count; j++) out = out + e[j] * loadCached<HALF_VALUES>(place.values, value + static_cast<int64_t>(j) * d);
    args.out[(row * args.nHeads + firstHead + head) * d + column] = out / partials->totals[head];
  }
}

struct Plan {
  int heads;
  int blocksPerKvHead;
  size_t scoreFloats; /* of a block */
  bool scoresShared;
};

Plan planOf(const AttentionArgs& args, int sms) {
  const int group = args.nHeads / args.cache.nKvHeads;
  /* Heads together read keys and values once; heads apart fill the card when there are few rows. */
  const bool together = group > 1 && static_cast<int64_t>(args.n) * args.cache.nKvHeads >= sms;
  const int heads = together ? 4 : 1;
  const size_t floats = static_cast<size_t>(heads) * args.cache.context;
  return {heads, ceilDiv(group, heads), floats, floats * sizeof(float) <= SHARED_SCORES};
}

template <int HEADS>
cudaError_t start(const Stream& on, const AttentionArgs& args, const Plan& plan) {
  const dim3 grid(static_cast<unsigned>(args.cache.nKvHeads * plan.blocksPerKvHead), static_cast<unsigned>(args.n));
  const size_t floats = static_cast<size_t>(HEADS) * paddedDim(args.cache.headDim) + (plan.scoresShared ? plan.scoreFloats : 0);
  const bool halfKeys = args.cache.halfKeys, halfValues = args.cache.halfValues;
  const auto kernel = halfKeys ? (halfValues ? attentionKernel<HEADS, true, true> : attentionKernel<HEADS, true, false>)
                               : (halfValues ? attentionKernel<HEADS, false, true> : attentionKernel<HEADS, false, false>);
  return launch(on, kernel, grid, THREADS, sizeof(Partials) + sizeof(float) * floats, args, plan.blocksPerKvHead, plan.scoresShared);
}

}  // namespace

cudaError_t runAttention(const Stream& on, const AttentionArgs& args) {
  if (isTiled(args)) return runAttentionTiles(on, args);
  const Plan plan = planOf(args, on.sms);
  return plan.heads == 4 ? start<4>(on, args, plan) : start<1>(on, args, plan);
}

size_t attentionScratch(const AttentionArgs& args, int sms) {
  if (isTiled(args)) return attentionTilesScratch(args);
  const Plan plan = planOf(args, sms);
  if (plan.scoresShared) return 0;
  return plan.scoreFloats * static_cast<size_t>(args.cache.nKvHeads) * plan.blocksPerKvHead * args.n;
}

}  // namespace bn
