//! The law `bodies` of the Admin API.

#![no_main]

#[allow(dead_code, unused_imports, reason = "each target holds one of the laws")]
#[path = "../../control-plane/tests/fuzz/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::bodies(data));
