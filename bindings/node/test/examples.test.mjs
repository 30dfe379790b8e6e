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

const limits = [
  'upper answers "HELLO"', '    exit status: 0',
  'spinner has ended without an answer', '    it has used more processor time than it may',
  'hoarder fails: EMFILE', '    exit status: 0',
  'eater fails: Array buffer allocation failed', '    exit status: 0',
  'writer fails: EPERM', '    exit status: 0',
  'starter fails: EPERM', '    exit status: 0',
  'caller fails: EPERM', '    exit status: 0',
  'the host goes on',
];

test('a Rust host goes on when its plug-ins break their limits', () => {
  const options = { encoding: 'utf8', env: { ...process.env, NODE: process.execPath } };
  const run = spawnSync(buildPeer('plugins'), [], options);
  assert.deepEqual([run.status, run.stderr], [0, '']);
  assert.deepEqual(run.stdout.trim().split('\n'), limits);
});

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
