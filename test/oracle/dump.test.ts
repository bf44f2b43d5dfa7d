/** Traces on disk: what is written is read again, the same bytes every time, and nothing else is believed. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import type { LoadOptions, Model, TraceTensor } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import { traceBytes } from '../../src/oracle/dump/write.ts';
import {
  memoryFolder,
  openArchive,
  openTrace,
  type Stages,
  type TraceSource,
  trace,
  type WriteTraceOptions,
  writeTrace,
} from '../../src/oracle/index.ts';
import { littleEndianBytes, npyHeader } from '../../src/oracle/npy.ts';
import { createFolderSink, openFolder } from '../../src/platform/folder-node.ts';
import { createFileSink, openFileSource } from '../../src/platform/source-node.ts';
import { tinyModel } from '../model/models.ts';

const ids = Array.from({ length: 19 }, (_, i) => (i * 37 + 5) % 500);
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-dump-'));
const sha256 = () => createHash('sha256');
const facts = { producer: 'test', numericsVersion: 1 };
let count = 0;
const newPath = (end = '') => join(scratch, `${count++}${end}`);

async function withModel<T>(use: (model: Model) => Promise<T>, load: LoadOptions = {}, file?: Uint8Array): Promise<T> {
  const model = await loadModel(file ?? (await tinyModel({})), { threads: 1, ...load });
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

type Options = Partial<WriteTraceOptions> & { readonly npz?: boolean };

async function dump(model: Model, { npz = false, ...options }: Options = {}): Promise<string> {
  const path = newPath(npz ? '.npz' : '');
  const target = npz
    ? { folder: await createFolderSink(`${path}.parts`), archive: await createFileSink(path) }
    : { folder: await createFolderSink(path) };
  await writeTrace(model, ids, target, { sha256, facts, ...options });
  return path;
}

async function open(path: string): Promise<TraceSource & { verify(hash: typeof sha256): Promise<void> }> {
  return openTrace(path.endsWith('.npz') ? await openArchive(await openFileSource(path)) : await openFolder(path));
}

/** All of a trace by name. */
async function live(model: Model, stages?: Stages): Promise<Map<string, number[]>> {
  const rows = new Map<string, number[]>();
  for await (const { name, data } of trace(model, ids, stages === undefined ? {} : { stages })) {
    rows.set(name, [...(rows.get(name) ?? []), ...data]);
  }
  return rows;
}

describe.each([...ARCHITECTURES.keys()])('%s', (architecture) => {
  it('comes back from a folder and from an archive as it was', async () => {
    const file = await tinyModel({ architecture: architecture as 'llama' });
    await withModel(
      async (model) => {
        const stages = { attentionWeights: true };
        const expected = await live(model, stages);
        for (const npz of [false, true]) {
          const source = await open(await dump(model, { npz, stages }));
          expect([...source.tensors.keys()]).toEqual([...expected.keys()]);
          await source.verify(sha256);
          expect(source.origin).toMatchObject({ architecture, tokens: ids, numericsVersion: 1 });
          for (const [name, { rows, columns, position }] of source.tensors) {
            expect([position, rows]).toEqual([0, ids.length]);
            const [first, rest] = [await source.read(name, 0, 1), await source.read(name, 1, rows - 1)];
            expect(first.data.length).toBe(columns);
            expect([...first.data, ...rest.data], name).toEqual(expected.get(name));
          }
          await source.close();
        }
      },
      {},
      file,
    );
  });
});

