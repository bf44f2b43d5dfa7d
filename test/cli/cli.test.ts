import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';
import { VOCABULARY, writeTinyModel, writeTinyVocabulary } from './tiny-model.ts';

// Every case starts a few processes, which on a busy machine take their time.
vi.setConfig({ testTimeout: 120_000 });

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-cli-'));
  await writeTinyModel(at('plain.gguf'), { template: false });
  await writeTinyModel(at('chat.gguf'), { template: true });
  await writeTinyVocabulary(at('vocabulary.gguf'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs a command that must succeed; its stdout. */
async function ok(args: string[], options: Parameters<typeof bitnet>[1] = {}): Promise<string> {
  const { code, out, err } = await bitnet(args, options);
  expect(err, `stderr of bitnet ${args.join(' ')}`).not.toContain('    at ');
  expect(code, err).toBe(0);
  return out;
}

describe('help and refusals', () => {
  it('prints version and help', async () => {
    expect(await ok(['--version'])).toMatch(/^\d+\.\d+\.\d+ \(numerics \d+\)\n$/);
    const help = await ok(['--help']);
    for (const name of ['run', 'chat', 'inspect', 'tokenize', 'oracle logits', 'perplexity', 'synth']) {
      expect(help).toContain(`bitnet ${name} `);
    }
    expect(await ok(['run', '--help'])).toContain('-m, --model');
    expect(await ok(['-h'])).toBe(help);
  });

  it.each([
    [['nru'], 'bitnet: unknown command "nru"; did you mean run?; see bitnet --help'],
    [['run', '--tmep', '1'], 'bitnet: unknown flag --tmep; did you mean --temp?; see bitnet run --help'],
    [['-n', 'ten'], 'bitnet: -n takes an integer of at least -2, got "ten"; see bitnet run --help'],
    [['run', '-t', '0'], 'bitnet: -t takes an integer from 1 to 256, got "0"; see bitnet run --help'],
    [['run', '-p', 'a', '-f', 'b'], 'bitnet: -p and -f exclude each other; see bitnet run --help'],
    [['run', '-cnv', '--json'], 'bitnet: --json and -cnv exclude each other; see bitnet run --help'],
    [['chat', '--system', 'x'], 'bitnet: unknown flag --system; did you mean --system-prompt?; see bitnet chat --help'],
    [['run', '-i'], 'bitnet: unknown flag -i; see bitnet run --help'],
    [
      ['run', '-n', '1', '--threds', '1'],
      'bitnet: unknown flag --threds; did you mean --threads?; see bitnet run --help',
    ],
    [
      ['embed', '-p', 'a', '--embd-output-format', 'xml'],
      'bitnet: --embd-output-format takes "", array, json, json+; got "xml"; see bitnet embed --help',
    ],
    [['run', 'a'], 'bitnet: unexpected argument "a"; see bitnet run --help'],
    [
      ['run', '-l', 'x'],
      'bitnet: --logit-bias takes ID+BIAS or ID-BIAS, e.g. 15043+1 or 15043-inf; got "x"; see bitnet run --help',
    ],
    [['tokenize'], 'bitnet: give one of -p, -f and --stdin; see bitnet tokenize --help'],
    [['perplexity'], 'bitnet: -f is missing; see bitnet perplexity --help'],
  ])('%j is a wrong command line: exit 2', async (args, message) => {
    expect(await bitnet(args)).toEqual({ code: 2, out: '', err: `${message}\n` });
  });

  it('names the commands of a group', async () => {
    const { code, out, err } = await bitnet(['oracle']);
    expect([code, out]).toEqual([2, '']);
    expect(err).toMatch(
      /^bitnet: oracle needs one of: bitnet oracle logits, (bitnet oracle \w+(, )?)+; see bitnet --help\n$/,
    );
  });

  it.each(['--help', '-h'])('explains the commands of a group: %s', async (flag) => {
    const { code, out, err } = await bitnet(['oracle', flag]);
    expect([code, err]).toEqual([0, '']);
    for (const name of ['logits', 'endpoint', 'trace', 'compare', 'kit']) {
      expect(out).toMatch(new RegExp(`^bitnet oracle ${name} +[A-Z].*\\.$`, 'm'));
    }
  });

  it('tells what is wrong with a file in one line: exit 1', async () => {
    await writeFile(at('text.txt'), 'this is no model');
    const { code, out, err } = await bitnet(['run', '-m', at('text.txt')]);
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^bitnet: bad-container: .*text\.txt: not a GGUF file.*\n$/);
    expect(await bitnet(['run', '-m', folder])).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^bitnet: io: .*: is a directory, expected a file \(.*bitnet convert .*\)\n$/),
    });
    expect(await bitnet(['run', '-m', at('nowhere')])).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^bitnet: io: /),
    });
    expect(await bitnet(['run', '-m', at('vocabulary.gguf')])).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^bitnet: missing-tensor: /),
    });
  });
});

