//! Everything that is unsafe: libuv, and those calls of Node-API that `napi` does not wrap.
//!
//! A [`Watch`] lets the loop of this thread wait for one descriptor and calls its [`Source`] when
//! there may be something to deliver. It has a handle of libuv that polls the descriptor. One more
//! handle, of the loop, runs in every turn while watches are kicked: those that have just started,
//! and those for which more is waiting than fits one turn.
//!
//! INVARIANT (thread): all of this is used by the thread that owns the environment. Nothing here is
//! `Send`, and libuv calls back on the thread that runs its loop.
//! INVARIANT (alive): while a handle of libuv is open, its data is one strong count of its `Inner`
//! or `LoopInner`, which the callback of `uv_close` gives back together with the handle's memory.
//! INVARIANT (environment): no call is made after the environment's cleanup hook has run:
//! `is_ending` is checked first, and the hook closes every watch.
#![allow(unsafe_code)]

use messageport::Buffer;
use napi::bindgen_prelude::{Function, JsValue, Object, ToNapiValue, TypeName};
use napi::{Env, Error, Result, Status, ValueType, sys};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::rc::{Rc, Weak};

/// What a watch delivers from.
pub trait Source {
    /// Delivers what is there, up to a fair share.
    fn turn(&self, calls: &Calls<'_>) -> Turn;
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more is there: wait for the descriptor.
    Wait,
    /// There may be more: go on in the next turn of the loop.
    More,
    /// Do not wait for the descriptor until the next `kick`.
    Stop,
}

/// The loop of one environment, and the function of the JavaScript part that takes events.
#[derive(Clone)]
pub struct Loop(Rc<LoopInner>);

struct LoopInner {
    env: sys::napi_env,
    uv: *mut sys::uv_loop_s,
    dispatch: Cell<sys::napi_ref>,
    /// An `ArrayBuffer` for short contents: they are read before the next one is written.
    scratch: Cell<sys::napi_ref>,
    watches: RefCell<Vec<Weak<Inner>>>,
    /// Runs while watches are kicked. It keeps the loop alive while one of them does.
    idle: Handle,
    /// Watches that are kicked, in the order in which they take their turns.
    kicked: RefCell<VecDeque<Weak<Inner>>>,
    /// How many of them keep the loop alive.
    kicked_refs: Cell<usize>,
    /// Handles of libuv whose memory is not given back yet.
    open_handles: Cell<usize>,
    is_ending: Cell<bool>,
    /// The cleanup hook has run: no call is made any more.
    has_ended: Cell<bool>,
    hook: Cell<sys::napi_async_cleanup_hook_handle>,
}

impl Loop {
    /// The loop of this environment. `dispatch` is called for each event, with the target as
    /// `this`. `scratch` is an `ArrayBuffer` in which short contents are handed over.
    pub fn new(env: &Env, dispatch: &Function<'_>, scratch: &Object<'_>) -> Result<Loop> {
        let mut uv = ptr::null_mut();
        // SAFETY: (thread) `env` is the environment of the running call.
        check(unsafe { sys::napi_get_uv_event_loop(env.raw(), &mut uv) }, "the event loop")?;
        let [mut reference, mut memory] = [ptr::null_mut(); 2];
        // SAFETY: (thread) the function is a value of the running call.
        let made =
            unsafe { sys::napi_create_reference(env.raw(), dispatch.raw(), 1, &mut reference) };
        check(made, "a reference")?;
        // SAFETY: (thread) the object is a value of the running call.
        let made = unsafe { sys::napi_create_reference(env.raw(), scratch.raw(), 1, &mut memory) };
        check(made, "a reference")?;
        let idle = Handle::new(UV_IDLE);
        // SAFETY: (thread); the memory has the size that libuv asks for, and the loop is alive.
        unsafe { uv_idle_init(uv, idle.0) };
        // SAFETY: (thread); the handle was just initialised.
        unsafe { uv_unref(idle.0) };
        let inner = Rc::new(LoopInner {
            env: env.raw(),
            uv,
            idle,
            kicked_refs: Cell::new(0),
            dispatch: Cell::new(reference),
            scratch: Cell::new(memory),
            watches: RefCell::default(),
            kicked: RefCell::default(),
            open_handles: Cell::new(1),
            is_ending: Cell::new(false),
            has_ended: Cell::new(false),
            hook: Cell::new(ptr::null_mut()),
        });
        let data = Rc::into_raw(inner.clone()).cast_mut().cast();
        // SAFETY: (thread); (alive) the handle owns the count from here on.
        unsafe { uv_handle_set_data(idle.0, data) };
        let data = Rc::into_raw(inner.clone()).cast_mut().cast::<c_void>();
        let mut hook = ptr::null_mut();
        // SAFETY: the data is a strong count, which the hook takes over when the environment ends.
        let added = unsafe {
            sys::napi_add_async_cleanup_hook(env.raw(), Some(on_cleanup), data, &mut hook)
        };
        check(added, "a cleanup hook")?;
        inner.hook.set(hook);
        Ok(Loop(inner))
    }

