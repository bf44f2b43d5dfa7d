/**
 * The test that a build of the kernels must pass before it computes anything for anybody: every op on small awkward
 * inputs, compared bit for bit with what the plain TypeScript kernels give.
 *
 * Only a digest of their answers is kept here. Computing the answers at every start would take 40 ms and this file would
 * have to import another backend; `test/backend/self-test.test.ts` runs the same programs on the `ts` backend and holds
 * the digests to its bits. What exactly differs is told by `bitnet inspect --kernels`, which runs the whole conformance
 * suite.
 *
 * A program goes all the ways there are through its kernels (vector widths and their rests, storage types, numbers of
 * tokens) with inputs on which runtimes may differ: i16 sums at the edge of overflow, NaN, infinities, -0, subnormal and
 * huge numbers.
 * @module
 */

import { dtypeByName, type TernaryDTypeName } from '../../tensors/dtype.ts';
import { loadPacked, type ReadTensor } from '../../tensors/load.ts';
import { loadRequantized } from '../../tensors/requantize.ts';
import type { Backend, Buf, DenseType, QuantizedBuf, RopeStyle, Weight, WeightShape } from '../interface.ts';

/** One kernel's part of the test. */
interface Check {
  /** An op of `Backend`; `kvAppend` is tested with `attention`. */
  readonly op: string;
  /** Of everything the program reads back, as the `ts` backend computes it. */
  readonly digest: number;
  readonly program: (kit: Kit) => Promise<void>;
}

/** What a program works with: input from a fixed sequence of bits, and a digest of the results. */
class Kit {
  readonly backend: Backend;
  digest = 1;
  #state = 1;

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** 32 bits of a linear congruential sequence (Numerical Recipes). The low ones repeat soon: use the high ones. */
  bits(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    return this.#state;
  }

  /** Ordinary numbers, multiples of 2^-18 below 8 in magnitude; or with others between them. */
  numbers(length: number, kind: Kind = 'plain'): Float32Array {
    const data = new Float32Array(length);
    const special = SPECIAL[kind];
    for (let i = 0; i < length; i++) {
      const bits = this.bits();
      const choice = bits >>> 26;
      data[i] = choice < special.length ? special[choice] : (bits >> 10) / 2 ** 18;
    }
    return data;
  }

  /** A buffer of them. */
  floats(rows: number, columns: number, kind: Kind = 'plain'): Buf {
    const buf = this.backend.alloc('f32', [rows, columns]);
    this.backend.write(buf, this.numbers(rows * columns, kind));
    return buf;
  }

  bytes(length: number): Uint8Array {
    const data = new Uint8Array(length);
    for (let i = 0; i < length; i++) data[i] = this.bits() >>> 20;
    return data;
  }

  upload(
    source: { kind: 'ternary' } | { kind: 'dense'; dtype: DenseType },
    rows: number,
    columns: number,
    bytes: Uint8Array,
  ): Promise<Weight> {
    const fill = async (target: Uint8Array) => {
      target.set(bytes);
      return 0.1875;
    };
    return this.backend.upload({ ...source, name: 'self-test', rows, columns, byteLength: bytes.length, fill });
  }

  async take(buf: Buf): Promise<void> {
    const [rows, columns = 1] = buf.shape;
    this.#add(new Uint32Array((await this.backend.read(buf, rows * columns)).buffer));
  }

  /** The k greatest of each row; the others count as minus infinity, left out or not. */
  async takeTop(buf: Buf, k: number): Promise<void> {
    const [rows, columns = 1] = buf.shape;
    const all = await this.backend.read(buf, rows * columns);
    for (let at = 0; at < all.length; at += columns) {
      const row = all.slice(at, at + columns);
      const least = row.slice().sort()[columns - k];
      this.#add(new Uint32Array(row.map((x) => (x < least ? -Infinity : x)).buffer));
    }
  }

  async takeQuantized(q: QuantizedBuf): Promise<void> {
    const { codes, scales } = await this.backend.readQuantized(q, q.rows);
    this.#add(new Uint8Array(codes.buffer));
    this.#add(new Uint32Array(scales.buffer));
  }

  /** Any one changed bit changes the digest. NaNs count as equal, since WebAssembly does not fix their payloads. */
  #add(words: Uint32Array | Uint8Array): void {
    let digest = this.digest;
    for (const word of words) {
      digest = Math.imul(digest ^ ((word & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : word), 0x9e3779b1);
      digest ^= digest >>> 15;
    }
    this.digest = digest;
  }
}

type Kind = 'plain' | 'small' | 'awkward';

