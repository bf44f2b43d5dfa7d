/**
 * `bitnet inspect`: what a model file says and what that means here.
 * @module
 */

import { DEFAULT_CONTEXT } from '../engine/session.ts';
import { BitnetError } from '../errors.ts';
import { describeValue, type GgufFile, type GgufValue, openGguf, StringArray } from '../formats/index.ts';
import type { TernaryLayout } from '../model/forms.ts';
import { findLayout } from '../model/layout.ts';
import { command } from './command.ts';
import { type Attempt, cacheBytes, type Description, describeFile, plain } from './describe.ts';
import { type Fit, fitLine, fitOf } from './fit.ts';
import { UsageError, type Values } from './flags.ts';
import { jsonFlag, layoutFlags, layoutOptions, modelFlag, preFlag, runtimeFlags } from './flags-common.ts';
import { bytes, count, grouped, oneLine, plural, shortFloat, table } from './format.ts';
import type { Io } from './io.ts';
import { conformanceTable, conforms, kernelTable } from './kernels.ts';
import { openSource } from './open.ts';
import { isAnyBad, verdictCounts, verdictLines, verdictsOn } from './verdicts.ts';

const flags = {
  ...modelFlag,
  ...preFlag,
  ...layoutFlags,
  'ctx-size': { ...runtimeFlags['ctx-size'], describe: 'positions to reckon memory for' },
  backend: {
    ...runtimeFlags.backend,
    describe: 'whose memory to reckon with, or whose kernels to test: wasm, cuda [auto: wasm]',
  },
  device: runtimeFlags.device,
  'cache-type-k': runtimeFlags['cache-type-k'],
  'cache-type-v': runtimeFlags['cache-type-v'],
  tensors: { type: 'boolean', group: 'Output', describe: 'list every tensor: name, type, shape, offset, bytes' },
  metadata: {
    type: 'string',
    value: 'KEY',
    group: 'Output',
    describe: 'print the whole value of one key and nothing else',
  },
  verify: {
    type: 'boolean',
    group: 'Output',
    describe:
      'read the whole file and give a verdict a line: ok, warn, bad and what to do; exit status 1 if any is bad',
  },
  kernels: {
    type: 'boolean',
    group: 'Output',
    describe:
      'test and time the builds of the wasm kernels on this runtime, or test those of --backend cuda on its device, by the ' +
      'conformance suite; some seconds. Needs no file',
  },
  ...jsonFlag,
} as const;

type Args = Values<typeof flags>;

/** What describes a file, with the layout of its ternary tensors where their type does not tell it. */
type Facts = Description & { readonly layout: string | undefined };

/** Elements of an array that are shown. */
const SHOWN = 4;
const SHOWN_CHARACTERS = 72;
/** What verdicts cannot tell. */
const NEXT = 'Checksums are not comparable: no official ones are known here. "bitnet verify" lets the model speak.';

export const inspect = command({
  flags,
  word: { name: 'FILE', describe: 'path or URL, instead of -m' },
  examples: [
    ['bitnet inspect', 'the built-in model'],
    ['bitnet inspect model.gguf --tensors', 'with the table of tensors'],
    ['bitnet inspect model.gguf --metadata tokenizer.chat_template', 'one value, whole'],
    ['bitnet inspect model.gguf -c 4096 --json', 'for programs'],
    ['bitnet inspect model.gguf --verify', 'is it what it says it is, and whole?'],
    ['bitnet inspect --kernels', 'which build of the kernels runs here, and how fast'],
    ['bitnet inspect --kernels --backend cuda', 'does this GPU compute what it should? exit status 1 if not'],
  ],
  async run(args, io) {
    if (args.device !== undefined && args.backend !== 'cuda') throw new UsageError('--device needs --backend cuda');
    if (args.kernels) {
      if (args.word !== undefined) throw new UsageError('--kernels is about this machine and takes no FILE');
      if (args.backend === 'ts') throw new UsageError('--kernels tests wasm or cuda, by what ts computes');
      if (args.backend === 'cuda') return await testDevice(args, io);
      await io.write(await kernelsText(args, io));
      return 0;
    }
    const source = await openSource(args.word === undefined ? args : { ...args, model: args.word }, io, true);
    try {
      const gguf = await openGguf(source, { allowUnreadable: true });
      if (args.verify) return await verify(gguf, args, io);
      if (args.metadata !== undefined) {
        await io.write(`${wholeValue(gguf, args.metadata)}\n`);
        return 0;
      }
      const { layout, finding } = await findLayout(gguf, { ...layoutOptions(args), signal: io.signal });
      const facts = { ...describeFile(gguf, args.pre, layout.i2s), layout: finding };
      const fit = await fitOfFile(gguf, facts, layout, args);
      if (args.json) await io.write(`${JSON.stringify(asJson(gguf, facts, fit, args), jsonable, 2)}\n`);
      else await io.write(`${asText(gguf, facts, fit, args)}\n`);
      return 0;
    } finally {
      await source.close();
    }
  },
});