    fn forget_closed(&self) {
        self.0.watches.borrow_mut().retain(|watch| watch.strong_count() > 0);
    }
}

impl LoopInner {
    /// Gives the kicked watches their turns, in their order, so that ports deliver in the order in
    /// which they were started.
    fn run_kicked(&self) {
        let count = self.kicked.borrow().len();
        for _ in 0..count {
            let next = self.kicked.borrow_mut().pop_front();
            let Some(next) = next.and_then(|watch| watch.upgrade()) else { break };
            next.is_queued.set(false);
            next.count_ref(-1);
            next.run();
        }
        self.update_idle();
    }

    /// Has the loop call while watches are kicked.
    fn update_idle(&self) {
        if self.is_ending.get() {
            return;
        }
        let set = if self.kicked_refs.get() > 0 { uv_ref } else { uv_unref };
        // SAFETY: (thread), (alive): the handle is closed when the environment ends.
        unsafe { set(self.idle.0) };
        let answer = if self.kicked.borrow().is_empty() {
            // SAFETY: as above.
            unsafe { uv_idle_stop(self.idle.0) }
        } else {
            // SAFETY: as above; a handle that runs already stays as it is.
            unsafe { uv_idle_start(self.idle.0, on_idle) }
        };
        debug_assert_eq!(answer, 0);
    }

    /// A handle's memory was given back. After the last one, a cleanup that waits may end.
    fn handle_closed(&self) {
        self.open_handles.set(self.open_handles.get() - 1);
        self.end_if_done();
    }

