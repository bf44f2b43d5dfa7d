/**
 * `bitnet verify`: the one command for a file that was just downloaded. Everything `inspect --verify` sees, then the model has to
 * speak, and a sentence at the end.
 * @module
 */

import { createHash } from 'node:crypto';
import type { Model } from '../engine/types.ts';
import { type Answers, compareAnswers, FORMAT, parseAnswers, speechVerdicts } from '../engine/verify/answers.ts';
import { type Expectation, expectationOf, publishedNamed } from '../engine/verify/known-models.ts';
import { QUESTIONS } from '../engine/verify/prose.ts';
import { type Speech, speak } from '../engine/verify/speak.ts';
import { vocabularyHash } from '../engine/verify/tokenizer.ts';
import { BitnetError } from '../errors.ts';
import { type ByteSink, type ByteSource, openGguf } from '../formats/index.ts';
import { readModelConfig } from '../model/plan.ts';
import { PUBLISHED, type Published, publishedOf } from '../model/published.ts';
import { bad, ok, type Verdict } from '../model/verify/verdict.ts';
import { exp } from '../numeric/exp.ts';
import { littleEndianBytes } from '../oracle/npy.ts';
import { createFileSink } from '../platform/source-node.ts';
import { command } from './command.ts';
import { attempt } from './describe.ts';
import { fileHash, sha256 } from './file-hash.ts';
import { UsageError, type Values } from './flags.ts';
import { jsonFlag, layoutOptions, quietFlag, runtimeFlags } from './flags-common.ts';
import { plural } from './format.ts';
import type { Io } from './io.ts';
import { openModel, openSource, readTextFile } from './open.ts';
import { isAnyBad, verdictCounts, verdictLines, verdictsOn } from './verdicts.ts';

