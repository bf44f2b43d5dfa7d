/**
 * The kit: the same bytes always, passed by its own reader in numpy, and what that leaves out recomputed here, by definitions
 * written down a second time.
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { KitManifest, ListedVector } from '../../src/oracle/kit/types.ts';
import { readManifest as parseKitManifest } from '../../src/oracle/kit/verify.ts';
import { readManifest, readNpy, writeKit } from './kit-folder.ts';

/** Of the manifest, hence of every file. Whoever changes it changes the kit, and raises its version or `numericsVersion`. */
const DIGEST = '3cf5ddd39ada8db0f419abcd0b8100f6f71eb01d683ec4f778cdd7d29a5140e0';

const run = promisify(execFile);
let kit: string;
let manifest: KitManifest;

beforeAll(async () => {
  kit = await writeKit();
  manifest = readManifest(kit);
}, 120_000);
afterAll(() => rmSync(kit, { recursive: true, force: true }));

const npy = (path: string) => readNpy(join(kit, path)).data;
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const vectorsOf = (op: string): ListedVector[] => {
  const found = manifest.kernels.filter((vector) => vector.op === op);
  expect(found.length, op).toBeGreaterThan(0);
  return found;
};

describe('the kit', () => {
  it('is these bytes', () => {
    expect(sha256(readFileSync(join(kit, 'manifest.json')))).toBe(DIGEST);
  });

  it('lists every file with its hash, below 25 MB', () => {
    const seen = new Set<string>();
    let total = 0;
    for (const { path, bytes, sha256: expected } of manifest.files) {
      const content = readFileSync(join(kit, path));
      expect(content.length, path).toBe(bytes);
      expect(sha256(content), path).toBe(expected);
      seen.add(path);
      total += bytes;
    }
    expect(seen.size).toBe(manifest.files.length);
    expect(total).toBeLessThan(25e6);
    for (const vector of [...manifest.kernels, ...manifest.samplers]) {
      for (const path of [...Object.values(vector.inputs), ...Object.values(vector.outputs)])
        expect(seen).toContain(path);
    }
  });

  it('has every architecture, type and cache', () => {
    const architectures = new Set(manifest.models.map(({ architecture }) => architecture));
    expect([...architectures].sort()).toEqual(['bitnet', 'bitnet-25', 'bitnet-b1.58', 'gemma3', 'llama', 'qwen3']);
    const types = manifest.models
      .filter(({ name }) => name.startsWith('types/'))
      .map(({ type, i2sLayout }) => `${type} ${i2sLayout ?? ''}`.trim());
    expect(types).toEqual(['I2_S x86', 'I2_S arm64', 'I2_S rows4', 'TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F16', 'F32']);
    const digests = new Set(
      manifest.models
        .filter(({ name }) => name.startsWith('types/'))
        .map(({ logits }) => logits.map((one) => one.sha256).join()),
    );
    expect(digests.size, 'one set of trits has one set of logits').toBe(1);
    for (const { name, logits } of manifest.models) {
      expect(
        logits.map(({ kType, vType }) => `${kType} ${vType}`),
        name,
      ).toEqual(['f32 f32', 'f16 f16', 'f32 f16']);
      expect(new Set(logits.map(({ sha256: digest }) => digest)).size, `${name}: halves show`).toBe(3);
      for (const one of logits) {
        const bytes = readFileSync(join(kit, one.file));
        expect(sha256(bytes.subarray(10 + bytes.readUInt16LE(8)))).toBe(one.sha256);
      }
    }
  });

  it('gives floats a bound, unless NaN or the ends of the exponents are among the inputs', () => {
    for (const { name, op, bound, outputs } of manifest.kernels) {
      const floats = Object.values(outputs).some((path) => readNpy(join(kit, path)).descr.startsWith('<f'));
      const exact =
        /^(quantize|decode|f16To|bf16To|rng)/.test(op) || (/(special|extreme)$/.test(name) && op !== 'ternaryMatmul');
      expect(bound !== undefined, name).toBe(floats && !exact);
    }
  });
});

