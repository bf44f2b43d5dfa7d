/**
 * Which files of a repository make the model that was asked for.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { HubReference } from './reference.ts';

const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;

/** Of a repository with more GGUF files than this, the message shows the beginning. */
const SHOWN = 40;

/**
 * The one GGUF file, or the one whose name has the quant; I2_S where nothing else decides. Of a split file it is the
 * first part. Undefined where that is none or several.
 */
export function findFile(files: readonly string[], { quant, file }: Wanted): string | undefined {
  if (file !== undefined) return files.find((name) => name === file);
  const models = ggufFiles(files);
  const fitting = quant === undefined ? models : having(models, quant);
  if (fitting.length === 1) return fitting[0];
  const ternary = quant === undefined ? having(models, 'i2_s') : [];
  return ternary.length === 1 ? ternary[0] : undefined;
}

type Wanted = Pick<HubReference, 'quant' | 'file'>;

/** The same, or an error that lists what there is. */
export function chooseFile(repo: string, files: readonly string[], wanted: Wanted): string {
  const found = findFile(files, wanted);
  if (found !== undefined) return found;
  const { quant, file } = wanted;
  if (file !== undefined) {
    throw new BitnetError('bad-argument', 'no such file', {
      where: `${repo}: ${file}`,
      got: files.length === 0 ? 'an empty repository' : listed(files),
    });
  }
  const models = ggufFiles(files);
  const checkpoint = models.length === 0 && files.some((name) => /\.safetensors$/i.test(name));
  const several = (quant === undefined ? models : having(models, quant)).length > 1;
  throw new BitnetError('bad-argument', several ? 'several GGUF files' : 'no such GGUF file', {
    where: repo,
    expected: quant === undefined ? 'one' : `one with ${quant} in its name`,
    got: models.length > 0 ? listed(models) : checkpoint ? 'safetensors, no GGUF files' : 'no GGUF files',
    hint: checkpoint ? `bitnet convert hf:${repo} -o model.gguf` : 'choose with USER/REPO:QUANT or USER/REPO/FILE',
  });
}

/** All parts of a split file, or the file itself. */
export function partsOf(file: string): string[] {
  const match = SHARD.exec(file);
  if (match === null) return [file];
  const count = Number(match[3]);
  return Array.from({ length: count }, (_, i) => `${match[1]}-${String(i + 1).padStart(5, '0')}-of-${match[3]}.gguf`);
}

/**
 * What `bitnet convert` reads: config, tokenizer and weights. Of the weights those under the names that loaders look
 * for; repositories keep the same weights under others as well (`consolidated.safetensors`, `original/`).
 */
export function checkpointFiles(repo: string, files: readonly string[]): string[] {
  const weights = files.filter((name) => /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/.test(name));
  const others = files.filter((name) =>
    /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json$|^(tokenizer\.model|merges\.txt|chat_template\.jinja)$/.test(
      name,
    ),
  );
  if (weights.some((name) => name.endsWith('.safetensors')) && others.includes('config.json')) {
    return [...others, ...weights];
  }
  throw new BitnetError('bad-argument', 'not a checkpoint', {
    where: repo,
    expected: 'config.json and model.safetensors',
    got: files.length === 0 ? 'no files' : listed(files),
  });
}

/** GGUF files; of a split file the first part, which is the one to open. */
function ggufFiles(files: readonly string[]): string[] {
  return files.filter((name) => /\.gguf$/i.test(name) && Number(SHARD.exec(name)?.[2] ?? 1) === 1);
}

/** Those with `part` between separators; if there are none, those with it anywhere: `q4_0` should not find `iq4_0_x`. */
function having(files: readonly string[], part: string): string[] {
  const low = part.toLowerCase();
  const escaped = low.replace(/[.\\]/g, '\\$&');
  const whole = new RegExp(`(^|[-._/])${escaped}([-./]|$)`);
  const bounded = files.filter((name) => whole.test(name.toLowerCase()));
  return bounded.length > 0 ? bounded : files.filter((name) => name.toLowerCase().includes(low));
}

function listed(files: readonly string[]): string {
  const rest = files.length - SHOWN;
  return files.slice(0, SHOWN).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
