/**
 * What was found, as text.
 * @module
 */

import type { Comparison, Divergence, Excerpt, MetVariant } from './types.ts';

/** Names in a message. */
const LISTED = 6;

export function reportText(c: Comparison): string {
  const lines = [`A  ${c.a.label}${by(c.a.producer)}`, `B  ${c.b.label}${by(c.b.producer)}`];
  const how = c.method === 'model' ? "every op of A on B's own inputs" : 'number against number';
  lines.push(`${count(c.tokens, 'token')}, ${count(c.compared, 'tensor')} compared, ${how}`);
  if (c.onlyB.length > 0) lines.push(`only in B: ${listed(c.onlyB)}`);
  if (c.onlyA.length > 0) lines.push(`not in B: ${listed(c.onlyA)}`);
  if (c.unread.length > 0) lines.push(`not read in B, since no tensor has such a name: ${listed(c.unread)}`);
  for (const variant of c.variants) lines.push('', ...variantLines(variant));
  lines.push('', ...(c.divergence === undefined ? sameLines(c) : divergenceLines(c.divergence, c.method)));
  return lines.join('\n');
}

function by(producer: string | undefined): string {
  return producer === undefined ? '' : ` (${producer})`;
}

function variantLines({ says, name, position, times, error, errorWithout }: MetVariant): string[] {
  return [
    `B computes in another way, from ${name} of token ${position} on (${times} ${times === 1 ? 'time' : 'times'}): ${says};`,
    `with it the values agree to ${short(error)}, without to ${short(errorWithout)}`,
  ];
}

function sameLines({ verdict, nearest, equal, compared }: Comparison): string[] {
  if (verdict === 'equal') return ['the same, bit for bit'];
  const near =
    nearest === undefined
      ? ''
      : `; nearest to its bound: ${nearest.name} of token ${nearest.position}, ${short(nearest.ratio)} of it`;
  return [`the same within bounds, ${equal} of ${count(compared, 'tensor')} to the last bit or printed digit${near}`];
}

function divergenceLines(d: Divergence, method: Comparison['method']): string[] {
  const where = [
    d.layer === undefined ? '' : `layer ${d.layer}, `,
    d.name,
    d.op === undefined ? '' : ` (${d.op}${d.weight === undefined ? '' : ` of ${d.weight}`})`,
  ].join('');
  const token = d.token === undefined ? '' : ` (id ${d.token})`;
  const more = d.positions.length > 1 ? `; of these tokens also ${runs(d.positions.slice(1))}` : '';
  const head = d.head === undefined ? '' : `, head ${d.head}`;
  const known = d.known === d.columns ? '' : `, of which B shows ${d.known}`;
  const lines = [
    `first difference: token ${d.position}${token}, ${where}`,
    `  values    ${d.differing} of ${d.columns}${known} are off; worst in column ${d.column}${head}${more}`,
    ...d.inputs.map(
      (input, i) => `  ${i === 0 ? (d.sameInputs ? 'input     ' : 'of A      ') : '          '}${text(input, true)}`,
    ),
    `  expected  ${text(d.expected)}`,
    `  got       ${text(d.got)}`,
    `  bound     ${short(d.bound)}${d.sameInputs ? '' : ', and the noise of inputs that are not the same'}${times(d.ratio)}; relative RMS error ${short(d.relativeError)}`,
  ];
  const [best, ...others] = d.findings;
  if (best !== undefined) {
    lines.push(`looks like ${best.says}: with it the values agree to ${short(best.error)}`);
    for (const other of others.slice(0, 3)) lines.push(`  or ${other.says}: to ${short(other.error)}`);
  } else if (method === 'model') lines.push('no mistake that is known gives these numbers');
  else
    lines.push(
      'no mistake that shows without weights gives these numbers; more are tried on one dump and the model, -m',
    );
  for (const description of d.descriptions) lines.push(`  ${description}`);
  if (d.name === 'logits' || d.sameInputs) return lines;
  return [...lines, '  B does not show all that went in: the mistake may lie further back'];
}

function times(ratio: number): string {
  return Number.isFinite(ratio) ? `, of which this is ${short(ratio)} times` : '';
}

function text({ name, column, values, rms }: Excerpt, named = false): string {
  const shown = values.map((value) => (value === null ? '?' : `${Number(value.toPrecision(6))}`)).join(' ');
  return `${named ? `${name}  ` : ''}[${column}..] ${shown}  (rms ${short(rms)})`;
}

/** Three digits. */
function short(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return `${value}`;
  return `${Number(value.toPrecision(3))}`;
}

function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? '' : 's'}`;
}

/** `1 to 15, 17`. */
function runs(positions: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < positions.length; ) {
    let end = i;
    while (positions[end + 1] === positions[end] + 1) end++;
    parts.push(end === i ? `${positions[i]}` : `${positions[i]} to ${positions[end]}`);
    i = end + 1;
  }
  return parts.join(', ');
}

export function listed(names: readonly string[]): string {
  const more = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return names.length === 0 ? 'none' : names.slice(0, LISTED).join(', ') + more;
}
