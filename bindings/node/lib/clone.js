'use strict';
// What a JavaScript value is on the wire.
//
//   text     a string, posted as text
//   bytes    a `Uint8Array`, posted as bytes that do not begin with the mark
//   clone    the mark, `CLONE`, and a serialization of V8
//   spilled  the mark and `SPILLED`: the first buffer of the message is a clone without its mark
//   blobs    the mark, `BLOBS`, the length of a serialization in four bytes, little end first, the
//            serialization, and the bytes of its Blobs, one after the other
//   spilled blobs  the mark and `SPILLED_BLOBS`, with the rest in the first buffer
//   failed   the mark, `FAILED`, and why a Blob could not be read, in UTF-8
//
// In a serialization, a host object is `PORT` or `DESCRIPTOR` and an index into the ports or
// descriptors of the message, or `BLOB` or `FILE` and what `blobs.js` writes, or a kind of
// `streams.js` and the index of its port, or of the first of its two ports. A transferred
// `ArrayBuffer` has the index of its buffer.
// What arrives was written by the peer, and is input.

const v8 = require('node:v8');
const blobs = require('./blobs.js');
const streams = require('./streams.js');
const { dataCloneError } = require('./events.js');

const MARK = Buffer.from([0x89, 0x6d, 0x70, 0x6a, 0x73, 0x0d, 0x0a]);
const HEADER_LENGTH = 8;
const CLONE = 1;
const SPILLED = 2;
const BLOBS = 3;
const SPILLED_BLOBS = 4;
const FAILED = 5;
const PORT = 0;
const DESCRIPTOR = 1;
const BLOB = 2;
const FILE = 3;
/** The oldest format of V8 whose values are accepted: that of Node.js 10 and later. */
const OLDEST_VERSION = 13;
const [HEADER, SPILLED_HEADER, BLOBS_HEADER, SPILLED_BLOBS_HEADER, FAILED_HEADER] =
  [CLONE, SPILLED, BLOBS, SPILLED_BLOBS, FAILED]
    .map((kind) => Buffer.concat([MARK, Buffer.from([kind])]));
/** Bytes in front of a serialization that has Blobs. */
const LENGTH = 4;

class CloneSerializer extends v8.Serializer {
  /** Those that were written, in their order. */
  blobs = [];
  #transferred;
  #transferable;

  constructor(transferred, transferable) {
    super();
    this.#transferred = transferred;
    this.#transferable = transferable;
  }

  _writeHostObject(given) {
    const object = blobs.originalOf(given);
    const place = this.#transferred.get(object);
    if (place === undefined && this.#writeBlob(object)) return;
    if (place === undefined) {
      throw dataCloneError(this.#transferable(object) ?
        'Object that needs transfer was found in message but not listed in transferList' :
        'Cannot transfer object of unsupported type.');
    }
    this.writeUint32(place.kind);
    this.writeUint32(place.index);
  }

  #writeBlob(object) {
    if (!blobs.isBlob(object)) return false;
    this.writeUint32(blobs.isFile(object) ? FILE : BLOB);
    blobs.write(this, object);
    this.blobs.push(object);
    return true;
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
 * @param {Map} [gotten] what getters of the value have returned already
 * @returns {{content: Buffer, blobs: Blob[]}} without the bytes of the Blobs
 */
function serialize(value, transferred, buffers, transferable, gotten) {
  const serializer = new CloneSerializer(transferred, transferable);
  serializer.writeRawBytes(HEADER);
  serializer.writeHeader();
  buffers.forEach((buffer, index) => serializer.transferArrayBuffer(index, buffer));
  serializer.writeValue(blobs.prepare(value, (object) => (
    transferred.has(object) || transferable(object)), gotten));
  return { content: serializer.releaseBuffer(), blobs: serializer.blobs };
}

/** The length of a message whose Blobs have not been read yet. */
function lengthWithBlobs(content, list) {
  return list.reduce((length, blob) => length + blobs.size(blob), LENGTH + content.length);
}

/**
 * Reads the Blobs of a serialization, and puts it together with their bytes. If one of them cannot
 * be read, the message says so.
 *
 * @param {Buffer} content what `serialize` has returned
 * @param {Blob[]} list
 * @returns {Promise<Buffer>}
 */
async function withBlobs(content, list) {
  try {
    const serialization = content.subarray(HEADER_LENGTH);
    const length = Buffer.alloc(LENGTH);
    length.writeUInt32LE(serialization.length);
    const contents = await blobs.contentsOf(list);
    return Buffer.concat([BLOBS_HEADER, length, serialization, ...contents]);
  } catch (error) {
    return failed(error);
  }
}

/** The message in place of one that could not be put together. */
function failed(error) {
  return Buffer.concat([FAILED_HEADER, Buffer.from(`${error?.message}`)]);
}

class CloneDeserializer extends v8.Deserializer {
  #hosts;
  /** The bytes of the Blobs that are still to be read. */
  #contents;

  constructor(bytes, hosts, contents) {
    super(bytes);
    this.#hosts = hosts;
    this.#contents = contents;
  }

  /** The next bytes of the contents. */
  #take(length) {
    if (length > this.#contents.length) {
      throw dataCloneError('the message claims more bytes of a Blob than it has');
    }
    const bytes = this.#contents.subarray(0, length);
    this.#contents = this.#contents.subarray(length);
    return bytes;
  }

  #readStream(kind, index) {
    const { ports, streamPorts } = this.#hosts;
    const own = ports.slice(index, index + (kind === streams.TRANSFORM ? 2 : 1));
    if (own.length === 0 || (kind === streams.TRANSFORM && own.length < 2)) {
      throw dataCloneError('the message names a port of a stream that it does not carry');
    }
    if (own.some((port) => streamPorts.has(port))) {
      throw dataCloneError('the message names a port of a stream twice');
    }
    own.forEach((port) => streamPorts.add(port));
    return streams.receive(kind, own);
  }

