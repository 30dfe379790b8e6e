import type { ChildProcess, SpawnOptions as ChildOptions } from 'node:child_process';
import type { EventEmitter } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import type * as web from 'node:stream/web';

/** What can be in a transfer list. */
export type Transferable =
  | MessagePort | ArrayBuffer | FileDescriptor
  | ReadableStream | WritableStream | TransformStream
  // Where the types of browsers are in use, too, those of Node.js are others.
  | web.ReadableStream | web.WritableStream | web.TransformStream;

/** A transfer list, or an object with one. */
export type TransferOptions = readonly Transferable[] | { transfer?: readonly Transferable[] };

/** Plain data, which programs in other languages read. */
export type PlainData =
  | null | undefined | boolean | number | bigint | string | Date
  | ArrayBuffer | ArrayBufferView
  | readonly PlainData[] | { readonly [key: string]: PlainData }
  | ReadonlyMap<PlainData, PlainData> | ReadonlySet<PlainData>;

/** `T`, if it is plain data: unlike `PlainData` also of an interface, which has no index. */
export type Plain<T> =
  T extends PlainData ? T :
    T extends ((...list: any[]) => any) | symbol ? never :
      { [K in keyof T]: Plain<T[K]> };

/** The event of a message. */
export interface PortMessageEvent<T = any> extends Event {
  readonly data: T;
  readonly ports: readonly MessagePort[];
  /** All `ArrayBuffer`s that came as memory of their own, in the order of the transfer list. */
  readonly buffers: readonly ArrayBuffer[];
  readonly descriptors: readonly FileDescriptor[];
  readonly lastEventId: string;
  readonly origin: string;
  readonly source: MessagePort | null;
}

export type MessageEvent<T = any> = PortMessageEvent<T>;

/** As Node's, and its `ports` and `source` can be ports of this package. */
export const MessageEvent: {
  new <T = any>(type: string, init?: {
    data?: T;
    lastEventId?: string;
    origin?: string;
    ports?: Iterable<MessagePort>;
    source?: MessagePort | null;
  }): PortMessageEvent<T>;
  readonly prototype: PortMessageEvent;
};

interface PortEvents {
  message: PortMessageEvent;
  messageerror: PortMessageEvent;
  close: Event;
}

type ListenerOf<T> = ((event: T) => void) | { handleEvent(event: T): void };

type Handler<T> = ((event: T) => void) | null;

/** What ports and broadcast channels have in common: an `EventTarget` and an emitter at once. */
declare class MessageTarget extends EventTarget {
  onmessage: Handler<PortMessageEvent>;
  onmessageerror: Handler<PortMessageEvent>;
  addEventListener<K extends keyof PortEvents>(
    type: K, listener: ListenerOf<PortEvents[K]> | null,
    options?: Parameters<EventTarget['addEventListener']>[2],
  ): void;
  addEventListener(...list: Parameters<EventTarget['addEventListener']>): void;
  removeEventListener<K extends keyof PortEvents>(
    type: K, listener: ListenerOf<PortEvents[K]> | null,
    options?: Parameters<EventTarget['removeEventListener']>[2],
  ): void;
  removeEventListener(...list: Parameters<EventTarget['removeEventListener']>): void;
  on(type: 'message' | 'messageerror', listener: (value: any) => void): this;
  on(type: 'close', listener: () => void): this;
  once(type: 'message' | 'messageerror', listener: (value: any) => void): this;
  once(type: 'close', listener: () => void): this;
  addListener(type: string, listener: (value: any) => void): this;
  off(type: string, listener: (value: any) => void): this;
  removeListener(type: string, listener: (value: any) => void): this;
  removeAllListeners(type?: string): this;
  listenerCount(type: string): number;
  eventNames(): string[];
  [Symbol.asyncIterator](): AsyncIterableIterator<any>;
}

