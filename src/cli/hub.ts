/**
 * Files on the Hugging Face hub: `-hf user/repo[:quant]`. They are read in place by range requests; nothing is cached.
 *
 * Environment, as for every client of the hub: HF_ENDPOINT, HF_TOKEN.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { UsageError } from './flags.ts';

const ENDPOINT = 'https://huggingface.co';

export interface HubFile {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

type Env = Readonly<Record<string, string | undefined>>;

/** The file that `user/repo`, `user/repo:quant` or `user/repo` with a file name means. */
export async function findHubFile(
  repo: string,
  file: string | undefined,
  env: Env,
  signal: AbortSignal,
): Promise<HubFile> {
  const match = /^([\w.-]+\/[\w.-]+)(?::([\w.-]+))?$/.exec(repo);
  if (match === null) throw new UsageError(`-hf takes USER/REPO or USER/REPO:QUANT, got ${JSON.stringify(repo)}`);
  const [, name, quant] = match;
  const endpoint = (env.HF_ENDPOINT ?? ENDPOINT).replace(/\/+$/, '');
  const headers: Record<string, string> = env.HF_TOKEN === undefined ? {} : { authorization: `Bearer ${env.HF_TOKEN}` };
  const path = file ?? chooseFile(name, await listFiles(`${endpoint}/api/models/${name}`, headers, signal), quant);
  return { url: `${endpoint}/${name}/resolve/main/${path.split('/').map(encodeURIComponent).join('/')}`, headers };
}

async function listFiles(url: string, headers: Record<string, string>, signal: AbortSignal): Promise<string[]> {
  const fail = (got: string, cause?: unknown): never => {
    throw new BitnetError('http', 'cannot list the files of the repository', { where: url, got }, cause);
  };
  try {
    const response = await fetch(url, { headers, signal });
    if (!response.ok) fail(`${response.status} ${response.statusText}`);
    const { siblings } = (await response.json()) as { siblings?: { rfilename?: unknown }[] };
    return (siblings ?? []).map(({ rfilename }) => rfilename).filter((name) => typeof name === 'string');
  } catch (error) {
    if (error instanceof BitnetError || signal.aborted) throw error;
    return fail(error instanceof Error ? error.message : String(error), error);
  }
}

/** The one GGUF file, or the one whose name has the quant; I2_S where nothing else decides. */
export function chooseFile(repo: string, files: readonly string[], quant: string | undefined): string {
  // Of a split file the first part is the one to open.
  const models = files.filter((name) => /\.gguf$/i.test(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/i.test(name));
  const having = (part: string): string[] => models.filter((name) => name.toLowerCase().includes(part.toLowerCase()));
  const fitting = quant === undefined ? models : having(quant);
  if (fitting.length === 1) return fitting[0];
  const ternary = quant === undefined ? having('i2_s') : [];
  if (ternary.length === 1) return ternary[0];
  throw new BitnetError('bad-argument', fitting.length === 0 ? 'no such GGUF file' : 'several GGUF files', {
    where: repo,
    got: models.length === 0 ? 'no GGUF files' : models.join(', '),
    hint: 'choose with -hf USER/REPO:QUANT or -hff FILE',
  });
}
