'use strict';
// Puts this package in the place of Node's own ports, for Node's own tests.

const workerThreads = require('node:worker_threads');
const { syncBuiltinESMExports } = require('node:module');
const messageport = require('..');

for (const name of ['MessageChannel', 'MessagePort', 'BroadcastChannel', 'receiveMessageOnPort']) {
  const descriptor = {
    configurable: true, enumerable: true, writable: true, value: messageport[name],
  };
  Object.defineProperty(workerThreads, name, descriptor);
  if (name in globalThis) {
    Object.defineProperty(globalThis, name, { ...descriptor, enumerable: false });
  }
}
syncBuiltinESMExports();