/** What one value in 64 is, each. */
const SPECIAL: Record<Kind, readonly number[]> = {
  plain: [],
  small: [-0, 2 ** -149, -(2 ** -127), 2 ** -30],
  awkward: [-0, 2 ** -149, -(2 ** -127), 2 ** 60, Number.NaN, Infinity, -Infinity],
};

/** Bytes of `rows` rows in which no weight is NaN or infinite: the upper half of the exponents is left out. */
function denseBytes(kit: Kit, dtype: DenseType, rows: number, columns: number): Uint8Array {
  const [blockBytes, exponentAt] = DENSE[dtype];
  const elements = dtype === 'Q8_0' ? 32 : dtype === 'Q6_K' ? 256 : 1;
  const bytes = kit.bytes(((rows * columns) / elements) * blockBytes);
  for (let at = exponentAt; at < bytes.length; at += blockBytes) bytes[at] &= 0xbf;
  return bytes;
}

/** Bytes of a block, and which of them holds the sign and the upper bits of an exponent. */
const DENSE: Record<DenseType, readonly [number, number]> = {
  F32: [4, 3],
  F16: [2, 1],
  BF16: [2, 1],
  Q8_0: [34, 1],
  Q6_K: [210, 209],
};

async function dense(kit: Kit, dtype: DenseType, n: number, columns: number, kind: Kind): Promise<void> {
  const rows = 3;
  const weight = await kit.upload({ kind: 'dense', dtype }, rows, columns, denseBytes(kit, dtype, rows, columns));
  const out = kit.backend.alloc('f32', [n, rows]);
  kit.backend.denseMatmul(out, weight, kit.floats(n, columns, kind), n);
  await kit.take(out);
}

async function rotate(kit: Kit, style: RopeStyle): Promise<void> {
  const x = kit.floats(2, 30, 'awkward');
  kit.backend.rope(x, kit.floats(2, 10), 3, 10, style, 2);
  await kit.take(x);
}

async function attend(kit: Kit, type: 'f16' | 'f32', nHeads: number, headDim: number, values: Kind): Promise<void> {
  const { backend } = kit;
  const [before, rows] = [9, 2];
  const shape = { nLayers: 1, nHeads, nKvHeads: 1, headDim, contextSize: before + rows, kType: type, vType: type };
  const kv = backend.allocKv(shape);
  const [k, v] = [kit.floats(before + rows, headDim, 'small'), kit.floats(before + rows, headDim, values)];
  const q = kit.floats(rows, nHeads * headDim, 'small');
  const out = backend.alloc('f32', [rows, nHeads * headDim]);
  backend.kvAppend({ kv, row: 0, count: before + rows, position: 0 }, 0, k, v);
  backend.attention(out, q, { kv, row: 0, count: rows, position: before }, 0, 0.125);
  await kit.take(out);
}

async function elementwise(kit: Kit, op: 'gatedRelu2' | 'gatedSilu' | 'gatedGelu' | 'add'): Promise<void> {
  const out = kit.backend.alloc('f32', [1, 91]);
  kit.backend[op](out, kit.floats(1, 91, 'awkward'), kit.floats(1, 91, 'awkward'), 1);
  await kit.take(out);
}

/**
 * A matrix offered as it lies in a file, and the same by `fill`: a backend that makes its own form of the first must come to the
 * second. Then its products with one token.
 */
async function offer(
  kit: Kit,
  shape: WeightShape,
  encoded: DenseType | TernaryDTypeName,
  bytes: Uint8Array,
  fill: Fill,
) {
  const { backend } = kit;
  const read = async (target: Uint8Array, offsetBytes: number) =>
    target.set(bytes.subarray(offsetBytes, offsetBytes + target.length));
  const weight = await backend.upload({
    ...shape,
    fill: (target) => fill(read, target),
    encoded: { dtype: encoded, read, factor: 1 },
  });
  const { rows, columns } = shape;
  const [x, out] = [kit.floats(1, columns), backend.alloc('f32', [1, rows])];
  const q = backend.allocQuantized(1, columns);
  backend.quantizeRows(q, x, 1);
  if (shape.kind === 'ternary') backend.ternaryMatmul(out, weight, q, 1);
  else backend.denseMatmul(out, weight, x, 1);
  await kit.take(out);
}

type Fill = (read: ReadTensor, target: Uint8Array) => Promise<number>;

