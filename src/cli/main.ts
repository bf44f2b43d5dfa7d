#!/usr/bin/env node
/**
 * The `bitnet` program. Runs when loaded, on Node, Deno and Bun; everything testable is in program.ts.
 * @module
 */

import process from 'node:process';
import { openIo } from './io.ts';
import { runProgram } from './program.ts';

const io = openIo();
// Set, not exit(): output that is still on its way to a pipe would be lost.
process.exitCode = await runProgram(process.argv.slice(2), io);
io.close();
