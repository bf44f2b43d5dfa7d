/**
 * Where a measurement stands, as a text: what is measured, how many steps are done, the sums so far. An interrupted measurement
 * that takes it up ends with the same bits as one that was never interrupted.
 *
 *     { "bitnetQuality": 1, "of": { ... }, "done": 12, "sums": { ... }, "sha256": "..." }
 *
 * The digest is over the JSON of all before it: a file that was cut or edited is refused, not believed.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { type Measurement, type Saved, sha256 } from './measurement.ts';

/** Raised when the sums mean something else. */
const VERSION = 1;

/** All that decides a result: the model's fingerprint, digests of texts, options. Flat, so that differences can be named. */
export type Identity = Readonly<Record<string, string | number | boolean | null>>;

interface Body {
  readonly bitnetQuality: number;
  readonly of: Identity;
  readonly done: number;
  readonly sums: Saved;
}

export async function writeCheckpoint(of: Identity, done: number, measurement: Measurement<unknown>): Promise<string> {
  const body: Body = { bitnetQuality: VERSION, of, done, sums: measurement.save() };
  return `${JSON.stringify({ ...body, sha256: await digestOf(body) })}\n`;
}

/** Restores the measurement; resolves to the number of steps done. `where` names the text in refusals. */
export async function readCheckpoint(
  text: string,
  where: string,
  of: Identity,
  measurement: Measurement<unknown>,
): Promise<number> {
  const { bitnetQuality, of: was, done, sums, sha256: digest } = parse(text, where);
  want(bitnetQuality === VERSION, 'unsupported-version', 'a state of another version', () => ({
    where,
    expected: `${VERSION}`,
    got: String(bitnetQuality),
  }));
  want(
    digest === (await digestOf({ bitnetQuality, of: was, done, sums })),
    'bad-container',
    'the state is damaged',
    () => ({
      where,
      expected: `the digest ${String(digest)}`,
      hint: 'remove the file to start over',
    }),
  );
  const differing = [...new Set([...Object.keys(of), ...Object.keys(was)])].filter((key) => of[key] !== was[key]);
  if (differing.length > 0) {
    throw new BitnetError('bad-argument', 'the state of another measurement', {
      where,
      expected: differing.map((key) => `${key} ${String(of[key] ?? 'none')}`).join(', '),
      got: differing.map((key) => String(was[key] ?? 'none')).join(', '),
      hint: 'another --state, or remove the file to start over',
    });
  }
  want(
    Number.isSafeInteger(done) && done >= 0 && done <= measurement.steps,
    'bad-container',
    'impossible state',
    () => ({
      where,
      expected: `at most ${measurement.steps} steps`,
      got: String(done),
    }),
  );
  if (done > 0) measurement.restore(sums);
  return done;
}

function parse(text: string, where: string): Body & { readonly sha256: unknown } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BitnetError('bad-container', 'not a state of a measurement', { where, expected: 'JSON' }, error);
  }
  const isObject = (one: unknown): one is Record<string, unknown> => typeof one === 'object' && one !== null;
  want(
    isObject(value) && 'bitnetQuality' in value && isObject(value.of) && isObject(value.sums),
    'bad-container',
    'not a state of a measurement',
    () => ({
      where,
      expected: 'what --state wrote',
    }),
  );
  return value as unknown as Body & { readonly sha256: unknown };
}

function digestOf({ bitnetQuality, of, done, sums }: Body): Promise<string> {
  return sha256(new TextEncoder().encode(JSON.stringify({ bitnetQuality, of, done, sums })));
}
