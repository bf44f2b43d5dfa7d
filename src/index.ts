/**
 * bitnet-ts: ternary (1.58-bit, BitNet) language models in TypeScript and WebAssembly SIMD.
 *
 * @example
 * const model = await loadModel('model.gguf');
 * const session = model.createSession();
 * for await (const piece of session.generate('Once upon a time', { maxTokens: 64 })) write(piece.text);
 * await model.dispose();
 * @module
 */

export {
  cosineSimilarity,
  dequantizeEmbedding,
  type EmbeddingFormat,
  type EmbedOptions,
  embeddingCodes,
  type Pooling,
  type QuantizedEmbedding,
  type QuantizedFormat,
  quantizeEmbedding,
} from './engine/embed.ts';
export { loadModel } from './engine/model.ts';
export { numericsHistory, numericsVersion } from './engine/numerics.ts';
export type {
  Activations,
  ChatOptions,
  EvaluateOptions,
  GenerateOptions,
  GenerateResult,
  I2sLayout,
  I16KernelName,
  KernelsChoice,
  LoadOptions,
  LoadProgress,
  Model,
  ModelInfo,
  ModelInput,
  OverflowedOutput,
  OverflowReport,
  Piece,
  PlannedMemory,
  Prompt,
  Run,
  Session,
  SessionOptions,
  StopReason,
  TensorOverflows,
  TilesChoice,
  Timings,
  TraceData,
  TraceOp,
  TraceOptions,
  TraceSite,
  TraceTensor,
  Usage,
} from './engine/types.ts';
export { BitnetError, type ErrorCode, type ErrorFacts } from './errors.ts';
export type { ByteSource } from './formats/source.ts';
export type {
  Backend,
  BackendInfo,
  Buf,
  BufType,
  DenseType,
  EncodedWeight,
  KvCache,
  KvShape,
  KvType,
  QuantizedBuf,
  Rehearsal,
  RopeStyle,
  Segment,
  TopRow,
  Weight,
  WeightShape,
  WeightSource,
} from './kernels/interface.ts';
export type { SamplingOptions } from './sampling/chain.ts';
export type { ChatMessage, Tokenizer } from './tokenizer/index.ts';