/** One end of a channel, in this process or another one. */
export class MessagePort extends MessageTarget {
  private constructor();
  onclose: Handler<Event>;
  /** Posts a structured clone. Small plain data can be read by programs in other languages. */
  postMessage(value: any, options?: TransferOptions): void;
  /** Posts plain data of any length for programs in other languages. */
  postValue<T>(value: T & Plain<T>, options?: TransferOptions): void;
  start(): void;
  close(callback?: () => void): void;
  ref(): void;
  unref(): void;
  hasRef(): boolean;
}

export interface ChannelOptions {
  /** Bytes that may wait in each direction: 64 MiB unless another number is given. */
  limit?: number;
}

/** Two ports: what is posted at one arrives at the other. */
export class MessageChannel {
  constructor(options?: ChannelOptions);
  readonly port1: MessagePort;
  readonly port2: MessagePort;
}

/** All programs of this user that joined a name. */
export class BroadcastChannel extends MessageTarget {
  constructor(name: string);
  readonly name: string;
  postMessage(value: any): void;
  close(): void;
  ref(): this;
  unref(): this;
}

/** Takes the next message, if there is one, without an event. */
export function receiveMessageOnPort(
  port: MessagePort | BroadcastChannel,
): { message: any } | undefined;

/** The port to the process that started this one, or null. */
export const parentPort: MessagePort | null;

/** Memory that moves to another process without a copy. */
export const SharedBuffer: {
  readonly alloc: (length: number) => ArrayBuffer;
  readonly isShared: (buffer: ArrayBuffer) => boolean;
};

/** An open file descriptor that can be in a transfer list. */
export class FileDescriptor {
  constructor(fd: number);
  readonly fd: number;
  close(): void;
}

export interface SpawnOptions extends ChildOptions, ChannelOptions {}

export interface ForkOptions extends SpawnOptions {
  args?: readonly string[];
  execArgv?: readonly string[];
  execPath?: string;
}

export interface ExitState {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A child process with a port to it. */
export class Worker extends EventEmitter {
  private constructor();
  readonly port: MessagePort;
  readonly process: ChildProcess;
  readonly pid: number | undefined;
  readonly exited: Promise<ExitState>;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  postMessage(value: any, options?: TransferOptions): void;
  terminate(): Promise<ExitState>;
  ref(): this;
  unref(): this;
  on(type: 'message' | 'messageerror', listener: (value: any) => void): this;
  on(type: 'exit', listener: (code: number | null, signal: NodeJS.Signals | null) => void): this;
  on(type: 'error', listener: (error: Error) => void): this;
  on(type: 'online', listener: () => void): this;
  on(type: string, listener: (...args: any[]) => void): this;
}

/** Starts a program with a port to it. */
export function spawn(command: string, options?: SpawnOptions): Worker;
export function spawn(
  command: string, args: readonly string[] | null | undefined, options?: SpawnOptions,
): Worker;

/** Starts a module of JavaScript in another process, whose `parentPort` is the port to this one. */
export function fork(modulePath: string | URL, options?: ForkOptions): Worker;

export interface PeerCredentials {
  pid?: number;
  uid?: number;
  gid?: number;
}

/** Listens under a name. */
export class Listener extends EventEmitter {
  private constructor();
  readonly name: string;
  close(): void;
  ref(): this;
  unref(): this;
  on(type: 'connection', listener: (port: MessagePort, peer: PeerCredentials) => void): this;
  on(type: 'error', listener: (error: Error) => void): this;
  on(type: 'close', listener: () => void): this;
  on(type: string, listener: (...args: any[]) => void): this;
  [Symbol.asyncIterator](): AsyncGenerator<MessagePort, void>;
}

type OnConnection = (port: MessagePort, peer: PeerCredentials) => void;
export function listen(name: string, onConnection?: OnConnection): Listener;
export function listen(
  name: string, options?: ChannelOptions, onConnection?: OnConnection,
): Listener;

/** Connects to the program that listens under a name. `timeout` is in milliseconds. */
export function connect(name: string, options?: { timeout?: number }): Promise<MessagePort>;
