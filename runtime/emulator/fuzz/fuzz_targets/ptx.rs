//! `cargo +nightly fuzz run ptx`: the same check that `cargo test` runs for a second.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ptx_emulator::fuzz::check(bytes);
});
