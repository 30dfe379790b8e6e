'use strict';
// Programs of one user that meet under a name.

const { EventEmitter, on } = require('node:events');
const native = require('./native.js');
const { createPort, loop, takers, watched } = require('./port.js');

const CLIENT = 0;

/** Listens under a name. Emits `connection` with the port to each client, and `error`. */
class Listener extends EventEmitter {
  #handle;
  #name;

  constructor(name, options) {
    super();
    this.#name = `${name}`;
    takers.set(this, (kind, content, credentials) => this.#take(kind, content, credentials));
    this.#handle = native.listen(loop, this.#name, options?.limit ?? 0, this);
    watched.add(this);
  }

  #take(kind, content, credentials) {
    if (kind !== CLIENT) {
      // A client that could not be let in: the listener goes on.
      if (this.listenerCount('error') > 0) this.emit('error', new Error(content));
      return;
    }
    const port = createPort(content);
    const [pid, uid, gid] = credentials ?? [];
    if (!this.emit('connection', port, { pid, uid, gid })) port.close();
  }

  /** The name. */
  get name() {
    return this.#name;
  }

  /** Gives up the name. Ports to clients stay open. */
  close() {
    if (this.#handle === undefined) return;
    native.closeListener(this.#handle);
    this.#handle = undefined;
    watched.delete(this);
    setImmediate(() => this.emit('close'));
  }

  /** Lets the listener keep the process alive. */
  ref() {
    if (this.#handle !== undefined) native.setListenerRef(this.#handle, true);
    return this;
  }

  /** Lets the process end although the listener is open. */
  unref() {
    if (this.#handle !== undefined) native.setListenerRef(this.#handle, false);
    return this;
  }

  /** The ports to clients, until the listener is closed. */
  async* [Symbol.asyncIterator]() {
    try {
      for await (const [port] of on(this, 'connection', { close: ['close'] })) yield port;
    } finally {
      this.close();
    }
  }
}

/**
 * Listens under a name, which belongs to this user.
 *
 * @param {string} name
 * @param {{limit: number}} [options]
 * @param {function(MessagePort)} [onConnection]
 * @returns {Listener}
 */
function listen(name, options, onConnection) {
  const listener = typeof options === 'function' ? options : onConnection;
  const made = new Listener(name, typeof options === 'function' ? undefined : options);
  if (listener !== undefined) made.on('connection', listener);
  return made;
}

/**
 * Connects to the program that listens under a name.
 *
 * @param {string} name
 * @param {{timeout: number}} [options] milliseconds
 * @returns {Promise<MessagePort>}
 */
async function connect(name, options) {
  return createPort(await native.connect(`${name}`, options?.timeout));
}

module.exports = { Listener, connect, listen };
