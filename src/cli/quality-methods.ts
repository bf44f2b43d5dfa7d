/**
 * From flags to a measurement that has run.
 * @module
 */

import { numericsVersion } from '../engine/numerics.ts';
import type { Model, SessionOptions } from '../engine/types.ts';
import { want } from '../errors.ts';
import { openFileSource } from '../platform/source-node.ts';
import {
  BaseFile,
  baseWindowBytes,
  type Choice,
  type ChoiceResult,
  choiceAccuracy,
  createSubject,
  type DivergenceResult,
  divergenceFrom,
  documentPerplexity,
  encodeBaseHeader,
  hellaSwagChoices,
  type Identity,
  type LambadaResult,
  lambada,
  lambadaPassages,
  longestChoice,
  type Measurement,
  multipleChoices,
  type PerplexityResult,
  parseHellaSwag,
  parseLambada,
  parseMultipleChoice,
  parseWinogrande,
  type Subject,
  splitDocuments,
  textWindows,
  windowPerplexity,
  winograndeChoices,
} from '../quality/index.ts';
import { createRecording, type Recording } from './base-recording.ts';
import { sha256 } from './file-hash.ts';
import { sessionOptions } from './flags-common.ts';
import { plural } from './format.ts';
import type { Io } from './io.ts';
import type { PerplexityArgs } from './perplexity.ts';
import { runMeasurement } from './quality-run.ts';

/** llama-perplexity's default window. */
const WINDOW = 512;
/** llama-perplexity's default number of HellaSwag tasks. */
const HELLASWAG_TASKS = 400;

export type Result =
  | { readonly method: 'windows' | 'documents'; readonly result: PerplexityResult }
  | { readonly method: 'kl-divergence'; readonly result: DivergenceResult }
  | { readonly method: 'hellaswag' | 'winogrande' | 'multiple-choice'; readonly result: ChoiceResult }
  | { readonly method: 'lambada'; readonly result: LambadaResult };

export type Outcome = Result & {
  /** Windows, documents or tasks. */
  readonly steps: number;
  readonly contextSize: number;
  /** All that decides the result. */
  readonly identity: Identity;
};

/** A measurement that is ready to run. */
interface Prepared {
  readonly subject: Subject;
  readonly measurement: Measurement<unknown>;
  readonly unit: string;
  /** What of the flags and files decides the result. */
  readonly identity: Identity;
  readonly recording?: Recording | undefined;
  readonly outcome: () => Result;
}

/** `file` is what -f names; its bytes are checked by whoever reads them. */
export async function measured(
  model: Model,
  file: Uint8Array | undefined,
  args: PerplexityArgs,
  io: Io,
): Promise<Outcome> {
  const baseSource = args['kl-divergence'] ? await openFileSource(args['kl-divergence-base']!) : undefined;
  let recording: Recording | undefined;
  try {
    const { name, architecture, fileBytes } = model.info;
    const prepared =
      baseSource === undefined
        ? await prepare(model, file!, args, io)
        : await prepareDivergence(model, await BaseFile.open(baseSource), file, args);
    const { subject, measurement, unit, outcome } = prepared;
    recording = prepared.recording;
    const identity = {
      model: name,
      architecture,
      modelBytes: fileBytes,
      modelLogits: subject.fingerprint,
      numericsVersion,
      ...prepared.identity,
      steps: measurement.steps,
    };
    const begin = recording === undefined ? undefined : (done: number) => recording!.begin(done);
    await runMeasurement(measurement, { state: args.state, quiet: args.quiet, identity, unit, begin }, io);
    await recording?.finish();
    return { ...outcome(), steps: measurement.steps, contextSize: subject.session.contextSize, identity };
  } finally {
    await recording?.abort();
    await baseSource?.close();
  }
}

