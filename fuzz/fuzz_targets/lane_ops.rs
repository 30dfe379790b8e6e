//! An honest producer and an honest consumer, against a model of the lane.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::lane_ops(data));
