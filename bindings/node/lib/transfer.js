'use strict';
// Transfer lists, checked as the HTML standard says, and what moves.

const fs = require('node:fs');
const { inspect } = require('node:util');
const workerThreads = require('node:worker_threads');
const native = require('./native.js');
const clone = require('./clone.js');
const streams = require('./streams.js');
const { codedError, createHostObject, dataCloneError } = require('./events.js');

const { isMarkedAsUntransferable } = workerThreads;

/** Node's own, also where a program puts another one in its place. */
const { structuredClone } = globalThis;

/** Bytes from which on a buffer that moves gets memory of its own. The message has shorter ones. */
const SHORT = 64 << 10;
/** What one message carries at most; a port has three descriptors. */
const MOST_TRANSFERABLES = 64;
const MOST_DESCRIPTORS = 253;

/** `ArrayBuffer`s over memory that moves without a copy, each with its handle. */
const shared = new WeakMap();
/** `ArrayBuffer`s that came as memory of their own. Node.js marks such memory as untransferable. */
const arrived = new WeakSet();

/** Memory that moves to another process without a copy. */
const SharedBuffer = Object.freeze({
  /**
   * Makes an `ArrayBuffer` of `length` zero bytes. It is detached when it moves.
   *
   * @param {number} length
   * @returns {ArrayBuffer}
   */
  alloc(length) {
    if (!Number.isSafeInteger(length) || length < 0) {
      throw codedError(RangeError, 'ERR_OUT_OF_RANGE',
        'The "length" argument must be an integer of bytes, at least 0. ' +
        `Received ${inspect(length)}`);
    }
    const [handle, buffer] = native.allocShared(length);
    shared.set(buffer, handle);
    return buffer;
  },
  /** Whether the memory of an `ArrayBuffer` moves without a copy. */
  isShared(buffer) {
    return shared.has(buffer) && buffer.byteLength > 0;
  },
});

/** The open descriptors, each with its number. */
const descriptors = new WeakMap();

const unclaimed = new FinalizationRegistry((fd) => {
  try {
    fs.closeSync(fd);
  } catch {
    // The program has closed it by its number.
  }
});

/** An open file descriptor that can be in a transfer list. */
class FileDescriptor {
  /** Takes over a descriptor, by its number. */
  constructor(fd) {
    if (!Number.isSafeInteger(fd) || fd < 0) {
      throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
        `${inspect(fd)} is no file descriptor: expected its number, as fs.openSync returns it`);
    }
    const object = createHostObject(new.target.prototype);
    descriptors.set(object, fd);
    unclaimed.register(object, fd, object);
    return object;
  }

  /** The number, or -1 once it is closed or has moved. */
  get fd() {
    return descriptors.get(this) ?? -1;
  }

  /** Closes it; does nothing the second time. */
  close() {
    const { fd } = this;
    if (fd < 0) return;
    descriptors.set(this, -1);
    unclaimed.unregister(this);
    fs.closeSync(fd);
  }

  get [Symbol.toStringTag]() {
    return 'FileDescriptor';
  }
}

/**
 * Reads the second argument of `postMessage`.
 *
 * @returns {Array} the transfer list
 */
function listOf(options) {
  if (options === undefined || options === null) return [];
  const complaint = (name) => codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
    `Optional ${name} argument must be an iterable`);
  if (typeof options !== 'object' && typeof options !== 'function') {
    throw complaint('transferList');
  }
  if (typeof options[Symbol.iterator] === 'function') {
    return itemsOf(options, complaint('transferList'));
  }
  const { transfer } = options;
  if (transfer === undefined) return [];
  if (transfer === null || typeof transfer[Symbol.iterator] !== 'function') {
    throw complaint('options.transfer');
  }
  return itemsOf(transfer, complaint('options.transfer'));
}

function itemsOf(iterable, complaint) {
  if (Array.isArray(iterable)) return Array.from(iterable);
  const iterator = iterable[Symbol.iterator]();
  if (typeof iterator?.next !== 'function') throw complaint;
  return Array.from({ [Symbol.iterator]: () => iterator });
}

/** What moves with one message. */
class Transfer {
  /** Host objects, each with its kind and index in the message. */
  places = new Map();
  ports = [];
  files = [];
  /** All `ArrayBuffer`s of the list. */
  buffers = [];
  /** Readable and writable streams: two of a `TransformStream`. Each has a port, behind `ports`. */
  streamParts = [];

  /**
   * Checks a list before anything is serialized.
   *
   * @param {Array} list
   * @param {function} isPort whether an object is a port of this package
   * @param {object} source the port that posts
   */
  constructor(list, isPort, source) {
    const seen = new Set();
    for (const item of list) {
      if (seen.has(item)) {
        const name = item instanceof ArrayBuffer ? 'ArrayBuffer' : item?.constructor?.name;
        throw dataCloneError(`Transfer list contains duplicate ${name}`);
      }
      seen.add(item);
      this.#add(item, isPort, source);
    }
    if (this.streamParts.length > 0) this.#placeStreams(list);
    const portCount = this.ports.length + this.streamParts.length;
    const count = portCount + this.buffers.length + this.files.length;
    const descriptorCount = count + 2 * portCount;
    // One more is for a content that is too long for the ring.
    if (count >= MOST_TRANSFERABLES || descriptorCount >= MOST_DESCRIPTORS) {
      throw dataCloneError(`Transfer list of ${count} objects is too long: expected less than ` +
        `${MOST_TRANSFERABLES}, with less than ${MOST_DESCRIPTORS} descriptors, three for a port`);
    }
  }

