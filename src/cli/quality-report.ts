/**
 * What a measurement found, as llama-perplexity words it, or as JSON.
 * @module
 */

import { numericsVersion } from '../engine/numerics.ts';
import type { Model } from '../engine/types.ts';
import type { ChoiceResult, DivergenceResult, Estimate, Percentiles, PerplexityResult } from '../quality/index.ts';
import { grouped, plural } from './format.ts';
import { describeMachine } from './machine.ts';
import type { Outcome } from './quality-methods.ts';

export function asText(outcome: Outcome): string {
  switch (outcome.method) {
    case 'windows':
      return perplexityText(outcome.result, plural(outcome.steps, 'window'));
    case 'documents':
      return perplexityText(outcome.result, plural(outcome.steps, 'document'));
    case 'kl-divergence':
      return divergenceText(outcome.result);
    case 'hellaswag':
      return choiceText('HellaSwag', outcome.result);
    case 'winogrande':
      return choiceText('Winogrande', outcome.result);
    case 'multiple-choice':
      return choiceText('Multiple choice', outcome.result);
    case 'lambada': {
      const { passages, accuracy, perplexity } = outcome.result;
      return (
        `LAMBADA, ${plural(passages, 'passage')}: ${percents(accuracy, 4)}\n` +
        `Last word: PPL = ${perplexity.value.toFixed(4)} +/- ${perplexity.error.toFixed(5)}\n`
      );
    }
  }
}

function perplexityText({ perplexity, error, tokens, bits, textBytes }: PerplexityResult, what: string): string {
  return (
    `Final estimate: PPL = ${perplexity.toFixed(4)} +/- ${error.toFixed(5)}\n` +
    `${(bits / textBytes).toFixed(4)} bits per byte (${plural(tokens, 'token')} for ` +
    `${grouped(textBytes)} bytes in ${what})\n`
  );
}

function choiceText(name: string, { tasks, accuracy, interval, chance }: ChoiceResult): string {
  const [low, high] = interval.map((share) => (100 * share).toFixed(4));
  return (
    `${name}, ${plural(tasks, 'task')}: ${percents(accuracy, 4)}, 95% within ${low} .. ${high}\n` +
    `Random chance: ${(100 * chance).toFixed(4)}\n`
  );
}

/** `53.2500 +/- 2.4975`. */
function percents({ value, error }: Estimate, digits: number): string {
  return `${(100 * value).toFixed(digits)} +/- ${(100 * error).toFixed(digits)}`;
}

function divergenceText(result: DivergenceResult): string {
  const { perplexity, basePerplexity, correlation, logRatio, ratio, perplexityDifference } = result;
  const { divergence, difference, rmsDifference, sameTop } = result;
  const figure = (label: string, { value, error }: Estimate): string =>
    `${label.padEnd(30)}: ${value.toFixed(6).padStart(10)} ± ${error.toFixed(6).padStart(10)}`;
  const share = (label: string, { value, error }: Estimate): string =>
    `${label}: ${(100 * value).toFixed(3).padStart(6)} ± ${(100 * error).toFixed(3)} %`;
  return `${[
    '====== Perplexity statistics ======',
    figure('Mean PPL(Q)', perplexity),
    figure('Mean PPL(base)', basePerplexity),
    `Cor(ln(PPL(Q)), ln(PPL(base))): ${correlation === undefined ? '     -' : (100 * correlation).toFixed(2).padStart(6)}%`,
    figure('Mean ln(PPL(Q)/PPL(base))', logRatio),
    figure('Mean PPL(Q)/PPL(base)', ratio),
    figure('Mean PPL(Q)-PPL(base)', perplexityDifference),
    '',
    '====== KL divergence statistics ======',
    `Mean    KLD: ${divergence.value.toFixed(6).padStart(10)} ± ${divergence.error.toFixed(6).padStart(10)}`,
    ...spread('KLD', divergence, [99.9, 99, 95, 90, 'Median', 10, 5, 1], (value) => value.toFixed(6).padStart(10)),
    '',
    '====== Token probability statistics ======',
    share('Mean    Δp', difference),
    ...spread(
      'Δp',
      difference,
      [99.9, 99, 95, 90, 75, 'Median', 25, 10, 5, 1, 0.1],
      (value) => `${(100 * value).toFixed(3).padStart(6)}%`,
    ),
    share('RMS Δp    ', rmsDifference),
    share('Same top p', sameTop),
    `${plural(result.tokens, 'token')} compared`,
  ].join('\n')}\n`;
}

function spread(
  name: string,
  { minimum, median, maximum, percentiles }: Percentiles,
  percents: readonly (number | 'Median')[],
  shown: (value: number) => string,
): string[] {
  const line = (label: string, value: number): string => `${label} ${name}: ${shown(value)}`;
  return [
    line('Maximum', maximum),
    ...percents.map((one) =>
      one === 'Median' ? line('Median ', median) : line(`${one.toFixed(1).padStart(4)}%  `, percentiles[`${one}`]),
    ),
    line('Minimum', minimum),
  ];
}

export function asJson(model: Model, outcome: Outcome): Record<string, unknown> {
  const { info, backend } = model;
  const { version, commit, runtime } = describeMachine();
  const { steps, contextSize, identity } = outcome;
  const { modelLogits, text, base, separator } = identity;
  return {
    version,
    numericsVersion,
    ...(commit === undefined ? {} : { commit }),
    runtime,
    model: {
      name: info.name,
      architecture: info.architecture,
      parameters: info.parameters,
      fileBytes: info.fileBytes,
      /** SHA-256 of a few of its logits; see `createSubject`. */
      logits: modelLogits,
      backend,
    },
    method: outcome.method,
    ...(text === undefined ? {} : { textSha256: text }),
    ...(base === undefined ? {} : { baseSha256: base }),
    ...(separator === undefined ? {} : { separator }),
    chunks: steps,
    contextSize,
    ...figures(outcome),
  };
}

function figures(outcome: Outcome): Record<string, unknown> {
  switch (outcome.method) {
    case 'windows':
    case 'documents': {
      const { perplexity, error, tokens, bits, textBytes } = outcome.result;
      return {
        tokens,
        bytes: textBytes,
        perplexity,
        error,
        bitsPerToken: bits / tokens,
        bitsPerByte: bits / textBytes,
      };
    }
    case 'kl-divergence':
    case 'lambada':
      return { ...outcome.result };
    default: {
      // Answers one by one would be a line each.
      const { chosen, ...rest } = outcome.result;
      return { ...rest, chosen: chosen.join(' ') };
    }
  }
}
