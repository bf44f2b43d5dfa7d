/**
 * Tiles of TL1 and TL2: into what pieces bitnet.cpp's look-up kernels were compiled to cut a matrix. A file says nothing about
 * them; they follow from the shape M x K, through the `kernel_config.ini` of whoever made the file. `BM/BK/bm` there:
 *
 *     BM    rows of a tile          BK    columns of a tile          bm    rows of an inner tile
 *
 * The shapes below are those of bitnet.cpp's three sets of kernels, and of the small models of this project. Their values are
 * those of `setup_env.py` (`codegen`), which generates kernels anew for every model. Its folder `preset_kernels` has others for
 * TL1 of Llama3-8B (`preset`): both read every file without complaint, and one of them into noise. `preset` also lists
 * 4096 x 1536 of TL2 with bm 64, with which the converter fails, so no file has that.
 *
 * Files of other shapes are read with tiles that the caller names; there is no guessing.
 *
 * Upstream: gen_code in setup_env.py, utils/codegen_tl1.py, utils/codegen_tl2.py, preset_kernels/ of microsoft/BitNet.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { LookupTernaryName } from './dtype.ts';

export interface Tiles {
  /** BM. */
  readonly rows: number;
  /** BK. */
  readonly columns: number;
  /** bm. */
  readonly innerRows: number;
}

/** Which of bitnet.cpp's two lists, or tiles by shape: `{ '4096x4096': '128/64/64' }`. */
export type TilesChoice = 'codegen' | 'preset' | Readonly<Record<string, string>>;

/** "M x K", TL1 codegen, TL1 preset where it differs, TL2. */
type Row = readonly [rows: number, columns: number, tl1: string, tl1Preset: string, tl2: string];

const table: readonly Row[] = [
  // 1bitLLM/bitnet_b1_58-large
  [1536, 4096, '256/128/32', '256/128/32', '256/96/32'],
  [1536, 1536, '128/64/64', '128/64/64', '128/192/32'],
  [4096, 1536, '256/128/32', '256/128/32', '256/96/32'],
  // 1bitLLM/bitnet_b1_58-3B
  [3200, 8640, '160/64/32', '160/64/32', '160/96/32'],
  [3200, 3200, '320/128/64', '320/128/64', '320/96/32'],
  [8640, 3200, '320/64/32', '320/64/32', '320/96/32'],
  // HF1BitLLM/Llama3-8B-1.58-100B-tokens
  [14336, 4096, '256/128/32', '256/128/64', '256/96/32'],
  [4096, 14336, '128/64/64', '256/128/32', '128/96/32'],
  [1024, 4096, '256/128/32', '128/64/64', '256/96/32'],
  [4096, 4096, '128/64/64', '128/64/32', '128/96/32'],
  // The preset `tiny` of `bitnet synth`, and the built-in story model, which has its shape
  [256, 256, '128/64/64', '128/64/64', '128/96/32'],
  [128, 256, '128/128/32', '128/128/32', '128/96/32'],
  [768, 256, '256/128/32', '256/128/32', '256/96/32'],
  [256, 768, '128/64/64', '128/64/64', '128/192/32'],
];

/** Whether the two lists of TL1 differ for this shape. */
export function hasTwoTilings(rows: number, columns: number): boolean {
  const found = rowOf(rows, columns);
  return found !== undefined && found[2] !== found[3];
}

/** The tiles of a matrix. Throws `bad-tensor` where nothing says what they are, or they do not fit the shape. */
export function tilesOf(
  dtype: LookupTernaryName,
  rows: number,
  columns: number,
  choice: TilesChoice = 'codegen',
  where?: string,
): Tiles {
  const found = rowOf(rows, columns);
  const named = typeof choice === 'string' ? undefined : choice[`${rows}x${columns}`];
  const text = named ?? (found === undefined ? undefined : found[dtype === 'TL2' ? 4 : choice === 'preset' ? 3 : 2]);
  if (text === undefined) {
    throw new BitnetError('bad-tensor', `the tiles of ${dtype} are not known for this shape`, {
      ...(where === undefined ? {} : { where }),
      expected: `one of ${table.map(([m, k]) => `${m}x${k}`).join(', ')}`,
      got: `${rows}x${columns}`,
      hint: `name them as in kernel_config.ini: --tl-tiles ${rows}x${columns}=BM/BK/bm; or take the I2_S file of the same model`,
    });
  }
  const tiles = parseTiles(text, `${rows}x${columns}`);
  wantFitting(dtype, rows, columns, tiles, where);
  return tiles;
}

function rowOf(rows: number, columns: number): Row | undefined {
  return table.find(([m, k]) => m === rows && k === columns);
}

/** `256/128/32`. */
export function parseTiles(text: string, where: string): Tiles {
  const match = /^(\d{1,6})\/(\d{1,6})\/(\d{1,6})$/.exec(text);
  if (match === null) {
    throw new BitnetError('bad-argument', 'not tiles', { where, expected: 'BM/BK/bm, e.g. 256/128/32', got: text });
  }
  const [rows, columns, innerRows] = match.slice(1).map(Number);
  return { rows, columns, innerRows };
}

/** `codegen`, `preset`, or `4096x4096=128/64/64,1024x4096=...`. */
export function parseTilesChoice(text: string): TilesChoice {
  if (text === 'codegen' || text === 'preset') return text;
  const choice: Record<string, string> = {};
  for (const part of text.split(',')) {
    const match = /^(\d+x\d+)=(.*)$/.exec(part.trim());
    if (match === null) {
      throw new BitnetError('bad-argument', 'not tiles', {
        expected: 'codegen, preset, or MxK=BM/BK/bm,...',
        got: part,
      });
    }
    parseTiles(match[2], match[1]);
    choice[match[1]] = match[2];
  }
  return choice;
}

/** TL1: an inner tile is bm rows of 256/bm columns. TL2: 32 rows, triples in columns of BK, the rest in pairs of 32. */
function wantFitting(
  dtype: LookupTernaryName,
  rows: number,
  columns: number,
  { rows: bigRows, columns: bigColumns, innerRows }: Tiles,
  where: string | undefined,
): void {
  const rule = (holds: boolean, expected: string) =>
    want(holds, 'bad-tensor', `the tiles do not fit this ${dtype} matrix`, () => ({
      ...(where === undefined ? {} : { where }),
      expected,
      got: `${rows}x${columns} in ${bigRows}/${bigColumns}/${innerRows}`,
    }));
  rule(innerRows > 0 && bigRows > 0 && bigColumns > 0, 'tiles that are not empty');
  rule(rows % bigRows === 0, 'rows a multiple of BM');
  rule(bigRows % innerRows === 0, 'BM a multiple of bm');
  if (dtype === 'TL1') {
    rule([16, 32, 64].includes(innerRows), 'bm 16, 32 or 64');
    rule(columns % bigColumns === 0, 'columns a multiple of BK');
    rule(bigColumns % (256 / innerRows) === 0, 'BK a multiple of 256 / bm');
    // Upstream's reader and writer agree on where the scale is only then.
    rule((rows * columns) % 128 === 0, 'a multiple of 128 values');
  } else {
    rule(innerRows === 32, 'bm 32');
    rule(bigColumns % 24 === 0, 'BK a multiple of 24');
    rule((columns % bigColumns) % 32 === 0, 'columns a multiple of BK, and of 32 beyond that');
    rule(columns >= 256, 'at least 256 columns');
    rule(columns % bigColumns <= 256, 'at most 256 columns beyond the last tile');
  }
}
