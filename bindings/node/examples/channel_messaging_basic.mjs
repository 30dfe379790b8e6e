// Channel messaging, the basic demonstration: a page and a frame, here two processes. The page
// gives the frame one port of a channel; the frame answers through it.
//
//   node examples/channel_messaging_basic.mjs
import { fork, MessageChannel, parentPort } from 'messageport';

if (process.argv[2] === 'frame') {
  parentPort.onmessage = ({ data, ports: [port] }) => {
    console.log(`frame: ${data}`);
    port.postMessage('Message back from the frame');
    port.close();
  };
} else {
  const frame = fork(new URL(import.meta.url), { args: ['frame'] });
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => console.log(`page: ${data}`);
  port1.onclose = () => frame.port.close();
  frame.postMessage('Hello from the main page!', [port2]);
}
