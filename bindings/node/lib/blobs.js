'use strict';
// `Blob`s and `File`s of a message. Their bytes can only be read asynchronously, so that a message
// with Blobs waits until they are read; whatever else it has is serialized at once.
//
// From Node.js 22 on, a Blob is an ordinary object for the serializer of V8, and so is a stream.
// There the value is looked through for them, and copied with a host object in the place of each,
// if it has any.

const { Blob, File } = require('node:buffer');
const { isMap, isProxy, isSet } = require('node:util/types');
const v8 = require('node:v8');
const streams = require('./streams.js');
const { createHostObject, dataCloneError } = require('./events.js');

function getterOf(prototype, name) {
  return Object.getOwnPropertyDescriptor(prototype, name).get;
}

const sizeOf = getterOf(Blob.prototype, 'size');
const typeOf = getterOf(Blob.prototype, 'type');
const nameOf = getterOf(File.prototype, 'name');
const lastModifiedOf = getterOf(File.prototype, 'lastModified');
const { arrayBuffer } = Blob.prototype;

function has(getter, object) {
  try {
    Reflect.apply(getter, object, []);
    return true;
  } catch {
    return false;
  }
}

/** Host objects that stand for a Blob or a stream. */
const placeholders = new WeakMap();

/** The object for which a host object stands, or that object itself. */
function originalOf(object) {
  return placeholders.get(object) ?? object;
}

/** Whether an object is a Blob or a stream, whose bytes or chunks are in no property of it. */
function isBlobOrStream(object) {
  return has(sizeOf, object) || streams.kindOf(object) !== undefined;
}

function isBlob(object) {
  return has(sizeOf, object);
}

/** Whether the serializer of V8 hands a Blob to `_writeHostObject`. */
const areHostObjects = (() => {
  let is = false;
  const serializer = new v8.Serializer();
  serializer._writeHostObject = () => { is = true; };
  serializer.writeValue(new Blob([]));
  return is;
})();

/** The number of its bytes. */
function size(blob) {
  return Reflect.apply(sizeOf, blob, []);
}

/** Writes what a Blob has beside its bytes: their number, its type, and what a File has. */
function write(serializer, blob) {
  const length = size(blob);
  serializer.writeUint64(Math.floor(length / 2 ** 32), length % 2 ** 32);
  writeText(serializer, Reflect.apply(typeOf, blob, []));
  if (isFile(blob)) {
    writeText(serializer, Reflect.apply(nameOf, blob, []));
    serializer.writeDouble(Reflect.apply(lastModifiedOf, blob, []));
  }
}

function isFile(blob) {
  return has(nameOf, blob);
}

function writeText(serializer, text) {
  const bytes = Buffer.from(text);
  serializer.writeUint32(bytes.length);
  serializer.writeRawBytes(bytes);
}

/** Reads what `write` has written. `take` returns the next bytes, or throws if there are fewer. */
function read(deserializer, hasName, take) {
  const [high, low] = deserializer.readUint64();
  const bytes = take(high * 2 ** 32 + low);
  const type = readText(deserializer);
  if (!hasName) return new Blob([bytes], { type });
  const name = readText(deserializer);
  return new File([bytes], name, { type, lastModified: deserializer.readDouble() });
}

function readText(deserializer) {
  return Buffer.from(deserializer.readRawBytes(deserializer.readUint32())).toString();
}

/** The bytes of all of them, each as an array of bytes. Fails if one cannot be read in full. */
function contentsOf(blobs) {
  return Promise.all(blobs.map(async (blob) => {
    const bytes = new Uint8Array(await Reflect.apply(arrayBuffer, blob, []));
    if (bytes.length !== size(blob)) throw dataCloneError('a Blob has changed its length');
    return bytes;
  }));
}

const { toString } = Object.prototype;

/** Whether the serializer of V8 writes the properties of an object. */
function hasProperties(object) {
  return Array.isArray(object) || toString.call(object) === '[object Object]';
}

/**
 * Whether a value may have a Blob or a stream in it. Getters are not run: what they return may be
 * one.
 */
function mayHaveBlobs(value) {
  const seen = new Set();
  const next = [];
  const add = (item) => {
    if (typeof item === 'object' && item !== null && !seen.has(item)) {
      seen.add(item);
      next.push(item);
    }
  };
  add(value);
  while (next.length > 0) {
    const object = next.pop();
    if (isProxy(object)) continue;
    if (isMap(object)) {
      Map.prototype.forEach.call(object, (item, key) => { add(key); add(item); });
    } else if (isSet(object)) {
      Set.prototype.forEach.call(object, add);
    } else if (hasProperties(object)) {
      for (const key of Object.keys(object)) {
        const { get, value: item } = Object.getOwnPropertyDescriptor(object, key);
        if (get !== undefined) return true;
        add(item);
      }
    } else if (isBlobOrStream(object)) {
      return true;
    }
  }
  return false;
}

/**
 * Copies what the serializer of V8 looks into, with a host object in the place of each Blob and
 * stream, and what getters return in their place.
 */
class Copier {
  #copies = new Map();
  #keeps;
  #gotten;

  /**
   * @param {function} keeps whether an object stays as it is
   * @param {Map} [gotten] what getters have returned already
   */
  constructor(keeps, gotten) {
    this.#keeps = keeps;
    this.#gotten = gotten;
  }

  copy(value) {
    if (typeof value !== 'object' || value === null) return value;
    const known = this.#copies.get(value);
    if (known !== undefined) return known;
    if (isProxy(value)) return value;
    if (streams.kindOf(value) !== undefined) return this.#standIn(value);
    if (this.#keeps(value)) return value;
    if (isMap(value)) {
      const entries = Array.from(Map.prototype.entries.call(value));
      const copy = this.#add(value, new Map());
      entries.forEach(([key, item]) => copy.set(this.copy(key), this.copy(item)));
      return copy;
    }
    if (isSet(value)) {
      const items = Array.from(Set.prototype.values.call(value));
      const copy = this.#add(value, new Set());
      items.forEach((item) => copy.add(this.copy(item)));
      return copy;
    }
    if (hasProperties(value)) return this.#copyProperties(value);
    return has(sizeOf, value) ? this.#standIn(value) : value;
  }

  #standIn(object) {
    const placeholder = this.#add(object, createHostObject(Object.prototype));
    placeholders.set(placeholder, object);
    return placeholder;
  }

  #copyProperties(object) {
    const copy = this.#add(object, Array.isArray(object) ? new Array(object.length) : {});
    const gotten = this.#gotten?.get(object);
    for (const key of Object.keys(object)) {
      // A getter may have removed it.
      if (!Object.prototype.propertyIsEnumerable.call(object, key)) continue;
      const item = gotten?.has(key) ? gotten.get(key) : object[key];
      Object.defineProperty(copy, key, {
        configurable: true, enumerable: true, writable: true, value: this.copy(item),
      });
    }
    return copy;
  }

  #add(object, copy) {
    this.#copies.set(object, copy);
    return copy;
  }
}

/**
 * The value as the serializer of V8 is to see it.
 *
 * @param {*} value
 * @param {function} keeps whether an object moves, or is refused by the serializer
 * @param {Map} [gotten] what getters have returned already, for some objects and keys
 */
function prepare(value, keeps, gotten) {
  if (gotten === undefined && (areHostObjects || !mayHaveBlobs(value))) return value;
  return new Copier(keeps, gotten).copy(value);
}

module.exports = { contentsOf, isBlob, isFile, originalOf, prepare, read, size, write };