describe('a manifest', () => {
  const parse = (content: string) => () => parseKitManifest(new TextEncoder().encode(content));

  it('is believed in nothing', () => {
    const good = { ...manifest, files: manifest.files.slice(0, 2) };
    const [file] = good.files;
    expect(parse(JSON.stringify(good))().files).toEqual(good.files);
    const wrongPaths = [
      '../x',
      '/etc/passwd',
      'a/../../x',
      'a//b',
      './a',
      'a\\b',
      '',
      'C:x',
      'a\u0000',
      'x'.repeat(201),
    ];
    const cases: readonly (readonly [content: unknown, said: RegExp])[] = [
      [null, /expected an object, got null/],
      [{ ...good, format: 'x' }, /manifest\.json format: .*expected "bitnet-kit", got "x"/],
      [{ ...good, version: 2 }, /manifest\.json version: .*expected 1, got 2/],
      [{ ...good, numericsVersion: 'a' }, /numericsVersion: .*expected an integer/],
      [{ ...good, files: {} }, /files: .*expected a list/],
      [{ ...good, files: [null] }, /files\[0\]\.path/],
      ...wrongPaths.map(
        (path) => [{ ...good, files: [{ ...file, path }] }, /files\[0\]\.path: .*a path below the kit/] as const,
      ),
      [{ ...good, files: [file, file] }, /files\[1\]\.path: .*every path once/],
      [{ ...good, files: [{ ...file, bytes: -1 }] }, /files\[0\]\.bytes/],
      [{ ...good, files: [{ ...file, bytes: '1' }] }, /files\[0\]\.bytes/],
      [{ ...good, files: [{ ...file, sha256: 'abc' }] }, /files\[0\]\.sha256/],
      [{ ...good, files: new Array(100_001).fill(file) }, /too many files, expected at most 100000/],
    ];
    expect(parse('{')).toThrow(/manifest\.json: not the manifest of a kit, expected JSON/);
    for (const [content, said] of cases) expect(parse(JSON.stringify(content)), String(said)).toThrow(said);
  });
});

