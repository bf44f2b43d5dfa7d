/*
 * Causal attention of a few rows that see many positions: the sums of attention.cu in the same order, by the whole card.
 *
 *   scores   many blocks to a head, each with every so many-th 32 positions, for all heads that share a key/value head: keys are read
 *            once. They go through device memory, with the greatest of each block
 *   values   a block to 32 columns of a head. What a column waits for is its chain of rounded additions, 4 cycles a position, so all
 *            else happens beside it. Of the four warps of a block, one for each scheduler of a multiprocessor,
 *
 *                0      has the chain, a thread to a column
 *                1      adds the terms e_j = exp(s_j - max) in f64, eight threads, in the very order of sum8d: nothing to settle
 *                2, 3   make the terms of the next tile and send for the values of the next but one
 *
 *            so that nothing but tiles is in shared memory, whatever the context
 *
 * Terms are made by every block of a head again: a step of their own would cost a launch and hide behind nothing.
 */
#include "attention.cuh"

namespace bn {
namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;
/* Positions that a block scores at a time. */
constexpr int CHUNK = THREADS / 4;
/* Blocks of scores for a multiprocessor: together they wait for 32 KiB, about what hides the way to device memory. */
constexpr int SCORE_BLOCKS = 4;

constexpr int COLUMNS = 32;
constexpr int MAKERS = 64; /* threads of warps 2 and 3 */
constexpr int TILE_BYTES = 16 * 1024;
constexpr int TILES = 3;

__host__ __device__ constexpr int tilePositions(bool half) { return TILE_BYTES / (COLUMNS * (half ? 2 : 4)); }
/* Scores of all heads of all rows, then for each of them the greatest of each split. */
__host__ __device__ constexpr int64_t maximaAt(const AttentionArgs& args) {
  return static_cast<int64_t>(args.n) * args.nHeads * scoreStride(args.cache.context);
}

template <int HEADS, bool HALF, int DIM>
__global__ void __launch_bounds__(THREADS, SCORE_BLOCKS) attentionScoresKernel(AttentionArgs args, int blocksPerKvHead) {
  BN_SHARED(float, q);
  const CacheShape& cache = args.cache;
  const int thread = static_cast<int>(threadIdx.x), d = DIM == 0 ? cache.headDim : DIM;
  float* const greatestOfWarp = q + HEADS * paddedDim(d);
  const int splits = static_cast<int>(gridDim.x), split = static_cast<int>(blockIdx.x);
  const int kvHead = static_cast<int>(blockIdx.y) / blocksPerKvHead, group = args.nHeads / cache.nKvHeads;
  const int firstHead = kvHead * group + static_cast<int>(blockIdx.y) % blocksPerKvHead * HEADS;
  const int heads = least(HEADS, (kvHead + 1) * group - firstHead);
  const int64_t row = blockIdx.z, stride = scoreStride(cache.context), head = row * args.nHeads + firstHead;
  float* const scores = args.scores + head * stride;
  gridWait();

  const RowPlace place = args.places[row];
  const int count = static_cast<int>(place.position) + 1;
  const int64_t base = headStart(cache, kvHead);
  float* const maxima = args.scores + maximaAt(args) + head * splits + split;
  if (split * CHUNK >= count) { /* a row that is too short for this split */
    if (thread < heads) maxima[thread * splits] = -infinity();
    return;
  }
  loadQueries<HEADS, THREADS>(q, args, row, firstHead, heads, d);
  __syncthreads();
  float max[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; h++) max[h] = -infinity();
  for (int first = split * CHUNK; first < count; first += splits * CHUNK) {
    const int j = first + thread / 4;
    float s[HEADS];
    scoreQuad<HEADS, HALF, DIM>(s, q, place.keys, base + static_cast<int64_t>(least(j, count - 1)) * d, d, args.scale);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      max[h] = s[h] > max[h] ? s[h] : max[h]; /* the last position may come again: no other maximum */
      if ((thread & 3) == 0 && j < count && h < heads) scores[h * stride + j] = s[h];
    }
  }
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    max[h] = warpMax(max[h]);
    if ((thread & 31) == 0) greatestOfWarp[h * WARPS + thread / 32] = max[h];
  }
  __syncthreads();
  if (thread >= heads) return;
  float all = -infinity();
  for (int w = 0; w < WARPS; w++) all = greatest(all, greatestOfWarp[thread * WARPS + w]);
  maxima[thread * splits] = all;
}

