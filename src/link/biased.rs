//! A mutex that one thread takes by plain stores for as long as no other thread comes.
#![allow(unsafe_code)]

use crate::os::barrier;
use crate::ring::bias::{Bias, Entered, Entry};
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

/// A mutex that knows the thread inside, and that a thread may own: see [`Bias`]. A panic of a
/// holder changes nothing.
///
/// The end of an owner's time costs the thread that ends it one barrier, up to 20 µs.
///
/// INVARIANT (inside): one thread at a time is inside, and uses `state`: the owner from
/// `Bias::enter` to `leave`; or a thread that holds `lock`, once there is no owner, or it has seen
/// after a barrier that the owner has left. The latter uses `held` as well.
pub(crate) struct BiasedMutex<S> {
    lock: Mutex<()>,
    /// The guard of `lock`, while the thread inside holds it. It stays here if a [`BiasedGuard`] is
    /// leaked: then it is never dropped.
    held: UnsafeCell<MaybeUninit<MutexGuard<'static, ()>>>,
    bias: Bias,
    state: UnsafeCell<S>,
}

// SAFETY: (inside) the state is used by one thread at a time, as in a `std::sync::Mutex`.
unsafe impl<S: Send> Sync for BiasedMutex<S> {}

// SAFETY: (inside) as above; a thread that drops it is inside, and no guard is dropped with it.
unsafe impl<S: Send> Send for BiasedMutex<S> {}

/// The state, while this thread is inside.
///
/// Two words, so that it is in registers on its way through results.
pub(crate) struct BiasedGuard<'s, S> {
    mutex: &'s BiasedMutex<S>,
    /// Whether the ordinary lock is held. If not, the owner entered by itself.
    is_held: bool,
    /// It stays on its thread, as the guard of that lock does. Other threads may use a reference to
    /// it only as they may use one to the state.
    kind: PhantomData<(MutexGuard<'s, ()>, &'s mut S)>,
}

/// This very thread is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AlreadyInside;

impl<S> BiasedMutex<S> {
    pub(crate) fn new(state: S) -> BiasedMutex<S> {
        BiasedMutex {
            lock: Mutex::new(()),
            held: UnsafeCell::new(MaybeUninit::uninit()),
            bias: Bias::new(),
            state: UnsafeCell::new(state),
        }
    }

    /// Waits until no other thread is inside.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Result<BiasedGuard<'_, S>, AlreadyInside> {
        match self.bias.enter(thread_number()) {
            Entered::Yes => Ok(BiasedGuard::new(self, false)),
            Entered::Before => Err(AlreadyInside),
            Entered::No => Ok(self.lock_by_mutex()),
        }
    }

    /// The same, unless another thread is inside.
    pub(crate) fn try_lock(&self) -> Option<BiasedGuard<'_, S>> {
        match self.bias.enter(thread_number()) {
            Entered::Yes => Some(BiasedGuard::new(self, false)),
            Entered::Before => None,
            Entered::No => match self.lock.try_lock() {
                Ok(lock) => Some(self.enter_with(lock)),
                Err(TryLockError::Poisoned(error)) => Some(self.enter_with(error.into_inner())),
                Err(TryLockError::WouldBlock) => None,
            },
        }
    }

    #[inline(never)]
    fn lock_by_mutex(&self) -> BiasedGuard<'_, S> {
        self.enter_with(self.lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter_with<'s>(&'s self, lock: MutexGuard<'s, ()>) -> BiasedGuard<'s, S> {
        if self.bias.take() == Entry::Barrier {
            self.wait_for_owner();
        }
        self.bias.hold(thread_number());
        // SAFETY: the guard refers to `self`, which outlives the `BiasedGuard`; that takes it out
        // again when it is dropped.
        let lock = unsafe { mem::transmute::<MutexGuard<'s, ()>, MutexGuard<'static, ()>>(lock) };
        // SAFETY: (inside) this thread is, by that lock.
        let held = unsafe { &mut *self.held.get() };
        held.write(lock);
        BiasedGuard::new(self, true)
    }

    /// The thread inside leaves, and gives the ordinary lock back.
    #[inline(never)]
    fn unlock(&self) {
        self.bias.let_go(barrier::takes_part);
        // SAFETY: (inside) this thread is.
        let held = unsafe { &*self.held.get() };
        // SAFETY: `enter_with` has put it there. It is read once, as a thread that holds the lock
        // has one `BiasedGuard`.
        drop(unsafe { held.assume_init_read() });
    }

    #[cold]
    fn wait_for_owner(&self) {
        barrier::run();
        for _ in 0..100 {
            if self.bias.is_free() {
                return;
            }
            std::hint::spin_loop();
        }
        while !self.bias.is_free() {
            // Not by yielding alone: this thread may be of higher priority than the owner.
            thread::sleep(Duration::from_micros(50));
        }
    }

    pub(crate) fn into_inner(self) -> S {
        self.state.into_inner()
    }
}

