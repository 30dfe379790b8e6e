// Either side is killed at a random moment, while messages, ports and buffers move.
//
// MESSAGEPORT_KILLS sets the rounds, MESSAGEPORT_SEED the random numbers.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { fork, spawn } from '../lib/index.mjs';
import { buildPeer } from './peer.mjs';
import { Exchange } from './exchange.mjs';

const rounds = Number(process.env.MESSAGEPORT_KILLS ?? 8);
const messages = Number(process.env.MESSAGEPORT_MESSAGES ?? 50_000);
const seed = Number(process.env.MESSAGEPORT_SEED ?? 1);
const role = fileURLToPath(new URL('./children/role.mjs', import.meta.url));

let exchange;
let folder;
/** The child of the round, which a test that fails leaves. */
let worker;
before(() => {
  exchange = buildPeer('exchange');
  folder = mkdtempSync(join(tmpdir(), 'messageport-kills-'));
});
after(() => {
  worker?.process.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** Random numbers that are the same in each run (xorshift). */
function randomOf(start) {
  let state = BigInt(start) * 2n + 1n;
  return (limit) => {
    state = BigInt.asUintN(64, state ^ (state << 13n));
    state ^= state >> 7n;
    state = BigInt.asUintN(64, state ^ (state << 17n));
    return Number(state % BigInt(limit));
  };
}

/** What this process holds: descriptors, mapped shared memory, bytes outside the heap. */
function census() {
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\n');
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mapped: maps.filter((line) => line.includes('memfd:')).length,
    external: process.memoryUsage().external,
  };
}

/** A census once nothing is left to be collected, or it stays other than expected. */
async function settled(expected) {
  for (let attempt = 0; ; attempt += 1) {
    for (let count = 0; count < 4; count += 1) {
      globalThis.gc();
      await turn();
    }
    const now = census();
    const isSettled = expected === undefined ? attempt >= 5 : isSame(now, expected);
    if (isSettled || attempt === 200) return now;
    await sleep(10);
  }
}

/** A few buffers of Node.js itself come and go. */
const SLACK = 256 << 10;

function isSame(now, expected) {
  return now.descriptors === expected.descriptors && now.mapped === expected.mapped &&
    now.external - expected.external < SLACK;
}

/** Starts a child, kills it at a random moment, and checks what this process saw of it. */
async function killChild(round, random) {
  const file = join(folder, 'posted');
  const isRust = round % 3 !== 2;
  worker = isRust ? spawn(exchange, ['child', '1000000000', file]) :
    fork(role, { args: ['exchange', '1000000000'] });
  const last = random(3000);
  const done = new Exchange(worker.port, Infinity, ({ received }) => {
    if (received === last) worker.process.kill('SIGKILL');
  });
  const delay = round % 3 === 1 ? sleep(random(40)).then(() => worker.terminate()) : undefined;
  const ended = done.ended();
  assert.deepEqual(await once(worker, 'exit'), [null, 'SIGKILL']);
  await Promise.all([ended, delay]);
  if (isRust && done.received > 0) {
    // Each message whose post has returned has arrived. The last one may not be counted.
    const posted = Number(readFileSync(file).readBigUInt64LE());
    assert.ok(done.received === posted || done.received === posted + 1,
      `${done.received} of ${posted} messages`);
  }
  return done;
}

test('a child is killed: a prefix arrives, every port ends, and nothing stays', async (context) => {
  const random = randomOf(seed);
  // Node.js itself opens and maps things the first time.
  for (let round = 0; round < 3; round += 1) await killChild(round, random);
  const expected = await settled();
  let [received, posted] = [0, 0];
  for (let round = 0; round < rounds; round += 1) {
    const done = await killChild(round, random);
    received += done.received;
    posted += done.posted;
  }
  const now = await settled(expected);
  context.diagnostic(`${received} received, ${posted} posted; before ` +
    `${JSON.stringify(expected)}, after ${JSON.stringify(now)}`);
  assert.ok(isSame(now, expected), `${JSON.stringify(now)} after ${JSON.stringify(expected)}`);
  assert.ok(received > 0);
});

test('Node.js is killed: Rust has a prefix, every port ends, and nothing stays', (context) => {
  const args = ['parent', `${rounds}`, `${seed}`, process.execPath, role, 'exchange', '1000000000'];
  const { status, stdout, stderr } = spawnSync(exchange, args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  context.diagnostic(stdout.trim());
  assert.match(stdout, /^[1-9]\d* received/);
});

test('every message arrives at both ends, with ports and buffers', async (context) => {
  const run = async (count) => {
    const file = join(folder, 'posted');
    worker = spawn(exchange, ['child', `${count}`, file]);
    const done = new Exchange(worker.port, count, ({ isComplete }) => {
      if (isComplete) worker.port.close();
    });
    assert.deepEqual(await once(worker, 'exit'), [0, null]);
    assert.ok(done.isComplete);
    assert.equal(Number(readFileSync(file).readBigUInt64LE()), count);
  };
  await run(1000);
  const expected = await settled();
  await run(messages);
  const now = await settled(expected);
  context.diagnostic(`before ${JSON.stringify(expected)}, after ${JSON.stringify(now)}`);
  assert.ok(isSame(now, expected), `${JSON.stringify(now)} after ${JSON.stringify(expected)}`);
});
