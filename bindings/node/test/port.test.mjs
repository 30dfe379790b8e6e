// Ports inside one process: the API of `worker_threads`, and what the standard asks for.
import assert from 'node:assert/strict';
import { createHook } from 'node:async_hooks';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { after, test } from 'node:test';
import { inspect } from 'node:util';
import { markAsUntransferable } from 'node:worker_threads';
import * as messageport from '../lib/index.mjs';

const { MessageChannel, MessagePort, SharedBuffer, receiveMessageOnPort } = messageport;

const isDataCloneError = (error) => error instanceof DOMException &&
  error.name === 'DataCloneError' && error.code === 25;

function take(port) {
  const received = receiveMessageOnPort(port);
  assert.notEqual(received, undefined, 'a message is there');
  return received.message;
}

// A port that is not started keeps no process alive, and some tests wait for one.
const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

/** The next message as an event. */
function nextEvent(port, type = 'message') {
  return new Promise((resolve) => port.addEventListener(type, resolve, { once: true }));
}

test('ports deliver in the order in which they were started', async () => {
  const channels = Array.from({ length: 9 }, () => new MessageChannel());
  const order = [];
  const done = channels.map(({ port1, port2 }, index) => {
    port1.postMessage(index);
    return new Promise((resolve) => {
      port2.on('message', (value) => {
        order.push(value);
        port2.close();
        resolve();
      });
    });
  });
  await Promise.all(done);
  assert.deepEqual(order, channels.map((_, index) => index));
});

test('the end that closes has closed when the other end is told', async () => {
  const { port1, port2 } = new MessageChannel();
  port1.on('message', () => {});
  port2.on('message', () => {});
  port2.close();
  assert.deepEqual([port1.hasRef(), port2.hasRef()], [true, true]);
  await once(port1, 'close');
  assert.deepEqual([port1.hasRef(), port2.hasRef()], [false, false]);
});

test('a value is cloned in full', () => {
  const { port1, port2 } = new MessageChannel();
  const cycle = { list: [] };
  cycle.list.push(cycle);
  const values = [
    undefined, null, true, -0, NaN, 7, 12345678901234567890n, '', 'text', 'ünïcode ✓', '\ud800',
    [1, , 3], { a: { b: [{}] } }, new Date(5), /a+/giu, new Map([[{ k: 1 }, new Set([1, 'x'])]]),
    new Uint8Array([1, 2]), new Float64Array([1.5]), new DataView(new ArrayBuffer(4)),
    new ArrayBuffer(3), Object(1n), Object('s'), new Error('wrong'), new TypeError('type'),
  ];
  for (const value of values) {
    port1.postMessage(value);
    assert.deepEqual(take(port2), value);
  }
  port1.postMessage(cycle);
  const clone = take(port2);
  assert.equal(clone.list[0], clone);
  assert.equal(receiveMessageOnPort(port2), undefined);
});

test('text and bytes that look like a clone stay what they are', () => {
  const { port1, port2 } = new MessageChannel();
  const marked = Uint8Array.from([0x89, 0x6d, 0x70, 0x6a, 0x73, 0x0d, 0x0a, 1, 0xff, 0x0f, 0x30]);
  port1.postMessage(marked);
  assert.deepEqual(take(port2), marked);
  port1.postMessage(Buffer.from(marked));
  assert.deepEqual(take(port2), marked);
});

test('what cannot be cloned is a DataCloneError, and posts nothing', () => {
  const { port1, port2 } = new MessageChannel();
  const other = new MessageChannel();
  const values = [() => {}, Symbol('s'), { deep: [Promise.resolve()] }, new WeakMap(),
    other.port1, { port: other.port1 }, new SharedArrayBuffer(8),
    new Uint8Array(new SharedArrayBuffer(8)), new Proxy({}, {})];
  for (const value of values) {
    assert.throws(() => port1.postMessage(value), isDataCloneError);
  }
  const thrown = new RangeError('of a getter');
  const getter = { get a() { throw thrown; } };
  assert.throws(() => port1.postMessage(getter), (error) => error === thrown);
  assert.equal(receiveMessageOnPort(port2), undefined);
  port1.postMessage('still works');
  assert.equal(take(port2), 'still works');
});

