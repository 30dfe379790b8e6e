'use strict';
// `MessagePort` and `MessageChannel`: what the native handles look like to a program.

const { inspect } = require('node:util');
const workerThreads = require('node:worker_threads');
const native = require('./native.js');
const clone = require('./clone.js');
const streams = require('./streams.js');
const valueCodec = require('./value.js');
const { FileDescriptor, Transfer, arrived, listOf } = require('./transfer.js');
const { Values } = require('./values.js');
const {
  NOTHING, NodeEventTarget, codedError, createHostTarget, dataCloneError, defineHandler,
  kCreateEvent, kDispatch, kNewListener, knownPorts, kRemoveListener, kSetRef, limitOf,
  messageEvent,
} = require('./events.js');

// What the native part calls an event, and what became of a post.
const BYTES = 0;
const TEXT = 1;
const UNREADABLE = 2;
const CLOSE = 3;
const VALUE = 4;
const SCRATCH_BYTES = 5;
const SCRATCH_VALUE = 6;
const KEPT = 1;
const LATER = 2;
const LOOP = 4;

/** Milliseconds until a post is tried again that waits for something that is not reported. */
const RETRY = 5;

/** Messages that `deliverAll` delivers at most. */
const MOST_AT_ONCE = 1 << 20;

/** Ports that the loop watches: they live until they are closed or move away. */
const watched = new Set();
/** The state of each port. */
const states = new WeakMap();

/** Has the native part call `take` of the state of each target. */
const loop = native.init(function dispatch(kind, content, attached) {
  takers.get(this)?.(kind, content, attached);
}, valueCodec.room.buffer);
/** What takes the events of each target that is watched. */
const takers = new WeakMap();

class PortState {
  port;
  handle;
  isDetached = false;
  /** Closed here: what has arrived before is still delivered. */
  isDraining = false;
  isStarted = false;
  isReferenced = false;
  isWatched = false;
  isRetrying = false;
  /** The longest message, in bytes. */
  longest = 0;
  /** What came with the message that is being delivered, for its event. */
  arriving = NOTHING;

  constructor(port, handle) {
    this.port = port;
    this.handle = handle;
    this.longest = native.longest(handle);
  }

  watch() {
    if (this.isWatched || this.isDetached) return;
    this.isWatched = true;
    watched.add(this);
    takers.set(this.port, (kind, content, attached) => this.take(kind, content, attached));
    native.watch(loop, this.handle, this.port);
  }

  /** `staysForOutbox`: whether messages that wait for room keep the process alive, too. */
  setRef(isReferenced, staysForOutbox = true) {
    this.isReferenced = isReferenced;
    if (!this.isDetached) native.setRef(this.handle, isReferenced, staysForOutbox);
  }

  setStarted(isStarted) {
    if (this.isDetached) return;
    if (isStarted) this.watch();
    this.isStarted = isStarted;
    native.setStarted(this.handle, isStarted);
  }

  /** Takes an event of the native part. */
  take(kind, content, attached) {
    if (kind === CLOSE) {
      this.end();
      return;
    }
    const message = readMessage(kind, content, attached);
    this.arriving = message.hosts;
    try {
      this.port[kDispatch](message.value, message.type, undefined);
    } finally {
      this.arriving = NOTHING;
    }
  }

  /** The program closes the port. */
  close() {
    if (this.isDetached) return;
    if (this.isStarted) {
      this.isDetached = true;
      this.isDraining = true;
      native.close(this.handle, true);
    } else {
      this.end();
    }
  }

  /** The conversation has ended, at either side. */
  end() {
    if (this.isDetached && !this.isDraining) return;
    this.isDraining = false;
    native.close(this.handle, false);
    this.detach();
  }

  /** The port is of no use any more: it is closed or has moved away. */
  detach() {
    this.isDetached = true;
    watched.delete(this);
    setImmediate(() => this.port[kDispatch](undefined, 'close', undefined));
  }

  /** Does what a post has left to do. */
  posted(outcome) {
    if (outcome === LOOP) {
      process.emitWarning('The target port was posted to itself, and the communication channel ' +
        'was lost');
      this.end();
    }
    if (outcome === KEPT || outcome === LATER) this.watch();
    if (outcome === LATER && !this.isRetrying) {
      this.isRetrying = true;
      setTimeout(() => {
        this.isRetrying = false;
        this.posted(native.flush(this.handle));
      }, RETRY);
    }
  }
}

