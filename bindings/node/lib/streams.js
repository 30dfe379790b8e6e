'use strict';
// Streams in a transfer list, by the algorithms of the Streams standard for another realm
// (https://streams.spec.whatwg.org/#rs-transfer). The sender makes a channel for a readable or
// writable stream, two for a `TransformStream`. It pipes the stream through one port, and the other
// port moves. The receiver makes a stream over the port that arrives.
//
// The messages are plain objects with `type` and `value`. The reading end posts `pull` for each
// chunk that it wants, and the writing end answers with `chunk`, or `close`. Each end posts `error`
// with a reason. It closes its port after `close` and `error`. A `DOMException`, which V8 does not
// clone, is `name` and `message` in place of `value`.
// What arrives was written by the peer, and is input.

const { ReadableStream, TransformStream, WritableStream } = require('node:stream/web');
const { inspect } = require('node:util');
const { isProxy } = require('node:util/types');
const { createHostObject, dataCloneError, kSetRef } = require('./events.js');

// The kinds of host objects in a serialization; `clone.js` has the others.
const READABLE = 4;
const WRITABLE = 5;
const TRANSFORM = 6;

function getterOf({ prototype }, name) {
  const { get } = Object.getOwnPropertyDescriptor(prototype, name);
  return (object) => Reflect.apply(get, object, []);
}

const isReadableLocked = getterOf(ReadableStream, 'locked');
const isWritableLocked = getterOf(WritableStream, 'locked');
const readableOf = getterOf(TransformStream, 'readable');
const writableOf = getterOf(TransformStream, 'writable');
const { pipeTo } = ReadableStream.prototype;

/** The `TransformStream`s that have arrived, each with its two streams. */
const transforms = new WeakMap();

function succeeds(getter, object) {
  try {
    getter(object);
    return true;
  } catch {
    return false;
  }
}

/** The kind of a stream, or `undefined` for anything else. */
function kindOf(object) {
  if (object instanceof ReadableStream) {
    if (!isProxy(object) && succeeds(isReadableLocked, object)) return READABLE;
  } else if (object instanceof WritableStream) {
    if (!isProxy(object) && succeeds(isWritableLocked, object)) return WRITABLE;
  } else if (object instanceof TransformStream) {
    if (transforms.has(object)) return TRANSFORM;
    if (!isProxy(object) && succeeds(readableOf, object)) return TRANSFORM;
  }
  return undefined;
}

/** The readable and writable streams of a stream, in the order of their ports. */
function partsOf(stream) {
  if (kindOf(stream) !== TRANSFORM) return [stream];
  const { readable, writable } = transforms.get(stream) ??
    { readable: readableOf(stream), writable: writableOf(stream) };
  return [readable, writable];
}

/** Whether a readable or writable stream is locked. */
function isLocked(part) {
  return kindOf(part) === READABLE ? isReadableLocked(part) : isWritableLocked(part);
}

/** Has a stream that moves go through a port from now on. The stream is locked. */
function pump(part, port) {
  const [from, to] = kindOf(part) === READABLE ? [part, writableOver(port)] :
    [readableOver(port), part];
  // Both ends of the conversation learn of an error by the streams.
  Reflect.apply(pipeTo, from, [to]).catch(() => {});
}

/** Makes the stream of the ports that have arrived for it. */
function receive(kind, ports) {
  if (kind === READABLE) return readableOver(ports[0]);
  if (kind === WRITABLE) return writableOver(ports[0]);
  // No public constructor takes the two streams.
  const parts = { readable: readableOver(ports[0]), writable: writableOver(ports[1]) };
  const stream = createHostObject(TransformStream.prototype);
  transforms.set(stream, parts);
  return Object.defineProperties(stream, {
    readable: { configurable: true, value: parts.readable },
    writable: { configurable: true, value: parts.writable },
    [inspect.custom]: {
      configurable: true,
      value: (depth, options) => `TransformStream ${inspect(parts, { ...options, depth })}`,
    },
  });
}

