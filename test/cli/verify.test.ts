/** `bitnet verify`: the embedded model gives its recorded answers to the last bit; one that was broken on purpose does not pass. */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answers, compareAnswers, parseAnswers, speechVerdicts } from '../../src/engine/verify/answers.ts';
import { verifyFile } from '../../src/engine/verify/file.ts';
import { expectationOf, publishedNamed } from '../../src/engine/verify/known-models.ts';
import { FACT, PROSE, SHUFFLED } from '../../src/engine/verify/prose.ts';
import { type Speech, speak } from '../../src/engine/verify/speak.ts';
import { STORIES } from '../../src/engine/verify/stories.ts';
import { memorySource, openGguf, stringsValue } from '../../src/formats/index.ts';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { PUBLISHED } from '../../src/model/published.ts';
import { littleEndianBytes } from '../../src/oracle/npy.ts';
import { tinyModel } from '../model/models.ts';
import { runIn, runtimes, wantRuntime } from '../runtime/runtimes.ts';
import { changed, type Loose, stories, u32 } from './mutants.ts';
import { bitnet } from './program.ts';

let story: Uint8Array;
let folder: string;
const at = (name: string) => join(folder, name);
beforeAll(async () => {
  story = await stories();
  folder = await mkdtemp(join(tmpdir(), 'bitnet-verify-'));
});
afterAll(async () => rm(folder, { recursive: true }));

async function hear(file: Uint8Array, options: LoadOptions): Promise<Speech & { readonly logits: string }> {
  const model = await loadModel(file, options);
  try {
    const hash = createHash('sha256');
    const speech = await speak(model, { onLogits: (rows) => void hash.update(littleEndianBytes(rows)) });
    return { ...speech, logits: hash.digest('hex') };
  } finally {
    await model.dispose();
  }
}

describe('the embedded model', () => {
  it.each([
    { backend: 'ts' },
    { backend: 'wasm', threads: 1, batchSize: 7 },
    { backend: 'wasm', threads: 3, kernels: 'simd' },
  ] as const)('gives its recorded answers: %j', { timeout: 120_000 }, async (options) => {
    const { prose, shuffled, story: told, fact, logits } = await hear(story, options);
    expect({ prose, shuffled, story: told, fact, logits }).toEqual({
      prose: STORIES.prose,
      shuffled: STORIES.shuffled,
      story: STORIES.story,
      fact: STORIES.fact,
      logits: STORIES.logits,
    });
  });

  it.each(runtimes)('gives them on $name', { timeout: 60_000 }, async (runtime) => {
    wantRuntime(runtime);
    const { stdout } = await runIn(runtime, 'dist/cli/main.js', ['verify', '-t', '2']);
    expect(stdout).toMatch(/it gives the recorded answers, bit for bit\.\n$/);
  });

  it('passes as a command, without and with its name', async () => {
    const { code, out } = await bitnet(['verify']);
    expect(code, out).toBe(0);
    expect(out).toMatch(/^ok {4}logits +the same bits as the known answers, 304 rows/m);
    expect(out).toMatch(/GOOD: the story model of bitnet-ts; it gives the recorded answers, bit for bit\.\n$/);
    expect((await bitnet(['verify', '--against', 'story model'])).code).toBe(0);
  });

  it('in another container with the same trits and rounded scales is the same model with other bits', async () => {
    const path = at('requantised.gguf');
    await writeFile(
      path,
      await changed(story, (l) => {
        for (const tensor of l.like('attn_v')) l.setScale(tensor, (scale) => scale * 1.0001);
      }),
    );
    const { code, out } = await bitnet(['verify', path]);
    expect(code, out).toBe(0);
    expect(out).toMatch(/^warn {2}logits +other bits, perplexity 11\.\d+, 11\.\d+ in the known answers/m);
    expect(out).toContain('it speaks; there are no recorded bits to compare');
  });
});