/** Turns what the native part has received into a value, and what came with it. */
function readMessage(kind, content, attached) {
  const hosts = attached === undefined ? NOTHING : readAttached(attached);
  try {
    if (kind === UNREADABLE) throw dataCloneError(content);
    const value = readContent(kind, content, hosts);
    return { type: 'message', value, hosts: withoutStreams(hosts) };
  } catch (error) {
    hosts.ports.forEach((port) => port.close());
    hosts.descriptors.forEach((descriptor) => descriptor.close());
    return { type: 'messageerror', value: error, hosts: NOTHING };
  }
}

/** What came with a message for the program, which has the streams in the value. */
function withoutStreams(hosts) {
  if (hosts === NOTHING || hosts.streamPorts.size === 0) return hosts;
  const ports = hosts.ports.filter((port) => !hosts.streamPorts.has(port));
  return { ...hosts, ports: Object.freeze(ports) };
}

/** Makes the objects of what came with a message. */
function readAttached([handles, buffers, numbers]) {
  buffers.forEach((buffer) => arrived.add(buffer));
  return {
    // Those of streams in the value, which is still to be read.
    streamPorts: new Set(),
    ports: Object.freeze(handles.map(createPort)),
    buffers: Object.freeze(buffers),
    descriptors: Object.freeze(numbers.map((fd) => new FileDescriptor(fd))),
  };
}

/** Reads the content before the next one is received, which uses the same scratch memory. */
function readContent(kind, content, hosts) {
  const { room } = valueCodec;
  switch (kind) {
    case TEXT: return content;
    case BYTES: return clone.readBytes(new Uint8Array(content), hosts);
    case SCRATCH_BYTES: return clone.readBytes(room.subarray(0, content), hosts);
    case SCRATCH_VALUE: return valueCodec.decode(room, content);
    case VALUE: return valueCodec.decode(Buffer.from(content), content.byteLength);
    default: throw dataCloneError('the message has a form that this version does not know');
  }
}

function stateOf(port) {
  const state = states.get(port);
  if (state === undefined) {
    throw codedError(TypeError, 'ERR_INVALID_THIS', 'Value of "this" must be of type MessagePort');
  }
  return state;
}

function isPort(value) {
  return states.has(value);
}

function isTransferable(value) {
  return isPort(value) || value instanceof FileDescriptor || streams.kindOf(value) !== undefined;
}

function isOpen(port) {
  return !states.get(port).isDetached;
}

/** Makes the port of a native handle. */
function createPort(handle) {
  const port = createHostTarget(MessagePort.prototype);
  states.set(port, new PortState(port, handle));
  knownPorts.add(port);
  native.setObject(loop, handle, port);
  return port;
}

/** Takes a port apart again: its handle, which then moves or is used elsewhere. */
function releasePort(port) {
  const state = stateOf(port);
  if (state.isDetached) throw dataCloneError('MessagePort is already detached');
  state.detach();
  return state.handle;
}

/** Whether a value crosses as text, which every language reads. */
function isText(value, longest) {
  return typeof value === 'string' && value.length * 3 <= longest && value.isWellFormed();
}

/** Whether a value crosses as bytes, which every language reads. */
function isBytes(value, longest) {
  return value instanceof Uint8Array && value.buffer instanceof ArrayBuffer &&
    value.length <= longest && valueCodec.isInBounds(value) && !clone.isMarked(value);
}

function post(state, value, options) {
  const list = listOf(options);
  const { handle, longest } = state;
  if (list.length === 0 && !state.isDetached) {
    if (isText(value, longest)) {
      state.posted(native.postText(handle, value));
      return;
    }
    if (isBytes(value, longest)) {
      state.posted(native.postBytes(handle, value));
      return;
    }
    if (postValue(state, value)) return;
    const transfer = new Transfer(list, isPort, state.port);
    postContent(state, transfer, cloneOf(value, transfer));
    return;
  }
  const transfer = new Transfer(list, isPort, state.port);
  postContent(state, transfer, contentOf(value, transfer, longest));
}

/** Posts a value as plain data, which every language reads, if it is that. */
function postValue(state, value) {
  const length = valueCodec.encode(value, state.longest);
  if (length === 0) return false;
  if (!state.isDetached) state.posted(native.postValue(state.handle, valueCodec.room, length));
  return true;
}

/**
 * What is posted: the content, the call that posts it, its further arguments, and the buffers that
 * move as memory of their own. A clone may have Blobs, whose bytes are still to be read.
 */
