/**
 * The barrier at which the threads of a run meet: spin first (the others are microseconds away), then sleep.
 * Without threads there is nobody to wait for and all of this is dropped at compile time.
 */

import { BARRIER_ARRIVED, BARRIER_GENERATION, BARRIER_SLEEPERS, BEATS, FAILED, OWNER_SPINS } from './layout';

/** Loads of the generation word before going to sleep: some 20-50 microseconds. */
const SPINS: i32 = 20000;
/** Sleep at most this long before looking at FAILED and the heartbeats again. */
const SLEEP_NS: i64 = 50_000_000;
/**
 * Sleeps without a heartbeat before a thread counts as lost: 10 s. A thread that is killed from outside leaves no other trace,
 * since who waits here sees no events. Sleeps are counted, not time: a process that was stopped for an hour has slept once.
 */
const MAX_QUIET_SLEEPS: i32 = 200;
/** Where the owner must not sleep (a browser's page) this many loads are taken for a sleep. */
const SPINS_PER_SLEEP: i32 = 50_000_000;
/** What FAILED then becomes. */
const LOST: i32 = 2;

/**
 * Says that `thread` gets on. Called before each command, and between the parts of one that may take long; what lies
 * between two calls must take far less than 10 s on the slowest machine (a matrix with 4096 tokens: under a second here).
 */
// @ts-ignore: decorator
@inline
export function beat(thread: i32): void {
  if (!ASC_FEATURE_THREADS) return;
  const at = BEATS + (<usize>thread << 2);
  store<i32>(at, load<i32>(at) + 1); // nobody else writes it, and who reads it does not mind an old value
}

function beats(nThreads: i32): i32 {
  let sum = 0;
  for (let thread = 0; thread < nThreads; thread++) sum += atomic.load<i32>(BEATS + (<usize>thread << 2));
  return sum;
}

/** Returns false when a thread failed or was lost; the caller must leave at once. */
export function barrier(thread: i32, nThreads: i32): bool {
  if (!ASC_FEATURE_THREADS || nThreads <= 1) return true;
  const generation = atomic.load<i32>(BARRIER_GENERATION);
  if (atomic.add<i32>(BARRIER_ARRIVED, 1) == nThreads - 1) {
    // Last to come: reset first, then open the gate; nobody adds again before seeing the new generation.
    atomic.store<i32>(BARRIER_ARRIVED, 0);
    atomic.store<i32>(BARRIER_GENERATION, generation + 1);
    if (atomic.load<i32>(BARRIER_SLEEPERS) != 0) atomic.notify(BARRIER_GENERATION, -1);
    return atomic.load<i32>(FAILED) == 0;
  }
  for (let i = 0; i < SPINS; i++) {
    if (atomic.load<i32>(BARRIER_GENERATION) != generation) return atomic.load<i32>(FAILED) == 0;
  }
  const spins = thread == 0 && atomic.load<i32>(OWNER_SPINS) != 0;
  if (!spins) atomic.add<i32>(BARRIER_SLEEPERS, 1);
  let quiet = 0;
  let seen = beats(nThreads);
  while (atomic.load<i32>(BARRIER_GENERATION) == generation) {
    if (atomic.load<i32>(FAILED) != 0) break;
    if (spins) {
      let left = SPINS_PER_SLEEP;
      while (left > 0 && atomic.load<i32>(BARRIER_GENERATION) == generation) left--;
    } else atomic.wait<i32>(BARRIER_GENERATION, generation, SLEEP_NS);
    const now = beats(nThreads);
    quiet = now == seen ? quiet + 1 : 0;
    seen = now;
    if (quiet > MAX_QUIET_SLEEPS) atomic.store<i32>(FAILED, LOST);
  }
  if (!spins) atomic.sub<i32>(BARRIER_SLEEPERS, 1);
  return atomic.load<i32>(FAILED) == 0;
}

/** First of the `count` items that belong to `thread`, in whole units; `thread = nThreads` gives the end. */
export function share(count: i32, unit: i32, thread: i32, nThreads: i32): i32 {
  const units = (count + unit - 1) / unit;
  const first = i32((i64(units) * i64(thread)) / i64(nThreads)) * unit;
  return min(first, count);
}