describe('a dump', () => {
  it('has the same bytes on every backend, and whatever the time zone', async () => {
    const files = await Promise.all(
      [{ backend: 'ts' }, { threads: 1 }, { threads: 2, kernels: 'scalar' }].map((load) =>
        withModel(async (model) => readFileSync(await dump(model, { npz: true })), load as LoadOptions),
      ),
    );
    for (const file of files) expect(Buffer.compare(file, files[0])).toBe(0);
    const zone = process.env.TZ;
    process.env.TZ = 'Pacific/Auckland';
    const there = await withModel(async (model) => readFileSync(await dump(model, { npz: true })));
    process.env.TZ = zone ?? '';
    expect(Buffer.compare(there, files[0])).toBe(0);
  });

  it('is what numpy reads', async ({ skip }) => {
    const python = process.env.BITNET_PYTHON ?? 'python3';
    try {
      execFileSync(python, ['-c', 'import numpy'], { stdio: 'pipe' });
    } catch {
      skip(`${python} with numpy is not there (BITNET_PYTHON names another)`);
    }
    await withModel(async (model) => {
      const expected = await live(model);
      const path = await dump(model, { npz: true });
      const code = `
import json, sys, numpy
archive = numpy.load(sys.argv[1])
manifest = json.loads(archive['manifest.json'])
print(json.dumps({t['name']: [str(archive[t['name']].dtype), archive[t['name']].astype('f8').sum(), t['shape']] for t in manifest['tensors']}))`;
      const seen = JSON.parse(execFileSync(python, ['-c', code, path], { encoding: 'utf8' }));
      expect(Object.keys(seen)).toEqual([...expected.keys()]);
      for (const [name, values] of expected) {
        const sum = values.reduce((a, b) => a + b, 0);
        expect(seen[name][1], name).toBeCloseTo(sum, 6);
        expect(seen[name][2]).toEqual([ids.length, values.length / ids.length]);
      }
      expect(seen['blk.0.attn_q.acc'][0]).toBe('int32');
      expect(seen['blk.0.attn_norm.codes'][0]).toBe('int8');
    });
  });

  it('has the stages that were asked for, and says what there is where nothing fits', async () => {
    await withModel(async (model) => {
      const names = async (stages: Stages) => [...(await live(model, stages)).keys()];
      expect(await names({ tensors: ['logits', 'blk.*.attn_q'] })).toEqual(['blk.0.attn_q', 'blk.1.attn_q', 'logits']);
      expect(await names({ layers: [1, 1], tensors: ['logits', '*attn_q'] })).toEqual(['blk.1.attn_q', 'logits']);
      expect((await names({ layers: [0, 0] })).every((name) => name.startsWith('blk.0.'))).toBe(true);
      expect(await names({ tensors: ['*.attn_weights'] })).toEqual(['blk.0.attn_weights', 'blk.1.attn_weights']);
      expect(await names({})).not.toContain('blk.0.attn_weights');
      await expect(names({ tensors: ['blk.0.attn_query'] })).rejects.toThrow(/no tensor.*attn_query.*there are blk/s);
      await expect(names({ layers: [1, 2] })).rejects.toThrow('first-last within 0-1, got 1-2');
      await expect(names({ layers: [1, 0] })).rejects.toMatchObject({ code: 'bad-argument' });
    });
  });

  it('that does not fit is refused before anything is computed, and leaves nothing', async () => {
    await withModel(async (model) => {
      const sites = model.createSession().traceSites(ids.length);
      const bytes = traceBytes(sites, ids.length);
      const before = readdirSync(scratch).length;
      const failing = dump(model, { freeBytes: 1000 });
      await expect(failing).rejects.toThrow(/the disk has no room for this trace, expected \d+ bytes free, got 1000/);
      await expect(dump(model, { npz: true, freeBytes: bytes + 1e6 })).rejects.toMatchObject({
        code: 'limit-exceeded',
      });
      expect(readdirSync(scratch).length).toBe(before);
      const path = await dump(model, { freeBytes: bytes });
      const onDisk = readdirSync(path).reduce((sum, name) => sum + readFileSync(join(path, name)).length, 0);
      expect(onDisk).toBeLessThan(bytes + 300 * sites.length);
      expect(onDisk).toBeGreaterThan(bytes - 300 * sites.length);
      // As if of 10^5 tokens and a model of real width: more than an archive can hold.
      const create = model.createSession.bind(model);
      const contexts: number[] = [];
      const wide = Object.create(model, {
        createSession: {
          value: (options: { contextSize: number }) =>
            contexts.push(options.contextSize) &&
            Object.assign(create(options), {
              traceSites: () => sites.map((site) => ({ ...site, columns: site.columns * 100_000 })),
            }),
        },
      }) as Model;
      await expect(dump(wide, { npz: true })).rejects.toThrow(/too large for one .npz, expected .*write a folder/);
      await expect(dump(wide, { freeBytes: 1e9 })).rejects.toThrow(/no room for this trace/);
      expect(contexts).toEqual([1, 1]); // no cache for the tokens, which may be too large itself
      expect(readdirSync(scratch).filter((name) => name.includes('partial'))).toEqual([]);
    });
  });

  it('that is cut off leaves nothing', async () => {
    await withModel(async (model) => {
      const before = readdirSync(scratch);
      for (const npz of [false, true]) {
        const controller = new AbortController();
        const onProgress = ({ bytes }: { bytes: number }) => bytes > 50_000 && controller.abort(new Error('enough'));
        await expect(
          dump(model, { npz, signal: controller.signal, onProgress: (done) => void onProgress(done) }),
        ).rejects.toThrow('enough');
      }
      expect(readdirSync(scratch)).toEqual(before);
    });
  });

  it('may stay in memory, where there are no files', async () => {
    await withModel(async (model) => {
      const folder = memoryFolder();
      const stages = { tensors: ['logits', 'blk.1.*'] };
      await writeTrace(model, ids, { folder }, { sha256, facts, stages });
      const source = await openTrace(folder);
      await source.verify(sha256);
      const expected = await live(model, stages);
      expect([...(await source.read('logits', 0, ids.length)).data]).toEqual(expected.get('logits'));
      // And an archive of it, the same bytes as on disk.
      const archive = memorySink();
      const parts = memoryFolder();
      await writeTrace(model, ids, { folder: parts, archive }, { sha256, facts, stages });
      const onDisk = readFileSync(await dump(model, { npz: true, stages }));
      expect(Buffer.compare(archive.bytes(), onDisk)).toBe(0);
      expect(parts.names).toEqual([]);
      await expect(parts.open('logits.npy')).rejects.toMatchObject({ code: 'io' });
    });
  });

  it('does not touch what is there', async () => {
    await withModel(async (model) => {
      const path = newPath();
      mkdirSync(path);
      writeFileSync(join(path, 'precious'), 'mine');
      await expect(createFolderSink(path)).rejects.toThrow('the folder is not empty');
      expect(readdirSync(path)).toEqual(['precious']);
      expect(model.info.architecture).toBe('bitnet-b1.58');
    });
  });

  it('tells where the first NaN arose', async () => {
    await withModel(async (model) => {
      // A stand-in for a kernel that goes wrong: the session's trace with one value exchanged.
      const create = model.createSession.bind(model);
      const spoilt = Object.create(model, {
        backend: { value: model.backend },
        createSession: {
          value: (options: object) => {
            const session = create(options);
            const run = session.trace.bind(session);
            async function* broken(...args: Parameters<typeof run>): AsyncGenerator<TraceTensor> {
              for await (const tensor of run(...args)) {
                if (tensor.name === 'blk.1.ffn_act' && tensor.position === 0)
                  // As some machine may write it: negative, with a payload.
                  new Uint32Array(tensor.data.buffer)[7 * tensor.columns + 3] = 0xffc12345;
                if (tensor.name === 'blk.1.ffn_act' && tensor.position === 0)
                  tensor.data[8 * tensor.columns] = -Infinity;
                if (tensor.name === 'blk.0.attn' && tensor.position === 0) tensor.data[9 * tensor.columns] = Infinity;
                yield tensor;
              }
            }
            return Object.assign(session, { trace: broken });
          },
        },
      }) as Model;
      const path = await dump(spoilt);
      const manifest = JSON.parse(readFileSync(join(path, 'manifest.json'), 'utf8'));
      expect(manifest.notFinite).toEqual({ tensor: 'blk.1.ffn_act', position: 7, column: 3, value: 'NaN' });
      const file = readFileSync(join(path, 'blk.1.ffn_act.npy'));
      const act = manifest.tensors.find(({ name }: { name: string }) => name === 'blk.1.ffn_act');
      expect(act.notFinite).toEqual({ count: 2, first: { position: 7, column: 3, value: 'NaN' } });
      const { shape } = act;
      expect(file.readUInt32LE(file.readUInt16LE(8) + 10 + 4 * (7 * shape[1] + 3))).toBe(0x7fc00000);
      const attn = manifest.tensors.find(({ name }: { name: string }) => name === 'blk.0.attn');
      expect(attn.notFinite).toEqual({ count: 1, first: { position: 9, column: 0, value: 'Infinity' } });
      await (await open(path)).verify(sha256);
    });
  });
});

