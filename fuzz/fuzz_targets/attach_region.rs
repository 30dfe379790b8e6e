//! The header of a region that another process made.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::attach_region(data));
