/*
 * Causal attention of single rows in the exact order of the contract: the decode step, one row for each sequence, and rests. A few
 * rows that see much, which would leave most of a card without work, are for attention_split.cu.
 *
 * A block has one row and HEADS query heads that share a key/value head.
 *
 *   scores   four threads to a position; thread p has the sums 4p .. 4p + 3 of dot16, so that the four read whole sectors
 *   terms    e_j = exp(s_j - max), their sum in f64 (see `settle`)
 *   values   a thread to a column, j ascending: a chain of rounded additions that nothing can shorten. So that it never waits for
 *            memory, values pass through two tiles in shared memory by cp.async; the first two are under way during the scores
 */
#include "attention.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
/* Bytes of a tile of values, about: two of them beside the scores. */
constexpr int TILE_BYTES = 16 * 1024;
/* Scores stay in shared memory while a block takes no more of it than this: what there is on every card (Stream.sharedLimit). */
constexpr size_t SHARED_BYTES = 99 * 1024;

struct Partials {
  double sums[WARPS];
  float maxima[WARPS];
  float totals[WARPS];
};

/* Positions of a tile of values: a multiple of 4, so that its bytes are one of 16. */
__host__ __device__ constexpr int tilePositions(int headDim, int valueBytes) {
  const int fit = TILE_BYTES / (headDim * valueBytes) / 8 * 8;
  return fit < 8 ? 8 : fit;
}
__host__ __device__ constexpr int tileBytes(int headDim, int valueBytes) {
  return tilePositions(headDim, valueBytes) * headDim * valueBytes;
}

/* Positions from `first` on into a tile: as they lie in memory, one after the other. Those behind `count` become 0. */
template <bool HALF>
__device__ __forceinline__ void sendTile(unsigned char* tile, const unsigned char* values, int64_t base, int first, int count, int d) {
  constexpr int BYTES = HALF ? 2 : 4;
  const int elements = tilePositions(d, BYTES) * d, valid = least(count - first, tilePositions(d, BYTES)) * d;
  const unsigned char* from = values + (base + static_cast<int64_t>(first) * d) * BYTES;
  if (d * BYTES % 16 == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < elements / (16 / BYTES); i += THREADS) {
      const bool inside = i * (16 / BYTES) < valid;
      copyAsync(tile + i * 16, inside ? from + i * 16 : values, inside);
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < elements; i += THREADS) {
      if (HALF) reinterpret_cast<uint16_t*>(tile)[i] = i < valid ? reinterpret_cast<const uint16_t*>(from)[i] : uint16_t(0);
      else reinterpret_cast<float*>(tile)[i] = i < valid ? reinterpret_cast<const float*>(from)[i] : 0.0f;
    }
  }
}

/* DIM: see scoreQuad. */
template <int HEADS, bool HALF_KEYS, bool HALF_VALUES, int DIM>
__global__ void __launch_bounds__(THREADS, HEADS == 1 ? 3 : 2) attentionKernel(AttentionArgs args, int blocksPerKvHead, bool scoresShared) {
  constexpr int PER_HEAD = THREADS / HEADS, WARPS_PER_HEAD = WARPS / HEADS, VALUE_BYTES = HALF_VALUES ? 2 : 4;
  BN_SHARED(Partials, partials);
  const CacheShape& cache = args.cache;
  const int thread = static_cast<int>(threadIdx.x), d = DIM == 0 ? cache.headDim : DIM, padded = paddedDim(d);
  const int64_t stride = scoreStride(cache.context);
  unsigned char* const tiles = reinterpret_cast<unsigned char*>(partials + 1);
  float* const q = reinterpret_cast<float*>(tiles + 2 * tileBytes(d, VALUE_BYTES));
  const int kvHead = static_cast<int>(blockIdx.x) / blocksPerKvHead, group = args.nHeads / cache.nKvHeads;
  const int firstHead = kvHead * group + static_cast<int>(blockIdx.x) % blocksPerKvHead * HEADS;
  const int heads = least(HEADS, (kvHead + 1) * group - firstHead);
  const int64_t row = blockIdx.y;
  float* const scores = scoresShared ? q + HEADS * padded
                                     : args.scores + (row * gridDim.x + blockIdx.x) * HEADS * stride;
  gridWait();

  const RowPlace place = args.places[row];
  const int count = static_cast<int>(place.position) + 1;
  const int64_t base = headStart(cache, kvHead);
  const int positions = tilePositions(d, VALUE_BYTES);
  for (int t = 0; t < 2; t++) {
    if (t * positions < count) sendTile<HALF_VALUES>(tiles + t * tileBytes(d, VALUE_BYTES), place.values, base, t * positions, count, d);
    copyCommit();
  }
  loadQueries<HEADS, THREADS>(q, args, row, firstHead, heads, d);
  __syncthreads();

  for (int first = 0; first < count; first += THREADS / 4) {
    const int j = first + thread / 4;
    float s[HEADS];
    scoreQuad<HEADS, HALF_KEYS, DIM>(s, q, place.keys, base + static_cast<int64_t>(least(j, count - 1)) * d, d, args.scale);
#pragma unroll
    for (int h = 0; h < HEADS; h++)
      if ((thread & 3) == 0 && j < count) scores[h * stride + j] = s[h];
  }
  __syncthreads();

  const int mine = thread / PER_HEAD, within = thread % PER_HEAD;
  float* const terms = scores + mine * stride;
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

  /* Warps side by side cover the columns; where there are more warps than columns they share the heads. */
  const int width = least(THREADS, ceilDiv(d, 32) * 32), shares = THREADS / width, share = thread / width;
  for (int firstColumn = 0; firstColumn < d; firstColumn += width) {
    const int column = firstColumn + thread % width;
    const bool busy = share < least(shares, heads) && column < d;
    float sums[HEADS] = {};
    for (int first = 0, t = 0; first < count; first += positions, t++) {
      unsigned char* const tile = tiles + (t & 1) * tileBytes(d, VALUE_BYTES);
      if (firstColumn > 0) { /* more columns than threads: the tiles come once more */
        __syncthreads();
        sendTile<HALF_VALUES>(tile, place.values, base, first, count, d);
        copyCommit();
        copyWait<0>();
      } else {
        copyWait<1>();
      }
      __syncthreads();
      const int end = busy ? least(positions, count - first) : 0;
      int j = 0;
      for (; j + 4 <= end; j += 4) {
        float v[4];
#pragma unroll
        for (int u = 0; u < 4; u++) v[u] = loadCached<HALF_VALUES>(tile, (j + u) * d + column);
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
          if (share + i * shares >= heads) continue;
          const float4 e = *reinterpret_cast<const float4*>(scores + (share + i * shares) * stride + first + j);
          sums[i] = sums[i] + e.x * v[0];
          sums[i] = sums[i] + e.y * v[1];
          sums[i] = sums[i] + e.z * v[2];
          sums[i] = sums[i] + e.w * v[3];
        }
      }
      for (; j < end; j++) {
        const float v = loadCached<HALF_VALUES>(tile, j * d + column);
#pragma unroll
        for (int i = 0; i < HEADS; i++)
          if (share + i * shares < heads) sums[i] = sums[i] + scores[(share + i * shares) * stride + first + j] * v;
      }
      if (firstColumn > 0) continue;
      __syncthreads(); /* everybody has read the tile that the next but one overwrites */
      const int next = first + 2 * positions;
      if (next < count) sendTile<HALF_VALUES>(tile, place.values, base, next, count, d);
      copyCommit();
    }
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
      const int head = share + i * shares;
      if (busy && head < heads) args.out[(row * args.nHeads + firstHead + head) * d + column] = sums[i] / partials->totals[head];
    }
  }
}

