/** The matrix for people: a table for each model, the reasons of empty cells below. */

const SHORT = 12;

export function tables({ numericsVersion, models, rows, columns }) {
  const reasons = new Map();
  const note = (reason) => {
    if (!reasons.has(reason)) reasons.set(reason, reasons.size + 1);
    return `[${reasons.get(reason)}]`;
  };
  const text = models.map(({ name, sha256 }) => {
    const body = rows.map((row) => [row.name, ...columns.map((column) => cellText(row, name, column, note))]);
    return `${name}  ${sha256 ?? 'no digest committed'}\n${aligned([['', ...columns], ...body])}`;
  });
  const notes = [...reasons].map(([reason, number]) => `[${number}] ${reason}`);
  return [`numerics ${numericsVersion}`, ...text, notes.join('\n')].filter(Boolean).join('\n\n');
}

/** `4c2e11aa90b1 relaxed x4 [2]`: digest, kernels, how many computations agree on it, what was left out. */
function cellText(row, model, column, note) {
  if (row.absent !== undefined) return note(row.absent);
  const cell = row.cells.find((one) => one.model === model && one.column === column);
  if (cell === undefined) return note(row.failed ?? 'not asked for');
  const parts = Object.entries(cell.digests).map(
    ([digest, settings]) => `${digest.slice(0, SHORT)} x${settings.length}`,
  );
  const variants = cell.variants
    .filter((variant) => variant !== 'plain')
    .map((variant) => variant.replace('+threads', ''));
  const all = [...parts, ...new Set(variants)];
  if (cell.failed !== undefined) all.push('FAILED', note(cell.failed));
  return [...all, ...new Set(cell.missing.map(({ reason }) => note(reason)))].join(' ');
}

function aligned(table) {
  const widths = table[0].map((_, column) => Math.max(...table.map((line) => line[column].length)));
  return table
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
