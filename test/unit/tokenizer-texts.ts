/**
 * Seeded texts that tokenizers disagree about: scripts of all planes, combining marks, emoji sequences, runs of spaces and
 * line breaks, digits, contractions in odd case, lone surrogates, pieces of special tokens. Adversarial, not typical.
 * @module
 */

import { random } from '../../fixtures/tokenizer/vocabularies.ts';

const WORDS =
  "the of a I don't DON'T we'LL I'M it'S they'RE you'Ve he'D 'tis ''s 'S naïve façade Straße ĳ ŉ ﬁ Ⅳ x̂ e\u0301 E\u0308\u0323 Cu\u031b\u0309a Việt " +
  'привет Мир ΑΒΓ άλφα שלום مرحبا हिन्दी ไทย 漢字 かな カナ 한글 \u1112\u1161\u11ab 中文，。 1 12 123 1234 1234567890 ٣٤٥ ½ ² 3.14 0x1F 1e-9 -5 $9.99 ' +
  'function() {}; x += y; a->b; // c /* d */ "q" `code` <br/> http://a.b/c?d=e&f#g user@host.org #tag __init__ C:\\dir ... !!! ?! — “q” «r»';
const words = WORDS.split(' ');
const SPACES = [
  ' ',
  '  ',
  '   ',
  '    ',
  '\t',
  '\n',
  '\n\n',
  '\r\n',
  '\r',
  ' \n',
  '\n ',
  '\u00a0',
  '\u3000',
  '\u2009',
  '\u200b',
  '\u2028',
  '\u0085',
  '\ufeff',
  '\v\f',
];
const EMOJI = ['😀', '👩‍👩‍👧‍👦', '👍🏽', '🇺🇸🇯🇵', '❤️', '1️⃣', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '🧑🏻‍🚀'];
const MARKS = ['\u0301', '\u0308', '\u0323', '\u20e3', '\ufe0f', '\u200d', '\u0e49', '\u094d'];

export interface TextOptions {
  /** Texts of special tokens to strew in, whole and broken. */
  readonly specials: readonly string[];
  /** Code points that must not come up. */
  readonly avoid: (point: number) => boolean;
}

/** `count` texts, the same for the same seed. */
export function* oddTexts(seed: number, count: number, { specials, avoid }: TextOptions): Generator<string> {
  const next = random(seed);
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]) => list[below(list.length)];
  const point = () => {
    for (;;) {
      // Planes beyond the first three are almost empty: seldom.
      const top = [0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x30000, 0x110000][below(7)];
      const code = below(top);
      if (code < 0xd800 || code > 0xdfff) if (!avoid(code)) return String.fromCodePoint(code);
    }
  };
  const parts: (() => string)[] = [
    () => pick(words),
    () => pick(words),
    () => ` ${pick(words)}`,
    () => ` ${pick(words)}`,
    () => pick(SPACES),
    () => pick(SPACES),
    () => ' '.repeat(below(40)),
    () => '\n'.repeat(below(6)),
    () => pick(EMOJI),
    () => pick(words) + pick(MARKS),
    () => point(),
    () => point() + pick(MARKS) + point(),
    () => `${below(10 ** (1 + below(12)))}`,
    () => String.fromCharCode(0x21 + below(94)).repeat(1 + below(5)),
    () => `'${pick(['s', 'S', 't', 'T', 're', 'Re', 'RE', 've', 'll', 'LL', 'd', 'm', 'ſ', 'x'])}`,
    () => pick(specials),
    () => pick(specials).slice(below(3), -1),
    () => String.fromCharCode(0xd800 + below(0x800)),
    () => [...pick(words)].map((char) => (below(2) === 0 ? char.toUpperCase() : char)).join(''),
  ];
  for (let i = 0; i < count; i++) {
    const length = below(8) === 0 ? below(60) : below(12);
    let text = '';
    for (let part = 0; part < length; part++) text += pick(parts)();
    // What the parts made up together (a pair out of two halves) must obey too.
    yield [...text].filter((char) => !avoid(char.codePointAt(0) ?? 0)).join('');
  }
}
