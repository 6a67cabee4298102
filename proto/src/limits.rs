//! Bounds that both planes hold: the control plane refuses what is beyond them, so that a node never has to.
//!
//! They are far above what people configure; they exist so that one entity cannot exhaust a small node.

/// Bytes of an entity's name. Kong has no limit; DNS names end at 253.
pub const NAME_BYTES_MAX: usize = 512;

/// Bytes of a host name or host pattern: DNS allows 253, a wildcard, a trailing dot and a port come on top.
pub const HOST_BYTES_MAX: usize = 262;

/// Bytes of a path pattern, a quarter of what a request line may have.
pub const PATH_BYTES_MAX: usize = 2 * 1024;

/// Bytes of a regular expression as written.
pub const REGEX_BYTES_MAX: usize = 2 * 1024;

/// Memory of one compiled regular expression. `(?:\w{1,100}/){20}` fits, `((x{1,1000}){1,100})` does not.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Nested groups and repetitions in a regular expression.
pub const REGEX_NESTING_MAX: u32 = 64;

/// Regular expressions of one route, in its paths and headers together: each is tried, and each may keep a cache
/// of its own on every worker.
pub const ROUTE_REGEXES_MAX: usize = 100;

/// Memory of all compiled regular expressions of one route. A hundred of the usual size fit, and so do eight of
/// the largest.
pub const ROUTE_REGEX_COMPILED_BYTES_MAX: usize = 8 * REGEX_COMPILED_BYTES_MAX;

/// Bytes of one header value, in a route's condition or in what a health check sends.
pub const HEADER_VALUE_BYTES_MAX: usize = 8 * 1024;

/// Elements in one list of a route: hosts, paths, methods, SNIs, headers, values of a header.
pub const ROUTE_LIST_MAX: usize = 1_000;

/// Targets of one upstream.
pub const UPSTREAM_TARGETS_MAX: usize = 10_000;

/// Server names of one certificate: it lists them, and each change of one writes the list anew.
pub const CERTIFICATE_SNIS_MAX: usize = 2_000;

/// Labels that a node may have.
pub const NODE_LABELS_MAX: usize = 32;

/// Bytes of each text that a node says of itself: a host name has at most 253.
pub const NODE_TEXT_BYTES_MAX: usize = 256;

/// Whether a control plane takes this text of a node: region, zone, label names and values and the like.
pub fn is_node_text(text: &str) -> bool {
    text.len() <= NODE_TEXT_BYTES_MAX && !text.contains(char::is_control)
}

/// Nodes of one region that share probes; what is beyond probes by itself.
pub const PEERS_MAX: usize = 10_000;

/// Verdicts in one message.
pub const VERDICTS_MAX: usize = 4_000;

/// Entities in a config, all kinds together.
pub const ENTITIES_MAX: usize = 1_000_000;

/// Bytes of one entity as it crosses the wire: well below what one gRPC message carries (4 MiB).
pub const ENTITY_WIRE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a whole config as it crosses the wire: what [`ENTITIES_MAX`] entities of 512 bytes take. The largest
/// that was measured, 10,000 routes with 100,000 targets, has 3.65 MB.
pub const CONFIG_WIRE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Bytes of a compressed snapshot. zstd makes what it cannot compress longer by less than a 256th, so that no
/// config of [`CONFIG_WIRE_BYTES_MAX`] is beyond this.
pub const SNAPSHOT_COMPRESSED_BYTES_MAX: u64 = CONFIG_WIRE_BYTES_MAX + CONFIG_WIRE_BYTES_MAX / 128;

/// Most that a snapshot adds to the bytes of one entity: kind, id, lengths.
pub const RECORD_OVERHEAD_BYTES_MAX: u64 = 32;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::v1;

    #[test]
    fn a_snapshot_adds_no_more_to_an_entity_than_is_reckoned() {
        for length in [0, 1, ENTITY_WIRE_BYTES_MAX] {
            let (id, wire) = (vec![0; 16].into(), vec![0; length].into());
            let record = v1::EntityRecord { kind: i32::MAX, id, wire };
            let added = record.encode_length_delimited_to_vec().len() - length;
            assert!(u64::try_from(added).unwrap() <= RECORD_OVERHEAD_BYTES_MAX, "{added} bytes at {length}");
        }
    }
}
