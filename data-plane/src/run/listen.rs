//! Where a node listens: what its settings say of it as the proxy takes it, and the sockets of the Status API.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use equipoise_identity::SealKeys;
use equipoise_settings::Listen;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::{ReloadError, StartError};
use crate::proxy::{self, Serves};
use crate::settings::NodeSettings;
use crate::table::Active;
use crate::takeover::Sockets;
use crate::tls;
use crate::tls::server::{ShownError, Speaks};

/// How TLS is spoken with targets. Reads many files.
pub(super) fn with_targets(settings: &NodeSettings) -> Result<tls::Clients, ReloadError> {
    let roots = settings.trust.load()?;
    let shown =
        settings.shown_to_targets.as_ref().map(|(certificate, key)| tls::shown_to_targets(certificate, key));
    let tls = tls::Clients::new(roots, settings.trust.depth);
    Ok(tls.with_defaults(settings.verify_targets, shown.transpose()?))
}

/// Where the proxy listens, for requests and then for streams, with what it shows where TLS is spoken.
pub(super) fn listen(
    settings: &NodeSettings,
    keys: &SealKeys,
    active: &Active,
) -> Result<Vec<proxy::Listen>, ShownError> {
    let streams = settings.stream_listen.iter().filter(|one| !one.udp).map(|one| &one.listen);
    let speaks_tls = settings.proxy_listen.iter().chain(streams.clone()).any(|listen| listen.tls);
    let tls =
        speaks_tls.then(|| settings.shown.load(&settings.cache_dir, keys, active.clone())).transpose()?;
    let first_only = tls.as_ref().map(Speaks::http1_only);
    let of = |listen: &Listen, tls: &Option<Speaks>, serves| proxy::Listen {
        address: listen.address,
        flags: listen.flags,
        tls: tls.clone().filter(|_| listen.tls),
        serves,
    };
    let of_streams = tls.as_ref().map(Speaks::for_streams);
    let of_requests = |listen: &Listen| if listen.flags.http2 { &tls } else { &first_only };
    let requests =
        settings.proxy_listen.iter().map(|listen| of(listen, of_requests(listen), Serves::Requests));
    let streams = streams.map(|listen| of(listen, &of_streams, Serves::Streams));
    Ok(requests.chain(streams).collect())
}

/// Where datagrams come in.
pub(super) fn datagram_listen(settings: &NodeSettings) -> impl Iterator<Item = SocketAddr> {
    settings.stream_listen.iter().filter(|one| one.udp).map(|one| one.listen.address)
}

/// What listening sockets of the Status API are called where they are handed over.
const STATUS_SOCKETS: &str = "status";

pub(super) fn bind_status(listens: &[Listen], sockets: &mut Sockets) -> Result<Vec<TcpListener>, StartError> {
    let open = |listen: &Listen| -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM.nonblocking(), None)?;
        // A restart must not wait for old connections to be forgotten; a second process is still refused.
        socket.set_reuse_address(true)?;
        proxy::set_flags(&socket, listen.address, &listen.flags)?;
        socket.bind(&listen.address.into())?;
        socket.listen(proxy::backlog(&listen.flags))?;
        Ok(socket.into())
    };
    let mut bound = Vec::new();
    for listen in listens {
        let named = |source| StartError::Status { address: listen.address, source };
        let shared = sockets.group(STATUS_SOCKETS, listen.address, 1, || open(listen)).map_err(named)?;
        for socket in shared.into_iter().flatten() {
            bound.push(TcpListener::from_std(socket.into()).map_err(named)?);
        }
    }
    Ok(bound)
}
