// A plug-in of a Rust program: doubles the pixels that it gets.
import { parentPort, SharedBuffer } from '../../lib/index.mjs';

parentPort.addEventListener('message', (event) => {
  if (event.data !== 'pixels') {
    parentPort.postMessage('hello from JavaScript');
    return;
  }
  const [pixels] = event.buffers;
  const doubled = SharedBuffer.alloc(pixels.byteLength);
  new Uint8Array(doubled).set(new Uint8Array(pixels).map((pixel) => 2 * pixel));
  // A text with a transfer list is a clone; Rust reads text, so it is posted as text.
  parentPort.postMessage('pixels', [doubled]);
});
