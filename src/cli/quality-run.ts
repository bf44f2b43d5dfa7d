/**
 * Runs a measurement step by step: progress on the terminal, and a state file from which an interrupted one goes on.
 * @module
 */

import { stat } from 'node:fs/promises';
import { want } from '../errors.ts';
import { createFileSink } from '../platform/source-node.ts';
import { type Identity, type Measurement, readCheckpoint, writeCheckpoint } from '../quality/index.ts';
import { grouped } from './format.ts';
import type { Io } from './io.ts';
import { readTextFile } from './open.ts';

/** How often the state is written, at the end of a step. What is lost with a killed process is at most this and a step. */
const STATE_INTERVAL_MS = 5000;
/** The values of a divergence over 10^8 tokens; a state is read into memory. */
const MAX_STATE_BYTES = 1 << 30;

export interface RunChoices {
  readonly state: string | undefined;
  readonly quiet: boolean;
  /** All that decides the result. */
  readonly identity: Identity;
  /** What a step is: `window`. */
  readonly unit: string;
  /** Called once, before the first step that is computed, with the number of steps that are done already. */
  readonly begin?: ((done: number) => Promise<void>) | undefined;
}

/** Computes all steps that are not done. Interrupted, it leaves the state behind and throws why. */
export async function runMeasurement(
  measurement: Measurement<unknown>,
  { state, quiet, identity, unit, begin }: RunChoices,
  io: Io,
): Promise<void> {
  const { steps } = measurement;
  const total = `${grouped(steps)} ${unit}s`;
  let done = 0;
  if (state !== undefined) {
    const text = await readState(state);
    if (text !== undefined) {
      done = await readCheckpoint(text, state, identity, measurement);
      if (!quiet) io.note(`${state}: going on after ${grouped(done)} of ${total}`);
    }
  }
  await begin?.(done);
  let written = done;
  let writtenMs = performance.now();
  const write = async (): Promise<void> => {
    if (state === undefined || written === done) return;
    await replaceFile(state, await writeCheckpoint(identity, done, measurement));
    written = done;
    writtenMs = performance.now();
  };
  try {
    while (done < steps) {
      io.signal.throwIfAborted();
      await measurement.step(done, io.signal);
      done++;
      if (!quiet) io.status(`${grouped(done)} of ${total}  ${measurement.running()}`);
      if (performance.now() - writtenMs >= STATE_INTERVAL_MS) await write();
    }
  } finally {
    await write();
    io.status('');
    if (done < steps && state !== undefined && !quiet)
      io.note(`${state}: ${grouped(done)} of ${total} done; the same command goes on`);
  }
}

async function readState(path: string): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return undefined; // what else is wrong, writing it will say
  want(found.isFile() && found.size <= MAX_STATE_BYTES, 'bad-container', 'not a state of a measurement', () => ({
    where: path,
    expected: `a file of at most ${MAX_STATE_BYTES} bytes`,
    got: found.isFile() ? `${found.size} bytes` : 'no regular file',
  }));
  return readTextFile(path);
}

async function replaceFile(path: string, text: string): Promise<void> {
  const sink = await createFileSink(path);
  try {
    await sink.write(new TextEncoder().encode(text));
    await sink.close();
  } finally {
    await sink.abort();
  }
}
