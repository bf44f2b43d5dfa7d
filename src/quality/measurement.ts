/**
 * What all measurements have in common: they go step by step, and what is summed so far can be kept and taken up again.
 * @module
 */

import type { Model, Session, SessionOptions } from '../engine/types.ts';
import { want } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/index.ts';

/** What is measured. The session belongs to the measurement while it runs. */
export interface Subject {
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly vocabularySize: number;
  /** Bits that a model's numbers have, whatever runtime, backend and number of threads computed them. */
  readonly fingerprint: string;
}

/** Plain data for JSON; numbers come back from it with the same bits. */
export type Saved = Readonly<Record<string, number | string>>;

/** A measurement in steps: windows, documents, tasks. The sums, and so the result, depend on nothing but the steps. */
export interface Measurement<R> {
  /** Number of steps. */
  readonly steps: number;
  /** Computes one step. Steps go in order, each once; one that throws, e.g. because of the signal, has not been counted. */
  step(index: number, signal?: AbortSignal): Promise<void>;
  /** The sums so far. */
  save(): Saved;
  /** Takes up sums that `save` gave for the same measurement. */
  restore(saved: Saved): void;
  /** How it stands, in a few words. */
  running(): string;
  result(): R;
}

const PROBES = 8;

/** A session of a model, and the fingerprint of such sessions, whatever their length. */
export async function createSubject(model: Model, options: SessionOptions = {}): Promise<Subject> {
  const fingerprint = await fingerprintOf(model, options);
  const { tokenizer, info } = model;
  return { session: model.createSession(options), tokenizer, vocabularySize: info.vocabularySize, fingerprint };
}

/**
 * SHA-256 of the logits after a few tokens from all over the vocabulary. Whatever changes what a model computes changes it:
 * weights, layout, requantised tables, the type of the KV cache. It costs one short prefill.
 */
async function fingerprintOf(model: Model, options: SessionOptions): Promise<string> {
  const { vocabularySize, contextLength } = model.info;
  const contextSize = Math.min(PROBES, contextLength);
  const session = model.createSession({ ...options, contextSize });
  try {
    const ids = Array.from({ length: contextSize }, (_, i) => Math.floor((i * (vocabularySize - 1)) / PROBES));
    return await sha256(littleEndian(await session.prefill(ids)));
  } finally {
    await session.dispose();
  }
}

function littleEndian(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setFloat32(4 * i, value, true);
  return bytes;
}

/** Hex. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A number that `save` stored. */
export function savedNumber(saved: Saved, key: string): number {
  const value = saved[key];
  want(typeof value === 'number' && Number.isFinite(value), 'bad-metadata', 'not the sums of this measurement', () => ({
    where: key,
    expected: 'a number',
    got: String(value),
  }));
  return value;
}

/** Floats as base64 of their little-endian bytes. */
export function encodeFloats(values: Float32Array): string {
  const bytes = littleEndian(values);
  const parts: string[] = [];
  // In pieces: `fromCharCode` takes its characters as arguments.
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return btoa(parts.join(''));
}

/** `count` floats that `encodeFloats` wrote. */
export function decodeFloats(saved: Saved, key: string, count: number): Float32Array {
  const text = saved[key];
  const raw = typeof text === 'string' && /^[A-Za-z0-9+/]*={0,2}$/.test(text) ? atob(text) : undefined;
  want(raw?.length === 4 * count, 'bad-metadata', 'not the values of this measurement', () => ({
    where: key,
    expected: `${count} floats`,
    got: raw === undefined ? 'no base64' : `${raw.length} bytes`,
  }));
  const view = new DataView(Uint8Array.from(raw!, (character) => character.charCodeAt(0)).buffer);
  return Float32Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true));
}
