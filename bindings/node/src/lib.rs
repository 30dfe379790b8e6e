//! The native part of the package `messageport`: ports in the event loop of Node.js.
//!
//! It offers plain functions over handles; the classes that a program sees are JavaScript
//! (`lib/`). There is no state per process: everything hangs on the [`Loop`](raw::Loop) that each
//! environment makes when it loads the package, so any number of `worker_threads` and contexts can
//! load it.

mod broadcast;
mod buffer;
mod failure;
mod meet;
mod message;
mod port;
mod raw;
