/** From samples to a table and a picture. */

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/**
 * One line for each engine, number of threads and test: the median, and how many times as fast the first engine is.
 * Ratios are medians of the ratios of rounds: two engines measured one after the other had the same machine.
 */
export function summarise(samples, engines) {
  const reference = engines[0];
  const of = (engine, threads, test) =>
    samples.filter((s) => s.engine === engine && s.threads === threads && s[test] !== undefined);
  const lines = [];
  for (const threads of new Set(samples.map((s) => s.threads))) {
    for (const test of ['pp', 'tg']) {
      for (const engine of engines) {
        const mine = of(engine, threads, test);
        if (mine.length === 0) continue;
        const speeds = mine.map((s) => s[test]);
        const first = new Map(of(reference, threads, test).map((s) => [s.round, s[test]]));
        const ratios = mine.filter((s) => first.has(s.round)).map((s) => first.get(s.round) / s[test]);
        lines.push({
          engine,
          threads,
          test,
          rounds: mine.length,
          median: median(speeds),
          min: Math.min(...speeds),
          max: Math.max(...speeds),
          ratio: ratios.length === 0 ? undefined : median(ratios),
        });
      }
    }
  }
  return lines;
}

export function markdown({ title, machine, date, command, lines, engines, absent, names }) {
  const rows = lines.map((line) => [
    line.engine,
    `${line.threads}`,
    names[line.test],
    line.median.toFixed(1),
    `${line.min.toFixed(1)} to ${line.max.toFixed(1)}`,
    line.ratio === undefined ? '' : `${line.ratio.toFixed(2)}x`,
  ]);
  const table = (head, body) =>
    [head, head.map(() => '---'), ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
  return [
    `# ${title}`,
    `${date.slice(0, 10)}, ${machine.cpu} (${machine.nCpus}), ${machine.os}, commit ${machine.commit ?? 'unknown'}. ` +
      'Random weights in the shape of the published model; engines took turns, round by round.',
    `    ${command}`,
    table(['engine', 'threads', 'test', 'tokens/s (median)', 'range', `${engines[0]?.name} is`], rows),
    table(
      ['engine', 'version', 'file'],
      engines.map(({ name, version, model }) => [name, version ?? '', model]),
    ),
    ...(absent.length === 0 ? [] : [`Not measured: ${absent.map(({ name, why }) => `${name} (${why})`).join('; ')}.`]),
    '',
  ].join('\n\n');
}

/** Bars from zero, each test on its own scale; readable on light and dark paper. */
export function svg({ title, subtitle, lines, names }) {
  const quoted = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const groups = Map.groupBy === undefined ? groupBy(lines) : Map.groupBy(lines, keyOf);
  const [left, right, bar, gap] = [190, 640, 16, 22];
  const parts = [];
  let y = 64;
  const first = lines[0]?.engine;
  for (const group of groups.values()) {
    const [{ threads, test }] = group;
    const most = Math.max(...group.map((line) => line.median));
    parts.push(`<text class="h" x="12" y="${y}">${names[test]}, ${threads} thread${threads === 1 ? '' : 's'}</text>`);
    y += 10;
    for (const { engine, median } of group) {
      const width = Math.max(1, ((right - left) * median) / most);
      parts.push(
        `<text x="${left - 8}" y="${y + 12}" text-anchor="end">${quoted(engine)}</text>`,
        `<rect class="${engine.startsWith(first) ? 'us' : 'them'}" x="${left}" y="${y}" width="${width.toFixed(1)}" height="${bar}" rx="2"/>`,
        `<text x="${(left + width + 6).toFixed(1)}" y="${y + 12}">${median.toFixed(median < 100 ? 1 : 0)}</text>`,
      );
      y += gap;
    }
    y += 24;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="720" height="${y}" viewBox="0 0 720 ${y}" role="img" aria-label="${quoted(title)}">
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.h { font-weight: 600 }
.t { font-size: 15px; font-weight: 600 }
.us { fill: #0a66c2 }
.them { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .us { fill: #58a6ff }
  .them { fill: #6e7681 }
}
</style>
<text class="t" x="12" y="22">${quoted(title)}</text>
<text x="12" y="40">${quoted(subtitle)}</text>
${parts.join('\n')}
</svg>
`;
}

const keyOf = ({ threads, test }) => `${test} ${threads}`;

/** For Node 20. */
function groupBy(lines) {
  const groups = new Map();
  for (const line of lines) groups.set(keyOf(line), [...(groups.get(keyOf(line)) ?? []), line]);
  return groups;
}
