// Blobs: they cross to other processes, in the order in which they were posted.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  BroadcastChannel, MessageChannel, SharedBuffer, fork, receiveMessageOnPort,
} from '../lib/index.mjs';

const require = createRequire(import.meta.url);
const native = require('../lib/native.js');
const { createPort } = require('../lib/port.js');

const role = fileURLToPath(new URL('children/role.mjs', import.meta.url));

const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

async function next(port) {
  const [value] = await once(port, 'message');
  return value;
}

/** The next `count` values. */
function several(port, count) {
  return new Promise((resolve) => {
    const values = [];
    const take = (value) => {
      values.push(value);
      if (values.length < count) return;
      port.off('message', take);
      resolve(values);
    };
    port.on('message', take);
  });
}

test('a Blob and a File arrive with their type and content', async () => {
  const { port1, port2 } = new MessageChannel();
  const blob = new Blob(['text ', new Uint8Array([0xc3, 0xa9])], { type: 'Text/Plain' });
  const file = new File(['of a file'], 'näme', { type: 'a/b', lastModified: 42 });
  port1.postMessage(blob);
  const one = await next(port2);
  assert.ok(one instanceof Blob && !(one instanceof File) && one !== blob);
  assert.deepEqual([one.type, one.size, await one.text()], ['text/plain', 7, 'text é']);

  class Holder { blob = blob; }
  const cycle = { list: [, file], map: new Map([[blob, new Set([file])]]), holder: new Holder() };
  cycle.self = cycle;
  port1.postMessage(cycle);
  const { list, map, holder, self } = await next(port2);
  const [[key, set]] = map;
  assert.ok(list[1] instanceof File && set.has(list[1]) && holder.blob === key);
  assert.ok(!(0 in list) && self.list === list);
  const { name, type, lastModified } = list[1];
  assert.deepEqual([name, type, lastModified, await list[1].text()],
    ['näme', 'a/b', 42, 'of a file']);
  assert.deepEqual([key.type, await key.text()], ['text/plain', 'text é']);

  port1.postMessage([new Blob([]), new File([], '')]);
  const [empty, emptyFile] = await next(port2);
  assert.deepEqual([empty.size, empty.type, emptyFile.size, emptyFile.name], [0, '', 0, '']);
});

test('a getter of a message with Blobs runs once', async () => {
  const { port1, port2 } = new MessageChannel();
  let runs = 0;
  port1.postMessage({ get blob() { runs += 1; return new Blob(['got']); }, set: new Set() });
  assert.equal(await (await next(port2)).blob.text(), 'got');
  assert.equal(runs, 1);
});

test('what is posted after a Blob arrives after it', async () => {
  const { port1, port2 } = new MessageChannel();
  const numbers = Array.from({ length: 40 }, (_, index) => index);
  for (const index of numbers) {
    port1.postMessage(index % 3 === 0 ? { blob: new Blob(['x'.repeat(index)]) } : index);
    if (index === 20) port1.postMessage(Uint8Array.of(9));
  }
  const sizes = (await several(port2, 41)).map((value) => value.blob?.size ?? value);
  assert.deepEqual(sizes.splice(21, 1), [Uint8Array.of(9)]);
  assert.deepEqual(sizes, numbers);
});

test('an error is thrown at once, and posts nothing', () => {
  const { port1, port2 } = new MessageChannel();
  const buffer = new ArrayBuffer(8);
  assert.throws(() => port1.postMessage([new Blob(['x']), () => {}], [buffer]),
    { name: 'DataCloneError' });
  assert.equal(buffer.byteLength, 8);
  port1.postMessage('next');
  assert.equal(receiveMessageOnPort(port2).message, 'next');
});

