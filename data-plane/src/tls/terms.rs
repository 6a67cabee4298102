//! What a service asks of TLS with its targets.
//!
//! Terms of the same content are one value with one number, whichever services have them: what is kept by that number
//! (connections, sessions) is shared between these services, and with nobody else. A change of the config makes other
//! terms with a number of their own, so that nothing made before it is used after it.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};

/// Addresses whose sessions are kept for one [`Terms`]; a session takes a few KB.
const ADDRESSES_MAX: usize = 256;

/// Tickets kept for one address: those of two names, eight of each.
const TICKETS_MAX: usize = 16;

/// What is asked, as configured.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Whether a target's certificate is verified; `None`: as the settings say.
    pub verify: Option<bool>,
    /// Intermediate certificates that may lie between a target's and a trusted one; `None`: as the settings say.
    pub depth: Option<usize>,
    /// Who is trusted in place of whom the settings name.
    pub authorities: Option<Arc<RootCertStore>>,
    /// What is shown to targets that want to see a certificate; `None`: what the settings say.
    pub certificate: Option<Arc<CertifiedKey>>,
}

impl Asked {
    /// Whether both are the same; of certificates, the very same.
    fn key(
        &self,
    ) -> (Option<bool>, Option<usize>, Option<*const RootCertStore>, Option<*const CertifiedKey>) {
        let authorities = self.authorities.as_ref().map(Arc::as_ptr);
        (self.verify, self.depth, authorities, self.certificate.as_ref().map(Arc::as_ptr))
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Asked {}

impl Hash for Asked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// What is asked of TLS, and what came of it: sessions that can be resumed.
#[derive(Debug)]
pub struct Terms {
    number: u64,
    asked: Asked,
    made: Mutex<Option<Made>>,
}

/// What was made of terms by what the settings said then, which is known by its number. A resumed session is not verified
/// again: what was made by others is never used.
#[derive(Debug)]
struct Made {
    by: u64,
    config: Arc<ClientConfig>,
    sessions: Sessions,
}

/// Sessions by address: addresses need not know each other's tickets.
#[derive(Debug, Default)]
struct Sessions {
    of: HashMap<SocketAddr, Arc<ClientSessionMemoryCache>>,
    /// In the order in which they came.
    order: VecDeque<SocketAddr>,
}

impl Terms {
    /// Terms that are no others, even where the same is asked.
    pub fn new(asked: Asked) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, asked, made: Mutex::default() })
    }

    /// Tells them from all others that this process had.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What is asked.
    pub const fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The client's side for a handshake with `address`: `make`'s, who is known by the number `by`, with the sessions of that
    /// address.
    pub(super) fn config(
        &self,
        address: SocketAddr,
        by: u64,
        make: impl FnOnce(&Asked) -> ClientConfig,
    ) -> Arc<ClientConfig> {
        // Nothing is left half done in there.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *made {
            Some(made) if made.by == by => made.config_for(address),
            // One that began before what holds now: it has no sessions, and takes none away.
            Some(made) if made.by > by => Arc::new(make(&self.asked)),
            _ => {
                let config = Arc::new(make(&self.asked));
                made.insert(Made { by, config, sessions: Sessions::default() }).config_for(address)
            }
        }
    }
}

impl Made {
    fn config_for(&mut self, address: SocketAddr) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::store(self.sessions.of(address));
        Arc::new(config)
    }
}

impl Sessions {
    fn of(&mut self, address: SocketAddr) -> Arc<ClientSessionMemoryCache> {
        if let Some(found) = self.of.get(&address) {
            return Arc::clone(found);
        }
        if self.order.len() >= ADDRESSES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.of.remove(&oldest);
        }
        self.order.push_back(address);
        let made = Arc::new(ClientSessionMemoryCache::new(TICKETS_MAX));
        self.of.insert(address, Arc::clone(&made));
        made
    }
}

/// Terms by content, as long as somebody has them.
#[derive(Debug, Default)]
pub struct Interned {
    held: HashMap<Asked, Weak<Terms>>,
    /// How many there may be until those that nobody has are looked for.
    full: usize,
}

impl Interned {
    /// The terms that ask this.
    pub fn get(&mut self, asked: &Asked) -> Arc<Terms> {
        // What an entry asks for is held by it, so that nothing else can be where its certificates are.
        if let Some(terms) = self.held.get(asked).and_then(Weak::upgrade) {
            return terms;
        }
        if self.held.len() >= self.full {
            self.held.retain(|_, terms| terms.strong_count() > 0);
            self.full = (self.held.len() * 2).max(16);
        }
        let terms = Terms::new(asked.clone());
        self.held.remove(asked);
        self.held.insert(asked.clone(), Arc::downgrade(&terms));
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_terms_are_one_and_others_never_are() {
        let mut interned = Interned::default();
        let plain = interned.get(&Asked::default());
        assert!(Arc::ptr_eq(&plain, &interned.get(&Asked::default())));
        let asked = [
            Asked { verify: Some(true), ..Asked::default() },
            Asked { verify: Some(false), ..Asked::default() },
            Asked { depth: Some(0), ..Asked::default() },
            Asked { authorities: Some(Arc::new(RootCertStore::empty())), ..Asked::default() },
            Asked { authorities: Some(Arc::new(RootCertStore::empty())), ..Asked::default() },
        ];
        let mut numbers = vec![plain.number()];
        let held: Vec<_> = asked.iter().map(|asked| interned.get(asked)).collect();
        numbers.extend(held.iter().map(|terms| terms.number()));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 6);
        let before = plain.number();
        drop(plain);
        assert_ne!(interned.get(&Asked::default()).number(), before, "what nobody had comes back as another");
    }

    #[test]
    fn those_that_nobody_has_are_let_go_of() {
        let mut interned = Interned::default();
        for depth in 0..1000 {
            interned.get(&Asked { depth: Some(depth), ..Asked::default() });
            assert!(interned.held.len() <= 16);
        }
    }

    #[test]
    fn sessions_are_kept_for_so_many_addresses() {
        let mut sessions = Sessions::default();
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        let first = sessions.of(address(1));
        assert!(Arc::ptr_eq(&first, &sessions.of(address(1))));
        for port in 2..=ADDRESSES_MAX + 1 {
            sessions.of(address(port));
        }
        assert_eq!(sessions.of.len(), ADDRESSES_MAX);
        assert!(!Arc::ptr_eq(&first, &sessions.of(address(1))), "the oldest gave way");
    }
}
