'use strict';
// Runs one file of web-platform-tests: FOLDER FILE node|messageport. Prints its results as JSON.

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const [, , folder, file, classes] = process.argv;
const PATIENCE = 5_000;

if (classes === 'messageport') require('./node-tests-preload.cjs');
const { MessageChannel, receiveMessageOnPort } = require('node:worker_threads');

/** Clones a value by a port, for the tests of `structuredClone`, which wait for a promise. */
globalThis.structuredClone = function structuredClone(value, { transfer = [] } = {}) {
  const { port1, port2 } = new MessageChannel();
  let received;
  try {
    port1.postMessage(value, transfer);
    received = receiveMessageOnPort(port2);
  } finally {
    port1.close();
  }
  if (received !== undefined) return received.message;
  // A message with Blobs arrives a little later.
  return new Promise((resolve, reject) => {
    port2.once('message', resolve);
    port2.once('messageerror', reject);
  });
};

globalThis.self = globalThis;
globalThis.GLOBAL = {
  isWindow: () => false, isWorker: () => false, isShadowRealm: () => false,
};

function load(name) {
  vm.runInThisContext(fs.readFileSync(name, 'utf8'), { filename: name });
}

/** What the script of a page has: a window, whose messages to itself go through a channel. */
function openWindow() {
  const { port1, port2 } = new MessageChannel();
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  globalThis.removeEventListener = target.removeEventListener.bind(target);
  port2.onmessage = ({ data, ports }) => {
    const event = Object.assign(new Event('message'), { data, ports });
    globalThis.onmessage?.(event);
    target.dispatchEvent(event);
  };
  globalThis.postMessage = (value, options, list) => {
    port1.postMessage(value, list ?? options?.transfer);
  };
}

const results = new Map();

function report() {
  const list = Array.from(results, ([name, result]) => ({ name, ...result }));
  fs.writeSync(1, `\n${JSON.stringify({ results: list })}\n`);
  process.exit(0);
}

function fault(error) {
  results.set('the file', { passes: false, why: String(error) });
}

load(path.join(folder, 'resources/testharness.js'));
globalThis.add_test_state_callback(({ name }) => {
  if (!results.has(name)) results.set(name, { passes: false, why: 'it did not end' });
});
globalThis.add_result_callback(({ name, status, message }) => {
  results.set(name, { passes: status === 0, why: message ?? undefined });
});
globalThis.add_completion_callback((_, { status, message }) => {
  if (status !== 0) fault(message);
  setImmediate(report);
});
process.on('uncaughtException', fault);
process.on('unhandledRejection', fault);
setTimeout(report, PATIENCE);

const test = path.join(folder, file);
const text = fs.readFileSync(test, 'utf8');
const isPage = test.endsWith('.html');
const metas = text.matchAll(isPage ? /<script src="((?!.*testharness).*)"/g :
  /^\/\/ META: script=(.*)$/gm);
try {
  for (const [, script] of metas) {
    load(script.startsWith('/') ? path.join(folder, script) :
      path.join(path.dirname(test), script));
  }
  if (isPage) {
    openWindow();
    for (const [, code] of text.matchAll(/<script>(.*?)<\/script>/gs)) vm.runInThisContext(code);
  } else {
    load(test);
  }
} catch (error) {
  fault(error);
}
