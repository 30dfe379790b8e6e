// A program that uses every type of the package. `types.test.mjs` compiles and runs it.
import assert from 'node:assert/strict';
import {
  BroadcastChannel, FileDescriptor, Listener, MessageChannel, MessageEvent, MessagePort,
  SharedBuffer, Worker, connect, fork, listen, parentPort, receiveMessageOnPort, spawn,
} from 'messageport';
import { ReadableStream as NodeReadable } from 'node:stream/web';
import type { ExitState, PlainData, Transferable, TransferOptions } from 'messageport';

const { port1, port2 }: MessageChannel = new MessageChannel({ limit: 1 << 20 });
assert.ok(port1 instanceof MessagePort && port1 instanceof EventTarget);

const memory: ArrayBuffer = SharedBuffer.alloc(10);
const shared: boolean = SharedBuffer.isShared(memory);
assert.equal(shared, true);
const list: Transferable[] = [memory];
const options: TransferOptions = { transfer: list };
const data: PlainData = { a: [1n, new Date(0), new Map([['k', new Uint8Array(1)]])] };
port1.postMessage({ any: /thing/ }, options);
port1.postValue(data);
interface Order { item: string; parts?: readonly Order[] }
const order: Order = { item: 'lamp', parts: [{ item: 'bulb' }] };
port1.postValue(order);
const streams: Transferable[] = [new ReadableStream(), new NodeReadable()];
list.slice(1).concat(new WritableStream(), new TransformStream());
port1.postMessage(streams, streams);
const first: { message: any } | undefined = receiveMessageOnPort(port2);
assert.ok(first?.message.any instanceof RegExp);
assert.deepEqual(receiveMessageOnPort(port2)?.message, data);
assert.deepEqual(receiveMessageOnPort(port2)?.message, order);
assert.equal(receiveMessageOnPort(port2)?.message.length, 2);

const { length }: readonly string[] = port1.once('close', () => {}).eventNames();
assert.equal(length, 1);
port2.onmessage = ({ data: value, ports, buffers, descriptors }) => {
  const counts: number[] = [ports.length, buffers.length, descriptors.length];
  assert.deepEqual([value, ...counts], ['x', 0, 0, 0]);
  port2.close(() => {});
};
const nothing: void[] = [port2.unref(), port2.ref()];
assert.deepEqual(nothing, [undefined, undefined]);
const isReferenced: boolean = port2.hasRef();
assert.equal(isReferenced, true);
port2.addEventListener('message', (event) => assert.equal(event.data, event.ports.length || 'x'));
port2.addEventListener('anything', (event: Event) => event.type, { once: true });
port1.postMessage('x');
const closed = new Promise<Event>((resolve) => { port1.onclose = resolve; });
assert.equal((await closed).type, 'close');

// @ts-expect-error: a port is made by a channel
assert.throws(() => new MessagePort());
// @ts-expect-error: a function is no plain data
assert.throws(() => port1.postValue(() => {}));
// @ts-expect-error: nor is an object with one
assert.throws(() => port1.postValue({ a: [() => {}] }));
const made: MessageEvent<number> = new MessageEvent('message', { data: 1 });
assert.equal(made.data, 1);
// @ts-expect-error: a number does not move
assert.throws(() => port1.postMessage(1, [1]));

const channel = new BroadcastChannel(`types-${process.pid}`);
assert.equal(channel.ref().unref().name, `types-${process.pid}`);
channel.postMessage({ a: 1 });
channel.close();

const file = new FileDescriptor(0);
const { fd }: { fd: number } = file;
assert.equal(fd, 0);

const listener: Listener = listen(`types-${process.pid}`, { limit: 1 << 16 }, (port, { pid }) => {
  const peer: number | undefined = pid;
  port.postMessage(peer);
  port.close();
});
const client: MessagePort = await connect(listener.name, { timeout: 10_000 });
for await (const value of client) assert.equal(value, process.pid);
listener.ref().unref().close();

assert.equal(parentPort, null);
const worker: Worker = fork(new URL('file:///dev/null'), { execPath: '/bin/true', args: [] });
worker.on('exit', (code: number | null) => assert.equal(code, 0));
const { code, signal }: ExitState = await worker.exited;
assert.deepEqual([code, signal], [0, null]);
const nothingGiven: Worker = spawn('/bin/true', undefined, { stdio: 'ignore' });
assert.equal((await nothingGiven.exited).code, 0);
const child = spawn('/bin/cat', ['-'], { stdio: ['pipe', 'pipe', 'inherit'], limit: 1 << 16 });
assert.equal(typeof child.pid, 'number');
child.stdin?.end('text');
assert.equal((await child.terminate()).signal, 'SIGKILL');
console.log('every type holds');
