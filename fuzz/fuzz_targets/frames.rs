//! Packets, capsules, hellos and member hellos, with all decoders.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::frames(data));
