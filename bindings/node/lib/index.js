'use strict';

const { MessageChannel, MessagePort, receiveMessageOnPort: receiveOnPort } = require('./port.js');
const { MessageEvent } = require('./events.js');
const { BroadcastChannel, isMember, receiveBroadcast } = require('./broadcast.js');
const { FileDescriptor, SharedBuffer } = require('./transfer.js');
const { Listener, connect, listen } = require('./names.js');
const { Worker, fork, parentPort, spawn } = require('./process.js');

/** Takes the next message of a port or a broadcast channel, if there is one. */
function receiveMessageOnPort(port) {
  return isMember(port) ? receiveBroadcast(port) : receiveOnPort(port);
}

module.exports = {
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
};
