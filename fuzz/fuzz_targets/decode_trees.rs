//! Bytes that are read as archives of one family of types, and used if they are accepted.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use messageport::fuzzing::{Family, decode, mutate};

fuzz_target!(|data: &[u8]| {
    decode(Family::Trees, data);
});

// Half of the mutations know the format of archives, the others are libFuzzer's.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match seed % 2 {
        0 => mutate(Family::Trees, &mut data[..max_size], size, seed / 2),
        _ => fuzzer_mutate(data, size, max_size),
    }
});