    fn end_if_done(&self) {
        let hook = self.hook.get();
        if self.is_ending.get() && self.open_handles.get() == 0 && !hook.is_null() {
            self.hook.set(ptr::null_mut());
            // SAFETY: the hook was added by `new`, and is removed once, as it is forgotten here.
            unsafe { sys::napi_remove_async_cleanup_hook(hook) };
        }
    }
}

/// The environment ends: closes all handles, and lets it go on when libuv has closed them.
unsafe extern "C" fn on_cleanup(_: sys::napi_async_cleanup_hook_handle, data: *mut c_void) {
    // SAFETY: `Loop::new` has left this strong count here, and the hook runs once.
    let inner = unsafe { Rc::from_raw(data.cast_const().cast::<LoopInner>()) };
    inner.is_ending.set(true);
    let watches = inner.watches.take();
    for watch in watches.iter().filter_map(Weak::upgrade) {
        watch.close();
    }
    // SAFETY: (thread), (alive): it is closed once, as the hook runs once.
    unsafe { uv_close(inner.idle.0, on_idle_closed) };
    for reference in [&inner.dispatch, &inner.scratch] {
        let reference = reference.replace(ptr::null_mut());
        // SAFETY: (environment) it still exists while its hooks run; each is deleted once.
        unsafe { sys::napi_delete_reference(inner.env, reference) };
    }
    inner.has_ended.set(true);
    inner.end_if_done();
}

/// One descriptor that the loop waits for.
pub struct Watch(Rc<Inner>);

struct Inner {
    this: Weak<Inner>,
    of: Rc<LoopInner>,
    poll: Handle,
    /// Weak: the watch keeps no JavaScript object alive.
    target: Cell<sys::napi_ref>,
    /// `None` once it is closed.
    context: RefCell<Option<Context>>,
    source: Weak<dyn Source>,
    is_polling: Cell<bool>,
    /// It keeps the loop alive.
    is_referenced: Cell<bool>,
    /// It is in `LoopInner::kicked`.
    is_queued: Cell<bool>,
    is_closed: Cell<bool>,
}

impl Watch {
    /// Watches a descriptor, from the first `kick` on. Events go to `target`.
    ///
    /// The descriptor stays open until the watch is dropped.
    pub fn new(
        of: &Loop,
        descriptor: BorrowedFd<'_>,
        source: Weak<dyn Source>,
        target: &Object<'_>,
        context: Context,
    ) -> Result<Watch> {
        let of = of.0.clone();
        if of.is_ending.get() {
            return Err(Error::from_reason(
                "the environment ends: no port can be watched any more",
            ));
        }
        let poll = Handle::new(UV_POLL);
        // SAFETY: (thread); the memory has the size that libuv asks for, and the loop is alive.
        let answer = unsafe { uv_poll_init(of.uv, poll.0, descriptor.as_raw_fd()) };
        if answer != 0 {
            poll.free(UV_POLL);
            let text = format!("libuv refused to watch a descriptor (error {answer})");
            return Err(Error::from_reason(text));
        }
        let target = weak_reference(of.env, target);
        let inner = Rc::new_cyclic(|this| Inner {
            this: this.clone(),
            of: of.clone(),
            poll,
            target: Cell::new(target),
            context: RefCell::new(Some(context)),
            source,
            is_polling: Cell::new(false),
            is_referenced: Cell::new(true),
            is_queued: Cell::new(false),
            is_closed: Cell::new(false),
        });
        let data = Rc::into_raw(inner.clone()).cast_mut().cast();
        // SAFETY: the handle was just initialised; (alive) it owns the count from here on.
        unsafe { uv_handle_set_data(poll.0, data) };
        of.open_handles.set(of.open_handles.get() + 1);
        of.watches.borrow_mut().push(Rc::downgrade(&inner));
        Ok(Watch(inner))
    }

    /// Has the source take a turn soon, and wait for the descriptor afterwards.
    pub fn kick(&self) {
        self.0.set_kicked(true);
    }

    /// Whether waiting keeps the loop alive.
    pub fn set_ref(&self, is_referenced: bool) {
        let inner = &self.0;
        if inner.is_closed.get() || inner.is_referenced.get() == is_referenced {
            return;
        }
        if inner.is_queued.get() {
            inner.count_ref(-1);
        }
        inner.is_referenced.set(is_referenced);
        if inner.is_queued.get() {
            inner.count_ref(1);
        }
        let set = if is_referenced { uv_ref } else { uv_unref };
        // SAFETY: (thread), (alive): the handle is not closed.
        unsafe { set(inner.poll.0) };
        inner.of.update_idle();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let of = Loop(self.0.of.clone());
        self.0.close();
        of.forget_closed();
    }
}

impl Inner {
    fn set_polling(&self, polls: bool) {
        if self.is_closed.get() || self.is_polling.replace(polls) == polls {
            return;
        }
        let poll = self.poll.0;
        let answer = if polls {
            // SAFETY: (thread), (alive): the handle is not closed.
            unsafe { uv_poll_start(poll, UV_READABLE, on_readable) }
        } else {
            // SAFETY: (thread), (alive): the handle is not closed.
            unsafe { uv_poll_stop(poll) }
        };
        debug_assert_eq!(answer, 0);
    }

    fn set_kicked(&self, kicks: bool) {
        if self.is_closed.get() || self.is_queued.get() == kicks {
            return;
        }
        self.set_queued(kicks);
        self.of.update_idle();
    }

