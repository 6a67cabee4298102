//! Brings committed config to nodes.
