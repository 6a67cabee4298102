//! Who may call, and what they prove it with. Persistent maps: a clone shares everything.

use std::sync::Arc;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use uuid::Uuid;

/// What is looked up in comes from clients, what it is looked up in from operators: nobody can fill a bucket.
type Map<K, V> = GenericHashMap<K, V, foldhash::fast::RandomState, DefaultSharedPtr>;

/// A consumer.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its id.
    pub id: Uuid,
    /// What upstreams are told.
    pub username: Option<Box<str>>,
    /// What upstreams are told.
    pub custom_id: Option<Box<str>>,
}

impl Consumer {
    /// What people call it.
    pub fn label(&self) -> Option<&str> {
        self.username.as_deref().or(self.custom_id.as_deref())
    }
}

/// What stands in for a key: neither a node nor its cache on disk has keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Of what a client showed.
    pub fn of(key: &[u8]) -> Self {
        Self(*blake3::hash(key).as_bytes())
    }

    /// As it crosses the wire.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Something that proves to be a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub consumer: Uuid,
}

/// A key of `key-auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Whose it is.
    pub credential: Credential,
    /// When it is none any more, in seconds since 1970; `None`: never. A node that has lost its control plane is not told that
    /// it is gone.
    pub expires_at_s: Option<u64>,
}

/// A password of `basic-auth`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// Whose it is.
    pub credential: Credential,
    /// SHA-1 of the password and the consumer's id, which is all that there is to compare with.
    pub sha1: [u8; 20],
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password").field("credential", &self.credential).finish_non_exhaustive()
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Callers {
    consumers: Map<Uuid, Arc<Consumer>>,
    by_username: Map<Box<str>, Uuid>,
    keys: Map<KeyHash, Key>,
    passwords: Map<Box<str>, Password>,
}

impl Callers {
    /// A consumer by id.
    pub fn consumer(&self, id: &Uuid) -> Option<&Arc<Consumer>> {
        self.consumers.get(id)
    }

    /// A consumer by id or username: as a plugin names the one that stands for everybody.
    pub fn named(&self, name: &str) -> Option<&Arc<Consumer>> {
        let by_id = Uuid::try_parse(name).ok().and_then(|id| self.consumers.get(&id));
        by_id.or_else(|| self.consumers.get(self.by_username.get(name)?))
    }

    /// Whose key this is at `now_s`.
    pub fn by_key(&self, hash: &KeyHash, now_s: u64) -> Option<(&Arc<Consumer>, &Credential)> {
        let Key { credential, expires_at_s } = self.keys.get(hash)?;
        if expires_at_s.is_some_and(|at| at <= now_s) {
            return None;
        }
        Some((self.consumers.get(&credential.consumer)?, credential))
    }

    /// Whose name this is, and what proves it.
    pub fn by_name(&self, name: &str) -> Option<(&Arc<Consumer>, &Password)> {
        let password = self.passwords.get(name)?;
        Some((self.consumers.get(&password.credential.consumer)?, password))
    }

    /// Enters a consumer.
    ///
    /// # Errors
    /// The id of another one that has its username.
    pub fn enter(&mut self, consumer: &Arc<Consumer>) -> Result<(), Uuid> {
        if let Some(username) = &consumer.username
            && let Some(other) = self.by_username.insert(username.clone(), consumer.id)
        {
            return Err(other);
        }
        self.consumers.insert(consumer.id, Arc::clone(consumer));
        Ok(())
    }

    /// Takes a consumer out.
    pub fn leave(&mut self, consumer: &Consumer) {
        self.consumers.remove(&consumer.id);
        if let Some(username) = &consumer.username {
            self.by_username.remove(username);
        }
    }

    /// Enters a key.
    ///
    /// # Errors
    /// The id of another credential that has it.
    pub fn enter_key(&mut self, hash: KeyHash, key: Key) -> Result<(), Uuid> {
        self.keys.insert(hash, key).map_or(Ok(()), |other| Err(other.credential.id))
    }

    /// Takes a key out.
    pub fn leave_key(&mut self, hash: &KeyHash) {
        self.keys.remove(hash);
    }

    /// Enters a password.
    ///
    /// # Errors
    /// The id of another credential that has the name.
    pub fn enter_password(&mut self, name: Box<str>, password: Password) -> Result<(), Uuid> {
        self.passwords.insert(name, password).map_or(Ok(()), |other| Err(other.credential.id))
    }

    /// Takes a password out.
    pub fn leave_password(&mut self, name: &str) {
        self.passwords.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_proves_nothing_from_the_second_on_in_which_it_expires() {
        let mut callers = Callers::default();
        let consumer = Uuid::from_u128(1);
        callers.enter(&Arc::new(Consumer { id: consumer, username: None, custom_id: None })).unwrap();
        let credential = Credential { id: Uuid::from_u128(2), consumer };
        let hash = KeyHash::of(b"secret");
        callers.enter_key(hash, Key { credential, expires_at_s: Some(100) }).unwrap();
        assert!(callers.by_key(&hash, 99).is_some() && callers.by_key(&hash, 100).is_none());
        assert!(callers.by_key(&KeyHash::of(b"other"), 99).is_none());
    }
}
