// Compares ways to reach another process (and a thread) from Node.js, all in one run.
//
//   node bench/compare.mjs [--quick | --turns]
//
// Each way has an echo at the other end. Measured are the round trip of an object, one at a time;
// objects one way; and a frame of 16 MiB of pixels that is sent and read in each page, with a short
// answer. It prints a table in Markdown. With --turns, only the round trips of two ways are measured,
// six times in turns.
import childProcess from 'node:child_process';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import v8 from 'node:v8';
import * as threads from 'node:worker_threads';
import { SharedBuffer, fork, parentPort } from '../lib/index.mjs';

const program = fileURLToPath(import.meta.url);
const PIXELS = 16 << 20;

// Objects that JSON can write, of about 100 bytes and 10 KiB.
const small = {
  id: 7, name: 'a short name', tags: ['one', 'two'], at: { x: 1.5, y: -2 }, ok: true,
};
// No object comes twice in it: JSON and plain data would repeat it, and V8 would not.
const large = {
  rows: Array.from({ length: 160 }, (_, id) => ({ ...structuredClone(small), id })),
};

/** Frames of a socket: a length and a serialization. */
function framed(socket, onValue) {
  let chunks = [];
  let have = 0;
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    have += chunk.length;
    while (have >= 4) {
      if (chunks[0].length < 4) chunks = [Buffer.concat(chunks)];
      const length = chunks[0].readUInt32LE(0);
      if (have < 4 + length) return;
      const all = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
      chunks = [all.subarray(4 + length)];
      have -= 4 + length;
      onValue(v8.deserialize(all.subarray(4, 4 + length)));
    }
  });
  return (value) => {
    const bytes = v8.serialize(value);
    const header = Buffer.allocUnsafe(4);
    header.writeUInt32LE(bytes.length);
    socket.cork();
    socket.write(header);
    socket.write(bytes);
    socket.uncork();
  };
}

/** What an echo does with a value: 'count' messages are only counted, until 'end'. */
function echo(post) {
  let count = 0;
  return (value) => {
    if (value === 'end') {
      post({ count });
      count = 0;
    } else if (value.oneWay) {
      count += 1;
    } else if (value.pixels !== undefined) {
      let sum = 0;
      for (let at = 0; at < PIXELS; at += 4096) sum += value.pixels[at];
      if (sum !== 7 * (PIXELS / 4096)) throw new Error(`the pixels have the sum ${sum}`);
      post(sum);
    } else {
      post(value);
    }
  };
}

const [, , role, argument] = process.argv;
if (!threads.isMainThread) {
  const { parentPort: port } = threads;
  port.on('message', echo((value) => port.postMessage(value)));
} else if (role === 'messageport') {
  parentPort.on('message', echo((value) => parentPort.postMessage(value)));
} else if (role === 'ipc') {
  process.on('message', echo((value) => process.send(value)));
} else if (role === 'socket') {
  const socket = net.connect(argument);
  const post = framed(socket, echo((value) => post(value)));
} else if (process.argv.includes('--turns')) {
  await turns();
} else {
  await main(process.argv.includes('--quick') ? 0.02 : 1);
}

/** Each way: `post`, `receive`, which sets what takes values, `end`, and how pixels are made. */
async function ways() {
  const worker = fork(program, { args: ['messageport'] });
  const thread = new threads.Worker(program);
  const ipc = (serialization) => {
    const child = childProcess.fork(program, ['ipc'], { serialization });
    return {
      post: (value) => child.send(value),
      receive: (take) => { child.removeAllListeners('message'); child.on('message', take); },
      end: () => child.kill(),
    };
  };
  const of = (target) => ({
    post: (value, list) => target.postMessage(value, list),
    receive: (take) => { target.removeAllListeners('message'); target.on('message', take); },
    end: () => target.terminate(),
    transfers: true,
  });
  return {
    'messageport, another process': of(worker),
    'worker_threads, a thread': of(thread),
    'child_process, advanced': ipc('advanced'),
    'child_process, JSON': { ...ipc('json'), isJson: true },
    'Unix socket, v8.serialize': await socketWay(),
  };
}

