/* Q8_0, Q6_K and AFFINE from the form of files to that of dense_layout.h, and rows of a table. */
#include "dense_layout.h"
#include "kernels.h"

namespace bn {
namespace {

/* The code of a column as files have it (src/tensors/q8_0.ts, affine.ts, q6_k.ts), without its offset. Bytes only: blocks are not aligned. */
__device__ __forceinline__ unsigned fileCode(int dtype, const uint8_t* row, int column) {
  if (dtype == BN_Q8_0) return row[static_cast<int64_t>(column / 32) * 34 + 2 + column % 32] ^ 0x80u;
  if (dtype == BN_AFFINE) return row[static_cast<int64_t>(column / 32) * 40 + 8 + column % 32];
  const uint8_t* block = row + static_cast<int64_t>(column / 256) * 210;
  const int h = column / 128 % 2, g = column / 32 % 4, i = column % 32;
  const unsigned low = block[64 * h + 32 * (g & 1) + i] >> 4 * (g >> 1) & 15u;
  const unsigned high = block[128 + 32 * h + i] >> 2 * g & 3u;
  return low | high << 4;
}

/* The byte `at` of the unit that begins with column `first`. */
__device__ unsigned unitByte(int dtype, const uint8_t* row, int columns, int first, int at) {
  const auto code = [&](int column) { return first + column < columns ? fileCode(dtype, row, first + column) : 0u; };
  if (dtype == BN_Q6_K) {
    const uint8_t* block = row + static_cast<int64_t>(first / 256) * 210;
    if (at >= Q6_D + 2) return 0;
    if (at >= Q6_SCALES) return block[at]; /* scales and d lie there in files as well */
    unsigned byte = 0;
    if (at < Q6_HIGH) {
      const int column = at / 32 * 64 + at / 4 % 4 * 16 + at / 16 % 2 * 8 + at % 4;
      for (int e = 0; e < 8; e += 4) byte |= (code(column + e) & 15u) << lowShift(column + e);
    } else {
      const int b = at - Q6_HIGH;
      const int column = b / 16 * 64 + b / 4 % 2 * 32 + b / 8 % 2 * 8 + b % 4;
      for (int s = 0; s < 32; s += 16) {
        for (int e = 0; e < 8; e += 4) byte |= (code(column + s + e) >> 4) << highShift(column + s + e);
      }
    }
    return byte;
  }
  if (at < UNIT) return code(at / 32 * 32 + at / 8 % 2 * 16 + at / 16 % 2 * 8 + at % 8);
  const int bytes = dtype == BN_Q8_0 ? 2 : 8, blockBytes = dtype == BN_Q8_0 ? 34 : 40;
  const int group = first / 32 + (at - UNIT) / bytes;
  return group * 32 < columns ? row[static_cast<int64_t>(group) * blockBytes + (at - UNIT) % bytes] : 0u;
}

__global__ void __launch_bounds__(256) packKernel(PackArgs args) {
  gridWait();
  const uint8_t* from = args.from + blockIdx.x * fileRowBytes(args.dtype, args.columns);
  uint8_t* to = args.to + (args.firstRow + static_cast<int64_t>(blockIdx.x)) * denseRowBytes(args.dtype, args.columns);
  const int bytes = static_cast<int>(denseRowBytes(args.dtype, args.columns)), unit = unitBytes(args.dtype);
  for (int i = static_cast<int>(threadIdx.x); i < bytes; i += 256) {
    to[i] = static_cast<uint8_t>(unitByte(args.dtype, from, args.columns, i / unit * UNIT, i % unit));
  }
}

__global__ void __launch_bounds__(256) embedKernel(EmbedArgs args) {
  gridWait();
  const int id = args.ids[blockIdx.x];
  const bool known = id >= 0 && id < args.rows;
  const uint8_t* row = args.table + (known ? id : 0) * denseRowBytes(args.dtype, args.columns);
  float* out = args.out + static_cast<int64_t>(blockIdx.x) * args.columns;
  for (int i = static_cast<int>(threadIdx.x); i < args.columns; i += 256) {
    out[i] = known ? denseValue(args.dtype, row, i) : quietNaN();
  }
}

}  // namespace

cudaError_t runPack(const Stream& on, const PackArgs& args) {
  return launch(on, packKernel, dim3(static_cast<unsigned>(args.count)), 256, 0, args);
}

cudaError_t runEmbed(const Stream& on, const EmbedArgs& args) {
  return launch(on, embedKernel, dim3(static_cast<unsigned>(args.n)), 256, 0, args);
}

}  // namespace bn
