/**
 * The module without SIMD: the same commands as `assembly/index.ts`, for runtimes that have no vectors (Safari before
 * 16.4, processors without SSE 4.1). Its kernels are the definitions of `src/kernels/ts` written again in AssemblyScript, with one idea
 * of its own where it counts (`ternary.ts`). A new opcode is one more case here.
 */

import { attend, kvStore } from './attention';
import { decodeRow, denseMatmul } from './dense';
import { add, gatedGelu, gatedRelu2, gatedSilu, quantizeRow, rmsNormRow, ropeRow, scale } from './rows';
import { ternaryMatmul } from './ternary';
import {
  address,
  arg,
  OP_ADD,
  OP_ARRANGE_Q6_K,
  OP_ATTENTION,
  OP_CHECK_WEIGHTS,
  OP_COPY,
  OP_DENSE_MATMUL,
  OP_EMBED,
  OP_GATED_GELU,
  OP_GATED_RELU2,
  OP_GATED_SILU,
  OP_HEAD_EXACT,
  OP_HEAD_INDEX,
  OP_HEAD_SCORE,
  OP_KV_APPEND,
  OP_QUANTIZE_ROWS,
  OP_REPACK,
  OP_REQUANTIZE,
  OP_RMS_NORM,
  OP_RMS_NORM_QUANTIZE,
  OP_ROPE,
  OP_SCALE,
  OP_TERNARY_MATMUL,
  real,
} from '../commands';
import { COMMAND_BYTES, FAILED, FLAG_BARRIER, LIST_ADDRESS, LIST_COUNT, SCRATCH_BASE, SCRATCH_STRIDE } from '../layout';
import { barrier, beat, share } from '../sync';

// Exported so that they stay functions of their own: see `assembly/index.ts`.
export { attend, exponentials, kvStore, scores, weightedSum } from './attention';
export { decodeRow, denseMatmul } from './dense';
export { add, gatedGelu, gatedRelu2, gatedSilu, quantizeRow, rmsNormRow, ropeRow, scale } from './rows';
export { dot16 } from './sums';
export { addTables, buildTables, ternaryMatmul } from './ternary';

/** Runs the current list as thread `thread` of `nThreads`. Returns 0, or 1 when a thread failed. */
export function execute(thread: i32, nThreads: i32): i32 {
  const list = load<usize>(LIST_ADDRESS);
  const count = load<i32>(LIST_COUNT);
  const scratch = load<usize>(SCRATCH_BASE) + <usize>thread * load<usize>(SCRATCH_STRIDE);
  for (let i = 0; i < count; i++) {
    const c = list + <usize>i * COMMAND_BYTES;
    if (load<i32>(c, 4) & FLAG_BARRIER) {
      if (!barrier(thread, nThreads)) return 1;
    }
    beat(thread);
    run(c, thread, nThreads, scratch);
  }
  return barrier(thread, nThreads) ? 0 : 1;
}