describe('what packed bytes mean', () => {
  const fields = (byte: number, shifts: readonly number[]) => shifts.map((shift) => ((byte >> shift) & 3) - 1);
  const base3 = (byte: number) => {
    // The five digits whose fraction, rounded up in 256ths, is the byte.
    for (let q = 0; q < 243; q++) {
      if (Math.ceil((q * 256) / 243) === byte) return [81, 27, 9, 3, 1].map((power) => (Math.floor(q / power) % 3) - 1);
    }
    return [2, 2, 2, 2, 2];
  };
  const pair = (nibble: number) => (nibble > 8 ? [2, 2] : [Math.floor(nibble / 3) - 1, (nibble % 3) - 1]);
  const meanings: Record<string, (byte: number) => number[]> = {
    I2_S: (byte) => fields(byte, [6, 4, 2, 0]),
    TQ2_0: (byte) => fields(byte, [0, 2, 4, 6]),
    'TQ1_0-qs': base3,
    'TQ1_0-qh': (byte) => (base3(byte)[4] === -1 ? base3(byte).slice(0, 4) : [2, 2, 2, 2]),
    TL1: (byte) => (byte >> 4 > 8 || (byte & 15) > 8 ? [2, 2, 2, 2] : [...pair(byte >> 4), ...pair(byte & 15)]),
  };

  it('is as defined, for all 256 of every type', () => {
    const vectors = vectorsOf('unpackBytes');
    expect(vectors.map(({ parameters }) => parameters.type).sort()).toEqual(Object.keys(meanings).sort());
    for (const { name, parameters, outputs } of vectors) {
      const expected = Array.from({ length: 256 }, (_, byte) => meanings[parameters.type as string](byte)).flat();
      expect(npy(outputs.trits), name).toEqual(expected);
    }
    const threes: number[] = [];
    for (const sign of [1, -1]) {
      for (let v = 0; v < 16; v++) {
        const digits = [9, 3, 1].map((power) => (Math.floor((sign * v + 13) / power) % 3) - 1);
        threes.push(...(v > 13 || (v === 0 && sign < 0) ? [2, 2, 2] : digits));
      }
    }
    expect(npy(vectorsOf('unpackThrees')[0].outputs.trits)).toEqual(threes);
  });

  it('is as defined in tiles of TL1 and TL2', () => {
    const tiled = vectorsOf('decodeTernary').filter(({ parameters }) => /^TL/.test(String(parameters.type)));
    expect(tiled.length).toBe(4);
    for (const { name, parameters, inputs, outputs } of tiled) {
      const bytes = npy(inputs.bytes);
      const p = parameters as unknown as Record<'rows' | 'columns' | 'BM' | 'BK' | 'bm', number>;
      const got = parameters.type === 'TL1' ? readTL1(bytes, p, pair) : readTL2(bytes, p, pair);
      expect(got, name).toEqual(npy(outputs.trits));
      const tail = Uint8Array.from(
        bytes.slice(parameters.type === 'TL1' ? (p.rows * p.columns) / 4 : bytes.length - 32),
      );
      expect(new DataView(tail.buffer).getFloat32(0, true), name).toBe(npy(outputs.scale)[0]);
    }
  });

  it('is as defined in the tables Q8_0, Q6_K, F16, BF16 and F32', () => {
    const half = (low: number, high: number) => {
      const [e, m] = [(high >> 2) & 31, ((high & 3) << 8) | low];
      return (high & 128 ? -1 : 1) * (e === 0 ? m * 2 ** -24 : (1024 + m) * 2 ** (e - 25));
    };
    const float = (bytes: number[]) => new DataView(Uint8Array.from(bytes).buffer).getFloat32(0, true);
    const i8 = (byte: number) => (byte << 24) >> 24;
    const blocks: Record<string, readonly [bytes: number, value: (b: number[]) => number[]]> = {
      F32: [4, (b) => [float(b)]],
      BF16: [2, (b) => [float([0, 0, ...b])]],
      F16: [2, (b) => [half(b[0], b[1])]],
      Q8_0: [34, (b) => b.slice(2).map((q) => half(b[0], b[1]) * i8(q))],
      Q6_K: [
        210,
        (b) =>
          Array.from({ length: 256 }, (_, j) => {
            const [h, g, i] = [j >> 7, (j >> 5) & 3, j & 31];
            const low = (b[64 * h + 32 * (g & 1) + i] >> (g < 2 ? 0 : 4)) & 15;
            const high = (b[128 + 32 * h + i] >> (2 * g)) & 3;
            // Integers first: 0 times a negative scale is 0, not -0.
            return half(b[208], b[209]) * Math.imul(i8(b[192 + 8 * h + 2 * g + (i >> 4)]), (low | (high << 4)) - 32);
          }),
      ],
    };
    const seen = new Set<string>();
    for (const { name, parameters, inputs, outputs } of vectorsOf('decodeFloats')) {
      const block = blocks[parameters.type as string];
      if (block === undefined) continue;
      seen.add(parameters.type as string);
      const bytes = npy(inputs.bytes);
      const values = Array.from({ length: bytes.length / block[0] }, (_, i) =>
        block[1](bytes.slice(i * block[0], (i + 1) * block[0])),
      ).flat();
      expect(values, name).toEqual(npy(outputs.values));
    }
    expect(seen.size).toBe(5);
  });
});

type Tiled = Record<'rows' | 'columns' | 'BM' | 'BK' | 'bm', number>;
type Pair = (nibble: number) => number[];

