//! The law `responses`.

#![no_main]

#[allow(dead_code, unused_imports, reason = "each target holds one of the laws")]
#[path = "../../data-plane/tests/fuzz/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    laws::responses(data);
});
