//! The header of a region that somebody else made.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::attach_region(data));
