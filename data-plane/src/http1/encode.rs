//! Writing bodies.

/// Ends a chunked body that has no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Begins a chunk of `length` bytes, which must not be 0; CRLF follows its data.
pub fn push_chunk_size(out: &mut Vec<u8>, length: usize) {
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut rest = length;
    while rest != 0 && at != 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number.
#[inline]
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        // Exact: a remainder of 10.
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
