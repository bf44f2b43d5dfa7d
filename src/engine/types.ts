/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The public shapes of the engine: options in, pieces and results out. (The reference is for programs whose own `lib` is older than
 * `Symbol.asyncDispose`.)
 * @module
 */

import type { Activations, I16KernelName, OverflowReport } from '../kernels/foreign/foreign.ts';
import type { Backend, BackendInfo, KvType } from '../kernels/interface.ts';
import type { KernelsChoice } from '../kernels/wasm/open.ts';
import type { I2sLayout, TilesChoice } from '../model/layout.ts';
import type { PlannedMemory, TableType } from '../model/plan.ts';
import type { SamplingOptions } from '../sampling/chain.ts';
import type { ChatMessage } from '../tokenizer/index.ts';
import type { EmbedOptions, QuantizedEmbedding, QuantizedFormat } from './embed.ts';
import type { TraceOptions, TraceSite, TraceTensor } from './trace/types.ts';

export type { ModelInput } from '../formats/open.ts';
export type {
  Activations,
  I16KernelName,
  OverflowedOutput,
  OverflowReport,
  TensorOverflows,
} from '../kernels/foreign/foreign.ts';
export type { KernelsChoice } from '../kernels/wasm/open.ts';
export type { I2sLayout, TilesChoice } from '../model/layout.ts';
export type { PlannedMemory } from '../model/plan.ts';
export type { TraceData, TraceOp, TraceOptions, TraceSite, TraceTensor } from './trace/types.ts';

export interface LoadProgress {
  readonly loadedBytes: number;
  readonly totalBytes: number;
  /** Name of the tensor being read. */
  readonly tensor: string;
}

