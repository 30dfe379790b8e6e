// Each example runs, and prints what it should.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { buildPeer } from './peer.mjs';

const folder = fileURLToPath(new URL('../examples/', import.meta.url));

const outputs = {
  'channel_messaging_basic.mjs': [
    'frame: Hello from the main page!', 'page: Message back from the frame',
  ],
  'channel_messaging_multimessage.mjs': ['one', 'two', 'three'].map((text) => (
    `Message received by the frame: "${text}"`)),
  'chat.mjs': ['rust: joined', 'rust: welcome'],
  'frames.mjs': Array.from({ length: 10 }, (_, index) => `frame ${index}: inverted`),
};

test('every example runs', () => {
  const peer = buildPeer();
  const names = readdirSync(folder).filter((name) => name.endsWith('.mjs'));
  assert.deepEqual(names.toSorted(), Object.keys(outputs));
  for (const name of names) {
    const options = { encoding: 'utf8', timeout: 60_000 };
    const run = spawnSync(process.execPath, [folder + name, peer].filter((argument) => (
      argument !== peer || !name.startsWith('channel'))), options);
    assert.deepEqual([run.status, run.stderr], [0, ''], name);
    assert.deepEqual(run.stdout.trim().split('\n').toSorted(), outputs[name].toSorted(), name);
  }
});