it('has numbers at multiples of 64 bytes, for those who map files', () => {
  for (const shape of [[1], [2, 3], [100_000, 128_256], [12_345_678_901, 1]])
    for (const type of ['f32', 'i8', 'i32'] as const) expect(npyHeader(shape, type).length % 64).toBe(0);
});

describe('a damaged dump', () => {
  const made = (async () =>
    withModel((model) => dump(model, { stages: { tensors: ['embd', 'blk.0.attn*', 'logits'] } })))();

  /** A copy of the dump with changes, opened and read through. */
  async function damaged(change: (files: Map<string, Uint8Array>) => void): Promise<void> {
    const files = new Map<string, Uint8Array>();
    const folder = await made;
    for (const name of readdirSync(folder)) files.set(name, readFileSync(join(folder, name)));
    change(files);
    const path = newPath();
    mkdirSync(path);
    for (const [name, bytes] of files) writeFileSync(join(path, name), bytes);
    const source = await open(path);
    await source.verify(sha256);
  }

  type Loose = Record<string, unknown> & { tensors: Record<string, unknown>[] };
  const manifestWith = (change: (manifest: Loose) => void) =>
    damaged((files) => {
      const manifest = JSON.parse(new TextDecoder().decode(files.get('manifest.json')));
      change(manifest);
      files.set('manifest.json', new TextEncoder().encode(JSON.stringify(manifest)));
    });

  it('is told from a whole one', async () => {
    await damaged(() => undefined);
  });

  it.each<[string, (manifest: Loose) => void, RegExp]>([
    [
      'another format',
      (m) => Object.assign(m, { format: 'zarr' }),
      /not a manifest of a trace, expected "format": "bitnet-trace"/,
    ],
    [
      'a later version',
      (m) => Object.assign(m, { formatVersion: 2 }),
      /formatVersion: another version of the format, expected 1, got 2/,
    ],
    ['a name twice', (m) => Object.assign(m.tensors[1], { name: 'embd' }), /tensors\[1\]\.name/],
    ['a path for a file', (m) => Object.assign(m.tensors[0], { file: '../../etc/passwd.npy' }), /tensors\[0\]\.file/],
    [
      'a file that is missing',
      (m) => Object.assign(m.tensors[0], { file: 'elsewhere.npy' }),
      /lists a file that is not there/,
    ],
    [
      'another shape',
      (m) => Object.assign(m.tensors[0], { shape: [19, 255] }),
      /the file is not what the manifest says, expected \(19, 255\) f32/,
    ],
    ['rows that are no tokens', (m) => Object.assign(m.tensors[0], { shape: [18, 256] }), /tensors\[0\]\.shape/],
    ['another type', (m) => Object.assign(m.tensors[0], { dtype: 'i8' }), /the file is not what the manifest says/],
    ['a huge number', (m) => Object.assign(m.tensors[0], { shape: [19, 1e300] }), /tensors\[0\]\.shape/],
    ['a negative one', (m) => Object.assign(m, { tokens: [-1] }), /tokens\[0\]/],
    ['another digest', (m) => Object.assign(m.tensors[0], { sha256: '0'.repeat(64) }), /the numbers are not those/],
    ['no digest', (m) => Object.assign(m.tensors[0], { sha256: 'yes' }), /tensors\[0\]\.sha256/],
    ['no model', (m) => Object.assign(m, { model: [] }), /\$\.model: not as it must be, expected an object/],
    ['a list for facts', (m) => Object.assign(m.tensors[0], { facts: { scale: [] } }), /tensors\[0\]\.facts\.scale/],
    [
      'a key of prototypes',
      (m) => Object.assign(m.tensors[0], { facts: JSON.parse('{"__proto__": 1}') }),
      /tensors\[0\]\.facts: .*names of facts, got "__proto__"/,
    ],
    [
      'one file twice',
      (m) => Object.assign(m.tensors[1], { file: 'embd.npy' }),
      /tensors\[1\]\.file: .*files that differ/,
    ],
    ['an object for tensors', (m) => Object.assign(m, { tensors: {} }), /\$\.tensors: .*expected a list/],
    ['a fourth dimension', (m) => Object.assign(m.tensors[0], { shape: [19, 1, 256] }), /tensors\[0\]\.shape/],
  ])('%s', async (_, change, message) => {
    await expect(manifestWith(change)).rejects.toThrow(message);
  });

  it.each<[string, (files: Map<string, Uint8Array>) => void, RegExp]>([
    ['no JSON', (f) => f.set('manifest.json', f.get('manifest.json')!.subarray(0, 400)), /manifest.json: not JSON/],
    [
      'a file cut off',
      (f) => f.set('embd.npy', f.get('embd.npy')!.subarray(0, 500)),
      /the file ends before its numbers/,
    ],
    [
      'a header cut off',
      (f) => f.set('embd.npy', f.get('embd.npy')!.subarray(0, 60)),
      /the file ends inside its header/,
    ],
    ['no .npy', (f) => f.set('embd.npy', new Uint8Array(300)), /not a .npy file/],
    [
      'bytes behind the numbers',
      (f) => f.set('embd.npy', Buffer.concat([f.get('embd.npy')!, new Uint8Array(4)])),
      /bytes behind the numbers, expected 0, got 4/,
    ],
    ['a value changed', (f) => (f.get('embd.npy')![900] ^= 1), /the numbers are not those that the manifest tells of/],
    ['a version of .npy', (f) => (f.get('embd.npy')![6] = 9), /unknown version of .npy, expected 1 to 3, got 9/],
  ])('%s', async (_, change, message) => {
    await expect(damaged((files) => void change(files))).rejects.toThrow(message);
  });

  const header = (text: string) => {
    const bytes = new Uint8Array(4096).fill(0x20);
    bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, 118, 0]);
    bytes.set(new TextEncoder().encode(text), 10);
    return bytes;
  };

  it.each([
    ["{'descr': '>f4', 'fortran_order': False, 'shape': (2, 2), }", /another type, expected <f4, .* got ">f4"/],
    ["{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", /Fortran order/],
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }", /too large|ends before/],
    ["{'descr': '<f4', 'fortran_order': False, }", /lacks descr, fortran_order or shape/],
    ["{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", /another type/],
    ["{'descr': '__proto__', 'fortran_order': False, 'shape': (2,), }", /another type/],
  ])('a header %s', async (text, message) => {
    const path = newPath();
    mkdirSync(path);
    writeFileSync(join(path, 'logits.npy'), header(text));
    await expect(open(path)).rejects.toThrow(message);
  });
});