test('keys of plain data that look alike stay apart', () => {
  const { port1, port2 } = new MessageChannel();
  const letters = ['a', 'b', 'c', 'é', '1', '\0', '✓'];
  const keys = letters.flatMap((one) => letters.map((two) => `x${one}${two}y`));
  const long = 'k'.repeat(23);
  for (let round = 0; round < 3; round += 1) {
    for (const key of [...keys, '', 'x', 'y', '__proto__', '7', long, `${long}k`]) {
      const value = { first: 1, list: [Object.fromEntries([[key, round]])] };
      port1.postMessage(value);
      const { list: [object] } = take(port2);
      assert.deepEqual(Object.entries(object), [[key, round]]);
      assert.equal(Object.getPrototypeOf(object), Object.prototype);
    }
  }
});

test('a map of another language with keys that are no text is a Map in its order', () => {
  const require = createRequire(import.meta.url);
  const native = require('../lib/native.js');
  const { createPort } = require('../lib/port.js');
  const [sender, receiver] = native.channel(0);
  const port = createPort(receiver);
  const read = (...bytes) => {
    assert.equal(native.postValue(sender, Uint8Array.from(bytes), bytes.length), 0);
    return take(port);
  };
  // Text keys alone: an object, in which the last of two equal keys counts.
  assert.deepEqual(read(0xa2, 0x61, 0x61, 1, 0x61, 0x61, 2), { a: 2 });
  assert.deepEqual(read(0xbf, 0x61, 0x61, 1, 0xff), { a: 1 });
  const mixed = [0x61, 0x62, 1, 0x61, 0x31, 2, 0x61, 0x62, 3, 5, 4, 0x61, 0x63, 6];
  const expected = [['b', 3], ['1', 2], [5, 4], ['c', 6]];
  for (const map of [read(0xa5, ...mixed), read(0xbf, ...mixed, 0xff)]) {
    assert.ok(map instanceof Map);
    assert.deepEqual([...map], expected);
  }
  const proto = [0x69, ...Buffer.from('__proto__'), 1];
  assert.deepEqual([...read(0xa2, ...proto, 5, 4)], [['__proto__', 1], [5, 4]]);
  assert.throws(() => read(0xa2, 0x61, 0x61, 1, 5), isDataCloneError);
  assert.throws(() => read(0xa1, 0x6a, 0x61), isDataCloneError);
  native.close(sender, false);
  port.close();
});

test('a getter runs once, whatever the value turns out to be', () => {
  const { port1, port2 } = new MessageChannel();
  let runs = 0;
  const withGetter = (rest, target = {}) => Object.defineProperty(
    Object.assign(target, rest), 0, { enumerable: true, get() { runs += 1; return runs; } });
  const values = [withGetter({}), withGetter({ set: new Set() }), withGetter({}, []),
    [withGetter({ shared: port1 }), () => {}]];
  for (const value of values) {
    for (const list of [undefined, [new ArrayBuffer(1)]]) {
      runs = 0;
      try {
        port1.postMessage(value, list);
        assert.equal(take(port2)[0], 1);
      } catch (error) {
        assert.ok(isDataCloneError(error), String(error));
      }
      assert.equal(runs, 1);
    }
  }
});

test('bytes whose memory is gone are a DataCloneError', () => {
  const { port1, port2 } = new MessageChannel();
  const detached = new Uint8Array(8);
  structuredClone(null, { transfer: [detached.buffer] });
  const resizable = new ArrayBuffer(16, { maxByteLength: 32 });
  const short = new Uint8Array(resizable, 8);
  resizable.resize(4);
  for (const bytes of [detached, short]) {
    for (const value of [bytes, { bytes }, new Set([bytes])]) {
      assert.throws(() => port1.postMessage(value), isDataCloneError);
    }
    assert.throws(() => port1.postValue({ bytes }), isDataCloneError);
  }
  port1.postMessage(new Uint8Array(0));
  assert.deepEqual(take(port2), new Uint8Array(0));
});