    fn set_queued(&self, queues: bool) {
        if self.is_queued.replace(queues) == queues {
            return;
        }
        self.count_ref(if queues { 1 } else { -1 });
        let mut kicked = self.of.kicked.borrow_mut();
        if queues {
            kicked.push_back(self.this.clone());
        } else {
            kicked.retain(|watch| !watch.ptr_eq(&self.this));
        }
    }

    /// It has entered the queue of kicked watches, or left it.
    fn count_ref(&self, change: isize) {
        if self.is_referenced.get() {
            let count = self.of.kicked_refs.get();
            self.of.kicked_refs.set(count.saturating_add_signed(change));
        }
    }

    fn run(&self) {
        let Some(source) = self.source.upgrade() else { return };
        if self.is_closed.get() || self.of.is_ending.get() {
            return;
        }
        let turn = source.turn(&Calls { inner: self, stays: Cell::new(true) });
        self.set_kicked(turn == Turn::More);
        self.set_polling(turn != Turn::Stop);
    }

    fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        self.set_queued(false);
        // SAFETY: (thread), (alive): it is closed once.
        unsafe { uv_close(self.poll.0, on_closed) };
        self.context.take();
        let target = self.target.replace(ptr::null_mut());
        if !target.is_null() {
            // SAFETY: (environment); the reference was made by `new`, and is deleted once.
            unsafe { sys::napi_delete_reference(self.of.env, target) };
        }
    }
}

/// A weak reference to an object. What cannot be made is null, and nothing is called then.
fn weak_reference(env: sys::napi_env, target: &Object<'_>) -> sys::napi_ref {
    let mut reference = ptr::null_mut();
    // SAFETY: (thread) the object is a value of the running call.
    unsafe { sys::napi_create_reference(env, target.raw(), 0, &mut reference) };
    reference
}

/// The async context in which an object gets its events, as `async_hooks` shows it. It keeps the
/// object no more alive than a watch does.
pub struct Context {
    env: sys::napi_env,
    /// Null if it cannot be made; nothing is called in it then.
    raw: sys::napi_async_context,
    of: Weak<LoopInner>,
}

impl Context {
    /// The context of an object. Hooks of the program run in this call.
    pub fn new(of: &Loop, target: &Object<'_>) -> Context {
        let (env, mut raw, mut name) = (of.0.env, ptr::null_mut(), ptr::null_mut());
        let text = RESOURCE.as_bytes();
        // SAFETY: (thread) the text is valid for its length.
        unsafe {
            sys::napi_create_string_utf8(env, text.as_ptr().cast(), text.len() as isize, &mut name)
        };
        // SAFETY: (thread) both are values of the running call.
        unsafe { sys::napi_async_init(env, target.raw(), name, &mut raw) };
        Context { env, raw, of: Rc::downgrade(&of.0) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let is_alive = self.of.upgrade().is_some_and(|of| !of.has_ended.get());
        if is_alive && !self.raw.is_null() {
            // SAFETY: (environment); the context was made by `new`, and is destroyed once.
            unsafe { sys::napi_async_destroy(self.env, self.raw) };
        }
    }
}

/// Calls into JavaScript during a turn.
pub struct Calls<'i> {
    inner: &'i Inner,
    stays: Cell<bool>,
}

