// Runs in the second process, and ends when the port that it is given closes.
const isPrime = async (number) => {
  for (let factor = 2; factor * factor <= number; factor += 1) {
    if (number % factor === 0) return false;
  }
  return true;
};

peer.onmessage = ({ data, ports: [port] }) => {
  peer.postMessage(`it starts to ${data}`);
  port.onclose = () => peer.close();
  port.onmessage = async ({ data: { below } }) => {
    for (let number = 2; number < below; number += 1) {
      if (await isPrime(number)) port.postMessage(number);
    }
    port.postMessage("done");
  };
};
