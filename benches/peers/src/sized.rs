//! Transports whose records have one length, which is a part of their type.

/// Calls a function for the type whose records are as long as a message.
macro_rules! sized {
    ($transport:ident, $bytes:expr, $otherwise:expr, $function:ident($($argument:expr),*)) => {
        match $bytes {
            8 => $function::<$transport<8>>($($argument),*),
            64 => $function::<$transport<64>>($($argument),*),
            1024 => $function::<$transport<1024>>($($argument),*),
            4096 => $function::<$transport<4096>>($($argument),*),
            65536 => $function::<$transport<65536>>($($argument),*),
            _ => $otherwise,
        }
    };
}

/// The same for a transport whose records are written and read by pointer, so that their length is
/// not bounded by a stack.
macro_rules! sized_by_pointer {
    ($transport:ident, $bytes:expr, $otherwise:expr, $function:ident($($argument:expr),*)) => {
        match $bytes {
            0x4_0000 => $function::<$transport<0x4_0000>>($($argument),*),
            0x10_0000 => $function::<$transport<0x10_0000>>($($argument),*),
            bytes => sized!($transport, bytes, $otherwise, $function($($argument),*)),
        }
    };
}
