'use strict';
// Programs of one user that meet under a name.

const { EventEmitter, on } = require('node:events');
const { inspect } = require('node:util');
const native = require('./native.js');
const { checkOptions, checkString, codedError, limitOf } = require('./events.js');
const { createPort, loop, takers, watched } = require('./port.js');

const CLIENT = 0;
/** Milliseconds: a hundred years, for a timeout that is infinite. */
const LONGEST_WAIT = 100 * 365 * 24 * 3600 * 1000;

/** Listens under a name. Emits `connection` with the port to each client, and `error`. */
class Listener extends EventEmitter {
  #handle;
  #name;

  constructor(name, options) {
    super();
    checkString(name, 'name');
    this.#name = name;
    takers.set(this, (kind, content, credentials) => this.#take(kind, content, credentials));
    this.#handle = native.listen(loop, this.#name, limitOf(options), this);
    watched.add(this);
    // Without a listener for them, clients wait in `connect`.
    this.on('newListener', (type) => this.#setAccepting(type, true));
    this.on('removeListener', (type) => this.#setAccepting(type, false));
  }

  #setAccepting(type, isAccepting) {
    if (type !== 'connection' || this.#handle === undefined) return;
    native.setAccepting(this.#handle, isAccepting || this.listenerCount(type) > 0);
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
    if (this.#handle === undefined) return;
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
  if (listener !== undefined && typeof listener !== 'function') {
    throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
      `The "onConnection" argument must be of type function. Received ${inspect(listener)}`);
  }
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
  checkString(name, 'name');
  const { timeout } = checkOptions(options);
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout >= 0)) {
    throw codedError(RangeError, 'ERR_OUT_OF_RANGE', 'The "options.timeout" must be a number of ' +
      `milliseconds, at least 0. Received ${inspect(timeout)}`);
  }
  return createPort(await native.connect(name, timeout && Math.min(timeout, LONGEST_WAIT)));
}

module.exports = { Listener, connect, listen };