/* 32 columns of a tile's positions, those that there are; zeros behind the last column. By the makers. */
template <bool HALF>
__device__ __forceinline__ void sendTile(unsigned char* tile, const unsigned char* values, int64_t at, int positions, int columns, int d, int maker) {
  constexpr int BYTES = HALF ? 2 : 4, PIECE = 16 / BYTES, PIECES = COLUMNS / PIECE;
  if (d % PIECE == 0) {
    for (int i = maker; i < positions * PIECES; i += MAKERS) {
      const int column = i % PIECES * PIECE;
      const bool inside = column < columns;
      copyAsync(tile + i * 16, inside ? values + (at + static_cast<int64_t>(i / PIECES) * d + column) * BYTES : values, inside);
    }
  } else {
    for (int i = maker; i < positions * COLUMNS; i += MAKERS) {
      const int column = i % COLUMNS;
      const int64_t from = at + static_cast<int64_t>(i / COLUMNS) * d + column;
      if (HALF) reinterpret_cast<uint16_t*>(tile)[i] = column < columns ? reinterpret_cast<const uint16_t*>(values)[from] : uint16_t(0);
      else reinterpret_cast<float*>(tile)[i] = column < columns ? reinterpret_cast<const float*>(values)[from] : 0.0f;
    }
  }
}

/* Terms and values of 16 positions in registers, not yet multiplied. */
template <bool HALF>
struct Pending {
  float4 terms[4];
  float values[16];

  __device__ __forceinline__ void read(const unsigned char* tile, const float* from, int j, int lane) {
#pragma unroll
    for (int u = 0; u < 4; u++) terms[u] = *reinterpret_cast<const float4*>(from + j + 4 * u);
#pragma unroll
    for (int u = 0; u < 16; u++) values[u] = loadCached<HALF>(tile, (j + u) * COLUMNS + lane);
  }
  __device__ __forceinline__ void multiply(float (&out)[16]) const {
#pragma unroll
    for (int u = 0; u < 4; u++) {
      out[4 * u] = terms[u].x * values[4 * u];
      out[4 * u + 1] = terms[u].y * values[4 * u + 1];
      out[4 * u + 2] = terms[u].z * values[4 * u + 2];
      out[4 * u + 3] = terms[u].w * values[4 * u + 3];
    }
  }
};

/* The chain of one column through a tile. While 16 products are added the next 16 are made and those after them read. */
template <bool HALF>
__device__ __forceinline__ float addTile(float sum, const unsigned char* tile, const float* terms, int positions, int lane) {
  const int last = positions / 16 * 16 - 16;
  if (last >= 0) {
    Pending<HALF> pending;
    float now[16], next[16];
    pending.read(tile, terms, 0, lane);
    pending.multiply(now);
    pending.read(tile, terms, least(16, last), lane);
#pragma unroll 2
    for (int j = 0; j <= last; j += 16) {
      pending.multiply(next);
      pending.read(tile, terms, least(j + 32, last), lane); /* in the end the last ones once more, for nothing */
#pragma unroll
      for (int u = 0; u < 16; u++) sum = sum + now[u];
#pragma unroll
      for (int u = 0; u < 16; u++) now[u] = next[u];
    }
  }
  for (int j = last + 16; j < positions; j++) sum = sum + terms[j] * loadCached<HALF>(tile, j * COLUMNS + lane);
  return sum;
}

