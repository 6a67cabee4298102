//! What a TLS handshake asks for, of its first bytes: pure. Streams are routed by it before anybody answers.
//!
//! Only the server name is of interest, so nothing is judged that it does not depend on: whoever ends the handshake
//! will. Source: RFC 8446 4.1.2 and 5.1, RFC 6066 3.

/// Longest beginning of a handshake that is looked at: a record of the largest size and its header. Browsers send 2 KB
/// at most.
pub const HELLO_BYTES_MAX: usize = 16 * 1024 + 5;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name that it wants to speak to, in lower case and without trailing dot; `None`: none, or one that is no name.
    pub sni: Option<Box<str>>,
}

/// Why there is nothing to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotHello {
    /// More is needed.
    #[error("it ends too early")]
    Incomplete,
    /// It is no TLS, or does not begin with a ClientHello.
    #[error("it is no TLS")]
    NotTls,
    /// It does not fit into what is looked at.
    #[error("it is too long")]
    TooLong,
    /// It contradicts itself.
    #[error("it is malformed")]
    Malformed,
}

/// Type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// The extension with the server name, and the type of a host's name in it.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest content of a record.
const RECORD_BYTES_MAX: usize = 1 << 14;

/// Reads `bytes`, the beginning of what a client sends. What follows the handshake's first message changes nothing.
///
/// # Errors
/// [`NotHello::Incomplete`] where more may come of it; anything else stands, whatever follows.
pub fn read(bytes: &[u8]) -> Result<Hello, NotHello> {
    let message = message(bytes)?;
    let mut rest = Reader(&message);
    // Version and random.
    rest.take(2 + 32)?;
    // Session, cipher suites, compression.
    rest.vector8()?;
    rest.vector16()?;
    rest.vector8()?;
    if rest.0.is_empty() {
        // Before TLS 1.2 there may be no extensions.
        return Ok(Hello { sni: None });
    }
    let mut extensions = Reader(rest.vector16()?);
    if !rest.0.is_empty() {
        return Err(NotHello::Malformed);
    }
    let mut sni = None;
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.vector16()?);
        if kind == SERVER_NAME {
            if sni.is_some() {
                return Err(NotHello::Malformed);
            }
            sni = Some(server_name(content)?);
        }
    }
    Ok(Hello { sni: sni.flatten() })
}

/// The ClientHello, put together from the records that it is spread over.
fn message(bytes: &[u8]) -> Result<Vec<u8>, NotHello> {
    let mut message = Vec::new();
    let mut rest = Reader(bytes);
    loop {
        // What is certain already need not wait for more.
        let header = rest.0;
        if header.first().is_some_and(|kind| *kind != HANDSHAKE)
            || header.get(1).is_some_and(|major| *major != 3)
        {
            return Err(NotHello::NotTls);
        }
        let content = rest.record()?;
        message.extend_from_slice(content);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NotHello::NotTls);
        }
        if let Some(&[_, high, middle, low]) = message.get(..4) {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > HELLO_BYTES_MAX {
                return Err(NotHello::TooLong);
            }
            if let Some(whole) = message.get(4..4 + length) {
                return Ok(whole.to_vec());
            }
        }
    }
}

