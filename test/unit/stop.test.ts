import { describe, expect, it } from 'vitest';
import { StopTexts } from '../../src/engine/stop.ts';

/** Feeds pieces, returns the visible text and the stop text. */
function feed(stops: string[], pieces: string[]): [string, string | undefined] {
  const texts = new StopTexts(stops);
  let out = '';
  for (const piece of pieces) {
    const { text, stop } = texts.push(piece);
    out += text;
    if (stop !== undefined) return [out, stop];
  }
  return [out + texts.flush(), undefined];
}

describe('StopTexts', () => {
  it('finds a stop text within a piece and across pieces', () => {
    expect(feed(['END'], ['abENDcd'])).toEqual(['ab', 'END']);
    expect(feed(['END'], ['a', 'E', 'N', 'D', 'x'])).toEqual(['a', 'END']);
    expect(feed(['\n\n'], ['a\n', 'b\n', '\nc'])).toEqual(['a\nb', '\n\n']);
  });

  it('lets false beginnings through', () => {
    expect(feed(['END'], ['EN', 'EN', 'E'])).toEqual(['ENENE', undefined]);
    expect(feed(['aab'], ['aaa', 'ab'])).toEqual(['aa', 'aab']);
  });

  it('takes the earliest, and of two at one place the longer', () => {
    expect(feed(['cd', 'bc'], ['abcd'])).toEqual(['a', 'bc']);
    expect(feed(['b', 'bc'], ['abc'])).toEqual(['a', 'bc']);
  });

  it('holds back only what may become a stop text', () => {
    const texts = new StopTexts(['END']);
    expect(texts.push('xyE').text).toBe('xy');
    expect(texts.push('q').text).toBe('Eq');
  });
});
