/**
 * Which build of the kernels runs here. A runtime may refuse an instruction, or accept it and compute something else
 * (Node 20 does so with one of the relaxed dot products), so a build is taken only after it has compiled and has given
 * the right integers on the most awkward inputs.
 * @module
 */

import { Op } from './commands.ts';
import type { VariantName } from './host.ts';
import { LIST_ADDRESS, LIST_COUNT, MAX_PAGES, SCRATCH_BASE, word, writeConstants } from './layout.ts';
import * as modules from './module.generated.ts';

/** A build that passed, with its module compiled. */
export interface Variant {
  readonly name: VariantName;
  readonly threaded: boolean;
  readonly bytes: Uint8Array;
  readonly module: WebAssembly.Module;
}

/** Why a build was not taken. */
export interface Refusal {
  readonly name: VariantName;
  readonly reason: string;
}

const SOURCES: Record<VariantName, { readonly plain: string; readonly threaded: string }> = {
  dot: { plain: modules.DOT, threaded: modules.DOT_THREADS },
  relaxed: { plain: modules.RELAXED, threaded: modules.RELAXED_THREADS },
  simd: { plain: modules.SIMD, threaded: modules.SIMD_THREADS },
};

/** Tries the builds in order of speed; returns the first that works, and why others were refused. */
export function chooseVariant(
  threaded: boolean,
  allowed: readonly VariantName[] = ['dot', 'relaxed', 'simd'],
): { readonly variant: Variant | undefined; readonly refusals: readonly Refusal[] } {
  const refusals: Refusal[] = [];
  for (const name of allowed) {
    const bytes = fromBase64(threaded ? SOURCES[name].threaded : SOURCES[name].plain);
    try {
      const module = new WebAssembly.Module(bytes);
      const fault = selfTest(module, threaded);
      if (fault === undefined) return { variant: { name, threaded, bytes, module }, refusals };
      refusals.push({ name, reason: `self-test failed: ${fault}` });
    } catch (error) {
      refusals.push({ name, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return { variant: undefined, refusals };
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/**
 * A ternary product of 5 rows and 1152 columns with the extreme codes -128 and 127, the case in which i16 lanes come closest
 * to overflow: for one token, for three (unpack and multiply) and for eight (lookup tables). Returns undefined, or what
 * went wrong.
 */
function selfTest(module: WebAssembly.Module, threaded: boolean): string | undefined {
  const memory = new WebAssembly.Memory({ initial: 10, ...(threaded ? { maximum: MAX_PAGES, shared: true } : {}) });
  const instance = new WebAssembly.Instance(module, { env: { memory } });
  const execute = instance.exports.execute as (thread: number, nThreads: number) => number;
  const bytes = new Uint8Array(memory.buffer);
  const words = new Int32Array(memory.buffer);
  const floats = new Float32Array(memory.buffer);
  const rows = 5;
  const columns = 1152;
  const rowBytes = (columns / 128) * 32;
  const [list, meta, out, packed, codes, scratch] = [4096, 4608, 5120, 8192, 16384, 65536];
  const code = (i: number) => (i < 1024 ? -128 : 127);
  writeConstants(memory);
  for (let row = 0; row < rows; row++) {
    bytes.fill([0xaa, 0x00, 0x92, 0x55, 0x26][row], packed + row * rowBytes, packed + (row + 1) * rowBytes);
  }
  let codeSum = 0;
  for (let i = 0; i < columns; i++) codeSum += code(i);
  for (let token = 0; token < 8; token++) {
    for (let i = 0; i < columns; i++) bytes[codes + token * columns + i] = code(i) & 255;
    floats[word(meta) + 2 * token] = 1;
    words[word(meta) + 2 * token + 1] = codeSum;
  }
  words[word(LIST_ADDRESS)] = list;
  words[word(LIST_COUNT)] = 1;
  words[word(SCRATCH_BASE)] = scratch;
  for (const n of [1, 3, 8]) {
    words.set([Op.TERNARY_MATMUL, 0, out, packed, rowBytes, 0, rows, codes, columns, meta, n], word(list));
    floats[word(list) + 5] = 1; // the weight's scale
    execute(0, 1);
    for (let i = 0; i < n * rows; i++) {
      const row = i % rows;
      let expected = 0;
      for (let column = 0; column < columns; column++) {
        const byte = bytes[packed + row * rowBytes + Math.floor(column / 128) * 32 + (column % 32)];
        expected += (((byte >> (6 - 2 * (Math.floor(column / 32) % 4))) & 3) - 1) * code(column);
      }
      const got = floats[word(out) + i];
      if (got !== expected) return `${n} tokens, row ${row}: expected ${expected}, got ${got}`;
    }
  }
  return undefined;
}
