//! The web's `MessagePort`, between native processes on Linux, at shared-memory speed.
#![allow(dead_code)]
mod error;
mod ring;
mod sync;
mod wire;
