// The classes of the web, over the functions of the host. A port is a number there.
const ports = new Map();

class MessagePort {
  #handle;
  #onmessage = null;
  onclose = null;

  constructor(handle) {
    this.#handle = handle;
    ports.set(handle, this);
  }
  postMessage(data, transfer = []) {
    // The ports move only if the post succeeds: after an error the script still has them.
    host.post(this.#handle, JSON.stringify(data), transfer.map((port) => port.#handle));
    for (const port of transfer) ports.delete(port.#handle);
  }
  get onmessage() {
    return this.#onmessage;
  }
  set onmessage(handler) {
    this.#onmessage = handler;
    host.start(this.#handle);
  }
  close() {
    ports.delete(this.#handle);
    host.close(this.#handle);
  }
}

class MessageChannel {
  constructor() {
    [this.port1, this.port2] = host.channel().map((handle) => new MessagePort(handle));
  }
}

// The host calls this with each event.
function deliver(handle, type, text, handles) {
  const port = ports.get(handle);
  if (type === "close") {
    ports.delete(handle);
    return port?.onclose?.({ target: port });
  }
  const moved = handles.map((moved) => new MessagePort(moved));
  return port?.onmessage?.({ target: port, data: JSON.parse(text), ports: moved });
}

const print = host.print;
