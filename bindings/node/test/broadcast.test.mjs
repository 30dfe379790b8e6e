// `BroadcastChannel`, in one process and several.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { BroadcastChannel, fork, receiveMessageOnPort } from '../lib/index.mjs';

const alive = setInterval(() => {}, 1000);
after(() => clearInterval(alive));

const nameOf = (test) => `node-test-${test}-${process.pid}`;

async function next(channel) {
  const [value] = await once(channel, 'message');
  return value;
}

test('every other member receives a message, and never its sender', async () => {
  const channels = [1, 2, 3].map(() => new BroadcastChannel(nameOf('all')));
  const seen = channels.map(() => []);
  channels.forEach((channel, index) => {
    channel.onmessage = (event) => {
      assert.ok(event instanceof MessageEvent);
      assert.equal(event.target, channel);
      seen[index].push(event.data);
    };
  });
  const done = Promise.all([channels[1], channels[2]].map(next));
  channels[0].postMessage({ a: new Map([[1, 2]]) });
  await done;
  channels[1].postMessage('text');
  await Promise.all([channels[0], channels[2]].map(next));
  const clone = { a: new Map([[1, 2]]) };
  assert.deepEqual(seen, [['text'], [clone], [clone, 'text']]);
  channels.forEach((channel) => channel.close());
});

test('a closed channel is an InvalidStateError, before anything is cloned', () => {
  const channel = new BroadcastChannel(nameOf('closed'));
  assert.throws(() => channel.postMessage(() => {}), { name: 'DataCloneError' });
  assert.throws(() => channel.postMessage(), { code: 'ERR_MISSING_ARGS' });
  channel.close();
  channel.close();
  assert.throws(() => channel.postMessage(() => {}), { name: 'InvalidStateError' });
  assert.throws(() => new BroadcastChannel(), { code: 'ERR_MISSING_ARGS' });
});

test('any name of the web is a name', async () => {
  for (const name of ['', 'with/slash', 'ünï', 'x'.repeat(1000), '../..', '.', 'a b']) {
    const full = `${name}${process.pid}`;
    const [one, other] = [new BroadcastChannel(full), new BroadcastChannel(full)];
    assert.equal(one.name, full);
    const received = next(other);
    one.postMessage(1);
    assert.equal(await received, 1);
    one.close();
    other.close();
  }
});

test('receiveMessageOnPort takes from a channel, too', () => {
  const [one, other] = [1, 2].map(() => new BroadcastChannel(nameOf('take')));
  assert.equal(receiveMessageOnPort(other), undefined);
  one.postMessage([1]);
  assert.deepEqual(receiveMessageOnPort(other), { message: [1] });
  one.close();
  other.close();
});

test('members of several processes', async () => {
  const name = nameOf('processes');
  const channel = new BroadcastChannel(name);
  const members = [1, 2].map(() => (
    fork(new URL('./children/role.mjs', import.meta.url), { args: ['member', name] })));
  await Promise.all(members.map(next));
  const answers = [];
  const done = new Promise((resolve) => {
    channel.on('message', (value) => answers.push(value) === 4 && resolve());
  });
  channel.postMessage({ question: 7 });
  // Each answer reaches the other member as well, which repeats it once.
  await done;
  assert.deepEqual(answers.map(({ answer }) => answer).toSorted(), [8, 8, 9, 9]);
  await Promise.all(members.map((member) => member.terminate()));
  channel.close();
});

test('an unreferenced channel keeps no process alive', async () => {
  const worker = fork(new URL('./children/role.mjs', import.meta.url),
    { args: ['unrefMember', nameOf('unref')] });
  assert.deepEqual(await once(worker, 'exit'), [0, null]);
});
