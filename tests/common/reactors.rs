//! Async tests on every reactor that is compiled in.

use super::watchdog::watch;

/// Runs a test on each of them.
pub fn on_each(test: &str, body: impl AsyncFn()) {
    let _watch = watch(test);
    #[cfg(feature = "tokio")]
    {
        let current = tokio::runtime::Builder::new_current_thread().enable_all().build();
        current.expect("a runtime").block_on(body());
        let mut several = tokio::runtime::Builder::new_multi_thread();
        let several = several.worker_threads(2).enable_all().build();
        several.expect("a runtime").block_on(body());
    }
    #[cfg(feature = "async-io")]
    futures_lite::future::block_on(body());
}