/** Broken so that it still loads and runs. */
const broken: readonly (readonly [name: string, change: (loose: Loose) => void, verdicts: readonly RegExp[]])[] = [
  ['the wrong activation', (l) => l.relabel('bitnet'), [/^bad {3}activation .*labelled bitnet/m, /^bad {3}logits/m]],
  [
    'permuted columns of ffn_down',
    (l) => {
      for (const { name, shape } of l.like('ffn_down')) {
        const [columns] = shape;
        l.setTrits(name, (i, old) => {
          const column = i % columns;
          return old[i - column + ((column * 5) % columns)];
        });
      }
    },
    [/^bad {3}prose/m, /^bad {3}trits/m, /^bad {3}logits/m],
  ],
  [
    'one scale a hundred times too large',
    (l) => l.setScale(l.tensor('blk.0.attn_output.weight'), (scale) => 100 * scale),
    [/^warn {2}blk\.\*\.attn_output .*blk\.0\.attn_output\.weight has scale/m, /^bad {3}prose/m, /^bad {3}logits/m],
  ],
  [
    'a vocabulary in another order',
    (l) => {
      const value = l.metadata.get('tokenizer.ggml.tokens');
      if (value?.type !== 'array' || value.of !== 'string') throw new Error('no tokens');
      const tokens = Array.from({ length: value.values.length }, (_, i) => value.values.bytes(i));
      // Bytes and control tokens keep their places; words turn by a thousand.
      const words = tokens.slice(256, 4094);
      l.metadata.set(
        'tokenizer.ggml.tokens',
        stringsValue([...tokens.slice(0, 256), ...words.slice(1000), ...words.slice(0, 1000), ...tokens.slice(4094)]),
      );
    },
    [/^bad {3}prose/m, /^bad {3}vocabulary +not that of the known answers/m, /^bad {3}logits/m],
  ],
];

describe('broken models', () => {
  it.each(broken)('%s', async (_, change, verdicts) => {
    const path = at('broken.gguf');
    await writeFile(path, await changed(story, change));
    const { code, out } = await bitnet(['verify', '-m', path]);
    expect(code, out).toBe(1);
    for (const verdict of verdicts) expect(out).toMatch(verdict);
    expect(out).toMatch(/NOT GOOD: \d verdicts? against it; see what it says above\.\n$/);
  });

  it('random weights do not speak, whatever their shape', async () => {
    const path = at('random.gguf');
    await writeFile(path, await tinyModel({ architecture: 'llama' }));
    const { code, out } = await bitnet(['verify', path, '--json']);
    expect(code).toBe(1);
    const { good, verdicts } = JSON.parse(out);
    expect(good).toBe(false);
    const bad = verdicts.filter(({ grade }: { grade: string }) => grade === 'bad');
    expect(bad.map(({ what }: { what: string }) => what)).toEqual(['prose', 'order']);
  });

  it('one that cannot be loaded is a verdict, not a crash', async () => {
    const path = at('code3.gguf');
    await writeFile(path, await changed(story, (l) => void l.tensor('blk.5.ffn_up.weight').bytes.fill(0xff, 0, 8)));
    const { code, out, err } = await bitnet(['verify', path]);
    expect({ code, err }).toEqual({ code: 1, err: '' });
    expect(out).toMatch(/^bad {3}blk\.\*\.ffn_up .*code 3/m);
    expect(out).toMatch(/^bad {3}loading .*code 3/m);
    expect(out).toContain('NOT GOOD: 2 verdicts against it; it could not be asked to speak.');
  });

  it('an embedding model is not asked to speak', async () => {
    const path = at('pooled.gguf');
    const random = await tinyModel({ architecture: 'llama' });
    await writeFile(path, await changed(random, (l) => void l.metadata.set('llama.pooling_type', u32(3))));
    const { code, out } = await bitnet(['verify', path]);
    expect(code, out).toBe(0);
    expect(out).toMatch(/^ok {4}speech +an embedding model/m);
    expect(out).toMatch(/GOOD as far as bytes tell: a model of no published shape\.\n$/);
    expect(out).not.toContain('prose');
  });

  it('an embedding model has no answers: recording or comparing them is refused, not passed over', async () => {
    const path = at('pooled.gguf');
    const random = await tinyModel({ architecture: 'llama' });
    await writeFile(path, await changed(random, (l) => void l.metadata.set('llama.pooling_type', u32(3))));
    const answers = at('pooled.json');
    const written = await bitnet(['verify', path, '--write', answers]);
    expect(written.code, written.out).toBe(1);
    expect(written.out).toMatch(/^bad {3}write +no answers to record in .*pooled\.json {2}-> compare its vectors/m);
    expect(written.out).toContain(`Nothing recorded in ${answers}.`);
    expect(written.out).toMatch(/NOT GOOD: 1 verdict against it; see what it says above\.\n$/);
    await expect(readFile(answers)).rejects.toThrow('ENOENT');

    await writeFile(answers, JSON.stringify(STORIES));
    const compared = await bitnet(['verify', path, '--against', answers]);
    expect(compared.code, compared.out).toBe(1);
    expect(compared.out).toMatch(/^bad {3}against +no answers to compare with .*pooled\.json/m);
  });

  it('another model than the one asked for', async () => {
    const { code, out } = await bitnet(['verify', '--against', '2b-4t']);
    expect(code).toBe(1);
    expect(out).toMatch(
      /^bad {3}against +asked for microsoft\/BitNet-b1\.58-2B-4T, but this has the shape of the story model/m,
    );
    expect((await bitnet(['verify', '--against', 'gpt5'])).code).toBe(2);
  });
});

