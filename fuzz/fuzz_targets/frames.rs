//! Packets, capsules, hellos and introductions, with all decoders.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::frames(data));
