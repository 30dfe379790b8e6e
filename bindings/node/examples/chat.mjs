// A chat of members in JavaScript and Rust, by a BroadcastChannel.
//
//   cargo build --release --example peer && node examples/chat.mjs [PEER]
import { BroadcastChannel, spawn } from 'messageport';
import { fileURLToPath } from 'node:url';

const built = fileURLToPath(new URL('../target/release/examples/peer', import.meta.url));
const name = `chat-example-${process.pid}`;
const channel = new BroadcastChannel(name);
spawn(process.argv[2] ?? built, ['chat', name]);

channel.onmessage = ({ data }) => {
  console.log(data);
  if (data === 'rust: joined') channel.postMessage('node: hello');
  if (data === 'rust: welcome') {
    channel.postMessage('end');
    channel.close();
  }
};
