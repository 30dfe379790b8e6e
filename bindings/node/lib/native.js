'use strict';
// The native part. Node.js keeps one copy of the library for all threads; its state hangs on each
// environment that loads it.

let native;
try {
  native = require('../messageport.node');
} catch (cause) {
  throw new Error('the native part of messageport cannot be loaded: expected messageport.node ' +
    'for this system; build it with `npm run build` in the package, which needs Rust', { cause });
}

/** Calls that fail for reasons outside of the program: their errors have a code. */
const CODED = [
  'allocShared', 'channel', 'connect', 'copyShared', 'intoDescriptor', 'join', 'listen',
  'parentPort',
];

/** The error of the native part, whose text has a line with the code before it, or has none. */
function withCode({ message }, caller) {
  const [, code, text] = /^([A-Z_]+)\n([^]*)$/.exec(message) ?? [undefined, undefined, message];
  const error = new Error(text);
  if (code !== undefined) error.code = code;
  Error.captureStackTrace(error, caller);
  return error;
}

function coded(call) {
  return function caller(...list) {
    let answer;
    try {
      answer = call(...list);
    } catch (error) {
      throw withCode(error, caller);
    }
    if (!(answer instanceof Promise)) return answer;
    // Where the call was made: the promise is rejected from a callback of the loop.
    const { stack } = withCode({ message: '' }, caller);
    return answer.catch((error) => {
      const made = withCode(error, caller);
      made.stack = stack.replace(/^Error/, () => `Error: ${made.message}`);
      throw made;
    });
  };
}

module.exports = { ...native };
for (const name of CODED) module.exports[name] = coded(native[name]);
