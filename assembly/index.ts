/**
 * The module: `execute` runs a list of commands as one of several threads.
 *
 * The owner (`src/kernels/wasm/`) calls the ops of a backend; each call writes one 64-byte command into shared memory.
 * Then every thread, the owner included, runs the whole list in lockstep: it does its share of the rows of each
 * command and meets the others at a barrier where a command needs what an earlier one wrote. So a token costs one
 * call, nothing is posted per op, and workers know nothing about models.
 *
 * The form of a command is told in commands.ts; a test runs every opcode against the TypeScript kernels.
 */

import { add, gatedGelu, gatedRelu2, gatedSilu, scale } from './activation';
import { attendGroup, BLOCK_HEADER, kvStore } from './attention';
import { attendRows, canAttendRows, ROWS } from './attention-rows';
import { denseMatmul, embed } from './dense';
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
} from './commands';
import { exactRows, indexRows, scoreRows, thresholdOf } from './head';
import { COMMAND_BYTES, FAILED, FLAG_BARRIER, LIST_ADDRESS, LIST_COUNT, SCRATCH_BASE, SCRATCH_STRIDE } from './layout';
import { rmsNorm, rmsNormQuantize } from './norm';
import { arrangeBlocks } from './q6_k';
import { quantizeRows } from './quantize';
import { checkWeights, repack, requantize } from './repack';
import { rope } from './rope';
import { barrier, beat, share } from './sync';
import { ternaryFew } from './ternary-few';
import { LOOKUP_TOKENS, MAX_SHARERS, shareTables, ternaryLookup } from './ternary-lookup';
import { HAS_DOT_ADD, ternaryMatmul, ternaryMatvec } from './ternary-matmul';

// The inner loops are exported, though nobody calls them from outside: the optimiser melts a function with one caller
// into it, and all of them together into one giant, in which V8 allocates registers badly and which it compiles late.
// Measured on Node 26: matrix x vector 46 -> 51 GMAC/s, the f16 head 3.8 -> 4.4.
export { add, gatedGelu, gatedRelu2, gatedSilu, scale } from './activation';
export { attendGroup, exponentials, kvStore, weightedSum } from './attention';
export { addValues, addValues4, attendRows, dotPair, placeF16, scoreKeys } from './attention-rows';
export { decodeBf16, decodeF16, decodeQ8_0, denseMatmul, dotF16, embed, rebias } from './dense';
export { exactRows, indexRows, replaceLeast, roundTo8, scorePlane4, scoreQ8_0, scoreRows } from './head';
export { arrangeBlocks, decodeQ6_K, scoreQ6_K } from './q6_k';
export { normalizeRow, rmsNorm, rmsNormQuantize, sumOfSquares } from './norm';
export { absmax, quantizeRow, quantizeRows } from './quantize';
export { encodeQ6, encodeQ8, hasCode3, hasExponent16, hasExponent32, recutI2S, repackTQ1, repackTQ2 } from './repack';
export { rope, rotateHalves, rotateNeighbours } from './rope';
export { dot16 } from './sums';
export { addPass8, addPass16, addPass32, buildTable, buildTable8, finishBlock, transpose8, widen } from './ternary-lookup';
export { dots2x4 } from './ternary-few';
export { dot4, matvec1, matvec2, matvec4, unpackRow } from './ternary-matmul';

/** Bytes of a thread's scratch before attention's weights: what attention-rows.ts keeps there. */
const ATTENTION_HEAD_ROOM: usize = 106496;

/** Runs the current list as thread `thread` of `nThreads`. Returns 0, or 1 when a thread failed. */
export function execute(thread: i32, nThreads: i32): i32 {
  const list = load<usize>(LIST_ADDRESS);
  const count = load<i32>(LIST_COUNT);
  const scratch = load<usize>(SCRATCH_BASE) + <usize>thread * load<usize>(SCRATCH_STRIDE);
  let i = 0;
  while (i < count) {
    const c = list + <usize>i * COMMAND_BYTES;
    if (load<i32>(c, 4) & FLAG_BARRIER) {
      if (!barrier(thread, nThreads)) return 1;
    }
    beat(thread);
    const together = sharers(c, count - i);
    run(c, together, thread, nThreads, scratch);
    i += together;
  }
  return barrier(thread, nThreads) ? 0 : 1;
}

