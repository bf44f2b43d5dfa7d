/**
 * Every verdict on a file, without running it: what `bitnet inspect --verify` prints.
 * @module
 */

import type { GgufFile } from '../../formats/gguf/types.ts';
import { findLayout, type LayoutOptions } from '../../model/layout.ts';
import type { CensusOptions } from '../../model/verify/census.ts';
import { modelVerdicts } from '../../model/verify/file.ts';
import { ok, type Verdict, warn } from '../../model/verify/verdict.ts';
import { tokenizerVerdicts } from './tokenizer.ts';

export type { Grade, Verdict } from '../../model/verify/verdict.ts';

export interface VerifyFileOptions extends CensusOptions {
  readonly pre?: string | undefined;
  /** How ternary tensors lie in the file, where it does not say. */
  readonly layout?: LayoutOptions | undefined;
}

/** Opens nothing and closes nothing; `gguf` may have been opened with `allowUnreadable`. */
export async function verifyFile(gguf: GgufFile, options: VerifyFileOptions = {}): Promise<Verdict[]> {
  const rows = gguf.findTensor('token_embd.weight')?.shape[1];
  const { layout, finding, isNews } = await findLayout(gguf, { ...options.layout, signal: options.signal });
  const matrix = { layout: layout.i2s, tiles: layout.tiles };
  return [
    ...(await modelVerdicts(gguf, { ...options, matrix })),
    ...layoutVerdicts(finding, isNews),
    ...(await tokenizerVerdicts(gguf, rows, options.pre)),
  ];
}

function layoutVerdicts(finding: string | undefined, isNews: boolean): Verdict[] {
  if (finding === undefined) return [];
  if (!isNews) return [ok('layout', finding)];
  return [warn('layout', finding, 'not how nearly every file is, or not certain; --i2s-layout and --tl-tiles say it')];
}