/** Prints the verdicts; the exit status. */
async function verify(gguf: GgufFile, args: Args, io: Io): Promise<number> {
  const verdicts = await verdictsOn(gguf, io, { pre: args.pre, layout: layoutOptions(args) });
  const isGood = !isAnyBad(verdicts);
  if (args.json) await io.write(`${JSON.stringify({ file: gguf.label, good: isGood, verdicts }, null, 2)}\n`);
  else await io.write(`${verdictLines(verdicts)}\n\n${verdictCounts(verdicts)}. ${NEXT}\n`);
  return isGood ? 0 : 1;
}

/** The whole conformance suite on a GPU, ops and models; the exit status. */
async function testDevice(args: Args, io: Io): Promise<number> {
  const [{ cuda, surveyBackend }, { runModelConformance }] = await Promise.all([
    import('../engine/backends.ts'),
    import('../oracle/conformance.ts'),
  ]);
  const open = cuda({ device: args.device });
  const survey = await surveyBackend(open, (what) => {
    io.signal.throwIfAborted();
    io.status(what);
  });
  const onOutcome = ({ name }: { readonly name: string }) => {
    io.signal.throwIfAborted();
    io.status(name);
  };
  const conformance = { ...survey, models: await runModelConformance(open, { onOutcome }) };
  io.status('');
  const ok = conforms(conformance);
  const document = { ok, ...conformance };
  await io.write(args.json ? `${JSON.stringify(document, null, 2)}\n` : `${conformanceTable(conformance)}\n`);
  return ok ? 0 : 1;
}

async function kernelsText(args: Args, io: Io): Promise<string> {
  const { surveyKernels } = await import('../engine/backends.ts');
  const survey = await surveyKernels((what) => io.status(what));
  io.status('');
  return args.json ? `${JSON.stringify(survey, null, 2)}\n` : `${kernelTable(survey)}\n`;
}

function asText(gguf: GgufFile, facts: Facts, fit: Attempt<Fit> | undefined, args: Args): string {
  const sections = [
    table(factRows(facts, args, fit).map(([name, value]) => [`${name}:`, value])),
    gguf.tensors.length === 0 ? 'no tensors: a vocabulary file' : table(typeRows(facts), [1, 2, 3]),
    table([...gguf.metadata].map(([key, value]) => [key, shortValue(value)])),
  ];
  if (args.tensors) sections.push(table(tensorRows(gguf), [3, 4]));
  return sections.filter((section) => section !== '').join('\n\n');
}

function factRows(facts: Facts, args: Args, fit: Attempt<Fit> | undefined): [string, string][] {
  const shards = facts.shards > 1 ? `, ${facts.shards} files` : '';
  const rows: [string, string][] = [
    ['file', `${facts.file}, ${bytes(facts.fileBytes)}, GGUF version ${facts.version}${shards}`],
    ['name', facts.name ?? '(none)'],
    ['architecture', facts.architecture ?? '(none)'],
    ['activation', told(facts.activation, ({ name, reason }) => `${name}, ${reason}`)],
    ['parameters', facts.parameters === 0 ? 'none' : `${count(facts.parameters)} (${grouped(facts.parameters)})`],
    [
      'shape',
      told(
        facts.config,
        (c) =>
          `${plural(c.nLayers, 'layer')}, width ${c.hidden}, feed-forward ${c.ffn}, ${c.nHeads} heads of ${c.headDim} over ` +
          `${c.nKvHeads} key/value heads, vocabulary ${grouped(c.vocabulary)}, context ${grouped(c.contextLength)}`,
      ),
    ],
  ];
  if (facts.tokenizer.ok) {
    const t = facts.tokenizer.value;
    rows.push(
      ['tokenizer', `${t.model}, ${grouped(t.tokens)} tokens${t.merges > 0 ? `, ${grouped(t.merges)} merges` : ''}`],
      [
        'pre-tokenizer',
        t.model === 'llama' ? 'none: SentencePiece needs none' : `${t.pre.name}, ${preOrigin(t.pre.origin)}`,
      ],
      ['begins with', t.addBos ? (t.bos ?? '(none)') : 'nothing added'],
      ['stop tokens', t.stop.length === 0 ? '(none)' : t.stop.join(', ')],
      ['chat template', templateLine(t.chatTemplate)],
    );
    if (t.bosPrefixRemoved) {
      rows.push(['special tokens', 'written behind the begin token by an older bitnet.cpp converter; read without it']);
    }
  } else rows.push(['tokenizer', facts.tokenizer.why]);
  if (facts.layout !== undefined) rows.push(['layout', facts.layout]);
  if (facts.config.ok && facts.types.length > 0) rows.push(['memory', memoryLine(facts, args)]);
  if (fit !== undefined) rows.push(['fits', fitLine(fit)]);
  return rows;
}

/** Nothing to say where there is no model, and of ts, whose memory has no ceiling of its own. */
async function fitOfFile(
  gguf: GgufFile,
  facts: Description,
  layout: TernaryLayout,
  args: Args,
): Promise<Attempt<Fit> | undefined> {
  if (!facts.config.ok || gguf.tensors.length === 0 || args.backend === 'ts') return undefined;
  return fitOf(gguf, facts.config.value, layout, args);
}

