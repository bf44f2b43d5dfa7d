/*
 * How dense matrices lie in device memory. F32, F16 and BF16: rows as files have them. The others: rows of units of 256 columns (the
 * last one may be partly unused), each a multiple of 16 bytes, so that rows can be copied 16 bytes at a time.
 *
 *     Q8_0     codes 256 | d f16 x 8                                        272 bytes for 256 values (272 in files)
 *     AFFINE   codes 256 | (a, b) f32 x 8                                   320 bytes (320)
 *     Q6_K     low 4 bits 128 | high 2 bits 64 | sc i8 x 16 | d f16 | 14 0  224 bytes (210)
 *
 * dot16 (kernels/interface.ts) gives each column i to sum i mod 16. Two threads share a row: thread p has the sums 8p .. 8p + 7. In
 * steps of 16 columns it needs columns 8p .. 8p + 7 of each, and the codes are arranged so that 16 bytes are those of one thread. With
 * step s = column / 16, lane e = column % 8, p = column / 8 % 2 (column within its unit):
 *
 *     codes    byte (s/2) * 32 + p * 16 + (s%2) * 8 + e       Q8_0: code + 128; AFFINE: code
 *     low      byte (s/4) * 32 + p * 16 + (s%4) * 4 + e%4     bits 3:0 for e < 4, 7:4 for e >= 4
 *     high     byte (s/4) * 16 + p * 8 + (s%4)/2 * 4 + e%4    bits 1:0 for s even, e < 4; 3:2 s even, e >= 4; 5:4 s odd, e < 4; 7:6
 *
 * Example, Q6_K: column 37 has s = 2, p = 0, e = 5: low bits in bits 7:4 of byte 9, high bits in bits 3:2 of byte 128 + 5.
 */
#ifndef BITNET_CUDA_DENSE_LAYOUT_H
#define BITNET_CUDA_DENSE_LAYOUT_H

#include "abi.h"
#include "numbers.cuh"

namespace bn {

constexpr int UNIT = 256;
constexpr int MAX_COLUMNS = 1 << 24;
constexpr int Q6_HIGH = 128, Q6_SCALES = 192, Q6_D = 208;

/* Bytes of a unit in device memory. */
__host__ __device__ constexpr int unitBytes(int dtype) {
  return dtype == BN_F32 ? 1024 : dtype == BN_Q8_0 ? 272 : dtype == BN_AFFINE ? 320 : dtype == BN_Q6_K ? 224 : 512;
}

__host__ __device__ constexpr bool isPacked(int dtype) { return dtype >= BN_Q8_0; }

/* Columns of a row have to be a multiple of this. */
__host__ __device__ constexpr int blockColumns(int dtype) { return dtype == BN_Q6_K ? 256 : isPacked(dtype) ? 32 : 1; }

__host__ __device__ constexpr int64_t denseRowBytes(int dtype, int columns) {
  return isPacked(dtype) ? static_cast<int64_t>((columns + UNIT - 1) / UNIT) * unitBytes(dtype)
                         : static_cast<int64_t>(columns) * (dtype == BN_F32 ? 4 : 2);
}

/* Bytes of a row in a file. */
__host__ __device__ constexpr int64_t fileRowBytes(int dtype, int columns) {
  return dtype == BN_Q8_0   ? static_cast<int64_t>(columns) / 32 * 34
         : dtype == BN_AFFINE ? static_cast<int64_t>(columns) / 32 * 40
         : dtype == BN_Q6_K   ? static_cast<int64_t>(columns) / 256 * 210
                              : denseRowBytes(dtype, columns);
}

/* Where a code lies in its unit. */
__host__ __device__ constexpr int codeAt(int column) {
  return column / 32 * 32 + column / 8 % 2 * 16 + column / 16 % 2 * 8 + column % 8;
}
__host__ __device__ constexpr int lowAt(int column) {
  return column / 64 * 32 + column / 8 % 2 * 16 + column / 16 % 4 * 4 + column % 4;
}
__host__ __device__ constexpr int lowShift(int column) { return column / 4 % 2 * 4; }
__host__ __device__ constexpr int highAt(int column) {
  return Q6_HIGH + column / 64 * 16 + column / 8 % 2 * 8 + column / 32 % 2 * 4 + column % 4;
}
__host__ __device__ constexpr int highShift(int column) { return column / 16 % 2 * 4 + column / 4 % 2 * 2; }

__device__ __forceinline__ unsigned load16(const uint8_t* at) { return *reinterpret_cast<const uint16_t*>(at); }
__device__ __forceinline__ float loadFloat(const uint8_t* at) { return *reinterpret_cast<const float*>(at); }

/* Bytes 0..3 of a word, each plus `bias`, as floats: put into the fraction of 2^23 and taken off again, which is exact. */
__device__ __forceinline__ void bytesToFloats(unsigned word, float bias, float* out) {
  const float base = 8388608.0f - bias;
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = __uint_as_float(0x4b000000u | (word >> 8 * i & 0xffu)) - base;
}

/* One value of a row; for embeddings and odd shapes, where speed is not the point. */
__device__ __forceinline__ float denseValue(int dtype, const uint8_t* row, int column) {
  if (dtype == BN_F32) return loadFloat(row + static_cast<int64_t>(column) * 4);
  if (dtype == BN_F16) return halfToFloat(load16(row + static_cast<int64_t>(column) * 2));
  if (dtype == BN_BF16) return __uint_as_float(load16(row + static_cast<int64_t>(column) * 2) << 16);
  const uint8_t* unit = row + static_cast<int64_t>(column / UNIT) * unitBytes(dtype);
  const int c = column % UNIT;
  if (dtype == BN_Q8_0) {
    return halfToFloat(load16(unit + 256 + c / 32 * 2)) * static_cast<float>(static_cast<int>(unit[codeAt(c)]) - 128);
  }
  if (dtype == BN_AFFINE) {
    const uint8_t* ab = unit + 256 + c / 32 * 8;
    return loadFloat(ab) * static_cast<float>(unit[codeAt(c)]) - loadFloat(ab + 4);
  }
  const int low = unit[lowAt(c)] >> lowShift(c) & 15, high = unit[highAt(c)] >> highShift(c) & 3;
  const int scale = static_cast<int8_t>(unit[Q6_SCALES + c / 16]);
  return halfToFloat(load16(unit + Q6_D)) * static_cast<float>(scale * ((low | high << 4) - 32));
}

}  // namespace bn

#endif
