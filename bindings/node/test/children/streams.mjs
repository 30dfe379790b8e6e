// The other process of the tests of streams: what it does is its second argument.
import { parentPort } from '../../lib/index.mjs';

const [, , , role] = process.argv;

/** Reads up to `count` chunks, and posts them, or why it cannot. */
async function read(reader, count) {
  const chunks = [];
  try {
    while (chunks.length < count) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
    }
    parentPort.postMessage(chunks);
  } catch ({ name, message }) {
    parentPort.postMessage({ name, message });
  }
}

const roles = {
  read() {
    let reader;
    parentPort.on('message', ({ stream, count }) => {
      reader = stream?.getReader() ?? reader;
      read(reader, count);
    });
  },
  /** Writes 100 chunks at once. Says how many have been taken. */
  write() {
    let taken = 0;
    parentPort.once('message', async ({ stream }) => {
      parentPort.on('message', () => parentPort.postMessage(taken));
      const writer = stream.getWriter();
      for (let chunk = 0; chunk < 100; chunk += 1) {
        writer.write(chunk).then(() => {
          taken += 1;
          if (taken === 1) parentPort.postMessage('first');
        });
      }
      await writer.close();
    });
  },
  stop() {
    parentPort.once('message', async ([readable, writable]) => {
      await readable.cancel({ why: 'enough' });
      await writable.abort(new DOMException('no more', 'AbortError'));
    });
  },
  /** Sends back streams of its own, and is killed. */
  die() {
    parentPort.on('message', ([stream, sink]) => {
      globalThis.kept = [stream.getReader(), sink.getWriter()];
      let number = 0;
      const readable = new ReadableStream({ pull: (to) => to.enqueue(number++) });
      const writable = new WritableStream();
      parentPort.postMessage({ readable, writable }, [readable, writable]);
    });
  },
  /** Posts a stream and has nothing else to do. */
  source() {
    let number = 0;
    const stream = new ReadableStream({
      pull(controller) {
        controller.enqueue(number < 50 ? number : new Uint8Array(3 << 20));
        if (number === 50) controller.close();
        number += 1;
      },
    });
    parentPort.postMessage({ stream }, [stream]);
  },
  /** Gets a stream and has nothing else to do. */
  ignore() {
    parentPort.once('message', (stream) => { globalThis.kept = stream; });
  },
};

roles[role]();