function socketWay() {
  const place = path.join(os.tmpdir(), `messageport-bench-${process.pid}.sock`);
  return new Promise((resolve) => {
    const server = net.createServer((socket) => {
      let take;
      const post = framed(socket, (value) => take(value));
      resolve({
        post,
        receive: (next) => { take = next; },
        end: () => { socket.destroy(); server.close(); child.kill(); },
      });
    }).listen(place);
    const child = childProcess.spawn(process.execPath, [program, 'socket', place],
      { stdio: 'inherit' });
  });
}

function now() {
  return Number(process.hrtime.bigint()) / 1000;
}

function percentile(times, part) {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length * part)];
}

/** Microseconds of round trips: the median and the 99th percentile. */
function roundTrips(way, make, count) {
  return new Promise((resolve) => {
    const times = [];
    let began;
    const post = () => {
      const [value, list] = make();
      began = now();
      way.post(value, list);
    };
    way.receive(() => {
      times.push(now() - began);
      if (times.length === count) resolve(times.slice(Math.floor(count / 5)));
      else post();
    });
    post();
  });
}

/** Microseconds of each message, of many in a row one way. */
function oneWay(way, value, count) {
  return new Promise((resolve) => {
    const began = now();
    way.receive((answer) => {
      if (answer.count === count) resolve((now() - began) / count);
    });
    for (let index = 0; index < count; index += 1) way.post({ oneWay: true, value });
    way.post('end');
  });
}

function pixelsOf(name, way) {
  const shares = name.startsWith('messageport');
  return () => {
    const buffer = shares ? SharedBuffer.alloc(PIXELS) : new ArrayBuffer(PIXELS);
    const pixels = new Uint8Array(buffer).fill(7);
    return [{ pixels }, way.transfers ? [buffer] : undefined];
  };
}

/** Round trips of a short object, by two ways in turns. */
async function turns() {
  const all = await ways();
  for (let turn = 0; turn < 6; turn += 1) {
    for (const name of ['messageport, another process', 'child_process, advanced']) {
      const times = await roundTrips(all[name], () => [small], 20_000);
      console.log(`${name}: ${percentile(times, 0.5).toFixed(1)} µs`);
    }
  }
  process.exit(0);
}

async function main(part) {
  const times = (count) => Math.max(5, Math.floor(count * part));
  const rows = [];
  for (const [name, way] of Object.entries(await ways())) {
    const row = [name];
    for (const [value, count] of [[small, 50_000], [large, 10_000]]) {
      const all = await roundTrips(way, () => [value], times(count));
      row.push(`${percentile(all, 0.5).toFixed(1)} / ${percentile(all, 0.99).toFixed(0)} µs`);
    }
    for (const [value, count] of [[small, 200_000], [large, 10_000]]) {
      row.push(`${(await oneWay(way, value, times(count))).toFixed(2)} µs`);
    }
    if (way.isJson) {
      row.push('–');
    } else {
      const all = await roundTrips(way, pixelsOf(name, way), times(50));
      row.push(`${(percentile(all, 0.5) / 1000).toFixed(1)} ms`);
    }
    rows.push(row);
    way.end();
  }
  console.log(`Node.js ${process.version}, ${os.cpus()[0].model}, ${os.cpus().length} ` +
    `processors, Linux ${os.release()}; object of ${JSON.stringify(small).length} and ` +
    `${JSON.stringify(large).length} bytes in JSON\n`);
  const head = ['', 'round trip, 100 B (p50 / p99)', 'round trip, 10 KiB (p50 / p99)',
    'one way, 100 B', 'one way, 10 KiB', '16 MiB of pixels (p50)'];
  const print = (cells) => console.log(`| ${cells.join(' | ')} |`);
  print(head);
  print(head.map((_, index) => (index === 0 ? '---' : '---:')));
  rows.forEach(print);
  process.exit(0);
}
