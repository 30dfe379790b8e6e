'use strict';
// `BroadcastChannel`: all programs of this user that joined a name.

const { inspect } = require('node:util');
const native = require('./native.js');
const clone = require('./clone.js');
const valueCodec = require('./value.js');
const { isTransferable, loop, readMessage, takers, watched } = require('./port.js');
const { Values } = require('./values.js');
const {
  NodeEventTarget, codedError, createHostTarget, dataCloneError, defineHandler, kCreateEvent,
  kDispatch, messageEvent,
} = require('./events.js');

/** What the native part calls the end; a channel has none but its own. */
const members = new WeakMap();

/** Bytes of a message at most; a member's queue takes 4 MiB. */
const LONGEST = (2 << 20) - 64;

function memberOf(channel) {
  const member = members.get(channel);
  if (member === undefined) {
    throw codedError(TypeError, 'ERR_INVALID_THIS',
      'Value of "this" must be of type BroadcastChannel');
  }
  return member;
}

class BroadcastChannel extends NodeEventTarget {
  /** Joins the channel of that name. Keeps the process alive until it is closed. */
  constructor(name) {
    if (arguments.length === 0) {
      throw codedError(TypeError, 'ERR_MISSING_ARGS', 'The "name" argument must be specified');
    }
    const channel = createHostTarget(new.target.prototype);
    const member = { name: `${name}`, handle: undefined, isReferenced: true };
    member.handle = native.join(loop, encodeName(member.name), channel);
    members.set(channel, member);
    watched.add(channel);
    takers.set(channel, (kind, content) => {
      const { type, value } = readMessage(kind, content);
      channel[kDispatch](value, type, undefined);
    });
    return channel;
  }

  /** The name. */
  get name() {
    return memberOf(this).name;
  }

  /** Posts a value to every other member. Nothing moves with it. */
  postMessage(value) {
    const member = memberOf(this);
    if (arguments.length === 0) {
      throw codedError(TypeError, 'ERR_MISSING_ARGS', 'The "message" argument must be specified');
    }
    if (member.handle === undefined) {
      throw new DOMException('BroadcastChannel is closed.', 'InvalidStateError');
    }
    const missed = post(member.handle, value);
    if (missed > 0) {
      process.emitWarning(`${missed} members of the broadcast channel ${member.name} have missed ` +
        'a message, as their queues are full');
    }
  }

  /** Leaves the channel; does nothing the second time. */
  close() {
    const member = memberOf(this);
    if (member.handle === undefined) return;
    native.leave(member.handle);
    member.handle = undefined;
    watched.delete(this);
    setImmediate(() => this[kDispatch](undefined, 'close', undefined));
  }

  /** Lets the channel keep the process alive. */
  ref() {
    setRef(memberOf(this), true);
    return this;
  }

  /** Lets the process end although the channel is open. */
  unref() {
    setRef(memberOf(this), false);
    return this;
  }

  [kCreateEvent](data, type) {
    return type === 'close' ? new Event(type) : messageEvent(type, data);
  }

  /** The values that arrive, until the channel is closed here. */
  [Symbol.asyncIterator]() {
    return new Values(this, () => {});
  }

  [inspect.custom](depth, options) {
    const member = memberOf(this);
    if (depth < 0) return 'BroadcastChannel';
    const shown = { name: member.name, active: member.handle !== undefined };
    return `BroadcastChannel ${inspect(shown, {
      ...options, depth: options.depth === null ? null : options.depth - 1,
    })}`;
  }

  get [Symbol.toStringTag]() {
    return 'BroadcastChannel';
  }
}

defineHandler(BroadcastChannel.prototype, 'message');
defineHandler(BroadcastChannel.prototype, 'messageerror');

function setRef(member, isReferenced) {
  member.isReferenced = isReferenced;
  if (member.handle !== undefined) native.setMemberRef(member.handle, isReferenced);
}

function post(handle, value) {
  if (typeof value === 'string' && value.isWellFormed() && value.length * 3 <= LONGEST) {
    return native.broadcastText(handle, value);
  }
  if (value instanceof Uint8Array && value.buffer instanceof ArrayBuffer &&
      value.length <= LONGEST && !clone.isMarked(value)) {
    return native.broadcastBytes(handle, value);
  }
  const length = valueCodec.encode(value);
  if (length > 0) return native.broadcastValue(handle, valueCodec.room, length);
  const bytes = clone.serialize(value, new Map(), [], isTransferable);
  if (bytes.length > LONGEST) {
    throw dataCloneError(`a message of ${bytes.length} bytes is too long for a broadcast ` +
      `channel: expected at most ${LONGEST} bytes; send it through a port`);
  }
  return native.broadcastBytes(handle, bytes);
}

/**
 * The name for the file system. A name that is none there is written in another way, so that every
 * name of the web can be used; a plain one is the same for Rust programs.
 */
function encodeName(name) {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/.test(name)) return name;
  const { createHash } = require('node:crypto');
  return `name-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`;
}

/** Takes the next message of a member, as `receiveMessageOnPort` does for a port. */
function receiveBroadcast(channel) {
  const { handle } = memberOf(channel);
  const received = handle === undefined ? undefined : native.receiveBroadcast(handle);
  if (received === undefined) return undefined;
  const { type, value } = readMessage(...received);
  if (type === 'messageerror') throw value;
  return { message: value };
}

module.exports = { BroadcastChannel, isMember: (value) => members.has(value), receiveBroadcast };
