//! The peers, one module for each library.

#[cfg(feature = "aeron")]
pub mod aeron;
pub mod bcast;
pub mod bip_buffer;
pub mod bytes;
pub mod copied;
pub mod crossbar;
pub mod iceoryx;
pub mod iceoryx_requests;
pub mod ipc_channel;
pub mod ipmpsc;
pub mod limits;
pub mod messageport;
pub mod moving;
pub mod pace;
pub mod ringfire;
pub mod shmem_ipc;
pub mod threads;
