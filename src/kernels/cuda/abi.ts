/**
 * The border of the native library as `native/abi.h` and `commands.md` define it: numbers and prototypes.
 * `test/cuda/abi.test.ts` holds both against the header.
 * @module
 */

import type { DenseType } from '../interface.ts';

/** Raised with any change of the header or of a command's words. */
export const ABI_VERSION = 1;

/** What every function returns. */
export const Code = {
  OK: 0,
  ARGUMENT: 1,
  DRIVER: 2,
  DEVICE: 3,
  MEMORY: 4,
  CUDA: 5,
  SELF_TEST: 6,
} as const;

/** Opcodes. */
export const Op = {
  EMBED: 1,
  RMS_NORM: 2,
  QUANTIZE_ROWS: 3,
  TERNARY_MATMUL: 4,
  DENSE_MATMUL: 5,
  ROPE: 6,
  KV_APPEND: 7,
  ATTENTION: 8,
  GATED_RELU2: 9,
  GATED_SILU: 10,
  ADD: 11,
  COPY: 12,
  RMS_NORM_QUANTIZE: 16,
  GATED_GELU: 17,
  SCALE: 18,
  TOP_K: 19,
  DENSE_INDEX: 20,
  DENSE_TOP_K: 21,
} as const;
export type Op = (typeof Op)[keyof typeof Op];

/** Types of dense weights. */
export const DENSE_CODE: Record<DenseType, number> = { F32: 0, F16: 1, BF16: 2, Q8_0: 3, Q6_K: 4, AFFINE: 5 };

/** Types that lie in device memory as files have them; the others are rearranged there. */
export const AS_IN_FILES: readonly DenseType[] = ['F32', 'F16', 'BF16'];

/** `bn_info` never needs more. */
export const INFO_BYTES = 1024;

/** Prototypes by name; `_Out_` marks what comes back through an array of one. */
export const PROTOTYPES = {
  bn_abi_version: 'int32_t bn_abi_version(void)',
  bn_message: 'const char* bn_message(void* context)',
  bn_open: 'int32_t bn_open(int32_t device, _Out_ void** context)',
  bn_close: 'int32_t bn_close(void* context)',
  bn_info: 'int32_t bn_info(void* context, void* json, int32_t bytes)',
  bn_alloc: 'int32_t bn_alloc(void* context, uint64_t bytes, _Out_ int32_t* handle)',
  bn_free: 'int32_t bn_free(void* context, int32_t handle)',
  bn_write: 'int32_t bn_write(void* context, int32_t handle, uint64_t offset, const void* data, uint64_t bytes)',
  bn_read: 'int32_t bn_read(void* context, int32_t handle, uint64_t offset, void* data, uint64_t bytes)',
  bn_dense_bytes: 'int32_t bn_dense_bytes(int32_t dtype, int32_t rows, int32_t columns, _Out_ uint64_t* bytes)',
  bn_pack_dense:
    'int32_t bn_pack_dense(void* context, int32_t dtype, int32_t from, int32_t to, int32_t rows, int32_t columns, int32_t firstRow, int32_t count)',
  bn_run: 'int32_t bn_run(void* context, const int32_t* words, int32_t count)',
} as const;
export type FunctionName = keyof typeof PROTOTYPES;
