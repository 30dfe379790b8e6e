//! A peer writes any word of a lane between the calls of a consumer and of a producer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| messageport::fuzzing::record_stream(data));
