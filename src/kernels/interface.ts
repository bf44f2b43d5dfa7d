/**
 * The kernel interface: what a model graph may ask of a machine, and what each answer means.
 *
 * `kernels/ts` is the definition. Every other backend is a claim about it that `kernels/conformance`
 * checks: integers exactly, floats bit for bit where it says so (`info.exact`: `wasm`, `cuda`), else within derived bounds.
 *
 * Rules for every op
 * - Ops enqueue work and write into a given buffer; only what reads waits. A backend may run ops at once
 *   or later, in any order that no op can observe.
 * - Shapes are (rows, columns), row-major; `n` is the number of rows (tokens) to process, at most the
 *   buffer's first dimension. Rows are independent: the result for one row never depends on `n`, on the
 *   other rows or on the number of threads. That is what makes batching and threading free of noise.
 * - `out` never overlaps an input, except where an op says "in place".
 * - f32 arithmetic rounds after every operation; no fused multiply-add, no re-association. Where a sum
 *   runs over a row its order is part of the contract, in these terms:
 *
 *   dot16    sixteen f32 running sums; element i goes to sum i mod 16, each product rounded, then added,
 *            i ascending. Then s[l] += s[l+8] for l < 8, s[l] += s[l+4] for l < 4, and the result is
 *            (s[0] + s[2]) + (s[1] + s[3]).
 *   sum8d    eight f64 running sums; element i (an f32) goes to sum i mod 8, i ascending. Then
 *            s[l] += s[l+4] for l < 4, s[l] += s[l+2] for l < 2, and the result is s[0] + s[1].
 *
 * Comparisons that pick a maximum ignore NaN, so a NaN never hides: it stays in its own element.
 * @module
 */

import type { MemoryType } from '../tensors/dense-forms.ts';
import type { BlockTernaryName } from '../tensors/dtype.ts';
import type { TopRow } from '../tensors/top-row.ts';

export type { TopRow } from '../tensors/top-row.ts';

/** Element type of a plain buffer. */
export type BufType = 'f32' | 'i32';

/** A backend-owned array of numbers, opaque to everybody else. */
export interface Buf {
  readonly type: BufType;
  readonly shape: readonly number[];
}

/** Rows of int8 codes with their scales, the input of `ternaryMatmul`; opaque. Made by `allocQuantized`. */
export interface QuantizedBuf {
  readonly type: 'q8';
  readonly rows: number;
  readonly columns: number;
}

/** Element type of a KV cache. */
export type KvType = 'f32' | 'f16';

/** What a KV cache is made of. Keys and values are stored (layer, kvHead, position, headDim). */
export interface KvShape {
  readonly nLayers: number;
  /** Query heads that will read this cache, a multiple of nKvHeads; backends size their scratch by it. */
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  /** Number of positions that fit. */
  readonly contextSize: number;
  readonly kType: KvType;
  readonly vType: KvType;
}

/** The keys and values of one sequence; opaque. */
export interface KvCache {
  readonly type: 'kv';
  readonly shape: KvShape;
}

/**
 * Types in which a dense weight may lie in memory, decoded to f32 when used: types of files, decoded exactly, and AFFINE
 * (`tensors/affine.ts`), whose values are f32(f32(a * q) - b). `tensors/dense-forms.ts` tells what becomes of the other file types.
 */
export type DenseType = MemoryType;

/** What a matrix will be in a backend's memory. */
export type WeightShape = {
  /** Name for error messages. */
  readonly name: string;
  /** Output features M. */
  readonly rows: number;
  /** Input features K. */
  readonly columns: number;
  /** Bytes the backend must provide. */
  readonly byteLength: number;
} & (
  | {
      /** Packed rows as drawn in `tensors/packed.ts`: ceil(K / 128) * 32 bytes a row, two bits a weight. */
      readonly kind: 'ternary';
    }
  | {
      /** Rows of whole blocks of this type, back to back. */
      readonly kind: 'dense';
      readonly dtype: DenseType;
    }
);

/** A matrix on its way into a backend. */
export type WeightSource = WeightShape & {
  /**
   * Writes the bytes into `target` (of `byteLength`), the backend's own memory, once. The file's bytes are
   * streamed straight into place; resolves to the scale of a ternary matrix (1 for dense ones).
   */
  fill(target: Uint8Array): Promise<number>;
  /** The same matrix as the file has it, for backends that check and repack faster than `fill`; never needed. */
  readonly encoded?: EncodedWeight;
};

