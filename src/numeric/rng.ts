/**
 * The random stream behind `--seed`: the same numbers on every runtime. A test pins them.
 *
 * xoshiro128** 1.1 (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2019), 32-bit
 * arithmetic only, seeded through splitmix32 so that near seeds give unrelated streams.
 * @module
 */

/** A seedable generator; `state()` and `fromState` make streams resumable. */
export class Rng {
  readonly #s: Uint32Array;

  private constructor(state: Uint32Array) {
    this.#s = state;
  }

  /** @param seed any safe integer or f64; its 64 bits of two 32-bit halves are used. */
  static fromSeed(seed: number): Rng {
    const low = seed >>> 0;
    const high = Math.floor(seed / 0x100000000) >>> 0;
    const s = new Uint32Array(4);
    let z = (low ^ Math.imul(high, 0x9e3779b9)) >>> 0;
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0;
      let t = z ^ (z >>> 16);
      t = Math.imul(t, 0x21f0aaad);
      t ^= t >>> 15;
      t = Math.imul(t, 0x735a2d97);
      t ^= t >>> 15;
      s[i] = t;
    }
    if ((s[0] | s[1] | s[2] | s[3]) === 0) s[0] = 1; // the all-zero state is a fixed point
    return new Rng(s);
  }

  static fromState(state: readonly number[]): Rng {
    return new Rng(Uint32Array.from(state));
  }

  state(): number[] {
    return Array.from(this.#s);
  }

  /** 32 random bits as an unsigned integer. */
  nextUint32(): number {
    const s = this.#s;
    const x = Math.imul(s[1], 5);
    const result = Math.imul((x << 7) | (x >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** Fills `out` with what as many calls of nextUint32() would return, several times faster: the state is in locals meanwhile. */
  fillUint32(out: Uint32Array): void {
    let [a, b, c, d] = Int32Array.from(this.#s);
    for (let i = 0; i < out.length; i++) {
      const x = Math.imul(b, 5);
      out[i] = Math.imul((x << 7) | (x >>> 25), 9);
      const t = b << 9;
      c ^= a;
      d ^= b;
      b ^= c;
      a ^= d;
      c ^= t;
      d = (d << 11) | (d >>> 21);
    }
    this.#s.set([a, b, c, d]);
  }

  /** Uniform in [0, 1) with 53 bits. */
  nextFloat(): number {
    return toFloat(this.nextUint32(), this.nextUint32());
  }
}

/** Two words of a generator as nextFloat() takes them. */
export function toFloat(first: number, second: number): number {
  return ((first >>> 5) * 67108864 + (second >>> 6)) / 9007199254740992;
}