describe('recorded answers', () => {
  it('are written, and compared: the same, and where they differ', async () => {
    const good = at('good.json');
    const recorded = await bitnet(['verify', '--write', good]);
    expect(recorded.code, recorded.out).toBe(0);
    expect(recorded.out).toContain(`\nAnswers recorded in ${good}.\nGOOD: `);
    const { run, ...written } = JSON.parse(await readFile(good, 'utf8'));
    const { run: _, ...known } = STORIES;
    expect(written).toEqual(known);
    expect(run).toMatchObject({ file: (STORIES.run as { file: object }).file, backend: { exact: true } });

    const same = await bitnet(['verify', '--against', good, '--backend', 'wasm', '-t', '2']);
    expect(same.code, same.out).toBe(0);
    expect(same.out).toContain(`the same bits as ${good}`);

    const other = at('other.json');
    const answers = JSON.parse(await readFile(good, 'utf8'));
    answers.story.tokens[9] = 1;
    answers.logits = '0'.repeat(64);
    await writeFile(other, JSON.stringify(answers));
    const differs = await bitnet(['verify', '--against', other]);
    expect(differs.out).toMatch(/^warn {2}logits .*the story differs from token 9 on/m);
  }, 60_000);

  it('are refused where they cannot be written, before the model is even looked for', async () => {
    const { code, out, err } = await bitnet(['verify', at('nowhere.gguf'), '--write', at('no/such/folder.json')]);
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err).toMatch(/^bitnet: io: .*folder\.json: cannot create, got no such file or folder\n$/);
    // Nothing is left of answers that never came.
    expect((await bitnet(['verify', at('nowhere.gguf'), '--write', at('never.json')])).err).toContain('nowhere.gguf');
    expect((await readdir(folder)).filter((name) => name.includes('never'))).toEqual([]);
  });

  it('of a model that says nothing good are compared all the same', async () => {
    const path = at('random.gguf');
    await writeFile(path, await tinyModel({ architecture: 'llama' }));
    const answers = at('random.json');
    expect((await bitnet(['verify', path, '--write', answers])).out).toContain(
      `\nAnswers recorded in ${answers}.\nNOT GOOD`,
    );
    const { code, out } = await bitnet(['verify', path, '--against', answers]);
    expect(code, out).toBe(1);
    expect(out).toMatch(
      /NOT GOOD: 2 verdicts against it; it gives the recorded answers, bit for bit; see what it says/,
    );
  });

  it.each([
    ['no JSON', '{', /not JSON/],
    ['something else', '{"format":"x"}', /not recorded answers/],
    ['null', 'null', /not recorded answers/],
    ['a half of it', JSON.stringify({ ...STORIES, logits: undefined }), /not whole/],
    ['tokens that are none', JSON.stringify({ ...STORIES, story: { tokens: ['a'] } }), /not whole/],
    ['no model', JSON.stringify({ ...STORIES, model: null }), /not whole/],
  ])('are refused where they are %s', (_, json, message) => {
    expect(() => parseAnswers(json, 'x.json')).toThrow(message);
  });

  it('to other questions are not compared', () => {
    const { verdicts, isSame } = compareAnswers(STORIES, { ...STORIES, text: 'other' }, 'x.json');
    expect(isSame).toBe(false);
    expect(verdicts).toMatchObject([{ grade: 'bad', finding: 'x.json are to other questions' }]);
  });

  it('of another model differ in every line', () => {
    const model = { ...STORIES.model, architecture: 'llama', activation: 'silu', vocabulary: 1, trits: '' };
    const other: Answers = { ...STORIES, model, logits: '', prose: { ...STORIES.prose, nats: 1 } };
    const { verdicts } = compareAnswers(STORIES, other, 'x.json');
    expect(verdicts.map(({ grade, what }) => `${grade} ${what}`)).toEqual([
      'bad vocabulary',
      'bad architecture',
      'bad activation',
      'bad trits',
      'bad logits',
    ]);
  });
});

