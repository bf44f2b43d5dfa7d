/**
 * A comparison with a server, for people.
 * @module
 */

import type { EndpointReport } from './compare.ts';

/** Lines, without a newline at the end. What a server said is quoted: it may hold what would command a terminal. */
export function endpointText(report: EndpointReport): string {
  const { url, shape, prompt, positions, first, findings, verdict, bound, noise, mean } = report;
  const theirs = prompt.theirs === undefined || prompt.theirs === prompt.tokens ? '' : `, ${prompt.theirs} there`;
  const lines = [`${url}: probabilities as ${shape}, ${prompt.tokens} tokens of prompt${theirs}`];
  const told = positions.reduce((sum, { tokens }) => sum + tokens, 0);
  if (verdict === 'same') {
    const worst = Math.max(0, ...positions.map((one) => distance(one.worst)));
    const ties = positions.filter((one) => one.verdict === 'tie').length;
    lines.push(
      `same: ${positions.length} positions, ${told} probabilities, ln p apart by ${figure(worst)} at most (bound ${figure(bound)})`,
    );
    if (ties > 0) lines.push(`  at ${ties} of them another token is likeliest, within the bound`);
  } else if (verdict === 'not-comparable') lines.push('not comparable');
  else if (first === null) lines.push('differs');
  else {
    const { index, best, chosen, worst, verdict: how } = positions[first];
    const few = positions.filter((one) => one.verdict !== 'same' && one.verdict !== 'tie').length;
    lines.push(`differs at position ${index} first, at ${few} of ${positions.length}`);
    if (how === 'unknown') lines.push(`  there ${JSON.stringify(chosen.text)}, which is no token here`);
    else
      lines.push(
        `  likeliest here: ${best.id} ${best.text}, ln p ${figure(best.logprob)}; chosen there: ${JSON.stringify(chosen.text)}`,
      );
    if (how === 'missing') lines.push('  a token that is likelier here than the least likely one told was not told');
    if (worst !== undefined)
      lines.push(
        `  farthest apart: ${worst.id} ${worst.text}, ln p ${figure(worst.here)} here, ${figure(worst.there)} there (bound ${figure(positions[first].bound)})`,
      );
  }
  if (positions.length > 0) {
    lines.push(
      `  on average ${figure(mean.difference)} (bound ${figure(mean.bound)}); a cache of f32 instead of f16 makes ${figure(mean.noise)} here, ${figure(noise)} at most`,
    );
  }
  for (const { kind, text } of findings) lines.push(`  ${kind}: ${text}`);
  return lines.join('\n');
}

function distance(worst: EndpointReport['positions'][number]['worst']): number {
  return worst === undefined ? 0 : Math.abs(worst.here - worst.there);
}

function figure(value: number): string {
  return String(Number(value.toPrecision(4)));
}