test('MessageEvent takes ports of this package', () => {
  const { port1, port2 } = new MessageChannel();
  const init = { data: 7, source: port1, ports: [port2], lastEventId: 'id', origin: 'here' };
  const event = new messageport.MessageEvent('message', init);
  const { type, data, source, ports, lastEventId, origin } = event;
  assert.deepEqual({ data, source, ports, lastEventId, origin }, init);
  assert.ok(type === 'message' && event instanceof MessageEvent && Object.isFrozen(ports));
  assert.equal(new messageport.MessageEvent('message').data, null);
  for (const wrong of [{ source: {} }, { ports: [null] }, { ports: [{}] }, { ports: 7 }]) {
    assert.throws(() => new messageport.MessageEvent('message', wrong), TypeError);
  }
});

test('the async resource of a port is made with it', () => {
  const made = [];
  const hook = createHook({
    init(_, type, __, resource) {
      if (type === 'MESSAGEPORT') made.push([resource, inspect(resource)]);
    },
  }).enable();
  const { port1, port2 } = new MessageChannel();
  hook.disable();
  const text = 'MessagePort [EventTarget] { active: true, refed: false }';
  assert.deepEqual(made.map(([, shown]) => shown), [text, text]);
  assert.ok(made[0][0] === port1 && made[1][0] === port2);
});

test('a port that is marked as untransferable does not move', () => {
  const { port1, port2 } = new MessageChannel();
  const other = new MessageChannel();
  markAsUntransferable(other.port1);
  assert.throws(() => port1.postMessage(other.port1, [other.port1]), isDataCloneError);
  other.port1.postMessage('still here');
  assert.equal(take(other.port2), 'still here');
  assert.equal(receiveMessageOnPort(port2), undefined);
  port1.postMessage(null, [other.port2]);
  take(port2);
});

test('a wrong transfer list is an error, and detaches nothing', () => {
  const { port1, port2 } = new MessageChannel();
  const other = new MessageChannel();
  const buffer = new ArrayBuffer(8);
  const shared = SharedBuffer.alloc(8);
  const long = new ArrayBuffer(1 << 20);
  const all = [buffer, shared, long, other.port1];
  const wrong = [
    [...all, port1], [...all, buffer], [...all, shared], [...all, other.port1],
    [...all, new SharedArrayBuffer(1)], [...all, {}], [...all, 7],
  ];
  for (const list of wrong) {
    assert.throws(() => port1.postMessage(null, list));
    assert.throws(() => port1.postMessage(null, { transfer: list }));
  }
  assert.throws(() => port1.postMessage(() => {}, all), isDataCloneError);
  assert.throws(() => port1.postMessage(null, [...all, port1]), isDataCloneError);
  assert.throws(() => port1.postMessage(null, [...all, buffer]), isDataCloneError);
  assert.throws(() => port1.postMessage(null, 7), { code: 'ERR_INVALID_ARG_TYPE' });
  assert.throws(() => port1.postMessage(null, { transfer: 7 }), { code: 'ERR_INVALID_ARG_TYPE' });
  assert.throws(() => port1.postMessage(), { code: 'ERR_MISSING_ARGS' });
  assert.deepEqual([buffer, shared, long].map((one) => one.byteLength), [8, 8, 1 << 20]);
  other.port2.postMessage('alive');
  assert.equal(take(other.port1), 'alive');
  assert.equal(receiveMessageOnPort(port2), undefined);

  const detached = new ArrayBuffer(8);
  structuredClone(detached, { transfer: [detached] });
  assert.throws(() => port1.postMessage(null, [buffer, detached]), isDataCloneError);
  other.port2.close();
  const closed = new MessageChannel().port1;
  closed.close();
  assert.throws(() => port1.postMessage(null, [buffer, closed]), isDataCloneError);
  assert.equal(buffer.byteLength, 8);
});

