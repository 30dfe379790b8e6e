'use strict';
// The values that arrive at a port or a channel, one after the other.

/** Values that are kept here at most; the rest waits in the ring. */
const MOST = 64;

/** An async iterator. It takes the messages: listeners of the same port get them as well. */
class Values {
  #target;
  #setStarted;
  #values = [];
  #waiting = [];
  #hasEnded = false;
  #isStopped = false;
  #onMessage = (event) => this.#push({ value: event.data });
  #onError = (event) => this.#push({ error: event.data });
  #onClose = () => this.#end();

  /**
   * @param {EventTarget} target
   * @param {{isOver: boolean, setStarted: function(boolean)}} state whether the end has come
   *   already, and what stops and starts the delivery
   */
  constructor(target, { isOver, setStarted }) {
    this.#target = target;
    this.#setStarted = setStarted;
    // No `close` will come any more.
    this.#hasEnded = isOver;
    if (isOver) return;
    target.addEventListener('message', this.#onMessage);
    target.addEventListener('messageerror', this.#onError);
    target.addEventListener('close', this.#onClose);
  }

  #push(item) {
    const waiter = this.#waiting.shift();
    if (waiter !== undefined) {
      settle(waiter, item);
      return;
    }
    this.#values.push(item);
    if (this.#values.length >= MOST && !this.#isStopped) {
      this.#isStopped = true;
      this.#setStarted(false);
    }
  }

  #end() {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#target.removeEventListener('message', this.#onMessage);
    this.#target.removeEventListener('messageerror', this.#onError);
    this.#target.removeEventListener('close', this.#onClose);
    for (const waiter of this.#waiting.splice(0)) {
      waiter.resolve({ done: true, value: undefined });
    }
  }

  next() {
    return new Promise((resolve, reject) => {
      const item = this.#values.shift();
      if (item !== undefined) {
        settle({ resolve, reject }, item);
      } else if (this.#hasEnded) {
        resolve({ done: true, value: undefined });
        return;
      } else {
        this.#waiting.push({ resolve, reject });
      }
      if (this.#isStopped && this.#values.length < MOST / 2 && !this.#hasEnded) {
        this.#isStopped = false;
        this.#setStarted(true);
      }
    });
  }

  return(value) {
    this.#values = [];
    this.#end();
    return Promise.resolve({ done: true, value });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

function settle({ resolve, reject }, { value, error }) {
  if (error === undefined) resolve({ done: false, value });
  else reject(error);
}

module.exports = { Values };
