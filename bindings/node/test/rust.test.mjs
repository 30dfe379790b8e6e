// Rust at the other end: as a child, as the parent, as a hostile peer.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  BroadcastChannel, FileDescriptor, MessageChannel, SharedBuffer, receiveMessageOnPort, spawn,
} from '../lib/index.mjs';
import { buildPeer } from './peer.mjs';

let peer;
before(() => { peer = buildPeer(); });

const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

const start = (...args) => spawn(peer, args);

async function next(port) {
  const [value] = await once(port, 'message');
  return value;
}

test('text, bytes and clones pass through a Rust program unchanged', async () => {
  const worker = start('echo');
  const values = ['text', '', 'ünï', new Uint8Array([1, 2]), new Uint8Array(0),
    new Uint8Array(1 << 20).fill(3), { a: new Map([[1, [2n]]]) }, null];
  for (const value of values) {
    worker.postMessage(value);
    assert.deepEqual(await next(worker), value);
  }
  worker.port.close();
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});

test('plain data keeps its types through the codecs of both languages', async () => {
  const worker = start('values');
  const values = [
    null, undefined, true, false, 0, -1, 23, 24, 255, 256, 65535, 65536, 2 ** 32, 2 ** 53 - 1,
    -(2 ** 53) + 1, 2 ** 53, 1.5, -0, NaN, Infinity, -Infinity, 1e300, 0.1, 0n, -1n, 1n, 255n,
    2n ** 64n, -(2n ** 100n), { s: 'text' }, ['', 'x'.repeat(23), 'x'.repeat(24), 'ünï ✓ 😀'],
    { '': 1, a: { b: [{}] }, __proto__x: 1 }, new Map([[1, 'a'], ['k', new Map([[2, 3]])]]),
    [[], [[]]],
    new Date(0), new Date(1234567890123), new Date(-1),
    { bytes: new Uint8Array([1, 2, 3]), none: new Uint8Array(0) },
    { long: 'x'.repeat(70_000) }, Array.from({ length: 900 }, (_, index) => index),
  ];
  for (const value of values) {
    worker.port.postValue(value);
    assert.deepStrictEqual(await next(worker), value);
  }
  worker.port.postValue(new Date(NaN));
  assert.ok(Number.isNaN((await next(worker)).getTime()));
  const own = JSON.parse('{"__proto__": 1}');
  worker.port.postValue(own);
  assert.deepStrictEqual(Object.entries(await next(worker)), [['__proto__', 1]]);
  await worker.terminate();
});

test('Rust reads what JavaScript posts as its own types, and answers', async () => {
  const worker = start('orders');
  worker.postMessage([{ item: 'lamp', count: 2 }, { item: 'desk', count: 1, notes: ['a', 'b'] }]);
  assert.deepEqual(await next(worker), { total: 7.5, items: { desk: 1, lamp: 2, notes: 2 } });
  worker.postMessage([{ item: 'lamp', count: 'two' }]);
  assert.match(await next(worker), /count/);
  await worker.terminate();
});

test('what cannot cross languages is an error that names the place', () => {
  const { port1, port2 } = new MessageChannel();
  const cycle = { a: [] };
  cycle.a.push({ cycle });
  class Point { x = 1; }
  const wrong = [
    [{ a: [1, { f() {} }] }, /value\.a\[1\]\.f is a function/],
    [cycle, /value\.a\[0\]\.cycle is an object inside itself/],
    [{ s: Symbol('s') }, /value\.s is a symbol/],
    [{ e: new Error('e') }, /value\.e is a Error/],
    [{ 'a b': /x/ }, /value\[a b\] is a RegExp/],
    [{ p: new Proxy({}, {}) }, /value\.p is a Proxy/],
    [{ port: port2 }, /value\.port is a MessagePort/],
    [{ t: '\ud800' }, /value\.t is a text with half/],
  ];
  for (const [value, text] of wrong) {
    assert.throws(() => port1.postValue(value), (error) => (
      error.name === 'DataCloneError' && text.test(error.message)));
  }
  assert.equal(receiveMessageOnPort(port2), undefined);
  const twice = { x: 1 };
  port1.postValue({ twice: [twice, twice], point: new Point(), set: new Set([1]),
    floats: new Float32Array(1), hole: [, 1] });
  assert.deepEqual(receiveMessageOnPort(port2).message, {
    twice: [{ x: 1 }, { x: 1 }], point: { x: 1 }, set: [1],
    floats: new Uint8Array(4), hole: [undefined, 1],
  });
});

test('ports, buffers and descriptors pass through a Rust program', async () => {
  const worker = start('echo');
  const { port1, port2 } = new MessageChannel();
  const shared = SharedBuffer.alloc(1 << 16);
  new Uint8Array(shared)[5] = 5;
  const file = new FileDescriptor(fs.openSync('/dev/null', 'r'));
  port1.postMessage('in the queue');
  worker.postMessage({ port2, shared, file }, [port2, shared, file]);
  assert.equal(file.fd, -1);
  const back = await next(worker);
  assert.equal(receiveMessageOnPort(back.port2).message, 'in the queue');
  assert.equal(new Uint8Array(back.shared)[5], 5);
  assert.ok(fs.fstatSync(back.file.fd).isCharacterDevice());
  back.file.close();
  await worker.terminate();
});