impl Calls<'_> {
    /// Makes the arguments of one event and calls the dispatcher with them. Microtasks run before
    /// it returns. Returns whether more may be delivered.
    ///
    /// Without arguments nothing is called.
    pub fn deliver(
        &self,
        arguments: impl for<'s> FnOnce(&Scope<'s>) -> Option<Vec<Value<'s>>>,
    ) -> bool {
        let env = self.inner.of.env;
        let mut handle = ptr::null_mut();
        // SAFETY: (thread), (environment).
        if unsafe { sys::napi_open_handle_scope(env, &mut handle) } != sys::Status::napi_ok {
            return false;
        }
        let scratch = self.inner.of.scratch.get();
        if let Some(values) = arguments(&Scope { env, scratch, scope: PhantomData }) {
            self.call(&values);
        }
        // SAFETY: it was opened above, and no value of it is used after this.
        unsafe { sys::napi_close_handle_scope(env, handle) };
        self.stays.get() && !self.inner.is_closed.get()
    }

    fn call(&self, values: &[Value<'_>]) {
        let of = &self.inner.of;
        let (env, mut target, mut function) = (of.env, ptr::null_mut(), ptr::null_mut());
        // SAFETY: (environment); both references exist until the watch or the loop is closed.
        unsafe { sys::napi_get_reference_value(env, self.inner.target.get(), &mut target) };
        // SAFETY: as above.
        unsafe { sys::napi_get_reference_value(env, of.dispatch.get(), &mut function) };
        if target.is_null() || function.is_null() {
            return;
        }
        let arguments: Vec<sys::napi_value> = values.iter().map(|value| value.raw).collect();
        let (count, list) = (arguments.len(), arguments.as_ptr());
        let context = self.inner.context.borrow().as_ref().map_or(ptr::null_mut(), |one| one.raw);
        let mut result = ptr::null_mut();
        // SAFETY: (environment); all values are alive in the scope that is open here.
        let status = unsafe {
            sys::napi_make_callback(env, context, target, function, count, list, &mut result)
        };
        if status != sys::Status::napi_ok {
            self.report();
        }
    }

    /// What the dispatcher threw is an uncaught exception. Without one, JavaScript has ended here.
    fn report(&self) {
        let (env, mut error, mut is_thrown) = (self.inner.of.env, ptr::null_mut(), false);
        // SAFETY: (environment).
        unsafe { sys::napi_is_exception_pending(env, &mut is_thrown) };
        if !is_thrown {
            self.stays.set(false);
            return;
        }
        // SAFETY: (environment).
        unsafe { sys::napi_get_and_clear_last_exception(env, &mut error) };
        // SAFETY: (environment); the error is alive in the open scope.
        if unsafe { sys::napi_fatal_exception(env, error) } != sys::Status::napi_ok {
            self.stays.set(false);
        }
    }
}

extern "C" fn on_readable(handle: *mut UvHandle, _: c_int, _: c_int) {
    inner_of(handle).run();
}

extern "C" fn on_idle(handle: *mut UvHandle) {
    // SAFETY: (alive) libuv calls back for handles that are not closed.
    let data = unsafe { uv_handle_get_data(handle) }.cast_const().cast::<LoopInner>();
    // SAFETY: (alive) one more count, which the result gives back.
    unsafe { Rc::increment_strong_count(data) };
    // SAFETY: the count of the line before.
    unsafe { Rc::from_raw(data) }.run_kicked();
}

extern "C" fn on_idle_closed(handle: *mut UvHandle) {
    // SAFETY: (alive) libuv calls this once, as the last use of the handle.
    let data = unsafe { uv_handle_get_data(handle) }.cast_const().cast::<LoopInner>();
    // SAFETY: (alive) the handle's own count.
    let of = unsafe { Rc::from_raw(data) };
    of.idle.free(UV_IDLE);
    of.handle_closed();
}

fn inner_of(handle: *mut UvHandle) -> Rc<Inner> {
    // SAFETY: (alive) libuv calls back for handles that are not closed.
    let data = unsafe { uv_handle_get_data(handle) }.cast_const().cast::<Inner>();
    // SAFETY: (alive) one more count, which the result gives back.
    unsafe { Rc::increment_strong_count(data) };
    // SAFETY: the count of the line before.
    unsafe { Rc::from_raw(data) }
}

extern "C" fn on_closed(handle: *mut UvHandle) {
    // SAFETY: (alive) libuv calls this once, as the last use of the handle.
    let data = unsafe { uv_handle_get_data(handle) }.cast_const().cast::<Inner>();
    // SAFETY: (alive) the handle's own count.
    let inner = unsafe { Rc::from_raw(data) };
    inner.poll.free(UV_POLL);
    inner.of.handle_closed();
}