function contentOf(value, transfer, longest) {
  const { buffers } = transfer;
  if (isText(value, longest)) return { call: native.postText, content: value, long: buffers };
  if (isBytes(value, longest) && !buffers.includes(value.buffer)) {
    return { call: native.postBytes, content: value, long: buffers };
  }
  const length = valueCodec.encode(value, longest, buffers);
  if (length > 0) {
    const content = valueCodec.room;
    return { call: native.postValue, content, rest: [length], long: buffers };
  }
  return cloneOf(value, transfer);
}

/** The same for what is no plain data, as its encoder has found. */
function cloneOf(value, transfer) {
  const { long, places } = transfer;
  const { content, blobs } =
    clone.serialize(value, places, long, isTransferable, valueCodec.takeGotten());
  return { call: native.postBytes, content, blobs, isClone: true, long };
}

function postContent(state, transfer, posted) {
  const { call, content, rest = [], isClone = false, blobs = NO_BLOBS, long } = posted;
  transfer.checkOpen(isOpen);
  const isLost = state.isDetached;
  if (!isLost && !transfer.isEmpty && native.refusesTransfers(state.handle)) {
    throw dataCloneError('The other end refuses transfer lists, as the channel was built with ' +
      'refuse_transfers: post without a list');
  }
  const lines = transfer.streamParts.map(() => native.channel(0));
  // From here on nothing fails for a fault of the program.
  const moving = transfer.detachBuffers(long);
  const ports = transfer.ports.map(releasePort).concat(lines.map(([, handle]) => handle));
  lines.forEach(([handle], index) => {
    streams.pump(transfer.streamParts[index], createPort(handle));
  });
  if (isLost) {
    // By the standard, what moves is lost with a message to a port that is closed.
    ports.forEach((handle) => native.close(handle, false));
    transfer.closeFiles();
    return;
  }
  if (blobs.length > 0) {
    postBlobs(state, content, blobs, [...ports, ...moving], transfer);
    return;
  }
  const isSpilled = isClone && content.length > state.longest / 4;
  if (isSpilled) moving.unshift(native.copyShared(content.subarray(clone.HEADER_LENGTH)));
  const header = isSpilled ? clone.SPILLED_HEADER : content;
  try {
    state.posted(call(state.handle, header, ...rest, [...ports, ...moving], transfer.numbers));
  } finally {
    transfer.closeFiles();
  }
}

const NO_BLOBS = [];

/** Keeps the place of a message with Blobs, and posts it once they are read. */
function postBlobs(state, content, blobs, list, transfer) {
  const { handle } = state;
  let ticket;
  try {
    ticket = native.postLater(handle, list, transfer.numbers);
  } finally {
    transfer.closeFiles();
  }
  // The loop keeps the process alive until the message is posted.
  state.watch();
  clone.withBlobs(content, blobs).then((whole) => state.posted(complete(state, ticket, whole)));
}

/** Posts the message of a ticket: in memory of its own where it is too long for the ring. */
function complete({ handle, longest }, ticket, content) {
  if (content.length <= longest / 4) return native.complete(handle, ticket, content);
  let memory;
  try {
    memory = native.copyShared(content.subarray(clone.HEADER_LENGTH));
  } catch (error) {
    return native.complete(handle, ticket, clone.failed(error));
  }
  return native.complete(handle, ticket, clone.SPILLED_BLOBS_HEADER, memory);
}

function checkHasMessage(list) {
  if (list.length > 0) return;
  throw codedError(TypeError, 'ERR_MISSING_ARGS', 'The "message" argument must be specified');
}

/** A port is made by a channel, or arrives. */
function MessagePort() {
  throw codedError(TypeError, 'ERR_CONSTRUCT_CALL_INVALID', 'Illegal constructor');
}

class PortMethods extends NodeEventTarget {
  /**
   * Posts a value to the other end.
   *
   * @param {*} value
   * @param {Array|{transfer: Array}} [options] what moves with it
   */
  postMessage(value, options) {
    const state = stateOf(this);
    checkHasMessage(arguments);
    post(state, value, options);
  }

  /**
   * Posts plain data for a program in another language, however long it is.
   *
   * @param {*} value
   * @param {Array|{transfer: Array}} [options] what moves with it, and is not in the value
   */
  postValue(value, options) {
    const state = stateOf(this);
    checkHasMessage(arguments);
    const transfer = new Transfer(listOf(options), isPort, this);
    const content = valueCodec.encodeStrictly(value);
    postContent(state, transfer,
      { call: native.postValue, content, rest: [content.length], long: transfer.buffers });
  }

  /** Delivers messages as events from now on. */
  start() {
    stateOf(this).setStarted(true);
  }

