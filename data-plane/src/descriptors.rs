//! File descriptors: how many the process may have, and how many of them clients may take.
//!
//! The kernel gives out the lowest number that is free. So a client's connection whose number is at the limit for
//! clients says that all below are taken, and costs nobody a system call: accepting pauses, and what is above the limit
//! stays for connections to targets, the Status API and files.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use equipoise_settings::{Problem, Settings, keys};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors the process has, and what is kept from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptors {
    /// How many the process asks for; `None`: as many as the system lets it have.
    pub wanted: Option<u64>,
    /// How many clients may not take; `None`: a quarter of all.
    pub reserve: Option<u64>,
}

impl Descriptors {
    /// Takes what concerns descriptors.
    ///
    /// # Errors
    /// When all of them were kept from clients.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        let (wanted, reserve) =
            (settings.int(&keys::PROXY_DESCRIPTORS_MAX), settings.int(&keys::PROXY_DESCRIPTORS_RESERVE));
        if let (Some(wanted), Some(reserve)) = (wanted, reserve)
            && reserve >= wanted
        {
            let rule = format!("must be below `{}`", keys::PROXY_DESCRIPTORS_MAX.name);
            return Err(settings.problem(&keys::PROXY_DESCRIPTORS_RESERVE, rule));
        }
        Ok(Self { wanted, reserve })
    }

    /// Raises the limit of this process as far as it may, and gives the number from which on a descriptor is none for
    /// clients.
    pub fn raise(self) -> RawFd {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = self.wanted.or(maximum);
        let reachable = match (wanted, maximum) {
            (Some(wanted), Some(maximum)) => Some(wanted.min(maximum)),
            (wanted, maximum) => wanted.or(maximum),
        };
        let mut limit = current;
        if reachable != current && reachable.is_some() {
            match setrlimit(Resource::Nofile, Rlimit { current: reachable, maximum }) {
                Ok(()) => limit = reachable,
                Err(error) => tracing::warn!(%error, "the limit of descriptors cannot be changed"),
            }
        }
        if let (Some(wanted), Some(limit)) = (self.wanted, limit)
            && limit < wanted
        {
            tracing::warn!(wanted, limit, "the system does not let this process have as many descriptors");
        }
        let for_clients = self.for_clients(limit);
        tracing::info!(limit, for_clients, "descriptors");
        for_clients
    }

    /// The number from which on a descriptor is none for clients, of `limit` in all.
    fn for_clients(self, limit: Option<u64>) -> RawFd {
        let Some(limit) = limit else { return RawFd::MAX };
        // A reserve that leaves nobody a connection would be an outage: of a limit that is too low, half is for clients.
        let reserve = self.reserve.unwrap_or(limit / 4).min(limit / 2);
        RawFd::try_from(limit.saturating_sub(reserve)).unwrap_or(RawFd::MAX)
    }
}

/// The lowest number that is free; `None` where there is none. `any` is any open descriptor.
pub(crate) fn lowest_free(any: impl AsFd) -> Option<RawFd> {
    rustix::io::fcntl_dupfd_cloexec(any, 0).ok().map(|free| free.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_all_but_the_reserve_and_half_at_least() {
        for (reserve, limit, want) in [
            (None, Some(1024), 768),
            (Some(100), Some(1024), 924),
            (Some(0), Some(1024), 1024),
            (Some(5000), Some(1024), 512),
            (Some(5), None, RawFd::MAX),
            (None, Some(u64::MAX), RawFd::MAX),
        ] {
            let descriptors = Descriptors { wanted: None, reserve };
            assert_eq!(descriptors.for_clients(limit), want, "{reserve:?} of {limit:?}");
        }
    }

    #[test]
    fn the_lowest_free_number_is_given_to_the_next_file() {
        let file = tempfile::tempfile().unwrap();
        let free = lowest_free(&file).unwrap();
        assert!(free > 2 && free != file.as_raw_fd(), "{free}");
    }
}
