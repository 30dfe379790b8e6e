'use strict';
// Puts this package in the place of Node's own ports, for Node's own tests. With PROCESSES in the
// environment, a `Worker` of a test is a child process: two threads become two processes.

const { EventEmitter } = require('node:events');
const workerThreads = require('node:worker_threads');
const { syncBuiltinESMExports } = require('node:module');
const messageport = require('..');

const PROCESSES = 'MESSAGEPORT_TEST_PROCESSES';

/** The part of Node's `Worker` that the tests use. */
class Worker extends EventEmitter {
  #child;

  constructor(code, options) {
    super();
    if (options?.eval !== true) throw new Error('expected a Worker with the option `eval`');
    const args = ['--require', __filename, '-e', code];
    this.#child = messageport.spawn(process.execPath, args);
    this.#child.on('exit', (status, signal) => this.emit('exit', signal === null ? status : 1));
    this.#child.on('error', (error) => this.emit('error', error));
    this.#child.on('message', (value) => this.emit('message', value));
  }

  postMessage(value, list) {
    this.#child.postMessage(value, list);
  }

  async terminate() {
    await this.#child.terminate();
    return 1;
  }
}

function replace(name, value) {
  const descriptor = { configurable: true, enumerable: true, writable: true, value };
  if (name in workerThreads) Object.defineProperty(workerThreads, name, descriptor);
  if (name in globalThis) {
    Object.defineProperty(globalThis, name, { ...descriptor, enumerable: false });
  }
}

for (const name of [
  'MessageChannel', 'MessageEvent', 'MessagePort', 'BroadcastChannel', 'receiveMessageOnPort',
]) {
  replace(name, messageport[name]);
}
if (process.env[PROCESSES] !== undefined) {
  replace('Worker', Worker);
  replace('parentPort', messageport.parentPort);
  replace('isMainThread', messageport.parentPort === null);
}
syncBuiltinESMExports();
