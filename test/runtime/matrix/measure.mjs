/**
 * Runs inside each runtime, browsers included: the logits of a model under every setting of every column. The built package
 * is loaded the way a user's program does; nothing here names a module of one runtime.
 */
import { loadModel } from '../../../dist/index.js';
import { littleEndianBytes } from '../../../dist/oracle/npy.js';
import { runtimeName } from '../../../dist/platform/detect.js';
import { columns } from './columns.mjs';
import { tokensOf } from './tokens.mjs';

/** A part of the tokens that shares nothing with them: what a cache holds that is about to be forgotten. */
const others = (ids) => ids.map((id) => id ^ 1);

/** Rows of logits in order of positions. */
class Rows {
  #values = [];

  async take(chunks) {
    for await (const chunk of chunks) this.#values.push(Float32Array.from(chunk));
  }

  push(row) {
    this.#values.push(Float32Array.from(row));
  }

  async sha256() {
    const parts = this.#values.map(littleEndianBytes);
    return hex(await crypto.subtle.digest('SHA-256', await new Blob(parts).arrayBuffer()));
  }
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');

/** Ways to one and the same rows: (model, session options, ids, rows). */
const ways = {
  /** All at once; batches are the model's. */
  async whole(open, ids, rows) {
    await rows.take(open().logits(ids));
  },

  /** One token at a time, as generating does. */
  async steps(open, ids, rows) {
    const session = open();
    for (const id of ids) rows.push(await session.step(id));
  },

  /** The last row of a prompt that ends at each position, after a beginning of whole eights that stays in the cache. */
  async prompts(open, ids, rows) {
    const session = open();
    for (let end = 1; end <= ids.length; end++) {
      const begin = Math.floor((end - 1) / 8) * 8;
      if (session.position < begin) throw new Error(`the cache ends at ${session.position}, before ${begin}`);
      session.rewind(begin);
      rows.push(await session.prefill(ids.slice(begin, end)));
    }
  },

  /** In a cache that was full of other tokens. */
  async rewound(open, ids, rows) {
    const session = open();
    await session.prefill(others(ids));
    session.rewind(0);
    await rows.take(session.logits(ids));
  },

  /** After a beginning that was kept when another end was forgotten. */
  async kept(open, ids, rows) {
    const session = open();
    const kept = Math.ceil(ids.length / 3);
    await rows.take(session.logits(ids.slice(0, kept)));
    await session.prefill(others(ids.slice(kept)));
    session.rewind(kept);
    await rows.take(session.logits(ids.slice(kept)));
  },

  /** A second session, longer, takes turns with this one. */
  async beside(open, ids, rows) {
    const session = open();
    const other = open({ contextSize: 2 * ids.length });
    await other.prefill(others(ids));
    for (let begin = 0; begin < ids.length; begin += 11) {
      await rows.take(session.logits(ids.slice(begin, begin + 11)));
      await other.step(ids[begin]);
    }
  },
};

/** What this is, in its own words. */
export function identity() {
  const name = runtimeName(globalThis);
  return name === 'web' ? navigator.userAgent : `${name} ${globalThis.process.arch}`;
}

/**
 * One report for each model and column: `digests` (digest -> settings that gave it), `variants`, `missing` settings with the
 * reason that the package gives, `failed` with anything unexpected.
 *
 * `models`: { name, source, tokens, session }. `maxThreads`: settings of more are left out, and said to be.
 */
export async function* measure({ models, columns: names, maxThreads = Number.POSITIVE_INFINITY }) {
  for (const model of models) {
    for (const name of names) {
      const cell = { model: model.name, column: name, digests: {}, variants: [], missing: [] };
      for (const settings of columns[name]) {
        if ((settings.threads ?? 1) <= maxThreads) await measureSettings(model, settings, cell);
        else
          cell.missing.push({
            setting: labelOf(settings),
            reason: `no more than ${maxThreads} threads are tried here`,
          });
      }
      yield cell;
    }
  }
}

async function measureSettings({ source, tokens, session: sessionOptions }, { ways: names, ...load }, cell) {
  const label = labelOf(load);
  let model;
  try {
    model = await loadModel(source, load);
    const absent = absence(load, model.backend);
    if (absent !== undefined) {
      cell.missing.push({ setting: label, reason: absent });
      return;
    }
    if (!cell.variants.includes(model.backend.variant)) cell.variants.push(model.backend.variant);
    const ids = tokensOf(tokens);
    for (const way of names) {
      const rows = new Rows();
      const open = (options) => model.createSession({ contextSize: ids.length, ...sessionOptions, ...options });
      await ways[way](open, ids, rows);
      const digest = await rows.sha256();
      cell.digests[digest] ??= [];
      cell.digests[digest].push(`${label}, ${way}`);
    }
  } catch (error) {
    if (error?.code === 'backend-unavailable')
      cell.missing.push({ setting: label, reason: error.facts.got ?? error.message });
    else cell.failed ??= `${label}: ${error?.stack ?? error}`;
  } finally {
    await model?.dispose();
  }
}

/** `backend wasm, threads 2, batchSize 7`. */
function labelOf({ ways: _, ...load }) {
  return Object.entries(load)
    .map((entry) => entry.join(' '))
    .join(', ');
}

/** Why the backend that came is not the one that was asked for; it never says less than it does. */
function absence({ threads = 1, wideVectors = false }, { nThreads, variant, notes }) {
  if (nThreads !== undefined && nThreads < threads) {
    return notes.find((note) => note.includes('threads asked for')) ?? `${nThreads} threads came`;
  }
  if (wideVectors && !variant.includes('wide')) return 'no switch for wide vectors';
  return undefined;
}