describe('run', () => {
  const story = (...more: string[]) => [
    'run',
    '-m',
    at('plain.gguf'),
    '-p',
    'once',
    '-n',
    '24',
    '--seed',
    '5',
    ...more,
  ];

  it('takes the command lines of llama.cpp and bitnet.cpp, with what means nothing here', async () => {
    const own = ['run', '-m', at('plain.gguf'), '-n', '3', '-p', 'ab', '--temp', '0', '-q'];
    const theirs = ['-ngl', '0', '-tb', '2', '-ub', '64', '-e', '--mlock', '--no-mmap', '--no-warmup', '--no-perf'];
    expect(await ok([...own, ...theirs, '--simple-io', '--log-disable'])).toBe(await ok(own));
  });

  it('continues a prompt, the same for the same seed on both backends', async () => {
    const { code, out, err } = await bitnet(story());
    expect(code).toBe(0);
    expect(out.startsWith('once')).toBe(true);
    expect(out.endsWith('\n')).toBe(true);
    expect(err).toMatch(/^seed 5 \| prompt 6 tokens, .* \| generated 24 tokens, .* \| ended by -n\n$/);
    expect(await ok(story('-q', '--backend', 'ts'))).toBe(out);
    expect(await ok(story('-q', '-t', '1', '-b', '3', '-ngl', '0'))).toBe(out);
    expect(await ok(story('-q', '--seed', '6'))).not.toBe(out);
    expect(await ok(story('-q', '--no-display-prompt'))).toBe(out.slice('once'.length));
  });

  it('gives one JSON result', async () => {
    const result = JSON.parse(await ok(story('--json', '-q')));
    expect(result).toMatchObject({ prompt: 'once', stopReason: 'maxTokens', seed: 5, model: { name: 'tiny' } });
    expect(result.tokens).toHaveLength(24);
    expect(result.usage).toEqual({ promptTokens: 6, cachedTokens: 0, generatedTokens: 24 });
    expect(`once${result.text}\n`.replace(/\n\n$/, '\n')).toBe(await ok(story('-q')));
  });

  it('obeys bias, stop texts and temperature 0', async () => {
    // 259 is the space token, 260 is "a".
    const biased = story('-q', '--temp', '0', '--logit-bias', '260+1000', '--no-display-prompt');
    expect(await ok(biased)).toBe(`${'a'.repeat(24)}\n`);
    expect(await ok([...biased, '-r', 'aaa'])).toBe('');
  });

  it('takes prompts from files and the model from the environment, also gzipped', async () => {
    await writeFile(at('prompt.txt'), 'on\\nce\n');
    await writeFile(at('plain.gguf.gz'), gzipSync(await readFile(at('plain.gguf'))));
    const out = await ok(['-f', at('prompt.txt'), '-n', '0', '-q'], { env: { BITNET_MODEL: at('plain.gguf.gz') } });
    expect(out).toBe('on\\nce\n');
    expect(await ok(['-m', at('plain.gguf'), '-p', 'a\\tb', '-n', '0', '-q'])).toBe('a\tb\n');
    expect(await ok(['-m', at('plain.gguf'), '-p', 'a\\tb', '-n', '0', '-q', '--no-escape'])).toBe('a\\tb\n');
  });

  it('stops at once on Ctrl-C: exit 130', async () => {
    const endless = ['-m', at('plain.gguf'), '-p', 'a', '--ignore-eos', '--backend', 'ts'];
    const { code, err } = await bitnet(endless, {
      meanwhile: (child) => child.stdout.once('data', () => child.kill('SIGINT')),
    });
    expect([code, err]).toEqual([130, '']);
  });

  it('is quiet when nobody reads any more', async () => {
    const endless = ['-m', at('plain.gguf'), '-p', 'a', '--ignore-eos', '-q', '--backend', 'ts'];
    const { code, err } = await bitnet(endless, {
      meanwhile: (child) => child.stdout.once('data', () => child.stdout.destroy()),
    });
    expect([code, err]).toEqual([0, '']);
  });
});

