/** `--kernels`, on commands that run a model and on `inspect`. */
import { expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';

vi.setConfig({ testTimeout: 120_000 });

const LOGITS = ['oracle', 'logits', '--tokens', '1,300,310', '-t', '1'];

it('forces a build; all of them give the same bits', async () => {
  const outs: string[] = [];
  for (const kernels of ['relaxed', 'simd', 'scalar', 'fastest']) {
    const { code, out, err } = await bitnet([...LOGITS, '--kernels', kernels]);
    expect(code, err).toBe(0);
    outs.push(out.replace(/wasm \w+/, ''));
  }
  expect(new Set(outs).size).toBe(1);
  const { err } = await bitnet(['run', '-n', '2', '-t', '1', '--stats'], { env: { BITNET_KERNELS: 'scalar' } });
  expect(err).toContain('wasm scalar, 1 thread');
});

it('refuses what does not exist or does not fit', async () => {
  expect(await bitnet([...LOGITS, '--kernels', 'avx'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('--kernels takes dot, relaxed, simd, scalar, fastest; got "avx"'),
  });
  expect(await bitnet(LOGITS, { env: { BITNET_KERNELS: 'avx' } })).toMatchObject({
    code: 2,
    err: expect.stringContaining('BITNET_KERNELS takes dot, relaxed'),
  });
  expect(await bitnet([...LOGITS, '--kernels', 'simd', '--backend', 'ts'])).toMatchObject({
    code: 1,
    err: expect.stringMatching(/^bitnet: bad-argument: kernels: only the wasm backend/),
  });
  expect(await bitnet(['inspect', 'model.gguf', '--kernels'])).toMatchObject({ code: 2 });
  expect(await bitnet(['inspect', '--kernels', '--backend', 'ts'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('--kernels tests wasm or cuda'),
  });
});

it('inspect looks at the backend that the environment names', async () => {
  const fits = async (name: string) => {
    const { code, out } = await bitnet(['inspect', '--json'], {
      env: { BITNET_BACKEND: name, BITNET_CUDA_LIBRARY: '/nowhere/libbitnet-cuda.so' },
    });
    expect(code).toBe(0);
    return JSON.parse(out).fit;
  };
  for (const name of ['auto', 'wasm']) expect(await fits(name)).toMatchObject({ of: 'a WebAssembly memory' });
  expect(await fits('ts')).toBeUndefined();
  expect(JSON.stringify(await fits('cuda'))).toContain('backend cuda: ');
});

it('inspect tells which builds work and how fast they are', async () => {
  const { code, out } = await bitnet(['inspect', '--kernels']);
  expect(code).toBe(0);
  expect(out).toMatch(/^node \d+\.\d+\.\d+, \d+ cores?, threads with shared memory\n/);
  expect(out).toMatch(/^kernels +dot +relaxed +simd +scalar$/m);
  expect(out).toMatch(/^compiles +yes +yes +yes +yes$/m);
  expect(out).toMatch(/^attention, \d+ cases +passed +passed +passed +passed$/m);
  // Node 20 computes something else in `dot`, which is then not timed; which is chosen depends on processor and runtime.
  expect(out).toMatch(/^matrix x 1 token +(- +)?(\d+\.\d GMAC\/s *){3,4}$/m);
  expect(out).toMatch(/^chosen +(yes +- +- +-|- +yes +- +-)$/m);
  const survey = JSON.parse((await bitnet(['inspect', '--kernels', '--json'])).out);
  expect(survey.chosen).toMatch(/^(dot|relaxed)$/);
  expect(survey.variants.map(({ name }: { name: string }) => name)).toEqual(['dot', 'relaxed', 'simd', 'scalar']);
});
