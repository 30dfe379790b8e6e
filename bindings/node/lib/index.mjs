import messageport from './index.js';

export const {
  BroadcastChannel,
  FileDescriptor,
  Listener,
  MessageChannel,
  MessagePort,
  SharedBuffer,
  Worker,
  connect,
  fork,
  listen,
  parentPort,
  receiveMessageOnPort,
  spawn,
} = messageport;

export default messageport;