test('a getter that detaches what is in the list is noticed', () => {
  const { port1, port2 } = new MessageChannel();
  const [one, two] = [new ArrayBuffer(8), new ArrayBuffer(8)];
  const value = { get a() { structuredClone(two, { transfer: [two] }); return 1; } };
  assert.throws(() => port1.postMessage(value, [one, two]), isDataCloneError);
  assert.equal(one.byteLength, 8);
  assert.equal(receiveMessageOnPort(port2), undefined);
});

test('buffers move, whether short, long or shared, and views follow them', () => {
  const { port1, port2 } = new MessageChannel();
  const buffers = [new ArrayBuffer(16), new ArrayBuffer(1 << 20), SharedBuffer.alloc(1 << 20),
    SharedBuffer.alloc(16)];
  buffers.forEach((buffer, index) => new Uint8Array(buffer).fill(index + 1));
  const views = buffers.map((buffer) => new Uint8Array(buffer, 4, 8));
  port1.postMessage({ buffers, views }, buffers);
  assert.deepEqual(buffers.map((buffer) => buffer.byteLength), [0, 0, 0, 0]);
  assert.deepEqual(views.map((view) => view.length), [0, 0, 0, 0]);
  const got = take(port2);
  got.buffers.forEach((buffer, index) => {
    assert.ok(new Uint8Array(buffer).every((byte) => byte === index + 1));
    assert.equal(got.views[index].buffer, buffer);
    assert.equal(got.views[index].byteOffset, 4);
    // It can be written to, and moves on.
    new Uint8Array(buffer)[0] = 9;
  });
  port2.postMessage(got, got.buffers);
  assert.deepEqual(got.buffers.map((buffer) => buffer.byteLength), [0, 0, 0, 0]);
  assert.equal(new Uint8Array(take(port1).buffers[2])[0], 9);
});

test('the pool behind short Buffers is never detached', () => {
  const { port1, port2 } = new MessageChannel();
  const bytes = Buffer.from('short');
  try {
    port1.postMessage(bytes, [bytes.buffer]);
    assert.deepEqual(take(port2), Uint8Array.from(bytes));
  } catch (error) {
    assert.ok(isDataCloneError(error));
  }
  assert.equal(bytes.toString(), 'short');
});

test('a message that is longer than the ring arrives', () => {
  const { port1, port2 } = new MessageChannel({ limit: 1 << 20 });
  const long = { text: 'x'.repeat(3 << 20), bytes: new Uint8Array(5 << 20).fill(7) };
  port1.postMessage(long);
  assert.deepEqual(take(port2), long);
  port1.postMessage(long.text);
  assert.equal(take(port2), long.text);
  port1.postMessage(long.bytes);
  assert.deepEqual(take(port2), long.bytes);
});

test('ports move with their queue and are the same object in value and event', async () => {
  const carrier = new MessageChannel();
  const carried = new MessageChannel();
  carried.port1.postMessage('before');
  carrier.port1.postMessage({ port: carried.port2, again: carried.port2 }, [carried.port2]);
  carried.port1.postMessage('after');
  const event = await nextEvent(carrier.port2);
  carrier.port2.close();
  assert.ok(event instanceof MessageEvent);
  assert.ok(event.data.port instanceof MessagePort);
  assert.equal(event.data.port, event.data.again);
  assert.deepEqual(event.ports, [event.data.port]);
  assert.deepEqual([take(event.data.port), take(event.data.port)], ['before', 'after']);
  // The object that was posted is of no use any more, and says nothing.
  carried.port2.postMessage('lost');
  carried.port2.start();
  assert.equal(receiveMessageOnPort(carried.port2), undefined);
  assert.throws(() => carrier.port1.postMessage(null, [carried.port2]), isDataCloneError);
});

