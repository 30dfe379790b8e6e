// The types of the package are those that a strict program needs, and hold at run time.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiler = join(root, 'node_modules/typescript/bin/tsc');
const skip = existsSync(compiler) ? false : 'TypeScript is not installed';

function run(...args) {
  const done = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
  assert.equal(done.status, 0, done.stdout + done.stderr);
  return done.stdout;
}

test('a strict TypeScript program compiles and runs', { skip }, () => {
  // The output is inside the package, so that it finds the package by its name.
  const out = join(root, 'target/types');
  run(compiler, '--strict', '--target', 'es2022', '--module', 'node16', '--noEmitOnError',
    '--rootDir', join(root, 'test'), '--outDir', out, 'test/types.mts');
  assert.equal(run(join(out, 'types.mjs')), 'every type holds\n');
});
