//! An honest program with ports that move, split and close, against a model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messageport::fuzzing::port_ops(data);
});
