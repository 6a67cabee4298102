//! A persistent radix tree over bytes: finds every stored key that a key begins with, in one walk.
//!
//! A clone costs one reference count and shares all nodes; a change copies only the nodes on its way. That is
//! what keeps a one-route change off the size of the config.

use std::sync::Arc;

/// How many values of one walk are put in order; see [`Trie::walk_back`].
const ORDERED: usize = 16;

/// Keys and what is stored under them.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie<V> {
    root: Arc<Node<V>>,
}

/// No node but the root is without value and has fewer than two children.
#[derive(Debug, Clone)]
struct Node<V> {
    /// What leads here from the parent; the parent has its first byte too.
    label: Box<[u8]>,
    value: Option<V>,
    /// First bytes of the children's labels, ascending: beside the children, so that most children are ruled
    /// out without being touched.
    firsts: Vec<u8>,
    children: Vec<Arc<Node<V>>>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { label: Box::default(), value: None, firsts: Vec::new(), children: Vec::new() }
    }
}

impl<V> Trie<V> {
    /// Calls `visit` with the value of every stored key that `key` begins with, and the length of that key:
    /// longest first (up to a number that no sane config passes; what is beyond comes before, shortest first).
    pub(super) fn walk_back<'t>(&'t self, key: &[u8], mut visit: impl FnMut(usize, &'t V)) {
        let mut seen: [Option<(usize, &V)>; ORDERED] = [None; ORDERED];
        let mut count = 0;
        let mut node = &*self.root;
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
            let Some(child) = rest.first().and_then(|first| node.child(*first)) else { break };
            // The first byte is known to be equal: a label of one byte is not even read.
            if child.label.len() > 1 && !rest.starts_with(&child.label) {
                break;
            }
            depth += child.label.len();
            node = child;
        }
        for (depth, value) in seen[..count].iter().rev().flatten() {
            visit(*depth, value);
        }
    }
}

impl<V: Clone + Default> Trie<V> {
    /// What is stored under `key`; the default value if there is nothing yet.
    pub(super) fn entry(&mut self, key: &[u8]) -> &mut V {
        let mut node = Arc::make_mut(&mut self.root);
        let mut rest = key;
        while let Some(&first) = rest.first() {
            match node.firsts.binary_search(&first) {
                Ok(at) => {
                    let child = Arc::make_mut(&mut node.children[at]);
                    let shared = child.label.iter().zip(rest).take_while(|(a, b)| a == b).count();
                    if shared < child.label.len() {
                        child.split(shared);
                    }
                    rest = &rest[shared..];
                    node = child;
                }
                Err(at) => {
                    let leaf = Node { label: rest.into(), ..Node::default() };
                    node.firsts.insert(at, first);
                    node.children.insert(at, Arc::new(leaf));
                    rest = &[];
                    node = Arc::make_mut(&mut node.children[at]);
                }
            }
        }
        node.value.get_or_insert_default()
    }

    /// Takes away what is stored under `key`, and the nodes that only led there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let Some(hold) = self.last_to_stay(key) else { return };
        let mut node = Arc::make_mut(&mut self.root);
        let mut rest = key;
        let mut depth = 0;
        while let Some(&first) = rest.first() {
            let Ok(at) = node.firsts.binary_search(&first) else { return };
            if hold == Hold::Cut(depth) {
                node.firsts.remove(at);
                node.children.remove(at);
                node.join(depth);
                return;
            }
            let child = Arc::make_mut(&mut node.children[at]);
            rest = &rest[child.label.len()..];
            depth += child.label.len();
            node = child;
        }
        node.value = None;
        node.join(depth);
    }

    /// Where the tree is cut to take `key` away; `None` if it is not there.
    fn last_to_stay(&self, key: &[u8]) -> Option<Hold> {
        let mut node = &*self.root;
        let mut depth = 0;
        let mut last = 0;
        while let Some(first) = key[depth..].first() {
            if depth == 0 || node.value.is_some() || node.children.len() > 1 {
                last = depth;
            }
            let child = node.child(*first)?;
            if !key[depth..].starts_with(&child.label) {
                return None;
            }
            depth += child.label.len();
            node = child;
        }
        node.value.as_ref()?;
        Some(if node.children.is_empty() && depth > 0 { Hold::Cut(last) } else { Hold::Empty })
    }
}

/// What to do to take a key away.
#[derive(PartialEq)]
enum Hold {
    /// Cut the branch off below the node at this depth.
    Cut(usize),
    /// Empty the node; there is more below it.
    Empty,
}

impl<V> Node<V> {
    fn child(&self, first: u8) -> Option<&Self> {
        // Few children: a scan beats a binary search, and stops at once in most nodes.
        let at = self.firsts.iter().position(|known| *known == first)?;
        Some(&self.children[at])
    }

    /// Puts a node in between, after `shared` bytes of the label.
    fn split(&mut self, shared: usize) {
        let label = std::mem::take(&mut self.label);
        let lower = Self {
            label: label[shared..].into(),
            value: self.value.take(),
            firsts: std::mem::take(&mut self.firsts),
            children: std::mem::take(&mut self.children),
        };
        self.label = label[..shared].into();
        self.firsts = vec![label[shared]];
        self.children = vec![Arc::new(lower)];
    }
}

impl<V: Clone> Node<V> {
    /// Undoes [`Node::split`] where nothing keeps the two apart any more. `depth` 0 is the root, which stays.
    fn join(&mut self, depth: usize) {
        if depth == 0 || self.value.is_some() || self.children.len() != 1 {
            return;
        }
        if let Some(only) = self.children.pop() {
            let lower = Arc::unwrap_or_clone(only);
            self.label = [&*self.label, &*lower.label].concat().into();
            self.value = lower.value;
            self.firsts = lower.firsts;
            self.children = lower.children;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn found(trie: &Trie<u32>, key: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        trie.walk_back(key.as_bytes(), |depth, value| found.push((depth, *value)));
        found
    }

    fn node_count(node: &Node<u32>) -> usize {
        1 + node.children.iter().map(|child| node_count(child)).sum::<usize>()
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

    proptest! {
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
            prop_assert!(node_count(&trie.root) <= 1 + 2 * map.len());
        }
    }
}