/** Arguments of each command: see the comments in `assembly/index.ts`. */
function run(c: usize, thread: i32, nThreads: i32, scratch: usize): void {
  const op = load<i32>(c);
  // The number of things to share out, and how many must stay together.
  let count: i32;
  let unit = 1;
  if (op == OP_EMBED) count = arg(c, 6);
  else if (op == OP_TERNARY_MATMUL || op == OP_DENSE_MATMUL || op == OP_HEAD_EXACT) {
    count = arg(c, 4); // rows of the matrix
    unit = 16;
  } else if (op == OP_RMS_NORM_QUANTIZE) count = arg(c, 7);
  else if (op == OP_KV_APPEND) count = arg(c, 10);
  else if (op == OP_ATTENTION) count = arg(c, 11) * arg(c, 6); // a unit is one row and one head
  else if (op == OP_GATED_RELU2 || op == OP_GATED_SILU || op == OP_GATED_GELU || op == OP_SCALE || op == OP_ADD) {
    count = arg(c, 3);
    unit = 16;
  } else if (op == OP_COPY) {
    count = arg(c, 2);
    unit = 64;
  } else count = arg(c, 5);
  const first = share(count, unit, thread, nThreads);
  const last = share(count, unit, thread + 1, nThreads);

  switch (op) {
    case OP_EMBED: {
      const columns = <usize>arg(c, 4);
      for (let i = first; i < last; i++) {
        const id = load<i32>(address(c, 5) + (<usize>i << 2));
        const row = address(c, 2) + <usize>id * address(c, 3);
        decodeRow(arg(c, 1), address(c, 0) + ((<usize>i * columns) << 2), row, <i32>columns);
      }
      return;
    }
    case OP_RMS_NORM: {
      const rowBytes = <usize>arg(c, 4) << 2;
      for (let i = first; i < last; i++) {
        const at = <usize>i * rowBytes;
        rmsNormRow(address(c, 0) + at, address(c, 1) + at, address(c, 2), real(c, 3), arg(c, 4), scratch);
      }
      return;
    }
    case OP_QUANTIZE_ROWS: {
      for (let i = first; i < last; i++) {
        const x = address(c, 2) + ((<usize>i * <usize>arg(c, 3)) << 2);
        quantizeRow(address(c, 0) + <usize>i * <usize>arg(c, 4), address(c, 1) + (<usize>i << 3), x, arg(c, 3));
      }
      return;
    }
    case OP_RMS_NORM_QUANTIZE: {
      const columns = arg(c, 5);
      for (let i = first; i < last; i++) {
        // The sums of the squares lie where the row will: they are folded before it is written.
        const x = address(c, 2) + ((<usize>i * <usize>columns) << 2);
        rmsNormRow(scratch, x, address(c, 3), real(c, 4), columns, scratch);
        quantizeRow(address(c, 0) + <usize>i * <usize>arg(c, 6), address(c, 1) + (<usize>i << 3), scratch, columns);
      }
      return;
    }
    case OP_TERNARY_MATMUL: {
      for (let token: usize = 0; token < <usize>arg(c, 8); token++) {
        beat(thread);
        const out = address(c, 0) + ((token * <usize>arg(c, 4)) << 2);
        const codes = address(c, 5) + token * <usize>arg(c, 6);
        const meta = address(c, 7) + (token << 3);
        ternaryMatmul(out, address(c, 1), address(c, 2), real(c, 3), codes, meta, first, last, scratch);
      }
      return;
    }
    case OP_DENSE_MATMUL: {
      const rows = arg(c, 4);
      for (let row = first; row < last; row++) {
        beat(thread);
        const weight = address(c, 2) + <usize>row * address(c, 3);
        denseMatmul(address(c, 0) + (<usize>row << 2), rows, arg(c, 1), weight, address(c, 5), arg(c, 6), arg(c, 7), scratch);
      }
      return;
    }
    case OP_CHECK_WEIGHTS:
    case OP_REPACK:
    case OP_REQUANTIZE:
      // "Not in order": the owner then loads the matrix by TypeScript, which is as fast as code without vectors.
      store<i32>(address(c, 0) + (<usize>thread << 6), 1);
      return;
    case OP_ARRANGE_Q6_K: // blocks stay as in the file
    case OP_HEAD_INDEX:
    case OP_HEAD_SCORE:
      // Estimates would cost what the products do: every row is computed.
      return;
    case OP_HEAD_EXACT: {
      for (let row = first; row < last; row++) {
        beat(thread);
        const weight = address(c, 2) + <usize>row * address(c, 3);
        denseMatmul(address(c, 0) + (<usize>row << 2), arg(c, 4), arg(c, 1), weight, address(c, 5), arg(c, 6), 1, scratch);
      }
      return;
    }
    case OP_ROPE: {
      const rowBytes = <usize>(arg(c, 2) * arg(c, 3)) << 2;
      for (let i = first; i < last; i++) {
        const angles = address(c, 1) + ((<usize>i * <usize>arg(c, 3)) << 2);
        ropeRow(address(c, 0) + <usize>i * rowBytes, angles, arg(c, 2), arg(c, 3), arg(c, 4));
      }
      return;
    }
    case OP_KV_APPEND: {
      const rowBytes = (<usize>arg(c, 6) * <usize>arg(c, 7)) << 2;
      for (let i = first; i < last; i++) {
        const from = <usize>(arg(c, 9) + i) * rowBytes;
        const position = arg(c, 11) + i;
        kvStore(address(c, 2), arg(c, 3), address(c, 0) + from, arg(c, 6), arg(c, 7), arg(c, 8), position);
        kvStore(address(c, 4), arg(c, 5), address(c, 1) + from, arg(c, 6), arg(c, 7), arg(c, 8), position);
      }
      return;
    }
    case OP_ATTENTION: {
      const nHeads = arg(c, 6);
      const headDim = <usize>arg(c, 8);
      for (let i = first; i < last; i++) {
        beat(thread);
        const row = i / nHeads;
        const head = i - row * nHeads;
        const at = (<usize>((arg(c, 10) + row) * nHeads + head) * headDim) << 2;
        const block = <usize>(head / (nHeads / arg(c, 7))) * <usize>arg(c, 9) * headDim;
        attend(
          address(c, 0) + at,
          address(c, 1) + at,
          address(c, 2) + (block << (arg(c, 3) ? 1 : 2)),
          arg(c, 3),
          address(c, 4) + (block << (arg(c, 5) ? 1 : 2)),
          arg(c, 5),
          <i32>headDim,
          arg(c, 12) + row + 1,
          real(c, 13),
          scratch,
        );
      }
      return;
    }
    case OP_GATED_RELU2:
      return gatedRelu2(address(c, 0), address(c, 1), address(c, 2), first, last);
    case OP_GATED_SILU:
      return gatedSilu(address(c, 0), address(c, 1), address(c, 2), first, last);
    case OP_GATED_GELU:
      return gatedGelu(address(c, 0), address(c, 1), address(c, 2), first, last);
    case OP_SCALE:
      return scale(address(c, 0), address(c, 1), real(c, 2), first, last);
    case OP_ADD:
      return add(address(c, 0), address(c, 1), address(c, 2), first, last);
    case OP_COPY:
      memory.copy(address(c, 0) + <usize>first, address(c, 1) + <usize>first, <usize>(last - first));
      return;
    default:
      // An unknown opcode is a bug of the owner: everybody leaves.
      if (ASC_FEATURE_THREADS) atomic.store<i32>(FAILED, 1);
      else store<i32>(FAILED, 1);
  }
}
