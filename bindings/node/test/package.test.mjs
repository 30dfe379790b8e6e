// The package that `npm pack` makes installs elsewhere, without Rust, and works.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

function run(command, args, options) {
  const done = spawnSync(command, args, { encoding: 'utf8', timeout: 120_000, ...options });
  assert.equal(done.status, 0, `${command} ${args.join(' ')}: ${done.stderr}`);
  return done.stdout.trim();
}

test('a packed package installs and runs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'messageport-package-'));
  try {
    const name = run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder],
      { cwd: root }).split('\n').pop();
    writeFileSync(join(folder, 'package.json'), '{"private": true}');
    const env = { ...process.env, CARGO: '/nonexistent' };
    run('npm', ['install', '--offline', '--no-audit', '--no-fund', join(folder, name)],
      { cwd: folder, env });
    const program = `
      const { fork, parentPort } = require('messageport');
      if (process.argv[2] === 'child') {
        parentPort.once('message', (value) => parentPort.postMessage(value + 1));
      } else {
        const worker = fork(__filename, { args: ['child'] });
        worker.on('message', (value) => { console.log(value); worker.port.close(); });
        worker.postMessage(1);
      }`;
    writeFileSync(join(folder, 'program.cjs'), program);
    assert.equal(run(process.execPath, ['program.cjs'], { cwd: folder }), '2');
    for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
      assert.equal(readFileSync(join(folder, 'node_modules/messageport', licence), 'utf8'),
        readFileSync(join(root, '../..', licence), 'utf8'));
    }
    // The package has its README, whose program runs.
    const readme = readFileSync(join(folder, 'node_modules/messageport/README.md'), 'utf8');
    writeFileSync(join(folder, 'main.mjs'), /```js\n([^]*?)```/.exec(readme)[1]);
    assert.equal(run(process.execPath, ['main.mjs'], { cwd: folder }), '{ sum: 6 }');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
