/**
 * How an embedding model makes one row of many, as its folder says in sentence-transformers' way:
 *
 *     modules.json            [..., {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}, ...]
 *     1_Pooling/config.json   {"pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true, ...}
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { isObject, parseJsonObject } from '../formats/safetensors/json.ts';
import type { PoolingType } from '../model/config.ts';
import type { FolderReader } from './tokenizer.ts';

/** In the order in which sentence-transformers looks at them. */
const modes: readonly (readonly [key: string, type: PoolingType])[] = [
  ['pooling_mode_mean_tokens', 'mean'],
  ['pooling_mode_cls_token', 'cls'],
  ['pooling_mode_lasttoken', 'last'],
];

/** Undefined where the folder has no such files. */
export async function readPooling(folder: FolderReader): Promise<PoolingType | undefined> {
  const bytes = await folder.bytes('modules.json');
  if (bytes === undefined) return undefined;
  const where = `${folder.label}: modules.json`;
  // The file is a list, which the parser of objects takes as the value of a key.
  const text = new TextDecoder().decode(bytes);
  const { modules } = parseJsonObject(new TextEncoder().encode(`{"modules":${text}}`), where);
  const list: unknown[] = Array.isArray(modules) ? modules : [];
  const found = list.find((module) => isObject(module) && String(module.type).endsWith('Pooling'));
  if (!isObject(found)) return undefined;
  const path = found.path ?? '';
  // A plain name: a folder must not reach into others.
  want(typeof path === 'string' && /^(?!\.)[\w.-]*$/.test(path), 'bad-container', 'bad path', () => ({
    where,
    expected: 'a folder beside it',
    got: show(path),
  }));
  const config = await folder.json(path === '' ? 'config.json' : `${path}/config.json`);
  if (config === undefined) return undefined;
  const asked = Object.entries(config).filter(([key, value]) => key.startsWith('pooling_mode_') && value === true);
  const known = modes.filter(([key]) => asked.some(([other]) => other === key));
  if (known.length === 1 && asked.length === 1) return known[0][1];
  throw new BitnetError('unsupported-architecture', 'this pooling cannot be converted', {
    where: `${folder.label}: ${path}/config.json`,
    expected: modes.map(([key]) => key).join(' or '),
    got: asked.map(([key]) => key).join(', ') || 'none',
  });
}