function told<T>(attempt: Attempt<T>, tell: (value: T) => string): string {
  return attempt.ok ? tell(attempt.value) : attempt.why;
}

function preOrigin(origin: string): string {
  if (origin === 'recognised') return 'recognised by the vocabulary; the file names none';
  return origin === 'forced' ? 'forced by --pre' : 'named by the file';
}

function templateLine(template: { readonly source: string; readonly origin: string } | undefined): string {
  if (template === undefined) return 'none';
  const origin = template.origin === 'recognised' ? "recognised; the file's own is only a mark" : "the file's own";
  return `${origin}: ${oneLine(template.source, SHOWN_CHARACTERS)}`;
}

/** Weights and cache for the context asked for, else for what a session would take. */
function memoryOf(facts: Description, args: Args) {
  if (!facts.config.ok) return undefined;
  const config = facts.config.value;
  const asked = args['ctx-size'];
  const positions = asked === 0 ? config.contextLength : (asked ?? Math.min(config.contextLength, DEFAULT_CONTEXT));
  const elementBytes = (type: string | undefined): number => (type === 'f32' ? 4 : 2);
  const kvBytes = cacheBytes(config, positions, elementBytes(args['cache-type-k']), elementBytes(args['cache-type-v']));
  return { weightBytes: facts.weightBytes, kvBytes, positions, totalBytes: facts.weightBytes + kvBytes };
}

function memoryLine(facts: Description, args: Args): string {
  const memory = memoryOf(facts, args)!;
  return (
    `${bytes(memory.totalBytes)} = weights ${bytes(memory.weightBytes)} + ` +
    `keys and values ${bytes(memory.kvBytes)} for ${grouped(memory.positions)} positions, and scratch`
  );
}

function typeRows(facts: Description): string[][] {
  const rows = facts.types.map((t) => [t.type, `${t.tensors}`, count(t.parameters), bytes(t.bytes), t.layout]);
  return [['type', 'tensors', 'values', 'size', 'layout'], ...rows];
}

function tensorRows(gguf: GgufFile): string[][] {
  const rows = gguf.tensors.map((tensor) => [
    tensor.name,
    tensor.dtype.name,
    `(${tensor.shape.join(', ')})`,
    `${tensor.offsetBytes}`,
    `${tensor.byteLength}`,
  ]);
  return [['tensor', 'type', 'shape', 'offset', 'bytes'], ...rows];
}

function shortValue(value: GgufValue): string {
  if (value.type === 'string') return `string ${oneLine(value.text, SHOWN_CHARACTERS)}`;
  if (value.type === 'f32') return `f32 ${shortFloat(value.value)}`;
  if (value.type !== 'array') return `${value.type} ${value.value}`;
  const { values } = value;
  const first: string[] = [];
  for (let i = 0; i < Math.min(SHOWN, values.length); i++) {
    first.push(values instanceof StringArray ? JSON.stringify(oneLine(values.text(i), 24)) : `${values[i]}`);
  }
  return `${describeValue(value)}: ${first.join(', ')}${values.length > SHOWN ? ', ...' : ''}`;
}

function wholeValue(gguf: GgufFile, key: string): string {
  const value = gguf.metadata.get(key);
  if (value === undefined) {
    throw new BitnetError('bad-metadata', 'no such key', { where: `${gguf.label}: ${key}` });
  }
  const whole = plain(value);
  if (typeof whole === 'string') return whole;
  return JSON.stringify(whole, jsonable) ?? '';
}

function asJson(gguf: GgufFile, facts: Facts, fit: Attempt<Fit> | undefined, args: Args): Record<string, unknown> {
  return {
    ...facts,
    activation: given(facts.activation),
    config: given(facts.config),
    tokenizer: given(facts.tokenizer),
    memory: memoryOf(facts, args),
    ...(fit === undefined ? {} : { fit: given(fit) }),
    metadata: Object.fromEntries([...gguf.metadata].map(([key, value]) => [key, jsonValue(value)])),
    ...(args.tensors ? { tensors: jsonTensors(gguf) } : {}),
  };
}

/** The thing itself, or `{ error }`. */
function given<T>(attempt: Attempt<T>): T | { readonly error: string } {
  return attempt.ok ? attempt.value : { error: attempt.why };
}

function jsonTensors(gguf: GgufFile): unknown[] {
  return gguf.tensors.map(({ name, dtype, shape, offsetBytes, byteLength }) => {
    return { name, type: dtype.name, shape, offsetBytes, byteLength };
  });
}

/** Long arrays by their beginning and length: a vocabulary would drown everything else. */
function jsonValue(value: GgufValue): unknown {
  if (value.type !== 'array' || value.values.length <= 64) return plain(value);
  return { type: `array of ${value.of}`, length: value.values.length };
}

/** bigint, typed arrays and lists of strings have no JSON form of their own. */
function jsonable(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  if (value instanceof StringArray) return Array.from({ length: value.length }, (_, i) => value.text(i));
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number>);
  return value;
}
