/**
 * Verdicts on the container, and on what file name and `general.file_type` say of the tensors' type.
 *
 * What a container may not be at all (overlaps, spans too short, shards missing) `openGguf` has refused already; here is what
 * passes and is odd.
 * @module
 */

import type { GgufFile, GgufTensor } from '../../formats/gguf/types.ts';
import { type DType, dtypes, dtypesById } from '../../tensors/dtype.ts';
import { bad, ok, type Verdict, warn } from './verdict.ts';

export function containerVerdicts(gguf: GgufFile): Verdict[] {
  const { version, sources, tensors, alignment } = gguf;
  const shards = sources.length > 1 ? `, ${sources.length} files` : '';
  const found: Verdict[] = [];
  const holes = tensors.filter(({ byteLength, spanBytes }) => spanBytes - byteLength >= alignment);
  // The fork's writer puts the scales of TL1 and TL2 between tensors, without a record of their own.
  if (holes.length > 0) {
    const bytes = holes.reduce((sum, { byteLength, spanBytes }) => sum + spanBytes - byteLength, 0);
    found.push(
      warn(
        'container',
        `GGUF ${version}${shards}; ${bytes} bytes belong to no tensor, ${places(holes, sources)}`,
        'harmless where a converter left them; after a download that was resumed, fetch it again',
      ),
    );
  } else
    found.push(
      ok('container', `GGUF ${version}${shards}, ${tensors.length} tensors side by side to the end of the file`),
    );
  const expected = gguf.findUint('split.tensors.count');
  if (expected !== undefined && expected !== tensors.length) {
    found.push(
      bad('shards', `${tensors.length} tensors, split.tensors.count says ${expected}`, 'fetch all shards again'),
    );
  }
  return found;
}

function places(holes: readonly GgufTensor[], sources: GgufFile['sources']): string {
  const last = holes.filter(({ source, offsetBytes, spanBytes }) => offsetBytes + spanBytes === source.byteLength);
  if (last.length === holes.length && sources.length === 1) return `all behind the last, ${last[0].name}`;
  return holes.length === 1 ? `behind ${holes[0].name}` : `behind ${holes[0].name} and ${holes.length - 1} more`;
}

/** llama.cpp's `general.file_type`. 1024 more means that it was guessed. */
const FILE_TYPES: Readonly<Record<number, string>> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  7: 'Q8_0',
  8: 'Q5_0',
  9: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q3_K',
  13: 'Q3_K',
  14: 'Q4_K',
  15: 'Q4_K',
  16: 'Q5_K',
  17: 'Q5_K',
  18: 'Q6_K',
  32: 'BF16',
  36: 'TQ1_0',
  37: 'TQ2_0',
  38: 'TL1',
  39: 'TL2',
  40: 'I2_S',
};

/** Name, metadata and bytes about the type of the projections. `projections`: the matrices that are no tables. */
export function typeVerdicts(gguf: GgufFile, projections: readonly GgufTensor[]): Verdict[] {
  const main = mainType(projections);
  if (main === undefined) return [];
  const said: string[] = [];
  const wrong: string[] = [];
  const named = typesInName(gguf.label);
  if (named.length > 0) (named.includes(main.name) ? said : wrong).push(`the file name says ${named.join(', ')}`);
  const code = gguf.findUint('general.file_type');
  if (code !== undefined) {
    const plain = code >= 1024 ? code - 1024 : code;
    const name = FILE_TYPES[plain] ?? `an unknown type`;
    // Python converters of bitnet.cpp write the number of the tensor type instead.
    const isRight = name === main.name || dtypesById(plain).includes(main);
    (isRight ? said : wrong).push(isRight ? 'general.file_type agrees' : `general.file_type ${code} is ${name}`);
  }
  const others = projections.filter(({ dtype }) => dtype !== main);
  const mixed =
    others.length === 0 ? '' : `, ${others.length} of another type (${others[0].name}: ${others[0].dtype.name})`;
  const fact = `projections are ${main.name}${mixed}`;
  if (wrong.length === 0) return [ok('type', [fact, ...said].join('; '))];
  return [
    warn(
      'type',
      `${fact}, but ${wrong.join(' and ')}`,
      'the tensors count; rename the file, or fetch the one you meant',
    ),
  ];
}

/** The type of most projections' values. */
function mainType(projections: readonly GgufTensor[]): DType | undefined {
  const counts = new Map<DType, number>();
  for (const { dtype, elements } of projections) counts.set(dtype, (counts.get(dtype) ?? 0) + elements);
  return [...counts].toSorted(([, a], [, b]) => b - a)[0]?.[0];
}

/** `ggml-model-i2s-embed-q6_k.gguf` -> I2_S, Q6_K. */
function typesInName(label: string): string[] {
  const words = label
    .slice(Math.max(label.lastIndexOf('/'), label.lastIndexOf('\\')) + 1)
    .toUpperCase()
    .replace(/\.GGUF(\.GZ)?$/, '')
    .split(/[-.\s]/)
    .map((word) => (word === 'I2S' ? 'I2_S' : word.replace(/^(Q[2-6]_K)_[SML]$/, '$1')));
  return dtypes.filter(({ name }) => words.includes(name)).map(({ name }) => name);
}
