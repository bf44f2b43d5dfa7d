/**
 * The printable alphabet in which byte-level BPE vocabularies are written (OpenAI's GPT-2 `bytes_to_unicode`).
 *
 * Vocabulary files want every token to be printable text, so each of the 256 bytes got one visible character:
 *
 *     bytes 21-7E, A1-AC, AE-FF   stand for themselves                          "a" -> U+0061
 *     the other 68, in order      U+0100, U+0101, ... U+0143                    " " -> U+0120, newline -> U+010A
 *
 * Every character is one code point below U+0144, hence one or two bytes of UTF-8.
 * @module
 */

const ALPHABET_END = 0x144;

/** Translates token texts back to the bytes they stand for. */
export class ByteAlphabet {
  /** (0x144) character -> byte, or -1. */
  readonly #byteOf = new Int16Array(ALPHABET_END).fill(-1);

  constructor() {
    let next = 0x100;
    for (let byte = 0; byte < 256; byte++) {
      const itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      this.#byteOf[itself ? byte : next++] = byte;
    }
  }

  /**
   * Decodes the UTF-8 text[start..end) into `out` from `at` on and returns where that ends, or -1 when the text has a
   * character outside the alphabet (special tokens have; such a token can never come out of a merge).
   */
  decode(text: Uint8Array, start: number, end: number, out: Uint8Array, at = 0): number {
    let length = at;
    for (let i = start; i < end; ) {
      const lead = text[i++];
      let char = lead;
      if (lead >= 0x80) {
        // Two-byte characters below U+0144 have lead bytes C2 to C5; anything else is not of the alphabet.
        if (lead < 0xc2 || lead > 0xc5 || i === end || (text[i] & 0xc0) !== 0x80) return -1;
        char = ((lead & 0x1f) << 6) | (text[i++] & 0x3f);
      }
      const byte = char < ALPHABET_END ? this.#byteOf[char] : -1;
      if (byte < 0) return -1;
      out[length++] = byte;
    }
    return length;
  }
}
