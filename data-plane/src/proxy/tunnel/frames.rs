//! Where the frames of a WebSocket connection begin and end (RFC 6455 5.2).

/// Longest head of a frame: two bytes, a length of 64 bits, and a mask.
const HEAD_BYTES_MAX: usize = 14;

/// Whose frames they are: a client's are masked, a server's are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// They go to the upstream.
    Client,
    /// They go to the client.
    Server,
}

/// How far one direction got. What breaks the rules passes as well: it is for the other end to judge; but then nobody
/// knows where a frame begins, and nothing is put in between.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// Bytes that the frame under way still has.
    left: u64,
    is_lost: bool,
    has_closed: bool,
}

impl Frames {
    /// Before the first frame.
    pub const fn of(sender: Sender) -> Self {
        Self { sender, head: [0; HEAD_BYTES_MAX], head_bytes: 0, left: 0, is_lost: false, has_closed: false }
    }

    /// Takes note of bytes that passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !self.is_lost && !bytes.is_empty() {
            if self.left > 0 {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= length as u64;
                bytes = bytes.get(length..).unwrap_or_default();
                continue;
            }
            let [byte, rest @ ..] = bytes else { return };
            bytes = rest;
            if let Some(space) = self.head.get_mut(self.head_bytes) {
                *space = *byte;
            }
            self.head_bytes += 1;
            self.end_head();
        }
    }

    /// Looks whether the head is complete.
    fn end_head(&mut self) {
        let [first, second, rest @ ..] = self.head;
        if self.head_bytes < 2 {
            return;
        }
        let is_masked = second & 0x80 != 0;
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.head_bytes < 2 + length_bytes + if is_masked { 4 } else { 0 } {
            return;
        }
        self.head_bytes = 0;
        let extended = rest.iter().take(length_bytes).fold(0, |length, byte| length << 8 | u64::from(*byte));
        self.left = if length_bytes == 0 { u64::from(second & 0x7f) } else { extended };
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        self.has_closed |= opcode == 8;
        self.is_lost = is_masked != (self.sender == Sender::Client)
            || !matches!(opcode, 0..=2 | 8..=10)
            || opcode >= 8 && !(is_final && length_bytes == 0)
            || self.left > i64::MAX as u64;
    }

    /// Whether a frame may begin here.
    pub const fn is_between(&self) -> bool {
        !self.is_lost && !self.has_closed && self.head_bytes == 0 && self.left == 0
    }

    /// Whether the last frame that this side may send has begun.
    pub const fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// The frame that says: 1001, going away.
    pub const fn going_away(&self) -> &'static [u8] {
        match self.sender {
            // Masked with zeros: there is nothing in it to hide.
            Sender::Client => &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9],
            Sender::Server => &[0x88, 0x02, 0x03, 0xe9],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of `length` bytes.
    fn frame(opcode: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ 0..=125), _) => frame.push(mask | length),
            (_, Ok(length)) => {
                frame.push(mask | 126);
                frame.extend(length.to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0xff; if is_masked { 4 } else { 0 } + length]);
        frame
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_come(
            lengths in proptest::collection::vec(prop_oneof![0..300_usize, Just(65_535), Just(70_000)], 1..6),
            part in 1..5_000_usize,
            is_masked: bool,
        ) {
            let mut frames = Frames::of(if is_masked { Sender::Client } else { Sender::Server });
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for length in lengths {
                bytes.extend(frame(2, length, is_masked));
                ends.push(bytes.len());
            }
            let mut at = 0;
            for part in bytes.chunks(part) {
                frames.pass(part);
                at += part.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&at));
            }
        }

        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, part in 1..20_usize) {
            let mut frames = Frames::of(Sender::Server);
            bytes.chunks(part).for_each(|part| frames.pass(part));
        }
    }

    #[test]
    fn nothing_is_put_in_where_the_rules_are_broken_or_the_end_was_said() {
        for (name, bytes) in [
            ("a frame that closes", frame(8, 2, false)),
            ("masked by a server", frame(1, 1, true)),
            ("an opcode that nobody knows", frame(3, 1, false)),
            ("a control frame in parts", vec![0x09, 0]),
            ("a long control frame", frame(9, 126, false)),
            ("a length of 64 bits with the highest set", [&[0x82, 127, 0x80][..], &[0; 7]].concat()),
        ] {
            let mut frames = Frames::of(Sender::Server);
            frames.pass(&frame(1, 5, false));
            assert!(frames.is_between(), "{name}");
            frames.pass(&bytes);
            assert!(!frames.is_between(), "{name}");
        }
        let mut frames = Frames::of(Sender::Client);
        frames.pass(Frames::of(Sender::Client).going_away());
        assert!(frames.has_closed() && !frames.is_lost);
    }
}
