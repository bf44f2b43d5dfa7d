/**
 * `bitnet-ts/oracle`: traces of models, dumps of them, and what compares.
 * @module
 */

export { openEvalCallback } from './dump/eval-callback.ts';
export type { FileSet, FolderTarget, RunningHash, TraceTarget } from './dump/files.ts';
export { type Manifest, type ManifestTensor, type NotFinite, parseManifest } from './dump/manifest.ts';
export { openTrace, openTraceFile, type StoredTrace } from './dump/open.ts';
export { type WriteTraceOptions, writeTrace } from './dump/write.ts';
export { openArchive } from './dump/zip.ts';
export type { SourceRows, SourceTensor, TraceOrigin, TraceSource } from './source.ts';
export { type Stages, trace } from './trace.ts';