export interface LoadOptions {
  /**
   * `auto` is `wasm`, or `ts` with a note in `model.backend.notes` where WebAssembly SIMD is missing; never `cuda`, which runs on
   * an NVIDIA GPU by a library that is built apart. A value of `bitnet-ts/backends`, or a function of your own, opens any other.
   */
  readonly backend?: 'auto' | 'wasm' | 'ts' | 'cuda' | (() => Promise<Backend>) | undefined;
  /** Number of the GPU of the cuda backend, where that is chosen by name. Default 0. */
  readonly device?: number | undefined;
  /**
   * Threads of the wasm backend, where it is chosen by name. Default: the physical cores, as far as the
   * runtime tells; 1 where memory cannot be shared.
   */
  readonly threads?: number | undefined;
  /**
   * Build of the wasm backend's kernels: `dot`, `relaxed`, `simd` or `scalar` and no other, or `fastest`, which times them.
   * Default: the first that this runtime takes and that passes the self-test; `dot` only where processor and runtime are known
   * to have its instruction.
   */
  readonly kernels?: KernelsChoice | undefined;
  /** See `WasmOptions.wideVectors`. Default false. */
  readonly wideVectors?: boolean | undefined;
  /** Forces the pre-tokenizer (`llama-bpe`, `qwen2`, ... or `default`, what bitnet.cpp falls back to). */
  readonly pre?: string | undefined;
  /** Largest number of tokens computed in one pass. Default 128, 1024 on the cuda backend. Never changes a result. */
  readonly batchSize?: number | undefined;
  /**
   * In which type the embedding and the head are kept. `file`: with the file's values, exactly. `Q8_0`, `Q6_K`: tables that would
   * take more are requantised while loading, and `model.notes` says so; logits are then those of the requantised tables. `auto`,
   * the default: as `file`, unless the model would not fit into the 4 GiB of a WebAssembly memory.
   */
  readonly embeddingType?: TableType | undefined;
  /**
   * In which order the values of I2_S tensors are: as every published file has them (`x86`), as builds on ARM (`arm64`), or
   * builds without ACT_PARALLEL (`rows4`) write them. `auto`, the default, finds out; `model.info.layout` tells what, and how.
   */
  readonly i2sLayout?: 'auto' | I2sLayout | undefined;
  /**
   * How TL1 and TL2 tensors are cut: `codegen` or `preset`, bitnet.cpp's two lists, or tiles by shape, as in its
   * kernel_config.ini: `{ '4096x4096': '128/64/64' }` (BM/BK/bm). `auto`, the default, decides between the two lists.
   */
  readonly tiles?: 'auto' | TilesChoice | undefined;
  /**
   * Run a model whose projections are not ternary instead of refusing it. Default false: such a file is nearly always a ternary
   * model that was converted as if it were an ordinary one, and speaks nonsense.
   */
  readonly allowDense?: boolean | undefined;
  /**
   * How the inputs of ternary projections are quantised. `int8`, the default: per token, as in training, whatever container the
   * trits are in. `q8_k`: per 256 values, as llama.cpp runs TQ1_0 and TQ2_0; columns must be multiples of 256.
   */
  readonly activations?: Activations | undefined;
  /**
   * Compute what bitnet.cpp's I2_S kernels would where their 16-bit sums overflow: those of x86 (`avx2`, or true), or of ARM
   * without dotprod (`neon`). `model.overflows` tells where that was. Default false: all sums are exact.
   */
  readonly saturateI16?: boolean | I16KernelName | undefined;
  /**
   * The session that memory is planned for: a model that does not fit together with its keys and values is refused
   * before any weight is read. Default: a session without options. A context longer than the model's own counts as that.
   */
  readonly planFor?: SessionOptions | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface SessionOptions {
  /** Positions to keep. Default: the model's context length, at most 2048. */
  readonly contextSize?: number | undefined;
  /** Element type of cached keys and values. Default f16, as llama.cpp. */
  readonly kType?: KvType | undefined;
  readonly vType?: KvType | undefined;
}

export interface GenerateOptions extends SamplingOptions {
  /** Stop after this many tokens. Default: until the model ends or the context is full. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the generation; never part of the output. They may span tokens. */
  readonly stop?: string | readonly string[] | undefined;
  /** Parse special tokens such as `<|eot_id|>` in a text prompt. Default false: text is text. */
  readonly special?: boolean | undefined;
  /** Report the log-probability of each sampled token. */
  readonly logprobs?: boolean | undefined;
  /** Keep going at end-of-generation tokens (for benchmarks). */
  readonly ignoreEos?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ChatOptions extends GenerateOptions {
  /** A Jinja template that replaces the model's own. */
  readonly template?: string | undefined;
}

/**
 * What `generate` accepts: text, a conversation, or token ids. It is the whole sequence from position 0; the beginning
 * that the session has in its cache already is not computed again. To go on, pass `[...session.tokens, ...more]`.
 */
export type Prompt = string | readonly ChatMessage[] | readonly number[];

/** One generated token. */
export interface Piece {
  readonly token: number;
  /** Whole characters only; '' until a character, or a possible stop text, is decided. */
  readonly text: string;
  /** Natural logarithm of the token's probability under the model, before sampling changes it. */
  readonly logprob?: number;
}

/** `cancelled`: the caller broke out of the loop. */
export type StopReason = 'eos' | 'stop' | 'maxTokens' | 'contextFull' | 'cancelled';

export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens found in the session's cache and not computed again. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
}

export interface Timings {
  readonly promptMs: number;
  readonly generateMs: number;
  readonly promptTokensPerSecond: number;
  readonly generatedTokensPerSecond: number;
  readonly firstTokenMs: number;
}

export interface GenerateResult {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly stopReason: StopReason;
  /** The stop text that was met, when `stopReason` is `stop`. */
  readonly stopText?: string;
  readonly seed: number;
  readonly usage: Usage;
  readonly timings: Timings;
}

/**
 * A running generation. Lazy: nothing runs before the first `next()` or a look at `result`. Breaking out of the loop stops
 * the work and leaves the session usable. Looking at `result` asks for everything: from then on the work goes on to its
 * end, whatever a loop does, so look at it after the loop, or stop by `signal`.
 */
export interface Run extends AsyncIterable<Piece> {
  /** Runs to the end if nobody iterates; rejects with the signal's reason on abort. */
  readonly result: Promise<GenerateResult>;
}

export interface EvaluateOptions {
  /**
   * Only this many of the greatest logits are wanted. Those are exact; of the others, those that are certainly smaller may be
   * minus infinity, which spares most of the output matrix. Default: all logits, exact.
   */
  readonly top?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Session {
  readonly contextSize: number;
  /** Tokens whose keys and values are cached; the next token gets this position. */
  readonly position: number;
  /** The cached tokens. */
  readonly tokens: readonly number[];
  generate(prompt: Prompt, options?: GenerateOptions): Run;
  /** Renders the messages with the model's chat template and generates the reply. */
  chat(messages: readonly ChatMessage[], options?: ChatOptions): Run;
  /** Computes tokens after the cached ones; resolves to the logits (vocabulary) after the last. */
  prefill(ids: readonly number[], options?: EvaluateOptions): Promise<Float32Array>;
  /** Like `prefill`, with the logits after every token, chunk by chunk: (rows, vocabulary). */
  logits(ids: readonly number[], options?: { readonly signal?: AbortSignal | undefined }): AsyncIterable<Float32Array>;
  /**
   * Computes tokens after the cached ones like `logits`, and shows every named intermediate in the order of the graph, a few
   * tokens at a time. What `TraceTensor.replace` sets is what the graph goes on with. Much slower than `logits`, same bits.
   */
  trace(ids: readonly number[], options?: TraceOptions): AsyncIterable<TraceTensor>;
  /** What `trace` of that many tokens would show, before anything is computed: names, shapes, and what goes into what. */
  traceSites(tokens: number): readonly TraceSite[];
  /** One token in, logits (vocabulary) out. */
  step(id: number, options?: EvaluateOptions): Promise<Float32Array>;
  /** Forgets cached positions from `position` on. */
  rewind(position: number): void;
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** What `model.info` and `bitnet inspect` tell. */
export interface ModelInfo {
  readonly name: string;
  readonly architecture: string;
  /** `relu2`, `silu` or `gelu`, decided by the architecture. */
  readonly activation: string;
  readonly parameters: number;
  readonly vocabularySize: number;
  readonly contextLength: number;
  readonly embeddingLength: number;
  readonly blockCount: number;
  readonly fileBytes: number;
  /** How ternary tensors are laid out where their type does not tell (I2_S, TL1), and how that is known. */
  readonly layout?: string;
}

export interface Model {
  readonly info: ModelInfo;
  readonly backend: BackendInfo;
  /** Largest number of tokens computed in one pass. */
  readonly batchSize: number;
  /**
   * What a user should know about how the model was loaded: the notes of its backend, tables that were requantised, projections
   * that are not run as their types say, and a layout that is not the usual one or not certain.
   */
  readonly notes: readonly string[];
  readonly tokenizer: import('../tokenizer/index.ts').Tokenizer;
  readonly loadMs: number;
  /** Where native kernels would have overflowed so far, if the model was loaded with `saturateI16`. */
  readonly overflows: OverflowReport | undefined;
  createSession(options?: SessionOptions): Session;
  /**
   * One vector for each text, of `info.embeddingLength` values. The same bits whatever texts it is computed beside. Any model
   * will do; those trained for it give vectors whose cosine means something.
   */
  embed(
    texts: readonly string[],
    options?: EmbedOptions & { readonly quantize?: 'float' | undefined },
  ): Promise<Float32Array[]>;
  embed(
    texts: readonly string[],
    options: EmbedOptions & { readonly quantize: QuantizedFormat },
  ): Promise<QuantizedEmbedding[]>;
  /** With options whose `quantize` is only known when running. */
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[] | QuantizedEmbedding[]>;
  /** In the backend's memory, by its own account: now, and at most so far. */
  memory(): { readonly usedBytes: number; readonly peakBytes: number };
  /**
   * What that was reckoned to be before loading, with the session of `planFor`, and what there was; undefined where the backend's
   * memory has no end (`ts`).
   */
  readonly memoryPlan: PlannedMemory | undefined;
  /** Waits for running steps, frees everything, ends worker threads. Sessions become unusable. Idempotent. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
