//! `SharedBuffer`: memory that JavaScript fills and that moves without a copy.

use crate::failure::fail_with_code;
use crate::port::Handle;
use crate::raw::{self, Scope, Value};
use messageport::Buffer;
use napi::bindgen_prelude::{External, Object};
use napi::{Env, Result};
use napi_derive::napi;
use std::cell::RefCell;
use std::rc::Rc;

/// Makes memory of `len` zero bytes: its handle, and the `ArrayBuffer` over it.
#[napi]
pub fn alloc_shared(env: &Env, len: f64) -> Result<Value<'_>> {
    let scope = Scope::of_call(env);
    let buffer = Buffer::new(len as usize).map_err(fail_with_code)?;
    let cell = Rc::new(RefCell::new(Some(buffer)));
    let Some(array) = scope.array_buffer_of_shared(&cell) else {
        return Err(napi::Error::from_reason(NOT_ALLOWED));
    };
    let handle = scope.handle(External::new(Handle::Buffer(cell)));
    Ok(scope.array(&[handle, array]))
}

/// Makes memory with a copy of the bytes, which has only a handle.
#[napi]
pub fn copy_shared(bytes: &[u8]) -> Result<External<Handle>> {
    let buffer = Buffer::from_slice(bytes).map_err(fail_with_code)?;
    Ok(External::new(Handle::Buffer(Rc::new(RefCell::new(Some(buffer))))))
}

/// Takes the memory away from an `ArrayBuffer`.
#[napi]
pub fn detach(env: &Env, buffer: Object<'_>) -> Result<()> {
    raw::detach(env, &buffer)
}

const NOT_ALLOWED: &str = "this program allows no memory from outside its heap, as Electron does: \
                           make an ArrayBuffer, which is copied when it moves";