/** The place of every byte is counted out of its row and column, the other way round than the writer goes. */
function readTL1(bytes: readonly number[], { rows, columns, BM, BK, bm }: Tiled, pair: Pair): number[] {
  const by = 256 / bm;
  const out: number[] = [];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += 4) {
      const [inTile, inColumns] = [r % BM, c % BK];
      let at = Math.floor(r / BM);
      at = at * (columns / BK) + Math.floor(c / BK);
      at = at * (BM / bm) + Math.floor(inTile / bm);
      at = at * (BK / by) + Math.floor(inColumns / by);
      at = at * (bm / 16) + Math.floor((inTile % bm) / 16);
      at = at * (by / 4) + Math.floor((inColumns % by) / 4);
      const byte = bytes[at * 16 + (inTile % 16)];
      out.push(...pair(byte >> 4), ...pair(byte & 15));
    }
  }
  return out;
}

function readTL2(bytes: readonly number[], { rows, columns, BM, BK }: Tiled, pair: Pair): number[] {
  const K3 = Math.floor(columns / BK) * BK;
  const [signs, pairs] = [(rows * K3) / 6, (rows * K3) / 6 + (rows * K3) / 24];
  const places = Array.from({ length: 32 }, (_, p) => 8 * [0, 2, 1, 3][p >> 3] + (p % 8));
  const out: number[] = [];
  for (let r = 0; r < rows; r++) {
    const [tile, group, inGroup] = [Math.floor(r / BM), Math.floor((r % BM) / 32), r % 32];
    const groups = BM / 32;
    for (let c = 0; c < K3; c += 3) {
      const before = (tile * (K3 / BK) + Math.floor(c / BK)) * groups + group;
      const byte = bytes[(before * (BK / 6) + Math.floor((c % BK) / 6)) * 32 + places.indexOf(inGroup)];
      const magnitude = c % 6 === 0 ? byte >> 4 : byte & 15;
      const word = signs + 2 * ((before * (BK / 24) + Math.floor((c % BK) / 24)) * 16 + (inGroup % 16));
      const bit = 15 - 2 * (Math.floor(c / 3) % 8) - (inGroup < 16 ? 0 : 1);
      const v = ((bytes[word] | (bytes[word + 1] << 8)) >> bit) & 1 ? -magnitude : magnitude;
      out.push(...[9, 3, 1].map((power) => (Math.floor((v + 13) / power) % 3) - 1));
    }
    for (let c = K3; c < columns; c += 4) {
      const before = (tile * ((columns - K3) / 32) + Math.floor((c - K3) / 32)) * groups + group;
      const byte = bytes[pairs + (before * 8 + ((c - K3) % 32) / 4) * 32 + places.indexOf(inGroup)];
      out.push(...pair(byte >> 4), ...pair(byte & 15));
    }
  }
  return out;
}

describe('numbers', () => {
  it('bfloat16 is the nearest, ties to even', () => {
    const [{ inputs, outputs }] = vectorsOf('f32ToBf16');
    const bits = npy(outputs.bits);
    for (const [i, x] of npy(inputs.x).entries()) {
      const value = (b: number) => new DataView(Uint8Array.of(b >> 8, b, 0, 0).buffer).getFloat32(0);
      const distance = (b: number) => ((b & 0x7fff) === 0x7f80 ? 2 ** 128 : Math.abs(value(b))) - Math.abs(x);
      const here = Math.abs(distance(bits[i]));
      if (!Number.isFinite(x)) expect(value(bits[i])).toBe(x);
      else {
        for (const beside of [bits[i] - 1, bits[i] + 1]) {
          if ((beside & 0x7fff) > 0x7f80 || (beside & 0x8000) !== (bits[i] & 0x8000)) continue;
          const there = Math.abs(distance(beside));
          expect(here < there || (here === there && (bits[i] & 1) === 0), `${x} -> ${bits[i]}`).toBe(true);
        }
      }
    }
  });

  it('the random stream is xoshiro128**, counted in big integers', () => {
    const [{ inputs, outputs }] = vectorsOf('rng');
    const [words, floats, states] = [npy(outputs.words), npy(outputs.floats), npy(outputs.states)];
    for (const [row, seed] of npy(inputs.seeds).entries()) {
      const state = seeded(BigInt(seed));
      expect(state.map(Number)).toEqual(states.slice(4 * row, 4 * row + 4));
      const stream = Array.from({ length: 64 }, () => Number(step(state)));
      expect(stream).toEqual(words.slice(64 * row, 64 * row + 64));
      for (let i = 0; i < 16; i++) expect(floats[16 * row + i]).toBe(uniform(stream[2 * i], stream[2 * i + 1]));
    }
  });
});

