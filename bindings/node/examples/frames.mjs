// A parent in JavaScript with a worker in Rust that inverts the pixels of frames. The frames move
// in memory of their own, and none is copied.
//
//   cargo build --release --example peer && node examples/frames.mjs [PEER] [FRAMES]
import { SharedBuffer, spawn } from 'messageport';
import { fileURLToPath } from 'node:url';

const WIDTH = 1280;
const HEIGHT = 720;
const built = fileURLToPath(new URL('../target/release/examples/peer', import.meta.url));
const [, , peer = built, count = '10'] = process.argv;

const worker = spawn(peer, ['frames']);
let number = 0;

function send() {
  const frame = SharedBuffer.alloc(WIDTH * HEIGHT);
  new Uint8Array(frame).fill(number);
  worker.port.postMessage(new Uint8Array([number]), [frame]);
}

worker.port.onmessage = ({ data: [answered], buffers: [frame] }) => {
  const isInverted = new Uint8Array(frame).every((pixel) => pixel === 255 - answered);
  console.log(`frame ${answered}: ${isInverted ? 'inverted' : 'WRONG'}`);
  number += 1;
  if (number < Number(count)) send();
  else worker.port.close();
};
send();
