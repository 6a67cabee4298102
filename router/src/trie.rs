//! A persistent radix tree over bytes: finds every stored key that a key begins with, in one walk.
//!
//! A clone costs one reference count and shares all nodes; a change copies only the nodes on its way. That is
//! what keeps a one-route change off the size of the config.
//!
//! A look-up among many routes costs what it misses in the cache, so a level of the tree is one array, with the
//! labels and the values in it (a value should be small); a longer label is a chain of such.

use std::fmt;
use std::sync::Arc;

/// How many values of one walk are put in order; see [`Trie::walk_back`].
const ORDERED: usize = 16;

/// Keys and what is stored under them.
#[derive(Debug, Clone)]
pub(super) struct Trie<V>(Node<V>);

#[derive(Debug, Clone)]
struct Node<V> {
    value: Option<V>,
    /// In order of their labels' first bytes, which differ.
    branches: Arc<[Branch<V>]>,
}

#[derive(Debug, Clone)]
struct Branch<V> {
    /// Not empty.
    label: Label,
    /// Not empty either.
    node: Node<V>,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self(Node::default())
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { value: None, branches: Arc::default() }
    }
}

impl<V> Trie<V> {
    /// Whether nothing is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.0.value.is_none() && self.0.branches.is_empty()
    }

    /// Calls `visit` with the value of every stored key that `key` begins with, and the length of that key:
    /// longest first (up to a number that no sane config passes; what is beyond comes before, shortest first).
    pub(super) fn walk_back<'t>(&'t self, key: &[u8], mut visit: impl FnMut(usize, &'t V)) {
        let mut seen: [Option<(usize, &V)>; ORDERED] = [None; ORDERED];
        let mut count = 0;
        let mut node = &self.0;
        let mut depth = 0;
        loop {
            if let Some(value) = &node.value {
                match seen.get_mut(count) {
                    Some(free) => {
                        *free = Some((depth, value));
                        count += 1;
                    }
                    None => visit(depth, value),
                }
            }
            let rest = &key[depth..];
            let Some(branch) = node.branch(rest) else { break };
            depth += branch.label.len();
            node = &branch.node;
        }
        for (depth, value) in seen[..count].iter().rev().flatten() {
            visit(*depth, value);
        }
    }
}

impl<V> Trie<V> {
    /// What is stored under exactly `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let mut node = &self.0;
        let mut rest = key;
        while !rest.is_empty() {
            let branch = node.branch(rest)?;
            rest = rest.get(branch.label.len()..)?;
            node = &branch.node;
        }
        node.value.as_ref()
    }
}

impl<V: Clone + Default> Trie<V> {
    /// What is stored under `key`; the default value if there is nothing yet.
    pub(super) fn entry(&mut self, key: &[u8]) -> &mut V {
        let mut node = &mut self.0;
        let mut rest = key;
        while !rest.is_empty() {
            let branch = node.branch_to(rest);
            rest = &rest[branch.label.len()..];
            node = &mut branch.node;
        }
        node.value.get_or_insert_default()
    }

    /// Takes away what is stored under `key`, and the nodes that only led there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

impl<V> Node<V> {
    fn branch(&self, key: &[u8]) -> Option<&Branch<V>> {
        let first = key.first()?;
        // Few branches: a scan beats a binary search.
        let branch = self.branches.iter().find(|branch| branch.label.first() == *first)?;
        key.starts_with(branch.label.as_bytes()).then_some(branch)
    }

    fn place(&self, first: u8) -> Result<usize, usize> {
        self.branches.binary_search_by_key(&first, |branch| branch.label.first())
    }
}

impl<V: Clone> Node<V> {
    /// The branch that `key` takes from here: made, or made to fit, if need be.
    fn branch_to(&mut self, key: &[u8]) -> &mut Branch<V> {
        let at = match self.place(key[0]) {
            Ok(at) => at,
            Err(at) => {
                let new = Branch { label: Label::new(key), node: Self::default() };
                let (before, after) = self.branches.split_at(at);
                self.branches = before.iter().cloned().chain([new]).chain(after.iter().cloned()).collect();
                at
            }
        };
        let branch = &mut Arc::make_mut(&mut self.branches)[at];
        branch.fit(key);
        branch
    }

    /// Depth of the recursion: that of the tree, at most the length of a key.
    fn remove(&mut self, key: &[u8]) {
        let Some(&first) = key.first() else {
            self.value = None;
            return;
        };
        let Ok(at) = self.place(first) else { return };
        let branch = &mut Arc::make_mut(&mut self.branches)[at];
        let Some(rest) = key.strip_prefix(branch.label.as_bytes()) else { return };
        branch.node.remove(rest);
        if branch.node.value.is_none() && branch.node.branches.is_empty() {
            let (before, after) = self.branches.split_at(at);
            self.branches = before.iter().chain(&after[1..]).cloned().collect();
        } else {
            branch.join();
        }
    }
}

impl<V: Clone> Branch<V> {
    /// Shortens the label to what it shares with `key`; the rest of it moves to a node in between.
    fn fit(&mut self, key: &[u8]) {
        let label = self.label.as_bytes();
        let shared = label.iter().zip(key).take_while(|(a, b)| a == b).count();
        if shared < label.len() {
            let lower = Self { label: Label::new(&label[shared..]), node: std::mem::take(&mut self.node) };
            self.label = Label::new(&label[..shared]);
            self.node.branches = [lower].into();
        }
    }

