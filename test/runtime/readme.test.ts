/** The README's examples are run as they stand, in the runtimes they are meant for; its tables name real commands. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from './runtimes.ts';

const readme = readFileSync(join(root, 'README.md'), 'utf8');
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-readme-'));
const examples = [...readme.matchAll(/```js run([a-z ]*)\n([\s\S]*?)```/g)].map((match) => ({
  where: match[1].trim() === '' ? ['node'] : ['node', ...match[1].trim().split(' ')],
  code: match[2],
}));

describe('README examples', () => {
  it('have no gaps left to fill', () => {
    expect(/@@|TODO|TBD/.exec(readme)?.[0]).toBeUndefined();
  });

  it('are found', () => {
    expect(examples.length).toBe(2);
  });

  const runs = examples.flatMap(({ where, code }, example) =>
    runtimes.filter(({ name }) => where.includes(name.split(' ')[0])).map((runtime) => ({ example, code, runtime })),
  );
  it.each(runs)(
    'example $example on $runtime.name',
    async ({ example, code, runtime }) => {
      wantRuntime(runtime);
      // In place of an installed package: the built one of this clone.
      const url = (path: string) => JSON.stringify(pathToFileURL(join(root, path)).href);
      const body = code
        .replace("'bitnet-ts'", url('dist/index.js'))
        .replace("import.meta.resolve('bitnet-ts/stories.gguf.gz')", url('fixtures/models/stories.gguf.gz'));
      expect(body).not.toContain("'bitnet-ts");
      const script = join(scratch, `example-${example}.mjs`);
      writeFileSync(script, body);
      const { stdout, stderr } = await runIn(runtime, script);
      expect(stderr).toBe('');
      expect(stdout.length).toBeGreaterThan(40);
    },
    60_000,
  );

  it('name only commands that exist', async () => {
    const { stdout } = await runIn(runtimes[0], 'dist/cli/main.js', ['--help']);
    const named = new Set([...readme.matchAll(/\| `bitnet (\w+)/g)].map((match) => match[1]));
    expect(named.size).toBeGreaterThan(5);
    for (const name of named) expect(stdout, name).toContain(name);
  });
});
