/**
 * Containers: GGUF and safetensors, read from and written to anything that has bytes.
 * @module
 */

export { describeValue } from './gguf/metadata.ts';
export { type OpenGgufOptions, openGguf } from './gguf/reader.ts';
export { shardName } from './gguf/split.ts';
export {
  type GgufArrays,
  type GgufElementType,
  type GgufFile,
  GgufString,
  type GgufTensor,
  type GgufValue,
  type GgufValueType,
  StringArray,
} from './gguf/types.ts';
export {
  copyOf,
  type GgufToWrite,
  stringsValue,
  stringValue,
  type TensorChunks,
  type TensorToWrite,
  writeGguf,
} from './gguf/writer.ts';
export { type GunzipOptions, gunzipSource, isGzip } from './gzip.ts';
export { type ModelInput, type OpenSourceOptions, openModelSource } from './open.ts';
export { openSafetensors } from './safetensors/reader.ts';
export type { SafetensorsDType, SafetensorsFile, SafetensorsTensor } from './safetensors/types.ts';
export { type SafetensorsTensorToWrite, writeSafetensors } from './safetensors/writer.ts';
export { type ByteSink, memorySink } from './sink.ts';
export type { ByteSource } from './source.ts';
export { blobSource, memorySource, type UrlSourceOptions, urlSource } from './sources.ts';
