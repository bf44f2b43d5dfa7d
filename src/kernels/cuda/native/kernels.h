/*
 * What the kernels of this folder take: device pointers, already checked. Each function enqueues and returns the runtime's code.
 */
#ifndef BITNET_CUDA_KERNELS_H
#define BITNET_CUDA_KERNELS_H

#include "abi.h"
#include "platform.h"

namespace bn {

/* What goes with a row of codes. */
struct RowMeta {
  float scale;
  int sum;
};

/* Bytes of one row of codes; see commands.md. */
__host__ __device__ constexpr int64_t codeStride(int columns) { return (static_cast<int64_t>(columns) + 127) / 128 * 128; }

/* How a row comes into being before it is normalised or quantised. */
enum class Made { LOADED, ADDED, RELU2, SILU, GELU };

/* One pass over rows: made, kept, normalised, quantised. */
struct RowsArgs {
  Made made;
  const float* a;
  const float* b;    /* second input of `made` */
  float* kept;       /* takes what was made, or null */
  const float* gain; /* null: not normalised */
  float* normed;     /* takes the normalised row, or null */
  int8_t* codes;     /* null: not quantised */
  RowMeta* meta;
  float eps;
  int columns;
  int n;
};
cudaError_t runRows(const Stream&, const RowsArgs&);
/* Longest row, for a block lies in shared memory with it; 40000 where there is room for more. */
int maxRowColumns(size_t sharedLimit);

struct ElementArgs {
  int op; /* BN_GATED_*, BN_ADD, BN_SCALE or BN_COPY */
  float* out;
  const float* a;
  const float* b;
  float factor;
  int64_t length;
};
cudaError_t runElements(const Stream&, const ElementArgs&);

/* Matrices with the same input, taken together. */
constexpr int MAX_SHARERS = 4;
struct TernaryArgs {
  struct Matrix {
    const uint8_t* weights;
    float* out;
    float scale;
    int rows;
    int firstTile; /* of the launch's tiles of rows; filled in by the launcher */
  } matrices[MAX_SHARERS];
  int count;
  int columns;
  const int8_t* codes;
  const RowMeta* meta;
  int n;
};
cudaError_t runTernary(const Stream&, const TernaryArgs&);
cudaError_t runTernaryVector(const Stream&, TernaryArgs);
cudaError_t runTernaryMatrix(const Stream&, TernaryArgs);

struct DenseArgs {
  int dtype;
  const uint8_t* weights;
  int rows;
  int columns;
  float* out;
  const float* x;
  int n;
};
cudaError_t runDense(const Stream&, const DenseArgs&);
/* Only rows picked[1] .. picked[picked[0]] of x, in rows of out with the same numbers. Columns are a multiple of 32, and x of 16 bytes. */
cudaError_t runDensePicked(const Stream&, const DenseArgs&, const int* picked);

struct EmbedArgs {
  int dtype;
  const uint8_t* table;
  int rows;
  int columns;
  float* out;
  const int* ids;
  int n;
};
cudaError_t runEmbed(const Stream&, const EmbedArgs&);

struct PackArgs {
  int dtype;
  const uint8_t* from; /* rows firstRow .. firstRow + count as files have them */
  uint8_t* to;
  int columns;
  int firstRow;
  int count;
};
cudaError_t runPack(const Stream&, const PackArgs&);

/* Which cache and which position a row of the batch belongs to. One for each row, in device memory: what changes from step to step. */
struct RowPlace {
  unsigned char* keys;
  unsigned char* values;
  int64_t position;
};

struct CacheShape {
  int nKvHeads;
  int headDim;
  int layer;
  int context;
  bool halfKeys;
  bool halfValues;
};

/* Rope of q and of k, and storing k and v, each if it is there. Rows of `places` begin with that of the first row. */
struct RopeArgs {
  float* q;
  float* k;
  const float* angles;
  const float* storeK; /* where the cache takes its keys from: `k`, or another buffer when nothing is rotated */
  const float* storeV;
  int nHeads;
  int headDim;
  int nKvHeads;
  bool neox;
  const RowPlace* places;
  CacheShape cache;
  int n;
};
cudaError_t runRope(const Stream&, const RopeArgs&);

struct AttentionArgs {
  float* out;
  const float* q;
  int nHeads;
  CacheShape cache;
  float scale;
  const RowPlace* places;
  int n;
  bool oneSequence; /* the rows are consecutive positions of one sequence */
  bool far;         /* isFar() of the rows of the list that it is from: a part of the list's structure */
  float* scores;    /* attentionScratch() floats */
};
cudaError_t runAttention(const Stream&, const AttentionArgs&);
/* Floats of scratch that it needs; 0 where shared memory is enough. */
size_t attentionScratch(const AttentionArgs&, int sms);
/* The part of it for long pieces of one sequence. */
bool isTiled(const AttentionArgs&);
cudaError_t runAttentionTiles(const Stream&, const AttentionArgs&);
size_t attentionTilesScratch(const AttentionArgs&);
/*
 * The part of it for few rows that see much. From this position on a block to a head takes longer than two launches of many, where
 * there are no more heads of rows than multiprocessors.
 */
constexpr int FAR_POSITION = 512;
/* Blocks that share the scores of a head. */
constexpr int MAX_SPLITS = 128;
/* `position`: the greatest of the rows; `heads`: of all rows together. */
bool isFar(int64_t position, int64_t heads, int sms);
bool maySplit(const AttentionArgs&, int sms);
cudaError_t runAttentionSplit(const Stream&, const AttentionArgs&);
size_t attentionSplitScratch(const AttentionArgs&, int sms);

struct TopKArgs {
  int* out;
  const float* x;
  int columns;
  int k;
  int room;
  int n;
  unsigned* scratch; /* topKScratch(n) words */
};
cudaError_t runTopK(const Stream&, const TopKArgs&);
size_t topKScratch(int n);

/* What is kept of a row of the input of a head: the factors of |w| and of |w - w'| in the bound of head_bound.cuh. */
struct ErrorFactors {
  float ofNorm;
  float ofError;
};
/* The same of estimates, which are `x`: takes whatever can be among the k greatest; the others become minus infinity. */
cudaError_t runTopEstimates(const Stream&, const TopKArgs&, float* estimates, const float* index, const ErrorFactors* factors);

/* What DENSE_TOP_K needs of a matrix: 3 floats a row. */
struct DenseIndexArgs {
  int dtype;
  const uint8_t* weights;
  int rows;
  int columns;
  float* index;
};
cudaError_t runDenseIndex(const Stream&, const DenseIndexArgs&);
/* Estimates of all products into `out`; `halves` and `factors` take what is made of x. */
cudaError_t runHeadScores(const Stream&, const DenseArgs&, const float* index, uint16_t* halves, ErrorFactors* factors);

struct DenseTopKArgs {
  DenseArgs dense; /* `out` takes the products that can be among the greatest, minus infinity for the others */
  const float* index;
  int* top; /* as runTopK has it; where flags are set the whole row is in `out` */
  int k;
  int room;
  unsigned char* scratch; /* denseTopKScratch() bytes */
};
cudaError_t runDenseTopK(const Stream&, const DenseTopKArgs&);
size_t denseTopKScratch(const DenseTopKArgs&);

/*
 * result[0]: 0 where the device computes what the contract says, else a number that tells which rule it breaks. result[1] has to be
 * 1.0f before and is BN_WAITS after.
 */
cudaError_t runSelfTest(const Stream&, int* result);

}  // namespace bn

#endif
