//! Bytes that are read as plain data of many types.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messageport::fuzzing::decode_value(data);
});