async function prepare(model: Model, file: Uint8Array, args: PerplexityArgs, io: Io): Promise<Prepared> {
  const label = args.file!;
  const text = Buffer.from(file.buffer, file.byteOffset, file.byteLength).toString('utf8');
  const textDigest = sha256(file);
  const { tokenizer, info } = model;
  const limit = limitOf(args);
  const createOn = (options: SessionOptions): Promise<Subject> =>
    createSubject(model, { ...sessionOptions(args, info.contextLength), ...options });
  const forChoices = async (
    method: 'hellaswag' | 'winogrande' | 'multiple-choice',
    choices: readonly Choice[],
  ): Promise<Prepared> => {
    const subject = await createOn(roomFor(longestChoice(choices), model, args));
    const measurement = choiceAccuracy(subject, choices);
    const identity = { method, text: textDigest };
    return { subject, measurement, unit: 'task', identity, outcome: () => ({ method, result: measurement.result() }) };
  };

  if (args.hellaswag) {
    const tasks = parseHellaSwag(text, label);
    return forChoices('hellaswag', hellaSwagChoices(tokenizer, tasks, args['hellaswag-tasks'] ?? HELLASWAG_TASKS));
  }
  if (args.winogrande) {
    const { tasks, skipped } = parseWinogrande(text, label);
    if (skipped.length > 0 && !args.quiet)
      io.note(`note: ${label}: ${plural(skipped.length, 'line')} passed over, the first of them ${skipped[0]}`);
    const choices = winograndeChoices(tokenizer, tasks, args['winogrande-tasks'] ?? 0);
    const short = choices.filter(({ alternatives, prefix }) =>
      alternatives.every(({ from }) => from === prefix),
    ).length;
    if (short > 0 && !args.quiet)
      io.note(`note: of ${plural(short, 'task')} the words in the gap are scored, where llama.cpp takes a wrong row`);
    return forChoices('winogrande', choices);
  }
  if (args['multiple-choice']) {
    const tasks = parseMultipleChoice(file, args['multiple-choice-tasks'] ?? 0, label);
    return forChoices('multiple-choice', multipleChoices(tokenizer, tasks));
  }
  if (args.lambada) {
    const passages = lambadaPassages(tokenizer, parseLambada(text, label).slice(0, limit), label);
    const longest = passages.reduce((most, { ids }) => Math.max(most, ids.length - 1), 1);
    const subject = await createOn(roomFor(longest, model, args));
    const measurement = lambada(subject, passages);
    const identity = { method: 'lambada', text: textDigest };
    const outcome = (): Result => ({ method: 'lambada', result: measurement.result() });
    return { subject, measurement, unit: 'passage', identity, outcome };
  }
  if (args.documents !== undefined) {
    const documents = splitDocuments(text, args.documents).slice(0, limit);
    want(documents.length > 0, 'bad-argument', 'there is no document', () => ({ where: label }));
    const subject = await createOn({});
    const measurement = documentPerplexity(subject, documents);
    const identity = {
      method: 'documents',
      text: textDigest,
      separator: args.documents,
      contextSize: subject.session.contextSize,
    };
    const outcome = (): Result => ({ method: 'documents', result: measurement.result() });
    return { subject, measurement, unit: 'document', identity, outcome };
  }
  const size = args['ctx-size'] ?? WINDOW;
  const windows = textWindows(tokenizer, text, size, { limit, label });
  const subject = await createOn({ contextSize: size });
  const path = args['kl-divergence-base'];
  const recording =
    path === undefined
      ? undefined
      : createRecording(
          path,
          encodeBaseHeader(windows, info.vocabularySize),
          baseWindowBytes(size, info.vocabularySize),
          args.state !== undefined,
        );
  const plain = windowPerplexity(
    subject,
    windows,
    recording === undefined ? undefined : (bytes) => recording.append(bytes),
  );
  const measurement = recording === undefined ? plain : recording.tracked(plain);
  const identity = { method: 'windows', text: textDigest, contextSize: size, recorded: recording !== undefined };
  const outcome = (): Result => ({ method: 'windows', result: measurement.result() });
  return { subject, measurement, unit: 'window', identity, recording, outcome };
}

async function prepareDivergence(
  model: Model,
  base: BaseFile,
  file: Uint8Array | undefined,
  args: PerplexityArgs,
): Promise<Prepared> {
  const { windows } = base;
  if (file !== undefined) checkText(model, base, Buffer.from(file).toString('utf8'), args.file!);
  const subject = await createSubject(model, {
    ...sessionOptions(args, model.info.contextLength),
    contextSize: args['ctx-size'] ?? windows.size,
  });
  const measurement = divergenceFrom(subject, base, limitOf(args));
  const identity = { method: 'kl-divergence', base: await base.digest(), contextSize: windows.size };
  const outcome = (): Result => ({ method: 'kl-divergence', result: measurement.result() });
  return { subject, measurement, unit: 'window', identity, outcome };
}

/** With -f the base must be of that text. (Without one, llama-perplexity's way, its tokens are taken as they are.) */
function checkText(model: Model, { windows, label }: BaseFile, text: string, path: string): void {
  const { ids } = textWindows(model.tokenizer, text, windows.size, { limit: windows.count, label: path });
  const at = windows.ids.findIndex((id, i) => id !== ids[i]);
  want(at < 0, 'bad-argument', 'the base is of another text', () => ({
    where: label,
    expected: `token ${at} of ${path}, ${ids[at] ?? 'its end'}`,
    got: `${windows.ids[at]}`,
  }));
}

/** Without -c, a context that takes the longest; as far as the model goes, behind which the task will say what is wrong. */
function roomFor(longest: number, model: Model, args: PerplexityArgs): SessionOptions {
  return args['ctx-size'] === undefined ? { contextSize: Math.min(longest, model.info.contextLength) } : {};
}

function limitOf({ chunks = -1 }: PerplexityArgs): number {
  return chunks < 0 ? Infinity : chunks;
}