struct Plan {
  int heads;
  int blocksPerKvHead;
  size_t scoreFloats; /* of a block */
  size_t otherBytes;  /* of shared memory */
  bool scoresShared;
};

Plan planOf(const AttentionArgs& args, int sms) {
  const CacheShape& cache = args.cache;
  const int group = args.nHeads / cache.nKvHeads;
  /* Heads together read keys and values once; heads apart fill the card when there are few rows. */
  const bool together = group > 1 && static_cast<int64_t>(args.n) * cache.nKvHeads >= sms;
  const int heads = together ? 4 : 1;
  const size_t floats = static_cast<size_t>(heads) * static_cast<size_t>(scoreStride(cache.context));
  const size_t other = sizeof(Partials) + 2 * static_cast<size_t>(tileBytes(cache.headDim, cache.halfValues ? 2 : 4)) +
                       sizeof(float) * static_cast<size_t>(heads) * paddedDim(cache.headDim);
  return {heads, ceilDiv(group, heads), floats, other, other + floats * sizeof(float) <= SHARED_BYTES};
}

template <int HEADS>
cudaError_t start(const Stream& on, const AttentionArgs& args, const Plan& plan) {
  const dim3 grid(static_cast<unsigned>(args.cache.nKvHeads * plan.blocksPerKvHead), static_cast<unsigned>(args.n));
  const bool halfKeys = args.cache.halfKeys, halfValues = args.cache.halfValues;
  auto kernel = halfKeys ? (halfValues ? attentionKernel<HEADS, true, true, 0> : attentionKernel<HEADS, true, false, 0>)
                         : (halfValues ? attentionKernel<HEADS, false, true, 0> : attentionKernel<HEADS, false, false, 0>);
  if (halfKeys && halfValues && args.cache.headDim == 64) kernel = attentionKernel<HEADS, true, true, 64>;
  if (halfKeys && halfValues && args.cache.headDim == 128) kernel = attentionKernel<HEADS, true, true, 128>;
  const size_t shared = plan.otherBytes + (plan.scoresShared ? plan.scoreFloats * sizeof(float) : 0);
  return launch(on, kernel, grid, THREADS, shared, args, plan.blocksPerKvHead, plan.scoresShared);
}

}  // namespace

cudaError_t runAttention(const Stream& on, const AttentionArgs& args) {
  if (isTiled(args)) return runAttentionTiles(on, args);
  if (args.far && maySplit(args, on.sms)) return runAttentionSplit(on, args);
  const Plan plan = planOf(args, on.sms);
  return plan.heads == 4 ? start<4>(on, args, plan) : start<1>(on, args, plan);
}

size_t attentionScratch(const AttentionArgs& args, int sms) {
  if (isTiled(args)) return attentionTilesScratch(args);
  const Plan plan = planOf(args, sms);
  const size_t whole = plan.scoresShared ? 0 : plan.scoreFloats * static_cast<size_t>(args.cache.nKvHeads) * plan.blocksPerKvHead * args.n;
  /* Also before it is far: a sequence that grows long takes no memory in the middle. */
  return greatest(whole, maySplit(args, sms) ? attentionSplitScratch(args, sms) : 0);
}

}  // namespace bn
