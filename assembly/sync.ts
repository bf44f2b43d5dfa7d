/**
 * The barrier at which the threads of a run meet: spin first (the others are microseconds away), then sleep.
 * Without threads there is nobody to wait for and all of this is dropped at compile time.
 */

import { BARRIER_ARRIVED, BARRIER_GENERATION, BARRIER_SLEEPERS, FAILED, OWNER_SPINS } from './layout';

/** Loads of the generation word before going to sleep: some 20-50 microseconds. */
const SPINS: i32 = 20000;
/** Sleep at most this long before looking at FAILED again. */
const SLEEP_NS: i64 = 50_000_000;
/** Sleeps without any progress before the others count as lost: 120 s. */
const MAX_SLEEPS: i32 = 2400;

/** Where the owner must not sleep (a browser's page): as many loads, a minute or two. */
const MAX_OWNER_SPINS: i64 = 100_000_000_000;

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
  if (thread == 0 && atomic.load<i32>(OWNER_SPINS) != 0) {
    let spins: i64 = 0;
    while (atomic.load<i32>(BARRIER_GENERATION) == generation) {
      if (atomic.load<i32>(FAILED) != 0) break;
      if (++spins > MAX_OWNER_SPINS) atomic.store<i32>(FAILED, 1);
    }
    return atomic.load<i32>(FAILED) == 0;
  }
  atomic.add<i32>(BARRIER_SLEEPERS, 1);
  let sleeps = 0;
  while (atomic.load<i32>(BARRIER_GENERATION) == generation) {
    if (atomic.load<i32>(FAILED) != 0) break;
    if (++sleeps > MAX_SLEEPS) {
      atomic.store<i32>(FAILED, 1);
      break;
    }
    atomic.wait<i32>(BARRIER_GENERATION, generation, SLEEP_NS);
  }
  atomic.sub<i32>(BARRIER_SLEEPERS, 1);
  return atomic.load<i32>(FAILED) == 0;
}

/** First of the `count` items that belong to `thread`, in whole units; `thread = nThreads` gives the end. */
export function share(count: i32, unit: i32, thread: i32, nThreads: i32): i32 {
  const units = (count + unit - 1) / unit;
  const first = i32((i64(units) * i64(thread)) / i64(nThreads)) * unit;
  return min(first, count);
}