describe('an archive', () => {
  const npy = Buffer.concat([npyHeader([2, 3]), littleEndianBytes(Float32Array.of(1, 2, 3, 4, 5, 6))]);
  const read = async (bytes: Uint8Array) => {
    const source = await openTrace(await openArchive(memorySource(bytes)));
    return [...(await source.read('logits', 0, 2)).data];
  };

  it('is held against its checksums', async () => {
    const spoilt = (level: 0 | 6) => {
      const bytes = zipSync({ 'logits.npy': npy }, { level });
      bytes[entries(bytes)[0] - 2] ^= 1; // the last byte but one of the member
      return bytes;
    };
    await expect(read(spoilt(6))).rejects.toThrow(/a member is damaged|cannot be unpacked|unpacks to/);
    const stored = await openTrace(await openArchive(memorySource(spoilt(0))));
    await expect(stored.verify(sha256)).rejects.toThrow(/logits.npy: a member is damaged, expected CRC-32/);
    const whole = await openTrace(await openArchive(memorySource(zipSync({ 'logits.npy': npy }, { level: 0 }))));
    await whole.verify(sha256);
  });

  it('unpacks a member once, however often rows are asked for', async () => {
    let reads = 0;
    const packed = memorySource(zipSync({ 'logits.npy': npy, 'embd.npy': npy }, { level: 6 }));
    const counting = {
      ...packed,
      readInto: (target: Uint8Array, at: number) => {
        if (target.length > 30) reads++; // a member's bytes, or the directory
        return packed.readInto(target, at);
      },
    };
    const source = await openTrace(await openArchive(counting));
    const before = reads;
    for (let i = 0; i < 5; i++) {
      expect([...(await source.read('logits', 1, 1)).data]).toEqual([4, 5, 6]);
      expect([...(await source.read('embd', 0, 1)).data]).toEqual([1, 2, 3]);
    }
    expect(reads).toBe(before);
  });

  it('is read stored and deflated, under our names and those of llama.cpp', async () => {
    for (const level of [0, 6] as const)
      expect(await read(zipSync({ 'logits.npy': npy }, { level }))).toEqual([1, 2, 3, 4, 5, 6]);
    const files = {
      'result_output.npy': npy,
      'attn_norm-3.npy': npy,
      'kqv_out-0.npy': npy,
      'ffn_out-1.npy': npy,
      'other.npy': npy,
    };
    const names = async (architecture: string) =>
      [...(await openTrace(await openArchive(memorySource(zipSync(files))), architecture)).tensors.keys()].sort();
    expect(await names('bitnet-b1.58')).toEqual(['blk.0.attn', 'blk.1.ffn_act', 'blk.3.attn_norm', 'logits']);
    expect(await names('llama')).toEqual(['blk.0.attn_output', 'blk.1.ffn_down', 'blk.3.attn_norm', 'logits']);
  });

  it('cut off anywhere is refused', async () => {
    const whole = zipSync({ 'logits.npy': npy }, { level: 0 });
    for (let length = 0; length < whole.length; length++) {
      await expect(read(whole.subarray(0, length)), `${length}`).rejects.toMatchObject({
        code: expect.stringMatching(/bad-container|truncated/),
      });
    }
  });

  it('with any byte changed is read or refused, and never more', async () => {
    const whole = zipSync({ 'logits.npy': npy, 'embd.npy': npy });
    for (let at = 0; at < whole.length; at++) {
      for (const bit of [1, 16, 128]) {
        const bytes = whole.slice();
        bytes[at] ^= bit;
        try {
          expect((await read(bytes)).length).toBeLessThanOrEqual(6);
        } catch (error) {
          expect((error as Error).name, `${at} ${bit}: ${error}`).toBe('BitnetError');
        }
      }
    }
  });

  it.each<[string, () => Uint8Array, RegExp]>([
    ['a path', () => zipSync({ '../logits.npy': npy }), /no plain file/],
    ['a hidden file', () => zipSync({ '.logits.npy': npy }), /no plain file, got ".logits.npy"/],
    ['a folder', () => zipSync({ a: { 'logits.npy': npy } }), /no plain file/],
    ['nothing of ours', () => zipSync({ 'weights.npy': npy }), /neither a manifest nor files of a known name/],
    [
      'two files of one tensor',
      () => zipSync({ 'logits.npy': npy, 'result_output.npy': npy }),
      /two files of one tensor/,
    ],
    ['one name twice', () => twice(), /two members of one name/],
    ['one member for two names', () => overlapping(), /a member runs into what follows/],
    ['one behind a long second header', () => shifted(), /a member runs into what follows/],
    ['another name in the second header', () => renamed(), /called otherwise in the directory, got "logitz.npy"/],
    ['two sizes of one stored member', () => twoSizes(), /a stored member of two sizes, expected 500 bytes/],
    ['a bomb', () => bomb(), /unpacks to more than its size|unpacks to less/],
    ['a size that cannot be', () => impossible(), /unpacks to less than its size, expected at most \d+ bytes of \d+/],
    ['a giant', () => giant(), /too large to unpack in memory/],
  ])('%s', async (_, make, message) => {
    await expect(read(make())).rejects.toThrow(message);
  });

  const two = () => zipSync({ 'logits.npy': npy, 'embd12.npy': npy }, { level: 0 });
  /** Offsets of entries of the directory. */
  const entries = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer);
    return Array.from({ length: bytes.length - 4 }, (_, i) => i).filter((i) => view.getUint32(i, true) === 0x02014b50);
  };
  const twice = () => {
    const bytes = two();
    bytes.set(new TextEncoder().encode('logits.npy'), entries(bytes)[1] + 46);
    return bytes;
  };
  const overlapping = () => {
    const bytes = two();
    new DataView(bytes.buffer).setUint32(entries(bytes)[1] + 42, 0, true);
    return bytes;
  };
  /** The local header has lengths of its own: with a long extra field, the data would be that of the next member. */
  const shifted = () => {
    const bytes = two();
    new DataView(bytes.buffer).setUint16(28, npy.length + 40, true);
    return bytes;
  };
  const renamed = () => {
    const bytes = two();
    bytes[35] = 'z'.charCodeAt(0);
    return bytes;
  };
  const twoSizes = () => {
    const bytes = two();
    new DataView(bytes.buffer).setUint32(entries(bytes)[0] + 24, 500, true);
    return bytes;
  };
  const bomb = () => {
    const bytes = zipSync({ 'logits.npy': new Uint8Array(1 << 20) }, { level: 9 });
    new DataView(bytes.buffer).setUint32(entries(bytes)[0] + 24, 500, true);
    return bytes;
  };
  const impossible = () => {
    const bytes = zipSync({ 'logits.npy': npy }, { level: 9 });
    new DataView(bytes.buffer).setUint32(entries(bytes)[0] + 24, 0xfffffff0, true);
    return bytes;
  };
  /** With two megabytes of packed bytes, of which any would be refused, but whose size is looked at first. */
  const giant = () => {
    const bytes = zipSync({ 'logits.npy': new Uint8Array(2 << 20) }, { level: 0 });
    const view = new DataView(bytes.buffer);
    const [entry] = entries(bytes);
    view.setUint16(entry + 10, 8, true);
    view.setUint32(entry + 24, 0x50000000, true);
    return bytes;
  };
});

it('leaves nothing behind', () => {
  expect(existsSync(scratch)).toBe(true);
  expect(readdirSync(scratch).filter((name) => /partial|parts/.test(name))).toEqual([]);
});
