// A thread of the tests: what it does is its first argument.
import { parentPort, threadId } from 'node:worker_threads';
import { BroadcastChannel, MessageChannel, connect } from '../../lib/index.mjs';

const [, , role, name] = process.argv;

const roles = {
  channels() {
    for (let number = 0; number < 20; number += 1) {
      const { port1, port2 } = new MessageChannel();
      port2.on('message', (value) => {
        if (value !== number) throw new Error(`${value} instead of ${number}`);
        port2.close();
      });
      port1.postMessage(number);
    }
    // These are open when the thread ends.
    globalThis.kept = new MessageChannel();
    globalThis.kept.port1.on('message', () => {});
    globalThis.kept.port1.unref();
  },
  busy() {
    const { port1, port2 } = new MessageChannel();
    port2.on('message', (value) => port1.postMessage(value + 1));
    for (let value = 0; value < 10; value += 1) port1.postMessage(value);
    setTimeout(() => parentPort.postMessage('busy'), 5);
  },
  async connect() {
    const port = await connect(name);
    port.postMessage({ from: 'thread' });
    port.on('message', () => {});
  },
  member() {
    const channel = new BroadcastChannel(name);
    channel.on('message', (value) => value === 'end' && channel.close());
    channel.postMessage(threadId);
  },
};

await roles[role]();