    /// Undoes [`Branch::fit`] where nothing keeps the two apart any more.
    fn join(&mut self) {
        if let (None, [lower]) = (&self.node.value, &*self.node.branches)
            && let Some(label) = self.label.joined(&lower.label)
        {
            *self = Self { label, node: lower.node.clone() };
        }
    }
}

/// Some bytes in place. With it a branch has 40 bytes and its value.
#[derive(Clone, Copy)]
struct Label {
    len: u8,
    bytes: [u8; Self::BYTES_MAX],
}

impl Label {
    const BYTES_MAX: usize = 23;

    /// As much of `key` as fits.
    fn new(key: &[u8]) -> Self {
        let len = key.len().min(Self::BYTES_MAX);
        let mut bytes = [0; Self::BYTES_MAX];
        bytes[..len].copy_from_slice(&key[..len]);
        Self { len: u8::try_from(len).expect("at most 23"), bytes }
    }

    fn joined(&self, next: &Self) -> Option<Self> {
        let both = [self.as_bytes(), next.as_bytes()].concat();
        (both.len() <= Self::BYTES_MAX).then(|| Self::new(&both))
    }

    const fn first(&self) -> u8 {
        self.bytes[0]
    }

    fn len(&self) -> usize {
        usize::from(self.len)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use equipoise_proto::limits::PATH_BYTES_MAX;
    use proptest::prelude::*;

    use super::*;

    fn found(trie: &Trie<u32>, key: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        trie.walk_back(key.as_bytes(), |depth, value| found.push((depth, *value)));
        found
    }

    fn node_count(node: &Node<u32>) -> usize {
        1 + node.branches.iter().map(|branch| node_count(&branch.node)).sum::<usize>()
    }

    #[test]
    fn a_walk_gives_the_longest_first() {
        let mut trie = Trie::default();
        for (key, value) in [("/a", 1), ("", 2), ("/abc", 3), ("/b", 4)] {
            *trie.entry(key.as_bytes()) = value;
        }
        assert_eq!(found(&trie, "/abcd"), [(4, 3), (2, 1), (0, 2)]);
        assert_eq!(found(&trie, "/ab"), [(2, 1), (0, 2)]);
        assert_eq!(found(&trie, ""), [(0, 2)]);
    }

    #[test]
    fn a_key_is_found_whole_or_not_at_all() {
        let mut trie = Trie::default();
        for (key, value) in [("/a", 1), ("/abc", 3)] {
            *trie.entry(key.as_bytes()) = value;
        }
        for (key, want) in
            [("/a", Some(1)), ("/abc", Some(3)), ("/ab", None), ("/abcd", None), ("", None), ("/b", None)]
        {
            assert_eq!(trie.get(key.as_bytes()).copied(), want, "{key}");
        }
    }

    #[test]
    fn no_value_is_lost_on_a_walk_past_the_ordered_number() {
        let mut trie = Trie::default();
        for len in 0..100_u32 {
            *trie.entry(&vec![b'a'; len as usize]) = len;
        }
        let mut values: Vec<_> = found(&trie, &"a".repeat(200)).into_iter().map(|(_, value)| value).collect();
        values.sort_unstable();
        assert_eq!(values, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_change_leaves_earlier_clones_alone() {
        let mut trie = Trie::default();
        *trie.entry(b"/abc") = 1;
        let before = trie.clone();
        *trie.entry(b"/abd") = 2;
        trie.remove(b"/abc");
        assert_eq!(found(&before, "/abc"), [(4, 1)]);
        assert_eq!(found(&trie, "/abc"), []);
        assert_eq!(found(&trie, "/abd"), [(4, 2)]);
    }

    #[test]
    fn the_deepest_tree_there_can_be_is_changed_and_dropped_on_a_small_stack() {
        let deepest = || {
            let mut trie = Trie::default();
            for len in 1..=PATH_BYTES_MAX {
                *trie.entry(&vec![b'a'; len]) = 1;
            }
            trie.remove(&vec![b'a'; PATH_BYTES_MAX]);
        };
        // Half of what threads have by default.
        std::thread::Builder::new().stack_size(1024 * 1024).spawn(deepest).unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn keys_longer_than_a_label_are_found(keys in prop::collection::vec("[ab]{0,2}(a{30}|b{50})[ab]{0,30}", 1..8)) {
            let mut trie = Trie::default();
            for key in &keys {
                *trie.entry(key.as_bytes()) = 7;
            }
            for (at, key) in keys.iter().enumerate() {
                prop_assert_eq!(found(&trie, key)[0], (key.len(), 7));
                if !keys[at + 1..].contains(key) {
                    trie.remove(key.as_bytes());
                }
            }
            prop_assert_eq!(node_count(&trie.0), 1);
        }

        #[test]
        fn it_agrees_with_a_map_of_prefixes_and_keeps_no_dead_node(
            steps in prop::collection::vec(("[ab]{0,5}", any::<bool>()), 0..60),
            key in "[ab]{0,7}",
        ) {
            let mut trie = Trie::default();
            let mut map = BTreeMap::new();
            for (value, (key, is_removal)) in (1_u32..).zip(&steps) {
                if *is_removal {
                    trie.remove(key.as_bytes());
                    map.remove(key);
                } else {
                    *trie.entry(key.as_bytes()) = value;
                    map.insert(key.clone(), value);
                }
            }
            let mut want: Vec<_> = map
                .iter()
                .filter(|(known, _)| key.starts_with(known.as_str()))
                .map(|(known, value)| (known.len(), *value))
                .collect();
            want.reverse();
            prop_assert_eq!(found(&trie, &key), want);
            // Root, one node a key, and at most one branching point a key.
            prop_assert!(node_count(&trie.0) <= 1 + 2 * map.len());
        }
    }
}
