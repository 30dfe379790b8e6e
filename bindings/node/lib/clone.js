'use strict';
// What a JavaScript value is on the wire.
//
//   text     a string, posted as text
//   bytes    a `Uint8Array`, posted as bytes that do not begin with the mark
//   clone    the mark, `CLONE`, and a serialization of V8
//   spilled  the mark and `SPILLED`: the first buffer of the message is a clone without its mark
//
// In a serialization, a host object is `PORT` or `DESCRIPTOR` and an index into the ports or
// descriptors of the message. A transferred `ArrayBuffer` has the index of its buffer.
// What arrives was written by the peer, and is input.

const v8 = require('node:v8');
const { dataCloneError } = require('./events.js');

const MARK = Buffer.from([0x89, 0x6d, 0x70, 0x6a, 0x73, 0x0d, 0x0a]);
const HEADER_LENGTH = 8;
const CLONE = 1;
const SPILLED = 2;
const PORT = 0;
const DESCRIPTOR = 1;
/** The oldest format of V8 whose values are accepted: that of Node.js 10 and later. */
const OLDEST_VERSION = 13;
const HEADER = Buffer.concat([MARK, Buffer.from([CLONE])]);
const SPILLED_HEADER = Buffer.concat([MARK, Buffer.from([SPILLED])]);

class CloneSerializer extends v8.Serializer {
  #transferred;
  #transferable;

  constructor(transferred, transferable) {
    super();
    this.#transferred = transferred;
    this.#transferable = transferable;
  }

  _writeHostObject(object) {
    const place = this.#transferred.get(object);
    if (place === undefined) {
      throw dataCloneError(this.#transferable(object) ?
        'Object that needs transfer was found in message but not listed in transferList' :
        'Cannot transfer object of unsupported type.');
    }
    this.writeUint32(place.kind);
    this.writeUint32(place.index);
  }
}

CloneSerializer.prototype._getDataCloneError = function DataCloneError(text) {
  return dataCloneError(text);
};

CloneSerializer.prototype._getSharedArrayBufferId = function refuse() {
  throw dataCloneError('SharedArrayBuffer object could not be cloned: its memory belongs to this ' +
    'process; use SharedBuffer.alloc and transfer its buffer');
};

/**
 * Serializes a value behind the header of a clone.
 *
 * @param {*} value
 * @param {Map} transferred host objects, each with its kind and index
 * @param {ArrayBuffer[]} buffers those that move as buffers, in their order
 * @param {function} transferable whether an object could have been in the transfer list
 * @returns {Buffer}
 */
function serialize(value, transferred, buffers, transferable) {
  const serializer = new CloneSerializer(transferred, transferable);
  serializer.writeRawBytes(HEADER);
  serializer.writeHeader();
  buffers.forEach((buffer, index) => serializer.transferArrayBuffer(index, buffer));
  serializer.writeValue(value);
  return serializer.releaseBuffer();
}

class CloneDeserializer extends v8.Deserializer {
  #hosts;

  constructor(bytes, hosts) {
    super(bytes);
    this.#hosts = hosts;
  }

  _readHostObject() {
    const kind = this.readUint32();
    const index = this.readUint32();
    const list = kind === PORT ? this.#hosts.ports : this.#hosts.descriptors;
    if (kind > DESCRIPTOR || index >= list.length) {
      throw dataCloneError('the message names a port or descriptor that it does not carry');
    }
    return list[index];
  }
}

/** Reads a serialization of V8. Throws for anything that is none. */
function deserialize(bytes, hosts) {
  if (bytes.length < 3 || bytes[0] !== 0xff || bytes[1] < OLDEST_VERSION) {
    throw dataCloneError('the message is no serialization that V8 writes');
  }
  const deserializer = new CloneDeserializer(bytes, hosts);
  deserializer.readHeader();
  hosts.buffers.forEach((buffer, index) => deserializer.transferArrayBuffer(index, buffer));
  return deserializer.readValue();
}

/** Whether bytes begin with the mark, so that a receiver would not take them for plain bytes. */
function isMarked(bytes) {
  if (bytes.length < HEADER_LENGTH) return false;
  for (let index = 0; index < MARK.length; index += 1) {
    if (bytes[index] !== MARK[index]) return false;
  }
  return true;
}

/**
 * Reads the content of a message that was posted as bytes. A clone is copied out of them, plain
 * bytes are returned as they are.
 */
function readBytes(bytes, hosts) {
  if (!isMarked(bytes)) return bytes;
  switch (bytes[HEADER_LENGTH - 1]) {
    case CLONE:
      return deserialize(bytes.subarray(HEADER_LENGTH), hosts);
    case SPILLED: {
      const [first, ...buffers] = hosts.buffers;
      if (first === undefined) throw dataCloneError('the message has lost its content');
      return deserialize(new Uint8Array(first), { ...hosts, buffers });
    }
    default:
      throw dataCloneError('the message has a form that this version does not know');
  }
}

module.exports = {
  DESCRIPTOR, HEADER_LENGTH, PORT, SPILLED_HEADER, isMarked, readBytes, serialize,
};