/// Values that are made inside one handle scope.
pub struct Scope<'s> {
    env: sys::napi_env,
    /// Null in a call from JavaScript, which may be in the middle of reading what is there.
    scratch: sys::napi_ref,
    scope: PhantomData<&'s ()>,
}

/// A JavaScript value, alive for as long as its scope.
#[derive(Clone, Copy)]
pub struct Value<'s> {
    raw: sys::napi_value,
    scope: PhantomData<&'s ()>,
}

impl<'s> Scope<'s> {
    /// The scope of the running call.
    pub fn of_call(env: &'s Env) -> Scope<'s> {
        Scope { env: env.raw(), scratch: ptr::null_mut(), scope: PhantomData }
    }

    fn value(&self, raw: sys::napi_value) -> Value<'s> {
        Value { raw, scope: PhantomData }
    }

    /// `undefined`.
    pub fn undefined(&self) -> Value<'s> {
        let mut raw = ptr::null_mut();
        // SAFETY: (thread), (environment).
        unsafe { sys::napi_get_undefined(self.env, &mut raw) };
        self.value(raw)
    }

    /// A number.
    pub fn number(&self, number: u32) -> Value<'s> {
        let mut raw = ptr::null_mut();
        // SAFETY: (thread), (environment).
        unsafe { sys::napi_create_uint32(self.env, number, &mut raw) };
        self.value(raw)
    }

    /// A string.
    pub fn text(&self, text: &str) -> Value<'s> {
        let (start, len, mut raw) = (text.as_ptr().cast(), text.len() as isize, ptr::null_mut());
        let status = if text.is_ascii() {
            // SAFETY: (thread), (environment); the text is valid for its length.
            unsafe { sys::napi_create_string_latin1(self.env, start, len, &mut raw) }
        } else {
            // SAFETY: (thread), (environment); the text is valid for its length.
            unsafe { sys::napi_create_string_utf8(self.env, start, len, &mut raw) }
        };
        self.or_undefined(status, raw)
    }

    /// Copies short bytes into the scratch memory. Returns their number, or `None` if they do not
    /// fit or must not go there.
    pub fn in_scratch(&self, bytes: &[u8]) -> Option<Value<'s>> {
        if self.scratch.is_null() {
            return None;
        }
        let (mut memory, mut start, mut len) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: (environment); the reference exists until the loop ends.
        unsafe { sys::napi_get_reference_value(self.env, self.scratch, &mut memory) };
        // SAFETY: (thread), (environment); Node-API checks the type.
        unsafe { sys::napi_get_arraybuffer_info(self.env, memory, &mut start, &mut len) };
        if bytes.len() > len || start.is_null() {
            return None;
        }
        // SAFETY: it was just seen that the memory has room; Rust has no reference to it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast(), bytes.len()) };
        Some(self.number(bytes.len() as u32))
    }

    /// An `ArrayBuffer` with a copy of the bytes; `undefined` if there is no memory for it.
    pub fn array_buffer(&self, bytes: &[u8]) -> Value<'s> {
        let (mut data, mut raw) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: (thread), (environment).
        let status =
            unsafe { sys::napi_create_arraybuffer(self.env, bytes.len(), &mut data, &mut raw) };
        if status == sys::Status::napi_ok && !bytes.is_empty() {
            // SAFETY: the new memory has that many bytes, and no code has a reference to it yet.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len()) };
        }
        self.or_undefined(status, raw)
    }

    /// An `ArrayBuffer` over memory of this program, which is dropped with it. Where the engine
    /// allows no such memory, one with a copy.
    pub fn array_buffer_over<M: DerefMut<Target = [u8]> + 'static>(
        &self,
        mut memory: M,
    ) -> Value<'s> {
        let (start, len) = (memory.as_mut_ptr(), memory.len());
        if len == 0 {
            return self.array_buffer(&[]);
        }
        let (hint, mut raw) = (Box::into_raw(Box::new(memory)), ptr::null_mut());
        // SAFETY: the memory is where it was, as a box moves only the handle to it; it lives until
        // the finaliser runs, and nothing else reads or writes it meanwhile.
        let status = unsafe {
            sys::napi_create_external_arraybuffer(
                self.env,
                start.cast(),
                len,
                Some(on_memory_unused::<M>),
                hint.cast(),
                &mut raw,
            )
        };
        if status == sys::Status::napi_ok {
            return self.value(raw);
        }
        // SAFETY: the call has failed, so that no finaliser has or will have the box.
        let memory = unsafe { Box::from_raw(hint) };
        self.array_buffer(&memory)
    }

    /// An `ArrayBuffer` over a buffer that is not sealed. The cell keeps the memory for as long as
    /// the `ArrayBuffer` has it; it may be taken out after [`detach`] only.
    pub fn array_buffer_of_shared(&self, cell: &Rc<RefCell<Option<Buffer>>>) -> Option<Value<'s>> {
        let (start, len) = match cell.borrow_mut().as_mut()?.bytes_mut() {
            Ok(bytes) => (bytes.as_mut_ptr(), bytes.len()),
            Err(_) => return None,
        };
        if len == 0 {
            return Some(self.array_buffer(&[]));
        }
        let (hint, mut raw) = (Rc::into_raw(cell.clone()), ptr::null_mut());
        // SAFETY: the hint keeps the memory until the finaliser runs; until the `ArrayBuffer` is
        // detached, nothing takes the buffer out of the cell or makes a slice of it.
        let status = unsafe {
            sys::napi_create_external_arraybuffer(
                self.env,
                start.cast(),
                len,
                Some(on_shared_unused),
                hint.cast_mut().cast(),
                &mut raw,
            )
        };
        if status == sys::Status::napi_ok {
            return Some(self.value(raw));
        }
        // SAFETY: the call has failed, so that no finaliser has or will have this count.
        drop(unsafe { Rc::from_raw(hint) });
        None
    }

    /// A handle of this addon.
    pub fn handle<T: ToNapiValue>(&self, handle: T) -> Value<'s> {
        // SAFETY: (thread), (environment).
        match unsafe { T::to_napi_value(self.env, handle) } {
            Ok(raw) => self.value(raw),
            Err(_) => self.undefined(),
        }
    }

    /// An array.
    pub fn array(&self, values: &[Value<'s>]) -> Value<'s> {
        let mut raw = ptr::null_mut();
        // SAFETY: (thread), (environment).
        let status =
            unsafe { sys::napi_create_array_with_length(self.env, values.len(), &mut raw) };
        if status == sys::Status::napi_ok {
            for (index, value) in values.iter().enumerate() {
                // SAFETY: the array and the value are alive in this scope.
                unsafe { sys::napi_set_element(self.env, raw, index as u32, value.raw) };
            }
        }
        self.or_undefined(status, raw)
    }

    fn or_undefined(&self, status: sys::napi_status, raw: sys::napi_value) -> Value<'s> {
        if status == sys::Status::napi_ok {
            return self.value(raw);
        }
        // SAFETY: (environment); a failure must not stay pending into other calls.
        unsafe {
            let mut error = ptr::null_mut();
            sys::napi_get_and_clear_last_exception(self.env, &mut error);
        }
        self.undefined()
    }
}