const M32 = 0xffffffffn;
const rotl = (x: bigint, by: bigint) => ((x << by) | (x >> (32n - by))) & M32;

function seeded(seed: bigint): bigint[] {
  let z = (seed & M32) ^ (((seed >> 32n) * 0x9e3779b9n) & M32);
  return Array.from({ length: 4 }, () => {
    z = (z + 0x9e3779b9n) & M32;
    let t = ((z ^ (z >> 16n)) * 0x21f0aaadn) & M32;
    t = ((t ^ (t >> 15n)) * 0x735a2d97n) & M32;
    return t ^ (t >> 15n);
  });
}

function step(s: bigint[]): bigint {
  const result = (rotl((s[1] * 5n) & M32, 7n) * 9n) & M32;
  const t = (s[1] << 9n) & M32;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotl(s[3], 11n);
  return result;
}

const uniform = (a: number, b: number) => ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;

describe('samplers', () => {
  it('draw these tokens', () => {
    const f = Math.fround;
    for (const { name, parameters, inputs, outputs } of manifest.samplers) {
      const p = parameters as Record<string, number>;
      const [all, tokens, logprobs] = [npy(inputs.logits), npy(outputs.tokens), npy(outputs.logprobs)];
      const vocabulary = all.length / tokens.length;
      const [biasIds, bias] = [npy(inputs.biasIds), npy(inputs.bias)];
      const state = seeded(BigInt(p.seed));
      for (const [i, token] of tokens.entries()) {
        const raw = all.slice(i * vocabulary, (i + 1) * vocabulary);
        const max = Math.max(...raw);
        const logSum = Math.log(raw.reduce((sum, l) => sum + Math.exp(l - max), 0));
        expect(Math.abs(logprobs[i] - (raw[token] - max - logSum)), name).toBeLessThan(1e-9);
        const row = raw.slice();
        for (const [k, id] of biasIds.entries()) row[id] = f(row[id] + f(bias[k]));
        const recent =
          p.repeatLastN === 0
            ? []
            : p.repeatLastN < 0
              ? tokens.slice(0, i)
              : tokens.slice(Math.max(0, i - p.repeatLastN), i);
        for (const id of new Set(recent)) {
          if (id === p.newlineId && p.penalizeNewline === 0) continue;
          const count = recent.filter((one) => one === id).length;
          const by = f(p.repeatPenalty);
          row[id] = f(
            f(row[id] <= 0 ? row[id] * by : row[id] / by) - f(f(count * f(p.frequencyPenalty)) + f(p.presencePenalty)),
          );
        }
        const ranked = row.map((logit, id) => ({ logit, id })).sort((a, b) => b.logit - a.logit || a.id - b.id);
        if (p.temperature <= 0) {
          expect(ranked[0].id, `${name} ${i}`).toBe(token);
          continue;
        }
        let kept = p.topK > 0 ? ranked.slice(0, p.topK) : ranked;
        const best = ranked[0].logit;
        const weight = (temperature: number) => (one: { logit: number }) => Math.exp((one.logit - best) / temperature);
        const total = (list: typeof kept, temperature: number) =>
          list.map(weight(temperature)).reduce((a, b) => a + b, 0);
        const mass = p.topP < 1 ? p.topP * total(kept, 1) : Infinity;
        let sum = 0;
        const end = kept.findIndex((one) => {
          sum += weight(1)(one);
          return sum >= mass;
        });
        const floor = p.minP > 0 ? best + Math.log(p.minP) : -Infinity;
        if (end >= 0) kept = kept.slice(0, end + 1);
        kept = kept.filter(({ logit }) => logit >= floor);
        const target = uniform(Number(step(state)), Number(step(state))) * total(kept, p.temperature);
        let running = 0;
        const drawn = kept.find((one) => {
          running += weight(p.temperature)(one);
          return running > target;
        });
        expect(drawn?.id, `${name} ${i}`).toBe(token);
      }
    }
    const greedyTokens = npy(manifest.samplers.find(({ name }) => name === 'sample/greedy')!.outputs.tokens);
    const penalised = npy(manifest.samplers.find(({ name }) => name === 'sample/greedy-penalties')!.outputs.tokens);
    expect(penalised).not.toEqual(greedyTokens);
  });
});

