/**
 * All verdicts on a file's container, model and weights. The tokenizer's are in the engine, which alone knows both.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { GgufFile, GgufTensor } from '../../formats/gguf/types.ts';
import { architectureOf } from '../architectures.ts';
import { type ModelConfig, readConfig } from '../config.ts';
import { EMBEDDING, HEAD, isTable, matchTensors, type TensorRule } from '../tensors.ts';
import { type CensusOptions, sameBytes, takeCensus } from './census.ts';
import { containerVerdicts, typeVerdicts } from './container.ts';
import { identityVerdicts } from './identity.ts';
import { bad, ok, type Verdict, warn } from './verdict.ts';
import { weightVerdicts } from './weights.ts';

/** Reads every tensor once. Never throws for what is wrong with the file. */
export async function modelVerdicts(gguf: GgufFile, options: CensusOptions = {}): Promise<Verdict[]> {
  const found: Verdict[] = [];
  attempt('container', found, () => found.push(...containerVerdicts(gguf)));
  const config = attempt('architecture', found, () => configOf(gguf));
  if (config !== undefined) {
    attempt('model', found, () => found.push(...identityVerdicts(gguf, config)));
  }
  const rules = config === undefined ? [] : architectureOf(config.architecture).tensors(config);
  const matrices = new Set(rules.filter(({ kind }) => kind === 'matrix').map(({ name }) => name));
  const isMatrix = ({ name, shape }: GgufTensor) => (config === undefined ? shape.length > 1 : matrices.has(name));
  const projections = gguf.tensors.filter((tensor) => isMatrix(tensor) && !isTable(tensor.name));
  attempt('type', found, () => found.push(...typeVerdicts(gguf, projections)));
  found.push(...tensorVerdicts(gguf, rules));
  const census = await takeCensus(gguf, options);
  const isTernaryOnly = rules.some(({ name }) => name.includes('sub_norm'));
  found.push(...weightVerdicts(gguf, census, isTernaryOnly));
  if (config !== undefined) found.push(...(await headVerdicts(gguf, rules, options.signal)));
  return found;
}

function configOf(gguf: GgufFile): ModelConfig {
  return readConfig(gguf, architectureOf(gguf.getString('general.architecture')));
}

/** What `act` gives; a refusal becomes a verdict. */
function attempt<T>(what: string, found: Verdict[], act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    found.push(bad(what, error.message, error.facts.hint ?? 'such a file cannot be run here'));
    return undefined;
  }
}

function tensorVerdicts(gguf: GgufFile, rules: readonly TensorRule[]): Verdict[] {
  if (gguf.tensors.length === 0) return [bad('tensors', 'none: a vocabulary without a model', 'fetch the model')];
  if (rules.length === 0) return [];
  const found: Verdict[] = [];
  attempt('tensors', found, () => {
    matchTensors(gguf, rules);
    found.push(ok('tensors', `${gguf.tensors.length}: all that the architecture needs, none that it does not know`));
  });
  const subNorms = rules.filter(({ name }) => name.includes('sub_norm'));
  const missing = subNorms.filter(({ name }) => gguf.findTensor(name) === undefined);
  if (missing.length > 0) {
    const finding = `${missing.length} of ${subNorms.length} are missing: without them a BitNet model runs and is wrong`;
    found.push(bad('sub-norms', finding, 'convert the original with "bitnet convert"'));
  }
  return found;
}

/** Whether the head is the embedding, and whether the architecture means it to be. */
async function headVerdicts(
  gguf: GgufFile,
  rules: readonly TensorRule[],
  signal: AbortSignal | undefined,
): Promise<Verdict[]> {
  const [embedding, head] = [gguf.findTensor(EMBEDDING), gguf.findTensor(HEAD)];
  const rule = rules.find(({ name }) => name === HEAD);
  if (embedding === undefined) return [];
  if (head === undefined) return [ok('head', 'tied: the embedding is the output matrix')];
  if (rule === undefined) return []; // named by `tensors` above
  const same = await sameBytes(embedding, head, signal);
  if (rule.kind === 'ignored') {
    if (same === true) return [ok('head', `tied; ${HEAD} is a copy of the embedding, and is not loaded`)];
    const how =
      same === false ? 'differs from the embedding' : `is ${head.dtype.name}, the embedding ${embedding.dtype.name}`;
    return [
      warn(
        'head',
        `${HEAD} ${how}; the head of this architecture is always the embedding`,
        `${HEAD} is not loaded; nothing to do if it is a copy in another type`,
      ),
    ];
  }
  if (same === true) return [ok('head', `${HEAD} is a copy of the embedding: a tied model would be smaller`)];
  return [ok('head', `a matrix of its own, ${head.dtype.name}`)];
}
