/** What a refusal says. */

import { BitnetError } from '../../src/errors.ts';

export async function refusal(act: () => unknown): Promise<[code: string, message: string]> {
  try {
    await act();
  } catch (error) {
    if (error instanceof BitnetError) return [error.code, error.message];
    throw error;
  }
  throw new Error('nothing was refused');
}
