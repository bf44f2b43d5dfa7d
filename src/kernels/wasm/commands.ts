/**
 * The command list: how an op becomes 64 bytes in shared memory (read by `assembly/index.ts`), and where the threads
 * have to meet.
 *
 * A barrier stands before a command only where it needs one: it reads or overwrites what another command wrote since
 * the last barrier, or overwrites what one read. So the three projections of q, k and v run without meeting in between;
 * and since they have the same input and stand next to each other, the threads take them as one (`sharers` in
 * `assembly/index.ts`).
 * @module
 */

import { COMMAND_BYTES, FLAG_BARRIER, word } from './layout.ts';

/** Opcodes of `assembly/index.ts`. */
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
  HEAD_INDEX: 13,
  HEAD_SCORE: 14,
  HEAD_EXACT: 15,
  RMS_NORM_QUANTIZE: 16,
  GATED_GELU: 17,
  SCALE: 18,
  CHECK_WEIGHTS: 40,
  REPACK: 41,
  REQUANTIZE: 42,
  ARRANGE_Q6_K: 43,
} as const;
export type Op = (typeof Op)[keyof typeof Op];

/** Commands of one list; a longer program is run in pieces. 1024 commands are 64 KiB, some 50 layers. */
export const MAX_COMMANDS = 1024;

/** Rows first..end-1 of a buffer. */
export type Rows = readonly [first: number, end: number];

/** What was written to a buffer since the last barrier: which rows, if the op said so. */
interface Written {
  readonly op: Op;
  readonly rows: Rows[] | undefined;
}

export class CommandList {
  readonly address: number;
  readonly #memory: WebAssembly.Memory;
  readonly #written = new Map<number, Written>();
  readonly #read = new Set<number>();
  #count = 0;
  #words: Int32Array;
  #floats: Float32Array;

  constructor(memory: WebAssembly.Memory, address: number) {
    this.#memory = memory;
    this.address = address;
    this.#words = new Int32Array(memory.buffer);
    this.#floats = new Float32Array(memory.buffer);
  }

  get count(): number {
    return this.#count;
  }

  /**
   * `reads` and `writes` are the addresses of the buffers involved; `args` follow the order in `assembly/index.ts`, those
   * at `f32Args` are floats. `rows`: an op that writes only these rows says so; several of its kind in a row, one for each
   * sequence of a batch, then need not meet in between.
   */
  push(
    op: Op,
    writes: readonly number[],
    reads: readonly number[],
    args: readonly number[],
    f32Args: readonly number[],
    rows?: Rows,
  ): void {
    if (this.#words.buffer !== this.#memory.buffer) {
      this.#words = new Int32Array(this.#memory.buffer);
      this.#floats = new Float32Array(this.#memory.buffer);
    }
    const meets = this.#conflicts(op, writes, reads, rows);
    if (meets) {
      this.#written.clear();
      this.#read.clear();
    }
    for (const address of writes) {
      const before = this.#written.get(address);
      if (before?.rows !== undefined && rows !== undefined) before.rows.push(rows);
      else this.#written.set(address, { op, rows: rows === undefined ? undefined : [rows] });
    }
    for (const address of reads) this.#read.add(address);
    const at = word(this.address + this.#count * COMMAND_BYTES);
    this.#words[at] = op;
    this.#words[at + 1] = meets ? FLAG_BARRIER : 0;
    for (let i = 0; i < args.length; i++) this.#words[at + 2 + i] = args[i];
    for (const i of f32Args) this.#floats[at + 2 + i] = args[i];
    this.#count++;
  }

  /** Forgets the commands: they were run, and a list ends with a barrier. */
  clear(): void {
    this.#count = 0;
    this.#written.clear();
    this.#read.clear();
  }

  #conflicts(op: Op, writes: readonly number[], reads: readonly number[], rows: Rows | undefined): boolean {
    for (const address of reads) if (this.#written.has(address)) return true;
    for (const address of writes) {
      if (this.#read.has(address)) return true;
      const before = this.#written.get(address);
      if (before === undefined) continue;
      if (before.op !== op || before.rows === undefined || rows === undefined) return true;
      if (before.rows.some(([first, end]) => rows[0] < end && first < rows[1])) return true;
    }
    return false;
  }
}
