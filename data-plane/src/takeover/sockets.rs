//! Sockets that listen, by what they are for: those of the process before, and those of this one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// All sockets of one address in the settings.
#[derive(Debug)]
pub struct Group {
    /// What they are for, in one word.
    pub name: String,
    /// As it is in the settings: port 0 is not what it became.
    pub address: SocketAddr,
    /// In order, each once.
    pub sockets: Vec<OwnedFd>,
}

/// The sockets of a node.
#[derive(Debug, Default)]
pub struct Sockets {
    inherited: Vec<Group>,
    kept: Vec<Group>,
}

impl Sockets {
    /// Those of the process before, which are used before any is opened.
    pub const fn inherited(groups: Vec<Group>) -> Self {
        Self { inherited: groups, kept: Vec::new() }
    }

    /// The sockets of `address` for each of `users`; `open` opens one for each where none was inherited. Every inherited
    /// one is used, also where there are more than users: whatever waits in it would be lost otherwise. Where there are
    /// fewer, some users share one.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn group(
        &mut self,
        name: &str,
        address: SocketAddr,
        users: usize,
        mut open: impl FnMut() -> io::Result<OwnedFd>,
    ) -> io::Result<Vec<Vec<OwnedFd>>> {
        let users = users.max(1);
        let is_it = |group: &Group| group.name == name && group.address == address;
        let sockets = match self.inherited.iter().position(is_it) {
            Some(at) => self.inherited.remove(at).sockets,
            None => (0..users).map(|_| open()).collect::<io::Result<_>>()?,
        };
        let mut shared: Vec<Vec<OwnedFd>> = (0..users).map(|_| Vec::new()).collect();
        for (at, user) in places(sockets.len(), users) {
            if let (Some(socket), Some(list)) = (sockets.get(at), shared.get_mut(user)) {
                list.push(socket.try_clone()?);
            }
        }
        self.kept.push(Group { name: name.to_owned(), address, sockets });
        Ok(shared)
    }

    /// All sockets of this process, for its successor. Those that it inherited and has no use for are closed.
    pub fn into_kept(self) -> Vec<Group> {
        for Group { name, address, .. } in &self.inherited {
            tracing::info!(name, %address, "no longer listened on");
        }
        self.kept
    }
}

/// Which socket goes to which user, as pairs: every socket and every user is in at least one.
fn places(sockets: usize, users: usize) -> impl Iterator<Item = (usize, usize)> {
    let pairs = if sockets == 0 { 0 } else { sockets.max(users) };
    (0..pairs).map(move |at| (at % sockets, at % users))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn every_socket_and_every_user_has_a_place() {
        for sockets in 1..9 {
            for users in 1..9 {
                let pairs: Vec<_> = places(sockets, users).collect();
                assert_eq!(
                    pairs.len(),
                    sockets.max(users),
                    "{sockets} {users}: none is doubled without need"
                );
                assert!((0..sockets).all(|at| pairs.iter().any(|pair| pair.0 == at)));
                assert!((0..users).all(|at| pairs.iter().any(|pair| pair.1 == at)));
            }
        }
        assert_eq!(places(0, 3).count(), 0);
    }

    #[test]
    fn inherited_sockets_are_used_once_and_others_are_opened() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let open = || TcpListener::bind(any).map(OwnedFd::from);
        let port =
            |socket: &OwnedFd| TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port();
        let before = vec![open().unwrap(), open().unwrap(), open().unwrap()];
        let ports: Vec<_> = before.iter().map(port).collect();
        let groups = vec![Group { name: "proxy".to_owned(), address: any, sockets: before }];
        let mut sockets = Sockets::inherited(groups);
        let never = || panic!("none is opened");
        let shared = sockets.group("proxy", any, 2, never).unwrap();
        let shared: Vec<Vec<_>> = shared.iter().map(|list| list.iter().map(port).collect()).collect();
        assert_eq!(shared, [vec![ports[0], ports[2]], vec![ports[1]]]);
        let opened = sockets.group("proxy", any, 2, open).unwrap();
        assert_eq!(opened.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert!(sockets.group("proxy", any, 1, || Err(io::ErrorKind::AddrInUse.into())).is_err());
        let kept = sockets.into_kept();
        assert_eq!(kept.iter().map(|group| group.sockets.len()).collect::<Vec<_>>(), [3, 2]);
        assert!(kept.iter().flat_map(|group| &group.sockets).all(|socket| socket.as_raw_fd() > 2));
    }
}
