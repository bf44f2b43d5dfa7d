/**
 * What is said about a finished generation, aside, on stderr.
 * @module
 */

import type { GenerateResult, Model } from '../engine/types.ts';
import { bytes, duration, grouped, plural, rate } from './format.ts';
import { planText } from './memory-plan.ts';

/** `seed 7 | prompt 5 tokens, 310 tokens/s | generated 64 tokens, 52.3 tokens/s | eos`. */
export function summary(result: GenerateResult): string {
  const { seed, usage, timings, stopReason } = result;
  const cached = usage.cachedTokens > 0 ? ` (${grouped(usage.cachedTokens)} cached)` : '';
  return [
    `seed ${seed}`,
    `prompt ${plural(usage.promptTokens, 'token')}${cached}, ${rate(timings.promptTokensPerSecond)}`,
    `generated ${plural(usage.generatedTokens, 'token')}, ${rate(timings.generatedTokensPerSecond)}`,
    reason(stopReason),
  ].join(' | ');
}

function reason(stopReason: GenerateResult['stopReason']): string {
  switch (stopReason) {
    case 'eos':
      return 'ended by the model';
    case 'stop':
      return 'ended by a stop text';
    case 'maxTokens':
      return 'ended by -n';
    case 'contextFull':
      return 'ended by the context, see -c';
    case 'cancelled':
      return 'cancelled';
  }
}

/** The long form, for `--stats`. */
export function statistics(model: Model, result: GenerateResult): string {
  const { info, backend } = model;
  const { timings, usage } = result;
  const memory = model.memory();
  const plan = model.memoryPlan;
  return [
    `model        ${info.name}, ${info.architecture}, ${grouped(info.parameters)} parameters, ${bytes(info.fileBytes)}`,
    `backend      ${backend.name} ${backend.variant}, ${plural(backend.nThreads, 'thread')}`,
    `memory       ${bytes(memory.usedBytes)}, at most ${bytes(memory.peakBytes)}`,
    ...(plan === undefined ? [] : [`planned      ${planText(plan)}, of ${bytes(plan.capacityBytes)}`]),
    `load         ${duration(model.loadMs)}`,
    `first token  ${duration(timings.firstTokenMs)}`,
    `prompt       ${plural(usage.promptTokens, 'token')} in ${duration(timings.promptMs)}, ${rate(timings.promptTokensPerSecond)}`,
    `generation   ${plural(usage.generatedTokens, 'token')} in ${duration(timings.generateMs)}, ${rate(timings.generatedTokensPerSecond)}`,
    `stopped      ${reason(result.stopReason)}`,
    `seed         ${result.seed}`,
  ].join('\n');
}
