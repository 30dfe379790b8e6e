//! Every error as an [`io::Error`](std::io::Error), for functions that return those: `?` converts.
//! The kind says what a caller would do about it; the error itself is inside, by `get_ref`.

use super::{
    AttachError, BroadcastError, BufferError, CallError, ChannelError, ConnectError, Corruption,
    ListenError, LoopError, MessageError, ParentPortError, PoolError, PostError, RecvError,
    SchemaError, SpawnError, SystemError, TaskError, TypeMismatch,
};
use std::io::ErrorKind;

/// The `ErrorKind` that an error has as an [`io::Error`].
pub(crate) trait AsIoError {
    fn kind(&self) -> ErrorKind;
}

macro_rules! into_io_error {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for std::io::Error {
            fn from(error: $error) -> std::io::Error {
                std::io::Error::new($crate::error::AsIoError::kind(&error), error)
            }
        }
    )*};
}
pub(crate) use into_io_error;

#[cfg(feature = "value")]
into_io_error!(super::ValueError);

#[cfg(feature = "value")]
impl AsIoError for super::ValueError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidData
    }
}

into_io_error!(
    AttachError,
    BroadcastError,
    BufferError,
    CallError,
    ChannelError,
    ConnectError,
    Corruption,
    ListenError,
    LoopError,
    MessageError,
    ParentPortError,
    PoolError,
    PostError,
    RecvError,
    SchemaError,
    SpawnError,
    SystemError,
    TaskError,
    TypeMismatch,
);

impl AsIoError for SystemError {
    fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

impl AsIoError for Corruption {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidData
    }
}

impl AsIoError for SchemaError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidData
    }
}

impl AsIoError for TypeMismatch {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidData
    }
}

