'use strict';
// What Node.js itself uses to make its ports event targets and emitters at once.

const { inspect } = require('node:util');
const v8 = require('node:v8');
const workerThreads = require('node:worker_threads');

const NodeEventTarget = Object.getPrototypeOf(workerThreads.MessagePort.prototype).constructor;

function symbolOf(description) {
  const symbols = Object.getOwnPropertySymbols(EventTarget.prototype);
  const found = symbols.find((symbol) => symbol.description === description);
  if (found === undefined) {
    throw new Error(`messageport does not know this version of Node.js (${process.version}): its ` +
      `EventTarget has no ${description}; expected Node.js 20 to 24`);
  }
  return found;
}

const kNewListener = symbolOf('kNewListener');
const kRemoveListener = symbolOf('kRemoveListener');
const kCreateEvent = symbolOf('kCreateEvent');
const kDispatch = symbolOf('nodejs.internal.kHybridDispatch');

/** A method of ports: whether a started port keeps the process alive, beside what it has posted. */
const kSetRef = Symbol('messageport.setRef');

/**
 * Makes an object that the serializer of V8 hands to `_writeHostObject`: it does so for objects of
 * native classes only, so an object of such a class gets another prototype.
 */
function createHostObject(prototype) {
  return Object.setPrototypeOf(new v8.Serializer(), prototype);
}

/** Makes such an object that is also an event target. */
function createHostTarget(prototype) {
  return Object.defineProperties(createHostObject(prototype),
    Object.getOwnPropertyDescriptors(new NodeEventTarget()));
}

/** Defines `on<type>`, an event handler attribute as the web has it. */
function defineHandler(prototype, type) {
  const handlers = new WeakMap();
  Object.defineProperty(prototype, `on${type}`, {
    configurable: true,
    enumerable: true,
    get() {
      return handlers.get(this)?.value ?? null;
    },
    set(value) {
      const isHandler = typeof value === 'function' ||
        (typeof value === 'object' && value !== null);
      const known = handlers.get(this);
      if (!isHandler) {
        if (known !== undefined) this.removeEventListener(type, known.listener);
        handlers.delete(this);
        return;
      }
      if (known !== undefined) {
        // It keeps its place in the order.
        known.value = value;
        return;
      }
      const handler = { value, listener: undefined };
      handler.listener = function listener(event) {
        if (typeof handler.value === 'function') Reflect.apply(handler.value, this, [event]);
      };
      handlers.set(this, handler);
      this.addEventListener(type, handler.listener);
    },
  });
}

/** What came with a message that carries nothing. */
const NOTHING = Object.freeze({
  ports: Object.freeze([]), buffers: Object.freeze([]), descriptors: Object.freeze([]),
});

/** All ports of this package. */
const knownPorts = new WeakSet();

function checkPort(value, name) {
  if (knownPorts.has(value) || value instanceof workerThreads.MessagePort) return;
  throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
    `The "init.${name}" property must be an instance of MessagePort`);
}

/** What a program gives to the constructor of an event. */
function checked({ data, lastEventId, origin, ports = [], source = null } = {}) {
  if (source !== null) checkPort(source, 'source');
  const list = Object.freeze([...ports]);
  list.forEach((port, index) => checkPort(port, `ports[${index}]`));
  return { init: { data, lastEventId, origin }, arrived: { ...NOTHING, ports: list }, source };
}

/** What came with a message, while its event is being made. */
let arriving;

/**
 * The event of a message. The constructor of Node.js accepts only ports of Node.js in `source` and
 * `ports`; this one accepts those of this package, too.
 */
class PortMessageEvent extends globalThis.MessageEvent {
  #arrived;
  #source = null;

  constructor(type, init) {
    if (arriving !== undefined) {
      super(type, init);
      this.#arrived = arriving;
      return;
    }
    const given = checked(init);
    super(type, given.init);
    this.#arrived = given.arrived;
    this.#source = given.source;
  }

  get source() {
    return this.#source;
  }

  get ports() {
    return this.#arrived.ports;
  }

  get buffers() {
    return this.#arrived.buffers;
  }

  get descriptors() {
    return this.#arrived.descriptors;
  }
}

Object.defineProperty(PortMessageEvent, 'name', { value: 'MessageEvent' });

/** Makes a `message` or `messageerror` event. `arrived` has the frozen lists of what came with it. */
function messageEvent(type, data, arrived = NOTHING) {
  arriving = arrived;
  try {
    return new PortMessageEvent(type, { data });
  } finally {
    arriving = undefined;
  }
}

/** Throws unless a value is a string. */
function checkString(value, name) {
  if (typeof value === 'string') return;
  throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
    `The "${name}" argument must be of type string. Received ${inspect(value)}`);
}

/** Options of a call: an object, or nothing. */
function checkOptions(options) {
  if (options === undefined || options === null) return {};
  if (typeof options === 'object') return options;
  throw codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
    `The "options" argument must be of type object. Received ${inspect(options)}`);
}

/** The `limit` of options, as the native part takes it: 0 is the default. */
function limitOf(options) {
  const { limit } = checkOptions(options);
  if (limit === undefined) return 0;
  if (Number.isSafeInteger(limit) && limit > 0) return limit;
  throw codedError(RangeError, 'ERR_OUT_OF_RANGE', 'The "options.limit" must be an integer above ' +
    `0: the bytes that may wait in each direction. Received ${inspect(limit)}`);
}

/** An error of Node.js with a code. */
function codedError(Base, code, text) {
  const error = new Base(text);
  error.code = code;
  return error;
}

function dataCloneError(text) {
  return new DOMException(text, 'DataCloneError');
}

module.exports = {
  MessageEvent: PortMessageEvent,
  NOTHING,
  NodeEventTarget,
  checkOptions,
  checkString,
  codedError,
  createHostObject,
  createHostTarget,
  dataCloneError,
  defineHandler,
  kCreateEvent,
  kDispatch,
  kNewListener,
  kRemoveListener,
  kSetRef,
  messageEvent,
  knownPorts,
  limitOf,
};
