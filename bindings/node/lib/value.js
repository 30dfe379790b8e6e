'use strict';
// Plain data in CBOR, as `docs/layout.md` describes it: what programs in other languages read.
//
// `encode` takes only what arrives at a JavaScript program exactly as a structured clone would.
// For everything else it returns 0, and the value crosses as a clone, or is an error there.

const { isDate, isMap, isProxy, isUint8Array } = require('node:util/types');
const { dataCloneError } = require('./events.js');

/** Memory for short values, which the native part uses for short contents as well. */
const ROOM = 64 << 10;
const room = Buffer.alloc(ROOM);
const roomView = new DataView(room.buffer, room.byteOffset, ROOM);

/** Levels of arrays and objects; the receiver allows 128. */
const MOST_LEVELS = 100;
/** Elements of an array up to which it is worth encoding here. V8 is faster at long ones. */
const MOST_ELEMENTS = 1000;
/** Objects up to which a plain search finds one that comes twice. */
const FEW = 16;
/** Items of the log that are kept for the next value. */
const MOST_LOG = 3 << 12;
/** Dates up to here are exact in seconds. */
const MOST_MILLISECONDS = 1e14;

// Major types, in the upper three bits.
const UNSIGNED = 0x00;
const NEGATIVE = 0x20;
const BYTES = 0x40;
const TEXT = 0x60;
const ARRAY = 0x80;
const MAP = 0xa0;
const TAG = 0xc0;
// Tags.
const DATE = 1;
const BIG_POSITIVE = 2;
const BIG_NEGATIVE = 3;
const MAP_OF_JAVASCRIPT = 259;

/** Thrown where a value cannot be encoded: in a strict encoding one that says why and where. */
class Unfit {
  keys = [];

  constructor(what) {
    this.what = what;
  }

