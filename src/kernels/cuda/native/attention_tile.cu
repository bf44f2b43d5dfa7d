/*
 * Causal attention of consecutive positions of one sequence, prompts: the same sums as attention.cu in the same order, with every key
 * and value used for PAIRS pairs of a row and a query head (all heads of a group for one row, then the next row).
 *
 *   keys     64 positions at a time, as f32 in shared memory. A thread has sums 4p .. 4p + 3 of dot16 for 4 pairs x 4 positions
 *   folds    the four threads of a quad exchange halves, so that each ends with the scores of one pair
 *   terms    a warp to a pair
 *   values   64 positions at a time; a thread has 4 pairs x 2 columns, j ascending
 *
 * No tensor cores: their sums have another order. The bound is the rate of f32 products and sums, 4 * headDim for each score.
 */
#include "cache.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;
constexpr int PAIRS = 16;
constexpr int BLOCK = 64; /* positions */
constexpr int MAX_DIM = 128;
constexpr int LEAST_ROWS = 9; /* fewer are left to attention.cu */
/*
 * Scores beside the tile (46 KiB at most) in shared memory, 99 KiB of which there are on every card, two blocks on a multiprocessor of
 * the large ones; longer ones go through device memory.
 */
constexpr size_t SHARED_SCORES = 52 * 1024;

/* Floats from one position to the next: two rows that are read together do not meet in a bank. */
__host__ __device__ constexpr int pitchOf(int headDim) { return (headDim + 31) / 32 * 32 + 16; }
__host__ __device__ constexpr int stepsOf(int headDim) { return (headDim + 15) / 16; }

/* Positions first .. first + 64 of keys or values into the tile; zeros behind `count` and between headDim and the pitch. */
template <bool HALF>
__device__ __forceinline__ void loadTile(float* tile, const unsigned char* base, int64_t start, int first, int count, int d) {
  const int quads = stepsOf(d) * 4, pitch = pitchOf(d);
  for (int i = static_cast<int>(threadIdx.x); i < BLOCK * quads; i += THREADS) {
    const int position = i / quads, column = i % quads * 4;
    const bool valid = first + position < count && column < d;
    const float4 v = valid ? loadCached4<HALF>(base, start + static_cast<int64_t>(first + position) * d + column)
                           : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    *reinterpret_cast<float4*>(tile + position * pitch + column) = v;
  }
}

__device__ __forceinline__ void multiplyAdd(float (&s)[4], const float4& a, const float4& b) {
  s[0] = s[0] + a.x * b.x;
  s[1] = s[1] + a.y * b.y;
  s[2] = s[2] + a.z * b.z;
  s[3] = s[3] + a.w * b.w;
}

/* Scores of this thread's 4 pairs and 4 positions (every 16th from `position`); ends with those of pair p. */
__device__ __forceinline__ void scoreTile(const float* q, const float* tile, int d, int p, int position, float (&out)[4]) {
  const int pitch = pitchOf(d);
  float s[4][4][4] = {};
  for (int column = 4 * p; column < d; column += 16) {
    float4 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = *reinterpret_cast<const float4*>(q + i * pitch + column);
#pragma unroll
    for (int j = 0; j < 4; j++) b[j] = *reinterpret_cast<const float4*>(tile + (position + 16 * j) * pitch + column);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) multiplyAdd(s[i][j], a[i], b[j]);
    }
  }
  /* s[l] + s[l + 8]: threads p and p ^ 2. Each keeps two pairs and sends the two that the other keeps. */
  const bool upper = p & 2, odd = p & 1;
  float t[2][4][4];
#pragma unroll
  for (int i = 0; i < 2; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float sent = upper ? s[i][j][e] : s[i + 2][j][e], kept = upper ? s[i + 2][j][e] : s[i][j][e];
        t[i][j][e] = kept + __shfl_xor_sync(FULL_WARP, sent, 2);
      }
    }
  }
  /* s[l] + s[l + 4]: threads p and p ^ 1, one pair each. */
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float u[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float sent = odd ? t[0][j][e] : t[1][j][e], kept = odd ? t[1][j][e] : t[0][j][e];
      u[e] = kept + __shfl_xor_sync(FULL_WARP, sent, 1);
    }
    out[j] = (u[0] + u[2]) + (u[1] + u[3]);
  }
}

