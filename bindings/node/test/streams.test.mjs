// Streams in a transfer list: they go on between two processes, with their backpressure and errors.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { MessageChannel, fork, receiveMessageOnPort, spawn } from '../lib/index.mjs';
import { buildPeer } from './peer.mjs';

const role = fileURLToPath(new URL('children/role.mjs', import.meta.url));

const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

const refused = { name: 'DataCloneError' };
const gone = { name: 'NetworkError', message: /has closed its port, or its process has ended/ };

/** A child with a role of its own for streams. Its answers come in the order of the posts. */
function start(context, name) {
  const child = fork(role, { args: ['streams', name] });
  context.after(() => child.terminate());
  const answers = child.port[Symbol.asyncIterator]();
  return { child, next: async () => (await answers.next()).value };
}

/** A stream of 0, 1, 2 and so on, which counts what it is asked for and notes its cancel. */
function counter(limit = Infinity) {
  const counted = { pulls: 0 };
  counted.cancelled = new Promise((resolve) => {
    counted.stream = new ReadableStream({
      pull(controller) {
        if (counted.pulls === limit) controller.close();
        else controller.enqueue(counted.pulls);
        counted.pulls += 1;
      },
      cancel: resolve,
    });
  });
  return counted;
}

/** Moves one object through a channel of this process. */
function move(object) {
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(object, [object]);
  const { message } = receiveMessageOnPort(port2);
  port1.close();
  return message;
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

test('what cannot move is an error that locks and detaches nothing', () => {
  const { port1, port2 } = new MessageChannel();
  const [readable, writable] = [new ReadableStream(), new WritableStream()];
  const transform = new TransformStream();
  const buffer = new ArrayBuffer(8);
  const refuse = (value, list) => assert.throws(() => port1.postMessage(value, list), refused);
  for (const stream of [readable, writable, transform]) {
    refuse(stream, [buffer, stream, stream]);
    refuse([stream, () => {}], [stream, buffer]);
    assert.throws(() => port1.postMessage(stream), { ...refused, message: /not listed in/ });
    refuse(null, [new Proxy(stream, {})]);
  }
  refuse(null, [transform, transform.readable]);
  refuse(null, [buffer, transform.writable, transform]);
  assert.ok(![readable, writable, transform.readable, transform.writable].some((s) => s.locked));
  // The value locks it while it is serialized.
  const late = new ReadableStream();
  refuse({ get late() { late.getReader(); return late; } }, [late, buffer]);
  readable.getReader();
  writable.getWriter();
  transform.writable.getWriter();
  for (const stream of [readable, writable, transform]) refuse(null, [buffer, stream]);
  assert.equal(buffer.byteLength, 8);
  assert.equal(transform.readable.locked, false);
  assert.equal(receiveMessageOnPort(port2), undefined);
});

test('all kinds arrive in their place in the value, and move on', async () => {
  class Numbers extends ReadableStream {}
  const written = [];
  const sink = {
    write: (chunk) => { written.push(chunk); },
    close: () => { written.push('end'); },
  };
  const readable = new Numbers({
    start(controller) {
      controller.enqueue({ date: new Date(1) });
      controller.enqueue(undefined);
      controller.enqueue(new Uint8Array(1 << 20));
      controller.close();
    },
  });
  const writable = new WritableStream(sink);
  const transform = new TransformStream({ transform: (x, to) => to.enqueue(2 * x) });
  const other = new MessageChannel();
  const { port1, port2 } = new MessageChannel();
  port1.postMessage({ list: [readable, readable], writable, map: new Map([[1, transform]]) },
    [transform, readable, other.port1, writable]);
  assert.ok([readable, writable, transform.readable, transform.writable].every((s) => s.locked));
  const { data, ports } = await new Promise((resolve) => { port2.onmessage = resolve; });
  port2.close();
  assert.equal(ports.length, 1);
  assert.equal(data.list[0], data.list[1]);
  assert.equal(Object.getPrototypeOf(data.list[0]), ReadableStream.prototype);
  assert.ok(data.writable instanceof WritableStream);
  assert.ok(data.map.get(1) instanceof TransformStream);

  const chunks = await all(move(data.list[0]));
  assert.deepEqual(chunks.slice(0, 2), [{ date: new Date(1) }, undefined]);
  assert.equal(chunks[2].length, 1 << 20);
  const doubled = counter(3).stream.pipeThrough(move(data.map.get(1)));
  assert.deepEqual(await all(doubled), [0, 2, 4]);
  await counter(2).stream.pipeTo(move(data.writable));
  while (written.length < 3) await turn();
  assert.deepEqual(written, [0, 1, 'end']);
});

test('a process reads a stream of the other one: no faster than it reads', async (context) => {
  const { child, next } = start(context, 'read');
  const source = counter(200);
  child.postMessage({ stream: source.stream, count: 3 }, [source.stream]);
  assert.deepEqual(await next(), [0, 1, 2]);
  for (let turns = 0; turns < 100; turns += 1) await turn();
  // One chunk waits to be posted, and one in the source.
  assert.ok(source.pulls <= 5, `${source.pulls} chunks`);
  child.postMessage({ count: Infinity });
  assert.deepEqual(await next(), Array.from({ length: 197 }, (_, index) => index + 3));
});

test('a process writes to a stream of the other one: no faster than it takes', async (context) => {
  const { child, next } = start(context, 'write');
  const taken = [];
  let release;
  const released = new Promise((resolve) => { release = resolve; });
  const ended = new Promise((resolve) => {
    const stream = new WritableStream({
      write: (chunk) => { taken.push(chunk); return released; },
      close: resolve,
    });
    child.postMessage({ stream }, [stream]);
  });
  assert.equal(await next(), 'first');
  for (let turns = 0; turns < 20; turns += 1) {
    child.postMessage('how many?');
    assert.equal(await next(), 1);
  }
  release();
  await ended;
  assert.deepEqual(taken, Array.from({ length: 100 }, (_, index) => index));
});

test('the error of a source arrives, with its name and text', async (context) => {
  const { child, next } = start(context, 'read');
  for (const error of [new RangeError('source'), new DOMException('stop', 'AbortError')]) {
    const stream = new ReadableStream({ pull: (controller) => controller.error(error) });
    child.postMessage({ stream, count: 1 }, [stream]);
    assert.deepEqual(await next(), { name: error.name, message: error.message });
  }
});

test('a process cancels or aborts a stream of the other one', async (context) => {
  const { child } = start(context, 'stop');
  const source = counter();
  const aborted = new Promise((resolve) => {
    const sink = new WritableStream({ abort: resolve });
    const list = [source.stream, sink];
    child.postMessage(list, list);
  });
  assert.deepEqual(await source.cancelled, { why: 'enough' });
  const { name, message } = await aborted;
  assert.deepEqual([name, message], ['AbortError', 'no more']);
});

test('the error of a sink arrives at the writer', async () => {
  const writer = move(new WritableStream({
    write() { throw new SyntaxError('of the sink'); },
  })).getWriter();
  writer.write(1).catch(() => {});
  await assert.rejects(writer.closed, { name: 'SyntaxError', message: 'of the sink' });
});

test('an abort does not wait for a peer that does not read', async () => {
  let release;
  const reason = new Promise((resolve) => {
    const writer = move(new WritableStream({
      write: () => new Promise((go) => { release = go; }),
      abort: resolve,
    })).getWriter();
    writer.write(1).then(async () => {
      const second = writer.write(2);
      await turn();
      await Promise.all([assert.rejects(second), writer.abort('now')]);
      release();
    });
  });
  assert.equal(await reason, 'now');
});

test('a chunk that cannot be cloned is an error at both ends', async () => {
  let cancelled;
  const source = new ReadableStream({
    pull: (controller) => controller.enqueue(() => {}),
    cancel: (reason) => { cancelled = reason; },
  });
  await assert.rejects(all(move(source)), refused);
  assert.equal(cancelled.name, 'DataCloneError');

  const counted = counter();
  const reader = move(counted.stream).getReader();
  await assert.rejects(reader.cancel(() => {}), refused);
  assert.equal((await counted.cancelled).name, 'DataCloneError');
});

test('the death of a process is an error of each stream at the other end', async (context) => {
  const { child, next } = start(context, 'die');
  const source = counter();
  const aborted = new Promise((resolve) => {
    const sink = new WritableStream({ abort: resolve });
    const list = [source.stream, sink];
    child.postMessage(list, list);
  });
  const { readable, writable } = await next();
  const reader = readable.getReader();
  const writer = writable.getWriter();
  assert.equal((await reader.read()).value, 0);
  child.process.kill('SIGKILL');
  await assert.rejects(async () => { for (;;) await reader.read(); }, gone);
  await assert.rejects(writer.closed, gone);
  const reasons = await Promise.all([source.cancelled, aborted]);
  assert.deepEqual(reasons.map(({ name }) => name), ['NetworkError', 'NetworkError']);
});

test('a process stays while its stream is read, and ends after it', async (context) => {
  const { child, next } = start(context, 'source');
  const exited = once(child, 'exit');
  const { stream } = await next();
  const chunks = await all(stream);
  assert.equal(chunks.length, 51);
  assert.deepEqual(chunks.slice(0, 50), Array.from({ length: 50 }, (_, index) => index));
  assert.equal(chunks[50].length, 3 << 20);
  assert.deepEqual(await exited, [0, null]);
});

test('a stream that is not read does not keep its process', async (context) => {
  const { child } = start(context, 'ignore');
  const source = counter();
  child.postMessage(source.stream, [source.stream]);
  assert.deepEqual(await once(child, 'exit'), [0, null]);
  assert.equal((await source.cancelled).name, 'NetworkError');
});

test('a peer that does not keep to the protocol ends the stream', async () => {
  const { port1, port2 } = new MessageChannel();
  const arrive = async (stream) => {
    port1.postMessage('as ports', [stream]);
    const { data, ports } = await new Promise((resolve) => { port2.onmessage = resolve; });
    assert.deepEqual([data, ports.length], ['as ports', 1]);
    return ports[0];
  };
  for (const message of [{ type: 'chunk', value: 1 }, { type: 1 }, 'pull', null, [], new Set()]) {
    const source = counter();
    (await arrive(source.stream)).postMessage(message);
    assert.equal((await source.cancelled).name, 'DataCloneError');
    const port = await arrive(new WritableStream({ write: () => new Promise(() => {}) }));
    // One chunk is asked for, and a second one is not.
    port.postMessage({ type: 'chunk', value: 1 });
    port.postMessage(message);
    assert.equal((await once(port, 'message'))[0].type, 'pull');
    assert.equal((await once(port, 'message'))[0].name, 'DataCloneError');
  }
  port2.close();
});

test('a Rust program reads a stream as a port', async () => {
  const child = spawn(buildPeer(), ['stream']);
  const { stream } = counter(100);
  child.postMessage(null, [stream]);
  const [sum] = await once(child, 'message');
  assert.equal(sum, 4950);
  child.port.close();
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});