/// The name in the extension's content; `None` if it is no name of a host.
fn server_name(content: &[u8]) -> Result<Option<Box<str>>, NotHello> {
    let mut names = Reader(Reader(content).vector16()?);
    while !names.0.is_empty() {
        let (kind, name) = (names.take(1)?, names.vector16()?);
        if kind == [HOST_NAME] {
            let name = std::str::from_utf8(name).ok().filter(|name| is_name(name));
            let name = name.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
            return Ok(name.map(Into::into));
        }
    }
    Ok(None)
}

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The rest of what is read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], NotHello> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NotHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, NotHello> {
        match self.take(2)? {
            &[high, low] => Ok(u16::from_be_bytes([high, low])),
            _ => Err(NotHello::Malformed),
        }
    }

    fn vector8(&mut self) -> Result<&'a [u8], NotHello> {
        let length = self.take(1)?.iter().copied().map(usize::from).sum();
        self.take(length)
    }

    fn vector16(&mut self) -> Result<&'a [u8], NotHello> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// The content of a record.
    fn record(&mut self) -> Result<&'a [u8], NotHello> {
        let (Some(header), before) = (self.0.get(3..5), self.0.len()) else {
            return Err(NotHello::Incomplete);
        };
        let length = Reader(header).u16()?.into();
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(NotHello::Malformed);
        }
        if before < 5 + length {
            return Err(NotHello::Incomplete);
        }
        self.take(5)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&length.to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    fn name(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[HOST_NAME][..], &vector16(name)].concat()))
    }

    /// A ClientHello with these extensions.
    fn handshake(extensions: &[u8]) -> Vec<u8> {
        let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector16(extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    /// In records of at most so many bytes.
    fn records(message: &[u8], most: usize) -> Vec<u8> {
        message.chunks(most).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat()).collect()
    }

    fn sni(bytes: &[u8]) -> Result<Option<String>, NotHello> {
        read(bytes).map(|hello| hello.sni.map(Into::into))
    }

    #[test]
    fn the_name_is_found_wherever_it_is() {
        let other = extension(43, &[2, 3, 4]);
        let whole = handshake(&[other.clone(), name(b"A.Example.com."), other].concat());
        for most in [16_384, 100, 7, 1] {
            assert_eq!(sni(&records(&whole, most)), Ok(Some("a.example.com".to_owned())), "{most}");
        }
        assert_eq!(sni(&records(&handshake(&[]), 100)), Ok(None));
        for odd in [&b""[..], b"a b", b"\xff", &[b'a'; 300]] {
            assert_eq!(sni(&records(&handshake(&name(odd)), 1000)), Ok(None), "{odd:?}");
        }
        let without_extensions =
            [&[CLIENT_HELLO, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 1, 1, 1, 0]].concat();
        assert_eq!(sni(&records(&without_extensions, 100)), Ok(None));
    }

    #[test]
    fn a_beginning_is_incomplete_and_nothing_else() {
        let whole = records(&handshake(&name(b"a.com")), 20);
        for length in 0..whole.len() {
            assert_eq!(sni(&whole[..length]), Err(NotHello::Incomplete), "{length}");
        }
    }

    #[test]
    fn what_is_no_hello_is_refused_at_the_first_byte_that_shows_it() {
        let mut endless = records(&handshake(&name(b"a.com")), 100);
        endless[6] = 255;
        for (name, bytes, want) in [
            ("a request", &b"G"[..], NotHello::NotTls),
            ("another major version", &[HANDSHAKE, 2], NotHello::NotTls),
            ("another handshake message", &[HANDSHAKE, 3, 1, 0, 1, 2], NotHello::NotTls),
            ("an alert", &[21, 3, 1, 0, 2, 1, 0], NotHello::NotTls),
            ("an empty record", &[HANDSHAKE, 3, 1, 0, 0], NotHello::Malformed),
            ("a record too large", &[HANDSHAKE, 3, 1, 0x40, 1], NotHello::Malformed),
            ("a message too large", &endless, NotHello::TooLong),
            (
                "two names",
                &records(&handshake(&[self::name(b"a"), self::name(b"b")].concat()), 100),
                NotHello::Malformed,
            ),
            ("a length past the end", &records(&[CLIENT_HELLO, 0, 0, 2, 3, 3], 100), NotHello::Malformed),
        ] {
            assert_eq!(sni(bytes), Err(want), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..200_usize, with in any::<u8>()) {
            drop(read(&bytes));
            let mut almost = records(&handshake(&[extension(10, &[0, 2, 0, 29]), name(b"a.com")].concat()), 50);
            if let Some(byte) = almost.get_mut(at) {
                *byte = with;
            }
            drop(read(&almost));
        }
    }
}