test('a port that is posted through its own channel is lost, as on the web', async () => {
  const { port1, port2 } = new MessageChannel();
  const warning = once(process, 'warning');
  port1.postMessage(null, [port2]);
  await once(port1, 'close');
  assert.match((await warning)[0].message, /posted to itself/);
});

test('a port is an event target and an emitter', async () => {
  const { port1, port2 } = new MessageChannel();
  assert.ok(port1 instanceof EventTarget);
  const seen = [];
  port2.on('message', function on(value) { seen.push(['on', this === port2, value]); });
  port2.once('message', (value) => seen.push(['once', value]));
  port2.addEventListener('message', (event) => seen.push(['event', event.data]));
  port2.onmessage = (event) => seen.push(['attribute', event.target === port2, event.data]);
  const off = () => seen.push('never');
  port2.on('message', off);
  port2.off('message', off);
  assert.equal(port2.listenerCount('message'), 4);
  port1.postMessage(1);
  port1.postMessage(2);
  await new Promise((resolve) => port2.on('message', (value) => value === 2 && resolve()));
  port2.close();
  assert.deepEqual(seen, [
    ['on', true, 1], ['once', 1], ['event', 1], ['attribute', true, 1],
    ['on', true, 2], ['event', 2], ['attribute', true, 2],
  ]);
});

