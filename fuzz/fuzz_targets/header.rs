#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| procsig::fuzzing::header(data));
