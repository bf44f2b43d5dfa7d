/**
 * Writes a trace as it comes: rows are added to one `.npy` file a tensor, a few tokens at a time, so that a long trace never is in
 * memory; the manifest is written last. The same model, tokens and stages give the same bytes, whatever computes them.
 * @module
 */

import type { Model, Session, SessionOptions, TraceSite, TraceTensor } from '../../engine/types.ts';
import { want } from '../../errors.ts';
import { littleEndianBytes, npyHeader } from '../npy.ts';
import { type Stages, selectSites } from '../trace.ts';
import type { FolderTarget, RunningHash, TraceTarget } from './files.ts';
import {
  MANIFEST,
  type Manifest,
  type ManifestTensor,
  manifestText,
  type NotFinite,
  TRACE_FORMAT,
  TRACE_FORMAT_VERSION,
} from './manifest.ts';
import { MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS, writeArchive } from './zip.ts';

export interface WriteTraceOptions {
  readonly stages?: Stages | undefined;
  /** Types of cached keys and values. */
  readonly session?: Pick<SessionOptions, 'kType' | 'vType'> | undefined;
  readonly sha256: () => RunningHash;
  /** What goes into the manifest besides: whose trace this is. */
  readonly facts: Pick<Manifest, 'producer' | 'numericsVersion'> & {
    readonly modelSha256?: string | undefined;
  };
  /** Bytes that the disk has left, where that is known. */
  readonly freeBytes?: number | undefined;
  readonly onProgress?:
    | ((done: { readonly tokens: number; readonly of: number; readonly bytes: number }) => void)
    | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Entries of a directory and of names in an archive. */
const MEMBER_BYTES = 300;

/**
 * Computes `ids` and fills `target`, which is completed, or aborted when anything fails. Resolves to the manifest.
 *
 * @throws BitnetError `limit-exceeded` before anything is computed where the trace fits neither the form nor the disk.
 */
export async function writeTrace(
  model: Model,
  ids: readonly number[],
  target: TraceTarget,
  options: WriteTraceOptions,
): Promise<Manifest> {
  let session: Session | undefined;
  try {
    const sites = await sitesOf(model, ids.length, options.stages);
    checkSize(sites, ids.length, target, options);
    session = model.createSession({ ...options.session, contextSize: Math.max(1, ids.length) });
    const manifest = await writeParts(model, session, sites, ids, target.folder, options);
    if (target.archive === undefined) await target.folder.close();
    else {
      const names = [...manifest.tensors.map(({ file }) => file), MANIFEST];
      await writeArchive(target.archive, names, (name) => target.folder.open(name), options.signal);
      await target.archive.close();
    }
    return manifest;
  } finally {
    await session?.dispose();
    await target.archive?.abort();
    await target.folder.abort(); // both do nothing once closed
  }
}

/** What there is to write, from a session of one token: that of all of them may not fit into memory. */
async function sitesOf(model: Model, tokens: number, stages: Stages | undefined): Promise<TraceSite[]> {
  const session = model.createSession({ contextSize: 1 });
  try {
    return selectSites(session.traceSites(tokens), stages);
  } finally {
    await session.dispose();
  }
}

/** Bytes of all files. */
export function traceBytes(sites: readonly TraceSite[], tokens: number): number {
  return sites.reduce((sum, { type, columns }) => {
    const header = npyHeader([tokens, columns], type).length;
    return sum + header + tokens * columns * (type === 'i8' ? 1 : 4) + MEMBER_BYTES;
  }, 0);
}

function checkSize(
  sites: readonly TraceSite[],
  tokens: number,
  { folder, archive }: TraceTarget,
  { freeBytes }: WriteTraceOptions,
): void {
  const bytes = traceBytes(sites, tokens);
  const less = 'fewer --layers or --tensors';
  if (archive !== undefined) {
    want(
      bytes <= MAX_ARCHIVE_BYTES && sites.length < MAX_ARCHIVE_MEMBERS,
      'limit-exceeded',
      'too large for one .npz',
      () => ({
        where: archive.label,
        expected: `at most ${MAX_ARCHIVE_BYTES} bytes in ${MAX_ARCHIVE_MEMBERS} tensors`,
        got: `${bytes} in ${sites.length}`,
        hint: `write a folder, or ${less}`,
      }),
    );
  }
  // The parts of an archive lie beside it until it is complete.
  const need = archive === undefined ? bytes : 2 * bytes;
  want(freeBytes === undefined || need <= freeBytes, 'limit-exceeded', 'the disk has no room for this trace', () => ({
    where: (archive ?? folder).label,
    expected: `${need} bytes free`,
    got: `${freeBytes}`,
    hint: less,
  }));
}

async function writeParts(
  model: Model,
  session: Session,
  sites: readonly TraceSite[],
  ids: readonly number[],
  folder: FolderTarget,
  { sha256, facts, session: kv = {}, onProgress, signal }: WriteTraceOptions,
): Promise<Manifest> {
  const parts = new Map(sites.map((site, order) => [site.name, new Part(site, order, ids.length, sha256())]));
  for (const { file, header } of parts.values()) await folder.append(file, header);
  let bytes = 0;
  const select = ({ name }: TraceSite) => parts.has(name);
  for await (const tensor of session.trace(ids, { select, ...(signal === undefined ? {} : { signal }) })) {
    const part = parts.get(tensor.name);
    if (part === undefined) throw new Error(`${tensor.name} was not asked for`);
    const chunk = part.take(tensor);
    await folder.append(part.file, chunk);
    bytes += chunk.length;
    onProgress?.({ tokens: tensor.position, of: ids.length, bytes });
  }
  const { info, backend } = model;
  const first = [...parts.values()].filter((part) => part.first !== undefined).toSorted(Part.earlier)[0];
  const manifest: Manifest = {
    format: TRACE_FORMAT,
    formatVersion: TRACE_FORMAT_VERSION,
    numericsVersion: facts.numericsVersion,
    producer: backend.exact ? facts.producer : `${facts.producer}, backend ${backend.name} ${backend.variant}`,
    model: { name: info.name, architecture: info.architecture, sha256: facts.modelSha256, byteLength: info.fileBytes },
    kv: { k: kv.kType ?? 'f16', v: kv.vType ?? 'f16' },
    tokens: Array.from(ids),
    ...(first === undefined ? {} : { notFinite: { tensor: first.name, ...first.first! } }),
    tensors: [...parts.values()].map((part) => part.entry()),
  };
  await folder.append(MANIFEST, new TextEncoder().encode(manifestText(manifest)));
  return manifest;
}

/** One tensor on its way. */
class Part {
  readonly file: string;
  readonly header: Uint8Array;
  first: NotFinite | undefined;
  readonly #site: TraceSite;
  readonly #order: number;
  readonly #tokens: number;
  readonly #hash: RunningHash;
  #notFinite = 0;