describe('chat', () => {
  const words = () => ['-m', at('chat.gguf'), '-n', '4', '--seed', '1', '--logit-bias', '2-inf'];

  it('answers line by line, with commands', async () => {
    const saved = at('saved.json');
    const script = `hello\\\nthere\n/save ${saved}\n/clear\n/load ${saved}\n/help\n/nonsense\n/exit\nnever\n`;
    const { code, err } = await bitnet(['chat', ...words()], { stdin: script });
    expect(code).toBe(0);
    expect(err).toContain('saved 2 messages\nloaded 2 messages\n/help');
    expect(err).toContain('unknown command /nonsense');
    const { messages } = JSON.parse(await readFile(saved, 'utf8'));
    expect(messages).toEqual([
      { role: 'user', content: 'hello\nthere' },
      { role: 'assistant', content: expect.any(String) },
    ]);
  });

  it('is what run -cnv does, where -p is the system prompt', async () => {
    const asChat = await ok(['chat', ...words(), '-sys', 'be', '-q'], { stdin: 'hi\nho\n' });
    const asRun = await ok([...words(), '-cnv', '-p', 'be', '-q'], { stdin: 'hi\nho\n' });
    expect(asRun).toBe(asChat);
    expect(asChat).not.toBe('');
  });

  it('needs a template', async () => {
    const { code, out, err } = await bitnet(['chat', '-m', at('plain.gguf')], { stdin: 'hi\n' });
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^bitnet: no-template: tiny: .*--chat-template.*\n$/);
    await ok(['chat', '-m', at('plain.gguf'), '-n', '1', '--chat-template', '{{ messages[0].content }}'], {
      stdin: 'hi\n',
    });
  });

  it('fails loudly in a script', async () => {
    const { code, err } = await bitnet(['chat', ...words(), '-c', '8'], {
      stdin: 'a message of more than eight tokens\n',
    });
    expect(code).toBe(1);
    expect(err).toMatch(/^bitnet: context-full: .* \(raise contextSize \(-c\)\)\n$/);
    // What cannot be raised is not advised.
    const whole = await bitnet(['run', '-p', 'a b c '.repeat(400), '-c', '0', '--no-display-prompt']);
    expect(whole.err).toMatch(/^bitnet: context-full: .* at most 512, got \d+ \(the model was made for no more\)\n$/);
  });
});

describe('tokenize', () => {
  const tokenize = (...more: string[]) => ok(['tokenize', '-m', at('vocabulary.gguf'), ...more]);

  it('prints what llama-tokenize prints', async () => {
    expect(await tokenize('-p', 'ab')).toBe("     1 -> '<s>'\n   259 -> ' '\n   260 -> 'a'\n   261 -> 'b'\n");
    expect(await tokenize('-p', 'ab', '--ids')).toBe('[1, 259, 260, 261]\n');
    expect(await tokenize('-p', 'ab', '--ids', '--no-bos', '--show-count')).toBe(
      '[259, 260, 261]\nTotal number of tokens: 3\n',
    );
  });

  it('reads special tokens unless told not to, from any source', async () => {
    await writeFile(at('special.txt'), '</s>');
    expect(await tokenize('-f', at('special.txt'), '--ids')).toBe('[1, 2]\n');
    const plain = await ok(['tokenize', '-m', at('vocabulary.gguf'), '--stdin', '--ids', '--no-parse-special'], {
      stdin: '</s>',
    });
    expect(plain).toBe('[1, 259, 63, 50, 278, 65]\n');
  });
});

