// A plug-in of `examples/plugins.rs`: does what its first argument says with the text that it gets.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { parentPort } from 'messageport';

const work = {
  // This one keeps to the rules.
  upper: (text) => text.toUpperCase(),
  /** Uses more processor time than it may. */
  spinner() {
    for (;;);
  },
  /** Opens more files than it may. */
  hoarder() {
    for (;;) fs.openSync('/dev/null');
  },
  /** Takes more memory than it may. */
  eater: () => new Uint8Array(2 ** 31).byteLength,
  /** Writes a file. */
  writer: (text) => fs.writeFileSync('/tmp/messageport-plugin', text),
  /** Starts a program. */
  starter() {
    const { error } = spawnSync('/bin/true');
    if (error !== undefined) throw error;
  },
  /** Reaches for the network. */
  caller: () => once(net.connect(9, '127.0.0.1'), 'connect'),
};

parentPort.once('message', async ({ name, text }) => {
  try {
    parentPort.postMessage({ text: await work[name](text) });
  } catch (error) {
    parentPort.postMessage({ error: error.code ?? error.message });
  }
});