unsafe extern "C" fn on_memory_unused<M>(_: sys::napi_env, _: *mut c_void, hint: *mut c_void) {
    // SAFETY: `array_buffer_over` has left this box, and the finaliser runs once.
    drop(unsafe { Box::from_raw(hint.cast::<M>()) });
}

unsafe extern "C" fn on_shared_unused(_: sys::napi_env, _: *mut c_void, hint: *mut c_void) {
    // SAFETY: `array_buffer_of_shared` has left this count, and the finaliser runs once.
    drop(unsafe { Rc::from_raw(hint.cast_const().cast::<RefCell<Option<Buffer>>>()) });
}

impl TypeName for Value<'_> {
    fn type_name() -> &'static str {
        "value"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl ToNapiValue for Value<'_> {
    unsafe fn to_napi_value(_: sys::napi_env, value: Self) -> Result<sys::napi_value> {
        Ok(value.raw)
    }
}

/// Takes the memory away from an `ArrayBuffer`, which has a length of 0 afterwards.
pub fn detach(env: &Env, buffer: &Object<'_>) -> Result<()> {
    // SAFETY: (thread) the object is a value of the running call; Node-API checks its type.
    check(unsafe { sys::napi_detach_arraybuffer(env.raw(), buffer.raw()) }, "detaching a buffer")
}

