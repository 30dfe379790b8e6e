//! Pools and buffers that another process made, while that process writes to them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messageport::fuzzing::foreign_memory(data);
});