  #add(item, isPort, source) {
    if (isPort(item)) {
      if (isMarked(item)) return;
      if (item === source) throw dataCloneError('Transfer list contains source port');
      this.places.set(item, { kind: clone.PORT, index: this.ports.length });
      this.ports.push(item);
    } else if (item instanceof FileDescriptor) {
      this.places.set(item, { kind: clone.DESCRIPTOR, index: this.files.length });
      this.files.push(item);
    } else if (item instanceof ArrayBuffer) {
      if (isMarkedAsUntransferable?.(item) && !isOurs(item)) throw marked(item);
      this.buffers.push(item);
    } else if (streams.kindOf(item) !== undefined) {
      this.streamParts.push(...streams.partsOf(item));
    } else {
      throw dataCloneError(`Found invalid object in transferList: ${complaintOf(item)}`);
    }
  }

  /** Gives each stream its kind and the index of its first port. */
  #placeStreams(list) {
    this.#checkStreams();
    if (new Set(this.streamParts).size < this.streamParts.length) {
      throw dataCloneError('Transfer list contains a TransformStream and a stream of it');
    }
    let index = this.ports.length;
    for (const item of list) {
      const kind = streams.kindOf(item);
      if (kind !== undefined) {
        this.places.set(item, { kind, index });
        index += streams.partsOf(item).length;
      }
    }
  }

  #checkStreams() {
    const locked = this.streamParts.find(streams.isLocked);
    if (locked !== undefined) {
      throw dataCloneError(`A locked ${streams.kindOf(locked) === streams.READABLE ?
        'ReadableStream' : 'WritableStream'} could not be cloned.`);
    }
  }

  get isEmpty() {
    return this.ports.length + this.buffers.length + this.files.length +
      this.streamParts.length === 0;
  }

  /** Checks what the serialization may have changed: afterwards nothing can fail. */
  checkOpen(isOpen) {
    this.#checkStreams();
    if (!this.ports.every(isOpen)) {
      throw dataCloneError('MessagePort in transfer list is already detached');
    }
    if (this.files.some((file) => file.fd < 0)) {
      throw dataCloneError('FileDescriptor in transfer list is already closed');
    }
    const unknown = this.files.find((file) => !isOpenFile(file.fd));
    if (unknown !== undefined) {
      throw dataCloneError(`FileDescriptor in transfer list has the number ${unknown.fd}, which ` +
        'is not open: the program has closed it by its number');
    }
    if (this.buffers.some(isDetached)) {
      throw dataCloneError('An ArrayBuffer is detached and could not be cloned.');
    }
  }

  /** The buffers that move with a clone as memory of their own. The clone holds the others. */
  get long() {
    return this.buffers.filter((buffer) => shared.has(buffer) || buffer.byteLength >= SHORT);
  }

  /** Detaches all buffers; returns the handles of those that move, in their order. */
  detachBuffers(moving) {
    const handles = moving.map((buffer) => (
      shared.get(buffer) ?? native.copyShared(new Uint8Array(buffer))
    ));
    for (const buffer of this.buffers) {
      if (isOurs(buffer)) {
        native.detach(buffer);
      } else {
        // Unlike the native call, this leaves what Node.js marks as untransferable, such as the
        // pool behind short Buffers.
        structuredClone(null, { transfer: [buffer] });
      }
    }
    return handles;
  }

  /** The numbers of the descriptors; `closeFiles` closes them here after the post. */
  get numbers() {
    return this.files.map((file) => file.fd);
  }

  closeFiles() {
    this.files.forEach((file) => file.close());
  }
}

function isOpenFile(fd) {
  try {
    fs.fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

/** What is wrong with an object in a transfer list, and what to do. */
function complaintOf(item) {
  if (item instanceof workerThreads.MessagePort) {
    return 'a MessagePort of node:worker_threads does not leave its process; make it by ' +
      'MessageChannel of messageport';
  }
  if (ArrayBuffer.isView(item)) return `a ${item.constructor.name}; list its buffer`;
  if (item instanceof SharedArrayBuffer) {
    return 'a SharedArrayBuffer does not leave its process; use SharedBuffer.alloc';
  }
  const shown = inspect(item, { depth: -1 });
  return `${shown}; expected ports, ArrayBuffers, FileDescriptors and streams`;
}

function marked(object) {
  return dataCloneError(`The transfer list has a ${object.constructor.name} that is marked as ` +
    'untransferable');
}

/**
 * Whether a port is marked as untransferable. Node.js 20 leaves such objects out of a list, and the
 * call to it fails for the others, as they are no ports of Node.js; from 21 on it is an error.
 */
function isMarked(port) {
  if (isMarkedAsUntransferable !== undefined) {
    if (isMarkedAsUntransferable(port)) throw marked(port);
    return false;
  }
  try {
    structuredClone(null, { transfer: [port] });
    return true;
  } catch {
    return false;
  }
}

function isOurs(buffer) {
  return shared.has(buffer) || arrived.has(buffer);
}

function isDetached(buffer) {
  if (buffer.byteLength > 0) return false;
  if (typeof buffer.detached === 'boolean') return buffer.detached;
  try {
    // eslint-disable-next-line no-new
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

module.exports = { FileDescriptor, SharedBuffer, Transfer, arrived, listOf };
