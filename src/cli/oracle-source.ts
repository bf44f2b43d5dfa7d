/**
 * Traces by path: a folder, an `.npz`, or a log of llama-eval-callback.
 * @module
 */

import { stat } from 'node:fs/promises';
import { openTrace, openTraceFile, type StoredTrace } from '../oracle/dump/open.ts';
import { openFolder } from '../platform/folder-node.ts';
import { ioError, openFileSource } from '../platform/source-node.ts';

/** `architecture` tells names of llama.cpp apart that mean several things, where the trace does not say whose they are. */
export async function openTracePath(path: string, architecture?: string): Promise<StoredTrace> {
  const found = await stat(path).catch((error) => {
    throw ioError(path, 'cannot open', error);
  });
  if (found.isDirectory()) return openTrace(await openFolder(path), architecture);
  const source = await openFileSource(path);
  try {
    return await openTraceFile(source, architecture);
  } catch (error) {
    await source.close();
    throw error;
  }
}