  /** Ends the conversation. What was posted before still arrives at the other end. */
  close(callback) {
    const state = stateOf(this);
    if (typeof callback === 'function') this.once('close', callback);
    state.close();
  }

  /** Lets the port keep the process alive while it is started. */
  ref() {
    stateOf(this).setRef(true);
  }

  /** Lets the process end although the port is started. */
  unref() {
    stateOf(this).setRef(false, false);
  }

  /** Whether the port keeps the process alive while it is started. */
  hasRef() {
    const state = stateOf(this);
    return state.isReferenced && (!state.isDetached || state.isDraining);
  }

  [kSetRef](isReferenced) {
    stateOf(this).setRef(isReferenced);
  }

  [kNewListener](size, type, ...rest) {
    super[kNewListener](size, type, ...rest);
    const state = states.get(this);
    if (state === undefined) return;
    if (type === 'close') state.watch();
    if (type === 'message' && size === 1) {
      state.setRef(true);
      state.setStarted(true);
    }
  }

  [kRemoveListener](size, type, ...rest) {
    super[kRemoveListener](size, type, ...rest);
    const state = states.get(this);
    if (state === undefined || type !== 'message' || size !== 0) return;
    state.setRef(false);
    state.setStarted(false);
  }

  [kCreateEvent](data, type) {
    if (type === 'message' || type === 'messageerror') {
      return messageEvent(type, data, states.get(this).arriving);
    }
    return new Event(type);
  }

  /** The values that arrive, until the conversation ends. */
  [Symbol.asyncIterator]() {
    const state = stateOf(this);
    return new Values(this, {
      isOver: state.isDetached && !state.isDraining,
      setStarted: (isStarted) => state.setStarted(isStarted),
    });
  }

  [inspect.custom](depth, options) {
    const state = states.get(this);
    if (state === undefined) return 'MessagePort {}';
    const shown = { active: !state.isDetached || state.isDraining, refed: this.hasRef() };
    return `MessagePort [EventTarget] ${inspect(shown, { ...options, depth })}`;
  }

  get [Symbol.toStringTag]() {
    return 'MessagePort';
  }
}

// Unlike a class, Node's constructor can also be called.
Object.defineProperty(MessagePort, 'prototype', { value: PortMethods.prototype, writable: false });
Object.defineProperty(MessagePort.prototype, 'constructor', {
  configurable: true, writable: true, value: MessagePort,
});
Object.setPrototypeOf(MessagePort, NodeEventTarget);

defineHandler(MessagePort.prototype, 'message');
defineHandler(MessagePort.prototype, 'messageerror');
defineHandler(MessagePort.prototype, 'close');

/**
 * Two ports: what is posted at one arrives at the other.
 *
 * @param {{limit: number}} [options] bytes that may wait in each direction
 */
function MessageChannel(options) {
  if (new.target === undefined) {
    throw codedError(TypeError, 'ERR_CONSTRUCT_CALL_REQUIRED',
      'Class constructor MessageChannel cannot be invoked without `new`');
  }
  const [handle1, handle2] = native.channel(limitOf(options));
  define(this, 'port1', createPort(handle1));
  define(this, 'port2', createPort(handle2));
}

Object.defineProperty(MessageChannel.prototype, Symbol.toStringTag, {
  configurable: true, value: 'MessageChannel',
});

function define(object, name, value) {
  Object.defineProperty(object, name, { enumerable: true, configurable: true, value });
}

/**
 * Takes the next message of a port, if there is one, without an event.
 *
 * @returns {{message: *}|undefined}
 */
function receiveMessageOnPort(port) {
  const state = states.get(port);
  if (state === undefined) {
    if (port instanceof workerThreads.MessagePort) return workerThreads.receiveMessageOnPort(port);
    throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
      'The "port" argument must be a MessagePort instance');
  }
  if (state.isDetached) return undefined;
  const received = native.receiveNow(state.handle);
  if (received === undefined) return undefined;
  const { type, value } = readMessage(...received);
  if (type === 'messageerror') throw value;
  return { message: value };
}

/** Delivers at once what has arrived at a port. */
function deliverAll(port) {
  const state = stateOf(port);
  // What arrives meanwhile is delivered by the loop.
  for (let left = MOST_AT_ONCE; left > 0 && !state.isDetached; left -= 1) {
    const received = native.receiveNow(state.handle);
    if (received === undefined) return;
    state.take(...received);
  }
}

module.exports = {
  MessageChannel, MessagePort, createPort, deliverAll, isBytes, isText, isTransferable, loop,
  readMessage, receiveMessageOnPort, releasePort, takers, watched,
};
