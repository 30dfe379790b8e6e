// Runs in the first process. `peer` is a port to the second one.
const { port1, port2 } = new MessageChannel();
const heard = [];

port1.onmessage = ({ data }) => {
  heard.push(data);
  print(`main hears ${JSON.stringify(data)}`);
  if (data !== "done") return;
  if (heard.join() !== "2,3,5,7,11,13,17,19,done") throw new Error(`it heard ${heard}`);
  port1.close();
};
peer.onmessage = ({ data }) => print(`the worker says ${data}`);
peer.onclose = () => print("the worker has ended");

// This waits in the port, and moves with it.
port1.postMessage({ below: 20 });
peer.postMessage("find primes", [port2]);

// A port that has moved is no longer the script's, so that this post fails.
let error = null;
try {
  port2.postMessage("late");
} catch (thrown) {
  error = thrown;
}
print(`a post through a port that has moved: ${error.message}`);