impl<'s, S> BiasedGuard<'s, S> {
    #[inline(always)]
    fn new(mutex: &'s BiasedMutex<S>, is_held: bool) -> BiasedGuard<'s, S> {
        BiasedGuard { mutex, is_held, kind: PhantomData }
    }
}

impl<S> Deref for BiasedGuard<'_, S> {
    type Target = S;

    #[inline(always)]
    fn deref(&self) -> &S {
        // SAFETY: (inside) this thread is.
        unsafe { &*self.mutex.state.get() }
    }
}

impl<S> DerefMut for BiasedGuard<'_, S> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut S {
        // SAFETY: (inside) this thread is, and a thread has one guard at a time.
        unsafe { &mut *self.mutex.state.get() }
    }
}

impl<S> Drop for BiasedGuard<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.is_held {
            false => self.mutex.bias.leave(),
            true => self.mutex.unlock(),
        }
    }
}

/// A number that no other thread of this process ever has; never 0.
#[inline(always)]
pub(crate) fn thread_number() -> u64 {
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    match NUMBER.get() {
        0 => {
            let number = new_number();
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

#[cold]
fn new_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the number is all that counts.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    /// Whether this process takes part in barriers, or will soon. Not if the kernel has none, or
    /// refuses them.
    fn has_barriers() -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while barrier::is_supported() && !barrier::takes_part() {
            if Instant::now() > deadline {
                return false;
            }
            thread::yield_now();
        }
        barrier::is_supported()
    }

    /// A mutex that this thread owns, if there are barriers.
    fn owned() -> Arc<BiasedMutex<u64>> {
        let mutex = Arc::new(BiasedMutex::new(0));
        has_barriers();
        for _ in 0..5_000 {
            *mutex.lock().expect("outside") += 1;
        }
        mutex
    }

    fn is_owner(mutex: &BiasedMutex<u64>) -> bool {
        !mutex.lock().expect("outside").is_held
    }

    #[test]
    fn a_thread_that_comes_often_owns_it_until_another_comes() {
        let mutex = owned();
        assert_eq!(is_owner(&mutex), has_barriers());
        let other = mutex.clone();
        thread::spawn(move || *other.lock().expect("outside") += 1).join().expect("it ends");
        for _ in 0..5_000 {
            assert!(!is_owner(&mutex), "a mutex has an owner at most once");
        }
        assert_eq!(*mutex.lock().expect("outside"), 5_001);
    }

    #[test]
    fn the_thread_inside_is_told_so() {
        let (mutex, fresh) = (owned(), BiasedMutex::new(0));
        for mutex in [&*mutex, &fresh] {
            let guard = mutex.lock().expect("outside");
            assert!(matches!(mutex.lock(), Err(AlreadyInside)));
            assert!(mutex.try_lock().is_none());
            drop(guard);
            assert!(mutex.try_lock().is_some());
        }
    }

    #[test]
    fn a_thread_that_comes_while_the_owner_is_inside_waits() {
        let (mutex, entered) = (owned(), Arc::new(AtomicBool::new(false)));
        let mut guard = mutex.lock().expect("outside");
        let other = thread::spawn({
            let (mutex, entered) = (mutex.clone(), entered.clone());
            move || {
                let guard = mutex.lock().expect("outside");
                // Relaxed, here and below: a hint for the owner, which may come late.
                entered.store(true, Ordering::Relaxed);
                *guard
            }
        });
        // It has the ordinary lock, or waits for it, and now waits for this thread.
        while !guard.is_held && mutex.lock.try_lock().is_ok() {
            assert!(!entered.load(Ordering::Relaxed), "two threads are inside");
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(!entered.load(Ordering::Relaxed), "two threads are inside");
        *guard = 7;
        drop(guard);
        assert_eq!(other.join().expect("it ends"), 7);
    }

    #[test]
    fn nothing_is_lost_when_threads_come_while_the_owner_is_at_work() {
        let mutex = owned();
        let start = Arc::new(AtomicBool::new(false));
        let others: Vec<_> = (0..3)
            .map(|_| {
                let (mutex, start) = (mutex.clone(), start.clone());
                thread::spawn(move || {
                    // Relaxed: it orders nothing.
                    while !start.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    for _ in 0..10_000 {
                        *mutex.lock().expect("outside") += 1;
                    }
                })
            })
            .collect();
        for number in 0..50_000 {
            if number == 1_000 {
                start.store(true, Ordering::Relaxed);
            }
            *mutex.lock().expect("outside") += 1;
        }
        others.into_iter().for_each(|other| other.join().expect("it ends"));
        assert_eq!(*mutex.lock().expect("outside"), 85_000);
    }

    #[test]
    fn a_panic_inside_leaves_it_usable() {
        for mutex in [owned(), Arc::new(BiasedMutex::new(0))] {
            let before = *mutex.lock().expect("outside");
            let inside = std::panic::AssertUnwindSafe(|| {
                let mut guard = mutex.lock().expect("outside");
                *guard += 1;
                panic!("on purpose");
            });
            assert!(std::panic::catch_unwind(inside).is_err());
            assert_eq!(*mutex.lock().expect("outside"), before + 1);
        }
    }
}