test('a transfer list moves with a Blob, also where both are too long for the ring', async () => {
  const { port1, port2 } = new MessageChannel({ limit: 1 << 20 });
  const other = new MessageChannel();
  const buffers = [new ArrayBuffer(8), new ArrayBuffer(100_000), SharedBuffer.alloc(16)];
  buffers.forEach((buffer, index) => new Uint8Array(buffer).fill(index + 1));
  const content = new Uint8Array(3 << 20).map((_, index) => index * 7);
  port1.postMessage({ blob: new Blob([content]), buffers, port: other.port1 },
    [...buffers, other.port1]);
  assert.deepEqual(buffers.map(({ byteLength }) => byteLength), [0, 0, 0]);
  const message = await next(port2);
  assert.deepEqual(message.buffers.map((buffer) => [buffer.byteLength, new Uint8Array(buffer)[7]]),
    [[8, 1], [100_000, 2], [16, 3]]);
  assert.ok(Buffer.from(await message.blob.arrayBuffer()).equals(content));
  message.port.postMessage('back');
  assert.equal(await next(other.port2), 'back');
});

test('a port that is closed or moves keeps what it has posted', async () => {
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(new Blob(['closed']));
  port1.postMessage('after');
  port1.close();
  const [blob, text] = await several(port2, 2);
  assert.deepEqual([await blob.text(), text], ['closed', 'after']);

  const moving = new MessageChannel();
  const carrier = new MessageChannel();
  moving.port1.postMessage(new Blob(['before']));
  carrier.port1.postMessage(null, [moving.port1]);
  const event = await new Promise((resolve) => { carrier.port2.onmessage = resolve; });
  carrier.port2.close();
  const { ports: [moved] } = event;
  moved.postMessage('behind');
  const [first, second] = await several(moving.port2, 2);
  assert.deepEqual([await first.text(), second], ['before', 'behind']);
});

test('a Blob that cannot be read is a messageerror in its place', async () => {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'messageport-')), 'content');
  fs.writeFileSync(file, 'content');
  try {
    const { port1, port2 } = new MessageChannel();
    const blob = await fs.openAsBlob(file);
    port1.postMessage(blob);
    assert.equal(await (await next(port2)).text(), 'content');
    fs.writeFileSync(file, 'another length');
    const other = new MessageChannel();
    const events = [];
    port2.on('message', (value) => events.push(value));
    port2.on('messageerror', (error) => events.push(error));
    const closed = once(other.port2, 'close');
    port1.postMessage('before');
    port1.postMessage(blob, [other.port1]);
    port1.postMessage('after');
    port1.close();
    await once(port2, 'close');
    assert.equal(events.length, 3);
    assert.deepEqual([events[0], events[2]], ['before', 'after']);
    assert.equal(events[1].name, 'DataCloneError');
    assert.match(events[1].message, /^the sender could not read a Blob: /);
    // What came with it is closed.
    await closed;
  } finally {
    fs.rmSync(path.dirname(file), { recursive: true });
  }
});

