// Ports between processes.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { MessageChannel, SharedBuffer, connect, fork, listen, spawn } from '../lib/index.mjs';

const child = new URL('./children/role.mjs', import.meta.url);
const start = (role, ...rest) => fork(child, { args: [role, ...rest] });

// A port without a listener keeps no process alive, and some tests wait for its end.
const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

/** The next message of a worker or port. */
async function next(port) {
  const [value] = await once(port, 'message');
  return value;
}

/** A name that no other run uses. */
const nameOf = (test) => `node-test-${test}-${process.pid}`;

test('a value crosses in full, both ways', async () => {
  const worker = start('echo');
  const values = [
    null, 'text', 'ünïcode', new Uint8Array([1, 2, 3]), 7n, new Date(1),
    { map: new Map([['a', new Set([1])]]), error: new RangeError('far'), list: [, 1] },
    'x'.repeat(1 << 20),
  ];
  for (const value of values) {
    worker.postMessage(value);
    assert.deepEqual(await next(worker), value);
  }
  worker.postMessage('exit');
  const [code, signal] = await once(worker, 'exit');
  assert.deepEqual([code, signal], [7, null]);
});

test('buffers move there and back', async () => {
  const worker = start('echo');
  const buffers = [SharedBuffer.alloc(1 << 20), new ArrayBuffer(1 << 20), new ArrayBuffer(9)];
  buffers.forEach((buffer, index) => new Uint8Array(buffer).fill(index + 1));
  worker.postMessage(buffers, buffers);
  assert.deepEqual(buffers.map((buffer) => buffer.byteLength), [0, 0, 0]);
  const back = await next(worker);
  back.forEach((buffer, index) => {
    assert.ok(new Uint8Array(buffer).every((byte) => byte === index + 1));
  });
  assert.deepEqual(await worker.terminate(), { code: null, signal: 'SIGKILL' });
});

test('what was posted before the exit arrives before `exit`', async () => {
  const worker = start('last');
  const values = [];
  worker.on('message', (value) => values.push(value));
  const [code] = await once(worker, 'exit');
  assert.equal(code, 3);
  assert.deepEqual(values, Array.from({ length: 1000 }, (_, index) => index));
});

test('a child ends with its port, and a killed child ends the port', async () => {
  const one = start('listen');
  assert.equal(await next(one), 'ready');
  one.port.close();
  assert.deepEqual(await once(one, 'exit'), [0, null]);
  const other = start('listen');
  assert.equal(await next(other), 'ready');
  const closed = once(other.port, 'close');
  assert.deepEqual(await other.terminate(), { code: null, signal: 'SIGKILL' });
  await closed;
});

test('unreferenced ports keep no process alive', async () => {
  const worker = start('idle');
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});

test('a port moves on through a process that dies', async () => {
  const { port1, port2 } = new MessageChannel();
  const middle = start('middle');
  middle.postMessage({ port: port2 }, [port2]);
  const pid = await next(port1);
  assert.notEqual(pid, middle.pid);
  await middle.terminate();
  assert.equal(await next(port1), 'parent is gone');
  await once(port1, 'close');
});

test('messages of a sender that is killed are whole and in order', async () => {
  const worker = start('flood');
  let expected = 0;
  worker.on('message', (value) => {
    assert.equal(value, expected);
    expected += 1;
    if (expected === 5000) worker.terminate();
  });
  await once(worker, 'exit');
  assert.ok(expected >= 5000);
});

test('messages each way, with ports and buffers among them', async () => {
  const count = Number(process.env.MESSAGEPORT_MESSAGES ?? 50_000);
  const worker = start('count');
  let received = 0;
  let ended;
  worker.on('message', (value) => {
    if (value.count !== undefined) ended = value.count;
    else {
      assert.equal(value.number, received);
      received += 1;
    }
  });
  for (let number = 0; number < count; number += 1) {
    const list = number % 1000 === 0 ? [SharedBuffer.alloc(100)] : [];
    worker.postMessage({ number, list }, list);
    if (number % 1000 === 0) await new Promise(setImmediate);
  }
  worker.postMessage('end');
  await once(worker, 'exit');
  assert.deepEqual([received, ended], [count, count]);
});

test('a port to another process by a port', async () => {
  const worker = start('port');
  const { port1, port2 } = new MessageChannel();
  port1.postMessage('early');
  worker.postMessage({ port: port2 }, [port2]);
  assert.equal(await next(port1), 'early!');
  port1.postMessage('late');
  assert.equal(await next(port1), 'late!');
  port1.close();
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});

test('a program that is not there is an error, and ends the port', async () => {
  const worker = spawn('/nonexistent/program');
  const closed = once(worker.port, 'close');
  const [error] = await once(worker, 'error');
  assert.equal(error.code, 'ENOENT');
  await closed;
  assert.throws(() => spawn('cat', [], { cwd: 7 }), { code: 'ERR_INVALID_ARG_TYPE' });
});

test('the options of child_process are kept', async () => {
  const script = 'process.stdout.write(process.env.A + process.argv[1] + process.cwd())';
  const env = { ...process.env, A: 'a' };
  const options = { env, cwd: '/', stdio: ['ignore', 'pipe', 'inherit'] };
  const worker = spawn(process.execPath, ['-e', script, 'b'], options);
  let text = '';
  worker.stdout.on('data', (chunk) => { text += chunk; });
  await once(worker.stdout, 'close');
  assert.equal(text, 'ab/');
});

test('clients meet a listener by its name', async () => {
  const name = nameOf('listen');
  const listener = listen(name);
  assert.throws(() => listen(name), /another listener/);
  const worker = start('client', name);
  const [port, peer] = await once(listener, 'connection');
  assert.equal(peer.pid, worker.pid);
  assert.deepEqual(await next(port), { from: worker.pid });
  port.postMessage('hello');
  assert.equal(await next(port), 'hello');
  await once(worker, 'exit');

  const own = connect(name);
  const [accepted] = await once(listener, 'connection');
  const client = await own;
  client.postMessage('from here');
  assert.equal(await next(accepted), 'from here');
  client.close();
  listener.close();
  await once(listener, 'close');
  await assert.rejects(connect(name, { timeout: 10 }));
  await assert.rejects(connect('no/name'), Error);
  assert.throws(() => listen('no/name'), Error);
});

test('the clients of a listener can be iterated', async () => {
  const name = nameOf('iterate');
  const listener = listen(name);
  const clients = [connect(name), connect(name)];
  let count = 0;
  for await (const port of listener) {
    port.postMessage(count);
    port.close();
    count += 1;
    if (count === 2) break;
  }
  const values = await Promise.all(clients.map(async (client) => next(await client)));
  assert.deepEqual(values.toSorted(), [0, 1]);
});
