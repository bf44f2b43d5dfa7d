/**
 * One door for everything a model can be given as.
 * @module
 */

import { BitnetError, show } from '../errors.ts';
import { gunzipSource, isGzip } from './gzip.ts';
import type { ByteSource } from './source.ts';
import { blobSource, memorySource, type UrlSourceOptions, urlSource } from './sources.ts';

/** A path, an http(s), blob, data or file URL, bytes, a `Blob` or `File`, or a source of the caller's own. */
export type ModelInput = string | URL | Uint8Array | Blob | ByteSource;

export interface OpenSourceOptions extends UrlSourceOptions {
  /**
   * Opens a path or a `file:` URL. This room knows no file system; whoever has a runtime hands one in
   * (`openFileSource` of `src/platform`). Without it paths are refused.
   */
  readonly openPath?: (path: string | URL) => Promise<ByteSource>;
  /** Ceiling for the inflated size of gzipped input. */
  readonly maxInflatedBytes?: number;
}

/** Opens any input as a byte source; gzip is recognised by its first bytes and inflated. */
export async function openModelSource(input: ModelInput, options: OpenSourceOptions = {}): Promise<ByteSource> {
  const source = await openPlain(input, options);
  try {
    if (!(await isGzip(source))) return source;
    const { maxInflatedBytes } = options;
    return await gunzipSource(source, maxInflatedBytes === undefined ? {} : { maxBytes: maxInflatedBytes });
  } catch (error) {
    // A source that the caller made stays the caller's.
    if (source !== input) await source.close();
    throw error;
  }
}

async function openPlain(input: ModelInput, options: OpenSourceOptions): Promise<ByteSource> {
  if (typeof input === 'string' || input instanceof URL) return openNamed(input, options);
  if (input instanceof Uint8Array) return memorySource(input);
  if (typeof Blob !== 'undefined' && input instanceof Blob) return blobSource(input);
  if (isByteSource(input)) return input;
  throw new BitnetError('bad-argument', 'not a model', {
    expected: 'a path, URL, Uint8Array, Blob or ByteSource',
    got: show(input),
  });
}

/** Whether the caller brought a source of their own. */
export function isByteSource(input: unknown): input is ByteSource {
  return typeof input === 'object' && input !== null && 'readInto' in input;
}

function openNamed(input: string | URL, options: OpenSourceOptions): Promise<ByteSource> {
  // At least two letters before the colon: C:\models is a path.
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(String(input))?.[1].toLowerCase();
  if (scheme === 'http' || scheme === 'https') return urlSource(input, options);
  if (scheme === 'blob' || scheme === 'data') return openInlineUrl(String(input), options);
  const { openPath } = options;
  if (openPath === undefined) {
    throw new BitnetError('bad-argument', 'paths cannot be opened here', {
      where: String(input),
      expected: 'a URL, Uint8Array or Blob',
    });
  }
  // "file:" only with slashes: a file may be called file:x.
  return openPath(typeof input === 'string' && /^file:\/\//i.test(input) ? new URL(input) : input);
}

/**
 * URLs of things that are already here. They are taken as a Blob, not by ranges: a browser copies nothing for that, and
 * the fetch of Node 20 cuts ranges of blob URLs one byte short.
 */
async function openInlineUrl(url: string, options: OpenSourceOptions): Promise<ByteSource> {
  const label = url.length > 100 ? `${url.slice(0, 97)}...` : url;
  try {
    return blobSource(await (await (options.fetch ?? fetch)(url)).blob(), label);
  } catch (error) {
    throw new BitnetError('http', 'cannot open the URL', { where: label, got: String(error) }, error);
  }
}
