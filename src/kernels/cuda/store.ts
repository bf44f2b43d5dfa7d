/**
 * What the backend has on its device: it is taken, given back and counted here, and matrices get there.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { WeightSource } from '../interface.ts';
import { AS_IN_FILES, DENSE_CODE } from './abi.ts';
import { Books, stagedRows } from './books.ts';
import type { Device } from './device.ts';

export class Store {
  readonly books = new Books();
  readonly #device: Device;
  readonly #stagingBytes: number;

  /** Matrices that the device rearranges get there in pieces of about `stagingBytes`. */
  constructor(device: Device, stagingBytes: number) {
    this.#device = device;
    this.#stagingBytes = stagingBytes;
  }

  /** A zeroed buffer; its handle. Throws `out-of-memory`; `what` is for its message. */
  take(bytes: number, what: string): number {
    const handle = this.#device.alloc(bytes, what);
    this.books.take(bytes);
    return handle;
  }

  /** Two buffers or none. */
  takeBoth(firstBytes: number, secondBytes: number, what: string): [number, number] {
    const first = this.take(firstBytes, what);
    let second = 0;
    this.giveOnError(first, firstBytes, () => {
      second = this.take(secondBytes, what);
    });
    return [first, second];
  }

  give(handle: number, bytes: number): void {
    this.#device.free(handle);
    this.books.give(bytes);
  }

  giveOnError(handle: number, bytes: number, act: () => void): void {
    try {
      act();
    } catch (error) {
      this.give(handle, bytes);
      throw error;
    }
  }

  /** A matrix in the form that it has in device memory. `bytes` are those of the source. */
  send(source: WeightSource, bytes: Uint8Array): number {
    const { name, rows, columns } = source;
    if (source.kind === 'ternary' || AS_IN_FILES.includes(source.dtype)) {
      const handle = this.take(bytes.length, name);
      this.giveOnError(handle, bytes.length, () => this.#device.write(handle, bytes));
      return handle;
    }
    const dtype = DENSE_CODE[source.dtype];
    const size = this.#device.denseBytes(dtype, rows, columns);
    const handle = this.take(size, name);
    this.giveOnError(handle, size, () => {
      const atOnce = stagedRows(source, this.#stagingBytes);
      const rowBytes = bytes.length / rows;
      const room = atOnce * rowBytes;
      const staging = this.take(room, `staging of ${name}`);
      for (let row = 0; row < rows; row += atOnce) {
        const count = Math.min(atOnce, rows - row);
        this.#device.write(staging, bytes.subarray(row * rowBytes, (row + count) * rowBytes));
        this.#device.packDense(dtype, staging, handle, rows, columns, row, count);
      }
      this.give(staging, room);
    });
    return handle;
  }
}

/** Where the bytes of a matrix are put together before they are sent. */
export function hostBytes({ name, byteLength }: WeightSource): Uint8Array {
  try {
    return new Uint8Array(byteLength);
  } catch (cause) {
    const facts = {
      where: name,
      expected: `${byteLength} bytes`,
      hint: 'the host needs room for the largest matrix twice',
    };
    throw new BitnetError(
      'out-of-memory',
      'the host has no memory for a matrix on its way to the device',
      facts,
      cause,
    );
  }
}
