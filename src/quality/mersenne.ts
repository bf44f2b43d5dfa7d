/**
 * Which tasks llama-perplexity picks out of a file: its random numbers, std::mt19937 with seed 1, and its two ways to draw.
 * @module
 */

const WORDS = 624;
const SHIFT = 397;
const TWO32 = 0x100000000;

/** MT19937, 32 bits (Matsumoto and Nishimura, ACM TOMACS 8, 1998), seeded as std::mt19937 is. */
export class MersenneTwister {
  readonly #state = new Uint32Array(WORDS);
  #at = WORDS;

  constructor(seed: number) {
    const state = this.#state;
    state[0] = seed;
    for (let i = 1; i < WORDS; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }

  /** 32 random bits as an unsigned integer. */
  next(): number {
    if (this.#at === WORDS) this.#twist();
    let y = this.#state[this.#at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < WORDS; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#at = 0;
  }
}

/**
 * HellaSwag: `count` of 0 .. total - 1 without repetition, each by std::uniform_int_distribution over those left, which keep
 * their order. C++ leaves that distribution's method to the library; this is libstdc++'s since GCC 11 (Lemire, "Fast random
 * integer generation in an interval", 2019). A llama-perplexity built with another library draws other tasks.
 */
export function drawUniform(total: number, count: number): number[] {
  const rng = new MersenneTwister(1);
  const left = Array.from({ length: total }, (_, i) => i);
  const drawn: number[] = [];
  while (drawn.length < Math.min(count, total)) drawn.push(...left.splice(uniformBelow(rng, left.length), 1));
  return drawn;
}

/** Uniform in 0 .. range - 1: the high word of a 64-bit product, with the draws refused that would favour some. */
export function uniformBelow(rng: MersenneTwister, range: number): number {
  const refused = (TWO32 - range) % range;
  for (;;) {
    const [high, low] = product(rng.next(), range);
    if (low >= refused) return high;
  }
}

/** The two 32-bit words of a * b, both below 2^32. */
function product(a: number, b: number): [high: number, low: number] {
  const bottom = (a & 0xffff) * b;
  const middle = (a >>> 16) * b + Math.floor(bottom / 0x10000);
  return [Math.floor(middle / 0x10000), ((middle % 0x10000) * 0x10000 + (bottom % 0x10000)) >>> 0];
}

/**
 * Winogrande and multiple choice: int(2^-32 * rng() * left) in floats, and the last of those left takes the place of the one
 * that was drawn. The product can round up to the number of those left, where C++ reads behind the end; here that is the last.
 */
export function drawScaled(total: number, count: number): number[] {
  const rng = new MersenneTwister(1);
  const left = Array.from({ length: total }, (_, i) => i);
  const drawn: number[] = [];
  while (drawn.length < Math.min(count, total)) {
    const scaled = Math.fround(Math.fround(rng.next()) / TWO32);
    const at = Math.min(left.length - 1, Math.floor(Math.fround(scaled * left.length)));
    drawn.push(left[at]);
    left[at] = left[left.length - 1];
    left.pop();
  }
  return drawn;
}