describe('tokenizers', () => {
  interface Vectors {
    readonly bosId: number;
    readonly encode: { text: string; special: boolean; ids: number[] }[];
    readonly decode: { ids: number[]; bytes: string }[];
    readonly chat: { messages: { content: string }[]; text: string; ids: number[] }[];
  }

  it('spell the text that was given', () => {
    expect(manifest.tokenizers.length).toBe(7);
    for (const { name, vectors } of manifest.tokenizers) {
      const source = readFileSync(join(kit, vectors), 'latin1');
      expect(
        [...source].every((char) => char < '\x7f'),
        `${name} is ASCII`,
      ).toBe(true);
      const { encode, decode, chat } = JSON.parse(source) as Vectors;
      const bytesOf = new Map(decode.map(({ ids, bytes }) => [ids.join(), Buffer.from(bytes, 'hex')]));
      const isSpm = name === 'invented' || name === 'words-spm';
      for (const { text, special, ids } of encode.filter((one) => !one.special)) {
        // Behind a user-defined token SentencePiece begins a text anew, with a space.
        if (name === 'words-spm' && /\.\.\.|<tab>/.test(text)) continue;
        const spelled = bytesOf.get(ids.join())!.toString('utf8');
        // SentencePiece writes spaces as low lines, puts one before the text, and cannot tell them from those that were there.
        const spaced = (some: string) => (isSpm ? some.replaceAll('\u2581', ' ') : some);
        const expected = isSpm && text !== '' ? ` ${text}` : text;
        expect(spaced(spelled), `${name} ${JSON.stringify(text)} ${special}`).toBe(spaced(expected));
      }
      for (const { messages, text } of chat) for (const { content } of messages) expect(text).toContain(content.trim());
    }
  });
});

const python = await pythonWithNumpy();

async function pythonWithNumpy(): Promise<string | undefined> {
  for (const command of [process.env.BITNET_PYTHON, 'python3'].filter((one) => one !== undefined && one !== '')) {
    const works = await run(command!, ['-c', 'import numpy']).then(
      () => true,
      () => false,
    );
    if (works) return command;
    if (command === process.env.BITNET_PYTHON) throw new Error(`BITNET_PYTHON=${command} has no numpy`);
  }
  return undefined;
}