test('a process stays until its Blobs are posted, and Blobs cross in both directions', async () => {
  const child = fork(role, { args: ['blobs'] });
  const content = 'long '.repeat(1_000_000);
  child.postMessage({ blob: new Blob([content], { type: 'a/b' }) });
  const [answer, end] = await several(child, 2);
  assert.deepEqual([answer.type, await answer.text()], ['a/b', content]);
  assert.equal(end, 'end');
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

test('members of a broadcast channel get Blobs in order, also after the sender has left', async () => {
  const name = `blobs-${process.pid}`;
  const [sender, one, two] = [name, name, name].map((text) => new BroadcastChannel(text));
  const bytes = Uint8Array.of(1);
  const received = [one, two].map((member) => new Promise((resolve) => {
    const values = [];
    member.onmessage = ({ data }) => {
      values.push(data);
      if (values.length === 5) resolve(values);
    };
  }));
  sender.postMessage({ blob: new Blob(['to all']) });
  sender.postMessage('text');
  sender.postMessage(bytes);
  sender.postMessage({ plain: true });
  sender.postMessage(new Set([new File(['f'], 'n')]));
  bytes[0] = 2;
  assert.throws(() => sender.postMessage(new Blob([new Uint8Array(2 << 20)])),
    { name: 'DataCloneError' });
  sender.close();
  assert.throws(() => sender.postMessage('closed'), { name: 'InvalidStateError' });
  for (const [first, ...rest] of await Promise.all(received)) {
    assert.equal(await first.blob.text(), 'to all');
    const [file] = rest.pop();
    assert.deepEqual([file.name, await file.text()], ['n', 'f']);
    assert.deepEqual(rest, ['text', Uint8Array.of(1), { plain: true }]);
  }
  one.close();
  two.close();
});

/** Posts bytes as they are, as a hostile program could; returns what arrives. */
async function raw(...parts) {
  const [sender, receiver] = native.channel(0);
  const port = createPort(receiver);
  const bytes = Buffer.concat(parts.map((part) => Buffer.from(part)));
  assert.equal(native.postBytes(sender, bytes), 0);
  const event = await new Promise((resolve) => {
    port.onmessage = resolve;
    port.onmessageerror = resolve;
  });
  native.close(sender, false);
  port.close();
  return event;
}

test('lengths that a hostile peer claims are a messageerror', async () => {
  const mark = [0x89, 0x6d, 0x70, 0x6a, 0x73, 0x0d, 0x0a];
  const length = (number) => [number, number >> 8, number >> 16, number >>> 24];
  const empty = [0xff, 0x0f, 0x5c, 2, 0, 0];
  const good = [0xff, 0x0f, 0x5c, 2, 3, 1, 0x61];
  const event = await raw(mark, [3], length(good.length), good, [0x78, 0x79, 0x7a]);
  assert.deepEqual([event.type, event.data.type, await event.data.text()], ['message', 'a', 'xyz']);
  const none = await raw(mark, [3], length(empty.length), empty);
  assert.deepEqual([none.type, none.data.size], ['message', 0]);
  const varint = (number) => {
    const bytes = [];
    for (let left = BigInt(number); ; left >>= 7n) {
      if (left < 128n) return [...bytes, Number(left)];
      bytes.push(Number(left & 127n) | 128);
    }
  };
  const body = (...bytes) => [0xff, 0x0f, 0x5c, ...bytes.flat()];
  const bad = [
    // The serialization is longer than the message, or has no length.
    [[]], [[1, 0]], [length(1)], [length(0xffffffff), good], [length(good.length + 1), good],
    // A Blob that is longer than the content, up to 2^64 - 1 bytes.
    ...[4, 2 ** 32 - 1, 2 ** 32, 2 ** 53, 2n ** 64n - 1n].map((size) => {
      const blob = body(2, varint(size), 0);
      return [length(blob.length), blob, [1, 2, 3]];
    }),
    // Two that share what is there for one.
    (() => {
      const both = [0xff, 0x0f, 0x41, 2, 0x5c, 2, 2, 0, 0x5c, 2, 2, 0, 0x24, 0, 2];
      return [length(both.length), both, [1, 2, 3]];
    })(),
    // A type, or a name, that is longer than the message; a File without a time.
    ...[body(2, 0, varint(2 ** 32 - 1)), body(2, 0, 200, 1, 0x61), body(3, 0, 0),
      body(3, 0, 0, varint(2 ** 31), 0x61), body(3, 0, 0, 1, 0x61), body(3, 0, 0, 1, 0x61, 0, 0),
      body(9, 0, 0)].map((one) => [length(one.length), one]),
  ];
  for (const parts of bad) {
    const { type, data } = await raw(mark, [3], ...parts);
    assert.deepEqual([type, data instanceof Error], ['messageerror', true], `${parts}`);
  }
  // Spilled without a buffer; a reason that is no UTF-8; a form that is unknown.
  for (const rest of [[4], [5, 0xff, 0xfe], [6]]) {
    assert.equal((await raw(mark, rest)).type, 'messageerror');
  }
});
