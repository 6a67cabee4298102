//! Values by key, with one order of age over all of them: the newest of a key and the oldest of all are found in
//! O(1).

use std::collections::HashMap;
use std::hash::Hash;

/// Values, each under a key; several may share one.
#[derive(Debug)]
pub struct Lru<K, V> {
    slots: Vec<Slot<K, V>>,
    free: Vec<usize>,
    ends: Links,
    newest_of: HashMap<K, usize, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    /// `None` while the slot is free.
    value: Option<V>,
    /// Among all values.
    all: Links,
    /// Among those of the key.
    own: Links,
}

/// Slots next to one in age; of the whole list, its ends.
#[derive(Debug, Default, Clone, Copy)]
struct Links {
    older: Option<usize>,
    newer: Option<usize>,
}

impl<K, V> Default for Lru<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ends: Links::default(), newest_of: HashMap::default() }
    }
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds the newest value.
    pub fn push(&mut self, key: K, value: V) {
        let all = Links { older: self.ends.newer, newer: None };
        let slot = Slot { key, value: Some(value), all, own: Links::default() };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at] = slot;
            at
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        match all.older {
            Some(older) => self.slots[older].all.newer = Some(at),
            None => self.ends.older = Some(at),
        }
        self.ends.newer = Some(at);
        let older = self.newest_of.insert(key, at);
        self.slots[at].own.older = older;
        if let Some(older) = older {
            self.slots[older].own.newer = Some(at);
        }
    }

    /// Takes the newest value of `key`.
    pub fn pop_newest(&mut self, key: K) -> Option<V> {
        let at = *self.newest_of.get(&key)?;
        self.remove(at)
    }

    /// Takes the oldest value of all.
    pub fn pop_oldest(&mut self) -> Option<V> {
        self.remove(self.ends.older?)
    }

    /// Drops the values that `keep` says no to. Cost: O(values).
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        let mut next = self.ends.older;
        while let Some(at) = next {
            let slot = &mut self.slots[at];
            next = slot.all.newer;
            if !slot.value.as_mut().is_some_and(&mut keep) {
                self.remove(at);
            }
        }
    }

    fn remove(&mut self, at: usize) -> Option<V> {
        let slot = &mut self.slots[at];
        let (key, all, own) = (slot.key, slot.all, slot.own);
        let value = slot.value.take();
        match all.older {
            Some(older) => self.slots[older].all.newer = all.newer,
            None => self.ends.older = all.newer,
        }
        match all.newer {
            Some(newer) => self.slots[newer].all.older = all.older,
            None => self.ends.newer = all.older,
        }
        if let Some(older) = own.older {
            self.slots[older].own.newer = own.newer;
        }
        match (own.newer, own.older) {
            (Some(newer), older) => self.slots[newer].own.older = older,
            (None, Some(older)) => {
                self.newest_of.insert(key, older);
            }
            (None, None) => {
                self.newest_of.remove(&key);
            }
        }
        self.free.push(at);
        value
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_list_would(steps in prop::collection::vec((0..5_u8, 0..3_u16), 0..200)) {
            let mut lru = Lru::default();
            let mut list: Vec<(u16, usize)> = Vec::new();
            for (number, (step, port)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        lru.push(address(port), number);
                        list.push((port, number));
                    }
                    2 => {
                        let at = list.iter().rposition(|(found, _)| *found == port);
                        prop_assert_eq!(lru.pop_newest(address(port)), at.map(|at| list.remove(at).1));
                    }
                    3 => {
                        let oldest = (!list.is_empty()).then(|| list.remove(0).1);
                        prop_assert_eq!(lru.pop_oldest(), oldest);
                    }
                    _ => {
                        lru.retain(|value| *value % 3 != 0);
                        list.retain(|(_, value)| value % 3 != 0);
                    }
                }
                prop_assert_eq!(lru.len(), list.len());
            }
            for (_, value) in list {
                prop_assert_eq!(lru.pop_oldest(), Some(value));
            }
            prop_assert!(lru.newest_of.is_empty());
        }
    }
}
