/**
 * Text to tokens and back, with the vocabulary of `--model` (whose tensors are not read) or of the built-in model.
 */

import { readFileSync } from 'node:fs';
import { openModelFile } from '../src/engine/model.ts';
import { readTokenizerSpec } from '../src/engine/read-tokenizer.ts';
import { Rng } from '../src/numeric/rng.ts';
import { createTokenizer } from '../src/tokenizer/index.ts';
import { type Case, ROOT, type Suite, type Work } from './harness.ts';

const TEXT_BYTES = 1 << 20;

export const tokenize: Suite = {
  name: 'tokenize',
  async *cases(options) {
    const gguf = await openModelFile(options.model ?? new URL('fixtures/models/stories.gguf.gz', ROOT));
    const spec = readTokenizerSpec(gguf);
    await gguf.close();
    yield { name: 'tokenize/make the tokenizer', slow: true, prepare: () => ({ run: () => createTokenizer(spec) }) };
    const tokenizer = createTokenizer(spec);
    const texts: Record<string, () => string> =
      options.text === undefined
        ? { prose: () => prose(TEXT_BYTES), mixed: () => mixed(TEXT_BYTES) }
        : { text: () => readFileSync(options.text!, 'utf8') };
    for (const [kind, make] of Object.entries(texts)) {
      let ready: { text: string; ids: number[]; work: Work } | undefined;
      const input = () => {
        if (ready === undefined) {
          const text = make();
          const ids = tokenizer.encode(text);
          ready = { text, ids, work: { bytes: Buffer.byteLength(text), tokens: ids.length } };
        }
        return ready;
      };
      const timed = (what: string, run: (input: { text: string; ids: number[] }) => unknown): Case => ({
        name: `tokenize/${what} ${kind}`,
        work: () => input().work,
        slow: true,
        prepare() {
          const given = input();
          return { run: () => run(given) };
        },
      });
      // By a tokenizer that remembers nothing of earlier words: what a first long prompt costs.
      yield timed('encode for the first time', ({ text }) => createTokenizer(spec).encode(text));
      yield timed('encode', ({ text }) => tokenizer.encode(text));
      yield timed('decode', ({ ids }) => tokenizer.decode(ids));
      yield timed('stream', ({ ids }) => {
        const stream = tokenizer.stream();
        let length = 0;
        for (const id of ids) length += stream.push(id).length;
        return length + stream.flush().length;
      });
    }
  },
};

const SYLLABLES = 'an ba che do el fi go hu in ju ke la mo ne or pa qui ro se ta un ve wi xo ye zu'.split(' ');

/** Sentences of invented words, the frequent ones much more frequent than the rest, as in any language. */
function prose(length: number): string {
  const rng = Rng.fromSeed(1);
  const words = Array.from({ length: 4000 }, (_, rank) =>
    Array.from({ length: 1 + (rank % 4) }, () => SYLLABLES[rng.nextUint32() % SYLLABLES.length]).join(''),
  );
  const parts: string[] = [];
  for (let n = 0, since = 0; n < length; since++) {
    const word = words[Math.floor(words.length ** rng.nextFloat()) - 1];
    const ends = since > 5 && rng.nextUint32() % 10 === 0;
    const part = `${word}${ends ? '.\n' : since % 7 === 6 ? ', ' : ' '}`;
    if (ends) since = 0;
    parts.push(part);
    n += part.length;
  }
  return parts.join('');
}

/** Code, digits, other scripts and emoji: what the fast paths for plain words do not see. */
function mixed(length: number): string {
  const rng = Rng.fromSeed(2);
  const parts: string[] = [];
  const pick = (from: number, to: number) => String.fromCodePoint(from + (rng.nextUint32() % (to - from)));
  for (let n = 0; n < length; ) {
    const kind = rng.nextUint32() % 5;
    const many = 3 + (rng.nextUint32() % 12);
    const some = (make: () => string) => Array.from({ length: many }, make).join('');
    let part = `const x${many} = f(${rng.nextUint32() % 100000}, "${SYLLABLES[many]}");\n`;
    if (kind === 1) part = some(() => pick(0x4e00, 0x9fa5));
    if (kind === 2) part = some(() => pick(0x410, 0x450));
    if (kind === 3) part = some(() => pick(0x1f600, 0x1f640));
    if (kind === 4) part = `   ${rng.nextUint32()} ${rng.nextFloat()}\n\n`;
    parts.push(part);
    n += Buffer.byteLength(part);
  }
  return parts.join('');
}
