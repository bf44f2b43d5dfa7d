/* Rotary embedding in place, and storing keys and values: a block to a row, all of it in one launch. */
#include "cache.cuh"

namespace bn {
namespace {

constexpr int THREADS = 256;

__global__ void __launch_bounds__(THREADS) ropeKernel(RopeArgs args) {
  const int thread = static_cast<int>(threadIdx.x), d = args.headDim, half = d / 2;
  const int64_t row = blockIdx.x;
  gridWait();
  RowPlace place = {};
  if (args.places != nullptr) place = args.places[row];
  const CacheShape& cache = args.cache;
  const auto at = [&](int head, int i) { return headStart(cache, head) + place.position * cache.headDim + i; };

  const float* angles = args.angles == nullptr ? nullptr : args.angles + row * d;
  const int nQ = args.q == nullptr ? 0 : args.nHeads * half, nK = args.k == nullptr ? 0 : args.nKvHeads * half;
  for (int i = thread; i < nQ + nK; i += THREADS) {
    const bool isKey = i >= nQ;
    const int pair = isKey ? i - nQ : i, head = pair / half, j = pair % half;
    float* x = isKey ? args.k + row * args.nKvHeads * d : args.q + row * args.nHeads * d;
    x += head * d;
    const int first = args.neox ? j : 2 * j, second = args.neox ? j + half : 2 * j + 1;
    const float cosine = angles[j], sine = angles[half + j], a = x[first], b = x[second];
    const float newA = a * cosine - b * sine, newB = a * sine + b * cosine;
    x[first] = newA;
    x[second] = newB;
    if (isKey && args.storeK != nullptr) {
      storeCached(place.keys, cache.halfKeys, at(head, first), newA);
      storeCached(place.keys, cache.halfKeys, at(head, second), newB);
    }
  }
  const int width = cache.nKvHeads * cache.headDim;
  if (args.storeK != nullptr && nK == 0) {
    for (int i = thread; i < width; i += THREADS) {
      storeCached(place.keys, cache.halfKeys, at(i / cache.headDim, i % cache.headDim), args.storeK[row * width + i]);
    }
  }
  if (args.storeV != nullptr) {
    for (int i = thread; i < width; i += THREADS) {
      storeCached(place.values, cache.halfValues, at(i / cache.headDim, i % cache.headDim), args.storeV[row * width + i]);
    }
  }
}

}  // namespace

cudaError_t runRope(const Stream& on, const RopeArgs& args) {
  return launch(on, ropeKernel, dim3(static_cast<unsigned>(args.n)), THREADS, 0, args);
}

}  // namespace bn
