// Several threads and contexts of one process, each with the package loaded.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { BroadcastChannel, listen } from '../lib/index.mjs';

const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

const program = new URL('./children/thread.mjs', import.meta.url);
const start = (role, name) => new Worker(program, { argv: [role, name] });

test('threads load the package, use it and end, many times', async () => {
  for (let round = 0; round < 3; round += 1) {
    const threads = [1, 2, 3, 4].map(() => start('channels'));
    const codes = await Promise.all(threads.map((thread) => once(thread, 'exit')));
    assert.deepEqual(codes, [[0], [0], [0], [0]]);
  }
});

test('a thread is terminated while its ports are busy', async () => {
  for (let round = 0; round < 5; round += 1) {
    const thread = start('busy');
    await once(thread, 'message');
    assert.equal(await thread.terminate(), 1);
  }
});

test('threads of one process meet by a name, and their end closes their ports', async () => {
  const name = `node-test-threads-${process.pid}`;
  const listener = listen(name);
  const thread = start('connect', name);
  const [port] = await once(listener, 'connection');
  const [value] = await once(port, 'message');
  assert.deepEqual(value, { from: 'thread' });
  const closed = once(port, 'close');
  await thread.terminate();
  await closed;
  listener.close();
});

test('members of a broadcast channel in threads', async () => {
  const name = `node-test-threads-${process.pid}`;
  const channel = new BroadcastChannel(name);
  const threads = [1, 2].map(() => start('member', name));
  const values = new Set();
  await new Promise((resolve) => {
    channel.on('message', (value) => values.add(value).size === 2 && resolve());
  });
  channel.postMessage('end');
  await Promise.all(threads.map((thread) => once(thread, 'exit')));
  channel.close();
});
