//! Pools and buffers that somebody else made, while their maker writes to them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messageport::fuzzing::foreign_memory(data);
});
