// Posts numbered messages, some with a buffer or a port, and checks those of the other end, which
// may be killed at any time. `examples/exchange.rs` is the same in Rust.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { MessageChannel, SharedBuffer } from '../lib/index.mjs';

/** Messages that may be on their way in one direction. */
const WINDOW = 256;
const BUFFER_EVERY = 8;
const PORT_EVERY = 32;
const BUFFER_BYTES = 4096;
/** Messages in the queue of a port that moves. */
const LINES = 4;

export class Exchange {
  posted = 0;
  received = 0;
  #acknowledged = 0;
  #told = 0;
  #port;
  #limit;
  /** Ports at the side of the conversation that have not ended. */
  #sides = new Set();
  #onProgress;

  /**
   * @param {MessagePort} port
   * @param {number} limit messages each way
   * @param {function(Exchange)} [onProgress] called after each message
   */
  constructor(port, limit, onProgress = () => {}) {
    this.#port = port;
    this.#limit = limit;
    this.#onProgress = onProgress;
    port.addEventListener('message', (event) => this.#take(event));
    port.on('messageerror', (error) => { throw error; });
    port.ref();
    port.start();
    this.#post();
  }

  /** Whether each end has received all messages, and every port has ended. */
  get isComplete() {
    return this.received === this.#limit && this.#acknowledged === this.#limit &&
      this.#sides.size === 0;
  }

  #take({ data: { number, seen }, ports, buffers }) {
    assert.ok(seen >= this.#acknowledged && seen <= this.posted, `${seen} seen`);
    this.#acknowledged = seen;
    if (number !== null) {
      assert.equal(number, this.received);
      this.received += 1;
      const hasPort = number % PORT_EVERY === 1;
      assert.deepEqual([ports.length, buffers.length],
        [hasPort ? 1 : 0, !hasPort && number % BUFFER_EVERY === 0 ? 1 : 0]);
      for (const buffer of buffers) {
        assert.equal(buffer.byteLength, BUFFER_BYTES);
        assert.ok(new Uint8Array(buffer).every((byte) => byte === number % 256));
      }
      for (const port of ports) this.#follow(port, true);
    }
    this.#post();
    this.#onProgress(this);
  }

  /** Takes the lines of a port. One that has arrived sends them back. */
  #follow(port, echoes) {
    let next = 0;
    this.#sides.add(port);
    port.on('message', (line) => {
      assert.equal(line, next);
      assert.ok(line < LINES);
      next += 1;
      if (echoes) port.postMessage(line);
      else if (next === LINES) port.close();
    });
    port.on('messageerror', (error) => { throw error; });
    port.on('close', () => {
      this.#sides.delete(port);
      this.#onProgress(this);
    });
  }

  #post() {
    while (this.posted < this.#limit && this.posted - this.#acknowledged < WINDOW) {
      this.#postNext(this.posted);
      this.posted += 1;
    }
    const isDone = this.received === this.#limit && this.posted === this.#limit;
    if (this.#told + WINDOW / 4 < this.received || (isDone && this.#told < this.received)) {
      this.#send(null);
    }
  }

  #postNext(number) {
    if (number % PORT_EVERY === 1) {
      const { port1, port2 } = new MessageChannel();
      for (let line = 0; line < LINES; line += 1) port1.postMessage(line);
      this.#follow(port1, false);
      this.#send(number, [port2]);
    } else if (number % BUFFER_EVERY === 0) {
      const buffer = SharedBuffer.alloc(BUFFER_BYTES);
      new Uint8Array(buffer).fill(number);
      this.#send(number, [buffer]);
    } else {
      this.#send(number);
    }
  }

  #send(number, list) {
    this.#told = this.received;
    this.#port.postMessage({ number, seen: this.received }, list);
  }

  /** Resolves once the other end is gone, and so are all ports that it held. */
  async ended() {
    await once(this.#port, 'close');
    while (this.#sides.size > 0) await once([...this.#sides][0], 'close');
  }
}
