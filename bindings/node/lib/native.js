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

module.exports = native;