  constructor(site: TraceSite, order: number, tokens: number, hash: RunningHash) {
    this.file = `${site.name}.npy`;
    this.header = npyHeader([tokens, site.columns], site.type);
    this.#site = site;
    this.#order = order;
    this.#tokens = tokens;
    this.#hash = hash;
  }

  get name(): string {
    return this.#site.name;
  }

  /** By token, then in the order of the graph. */
  static earlier(a: Part, b: Part): number {
    return (a.first?.position ?? Infinity) - (b.first?.position ?? Infinity) || a.#order - b.#order;
  }

  take({ data, position, columns }: TraceTensor): Uint8Array {
    if (data instanceof Float32Array) {
      for (let i = 0; i < data.length; i++) {
        if (Number.isFinite(data[i])) continue;
        this.#notFinite++;
        const value = String(data[i]) as NotFinite['value'];
        this.first ??= { position: position + Math.floor(i / columns), column: i % columns, value };
      }
    }
    const bytes = littleEndianBytes(data);
    this.#hash.update(bytes);
    return bytes;
  }

  entry(): ManifestTensor {
    const { name, type, op, inputs, weight, facts, columns } = this.#site;
    return {
      name,
      file: this.file,
      dtype: type,
      shape: [this.#tokens, columns],
      op,
      inputs,
      weight,
      ...(Object.keys(facts).length === 0 ? {} : { facts }),
      sha256: this.#hash.digest('hex'),
      ...(this.first === undefined ? {} : { notFinite: { count: this.#notFinite, first: this.first } }),
    };
  }
}