  _readHostObject() {
    const kind = this.readUint32();
    if (kind === BLOB || kind === FILE) {
      return blobs.read(this, kind === FILE, (length) => this.#take(length));
    }
    const index = this.readUint32();
    if (kind >= streams.READABLE && kind <= streams.TRANSFORM) return this.#readStream(kind, index);
    const list = kind === PORT ? this.#hosts.ports : this.#hosts.descriptors;
    if (kind > DESCRIPTOR || index >= list.length) {
      throw dataCloneError('the message names a port or descriptor that it does not carry');
    }
    if (this.#hosts.streamPorts.has(list[index])) {
      throw dataCloneError('the message names a port of a stream twice');
    }
    return list[index];
  }
}

const NO_BYTES = new Uint8Array(0);

/** Reads a serialization of V8. Throws for anything that is none. */
function deserialize(bytes, hosts, contents = NO_BYTES) {
  if (bytes.length < 3 || bytes[0] !== 0xff || bytes[1] < OLDEST_VERSION) {
    throw dataCloneError('the message is no serialization that V8 writes');
  }
  const deserializer = new CloneDeserializer(bytes, hosts, contents);
  deserializer.readHeader();
  hosts.buffers.forEach((buffer, index) => deserializer.transferArrayBuffer(index, buffer));
  return deserializer.readValue();
}

/** Reads a serialization with the bytes of its Blobs behind it. */
function deserializeWithBlobs(bytes, hosts) {
  const rest = bytes.length - LENGTH;
  const length = rest < 0 ? Infinity :
    new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (length > rest) throw dataCloneError('the message ends early');
  const end = LENGTH + length;
  return deserialize(bytes.subarray(LENGTH, end), hosts, bytes.subarray(end));
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
  const kind = bytes[HEADER_LENGTH - 1];
  switch (kind) {
    case CLONE:
      return deserialize(bytes.subarray(HEADER_LENGTH), hosts);
    case BLOBS:
      return deserializeWithBlobs(bytes.subarray(HEADER_LENGTH), hosts);
    case SPILLED:
    case SPILLED_BLOBS: {
      const [first, ...buffers] = hosts.buffers;
      if (first === undefined) throw dataCloneError('the message has lost its content');
      const readAll = kind === SPILLED ? deserialize : deserializeWithBlobs;
      return readAll(new Uint8Array(first), { ...hosts, buffers });
    }
    case FAILED:
      throw dataCloneError('the sender could not read a Blob: ' +
        Buffer.from(bytes.subarray(HEADER_LENGTH)).toString());
    default:
      throw dataCloneError('the message has a form that this version does not know');
  }
}

module.exports = {
  DESCRIPTOR,
  HEADER_LENGTH,
  PORT,
  SPILLED_BLOBS_HEADER,
  SPILLED_HEADER,
  failed,
  isMarked,
  lengthWithBlobs,
  readBytes,
  serialize,
  withBlobs,
};