describe.skipIf(python === undefined)('check.py (skipped where neither BITNET_PYTHON nor python3 has numpy)', () => {
  const check = (folder: string) =>
    run(python!, [join(folder, 'check.py')]).then(
      ({ stdout }) => ({ code: 0, stdout }),
      (error) => ({ code: Number(error.code), stdout: String(error.stdout) }),
    );

  it('recomputes every op that it has and all models but TL1 and TL2, in all their nodes', async () => {
    const { code, stdout } = await check(kit);
    expect(stdout).toMatch(/^10\d\d arrays as expected, 0 not; left to you: /);
    expect(code).toBe(0);
    expect(stdout.match(/[\w/.-]*(types|bitnet|llama|qwen3|gemma3)[\w/.-]*/g)).toEqual(['types/TL1', 'types/TL2']);
  }, 60_000);

  it('fails on one changed value, and names it', async () => {
    const changed = `${kit}-changed`;
    cpSync(kit, changed, { recursive: true });
    try {
      const traced = manifest.models.find(({ name }) => name === 'gemma3')!.traces[1].folder;
      const changes: readonly (readonly [path: string, where: number, named: string])[] = [
        ['kernels/quantizeRows/ties/codes.npy', -7, 'quantizeRows/ties codes'],
        ['kernels/rmsNorm/normal/gain.npy', -1, 'rmsNorm/normal out'],
        ['kernels/ternaryMatmul/overflow-14336/sums.npy', -3, 'ternaryMatmul/overflow-14336 sums'],
        ['kernels/attention/4-2x64-at-0-k-f16-v-f16/out.npy', -4, 'attention/4-2x64-at-0-k-f16-v-f16 out'],
        ['kernels/rope/norm-2x64/out.npy', -4, 'rope/norm-2x64 out'],
        ['kernels/expF32/range/out.npy', -8, 'expF32/range out'],
        ['kernels/decodeTernary/TQ1_0/bytes.npy', -20, 'decodeTernary/TQ1_0 trits'],
        [`${traced}/blk.1.ffn_up.acc.npy`, -4, `${traced}/blk.1.ffn_up.acc.npy`],
        [`${traced}/blk.0.attn_weights.npy`, -32, `${traced}/blk.0.attn_weights.npy`],
        ['models/llama/logits-kv-f16.npy', -4, 'models/llama/logits-kv-f16.npy'],
        ['models/types/TQ2_0.gguf', -500, 'models/types/I2_S-x86/logits-kv-f32.npy'],
      ];
      for (const [path] of changes) {
        const bytes = readFileSync(join(changed, path));
        const [, where] = changes.find(([one]) => one === path)!;
        bytes[bytes.length + where] ^= 1;
        writeFileSync(join(changed, path), bytes);
      }
      const { code, stdout } = await check(changed);
      expect(code).toBe(1);
      const named = stdout
        .split('\n')
        .slice(0, -2)
        .map((line) => line.replace(/: .*/, ''));
      for (const [, , name] of changes) expect(named).toContain(name);
      // Nothing else is accused. The weights of one file are checked against all three of its logits.
      const innocent = named.filter(
        (name) => !changes.some(([, , one]) => one === name) && !name.startsWith('models/types/'),
      );
      expect(innocent).toEqual([]);
    } finally {
      rmSync(changed, { recursive: true, force: true });
    }
  }, 60_000);
});

const cc = await run('cc', ['--version']).then(
  () => 'cc',
  () => undefined,
);

describe.skipIf(cc === undefined)('check.c (skipped where there is no cc)', () => {
  it('passes, and names what was changed', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'bitnet-check-c-'));
    try {
      const program = join(scratch, 'check');
      const flags = ['-std=c99', '-Wall', '-Wextra', '-Werror', '-O2', '-ffp-contract=off'];
      await run(cc!, [...flags, join(kit, 'check.c'), '-lm', '-o', program]);
      expect((await run(program, [kit])).stdout).toBe('0 arrays differ\n');
      cpSync(join(kit, 'kernels'), join(scratch, 'kernels'), { recursive: true });
      const path = join(scratch, 'kernels/ternaryMatmul/overflow-6912/weight.npy');
      const bytes = readFileSync(path);
      bytes[300] ^= 1;
      writeFileSync(path, bytes);
      await expect(run(program, [scratch])).rejects.toMatchObject({
        code: 1,
        stdout:
          'ternaryMatmul/overflow-6912 sums: 2 of 8 differ\nternaryMatmul/overflow-6912 out: 2 of 8 differ\n2 arrays differ\n',
      });
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }, 60_000);
});
