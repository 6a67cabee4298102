//! The first message of a TLS handshake, by which streams are routed before anybody ends it.

use equipoise_data_plane::stream_proxy::hello::{Hello, NotHello, read};
use rustls::server::Acceptor;

/// A hello comes out the same however its bytes are cut: of one that is whole every part needs more, and what is refused stays
/// refused. Where rustls takes it too, and finds a name, that is the name that was routed by.
pub fn hellos(data: &[u8]) {
    let whole = read(data);
    let mut known = None;
    for cut in 0..data.len() {
        let part = read(&data[..cut]);
        match &known {
            None if part == Err(NotHello::Incomplete) => {}
            None => known = Some(part),
            Some(known) => assert_eq!(part, *known, "after {cut} bytes it is something else"),
        }
    }
    assert!(known.is_none_or(|known| known == whole), "the last byte makes it something else");
    if let Some(name) = name_by_rustls(data) {
        let own = whole.map(|Hello { sni }| sni);
        assert_eq!(own, Ok(Some(name.into())), "another name is routed by than is served");
    }
}

/// The name that rustls finds; nothing where it finds none or takes none of it.
pub fn name_by_rustls(mut data: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !data.is_empty() {
        if acceptor.read_tls(&mut data).ok()? == 0 {
            break;
        }
    }
    let accepted = acceptor.accept().ok()??;
    let name = accepted.client_hello().server_name()?.to_ascii_lowercase();
    Some(name.strip_suffix('.').map_or(name.clone(), ToOwned::to_owned))
}