async function offerAll(kit: Kit): Promise<void> {
  const [rows, columns] = [3, 256];
  const ternary = { kind: 'ternary', name: 'self-test', rows, columns, byteLength: (rows * columns) / 4 } as const;
  // Repacked: blocks of 66 bytes, the last two a scale of 0.25.
  const blocks = kit.bytes(rows * 66);
  for (let i = 0; i < blocks.length; i++) blocks[i] &= ~((blocks[i] << 1) & 0xaa);
  for (let at = 64; at < blocks.length; at += 66) blocks.set([0x00, 0x34], at);
  await offer(kit, ternary, 'TQ2_0', blocks, (read, target) =>
    loadPacked({ where: 'self-test', dtype: 'TQ2_0', rows, columns }, read, target),
  );
  // Made smaller.
  const halves = denseBytes(kit, 'F16', rows, columns);
  const dense = { kind: 'dense', dtype: 'Q8_0', name: 'self-test', rows, columns, byteLength: rows * 272 } as const;
  await offer(kit, dense, 'F16', halves, async (read, target) => {
    const matrix = { where: 'self-test', dtype: dtypeByName('F16'), elements: rows * columns, to: 'Q8_0' } as const;
    await loadRequantized(matrix, read, target);
    return 1;
  });
  // Checked in place: codes of 3 leave the matrix to `fill`. Last, so that no op before finds its answer already given.
  const codes = kit.bytes((rows * columns) / 4 + 32).fill(0xff, 5, 6);
  await offer(kit, ternary, 'I2_S', codes, async (_, target) => {
    target.fill(0x92);
    return 0.5;
  });
}

