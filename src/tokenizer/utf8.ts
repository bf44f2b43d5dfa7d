/**
 * Bytes to text, a few at a time, whole characters only.
 *
 * A token may end in the middle of a character. Such bytes are held until the rest arrives; U+FFFD is printed only
 * for bytes that cannot become a character any more, one for each maximal part of one (as the WHATWG decoder does),
 * and for what is still held at the end. Our own decoder, because the streaming mode of `TextDecoder` has had bugs in
 * some engines and text must come out the same in all.
 * @module
 */
export class Utf8Stream {
  /** Continuation bytes the current character still needs. */
  #missing = 0;
  #codePoint = 0;
  /** Range of the next continuation byte: narrower than 80-BF where overlong forms or surrogates would begin. */
  #lower = 0x80;
  #upper = 0xbf;

  /** True while bytes of an unfinished character are held. */
  get pending(): boolean {
    return this.#missing > 0;
  }

  /** Takes bytes and returns the characters that are whole now. */
  push(bytes: Uint8Array): string {
    let text = '';
    for (const byte of bytes) {
      if (this.#missing > 0) {
        if (byte >= this.#lower && byte <= this.#upper) {
          this.#codePoint = (this.#codePoint << 6) | (byte & 0x3f);
          this.#lower = 0x80;
          this.#upper = 0xbf;
          if (--this.#missing === 0) text += String.fromCodePoint(this.#codePoint);
          continue;
        }
        // The character breaks off here; this byte may begin another.
        text += this.flush();
      }
      text += this.#begin(byte);
    }
    return text;
  }

  /** Ends the text: a character still unfinished becomes U+FFFD. */
  flush(): string {
    const text = this.#missing > 0 ? '\ufffd' : '';
    this.#missing = 0;
    this.#lower = 0x80;
    this.#upper = 0xbf;
    return text;
  }

  #begin(byte: number): string {
    if (byte < 0x80) return String.fromCharCode(byte);
    if (byte < 0xc2 || byte > 0xf4) return '\ufffd';
    if (byte < 0xe0) {
      this.#missing = 1;
      this.#codePoint = byte & 0x1f;
    } else if (byte < 0xf0) {
      this.#missing = 2;
      this.#codePoint = byte & 0x0f;
      if (byte === 0xe0) this.#lower = 0xa0;
      if (byte === 0xed) this.#upper = 0x9f;
    } else {
      this.#missing = 3;
      this.#codePoint = byte & 0x07;
      if (byte === 0xf0) this.#lower = 0x90;
      if (byte === 0xf4) this.#upper = 0x8f;
    }
    return '';
  }
}

/** Well-formed UTF-16: every lone surrogate becomes U+FFFD, as it would in UTF-8 anyway. */
export function wellFormed(text: string): string {
  // With the flag `u`, a surrogate in a pair is part of a character and does not match.
  return text.replace(/[\ud800-\udfff]/gu, '\ufffd');
}