template <bool HALF_KEYS, bool HALF_VALUES>
__global__ void __launch_bounds__(THREADS, 2) attentionTileKernel(AttentionArgs args, bool scoresShared) {
  BN_SHARED(float, tile);
  const CacheShape& cache = args.cache;
  const int d = cache.headDim, pitch = pitchOf(d), group = args.nHeads / cache.nKvHeads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  float* const q = tile + BLOCK * pitch;
  float* const totals = q + PAIRS * pitch;
  const int64_t stride = scoreStride(cache.context);
  float* const scores =
      scoresShared ? totals + PAIRS : args.scores + (blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x) * PAIRS * stride;

  /* The last rows see most: they begin first. */
  const int firstPair = static_cast<int>(gridDim.x - 1 - blockIdx.x) * PAIRS, kvHead = static_cast<int>(blockIdx.y);
  const int pairs = least(PAIRS, args.n * group - firstPair);
  const int64_t start = headStart(cache, kvHead);
  const auto element = [&](int pair) {
    const int row = (firstPair + pair) / group, head = kvHead * group + (firstPair + pair) % group;
    return (static_cast<int64_t>(row) * args.nHeads + head) * d;
  };
  gridWait();
  const RowPlace place = args.places[0];
  const auto countOf = [&](int pair) { return static_cast<int>(place.position) + 1 + (firstPair + pair) / group; };
  const int count = countOf(pairs - 1);

  for (int i = thread; i < PAIRS * pitch; i += THREADS) {
    const int pair = i / pitch, column = i % pitch;
    q[i] = pair < pairs && column < d ? args.q[element(pair) + column] : 0.0f;
  }

  const int p = thread & 3, quad = thread / 4, firstOfQuad = quad / 16 * 4;
  for (int first = 0; first < count; first += BLOCK) {
    __syncthreads(); /* the tile before has been read, the queries are there */
    loadTile<HALF_KEYS>(tile, place.keys, start, first, count, d);
    __syncthreads();
    float out[4];
    scoreTile(q + firstOfQuad * pitch, tile, d, p, quad % 16, out);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int position = first + quad % 16 + 16 * j;
      if (position < count) scores[(firstOfQuad + p) * stride + position] = out[j] * args.scale;
    }
  }
  __syncthreads();
  for (int pair = warp; pair < pairs; pair += THREADS / 32) {
    const float total = softmaxTerms(scores + pair * stride, countOf(pair));
    if ((thread & 31) == 0) totals[pair] = total;
  }

  /* Two warps share 4 pairs: 64 threads, columns 2c and 2c + 1 each. */
  const int mine = warp / 2 * 4, column = thread % 64 * 2, all = countOf(0);
  float sums[4][2] = {};
  for (int first = 0; first < count; first += BLOCK) {
    __syncthreads();
    loadTile<HALF_VALUES>(tile, place.values, start, first, count, d);
    __syncthreads();
    const int end = least(BLOCK, count - first), common = greatest(0, least(BLOCK, all - first)) / 4 * 4;
    if (column >= d) continue;
    for (int j = 0; j < common; j += 4) {
      float2 v[4];
#pragma unroll
      for (int u = 0; u < 4; u++) v[u] = *reinterpret_cast<const float2*>(tile + (j + u) * pitch + column);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float4 e = *reinterpret_cast<const float4*>(scores + (mine + i) * stride + first + j);
        const float terms[4] = {e.x, e.y, e.z, e.w};
#pragma unroll
        for (int u = 0; u < 4; u++) {
          sums[i][0] = sums[i][0] + terms[u] * v[u].x;
          sums[i][1] = sums[i][1] + terms[u] * v[u].y;
        }
      }
    }
    /* Positions that not all rows see: a term of a position that is not seen must not be added, not even as 0. */
    for (int j = common; j < end; j++) {
      const float2 v = *reinterpret_cast<const float2*>(tile + j * pitch + column);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (mine + i >= pairs || first + j >= countOf(mine + i)) continue;
        const float e = scores[(mine + i) * stride + first + j];
        sums[i][0] = sums[i][0] + e * v.x;
        sums[i][1] = sums[i][1] + e * v.y;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (mine + i >= pairs || column >= d) continue;
    float* const out = args.out + element(mine + i) + column;
    out[0] = sums[i][0] / totals[mine + i];
    out[1] = sums[i][1] / totals[mine + i];
  }
}

size_t scoreFloats(const AttentionArgs& args) { return static_cast<size_t>(PAIRS) * static_cast<size_t>(scoreStride(args.cache.context)); }
bool fitsShared(const AttentionArgs& args) { return scoreFloats(args) * sizeof(float) <= SHARED_SCORES; }
int tilesOf(const AttentionArgs& args) { return ceilDiv(args.n * (args.nHeads / args.cache.nKvHeads), PAIRS); }

}  // namespace

/* Dimensions that the tile is made for: steps of 16 without a rest. */
bool isTiled(const AttentionArgs& args) {
  return args.oneSequence && args.n >= LEAST_ROWS && args.cache.headDim <= MAX_DIM && args.cache.headDim % 16 == 0;
}

cudaError_t runAttentionTiles(const Stream& on, const AttentionArgs& args) {
  const dim3 grid(static_cast<unsigned>(tilesOf(args)), static_cast<unsigned>(args.cache.nKvHeads));
  const int pitch = pitchOf(args.cache.headDim);
  const bool shared = fitsShared(args);
  const size_t floats = static_cast<size_t>(BLOCK + PAIRS) * pitch + PAIRS + (shared ? scoreFloats(args) : 0);
  const bool halfKeys = args.cache.halfKeys, halfValues = args.cache.halfValues;
  const auto kernel = halfKeys ? (halfValues ? attentionTileKernel<true, true> : attentionTileKernel<true, false>)
                               : (halfValues ? attentionTileKernel<false, true> : attentionTileKernel<false, false>);
  return launch(on, kernel, grid, THREADS, floats * sizeof(float), args, shared);
}

size_t attentionTilesScratch(const AttentionArgs& args) {
  return fitsShared(args) ? 0 : scoreFloats(args) * static_cast<size_t>(tilesOf(args)) * args.cache.nKvHeads;
}

}  // namespace bn