/** Order is that of the command list's opcodes. */
export const CHECKS: readonly Check[] = [
  {
    op: 'embed',
    digest: 3580774405,
    async program(kit) {
      const table = await kit.upload({ kind: 'dense', dtype: 'F16' }, 3, 19, denseBytes(kit, 'F16', 3, 19));
      const ids = kit.backend.alloc('i32', [2]);
      kit.backend.write(ids, Int32Array.of(2, 1));
      const out = kit.backend.alloc('f32', [2, 19]);
      kit.backend.embed(out, table, ids, 2);
      await kit.take(out);
    },
  },
  {
    op: 'rmsNorm',
    digest: 458664360,
    async program(kit) {
      for (const kind of ['small', 'awkward'] as const) {
        const out = kit.backend.alloc('f32', [2, 29]);
        kit.backend.rmsNorm(out, kit.floats(2, 29, kind), kit.floats(1, 29), 1e-5, 2);
        await kit.take(out);
      }
    },
  },
  {
    op: 'quantizeRows',
    digest: 3507842718,
    async program(kit) {
      const x = kit.floats(3, 37, 'small');
      kit.backend.write(
        x,
        Float32Array.from({ length: 37 }, (_, i) => (i === 0 ? 127 : i - 17.5)), // a row of ties
      );
      const q = kit.backend.allocQuantized(3, 37);
      kit.backend.quantizeRows(q, x, 3);
      await kit.takeQuantized(q);
      kit.backend.quantizeRows(q, kit.floats(3, 37, 'awkward'), 3);
      await kit.takeQuantized(q);
    },
  },
  {
    op: 'ternaryMatmul',
    digest: 1193159084,
    async program(kit) {
      // 1152 columns are more than an i16 lane can sum. Row 0 is all +1, row 1 all -1; token 0 is all 127.
      const [rows, columns] = [6, 1152];
      const packed = kit.bytes((rows * columns) / 4);
      for (let i = 0; i < packed.length; i++) packed[i] &= ~((packed[i] << 1) & 0xaa); // code 3 becomes code 1
      packed.fill(0xaa, 0, columns / 4).fill(0x00, columns / 4, columns / 2);
      const weight = await kit.upload({ kind: 'ternary' }, rows, columns, packed);
      // Each token is the one before, moved by eight columns: to make them all anew would take as long as all the rest.
      const [tokens, noise] = [new Float32Array(9 * columns), kit.numbers(columns + 64)];
      for (let token = 0; token < 9; token++) {
        tokens.set(noise.subarray(8 * token, 8 * token + columns), token * columns);
      }
      const x = kit.backend.alloc('f32', [9, columns]);
      kit.backend.write(x, tokens.fill(0.75, 0, columns));
      const q = kit.backend.allocQuantized(9, columns);
      kit.backend.quantizeRows(q, x, 9);
      // One token, a few, and enough for the kernel with tables, which a second matrix then shares.
      const second = await kit.upload({ kind: 'ternary' }, 3, columns, packed.slice((3 * columns) / 4));
      for (const n of [1, 3, 9]) {
        const [out, beside] = [kit.backend.alloc('f32', [n, rows]), kit.backend.alloc('f32', [n, 3])];
        kit.backend.ternaryMatmul(out, weight, q, n);
        kit.backend.ternaryMatmul(beside, second, q, n);
        await kit.take(out);
        await kit.take(beside);
      }
    },
  },
  {
    op: 'denseMatmul',
    digest: 421142972,
    async program(kit) {
      await dense(kit, 'F32', 1, 23, 'awkward');
      await dense(kit, 'F16', 1, 48, 'small'); // the way without decoding
      await dense(kit, 'F16', 1, 48, 'awkward'); // not open to these activations
      await dense(kit, 'F16', 2, 31, 'small');
      await dense(kit, 'BF16', 1, 29, 'small');
      await dense(kit, 'Q8_0', 1, 32, 'small');
      await dense(kit, 'Q6_K', 1, 256, 'small');
    },
  },
  {
    op: 'denseTopK',
    digest: 783709518,
    async program(kit) {
      // From 1024 rows on products are estimated first. So many are wanted that estimates alone would choose wrongly, and
      // `out` begins with what nobody would keep.
      for (const [dtype, columns] of [
        ['Q6_K', 256],
        ['Q8_0', 64],
        ['F16', 32],
      ] as const) {
        const bytes = denseBytes(kit, dtype, 1024, columns);
        // One scale for all, or few products would be near each other.
        if (dtype === 'Q6_K') for (let at = 208; at < bytes.length; at += 210) bytes.set([0, 0x1c], at);
        const weight = await kit.upload({ kind: 'dense', dtype }, 1024, columns, bytes);
        const out = kit.backend.alloc('f32', [4, 1024]);
        kit.backend.write(out, new Float32Array(4 * 1024).fill(-1e30));
        kit.backend.denseTopK(out, weight, kit.floats(4, columns, 'small'), 300, 4);
        await kit.takeTop(out, 300);
      }
    },
  },
  {
    op: 'rope',
    digest: 4042574008,
    async program(kit) {
      await rotate(kit, 'neox');
      await rotate(kit, 'norm');
    },
  },
  {
    op: 'attention',
    digest: 1289529980,
    async program(kit) {
      await attend(kit, 'f16', 5, 32, 'small'); // four heads together and one alone
      await attend(kit, 'f32', 5, 18, 'small');
      await attend(kit, 'f16', 2, 18, 'awkward');
    },
  },
  { op: 'gatedRelu2', digest: 2285704285, program: (kit) => elementwise(kit, 'gatedRelu2') },
  { op: 'gatedSilu', digest: 1795785651, program: (kit) => elementwise(kit, 'gatedSilu') },
  { op: 'add', digest: 2673341590, program: (kit) => elementwise(kit, 'add') },
  {
    op: 'copyRows',
    digest: 1830278689,
    async program(kit) {
      const out = kit.floats(3, 19);
      kit.backend.copyRows(out, 1, kit.floats(3, 19), 0, 2);
      await kit.take(out);
    },
  },
  {
    op: 'rmsNormQuantize',
    digest: 3567766717,
    async program(kit) {
      for (const kind of ['plain', 'small', 'awkward'] as const) {
        const q = kit.backend.allocQuantized(2, 37);
        kit.backend.rmsNormQuantize(q, kit.floats(2, 37, kind), kit.floats(1, 37), 1e-5, 2);
        await kit.takeQuantized(q);
      }
    },
  },
  { op: 'gatedGelu', digest: 920023018, program: (kit) => elementwise(kit, 'gatedGelu') },
  {
    op: 'scale',
    digest: 4264511010,
    async program(kit) {
      const out = kit.backend.alloc('f32', [1, 91]);
      kit.backend.scale(out, kit.floats(1, 91, 'awkward'), 0.1, 1);
      await kit.take(out);
    },
  },
  { op: 'upload', digest: 418939494, program: offerAll },
];

/** The digest of one check on a backend. */
export async function digestOf(check: Check, backend: Backend): Promise<number> {
  const kit = new Kit(backend);
  await check.program(kit);
  return kit.digest >>> 0;
}

/** Runs the test; resolves to what went wrong, undefined when nothing did. */
export async function selfTest(backend: Backend): Promise<string | undefined> {
  for (const check of CHECKS) {
    try {
      const digest = await digestOf(check, backend);
      if (digest !== check.digest) return `${check.op} does not compute what it should`;
    } catch (error) {
      return `${check.op}: ${error instanceof Error ? error.message : String(error)}`;
    }
  }
  return undefined;
}