describe('inspect', () => {
  it('describes a model', async () => {
    const text = await ok(['inspect', at('plain.gguf'), '--tensors', '-c', '64']);
    expect(text).toMatch(/^architecture: +bitnet-b1\.58$/m);
    expect(text).toMatch(/^activation: +relu2, decided by the architecture/m);
    expect(text).toMatch(/^stop tokens: +2 "<\/s>"$/m);
    expect(text).toMatch(/^memory: .* for 64 positions/m);
    expect(text).toMatch(/^I2_S +7 .*128-value blocks/m);
    expect(text).toMatch(/^tokenizer\.ggml\.tokens +array of \d+ string: "<unk>", /m);
    expect(text).toMatch(/^blk\.0\.ffn_down\.weight +I2_S +\(256, 128\) +\d+ +8224$/m);
  });

  it('describes a vocabulary, and anything as JSON', async () => {
    expect(await ok(['inspect', at('vocabulary.gguf')])).toContain('no tensors: a vocabulary file');
    const facts = JSON.parse(await ok(['inspect', at('chat.gguf'), '--json', '--tensors']));
    expect(facts).toMatchObject({
      architecture: 'bitnet-b1.58',
      activation: { name: 'relu2' },
      config: { hidden: 128 },
    });
    expect(facts.tensors).toHaveLength(13);
    expect(facts.tokenizer.chatTemplate.origin).toBe('file');
    expect(await ok(['inspect', at('chat.gguf'), '--metadata', 'general.name'])).toBe('tiny\n');
    expect(JSON.parse(await ok(['inspect', at('chat.gguf'), '--metadata', 'tokenizer.ggml.tokens']))[1]).toBe('<s>');
  });
});

