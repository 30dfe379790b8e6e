//! What listeners return.

/// What a listener may return: nothing, or a `Result` whose error is reported. It may also never
/// return.
#[diagnostic::on_unimplemented(
    message = "a listener cannot return `{Self}`",
    label = "this listener returns `{Self}`",
    note = "return `()`, or `Result<(), E>` whose `E` converts into `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoListenerResult {
    /// Returns the error, if there is one.
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

impl IntoListenerResult for () {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> IntoListenerResult for Result<(), E> {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}

/// The type `!`, which has no name of its own yet: for a listener that only panics.
type Never = <fn() -> ! as Function>::Output;

/// Names what a function returns.
#[doc(hidden)]
pub trait Function {
    /// What it returns.
    type Output;
}

impl<R> Function for fn() -> R {
    type Output = R;
}

impl IntoListenerResult for Never {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self
    }
}