describe('expectations', () => {
  const surprise = (bitsPerByte: number) => ({ tokens: 1, bytes: 1, nats: 1, bitsPerByte });
  const said = (prose: number, shuffled: number, text: string): Speech => ({
    prose: surprise(prose),
    shuffled: surprise(shuffled),
    story: STORIES.story,
    fact: { prompt: FACT.prompt, tokens: [], text },
  });
  const bad = (speech: Speech, name: string | undefined) =>
    speechVerdicts(speech, expectationOf(name === undefined ? undefined : publishedNamed(name)))
      .filter(({ grade }) => grade === 'bad')
      .map(({ what }) => what);

  it('take a large model that speaks, and no other', () => {
    expect(bad(said(0.9, 2, ' Paris.'), '2b-4t')).toEqual([]);
    expect(bad(said(1.45, 2.1, ' Paris.'), '2b-4t')).toEqual(['prose']);
    expect(bad(said(1.45, 2.1, ' Paris.'), 'Llama3-8B')).toEqual([]);
    expect(bad(said(0.9, 2, ' the the the'), 'falcon3-7b')).toEqual(['fact']);
    expect(bad(said(0.9, 2, ' a city'), 'b1_58-large')).toEqual([]);
    expect(bad(said(3.9, 3.9, 'GGGG'), undefined)).toEqual(['prose', 'order']);
  });

  it('are there for every published model, by names that mean one', () => {
    for (const published of PUBLISHED) {
      expect(publishedNamed(published.name)).toBe(published);
      expect(expectationOf(published).mostBitsPerByte).toBeLessThan(2);
    }
    expect(publishedNamed('falcon3')).toBeUndefined();
    expect(new Set(PUBLISHED.map(({ shape }) => JSON.stringify(shape))).size).toBe(PUBLISHED.length);
  });

  it('ask with a text that is read forwards and backwards', () => {
    expect(SHUFFLED.split(' ').toSorted()).toEqual(PROSE.split(/\s+/).toSorted());
    expect(SHUFFLED.startsWith('them. of proud very was she')).toBe(true);
  });
});

it('verdicts do not depend on the order of tensors in the file', async () => {
  const turned = await changed(story, (loose) => void loose.tensors.reverse());
  const trits = async (file: Uint8Array) => {
    const hash = createHash('sha256');
    const onTrits = (name: string, packed: Uint8Array) => void hash.update(`${name}\n`).update(packed);
    await verifyFile(await openGguf(memorySource(file)), { onTrits });
    return hash.digest('hex');
  };
  expect(await trits(turned)).toBe(STORIES.model.trits);
});