impl AsIoError for ChannelError {
    fn kind(&self) -> ErrorKind {
        match self {
            ChannelError::TooLarge { .. } => ErrorKind::InvalidInput,
            ChannelError::ResourceLimit { .. } => ErrorKind::OutOfMemory,
            ChannelError::KernelTooOld { .. } => ErrorKind::Unsupported,
            ChannelError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for PostError {
    fn kind(&self) -> ErrorKind {
        match self {
            PostError::Closed { .. } => ErrorKind::BrokenPipe,
            PostError::QueueFull { .. }
            | PostError::PoolInUse { .. }
            | PostError::TooManyInFlight => ErrorKind::WouldBlock,
            PostError::Busy => ErrorKind::ResourceBusy,
            PostError::TooLarge { .. }
            | PostError::Serialize(_)
            | PostError::TooManyTransferables { .. }
            | PostError::TransferLoop { .. }
            | PostError::Detached { .. }
            | PostError::HasPool { .. }
            | PostError::Answered
            | PostError::ForeignPool => ErrorKind::InvalidInput,
            PostError::Refused | PostError::PoolRefused => ErrorKind::Unsupported,
            PostError::TypeMismatch(error) => error.kind(),
            PostError::Timeout => ErrorKind::TimedOut,
            PostError::Cancelled => ErrorKind::Interrupted,
            PostError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            CallError::Post(error) => error.kind(),
            CallError::Timeout => ErrorKind::TimedOut,
            CallError::Cancelled => ErrorKind::Interrupted,
            CallError::Closed { .. } => ErrorKind::UnexpectedEof,
            CallError::Refused { .. } => ErrorKind::PermissionDenied,
            CallError::Unanswered => ErrorKind::ConnectionAborted,
            CallError::Message(error) => error.kind(),
            CallError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for RecvError {
    fn kind(&self) -> ErrorKind {
        match self {
            RecvError::Closed { .. } => ErrorKind::UnexpectedEof,
            RecvError::Timeout => ErrorKind::TimedOut,
            RecvError::Cancelled => ErrorKind::Interrupted,
            RecvError::OutOfDescriptors { .. } => ErrorKind::QuotaExceeded,
            RecvError::Started => ErrorKind::InvalidInput,
            RecvError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            RecvError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for MessageError {
    fn kind(&self) -> ErrorKind {
        match self {
            MessageError::Invalid { .. }
            | MessageError::Format { .. }
            | MessageError::NotText(_)
            | MessageError::UnknownPool => ErrorKind::InvalidData,
            MessageError::TransfersLost { .. } => ErrorKind::QuotaExceeded,
            MessageError::TransfersRefused { .. } => ErrorKind::Unsupported,
            MessageError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            MessageError::NothingLeft { .. } => ErrorKind::NotFound,
            MessageError::TypeMismatch(error) => error.kind(),
            #[cfg(feature = "value")]
            MessageError::Value(_) => ErrorKind::InvalidData,
            MessageError::Port(error) => error.kind(),
            MessageError::Buffer(error) => error.kind(),
        }
    }
}

impl AsIoError for PoolError {
    fn kind(&self) -> ErrorKind {
        match self {
            PoolError::NotTrusted => ErrorKind::PermissionDenied,
            PoolError::Empty { .. }
            | PoolError::TooManyFrames { .. }
            | PoolError::TooMany { .. } => ErrorKind::InvalidInput,
            PoolError::Post(error) => error.kind(),
            PoolError::Memory(error) => error.kind(),
        }
    }
}

impl AsIoError for BufferError {
    fn kind(&self) -> ErrorKind {
        match self {
            BufferError::Sealed => ErrorKind::PermissionDenied,
            BufferError::TooLarge { .. } => ErrorKind::FileTooLarge,
            BufferError::Full { .. } => ErrorKind::WriteZero,
            BufferError::Refused { .. } | BufferError::Invalid { .. } => ErrorKind::InvalidData,
            BufferError::Serialize(_)
            | BufferError::LengthChanged { .. }
            | BufferError::Unsuitable { .. } => ErrorKind::InvalidInput,
            BufferError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for AttachError {
    fn kind(&self) -> ErrorKind {
        match self {
            AttachError::NotAPort { .. }
            | AttachError::Incompatible { .. }
            | AttachError::Corrupt(_) => ErrorKind::InvalidData,
            AttachError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for LoopError {
    fn kind(&self) -> ErrorKind {
        let LoopError::Io(error) = self;
        error.kind()
    }
}

impl AsIoError for TaskError {
    fn kind(&self) -> ErrorKind {
        match self {
            TaskError::QueueFull { .. } => ErrorKind::WouldBlock,
            TaskError::Timeout => ErrorKind::TimedOut,
            TaskError::Lost { .. } => ErrorKind::ConnectionAborted,
            TaskError::Call(error) => error.kind(),
            TaskError::Broken { .. } => ErrorKind::NotConnected,
            TaskError::Closed => ErrorKind::BrokenPipe,
        }
    }
}

impl AsIoError for SpawnError {
    fn kind(&self) -> ErrorKind {
        match self {
            SpawnError::Channel(error) => error.kind(),
            SpawnError::Program { source, .. } | SpawnError::File { source, .. } => source.kind(),
            SpawnError::NotACgroup { .. } => ErrorKind::InvalidInput,
            SpawnError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for ListenError {
    fn kind(&self) -> ErrorKind {
        match self {
            ListenError::InUse { .. } => ErrorKind::AddrInUse,
            ListenError::BadName { .. } => ErrorKind::InvalidInput,
            ListenError::Directory { .. } => ErrorKind::PermissionDenied,
            ListenError::Channel(error) => error.kind(),
            ListenError::Timeout => ErrorKind::TimedOut,
            ListenError::File { source, .. } => source.kind(),
            ListenError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for ConnectError {
    fn kind(&self) -> ErrorKind {
        match self {
            ConnectError::NoListener { .. } => ErrorKind::ConnectionRefused,
            ConnectError::BadName { .. } => ErrorKind::InvalidInput,
            ConnectError::Directory { .. }
            | ConnectError::ForeignUser { .. }
            | ConnectError::NotAllowed { .. } => ErrorKind::PermissionDenied,
            ConnectError::Attach(error) => error.kind(),
            ConnectError::Timeout => ErrorKind::TimedOut,
            ConnectError::HungUp { .. } => ErrorKind::ConnectionReset,
            ConnectError::File { source, .. } => source.kind(),
            ConnectError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for BroadcastError {
    fn kind(&self) -> ErrorKind {
        match self {
            BroadcastError::Closed { .. } => ErrorKind::NotConnected,
            BroadcastError::Missed { first, .. } => first.kind(),
            BroadcastError::Serialize(_) | BroadcastError::BadName { .. } => {
                ErrorKind::InvalidInput
            }
            BroadcastError::Message(error) => error.kind(),
            BroadcastError::Timeout => ErrorKind::TimedOut,
            BroadcastError::Directory { .. } => ErrorKind::PermissionDenied,
            BroadcastError::Busy { .. } => ErrorKind::ResourceBusy,
            BroadcastError::Attach(error) => error.kind(),
            BroadcastError::Channel(error) => error.kind(),
            BroadcastError::File { source, .. } => source.kind(),
            BroadcastError::Io(error) => error.kind(),
        }
    }
}

impl AsIoError for ParentPortError {
    fn kind(&self) -> ErrorKind {
        match self {
            ParentPortError::NotAWorker { .. } => ErrorKind::NotFound,
            ParentPortError::AlreadyTaken => ErrorKind::InvalidInput,
            ParentPortError::Attach(error) => error.kind(),
        }
    }
}
