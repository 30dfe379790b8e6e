// Channel messaging, the second demonstration: several messages through one port, each answered.
//
//   node examples/channel_messaging_multimessage.mjs
import { fork, MessageChannel, parentPort } from 'messageport';

if (process.argv[2] === 'frame') {
  parentPort.once('message', ({ port }) => {
    port.on('message', (text) => port.postMessage(`Message received by the frame: "${text}"`));
  });
} else {
  const frame = fork(new URL(import.meta.url), { args: ['frame'] });
  const { port1, port2 } = new MessageChannel();
  frame.postMessage({ port: port2 }, [port2]);
  for (const text of ['one', 'two', 'three']) port1.postMessage(text);
  let count = 0;
  for await (const answer of port1) {
    console.log(answer);
    count += 1;
    if (count === 3) break;
  }
  port1.close();
  frame.port.close();
}