/**
 * A matrix as it lies in its file. A backend may read it in pieces, several at a time, and make the form that it wants by
 * itself. Whatever it meets that is not right (a code 3, a scale that differs, a value that is not finite) it leaves
 * to `fill`, which says what is wrong: so there is one set of rules and of messages, that of `tensors/`.
 */
export interface EncodedWeight {
  /** I2_S, TQ1_0 or TQ2_0 of a ternary matrix; of a dense one its own type, or the type of floats from which it is to be made. */
  readonly dtype: BlockTernaryName | Exclude<DenseType, 'AFFINE'>;
  /** Fills `target` from byte `offsetBytes` of the tensor on. */
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
  /** The scale of a ternary matrix is f32(the file's scale * factor). */
  readonly factor: number;
}

/** A matrix in a backend's memory, immutable, shared by all sessions; opaque. */
export interface Weight {
  readonly kind: 'ternary' | 'dense';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** What the integer sums of a ternary matrix are multiplied by, as f32; 1 of dense ones. */
  readonly scale: number;
}

/** Which rows of a batch belong to which sequence. */
export interface Segment {
  readonly kv: KvCache;
  /** First row of the batch. */
  readonly row: number;
  /** Number of consecutive rows, one position each. */
  readonly count: number;
  /** Position in the sequence of the first of them. */
  readonly position: number;
}

/** `neox` rotates pairs (i, i + d/2), `norm` pairs (2i, 2i + 1). */
export type RopeStyle = 'neox' | 'norm';

/** Facts about a backend value, for reports. */
export interface BackendInfo {
  /** `ts`, `wasm`, `cuda`. */
  readonly name: string;
  /** E.g. `relaxed+threads`; what exactly is running. */
  readonly variant: string;
  readonly nThreads: number;
  /** True when results are bit-identical to `ts`. */
  readonly exact: boolean;
  /** How many codes share a scale where that is not a whole row: foreign arithmetic, in which sums are floats, too. */
  readonly activationBlock?: number | undefined;
  /** Things the user should know: what was asked for and could not be had, and what was done instead. */
  readonly notes: readonly string[];
}

/** A backend's bookkeeping without its memory: the same calls, which take nothing. What they give back is of no use. */
export interface Rehearsal
  extends Pick<Backend, 'alloc' | 'allocQuantized' | 'allocKv' | 'free' | 'memory' | 'headRows'> {
  /** As `upload`, of a matrix of this shape. */
  place(shape: WeightShape): void;
  /** How long the memory must be for all that so far, holes included. */
  readonly spanBytes: number;
  /** How long it can be. */
  readonly capacityBytes: number;
}

export interface Backend {
  readonly info: BackendInfo;
  /** Rows of a step, and rows of logits, that are worth their memory, where that is not what the engine thinks. */
  readonly batchRows?: number | undefined;
  readonly headRows?: number | undefined;

  /** A zeroed buffer. Throws `out-of-memory` with the numbers when it does not fit. */
  alloc(type: BufType, shape: readonly number[]): Buf;
  allocQuantized(rows: number, columns: number): QuantizedBuf;
  allocKv(shape: KvShape): KvCache;
  /** Gives the memory back. The caller promises that no enqueued op still needs it: call after `read`. */
  free(memory: Buf | QuantizedBuf | KvCache): void;
  /** Takes a matrix in. Several may be under way at a time. */
  upload(source: WeightSource): Promise<Weight>;
  /** Where memory has a ceiling: reckons what a program of calls would take, before any of them is made. */
  rehearse?(): Rehearsal;
  /** Takes that many bytes from the system at once: growing piece by piece costs time. Throws `out-of-memory`. */
  reserve?(bytes: number): void;
  /** Bytes in use now and at most so far, weights, caches and scratch together. */
  memory(): { readonly usedBytes: number; readonly peakBytes: number };

