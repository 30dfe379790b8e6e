// What a program does wrong, or too late: it gets an error that helps, and waits for nothing.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import * as threads from 'node:worker_threads';
import {
  BroadcastChannel, FileDescriptor, MessageChannel, SharedBuffer, Worker, connect, fork, listen,
  receiveMessageOnPort, spawn,
} from '../lib/index.mjs';

/** A name that no other run uses. */
const nameOf = (test) => `node-misuse-${test}-${process.pid}`;

async function collect(values) {
  const list = [];
  for await (const value of values) list.push(value);
  return list;
}

test('iteration ends where the conversation has ended before it began', async () => {
  const alive = setInterval(() => {}, 1000);
  try {
    const [first, second, third] = Array.from({ length: 3 }, () => new MessageChannel());
    const seen = once(first.port2, 'close');
    first.port1.close();
    await seen;
    assert.deepEqual(await collect(first.port2), []);
    assert.deepEqual(await collect(first.port1), []);
    second.port1.postMessage(third.port1, [third.port1]);
    assert.deepEqual(await collect(third.port1), []);
    // What has arrived before is delivered.
    second.port1.close();
    assert.equal((await collect(second.port2)).length, 1);
    const channel = new BroadcastChannel(nameOf('closed'));
    channel.close();
    assert.deepEqual(await collect(channel), []);
    const listener = listen(nameOf('closed'));
    listener.close();
    assert.deepEqual(await collect(listener), []);
  } finally {
    clearInterval(alive);
  }
});

test('clients wait while no listener takes them', async () => {
  const listener = listen(nameOf('late'));
  const clients = [connect(listener.name), connect(listener.name)];
  await new Promise((resolve) => { setTimeout(resolve, 50); });
  for (const name of ['a', 'b']) {
    const [port] = await once(listener, 'connection');
    port.postMessage(name);
    port.close();
    // Between the two calls the other client waits.
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
  const ports = await Promise.all(clients);
  const names = (await Promise.all(ports.map(collect))).flat();
  assert.deepEqual(names.sort(), ['a', 'b']);
  const refused = connect(listener.name, { timeout: 50 });
  await assert.rejects(refused, { code: 'ETIMEDOUT', message: /did not answer/ });
  listener.close();
});

test('errors of names and memory have a code, and a stack that shows the call', async () => {
  const name = nameOf('codes');
  const failure = await connect(name).catch((error) => error);
  assert.equal(failure.code, 'ECONNREFUSED');
  assert.match(failure.message, /^no process listens at .*: start the listener first/);
  assert.match(failure.stack, /misuse\.test\.mjs/);
  const listener = listen(name);
  assert.throws(() => listen(name), { code: 'EADDRINUSE', message: /^another listener is at/ });
  listener.close();
  assert.throws(() => listen('a/b'), { code: 'ERR_INVALID_ARG_VALUE' });
  assert.throws(() => SharedBuffer.alloc(2 ** 50), { code: 'ENOMEM' });
  const patient = listen(name);
  const [[port]] = await Promise.all([
    once(patient, 'connection'), connect(name, { timeout: Infinity }),
  ]);
  port.close();
  patient.close();
});

test('arguments of a wrong type or range are refused by name', async () => {
  const type = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' };
  const range = { name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message: /Received/ };
  for (const limit of [-1, NaN, 0, 1.5, '9', 10n]) {
    assert.throws(() => new MessageChannel({ limit }), range);
    assert.throws(() => listen(nameOf('limit'), { limit }), range);
    assert.throws(() => spawn('true', { limit }), range);
  }
  assert.throws(() => new MessageChannel(5), type);
  assert.throws(() => listen(), { ...type, message: /"name"/ });
  assert.throws(() => listen(nameOf('f'), {}, 5), { ...type, message: /"onConnection"/ });
  await assert.rejects(connect(), { ...type, message: /"name"/ });
  await assert.rejects(connect('x', 5), { ...type, message: /"options"/ });
  await assert.rejects(connect('x', { timeout: '5' }), range);
  await assert.rejects(connect('x', { timeout: -1 }), range);
  assert.throws(() => fork(), { ...type, message: /"modulePath"/ });
  assert.throws(() => spawn('true', 'args'), { ...type, message: /"args"/ });
  assert.throws(() => new Worker('file.js'), { name: 'TypeError', message: /fork\(modulePath\)/ });
  assert.throws(() => SharedBuffer.alloc('5'), { ...range, message: /'5'/ });
  const { port1 } = new MessageChannel();
  assert.throws(() => port1.postValue(), { code: 'ERR_MISSING_ARGS' });
  port1.close();
});

test('`spawn` takes options behind missing arguments', async () => {
  for (const args of [undefined, null]) {
    const worker = spawn('true', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    assert.notEqual(worker.stdout, null);
    await worker.exited;
  }
});

test('what cannot be in a transfer list is named, and nothing has moved', () => {
  const { port1, port2 } = new MessageChannel();
  const buffer = new ArrayBuffer(8);
  const refuse = (item, message) => {
    assert.throws(() => port1.postMessage(0, [buffer, item]), { name: 'DataCloneError', message });
    assert.equal(buffer.byteLength, 8);
  };
  const other = new threads.MessageChannel().port1;
  refuse(other, /node:worker_threads .* MessageChannel of messageport$/);
  other.close();
  refuse(new Uint8Array(1), /Uint8Array; list its buffer$/);
  refuse(new SharedArrayBuffer(1), /SharedBuffer\.alloc$/);
  refuse(5, /: 5; expected ports/);
  const closed = new FileDescriptor(1_000_000);
  refuse(closed, /1000000, which is not open/);
  assert.equal(closed.fd, 1_000_000);
  assert.throws(() => closed.close(), { code: 'EBADF' });
  assert.equal(receiveMessageOnPort(port2), undefined);
  port1.close();
  port2.close();
});
