/** Token ids that look like nothing in particular: `count` of them, less than `below`. */
export function tokensOf({ count, below }) {
  return Array.from({ length: count }, (_, i) => (i * 53 + 259) % below);
}
