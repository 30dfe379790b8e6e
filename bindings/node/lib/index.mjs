import messageport from './index.js';

export const {
  BroadcastChannel,
  FileDescriptor,
  Listener,
  MessageChannel,
  MessageEvent,
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