/** The conversation about one stream. */
class Line {
  #port;
  #take;
  #fail;
  #onMessage = (event) => this.#receive(event.data);
  #onError = (event) => this.stop(event.data);
  #onClose = () => this.stop(new DOMException('the other end of the stream has closed its port, ' +
    'or its process has ended, before the stream was closed', 'NetworkError'));

  /**
   * @param {MessagePort} port
   * @param {function} take takes the type and value of a message; returns false if it knows none
   * @param {function} fail takes the reason why the stream has failed
   */
  constructor(port, take, fail) {
    this.#port = port;
    this.#take = take;
    this.#fail = fail;
    port.addEventListener('message', this.#onMessage);
    port.addEventListener('messageerror', this.#onError);
    port.addEventListener('close', this.#onClose);
    this.setRef(false);
  }

  /** Lets the stream keep the process alive while this end waits for the other one. */
  setRef(isReferenced) {
    this.#port[kSetRef](isReferenced);
  }

  #receive(message) {
    const { type, value, name, message: text } = message ?? {};
    if (type === 'error') {
      this.end();
      this.#fail(typeof name === 'string' ? new DOMException(`${text}`, name) : value);
    } else if (!this.#take(type, value)) {
      this.stop(dataCloneError(`the other end of the stream has posted ${inspect(type)} where ` +
        'the Streams standard does not allow it'));
    }
  }

  /** Posts a message. If the value cannot be cloned, that is the error of both ends. */
  post(type, value) {
    try {
      this.#port.postMessage(messageOf(type, value));
    } catch (error) {
      this.#postError(error);
      this.end();
      throw error;
    }
  }

  #postError(error) {
    try {
      this.#port.postMessage(messageOf('error', error));
    } catch {
      // Then the other end learns of it by the close.
    }
  }

  /** This end has found an error: it tells the other one. */
  stop(error) {
    this.#postError(error);
    this.end();
    this.#fail(error);
  }

  /** Ends the conversation. What was posted before arrives. */
  end() {
    this.#port.removeEventListener('message', this.#onMessage);
    this.#port.removeEventListener('messageerror', this.#onError);
    this.#port.removeEventListener('close', this.#onClose);
    this.#port.close();
  }
}

function messageOf(type, value) {
  if (type === 'error' && value instanceof DOMException) {
    return { type, name: value.name, message: value.message };
  }
  return value === undefined ? { type } : { type, value };
}

/** A readable stream whose chunks arrive at a port. */
function readableOver(port) {
  let controller;
  // A peer that posts more chunks than this end has asked for would fill its memory.
  let asked = 0;
  const take = (type, value) => {
    if (type === 'chunk' && asked > 0) {
      asked -= 1;
      line.setRef(false);
      controller.enqueue(value);
      return true;
    }
    if (type !== 'close') return false;
    line.end();
    controller.close();
    return true;
  };
  const line = new Line(port, take, (error) => controller.error(error));
  return new ReadableStream({
    start(given) {
      controller = given;
    },
    pull() {
      asked += 1;
      line.setRef(true);
      line.post('pull');
    },
    cancel(reason) {
      line.post('error', reason);
      line.end();
    },
  }, { highWaterMark: 0 });
}

/** A writable stream whose chunks are posted at a port, one for each that is asked for. */
function writableOver(port) {
  let controller;
  let isAsked = false;
  let resume;
  const goOn = () => resume?.();
  const take = (type) => {
    if (type !== 'pull') return false;
    isAsked = true;
    goOn();
    return true;
  };
  const line = new Line(port, take, (error) => {
    controller.error(error);
    goOn();
  });
  return new WritableStream({
    start(given) {
      controller = given;
      // An abort waits for the write. Without this, it would wait for the peer.
      controller.signal.addEventListener('abort', goOn);
    },
    async write(chunk) {
      if (!isAsked) {
        line.setRef(true);
        await new Promise((resolve) => { resume = resolve; });
        line.setRef(false);
      }
      if (!isAsked) throw controller.signal.reason;
      isAsked = false;
      line.post('chunk', chunk);
    },
    close() {
      line.post('close');
      line.end();
    },
    abort(reason) {
      line.post('error', reason);
      line.end();
    },
  });
}

module.exports = { READABLE, TRANSFORM, WRITABLE, isLocked, kindOf, partsOf, pump, receive };