test('messages wait until the port is started', async () => {
  const { port1, port2 } = new MessageChannel();
  let count = 0;
  port2.onmessage = null;
  port1.postMessage(1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(count, 0);
  port2.onmessage = () => { count += 1; };
  await nextEvent(port2);
  assert.equal(count, 1);
  port2.close();
});

test('close is an event at both ends, once, after the last message', async () => {
  const { port1, port2 } = new MessageChannel();
  const seen = [];
  port1.on('close', () => seen.push('close 1'));
  port2.on('message', (value) => seen.push(value));
  port2.on('close', () => seen.push('close 2'));
  port1.postMessage('last');
  port1.close(() => seen.push('callback'));
  port1.close();
  await once(port2, 'close');
  port2.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(seen.toSorted(), ['callback', 'close 1', 'close 2', 'last']);
  assert.ok(seen.indexOf('last') < seen.indexOf('close 2'));
  port1.postMessage('dropped silently');
  assert.throws(() => port1.postMessage(() => {}), isDataCloneError);
});

test('a port that is not started hears of the end once it has been read', async () => {
  const { port1, port2 } = new MessageChannel();
  let hasClosed = false;
  port2.addEventListener('close', () => { hasClosed = true; });
  port1.postMessage('unread');
  port1.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(hasClosed, false);
  assert.equal(take(port2), 'unread');
  await once(port2, 'close');
});

test('microtasks run between messages, timers are not starved', async () => {
  const { port1, port2 } = new MessageChannel();
  const order = [];
  let timers = 0;
  const timer = setInterval(() => { timers += 1; }, 1);
  let left = 20_000;
  await new Promise((resolve) => {
    port2.on('message', (value) => {
      if (order.length < 6) {
        order.push(value);
        queueMicrotask(() => order.push(`microtask ${value}`));
      }
      // Each message brings another one: there is always something to deliver.
      port1.postMessage(value + 1);
      left -= 1;
      if (left === 0) resolve();
    });
    for (let value = 0; value < 100; value += 1) port1.postMessage(value);
  });
  clearInterval(timer);
  port2.close();
  assert.deepEqual(order.slice(0, 4), [0, 'microtask 0', 1, 'microtask 1']);
  assert.ok(timers > 0, 'timers ran meanwhile');
});

test('more than fits the ring waits, in order, and nothing is lost', async () => {
  const { port1, port2 } = new MessageChannel({ limit: 1 << 18 });
  const count = 2000;
  const carried = [];
  for (let value = 0; value < count; value += 1) {
    if (value % 500 === 0) {
      const channel = new MessageChannel();
      carried.push(channel.port1);
      channel.port1.postMessage(value);
      port1.postMessage({ value, port: channel.port2 }, [channel.port2]);
    } else {
      port1.postMessage({ value, filler: 'x'.repeat(1000) });
    }
  }
  port1.close();
  let next = 0;
  const held = [];
  for await (const message of port2) {
    assert.equal(message.value, next);
    if (message.port !== undefined) {
      held.push(message.port);
      assert.equal(take(message.port), next);
    }
    next += 1;
  }
  assert.equal(next, count);
});

test('a port whose own messages wait for room moves after them', async () => {
  const carrier = new MessageChannel();
  const carried = new MessageChannel({ limit: 1 << 16 });
  for (let value = 0; value < 100; value += 1) {
    carried.port1.postMessage({ value, filler: 'x'.repeat(2000) });
  }
  carrier.port1.postMessage({ port: carried.port1 }, [carried.port1]);
  carrier.port1.postMessage('behind');
  const moved = nextEvent(carrier.port2);
  let next = 0;
  for await (const { value } of carried.port2) {
    assert.equal(value, next);
    next += 1;
    if (next === 100) break;
  }
  const { port } = (await moved).data;
  port.postMessage('from the new owner');
  const { value } = await carried.port2[Symbol.asyncIterator]().next();
  assert.equal(value, 'from the new owner');
  carrier.port2.close();
  carried.port2.close();
});

test('an exception of a listener is uncaught, and the next message comes', async () => {
  const { port1, port2 } = new MessageChannel();
  const seen = [];
  const uncaught = [];
  process.setUncaughtExceptionCaptureCallback((error) => uncaught.push(error.message));
  try {
    port2.on('message', (value) => {
      seen.push(value);
      throw new Error(`of ${value}`);
    });
    port1.postMessage(1);
    port1.postMessage(2);
    await new Promise((resolve) => setTimeout(resolve, 50));
  } finally {
    process.setUncaughtExceptionCaptureCallback(null);
  }
  port2.close();
  assert.deepEqual(seen, [1, 2]);
  assert.deepEqual(uncaught, ['of 1', 'of 2']);
});

test('a port that is not used any more is collected, and its peer hears of it', async () => {
  const { port1 } = new MessageChannel();
  const closed = once(port1, 'close');
  // A finaliser may need more than one collection.
  const timer = setInterval(() => globalThis.gc(), 5);
  await closed;
  clearInterval(timer);
});

test('ref and unref', async () => {
  const { port1 } = new MessageChannel();
  assert.equal(port1.hasRef(), false);
  const listener = () => {};
  port1.on('message', listener);
  assert.equal(port1.hasRef(), true);
  port1.unref();
  assert.equal(port1.hasRef(), false);
  port1.ref();
  assert.equal(port1.hasRef(), true);
  port1.off('message', listener);
  assert.equal(port1.hasRef(), false);
  port1.on('message', listener);
  port1.close();
  // It still delivers what has arrived.
  assert.equal(port1.hasRef(), true);
  await once(port1, 'close');
  assert.equal(port1.hasRef(), false);
});

test('a port cannot be made by new, nor used through another object', () => {
  const { port1 } = new MessageChannel();
  assert.throws(() => new MessagePort(), { code: 'ERR_CONSTRUCT_CALL_INVALID' });
  for (const name of ['postMessage', 'start', 'close', 'ref', 'unref', 'hasRef']) {
    assert.throws(() => MessagePort.prototype[name].call({}, 1), TypeError);
  }
  assert.throws(() => receiveMessageOnPort({}), { code: 'ERR_INVALID_ARG_TYPE' });
  // Neither is it cloned into a thread.
  assert.throws(() => structuredClone(port1), isDataCloneError);
});

test('CommonJS and ESM are the same module', async () => {
  const { createRequire } = await import('node:module');
  const required = createRequire(import.meta.url)('..');
  for (const name of Object.keys(required)) assert.equal(required[name], messageport[name], name);
  assert.equal(messageport.parentPort, null);
});
