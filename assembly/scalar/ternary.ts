/**
 * `Backend.ternaryMatmul` without vectors, by tables. A byte holds the codes of four weights (0, 1, 2; weight + 1), so
 * what it adds to a row's sum is one of 81 numbers that depend only on the four activations it meets. For eight bytes of
 * a row at a time these numbers are put into eight tables indexed by the byte, and then every row costs one lookup and
 * one addition per four weights. Building is some 650 additions, worth it from about 50 rows on; small matrices cost little
 * either way.
 *
 * A sum of codes times activations is at most 2 * 128 * columns: i32 holds it. Until the last byte is in, the i32 sums
 * stand where the results will.
 */

/** Bytes of a table: 256 i16, the largest |number| being 4 * 2 * 128. Eight of them fill the smallest scratch. */
const TABLE: usize = 512;

/** One token, rows first..last-1. `out` points at the token's row of results. */
export function ternaryMatmul(
  out: usize,
  packed: usize,
  rowBytes: usize,
  weightScale: f32,
  codes: usize,
  meta: usize,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  const target = out + (<usize>first << 2);
  const end = out + (<usize>last << 2);
  const source = packed + <usize>first * rowBytes;
  if (target >= end) return;
  memory.fill(target, 0, end - target);
  // Byte p of a block of 32 holds columns p, 32 + p, 64 + p and 96 + p of 128.
  for (let at: usize = 0; at < rowBytes; at += 8) {
    buildTables(scratch, codes + ((at >> 5) << 7) + (at & 31));
    addTables(target, end, source + at, rowBytes, scratch);
  }
  const scale = load<f32>(meta);
  const codeSum = load<i32>(meta, 4);
  for (let row = target; row < end; row += 4) {
    store<f32>(row, (f32(load<i32>(row) - codeSum) / scale) * weightScale);
  }
}

/** Eight tables; `q` is the first activation that byte 0 meets. */
export function buildTables(tables: usize, q: usize): void {
  for (let p: usize = 0; p < 8; p++, tables += TABLE, q++) {
    const d = <i32>load<i8>(q, 96);
    for (let a: usize = 0; a < 3; a++) {
      const sumA = <i32>a * load<i8>(q);
      for (let b: usize = 0; b < 3; b++) {
        const sumB = sumA + <i32>b * load<i8>(q, 32);
        for (let c: usize = 0; c < 3; c++) {
          const sum = sumB + <i32>c * load<i8>(q, 64);
          const at = tables + ((a << 7) | (b << 5) | (c << 3));
          store<i16>(at, <i16>sum);
          store<i16>(at, <i16>(sum + d), 2);
          store<i16>(at, <i16>(sum + 2 * d), 4);
        }
      }
    }
  }
}

/** Adds to the sums target..end-1 what eight bytes of each row stand for. */
export function addTables(target: usize, end: usize, source: usize, rowBytes: usize, tables: usize): void {
  for (; target < end; target += 4, source += rowBytes) {
    const low = load<u32>(source);
    const high = load<u32>(source, 4);
    store<i32>(
      target,
      load<i32>(target) +
        load<i16>(tables + ((low & 255) << 1)) +
        load<i16>(tables + ((low >> 7) & 510), TABLE) +
        load<i16>(tables + ((low >> 15) & 510), 2 * TABLE) +
        load<i16>(tables + ((low >> 23) & 510), 3 * TABLE) +
        load<i16>(tables + ((high & 255) << 1), 4 * TABLE) +
        load<i16>(tables + ((high >> 7) & 510), 5 * TABLE) +
        load<i16>(tables + ((high >> 15) & 510), 6 * TABLE) +
        load<i16>(tables + ((high >> 23) & 510), 7 * TABLE),
    );
  }
}
