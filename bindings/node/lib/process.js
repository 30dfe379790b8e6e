'use strict';
// Other processes: the parent of this one, and children.

const childProcess = require('node:child_process');
const { EventEmitter } = require('node:events');
const fs = require('node:fs');
const { isMainThread } = require('node:worker_threads');
const { inspect } = require('node:util');
const native = require('./native.js');
const { codedError } = require('./events.js');
const { MessageChannel, createPort, deliverAll, releasePort } = require('./port.js');

/** Names the descriptor of the port in a child. */
const VARIABLE = 'MESSAGEPORT_PARENT';

/** The port to the process that started this one, or null. */
const parentPort = takeParentPort();

function takeParentPort() {
  if (!isMainThread || process.env[VARIABLE] === undefined) return null;
  const handle = native.parentPort();
  delete process.env[VARIABLE];
  return handle === null ? null : createPort(handle);
}

/**
 * A child process with a port to it. Emits `message` and `messageerror` of the port, and `online`,
 * `error` and `exit` of the process.
 */
class Worker extends EventEmitter {
  /** The port to the child. */
  port;
  /** The child, as `child_process.spawn` returns it. */
  process;
  #isForwarding = false;
  #exited;

  constructor(port, process) {
    if (!(process instanceof childProcess.ChildProcess)) {
      throw codedError(TypeError, 'ERR_CONSTRUCT_CALL_INVALID',
        'Illegal constructor: a Worker is made by fork(modulePath) or spawn(command)');
    }
    super();
    this.port = port;
    this.process = process;
    this.#exited = new Promise((resolve) => {
      process.once('exit', (code, signal) => resolve({ code, signal }));
      process.once('error', () => resolve({ code: null, signal: null }));
    });
    process.once('spawn', () => this.emit('online'));
    process.on('error', (error) => this.emit('error', error));
    process.once('exit', (code, signal) => this.#exit(code, signal));
    this.on('newListener', (name) => this.#forward(name));
  }

  /** What the child posted before it exited comes before its `exit`. */
  #exit(code, signal) {
    if (this.#isForwarding) deliverAll(this.port);
    this.emit('exit', code, signal);
  }

  /** The port starts with the first listener for its messages, so that none is lost before. */
  #forward(name) {
    if (this.#isForwarding || (name !== 'message' && name !== 'messageerror')) return;
    this.#isForwarding = true;
    this.port.on('message', (value) => this.emit('message', value));
    this.port.on('messageerror', (error) => this.emit('messageerror', error));
    // The process keeps this one alive, as long as it is referenced itself.
    this.port.unref();
  }

  /** Posts a value to the child. */
  postMessage(value, options) {
    this.port.postMessage(value, options);
  }

  /**
   * Ends the child at once.
   *
   * @returns {Promise<{code: number|null, signal: string|null}>}
   */
  terminate() {
    this.process.kill('SIGKILL');
    return this.#exited;
  }

  /** How the child ended, once it has. */
  get exited() {
    return this.#exited;
  }

  /** The process id. */
  get pid() {
    return this.process.pid;
  }

  get stdin() {
    return this.process.stdin;
  }

  get stdout() {
    return this.process.stdout;
  }

  get stderr() {
    return this.process.stderr;
  }

  /** Lets the child keep this process alive. */
  ref() {
    this.process.ref();
    return this;
  }

  /** Lets this process end although the child runs. */
  unref() {
    this.process.unref();
    return this;
  }
}

function invalidArgument(name, expected, value) {
  return codedError(TypeError, 'ERR_INVALID_ARG_TYPE',
    `The "${name}" argument must be ${expected}. Received ${inspect(value)}`);
}

function streams(stdio) {
  if (stdio === undefined) return ['inherit', 'inherit', 'inherit'];
  if (typeof stdio === 'string') return [stdio, stdio, stdio];
  const list = Array.from(stdio);
  while (list.length < 3) list.push('inherit');
  return list;
}

/**
 * Starts a program with a port to it.
 *
 * @param {string} command
 * @param {string[]} [args]
 * @param {object} [options] those of `child_process.spawn`, and `limit`; the streams are inherited
 *   unless `stdio` says otherwise
 * @returns {Worker}
 */
function spawn(command, args, options) {
  const hasArgs = Array.isArray(args) || args === undefined || args === null;
  if (!hasArgs && typeof args !== 'object') throw invalidArgument('args', 'an array', args);
  const list = (hasArgs ? args : undefined) ?? [];
  const { limit, ...rest } = (hasArgs ? options : args) ?? {};
  const { port1, port2 } = new MessageChannel({ limit });
  const fd = native.intoDescriptor(releasePort(port2));
  try {
    const stdio = [...streams(rest.stdio), fd];
    const { ino } = fs.fstatSync(fd, { bigint: true });
    const env = { ...(rest.env ?? process.env), [VARIABLE]: `${stdio.length - 1}:${ino}` };
    return new Worker(port1, childProcess.spawn(command, list, { ...rest, stdio, env }));
  } catch (error) {
    port1.close();
    throw error;
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * Starts a module of JavaScript in another process, whose `parentPort` is the port to this one.
 *
 * @param {string|URL} modulePath
 * @param {object} [options] those of `spawn`, and `args`, `execArgv`, `execPath`
 * @returns {Worker}
 */
function fork(modulePath, options) {
  const { args = [], execArgv = process.execArgv, execPath = process.execPath, ...rest } =
    options ?? {};
  if (!(modulePath instanceof URL) && typeof modulePath !== 'string') {
    throw invalidArgument('modulePath', 'a string or a URL', modulePath);
  }
  const path = modulePath instanceof URL ? require('node:url').fileURLToPath(modulePath) :
    modulePath;
  return spawn(execPath, [...execArgv, path, ...args], rest);
}

module.exports = { Worker, fork, parentPort, spawn };
