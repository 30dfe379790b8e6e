// The other process of the tests: what it does is its first argument.
import { setTimeout as sleep } from 'node:timers/promises';
import { BroadcastChannel, MessageChannel, connect, fork, parentPort } from '../../lib/index.mjs';
import { Exchange } from '../exchange.mjs';

const [, , role, ...rest] = process.argv;

const roles = {
  /** Answers each message with itself; moves back what came with it. */
  echo() {
    parentPort.on('message', (value) => {
      if (value === 'exit') process.exit(7);
      const list = [];
      for (const item of [value].flat()) {
        if (item instanceof ArrayBuffer) list.push(item);
      }
      parentPort.postMessage(value, list);
    });
  },
  /** Posts a few messages and ends at once. */
  last() {
    for (let value = 0; value < 1000; value += 1) parentPort.postMessage(value);
    process.exit(3);
  },
  /** Answers with the Blob that it gets, and ends when it is posted. */
  blobs() {
    parentPort.once('message', ({ blob }) => {
      parentPort.postMessage(blob);
      parentPort.postMessage('end');
      parentPort.close();
    });
  },
  /** Lives for as long as its port. */
  listen() {
    parentPort.on('message', () => {});
    parentPort.postMessage('ready');
  },
  /** Answers on the port that a message brings. */
  port() {
    parentPort.once('message', ({ port }) => {
      port.on('message', (value) => port.postMessage(`${value}!`));
      port.on('close', () => process.exit(0));
    });
  },
  /** Has a child of its own, and a port to the test moves on to it. */
  middle() {
    parentPort.once('message', ({ port }) => {
      const leaf = fork(import.meta.filename ?? new URL(import.meta.url), { args: ['leaf'] });
      leaf.postMessage({ port }, [port]);
      leaf.unref();
    });
  },
  leaf() {
    parentPort.once('message', ({ port }) => {
      port.start();
      port.ref();
      port.postMessage(process.pid);
      parentPort.on('close', () => {
        port.postMessage('parent is gone');
        port.close();
      });
      parentPort.start();
    });
  },
  /** Posts numbers until it is killed. */
  async flood() {
    for (let value = 0; ; value += 1) {
      parentPort.postMessage(value);
      if (value % 100 === 0) await sleep(0);
    }
  },
  /** Posts numbered messages, ports and buffers. */
  exchange() {
    new Exchange(parentPort, Number(rest[0]));
  },
  /** Sends back each number, and counts them. */
  count() {
    let count = 0;
    parentPort.on('message', (value) => {
      if (value === 'end') {
        parentPort.postMessage({ count });
        parentPort.close();
      } else {
        if (value.number !== count) throw new Error(`${value.number} instead of ${count}`);
        count += 1;
        parentPort.postMessage(value);
      }
    });
  },
  /** Ports that are unreferenced or not started do not keep it alive. */
  idle() {
    const { port1, port2 } = new MessageChannel();
    port1.on('message', () => {});
    port1.unref();
    port2.start();
    parentPort.on('close', () => {});
    globalThis.kept = [port1, port2];
  },
  member() {
    const channel = new BroadcastChannel(rest[0]);
    channel.onmessage = ({ data: { question, answer } }) => {
      if (question !== undefined) channel.postMessage({ answer: question + 1 });
      else if (answer === 8) channel.postMessage({ answer: 9 });
    };
    parentPort.postMessage('ready');
  },
  unrefMember() {
    new BroadcastChannel(rest[0]).unref().onmessage = () => {};
  },
  streams() {
    return import('./streams.mjs');
  },
  async client() {
    const port = await connect(rest[0]);
    port.postMessage({ from: process.pid });
    port.on('message', (value) => {
      port.postMessage(value);
      port.close();
    });
  },
};

await roles[role]();
