import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/*/node_modules/**'],
    // Two cores are common: more workers than that only make tests with threads of their own slower.
    maxWorkers: 2,
    testTimeout: 30_000,
  },
});