  /** Copies `data` into the first elements of `to`. The type of `data` must fit that of `to`. */
  write(to: Buf, data: Float32Array | Int32Array): void;
  /**
   * Runs everything enqueued, waits for it, and copies the first `count` elements of an f32 buffer out.
   * The only op on the token's path that waits: a GPU pays one per token.
   */
  read(from: Buf, count: number): Promise<Float32Array>;
  /**
   * The first `n` rows of what `denseTopK` has just left in `from` (rows, M): of each the elements that are not minus infinity.
   * Waits like `read`, and is all that a token costs when its sampler looks at few logits.
   */
  readTop(from: Buf, n: number): Promise<TopRow[]>;
  /** Codes and scales of the first `n` rows, for oracles and tests. Waits like `read`. */
  readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }>;
  /** Copies positions of one layer's keys and values out as f32 (kvHead, count, headDim), for oracles and tests. */
  readKv(from: KvCache, layer: number, position: number, count: number): Promise<{ k: Float32Array; v: Float32Array }>;
  dispose(): Promise<void>;

  /** out (n, K) f32 = rows `ids[0..n)` of `table` (vocabulary, K), decoded. Ids are trusted: check before. */
  embed(out: Buf, table: Weight, ids: Buf, n: number): void;

  /**
   * RMSNorm (Zhang and Sennrich, arXiv 1910.07467). x, out (n, K) f32; gain (K) f32.
   * m = f32(sum8d(x*x) / K), the squares rounded to f32 first; r = 1 / sqrt(m + eps); out = (x * r) * gain.
   * `out` may be `x`. K is the length of the gain: rows of several heads, each normalised by itself, are so many more rows of K.
   */
  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void;

  /**
   * Absmax int8 quantisation of each row (BitNet b1.58, arXiv 2402.17764; `quantize_row_i8_s` of bitnet.cpp).
   * x (n, K) f32. a = max(1e-5, max |x|); s = 127 / a; code = clamp(roundHalfEven(x * s), -128, 127), NaN -> 0.
   */
  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void;

  /**
   * `rmsNorm` and then `quantizeRows`, the same bits, without the rows in between: for inputs that only ternary matrices read.
   * x (n, K) f32; gain (K) f32.
   */
  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void;

  /**
   * out (n, M) f32 = x (n, K) times the transpose of the ternary matrix (M, K).
   * d = sum of trit * code, exact in i32 for every input; out = (f32(d) / s) * weightScale.
   */
  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void;

  /** out (n, M) f32 = x (n, K) f32 times the transpose of a dense matrix (M, K) decoded to f32; dot16. */
  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void;

  /**
   * `denseMatmul` for who only wants the `k` greatest of each row: out (n, M) f32. Every element is the product that
   * `denseMatmul` gives, or minus infinity, and that only where at least `k` other elements of its row have a greater product.
   * Which of those are left out is the backend's choice; leaving out none is correct. x must not change until the op has run.
   */
  denseTopK(out: Buf, weight: Weight, x: Buf, k: number, n: number): void;

  /**
   * Rotary position embedding (Su et al., arXiv 2104.09864), in place. x (n, nHeads * headDim) f32.
   * `angles` (n, headDim) f32: the cosines of the headDim/2 angles of a row, then their sines.
   * For a pair (a, b): a' = a*cos - b*sin, b' = a*sin + b*cos.
   */
  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void;

  /**
   * Stores rows of k and v (rows, nKvHeads * headDim) f32 at the segment's positions of `layer`, rounded to the
   * cache's types (f16: to nearest, ties to even).
   */
  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void;

  /**
   * Causal softmax attention with grouped queries over one sequence. q, out (rows, nHeads * headDim) f32;
   * head h reads key/value head floor(h / (nHeads / nKvHeads)). A row at position p sees positions 0..p.
   * s_j = dot16(q, k_j) * scale; m = max s_j; e_j = exp(s_j - m) by `numeric/exp.ts` expF32; t = f32(sum8d(e));
   * out_d = (sum over j ascending of e_j * v_jd, one f32 running sum per d, starting from 0) / t.
   */
  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void;

  /** `out` may be `gate` or `up`. out (n, K) = relu(gate)^2 * up: r = gate > 0 ? gate : 0 (NaN stays); (r * r) * up. */
  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void;

  /** `out` may be `gate` or `up`. out (n, K) = silu(gate) * up: (gate / (1 + expF32(-gate))) * up. */
  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void;

  /**
   * `out` may be `gate` or `up`. out (n, K) = gelu(gate) * up, gelu by tanh (Hendrycks and Gimpel, arXiv 1606.08415), of which
   * 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)) needs no tanh and loses no digits: with A = f32(2 sqrt(2 / pi)) and B = f32(0.044715)
   * t = (A * gate) * (1 + (B * gate) * gate); out = (gate / (1 + expF32(-t))) * up.
   */
  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void;

  /** out (n, K) = x * f32(factor). `out` may be `x`. */
  scale(out: Buf, x: Buf, factor: number, n: number): void;

  /** out (n, K) = a + b. `out` may be `a` or `b`. */
  add(out: Buf, a: Buf, b: Buf, n: number): void;

  /** Copies `count` rows of `from`, beginning at `fromRow`, to `out`, beginning at `outRow`. */
  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void;
}
