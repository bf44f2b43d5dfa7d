/**
 * The public shapes of a trace: every named intermediate of a model, in the order of its graph.
 *
 * Names are those of the file's tensors where a tensor makes them: `blk.3.attn_q` is what `blk.3.attn_q.weight` gives,
 * `blk.3.attn_norm` what comes out of the norm with the gain `blk.3.attn_norm.weight`. The others:
 *
 *     embd                      rows of the embedding
 *     NAME.codes, NAME.scales   the int8 codes of the rows NAME, and 127 / absmax of each row
 *     NAME.acc                  integer sums of the projection NAME, before its two scales
 *                               (with activations q8_k a scale for every block of 256, and no such sums)
 *     blk.N.attn_q_rope         queries after rope, keys likewise
 *     blk.N.attn_weights        probabilities (nHeads, positions), zero where a token cannot look; on request
 *     blk.N.attn                what attention gives, before the sub-norm
 *     blk.N.attn_residual       the residual stream behind attention
 *     blk.N.ffn_act             activation(gate) * up
 *     blk.N.out                 the residual stream behind the layer
 *     output_norm, logits
 * @module
 */

/** What made a tensor: ops of the kernel interface, and `acc`, the sums inside of `ternaryMatmul`. */
export type TraceOp =
  | 'embed'
  | 'rmsNorm'
  | 'quantizeRows'
  | 'acc'
  | 'ternaryMatmul'
  | 'denseMatmul'
  | 'rope'
  | 'attentionWeights'
  | 'attention'
  | 'gatedRelu2'
  | 'gatedSilu'
  | 'gatedGelu'
  | 'scale'
  | 'add';

export type TraceData = Float32Array | Int8Array | Int32Array;

/** A place in the graph at which something can be seen; known before anything is computed. */
export interface TraceSite {
  readonly name: string;
  readonly op: TraceOp;
  /** Names of what went in, in the order of the op's arguments; token ids and positions have none. */
  readonly inputs: readonly string[];
  /** The tensor of the file that took part: a matrix, a table or a gain. */
  readonly weight?: string;
  readonly layer?: number;
  readonly type: 'f32' | 'i8' | 'i32';
  /** Values a token. */
  readonly columns: number;
  /**
   * What else decides the result: `eps` of norms; `weightScale` of ternary matrices; `style`, `nHeads`, `headDim` of rope; `scale`,
   * `nHeads`, `nKvHeads`, `headDim` of attention; `factor` of scale.
   */
  readonly facts: Readonly<Record<string, number | string>>;
}

/** Some rows of a named tensor. Rows of a name come in the order of positions, each once. */
export interface TraceTensor extends TraceSite {
  /** Position in the sequence of the first row. */
  readonly position: number;
  readonly rows: number;
  /** (rows, columns), a copy. */
  readonly data: TraceData;
  /** Of `acc`: outputs that are no integer times their scales. 0 unless a kernel is wrong. */
  readonly unexplained?: number;
  /**
   * Lets the graph go on with these values (rows, columns) in place of what was computed, before the next tensor is asked
   * for. Codes are given as f32. Absent where nothing later reads the tensor.
   */
  readonly replace?: (data: Float32Array) => Promise<void>;
  /**
   * The same op on other inputs (rows, their columns) in the order of `inputs`, into memory of its own: for asking what a
   * result would have been. The input of `ternaryMatmul` is given as f32 and quantised. Absent for `embed` and attention.
   */
  readonly rerun?: (inputs: readonly Float32Array[]) => Promise<Float32Array>;
  /** Of attention: keys and values as they are cached, from position 0 to the last row: (nKvHeads, positions, headDim) f32. */
  readonly cache?: () => Promise<{ readonly k: Float32Array; readonly v: Float32Array }>;
  /** Of norms: the gain. */
  readonly gain?: () => Promise<Float32Array>;
}

export interface TraceOptions {
  /** Which sites to show; default all but `attentionWeights`. Asked once a site. */
  readonly select?: ((site: TraceSite) => boolean) | undefined;
  readonly signal?: AbortSignal | undefined;
}
