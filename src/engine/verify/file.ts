/**
 * Every verdict on a file, without running it: what `bitnet inspect --verify` prints.
 * @module
 */

import type { GgufFile } from '../../formats/gguf/types.ts';
import type { CensusOptions } from '../../model/verify/census.ts';
import { modelVerdicts } from '../../model/verify/file.ts';
import type { Verdict } from '../../model/verify/verdict.ts';
import { tokenizerVerdicts } from './tokenizer.ts';

export type { Grade, Verdict } from '../../model/verify/verdict.ts';

export interface VerifyFileOptions extends CensusOptions {
  readonly pre?: string | undefined;
}

/** Opens nothing and closes nothing; `gguf` may have been opened with `allowUnreadable`. */
export async function verifyFile(gguf: GgufFile, options: VerifyFileOptions = {}): Promise<Verdict[]> {
  const rows = gguf.findTensor('token_embd.weight')?.shape[1];
  return [...(await modelVerdicts(gguf, options)), ...(await tokenizerVerdicts(gguf, rows, options.pre))];
}
