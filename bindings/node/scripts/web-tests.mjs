// Runs web-platform-tests of ports and channels, on Node's own classes and on this package.
//
//   node scripts/web-tests.mjs FOLDER [FILE…]
//
// FOLDER holds a copy of web-platform-tests, or a part of it: `resources/testharness.js`,
// `common` and the tests. The tests are the `*.any.js` files of `webmessaging`, those of
// `structuredClone`, where a port clones the values, and those of streams that move, where a
// channel takes the place of the window. It prints what each passes, and fails if
// Node's own classes pass a test that fails here, unless the test is listed below with a reason.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('./web-tests-child.cjs', import.meta.url));
/** Files and pages outside of `webmessaging`. */
const MORE = [
  'html/webappapis/structured-clone/structured-clone.any.js',
  ...['transform-stream-members.any.js', 'readable-stream.html', 'writable-stream.html',
    'transform-stream.html', 'reason.html'].map((name) => `streams/transferable/${name}`),
];

/** Tests that Node's own classes pass, and why they fail here. */
const deviations = [
  [/should not have an onclose event handler/,
    'the test is older than `onclose` in the HTML standard, which goes with the event `close`'],
  [/window.postMessage should be able to transfer a TransformStream/,
    'the streams of a TransformStream that has arrived are properties of its own'],
];

const [, , folderArgument, ...wanted] = process.argv;
if (folderArgument === undefined) {
  console.error('usage: node scripts/web-tests.mjs FOLDER [FILE…]\n\n' +
    'FOLDER is a copy of web-platform-tests, or the part that the source of Node.js has in ' +
    'test/fixtures/wpt');
  process.exit(2);
}
const folder = resolve(folderArgument);

function filesBelow(path) {
  return readdirSync(path, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.any.js'))
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)))
    .toSorted();
}

/** The outcome of each test of a file: a map of names. */
function run(file, classes) {
  const { stdout, stderr } = spawnSync(process.execPath,
    ['--expose-gc', '--no-warnings', child, folder, file, classes],
    { encoding: 'utf8', timeout: 60_000 });
  const line = stdout.split('\n').findLast((text) => text.startsWith('{"results"'));
  if (line === undefined) return new Map([['the file', { passes: false, why: stderr }]]);
  return new Map(JSON.parse(line).results.map(({ name, ...result }) => [name, result]));
}

const files = wanted.length > 0 ? wanted : [
  ...filesBelow(join(folder, 'webmessaging')),
  ...MORE.filter((file) => existsSync(join(folder, file))),
];
const sums = { tests: 0, node: 0, here: 0 };
const notes = [];
const reasons = new Map();
let unexpected = 0;
console.log('| File | Tests | Node.js passes | messageport passes |\n| --- | ---: | ---: | ---: |');
for (const file of files) {
  const [node, here] = [run(file, 'node'), run(file, 'messageport')];
  const names = new Set([...node.keys(), ...here.keys()]);
  const count = (results) => [...results.values()].filter(({ passes }) => passes).length;
  console.log(`| ${file} | ${names.size} | ${count(node)} | ${count(here)} |`);
  sums.tests += names.size;
  sums.node += count(node);
  sums.here += count(here);
  for (const name of names) {
    const [there, ours] = [node.get(name), here.get(name)];
    const [passesThere, passesHere] = [there, ours].map((result) => result?.passes ?? false);
    if (passesThere === passesHere) {
      if (wanted.length > 0 && !passesHere) notes.push(`both fail: ${name}: ${ours?.why}`);
      continue;
    }
    const reason = deviations.find(([text]) => text.test(name))?.[1];
    if (passesThere && reason === undefined) unexpected += 1;
    if (passesThere && reason !== undefined) {
      reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
      continue;
    }
    notes.push(passesThere ? `fails here: ${file}: ${name}: ${ours?.why}` :
      `passes here alone: ${file}: ${name}: ${there?.why}`);
  }
}
console.log(`| all | ${sums.tests} | ${sums.node} | ${sums.here} |\n\n${notes.join('\n')}`);
for (const [reason, count] of reasons) console.log(`${count} fail here: ${reason}`);
console.log(`${unexpected} unexpected results`);
process.exit(unexpected === 0 ? 0 : 1);
