//! Reading a handshake with rustls.

use rustls::server::Acceptor;

/// The name that a ClientHello asks for, in lower case; `None` where rustls refuses it or wants more.
pub fn server_name(data: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut rest = data;
    while !rest.is_empty() {
        // It takes a record or so at a time.
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}
