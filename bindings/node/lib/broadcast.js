'use strict';
// `BroadcastChannel`: all programs of this user that joined a name.

const { inspect } = require('node:util');
const native = require('./native.js');
const clone = require('./clone.js');
const valueCodec = require('./value.js');
const { isBytes, isText, isTransferable, loop, readMessage, takers, watched } = require('./port.js');
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
    const member = {
      name: `${name}`, handle: undefined, isClosed: false, isReferenced: true, waiting: [],
    };
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
    if (member.isClosed) {
      throw new DOMException('BroadcastChannel is closed.', 'InvalidStateError');
    }
    post(member, value);
  }

  /** Leaves the channel; does nothing the second time. */
  close() {
    const member = memberOf(this);
    if (member.isClosed) return;
    member.isClosed = true;
    takers.delete(this);
    watched.delete(this);
    // What was posted before is still sent.
    if (member.waiting.length === 0) leave(member);
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
    return new Values(this, { isOver: memberOf(this).isClosed, setStarted() {} });
  }

  [inspect.custom](depth, options) {
    const member = memberOf(this);
    if (depth < 0) return 'BroadcastChannel';
    const shown = { name: member.name, active: !member.isClosed };
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

function leave(member) {
  native.leave(member.handle);
  member.handle = undefined;
}

function setRef(member, isReferenced) {
  member.isReferenced = isReferenced;
  updateRef(member);
}

/** Messages whose Blobs are being read keep the process alive as well. */
function updateRef(member) {
  if (member.handle === undefined) return;
  const stays = (member.isReferenced && !member.isClosed) || member.waiting.length > 0;
  native.setMemberRef(member.handle, stays);
}

function post(member, value) {
  const message = messageOf(value);
  const { blobs } = message;
  if (member.waiting.length === 0 && blobs === undefined) {
    send(member, message);
    return;
  }
  const waiting = blobs === undefined ? owned(message) : message;
  member.waiting.push(waiting);
  updateRef(member);
  if (blobs === undefined) return;
  clone.withBlobs(message.content, blobs).then((content) => {
    waiting.content = content;
    waiting.blobs = undefined;
    sendWaiting(member);
  });
}

function send(member, { call, content, rest }) {
  const missed = call(member.handle, content, ...rest);
  if (missed > 0) {
    process.emitWarning(`${missed} members of the broadcast channel ${member.name} have missed ` +
      'a message, as their queues are full');
  }
}

/** A message that waits has memory of its own: the program writes to that of a view. */
function owned(message) {
  const { content, rest: [length] } = message;
  if (typeof content === 'string') return message;
  return { ...message, content: Buffer.from(content.subarray(0, length)) };
}

/** Sends what waits, up to a message whose Blobs are still being read. */
function sendWaiting(member) {
  const { waiting } = member;
  while (waiting.length > 0 && waiting[0].blobs === undefined) {
    try {
      send(member, waiting.shift());
    } catch (error) {
      process.emitWarning(`a message of the broadcast channel ${member.name} is lost: ${error}`);
    }
  }
  if (member.isClosed && waiting.length === 0) leave(member);
  else updateRef(member);
}

/** What is posted: the content, the call that posts it with further arguments, and its Blobs. */
function messageOf(value) {
  if (isText(value, LONGEST)) {
    return { call: native.broadcastText, content: value, rest: [] };
  }
  if (isBytes(value, LONGEST)) {
    return { call: native.broadcastBytes, content: value, rest: [] };
  }
  const length = valueCodec.encode(value, LONGEST);
  if (length > 0) {
    return { call: native.broadcastValue, content: valueCodec.room, rest: [length] };
  }
  const { content, blobs } =
    clone.serialize(value, new Map(), [], isTransferable, valueCodec.takeGotten());
  const longest = blobs.length === 0 ? content.length : clone.lengthWithBlobs(content, blobs);
  if (longest > LONGEST) {
    throw dataCloneError(`a message of ${longest} bytes is too long for a broadcast ` +
      `channel: expected at most ${LONGEST} bytes; send it through a port`);
  }
  const call = native.broadcastBytes;
  return { call, content, rest: [], blobs: blobs.length === 0 ? undefined : blobs };
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
  const { handle, isClosed } = memberOf(channel);
  const received = isClosed ? undefined : native.receiveBroadcast(handle);
  if (received === undefined) return undefined;
  const { type, value } = readMessage(...received);
  if (type === 'messageerror') throw value;
  return { message: value };
}

module.exports = { BroadcastChannel, isMember: (value) => members.has(value), receiveBroadcast };
