//! Pools of frames between ends that do not trust each other, one of which writes to the counts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messageport::fuzzing::foreign_frames(data);
});