const flags = {
  ...runtimeFlags,
  against: {
    type: 'string',
    value: 'NAME|FILE.json',
    group: 'Answers',
    describe: 'the published model this must be, e.g. 2b-4t, or recorded answers [by the shape of the model]',
  },
  write: {
    type: 'string',
    value: 'FILE.json',
    group: 'Answers',
    describe: 'record the answers of this run, which you trust, for --against',
  },
  ...jsonFlag,
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

export const verify = command({
  flags,
  word: { name: 'FILE', describe: 'path or URL, instead of -m' },
  examples: [
    ['bitnet verify -m model.gguf', 'is this download what it should be? exit status 1 if not'],
    ['bitnet verify -m model.gguf --against 2b-4t', 'and it must be BitNet-b1.58-2B-4T'],
    ['bitnet verify -m model.gguf --write good.json', 'record a run that is trusted'],
    ['bitnet verify -m other.gguf --against good.json', 'the same bits, the same tokens, or where they differ'],
  ],
  async run({ word, ...rest }, io) {
    const args = word === undefined ? rest : { ...rest, model: word };
    const asked = await askedFor(args);
    // Before minutes of work: a path that cannot be written is found now.
    const sink = args.write === undefined ? undefined : await createFileSink(args.write);
    try {
      return await judge(args, asked, sink, io);
    } finally {
      await sink?.abort(); // does nothing once closed
    }
  },
});

async function judge(args: Args, asked: Asked, sink: ByteSink | undefined, io: Io): Promise<number> {
  const source = await openSource(args, io);
  let file: FileFacts;
  try {
    file = await factsOf(source, args, io);
  } finally {
    await source.close();
  }
  const verdicts = [...file.verdicts, ...asked.verdicts(file.published)];
  const ofFile = [...verdicts];
  // The model may take minutes to be heard.
  if (!args.json) await io.write(`${verdictLines(ofFile)}\n`);
  const expected = asked.published === undefined ? expectationOf(file.published) : expectationOf(asked.published);
  let answers: Answers | undefined;
  let isSame = false;
  if ((asked.published ?? file.published)?.speaks === false || file.isPooled) {
    verdicts.push(ok('speech', 'an embedding model: it is not expected to speak'), ...noAnswers(args, asked));
  } else {
    const heard = await listen(args, file, io);
    verdicts.push(...heard.verdicts);
    answers = heard.answers;
    if (answers !== undefined) {
      verdicts.push(...speechVerdicts(answers, expected));
      const known = asked.answers ?? expected.answers;
      if (known !== undefined) {
        const compared = compareAnswers(answers, known, asked.from);
        verdicts.push(...compared.verdicts);
        isSame = compared.isSame;
      }
    }
  }
  const isGood = !isAnyBad(verdicts);
  if (sink !== undefined && answers !== undefined) await record(sink, answers);
  if (args.json) await io.write(`${JSON.stringify({ file: file.label, good: isGood, verdicts, answers }, null, 2)}\n`);
  else {
    const end = sentence({ verdicts, file, expected, answers, isSame, written: args.write });
    await io.write(`${verdictLines(verdicts.slice(ofFile.length), ofFile)}\n\n${end}\n`);
  }
  return isGood ? 0 : 1;
}

/** What `--against` means. */
interface Asked {
  readonly published?: Published;
  readonly answers?: Answers;
  /** Where answers to compare with are from. */
  readonly from: string;
  verdicts(published: Published | undefined): Verdict[];
}

async function askedFor({ against }: Args): Promise<Asked> {
  const from = 'the known answers';
  if (against === undefined) return { from, verdicts: () => [] };
  if (/\.json$/i.test(against)) {
    const answers = parseAnswers(await readTextFile(against), against);
    return { answers, from: against, verdicts: () => [] };
  }
  const published = publishedNamed(against);
  if (published === undefined) {
    const names = PUBLISHED.map(({ name }) => name).join(', ');
    throw new UsageError(`--against takes a file ending in .json or one of: ${names}; got ${JSON.stringify(against)}`);
  }
  return {
    published,
    from,
    verdicts: (found) => {
      if (found === published) return [];
      const is = found === undefined ? 'a shape of its own' : `the shape of ${found.name}`;
      return [bad('against', `asked for ${published.name}, but this has ${is}`, 'another model')];
    },
  };
}

/** A model that does not speak gives no answers: who asks for them must not read GOOD and believe that they were compared. */
function noAnswers({ write, against }: Args, asked: Asked): Verdict[] {
  const todo = 'compare its vectors: bitnet embed --embd-output-format json';
  return [
    ...(write === undefined ? [] : [bad('write', `no answers to record in ${write}`, todo)]),
    ...(asked.answers === undefined ? [] : [bad('against', `no answers to compare with ${against}`, todo)]),
  ];
}

interface FileFacts {
  readonly label: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly trits: string;
  readonly published: Published | undefined;
  /** It makes embeddings: `{architecture}.pooling_type` is there and not "none". */
  readonly isPooled: boolean;
  readonly verdicts: readonly Verdict[];
}

async function factsOf(source: ByteSource, args: Args, io: Io): Promise<FileFacts> {
  const gguf = await openGguf(source, { allowUnreadable: true });
  const trits = createHash('sha256');
  const onTrits = (name: string, packed: Uint8Array) => void trits.update(`${name}\n`).update(packed);
  const verdicts = await verdictsOn(gguf, io, { pre: args.pre, layout: layoutOptions(args), onTrits });
  return {
    label: gguf.label,
    bytes: gguf.byteLength,
    sha256: await fileHash(gguf, io),
    trits: trits.digest('hex'),
    published: attempted(() => publishedOf(readModelConfig(gguf))),
    isPooled: (attempted(() => gguf.findUint(`${gguf.getString('general.architecture')}.pooling_type`)) ?? 0) !== 0,
    verdicts,
  };
}

/** Undefined where metadata are bad: verdicts have said so. */
function attempted<T>(read: () => T): T | undefined {
  const found = attempt(read);
  return found.ok ? found.value : undefined;
}

/** Loads the model and asks it everything. What it refuses is a verdict: that is what the user wants to know. */
async function listen(
  args: Args,
  file: FileFacts,
  io: Io,
): Promise<{ readonly verdicts: Verdict[]; readonly answers?: Answers }> {
  let model: Model | undefined;
  try {
    model = await openModel(args, io);
    const logits = createHash('sha256');
    const speech = await speak(model, {
      onLogits: (rows) => void logits.update(littleEndianBytes(rows)),
      onProgress: (what) => {
        if (!args.quiet) io.status(what);
      },
      signal: io.signal,
    });
    return { verdicts: [], answers: answersOf(model, file, speech, logits.digest('hex')) };
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    const todo = error.facts.hint ?? 'see the verdicts above';
    return { verdicts: [bad(model === undefined ? 'loading' : 'speech', error.message, todo)] };
  } finally {
    io.status('');
    await model?.dispose();
  }
}

function answersOf(model: Model, file: FileFacts, speech: Speech, logits: string): Answers {
  const { info, backend, tokenizer } = model;
  return {
    format: FORMAT,
    version: 1,
    model: {
      name: info.name,
      architecture: info.architecture,
      activation: info.activation,
      vocabulary: vocabularyHash(tokenizer),
      trits: file.trits,
    },
    text: sha256(QUESTIONS),
    ...speech,
    perplexity: exp(speech.prose.nats / speech.prose.tokens),
    logits,
    run: {
      file: { name: file.label.slice(file.label.lastIndexOf('/') + 1), bytes: file.bytes, sha256: file.sha256 },
      backend: { name: backend.name, variant: backend.variant, exact: backend.exact },
      notes: model.notes,
    },
  };
}

async function record(sink: ByteSink, answers: Answers): Promise<void> {
  await sink.write(new TextEncoder().encode(`${JSON.stringify(answers, null, 2)}\n`));
  await sink.close();
}

interface Outcome {
  readonly verdicts: readonly Verdict[];
  readonly file: FileFacts;
  readonly expected: Expectation;
  readonly answers: Answers | undefined;
  /** The recorded bits. */
  readonly isSame: boolean;
  /** Where the answers were to be recorded. */
  readonly written: string | undefined;
}

/** The last lines: what the user wanted to know. */
function sentence({ verdicts, file, expected, answers, isSame, written }: Outcome): string {
  const unpacked = file.label.endsWith('.gz') ? ', unpacked' : '';
  const lines = [`sha256 ${file.sha256}  ${file.label}${unpacked}`, `${verdictCounts(verdicts)}.`];
  if (written !== undefined)
    lines.push(answers === undefined ? `Nothing recorded in ${written}.` : `Answers recorded in ${written}.`);
  if (isAnyBad(verdicts)) {
    const n = verdicts.filter(({ grade }) => grade === 'bad').length;
    const speaks = answers !== undefined || file.isPooled ? 'see what it says above' : 'it could not be asked to speak';
    // Whoever compares two engines or containers wants to know this even of random weights.
    const same = isSame ? '; it gives the recorded answers, bit for bit' : '';
    lines.push(`NOT GOOD: ${plural(n, 'verdict')} against it${same}; ${speaks}.`);
    return lines.join('\n');
  }
  const model = file.published?.name ?? 'a model of no published shape';
  if (answers === undefined) lines.push(`GOOD as far as bytes tell: ${model}.`);
  else {
    const how = isSame
      ? 'it gives the recorded answers, bit for bit'
      : 'it speaks; there are no recorded bits to compare';
    lines.push(`GOOD: ${model}; ${how}.`);
    if (expected.figures !== undefined) lines.push(`For comparison, ${expected.figures}.`);
  }
  return lines.join('\n');
}