describe('oracle and perplexity', () => {
  const IDS = [1, 259, 260, 261, 262, 270, 265, 280, 259, 262, 261, 275];

  /** Rows of logits as the oracle writes them. */
  async function logits(ids: number[], ...more: string[]): Promise<{ rows: Float32Array[]; digest: string }> {
    const out = await ok([
      'oracle',
      'logits',
      '-m',
      at('plain.gguf'),
      '--tokens',
      ids.join(','),
      '-o',
      at('out.npy'),
      '-q',
      ...more,
    ]);
    const file = await readFile(at('out.npy'));
    expect(file.subarray(0, 8).toString('latin1')).toBe('\x93NUMPY\x01\x00');
    const start = 10 + file.readUInt16LE(8);
    expect(start % 64).toBe(0);
    expect(file.subarray(10, start).toString()).toContain(`'shape': (${ids.length}, ${VOCABULARY})`);
    const body = file.subarray(start);
    const digest = createHash('sha256').update(body).digest('hex');
    expect(out).toBe(`sha256 ${digest}  (${ids.length}, ${VOCABULARY})\n`);
    const rows = ids.map((_, i) =>
      Float32Array.from({ length: VOCABULARY }, (_, j) => body.readFloatLE(4 * (i * VOCABULARY + j))),
    );
    return { rows, digest };
  }

  it('has one digest, whatever computes it', async () => {
    const { digest } = await logits(IDS);
    for (const more of [
      ['--backend', 'ts'],
      ['--batch', '1'],
      ['-t', '2', '--batch', '5'],
    ]) {
      expect((await logits(IDS, ...more)).digest).toBe(digest);
    }
    expect((await logits(IDS, '-ctk', 'f32', '-ctv', 'f32')).digest).not.toBe(digest);
  });

  /** Nats of each of ids[first ...], from the oracle's logits and Math's own functions. */
  async function nats(ids: number[], first: number): Promise<number[]> {
    const { rows } = await logits(ids);
    return ids.slice(first).map((id, i) => {
      const row = [...rows[first + i - 1]];
      const max = Math.max(...row);
      return max + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - max), 0)) - row[id];
    });
  }
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

  it('scores the second half of every window', async () => {
    const text = 'the cat sat on a mat and saw the fat rat';
    await writeFile(at('text'), text);
    const ids: number[] = JSON.parse(await ok(['tokenize', '-m', at('plain.gguf'), '-p', text, '--ids']));
    const scored: number[] = [];
    for (let from = 0; from + 16 <= ids.length; from += 16)
      scored.push(...(await nats([1, ...ids.slice(from + 1, from + 16)], 9)));
    const result = JSON.parse(
      await ok(['perplexity', '-m', at('plain.gguf'), '-f', at('text'), '-c', '16', '--json', '-q']),
    );
    expect(result).toMatchObject({ method: 'windows', chunks: Math.floor(ids.length / 16), tokens: scored.length });
    expect(result.perplexity).toBeCloseTo(Math.exp(sum(scored) / scored.length), 6);
    expect(result.bytes).toBe(scored.length);
    expect(await ok(['perplexity', '-m', at('plain.gguf'), '-f', at('text'), '-c', '16'])).toMatch(
      /^Final estimate: PPL = \d+\.\d{4} \+\/- \d+\.\d{5}\n\d+\.\d{4} bits per byte/,
    );
  });

  it('scores documents whole', async () => {
    await writeFile(at('documents'), '\nthe cat\n<|end|>\n\n<|end|>\na long tale about a cat\n<|end|>\n');
    const scored: number[] = [];
    for (const text of ['the cat', 'a long tale about a cat']) {
      const ids: number[] = JSON.parse(await ok(['tokenize', '-m', at('plain.gguf'), '-p', text, '--ids']));
      scored.push(...(await nats([...ids, 2], 1)));
    }
    const args = [
      'perplexity',
      '-m',
      at('plain.gguf'),
      '-f',
      at('documents'),
      '--documents',
      '<|end|>',
      '--json',
      '-q',
    ];
    const result = JSON.parse(await ok(args));
    expect(result).toMatchObject({ method: 'documents', chunks: 2, tokens: scored.length, bytes: 30 });
    expect(result.bitsPerByte).toBeCloseTo(sum(scored) / Math.LN2 / 30, 6);
    // Windows that overlap: every token still counts once.
    expect(JSON.parse(await ok([...args, '-c', '10']))).toMatchObject({ tokens: scored.length, contextSize: 10 });
  });
});

describe('synth', () => {
  it('writes a model that runs, the same for the same seed', async () => {
    await ok(['synth', '--type', 'tq1_0', '--embd-type', 'Q8_0', '-o', at('synth.gguf')]);
    await ok(['synth', '--type', 'TQ1_0', '--embd-type', 'q8_0', '-s', '1', '-o', at('again.gguf'), '-q']);
    expect((await readFile(at('again.gguf'))).equals(await readFile(at('synth.gguf')))).toBe(true);
    await ok(['-m', at('synth.gguf'), '-p', 'a', '-n', '3', '-q']);
    expect(await bitnet(['synth', '--preset', '3b', '--type', 'tq2_0', '-o', at('never.gguf')])).toMatchObject({
      code: 1,
    });
    expect(await bitnet(['synth'])).toMatchObject({ code: 2, out: '' });
  });
});

describe('models elsewhere', () => {
  it('come by URL, in ranges', async () => {
    const model = await readFile(at('plain.gguf'));
    const seen: string[] = [];
    const server = createServer((request, response) => {
      seen.push(request.url ?? '');
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
      if (!request.url?.endsWith('.gguf') || range === null) {
        response.writeHead(404).end();
        return;
      }
      const [from, to] = [Number(range[1]), Math.min(Number(range[2]), model.length - 1)];
      response.writeHead(206, {
        'content-range': `bytes ${from}-${to}/${model.length}`,
        'content-length': to - from + 1,
      });
      response.end(model.subarray(from, to + 1));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const rest = ['-p', 'once', '-n', '8', '--seed', '5', '-q'];
      const local = await ok(['-m', at('plain.gguf'), ...rest]);
      expect(await ok(['-m', `${endpoint}/x.gguf`, ...rest])).toBe(local);
      expect(seen).toContain('/x.gguf');
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });
});
