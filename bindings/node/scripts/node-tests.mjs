// Runs Node's own tests of ports and channels against this package.
//
//   node scripts/node-tests.mjs [FILE…]
//
// It downloads the source of Node.js that Debian has into `node-tests/`, which is not part of the
// repository, and runs each test with the classes of this package in place of Node's. It fails if
// a test fails that is not listed below with a reason, or passes although it is.
import { spawnSync } from 'node:child_process';
import {
  existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSION = '20.19.2';
const SOURCE = 'http://deb.debian.org/debian/pool/main/n/nodejs/' +
  `nodejs_${VERSION}+dfsg.orig.tar.xz`;
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'node-tests', VERSION);
const preload = join(root, 'scripts/node-tests-preload.cjs');
const TESTS =
  /^test-(message(channel|event|port)|broadcastchannel|worker-message|structuredClone).*js$/;

/** Tests whose ports move to a `Worker`, which is another process here. */
const IN_PROCESSES = new Set([
  'test-worker-message-channel.js',
  'test-worker-message-port-message-before-close.js',
  'test-worker-message-port-transfer-terminate.js',
  'test-worker-message-port-wasm-module.js',
]);

/** Why a test cannot pass, or is not about ports. */
const NO_OBJECT = 'objects of Node that are made to be cloned or moved do not cross';
const SHARED = 'memory that several processes write to does not exist here';
const CONTEXT = 'it moves a port to a context of `vm`';
const deviations = {
  'test-worker-message-port-close.js': CONTEXT,
  'test-worker-message-port-jstransferable-nested-untransferable.js': NO_OBJECT,
  'test-worker-message-port-move.js': CONTEXT,
  'test-worker-message-port-multiple-sharedarraybuffers.js': SHARED,
  'test-worker-message-port-transfer-fake-js-transferable-internal.js': NO_OBJECT,
  'test-worker-message-port-transfer-fake-js-transferable.js': NO_OBJECT,
  'test-worker-message-port-transfer-filehandle.js': NO_OBJECT,
  'test-worker-message-port-wasm-module.js': 'a module of WebAssembly does not give its bytes',
  'test-worker-message-port-wasm-threads.js': SHARED,
  'test-worker-message-port.js': 'it lists the properties of a port, and `onclose` is one more',
};

async function download() {
  if (existsSync(folder)) return;
  const response = await fetch(SOURCE);
  if (!response.ok) throw new Error(`${SOURCE} answered ${response.status}`);
  const unpacked = `${folder}.new`;
  mkdirSync(unpacked, { recursive: true });
  const archive = join(root, 'node-tests', 'source.tar.xz');
  writeFileSync(archive, Buffer.from(await response.arrayBuffer()));
  const tar = spawnSync('tar', ['xJf', archive, '-C', unpacked, '--strip-components=1',
    '--wildcards', '*/test/parallel/*', '*/test/common/*', '*/test/fixtures/keys/*',
    '*/test/fixtures/wpt/*', '*/test/fixtures/*.wasm'],
  { stdio: 'inherit' });
  if (tar.status !== 0) throw new Error('the archive could not be unpacked: tar and xz are needed');
  renameSync(unpacked, folder);
}

function run(name) {
  const file = join(folder, 'test/parallel', name);
  const flags = /^\/\/ Flags: (.*)$/m.exec(readFileSync(file, 'utf8'))?.[1].trim().split(/\s+/);
  const args = ['--require', preload, ...(flags ?? []), file];
  const env = { ...process.env };
  if (IN_PROCESSES.has(name)) env.MESSAGEPORT_TEST_PROCESSES = '1';
  return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000, env });
}

await download();
const wanted = process.argv.slice(2);
const names = wanted.length > 0 ? wanted :
  readdirSync(join(folder, 'test/parallel')).filter((name) => TESTS.test(name));
let unexpected = 0;
for (const name of names) {
  const { status, signal, stderr } = run(name);
  const passes = status === 0;
  const reason = deviations[name];
  if (passes === (reason !== undefined)) unexpected += 1;
  const note = reason === undefined ? '' : `: ${reason}`;
  console.log(`${passes ? 'passes' : 'fails '} ${name}${note}`);
  if (!passes && (reason === undefined || wanted.length > 0)) console.log(signal ?? '', stderr);
}
console.log(`${names.length} tests, ${unexpected} unexpected results`);
process.exit(unexpected === 0 ? 0 : 1);