test('ports of Rust move to JavaScript with their queues', async () => {
  const worker = start('ports');
  worker.port.once('message', () => {});
  worker.postMessage('say this');
  const event = await new Promise((resolve) => {
    worker.port.addEventListener('message', resolve, { once: true });
  });
  assert.equal(event.data, 'a port');
  const [port] = event.ports;
  assert.equal(receiveMessageOnPort(port).message, 'queued before the move');
  assert.equal(receiveMessageOnPort(port).message, 'say this');
  worker.port.close();
  assert.equal(await next(port), 'the last one');
  await once(port, 'close');
});

test('frames go to Rust and back in buffers', async () => {
  const worker = start('frames');
  for (let number = 0; number < 10; number += 1) {
    const frame = SharedBuffer.alloc(640 * 480);
    new Uint8Array(frame).fill(number);
    worker.postMessage(new Uint8Array([number]), [frame]);
    const event = await new Promise((resolve) => {
      worker.port.addEventListener('message', resolve, { once: true });
    });
    assert.deepEqual(event.data, new Uint8Array([number]));
    assert.equal(event.buffers.length, 1);
    assert.ok(new Uint8Array(event.buffers[0]).every((pixel) => pixel === 255 - number));
  }
  await worker.terminate();
});

test('a channel that refuses transfer lists leaves everything in the list as it is', async () => {
  const worker = start('refusing');
  const { ports: [port] } = await new Promise((resolve) => {
    worker.port.onmessage = resolve;
  });
  const own = new ArrayBuffer(100_000);
  const shared = SharedBuffer.alloc(10);
  const file = new FileDescriptor(fs.openSync('/dev/null'));
  const { port1, port2 } = new MessageChannel();
  assert.throws(() => port.postMessage('all', [own, shared, file, port2]), {
    name: 'DataCloneError', message: /refuses transfer lists/,
  });
  assert.deepEqual([own.byteLength, shared.byteLength], [100_000, 10]);
  assert.ok(file.fd >= 0);
  port2.postMessage('still here');
  assert.deepEqual(await once(port1, 'message'), ['still here']);
  port.postMessage('alone');
  assert.equal(await next(port), 'alone');
  file.close();
  port1.close();
  port.close();
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});

test('a Rust program starts JavaScript as a plug-in', () => {
  const plugin = fileURLToPath(new URL('./children/plugin.mjs', import.meta.url));
  const run = spawnSync(peer, ['host', process.execPath, plugin], { encoding: 'utf8' });
  assert.equal(run.stderr, '');
  assert.deepEqual(run.stdout.trim().split('\n'), [
    'hello from JavaScript', 'pixels [2, 4, 6]', 'exit status: 0',
  ]);
});

test('a chat of JavaScript and Rust', async () => {
  const name = `node-test-chat-${process.pid}`;
  const channel = new BroadcastChannel(name);
  const lines = [];
  const wait = (count) => new Promise((resolve) => {
    channel.onmessage = ({ data }) => lines.push(data) === count && resolve();
  });
  const joined = wait(1);
  const member = start('chat', name);
  await joined;
  const answered = wait(2);
  channel.postMessage('node: hello');
  await answered;
  channel.postMessage('end');
  assert.deepEqual(await once(member, 'exit'), [0, null]);
  assert.deepEqual(lines, ['rust: joined', 'rust: welcome']);
  channel.close();
});

test('a hostile peer causes `messageerror`, and nothing else', async () => {
  const count = Number(process.env.MESSAGEPORT_HOSTILE ?? 20_000);
  const worker = start('hostile', `${count}`);
  const samples = [
    { a: [1, 2.5, 'text', null, undefined, true, 7n, -1] }, new Map([[{}, new Set([1])]]),
    [new Float64Array(4), new DataView(new ArrayBuffer(9)), new ArrayBuffer(33)],
    [new Date(), /a/g, new Error('e'), Object(1n), Object('s'), [, , 1], 'ünï'.repeat(9)],
  ];
  const cycle = {};
  cycle.self = [cycle, cycle];
  for (const sample of [...samples, cycle]) worker.postMessage(sample);
  // A shared object makes a clone of what would be a plain value.
  for (const sample of samples) worker.postMessage([cycle, sample]);
  const blobs = [new Blob(['content'], { type: 'a/b' }), new File(['f'], 'name')];
  worker.postMessage([blobs, new Blob([])]);
  worker.postMessage('go');
  let messages = 0;
  let errors = 0;
  const kinds = new Set();
  worker.on('messageerror', (error) => {
    errors += 1;
    kinds.add(error.name);
  });
  await new Promise((resolve) => {
    worker.on('message', (value) => {
      if (value === 'end') resolve();
      messages += 1;
    });
  });
  // The archive of Rust is one more of these; the text with a file and the end are messages.
  assert.equal(messages + errors, count + 3);
  assert.ok(errors > count / 2, `${errors} errors`);
  worker.port.close();
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});

test('a peer that scribbles over the shared memory ends its own port at most', async () => {
  for (let round = 0; round < 20; round += 1) {
    const worker = start('scribble', `${round}`);
    worker.on('messageerror', () => {});
    worker.on('message', () => {});
    worker.on('error', () => {});
    const closed = once(worker.port, 'close');
    assert.deepEqual(await once(worker, 'exit'), [0, null]);
    await closed;
  }
  const { port1, port2 } = new MessageChannel();
  port1.postMessage('others go on');
  assert.equal(receiveMessageOnPort(port2).message, 'others go on');
});