template <bool HALF>
__global__ void __launch_bounds__(THREADS) attentionValuesKernel(AttentionArgs args, int splits) {
  constexpr int POSITIONS = tilePositions(HALF);
  BN_SHARED(unsigned char, tiles);
  float* const terms = reinterpret_cast<float*>(tiles + TILES * TILE_BYTES); /* two tiles of them */
  float* const total = terms + 2 * POSITIONS;
  const CacheShape& cache = args.cache;
  const int d = cache.headDim, warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x & 31);
  const int head = static_cast<int>(blockIdx.y), firstColumn = static_cast<int>(blockIdx.x) * COLUMNS;
  const int64_t row = blockIdx.z, pair = row * args.nHeads + head;
  const float* const scores = args.scores + pair * scoreStride(cache.context);
  gridWait();

  const RowPlace place = args.places[row];
  const int count = static_cast<int>(place.position) + 1, nTiles = ceilDiv(count, POSITIONS);
  const int64_t base = headStart(cache, head / (args.nHeads / cache.nKvHeads)) + firstColumn;
  const int maker = static_cast<int>(threadIdx.x) - (THREADS - MAKERS);
  const auto positionsOf = [&](int t) { return least(POSITIONS, count - t * POSITIONS); };
  const auto send = [&](int t) {
    if (t < nTiles) {
      sendTile<HALF>(tiles + t % TILES * TILE_BYTES, place.values, base + static_cast<int64_t>(t) * POSITIONS * d, positionsOf(t),
                     d - firstColumn, d, maker);
    }
    copyCommit();
  };
  float max = -infinity();
  float pending[POSITIONS / MAKERS]; /* scores under way */
  const auto readScores = [&](int t) {
#pragma unroll
    for (int u = 0; u < POSITIONS / MAKERS; u++) pending[u] = scores[least(t * POSITIONS + u * MAKERS + maker, count - 1)];
  };
  const auto makeTerms = [&](int t) {
    float* const to = terms + (t & 1) * POSITIONS;
#pragma unroll
    for (int u = 0; u < POSITIONS / MAKERS; u++) to[u * MAKERS + maker] = expF32(pending[u] - max); /* those behind `count` for nobody */
  };
  if (maker >= 0) {
    readScores(0);
    send(0);
    send(1);
    const float* const maxima = args.scores + maximaAt(args) + pair * splits;
    for (int s = lane; s < splits; s += 32) max = greatest(max, maxima[s]);
    max = warpMax(max);
    makeTerms(0);
  }

  float sum = 0.0f;
  double sumOfTerms = 0.0;
  for (int t = 0; t < nTiles; t++) {
    if (maker >= 0) copyWait<1>();
    __syncthreads(); /* tile t and its terms are there; those before them have been read */
    const float* const termsOfTile = terms + (t & 1) * POSITIONS;
    const int positions = positionsOf(t);
    if (warp == 0) {
      sum = addTile<HALF>(sum, tiles + t % TILES * TILE_BYTES, termsOfTile, positions, lane);
    } else if (warp == 1) {
      if (lane < 8) {
#pragma unroll 8
        for (int i = lane; i < positions; i += 8) sumOfTerms += static_cast<double>(termsOfTile[i]);
      }
    } else {
      if (t + 1 < nTiles) readScores(t + 1);
      send(t + 2);
      if (t + 1 < nTiles) makeTerms(t + 1);
    }
  }
  if (warp == 1) {
    sumOfTerms += __shfl_xor_sync(FULL_WARP, sumOfTerms, 4);
    sumOfTerms += __shfl_xor_sync(FULL_WARP, sumOfTerms, 2);
    sumOfTerms += __shfl_xor_sync(FULL_WARP, sumOfTerms, 1);
    if (lane == 0) *total = static_cast<float>(sumOfTerms);
  }
  __syncthreads();
  if (warp == 0 && firstColumn + lane < d) args.out[pair * d + firstColumn + lane] = sum / *total;
}

/* Heads whose scores a block makes together. */
int headsTogether(const AttentionArgs& args) { return args.nHeads == args.cache.nKvHeads ? 1 : 4; }
int blocksPerKvHead(const AttentionArgs& args) { return ceilDiv(args.nHeads / args.cache.nKvHeads, headsTogether(args)); }

int splitsOf(const AttentionArgs& args, int sms) {
  const int blocks = args.n * args.cache.nKvHeads * blocksPerKvHead(args);
  return greatest(1, least(MAX_SPLITS, SCORE_BLOCKS * sms / blocks));
}

template <int HEADS>
cudaError_t startScores(const Stream& on, const AttentionArgs& args, int splits) {
  const int blocks = blocksPerKvHead(args), d = args.cache.headDim;
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(args.cache.nKvHeads * blocks), static_cast<unsigned>(args.n));
  auto kernel = args.cache.halfKeys ? attentionScoresKernel<HEADS, true, 0> : attentionScoresKernel<HEADS, false, 0>;
  if (args.cache.halfKeys && d == 64) kernel = attentionScoresKernel<HEADS, true, 64>;
  if (args.cache.halfKeys && d == 128) kernel = attentionScoresKernel<HEADS, true, 128>;
  return launch(on, kernel, grid, THREADS, static_cast<size_t>(HEADS) * (paddedDim(d) + WARPS) * sizeof(float), args, blocks);
}

}  // namespace

bool isFar(int64_t position, int64_t heads, int sms) { return position >= FAR_POSITION && heads <= sms; }

bool maySplit(const AttentionArgs& args, int sms) {
  return isFar(args.cache.context - 1, static_cast<int64_t>(args.n) * args.nHeads, sms) && !isTiled(args);
}

cudaError_t runAttentionSplit(const Stream& on, const AttentionArgs& args) {
  const int splits = splitsOf(args, on.sms);
  const cudaError_t e = headsTogether(args) == 1 ? startScores<1>(on, args, splits) : startScores<4>(on, args, splits);
  if (e != cudaSuccess) return e;
  const dim3 grid(static_cast<unsigned>(ceilDiv(args.cache.headDim, COLUMNS)), static_cast<unsigned>(args.nHeads), static_cast<unsigned>(args.n));
  const bool half = args.cache.halfValues;
  const size_t shared = static_cast<size_t>(TILES) * TILE_BYTES + (2 * tilePositions(half) + 1) * sizeof(float);
  return launch(on, half ? attentionValuesKernel<true> : attentionValuesKernel<false>, grid, THREADS, shared, args, splits);
}

size_t attentionSplitScratch(const AttentionArgs& args, int sms) {
  return static_cast<size_t>(maximaAt(args)) + static_cast<size_t>(args.n) * args.nHeads * splitsOf(args, sms);
}

}  // namespace bn
