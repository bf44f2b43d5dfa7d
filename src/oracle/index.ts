/**
 * `bitnet-ts/oracle`: traces of models, dumps of them, receipts of runs, and what compares.
 * @module
 */

export { compareTraces, compareWithModel } from './compare/compare.ts';
export { liveSource } from './compare/live.ts';
export { reportText } from './compare/report.ts';
export type {
  CompareOptions,
  CompareProgress,
  Comparison,
  Divergence,
  Excerpt,
  Finding as CompareFinding,
  MetVariant,
} from './compare/types.ts';
export { openEvalCallback } from './dump/eval-callback.ts';
export { type FileSet, type FolderTarget, memoryFolder, type RunningHash, type TraceTarget } from './dump/files.ts';
export { type Manifest, type ManifestTensor, type NotFinite, parseManifest } from './dump/manifest.ts';
export { openTrace, openTraceFile, type StoredTrace } from './dump/open.ts';
export { type WriteTraceOptions, writeTrace } from './dump/write.ts';
export { openArchive } from './dump/zip.ts';
export { complete, completeAlong, type Endpoint, type Question } from './endpoint/client.ts';
export {
  type CompareEndpointOptions,
  compareEndpoint,
  type EndpointFinding,
  type EndpointReport,
} from './endpoint/compare.ts';
export type { Candidate, Completion, Position } from './endpoint/shapes.ts';
export { endpointText } from './endpoint/text.ts';
export { parseReceipt } from './receipt/parse.ts';
export {
  type BenchReceipt,
  environmentOf,
  makeReceipt,
  type Receipt,
  type RunReceipt,
  type RunToRecord,
  receiptText,
} from './receipt/receipt.ts';
export { type Difference, type Replay, replayRun } from './receipt/replay.ts';
export type { SourceRows, SourceTensor, TraceOrigin, TraceSource } from './source.ts';
export { type Stages, trace } from './trace.ts';