  toString() {
    const place = this.keys.map((key) => (
      typeof key === 'string' && /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${String(key)}]`
    )).join('');
    return `value${place} is ${this.what}`;
  }
}

const UNFIT = new Unfit('no plain data');

let out = room;
let outView = roomView;
let at = 0;
let isEncoding = false;
/** Whether everything that other languages can read is encoded, also what a clone would keep. */
let isStrict = false;
let objects = [];
let manyObjects;
/** What was read: an object, a key and the value, again and again, up to `logged`. */
let log = [];
let logged = 0;
/** What getters returned to an encoding that was given up: for each object, its keys and values. */
let got;

function unfit(what) {
  return isStrict ? new Unfit(what) : UNFIT;
}

function begin(strict, taken) {
  isEncoding = true;
  isStrict = strict;
  out = room;
  outView = roomView;
  at = 0;
  if (taken.length > 0) taken.forEach(notTwice);
}

/** What was read by getters. */
function gotten() {
  const found = new Map();
  for (let index = 0; index < logged; index += 3) {
    const [object, key] = [log[index], log[index + 1]];
    const property = Object.getOwnPropertyDescriptor(object, key);
    // A getter may have removed itself.
    if (property === undefined || !('value' in property)) {
      if (!found.has(object)) found.set(object, new Map());
      found.get(object).set(`${key}`, log[index + 2]);
    }
  }
  return found.size === 0 ? undefined : found;
}

/** What getters returned to the last `encode`, if it has returned 0. */
function takeGotten() {
  const taken = got;
  got = undefined;
  return taken;
}

function finish() {
  isEncoding = false;
  isStrict = false;
  if (log.length > MOST_LOG) log = [];
  else log.fill(undefined, 0, logged);
  logged = 0;
  if (objects.length > 0) objects = [];
  manyObjects = undefined;
}

const NONE = [];

/**
 * Encodes a value into `room`, if it arrives as a clone of it would.
 *
 * @param {*} value
 * @param {number} longest its length at most
 * @param {Array} [taken] objects that the value must not contain, as they move
 * @returns {number} the length, or 0 if it does not fit or is no plain data: then `takeGotten` says
 *   what must not be read again
 */
function encode(value, longest, taken = NONE) {
  // A getter of a value that is being encoded posts as well.
  if (isEncoding) return 0;
  got = undefined;
  begin(false, taken);
  try {
    write(value, 0);
    if (at > longest) throw UNFIT;
    return at;
  } catch (error) {
    if (error !== UNFIT) throw error;
    got = gotten();
    return 0;
  } finally {
    finish();
  }
}

/**
 * Encodes a value of any length for other languages.
 *
 * @returns {Buffer}
 */
function encodeStrictly(value) {
  if (isEncoding) throw dataCloneError('a getter of a value that is posted posts one itself');
  begin(true, NONE);
  try {
    write(value, 0);
    return Buffer.from(out.subarray(0, at));
  } catch (error) {
    if (error instanceof Unfit) throw dataCloneError(`the value cannot be posted: ${error}`);
    throw error;
  } finally {
    finish();
  }
}

function need(length) {
  if (at + length <= out.length) return;
  if (!isStrict) throw UNFIT;
  const larger = Buffer.allocUnsafeSlow(Math.max(2 * out.length, at + length));
  larger.set(out.subarray(0, at));
  out = larger;
  outView = new DataView(larger.buffer, larger.byteOffset, larger.length);
}

function write(value, level) {
  need(9);
  switch (typeof value) {
    case 'string': writeText(value); break;
    case 'number': writeNumber(value); break;
    case 'boolean': out[at++] = value ? 0xf5 : 0xf4; break;
    case 'undefined': out[at++] = 0xf7; break;
    case 'bigint': writeBigInt(value); break;
    case 'object':
      if (value === null) out[at++] = 0xf6;
      else writeObject(value, level);
      break;
    default: throw unfit(`a ${typeof value}`);
  }
}

/** Writes what has a key or index, which the text of an error names. */
function writeAt(key, value, level) {
  try {
    write(value, level);
  } catch (error) {
    if (error instanceof Unfit && error !== UNFIT) error.keys.unshift(key);
    throw error;
  }
}

/** A major type with its number. */
function writeHead(major, number) {
  need(9);
  if (number < 24) {
    out[at++] = major | number;
  } else if (number < 0x100) {
    out[at++] = major | 24;
    out[at++] = number;
  } else if (number < 0x10000) {
    out[at++] = major | 25;
    out[at++] = number >>> 8;
    out[at++] = number;
  } else if (number < 0x100000000) {
    out[at++] = major | 26;
    outView.setUint32(at, number);
    at += 4;
  } else {
    out[at++] = major | 27;
    outView.setUint32(at, Math.floor(number / 0x100000000));
    outView.setUint32(at + 4, number % 0x100000000);
    at += 8;
  }
}

function writeNumber(value) {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
    if (value >= 0) writeHead(UNSIGNED, value);
    else writeHead(NEGATIVE, -1 - value);
    return;
  }
  need(9);
  out[at++] = 0xfb;
  outView.setFloat64(at, value);
  at += 8;
}

function writeBigInt(value) {
  const isNegative = value < 0n;
  let digits = (isNegative ? -1n - value : value).toString(16);
  if (digits.length % 2 === 1) digits = `0${digits}`;
  if (digits === '00') digits = '';
  writeHead(TAG, isNegative ? BIG_NEGATIVE : BIG_POSITIVE);
  writeHead(BYTES, digits.length / 2);
  need(digits.length / 2);
  at += out.write(digits, at, 'hex');
}

function writeText(text) {
  const { length } = text;
  if (length >= 24) {
    writeLongText(text);
    return;
  }
  // Most keys are short and ASCII.
  need(length + 1);
  const start = at;
  out[at++] = TEXT | length;
  for (let index = 0; index < length; index += 1) {
    const code = text.charCodeAt(index);
    if (code >= 0x80) {
      at = start;
      writeLongText(text);
      return;
    }
    out[at++] = code;
  }
}

function writeLongText(text) {
  if (!text.isWellFormed()) throw unfit('a text with half of a surrogate pair');
  const length = Buffer.byteLength(text);
  writeHead(TEXT, length);
  need(length);
  at += out.utf8Write(text, at, length);
}

/** A clone keeps what is one object; plain data cannot. Strictly, only a cycle is refused. */
function notTwice(object) {
  if (manyObjects !== undefined) {
    if (manyObjects.has(object)) throw unfit('an object inside itself');
    manyObjects.add(object);
    return;
  }
  if (objects.includes(object)) throw unfit('an object inside itself');
  objects.push(object);
  if (objects.length > FEW) manyObjects = new Set(objects);
}

/** Strictly, an object may come again once it is complete. */
function leave(object) {
  if (manyObjects !== undefined) manyObjects.delete(object);
  else objects.pop();
}

function writeObject(object, level) {
  if (level >= MOST_LEVELS) throw unfit(`in more than ${MOST_LEVELS} levels`);
  if (isProxy(object)) throw unfit('a Proxy');
  notTwice(object);
  switch (Object.getPrototypeOf(object)) {
    case Object.prototype: writePlain(object, level); break;
    case Array.prototype: writeArray(object, level); break;
    case Map.prototype: writeMap(object, level); break;
    case Date.prototype: writeDate(object); break;
    case Uint8Array.prototype:
    case Buffer.prototype: writeBytes(object); break;
    default:
      if (!isStrict) throw UNFIT;
      writeOther(object, level);
  }
  if (isStrict) leave(object);
}

/** What is only written strictly, as a clone would keep more of it. */
function writeOther(object, level) {
  if (ArrayBuffer.isView(object)) {
    writeBytes(new Uint8Array(object.buffer, object.byteOffset, object.byteLength));
  } else if (object instanceof ArrayBuffer) {
    writeBytes(new Uint8Array(object));
  } else if (Array.isArray(object)) {
    writeArray(object, level);
  } else if (object instanceof Map) {
    writeMap(object, level);
  } else if (object instanceof Set) {
    writeArray(Array.from(object), level);
  } else if (object instanceof Date) {
    writeDate(object);
  } else if (toString.call(object) === '[object Object]' && !(object instanceof Promise)) {
    writePlain(object, level);
  } else {
    const name = object.constructor?.name ?? 'host object';
    throw unfit(`a ${name}, which other languages do not have`);
  }
}

const { toString } = Object.prototype;

function writePlain(object, level) {
  if (!isStrict && Symbol.toStringTag in object) throw UNFIT;
  if (toString.call(object) !== '[object Object]') throw unfit('a host object');
  const keys = Object.keys(object);
  writeHead(MAP, keys.length);
  for (const key of keys) {
    writeText(key);
    writeAt(key, propertyOf(object, key), level + 1);
  }
}

/** Reads a property, and notes what was read: a clone must not read it again. */
function propertyOf(object, key) {
  const value = object[key];
  if (!isStrict) {
    log[logged] = object;
    log[logged + 1] = key;
    log[logged + 2] = value;
    logged += 3;
  }
  return value;
}

function writeArray(array, level) {
  const { length } = array;
  // Holes, and properties that are no elements, are for a clone.
  if (!isStrict && (!Array.isArray(array) || length > MOST_ELEMENTS ||
      Object.keys(array).length !== length)) {
    throw UNFIT;
  }
  writeHead(ARRAY, length);
  for (let index = 0; index < length; index += 1) {
    if (!isStrict && !(index in array)) throw UNFIT;
    writeAt(index, propertyOf(array, index), level + 1);
  }
}

function writeMap(map, level) {
  if (!isMap(map) || (!isStrict && Object.keys(map).length > 0)) throw unfit('no Map');
  const entries = Array.from(Map.prototype.entries.call(map));
  writeHead(TAG, MAP_OF_JAVASCRIPT);
  writeHead(MAP, entries.length);
  for (const [key, value] of entries) {
    write(key, level + 1);
    writeAt(key, value, level + 1);
  }
}

function writeDate(date) {
  if (!isDate(date) || (!isStrict && Object.keys(date).length > 0)) throw unfit('no Date');
  const time = Date.prototype.getTime.call(date);
  if (!isStrict && Math.abs(time) > MOST_MILLISECONDS) throw UNFIT;
  writeHead(TAG, DATE);
  writeNumber(time / 1000);
}

function writeBytes(bytes) {
  if (!(isUint8Array(bytes)) || !(bytes.buffer instanceof ArrayBuffer)) {
    throw unfit('shared memory, or no bytes');
  }
  const { buffer, length } = bytes;
  if (!isInBounds(bytes)) throw unfit('bytes of an ArrayBuffer that is detached or too short');
  if (!isStrict) {
    // Other views of the same memory would see it as well: a clone keeps that. A Buffer is copied
    // alone, as its memory is often a pool of other data.
    const isAlone = Buffer.isBuffer(bytes) || length === buffer.byteLength;
    if (!isAlone || buffer.resizable) throw UNFIT;
    notTwice(buffer);
    if (Buffer.isBuffer(bytes)) leave(buffer);
  }
  writeHead(BYTES, length);
  need(length);
  out.set(bytes, at);
  at += length;
}

/** Whether the memory of bytes is there: it may be detached, or have become shorter. */
function isInBounds(bytes) {
  if (bytes.length > 0) return true;
  try {
    Uint8Array.prototype.at.call(bytes, 0);
    return true;
  } catch {
    return false;
  }
}

// Reading: every byte was written by the peer.

let source = room;
let sourceView = roomView;
let end = 0;

/**
 * Decodes one value from the first bytes of memory.
 *
 * @param {Buffer} bytes
 * @param {number} length
 */
function decode(bytes, length) {
  const saved = [source, sourceView, at, end];
  source = bytes;
  sourceView = bytes === room ? roomView :
    new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  at = 0;
  end = length;
  try {
    const value = read(0);
    if (at !== end) throw wrong(`${end - at} bytes follow the value`);
    return value;
  } finally {
    [source, sourceView, at, end] = saved;
  }
}

function wrong(what) {
  return dataCloneError(`the message is no value: ${what} (at byte ${at})`);
}

function has(length) {
  if (length > end - at) throw wrong('it ends early');
}

/** The number of a head; -1 for an indefinite length. */
function readNumber(low) {
  if (low < 24) return low;
  switch (low) {
    case 24:
      has(1);
      return source[at++];
    case 25:
      has(2);
      at += 2;
      return sourceView.getUint16(at - 2);
    case 26:
      has(4);
      at += 4;
      return sourceView.getUint32(at - 4);
    case 27:
      has(8);
      at += 8;
      return sourceView.getUint32(at - 8) * 0x100000000 + sourceView.getUint32(at - 4);
    case 31:
      return -1;
    default:
      throw wrong('a head has no length');
  }
}

/** An integer, which may need more than a number has. */
function readInteger(low, isNegative) {
  const number = readNumber(low);
  if (number < 0) throw wrong('an integer has no length');
  if (number < Number.MAX_SAFE_INTEGER) return isNegative ? -1 - number : number;
  if (!isNegative && number === Number.MAX_SAFE_INTEGER) return number;
  const big = sourceView.getBigUint64(at - 8);
  return isNegative ? -1n - big : big;
}

function read(level) {
  if (level > 2 * MOST_LEVELS) throw wrong('it has too many levels');
  has(1);
  const head = source[at++];
  const low = head & 31;
  switch (head & 0xe0) {
    case UNSIGNED: return readInteger(low, false);
    case NEGATIVE: return readInteger(low, true);
    case BYTES: return readBytes(low);
    case TEXT: return readText(low);
    case ARRAY: return readArray(low, level);
    case MAP: return readMap(low, level, false);
    case TAG: return readTagged(readNumber(low), level);
    default: return readSimple(low);
  }
}

function readSimple(low) {
  switch (low) {
    case 20: return false;
    case 21: return true;
    case 22: return null;
    case 23: return undefined;
    case 25: return half(readNumber(25));
    case 26:
      has(4);
      at += 4;
      return sourceView.getFloat32(at - 4);
    case 27:
      has(8);
      at += 8;
      return sourceView.getFloat64(at - 8);
    default: throw wrong('a simple value is unknown');
  }
}

/** A float of 16 bits. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The pieces of bytes or text of indefinite length, joined. */
function readPieces(major) {
  const pieces = [];
  for (;;) {
    has(1);
    const head = source[at++];
    if (head === 0xff) return Buffer.concat(pieces);
    if ((head & 0xe0) !== major) throw wrong('a piece has another type');
    const length = readNumber(head & 31);
    if (length < 0) throw wrong('a piece has no length');
    has(length);
    pieces.push(source.subarray(at, at + length));
    at += length;
  }
}

function readBytes(low) {
  const length = readNumber(low);
  if (length < 0) return Uint8Array.from(readPieces(BYTES));
  has(length);
  at += length;
  const bytes = new Uint8Array(length);
  bytes.set(source.subarray(at - length, at));
  return bytes;
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function readText(low) {
  const length = readNumber(low);
  if (length < 0) return strict(readPieces(TEXT));
  has(length);
  const start = at;
  at += length;
  if (length < 24) {
    let text = '';
    for (let index = start; index < at; index += 1) {
      const byte = source[index];
      if (byte >= 0x80) return strict(source.subarray(start, at));
      text += String.fromCharCode(byte);
    }
    return text;
  }
  return strict(source.subarray(start, at));
}

function strict(bytes) {
  try {
    return decoder.decode(bytes);
  } catch {
    throw wrong('a text is not UTF-8');
  }
}

/** Whether an array or map has another element. */
function goesOn(count, length) {
  if (length >= 0) return count < length;
  has(1);
  if (source[at] !== 0xff) return true;
  at += 1;
  return false;
}

function readArray(low, level) {
  const length = readNumber(low);
  // Each element has a byte at least, so that a length that is claimed allocates nothing.
  if (length > end - at) throw wrong('an array claims more elements than bytes follow');
  const array = [];
  while (goesOn(array.length, length)) array.push(read(level + 1));
  return array;
}

function readMap(low, level, hasTag) {
  const length = readNumber(low);
  if (2 * length > end - at) throw wrong('a map claims more entries than bytes follow');
  if (hasTag) return readEntries(new Map(), 0, length, level);
  const object = {};
  const keys = [];
  while (goesOn(keys.length, length)) {
    const key = readKey(level + 1);
    if (typeof key !== 'string') {
      // It is a map after all, in the order in which its keys came.
      const map = new Map(keys.map((known) => [known, object[known]]));
      map.set(key, read(level + 1));
      return readEntries(map, keys.length + 1, length, level);
    }
    keys.push(key);
    const value = read(level + 1);
    if (key === '__proto__') define(object, key, value);
    else object[key] = value;
  }
  return object;
}

function readEntries(map, from, length, level) {
  for (let count = from; goesOn(count, length); count += 1) {
    const key = readKey(level + 1);
    map.set(key, read(level + 1));
  }
  return map;
}

/** Short keys that were read before, each in the place that its length and bytes give it. */
const knownKeys = new Array(256).fill('');

/** Reads a key: mostly one of few short texts. */
function readKey(level) {
  has(1);
  const head = source[at];
  const length = head & 31;
  if ((head & 0xe0) !== TEXT || length === 0 || length >= 24) return read(level);
  at += 1;
  has(length);
  const place = (length ^ (source[at] << 3) ^ (source[at + length - 1] << 1)) & 255;
  const known = knownKeys[place];
  if (known.length === length && isAt(known, at)) {
    at += length;
    return known;
  }
  const key = readText(length);
  // Only ASCII has as many bytes as characters.
  if (key.length === length) knownKeys[place] = key;
  return key;
}

function isAt(text, start) {
  for (let index = 0; index < text.length; index += 1) {
    if (source[start + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}

function define(object, key, value) {
  Object.defineProperty(object, key, {
    configurable: true, enumerable: true, writable: true, value,
  });
}

function readTagged(first, level) {
  let tag = first;
  for (;;) {
    if (tag < 0) throw wrong('a tag has no number');
    has(1);
    const head = source[at];
    const major = head & 0xe0;
    if (tag === MAP_OF_JAVASCRIPT && major === MAP) {
      at += 1;
      return readMap(head & 31, level, true);
    }
    if ((tag === BIG_POSITIVE || tag === BIG_NEGATIVE) && major === BYTES) {
      at += 1;
      const digits = Buffer.from(readBytes(head & 31)).toString('hex');
      const number = digits === '' ? 0n : BigInt(`0x${digits}`);
      return tag === BIG_NEGATIVE ? -1n - number : number;
    }
    if (tag === DATE && (major === UNSIGNED || major === NEGATIVE || major === 0xe0)) {
      return new Date(Math.round(Number(read(level)) * 1000));
    }
    if (major !== TAG) return read(level);
    // Any other tag is stepped over.
    at += 1;
    tag = readNumber(head & 31);
  }
}

module.exports = { decode, encode, encodeStrictly, isInBounds, room, takeGotten };