/// Duplicates a descriptor that the program names by its number.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(EBADF));
    }
    // SAFETY: it is borrowed for one call, which answers with EBADF if it is not open.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Takes the close-on-exec flag from the descriptor that a parent has left for this process, as
/// `variable` names it: Node.js sets the flag of all inherited descriptors when it starts, and the
/// crate takes the flag as a sign that the descriptor is another one. The inode still shows that.
pub fn unmark_inherited(variable: &str) {
    let Ok(value) = std::env::var(variable) else { return };
    let Some((number, inode)) = value.split_once(':') else { return };
    let (Ok(number), Ok(inode)) = (number.parse::<i32>(), inode.parse::<u64>()) else { return };
    if number <= 2 {
        return;
    }
    let found = std::fs::metadata(format!("/proc/self/fd/{number}"));
    if found.is_ok_and(|found| found.ino() == inode) {
        // SAFETY: the call takes integers.
        unsafe { fcntl(number, F_SETFD, 0 as c_int) };
    }
}

fn check(status: sys::napi_status, what: &str) -> Result<()> {
    if status == sys::Status::napi_ok {
        return Ok(());
    }
    let text = format!("Node-API refused {what}");
    Err(Error::new(Status::from(status), text))
}

/// Memory of a handle of libuv.
#[derive(Clone, Copy)]
struct Handle(*mut UvHandle);

impl Handle {
    fn layout(kind: c_int) -> Layout {
        // SAFETY: the call reads a table.
        let size = unsafe { uv_handle_size(kind) };
        Layout::from_size_align(size, 16).expect("a small size")
    }

    fn new(kind: c_int) -> Handle {
        let layout = Handle::layout(kind);
        // SAFETY: no handle of libuv has size 0.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        Handle(memory.cast())
    }

    fn free(self, kind: c_int) {
        // SAFETY: `new` has allocated it with the same layout, and libuv has no use for it: it was
        // never initialised, or its close callback runs.
        unsafe { dealloc(self.0.cast(), Handle::layout(kind)) };
    }
}

/// The name of the async resource of a port, as `async_hooks` shows it.
const RESOURCE: &str = "MESSAGEPORT";

const EBADF: c_int = 9;
const F_SETFD: c_int = 2;

// From `uv.h`: the order of `uv_handle_type`, and `uv_poll_event`.
const UV_IDLE: c_int = 6;
const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

/// Any handle of libuv.
#[repr(C)]
struct UvHandle {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn fcntl(descriptor: c_int, command: c_int, ...) -> c_int;
}

unsafe extern "C" {
    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_handle_set_data(handle: *mut UvHandle, data: *mut c_void);
    fn uv_handle_get_data(handle: *const UvHandle) -> *mut c_void;
    fn uv_poll_init(of: *mut sys::uv_loop_s, handle: *mut UvHandle, descriptor: c_int) -> c_int;
    fn uv_poll_start(
        handle: *mut UvHandle,
        events: c_int,
        callback: extern "C" fn(*mut UvHandle, c_int, c_int),
    ) -> c_int;
    fn uv_poll_stop(handle: *mut UvHandle) -> c_int;
    fn uv_idle_init(of: *mut sys::uv_loop_s, handle: *mut UvHandle) -> c_int;
    fn uv_idle_start(handle: *mut UvHandle, callback: extern "C" fn(*mut UvHandle)) -> c_int;
    fn uv_idle_stop(handle: *mut UvHandle) -> c_int;
    fn uv_close(handle: *mut UvHandle, callback: extern "C" fn(*mut UvHandle));
    fn uv_ref(handle: *mut UvHandle);
    fn uv_unref(handle: *mut UvHandle);
}
