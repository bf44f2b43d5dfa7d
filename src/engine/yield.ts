/**
 * Lets timers, signals and other requests have their turn during long work on the caller's thread.
 * @module
 */

/** Shortest time between two turns given away; each costs some microseconds. */
const INTERVAL_MS = 8;

/** Returns a function to call between units of work: now and then it waits for one turn of the event loop. */
export function createYielder(): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last < INTERVAL_MS) return;
    await nextTurn();
    last = performance.now();
  };
}

function nextTurn(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };
  return new Promise((resolve) => {
    // Browsers delay nested timers by 4 ms; setImmediate, where it exists, does not wait.
    if (setImmediate !== undefined) setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
}
