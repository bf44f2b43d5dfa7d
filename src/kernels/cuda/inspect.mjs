/**
 * Looks at what the compiler made of the kernels: things that no test on a CPU can find, and that would be a wrong bit once in a while.
 *
 *   fused or approximate arithmetic   PTX: sums and products with .rn stay as they are, others may be fused (PTX ISA, add and mul)
 *   loads and stores before gridWait  a kernel may be on the card while the one before still writes; only weights may be read then
 *   loads by the constant path (.nc)  not coherent and free to move over gridWait: only where the source says so
 *   local memory                      registers and arrays that did not fit
 *
 * What it finds are sentences, none when all is well. Divisions and square roots are one instruction of PTX and many of the card's,
 * fused ones among them, so machine code is only asked for what PTX cannot know: what ptxas moved or spilled.
 */

/** Kernels that read weights before gridWait, as they may. */
const EARLY = /^(ternary|dense(?!Any)|headScore)/;

/** `denseKernel<3, 1, 4>` of a mangled name: the name in it that ends with Kernel, with its numbers. */
export function kernelName(mangled) {
  const found = /([a-z][A-Za-z]*Kernel)(?:I((?:L[a-z]\d+E)+)E)?/.exec(mangled);
  if (found === null) return mangled;
  const numbers = [...(found[2] ?? '').matchAll(/L[a-z](\d+)E/g)].map((match) => match[1]);
  return found[1] + (numbers.length > 0 ? `<${numbers.join(', ')}>` : '');
}

/** Whether it only takes time: another compiler may have fewer registers to give, and the bits stay the same. */
export function isOnlySlow(fault) {
  return fault.endsWith('local memory');
}

/** What comes before the wait that should not, of opcodes in the order of the text. */
function tooEarly(kernel, ops, wait, { load, store }) {
  const at = ops.findIndex((op) => op.startsWith(wait));
  if (at < 0) return [`${kernel}: never waits for the kernels before`];
  const before = ops.slice(0, at);
  const loads = EARLY.test(kernel) ? [] : before.filter((op) => load.test(op));
  return [...loads, ...before.filter((op) => store.test(op))].map(
    (op) => `${kernel}: ${op} before it waits for the kernels before`,
  );
}

/** Faults of a file of PTX. */
export function faultsOfPtx(text) {
  const arch = Number(/\.target\s+sm_(\d+)/.exec(text)?.[1] ?? 0);
  return text
    .split(/^(?=.*\.entry\s)/m)
    .filter((part) => /\.entry\s/.test(part))
    .flatMap((part) => {
      const kernel = kernelName(/\.entry\s+(\w+)/.exec(part)[1]);
      const ops = [...part.matchAll(/^\s*\{?\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)[^\n]*;/gm)].map((match) => match[1]);
      const faults = ops.filter(isWrongArithmetic).map((op) => `${kernel}: ${op} does not round as the contract says`);
      const constant = ops.filter((op) => op.startsWith('ld.global.nc') && !op.includes('L1::no_allocate'));
      faults.push(...constant.map((op) => `${kernel}: ${op} where the source has an ordinary load`));
      if (/^\s*\.local\s/m.test(part)) faults.push(`${kernel}: an array in local memory`);
      if (arch >= 90) {
        const memory = {
          load: /^(ld(?!\.(param|shared|const))|cp\.async)/,
          store: /^(st(?!\.(param|shared))|atom|red|ret)/,
        };
        faults.push(...tooEarly(kernel, ops, 'griddepcontrol.wait', memory));
      }
      return faults;
    });
}

function isWrongArithmetic(op) {
  if (!/\.f(32|64)/.test(op)) return false;
  return (
    /^(fma|mad)\./.test(op) || /\.(ftz|approx|full)\b/.test(op) || (/^(add|sub|mul)\./.test(op) && !/\.rn\b/.test(op))
  );
}

/** Faults of what `cuobjdump -sass` prints. */
export function faultsOfSass(text) {
  return text.split(/^\s*code for /m).flatMap((part) => {
    const arch = Number(/^sm_(\d+)/.exec(part)?.[1] ?? 0);
    return part
      .split(/^\s*Function : /m)
      .slice(1)
      .flatMap((body) => {
        const kernel = `${kernelName(/^\S+/.exec(body)[0])} (sm_${arch})`;
        const ops = [...body.matchAll(/^\s*\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)[^\n]*;/gm)].map(
          (match) => match[1],
        );
        if (ops.length === 0) return [`${kernel}: no instructions: is the output of cuobjdump of another form?`];
        const faults = ops.filter((op) => /^(LDL|STL)\b/.test(op)).map((op) => `${kernel}: ${op}, local memory`);
        const fused = ops.find((op) => /^[FD]FMA\b/.test(op));
        if (fused !== undefined && !ops.some((op) => /^MUFU\./.test(op)))
          faults.push(`${kernel}: ${fused} without a division or root`);
        const memory = { load: /^(LDG|LD)\b/, store: /^(STG|ST|ATOM|ATOMG|RED|EXIT)\b/ };
        if (arch >= 90) faults.push(...tooEarly(kernel, ops, 'ACQBULK', memory));
        return faults;
      });
  });
}
