/**
 * At most so many things at a time, first come, first served.
 * @module
 */

/** Runs `act` when one of the lanes is free, at once where one is, and gives back what it gives; `lane` counts from 0. */
export type TakeTurn = <T>(act: (lane: number) => Promise<T>) => Promise<T>;

export function createTurns(nLanes: number): TakeTurn {
  const free = Array.from({ length: nLanes }, (_, i) => nLanes - 1 - i);
  const waiting: ((lane: number) => void)[] = [];
  return async (act) => {
    const lane = free.pop() ?? (await new Promise<number>((resolve) => waiting.push(resolve)));
    try {
      return await act(lane);
    } finally {
      const next = waiting.shift();
      if (next === undefined) free.push(lane);
      else next(lane);
    }
  };
}

/** Waits for all, also when some fail, so that nothing is under way any more; then throws what the first of them threw. */
export async function allSettled<T>(pending: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(pending);
  return Promise.all(pending);
}