/**
 * How many of the `left` commands from `c` on are run as one: products of ternary matrices with the same rows of codes, with
 * nothing to wait for in between, share the tables that they look up.
 */
function sharers(c: usize, left: i32): i32 {
  if (load<i32>(c) != OP_TERNARY_MATMUL || arg(c, 8) < LOOKUP_TOKENS) return 1;
  const most = min(left, MAX_SHARERS);
  let n = 1;
  for (; n < most; n++) {
    const other = c + <usize>n * COMMAND_BYTES;
    if (load<i32>(other) != OP_TERNARY_MATMUL || (load<i32>(other, 4) & FLAG_BARRIER) != 0) break;
    if (arg(other, 5) != arg(c, 5) || arg(other, 8) != arg(c, 8)) break;
  }
  return n;
}

/** Runs the command at `c`, which stands for `together` of them. */
function run(c: usize, together: i32, thread: i32, nThreads: i32, scratch: usize): void {
  switch (load<i32>(c)) {
    case OP_EMBED: {
      // out, type, table, rowBytes, columns, ids, n
      const n = arg(c, 6);
      const first = share(n, 1, thread, nThreads);
      const last = share(n, 1, thread + 1, nThreads);
      embed(address(c, 0), arg(c, 1), address(c, 2), address(c, 3), arg(c, 4), address(c, 5), first, last);
      return;
    }
    case OP_RMS_NORM: {
      // out, x, gain, eps, columns, n
      const n = arg(c, 5);
      const first = share(n, 1, thread, nThreads);
      const last = share(n, 1, thread + 1, nThreads);
      rmsNorm(address(c, 0), address(c, 1), address(c, 2), real(c, 3), arg(c, 4), first, last);
      return;
    }
    case OP_QUANTIZE_ROWS: {
      // codes, meta, x, columns, stride, n
      const n = arg(c, 5);
      const first = share(n, 1, thread, nThreads);
      const last = share(n, 1, thread + 1, nThreads);
      quantizeRows(address(c, 0), address(c, 1), address(c, 2), arg(c, 3), arg(c, 4), first, last);
      return;
    }
    case OP_RMS_NORM_QUANTIZE: {
      // codes, meta, x, gain, eps, columns, stride, n
      const n = arg(c, 7);
      rmsNormQuantize(
        address(c, 0),
        address(c, 1),
        address(c, 2),
        address(c, 3),
        real(c, 4),
        arg(c, 5),
        arg(c, 6),
        share(n, 1, thread, nThreads),
        share(n, 1, thread + 1, nThreads),
        scratch,
      );
      return;
    }
    case OP_TERNARY_MATMUL: {
      // out, packed, rowBytes, weightScale, rows, codes, stride, meta, n: `together` such commands, the same from codes on
      const n = arg(c, 8);
      let done = 0;
      if (n >= LOOKUP_TOKENS) {
        for (let i = 0; i < together; i++) {
          const one = c + <usize>i * COMMAND_BYTES;
          const first = share(arg(one, 4), 4, thread, nThreads);
          const count = share(arg(one, 4), 4, thread + 1, nThreads) - first;
          const packed = address(one, 1) + <usize>first * address(one, 2);
          shareTables(scratch, i, packed, count, address(one, 0) + (<usize>first << 2), arg(one, 4), real(one, 3));
        }
        done = ternaryLookup(together, address(c, 2), address(c, 5), arg(c, 6), address(c, 7), n, thread, scratch);
      }
      for (let i = 0; i < together && done < n; i++) {
        const one = c + <usize>i * COMMAND_BYTES;
        const rows = arg(one, 4);
        const first = share(rows, 4, thread, nThreads);
        const last = share(rows, 4, thread + 1, nThreads);
        const out = address(one, 0) + ((<usize>done * <usize>rows) << 2);
        const codes = address(one, 5) + <usize>done * address(one, 6);
        const meta = address(one, 7) + (<usize>done << 3);
        const w = address(one, 1);
        const rowBytes = address(one, 2);
        const left = n - done;
        if (left == 1) ternaryMatvec(out, w, rowBytes, real(one, 3), codes, meta, first, last);
        else if (HAS_DOT_ADD) {
          ternaryFew(out, rows, w, rowBytes, real(one, 3), codes, arg(one, 6), meta, left, first, last, scratch);
        } else ternaryMatmul(out, rows, w, rowBytes, real(one, 3), codes, arg(one, 6), meta, left, first, last, scratch);
      }
      return;
    }
    case OP_DENSE_MATMUL: {
      // out, type, weight, rowBytes, rows, x, columns, n
      const rows = arg(c, 4);
      denseMatmul(
        address(c, 0),
        rows,
        arg(c, 1),
        address(c, 2),
        address(c, 3),
        address(c, 5),
        arg(c, 6),
        arg(c, 7),
        share(rows, 16, thread, nThreads),
        share(rows, 16, thread + 1, nThreads),
        scratch,
      );
      return;
    }
    case OP_ROPE: {
      // x, angles, nHeads, headDim, neox, n
      const n = arg(c, 5);
      const first = share(n, 1, thread, nThreads);
      const last = share(n, 1, thread + 1, nThreads);
      rope(address(c, 0), address(c, 1), arg(c, 2), arg(c, 3), arg(c, 4), first, last);
      return;
    }
    case OP_KV_APPEND: {
      // k, v, keyBlock, kF16, valueBlock, vF16, nKvHeads, headDim, contextSize, row, count, position
      const rowBytes = (<usize>arg(c, 6) * <usize>arg(c, 7)) << 2;
      const count = arg(c, 10);
      const last = share(count, 1, thread + 1, nThreads);
      for (let i = share(count, 1, thread, nThreads); i < last; i++) {
        const from = <usize>(arg(c, 9) + i) * rowBytes;
        const position = arg(c, 11) + i;
        kvStore(address(c, 2), arg(c, 3), address(c, 0) + from, arg(c, 6), arg(c, 7), arg(c, 8), position);
        kvStore(address(c, 4), arg(c, 5), address(c, 1) + from, arg(c, 6), arg(c, 7), arg(c, 8), position);
      }
      return;
    }
    case OP_ATTENTION: {
      // out, q, keyBlock, kF16, valueBlock, vF16, nHeads, nKvHeads, headDim, contextSize, row, count, position, scale
      // A unit of work is a few rows and the query heads of one key/value head.
      const nHeads = arg(c, 6);
      const nKvHeads = arg(c, 7);
      const headDim = arg(c, 8);
      const group = nHeads / nKvHeads;
      const rowBytes = <usize>(nHeads * headDim) << 2;
      const headBytes = <usize>headDim << 2;
      const weights = scratch + ATTENTION_HEAD_ROOM;
      const stride = <usize>arg(c, 9) << 2;
      const keysFit = arg(c, 3) != 0 && load<i32>(address(c, 2) - BLOCK_HEADER) == 0;
      const valuesFit = arg(c, 5) != 0 && load<i32>(address(c, 4) - BLOCK_HEADER) == 0;
      const fits = keysFit && valuesFit && canAttendRows(ROWS, group, headDim);
      const count = arg(c, 11);
      const units = ((count + ROWS - 1) / ROWS) * nKvHeads;
      const last = share(units, 1, thread + 1, nThreads);
      for (let unit = share(units, 1, thread, nThreads); unit < last; unit++) {
        beat(thread);
        const first = (unit / nKvHeads) * ROWS;
        const rows = min(ROWS, count - first);
        const kvHead = unit % nKvHeads;
        const block = <usize>kvHead * <usize>arg(c, 9) * <usize>headDim;
        const keys = address(c, 2) + (block << (arg(c, 3) ? 1 : 2));
        const values = address(c, 4) + (block << (arg(c, 5) ? 1 : 2));
        const at = <usize>(arg(c, 10) + first) * rowBytes + <usize>(kvHead * group) * headBytes;
        const out = address(c, 0) + at;
        const q = address(c, 1) + at;
        const seen = arg(c, 12) + first + 1;
        const scale = real(c, 13);
        if (fits && attendRows(out, q, rowBytes, rows, group, keys, values, headDim, seen, scale, scratch, weights, stride)) continue;
        for (let i = 0; i < rows; i++) {
          const skip = <usize>i * rowBytes;
          attendGroup(
            out + skip,
            q + skip,
            group,
            keys,
            arg(c, 3),
            values,
            arg(c, 5),
            headDim,
            seen + i,
            scale,
            scratch,
            weights,
            stride,
          );
        }
      }
      return;
    }
    case OP_GATED_RELU2: {
      // out, gate, up, length
      const length = arg(c, 3);
      const first = share(length, 16, thread, nThreads);
      gatedRelu2(address(c, 0), address(c, 1), address(c, 2), first, share(length, 16, thread + 1, nThreads));
      return;
    }
    case OP_GATED_SILU: {
      const length = arg(c, 3);
      const first = share(length, 16, thread, nThreads);
      gatedSilu(address(c, 0), address(c, 1), address(c, 2), first, share(length, 16, thread + 1, nThreads));
      return;
    }
    case OP_GATED_GELU: {
      const length = arg(c, 3);
      const first = share(length, 16, thread, nThreads);
      gatedGelu(address(c, 0), address(c, 1), address(c, 2), first, share(length, 16, thread + 1, nThreads));
      return;
    }
    case OP_SCALE: {
      // out, x, factor, length
      const length = arg(c, 3);
      const first = share(length, 16, thread, nThreads);
      scale(address(c, 0), address(c, 1), real(c, 2), first, share(length, 16, thread + 1, nThreads));
      return;
    }
    case OP_ADD: {
      const length = arg(c, 3);
      const first = share(length, 16, thread, nThreads);
      add(address(c, 0), address(c, 1), address(c, 2), first, share(length, 16, thread + 1, nThreads));
      return;
    }
    case OP_COPY: {
      // out, from, bytes
      const bytes = arg(c, 2);
      const first = share(bytes, 64, thread, nThreads);
      memory.copy(address(c, 0) + <usize>first, address(c, 1) + <usize>first, <usize>(share(bytes, 64, thread + 1, nThreads) - first));
      return;
    }
    case OP_HEAD_INDEX: {
      // index, type, weight, rowBytes, rows, columns
      const rows = arg(c, 4);
      const first = share(rows, 16, thread, nThreads);
      const last = share(rows, 16, thread + 1, nThreads);
      indexRows(address(c, 0), arg(c, 1), address(c, 2), address(c, 3), rows, arg(c, 5), first, last, scratch);
      return;
    }
    case OP_HEAD_SCORE:
    case OP_HEAD_EXACT: {
      // out, type, weight, rowBytes, rows, x, columns, index, k, thresholds: one token
      const rows = arg(c, 4);
      const first = share(rows, 16, thread, nThreads);
      const last = share(rows, 16, thread + 1, nThreads);
      if (load<i32>(c) == OP_HEAD_SCORE) {
        scoreRows(
          address(c, 0),
          arg(c, 1),
          address(c, 2),
          address(c, 3),
          rows,
          address(c, 5),
          arg(c, 6),
          address(c, 7),
          arg(c, 8),
          thresholdOf(address(c, 9), thread),
          first,
          last,
          scratch,
        );
      } else {
        exactRows(
          address(c, 0),
          arg(c, 1),
          address(c, 2),
          address(c, 3),
          rows,
          address(c, 5),
          arg(c, 6),
          address(c, 7),
          address(c, 9),
          nThreads,
          first,
          last,
          scratch,
        );
      }
      return;
    }
    case OP_CHECK_WEIGHTS:
      // answers, type, from, bytes
      return checkWeights(address(c, 0), arg(c, 1), address(c, 2), arg(c, 3), thread, nThreads);
    case OP_REPACK:
      // answers, type, from, to, rows, columns, detail
      return repack(address(c, 0), arg(c, 1), address(c, 2), address(c, 3), arg(c, 4), arg(c, 5), arg(c, 6), thread, nThreads);
    case OP_REQUANTIZE:
      // answers, type, toType, from, to, values
      return requantize(address(c, 0), arg(c, 1), arg(c, 2), address(c, 3), address(c, 4), arg(c, 5), thread, nThreads, scratch);
    case OP_ARRANGE_Q6_K: {
      // blocks, count
      const count = arg(c, 1);
      const first = share(count, 1, thread, nThreads);
      return arrangeBlocks(address(c, 0), first, share(count, 1, thread + 1, nThreads), scratch);
    }
    default:
      // An unknown opcode is a bug of the owner: everybody leaves.
      if (ASC_FEATURE_THREADS) atomic.store<i32>(FAILED, 1);
      else store<i32>(FAILED, 1);
  }
}
