//! What becomes of the reference's keys that have no twin among ours.
//!
//! Source: Kong 3.10's `kong.conf`; those with a twin name it in [`crate::keys`].

/// What is done with a key of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Accepted with one warning.
    NoEffect(&'static str),
    /// The process does not start, since going on would do something else than was asked for.
    Refused(&'static str),
    /// Accepted with one warning: perhaps of a plugin or of another release.
    Unknown,
}

/// Decides for `name = value`; `name` is without `KONG_`, lower case.
pub fn treatment(name: &str, value: &str) -> Treatment {
    let value = value.trim();
    match name {
        "role" if value == "traditional" => {
            Treatment::NoEffect("the binary that is started decides the role")
        }
        "role" => Treatment::Refused("start equipoise-control-plane or equipoise-data-plane instead"),
        "declarative_config" | "declarative_config_string" => {
            Treatment::Refused("loading a declarative file at start is not supported by this version")
        }
        "database" if value == "off" => {
            Treatment::Refused("config is always written through the Admin API and kept by the control plane")
        }
        "admin_ssl_cert" | "admin_ssl_cert_key" | "status_ssl_cert" | "status_ssl_cert_key" => {
            Treatment::Refused("TLS is not supported here by this version")
        }
        "dns_cache_size" | "resolver_lru_cache_size" | "resolver_mem_cache_size" => {
            Treatment::NoEffect("exactly the names that the config uses are kept")
        }
        "dns_no_sync" => Treatment::NoEffect("a name is never looked up twice at the same time"),
        "new_dns_client" => Treatment::NoEffect("there is one way to resolve names; `dns_*` sets it"),
        "resolver_address" => Treatment::Refused("name the servers in `dns_resolver`"),
        "resolver_hosts_file" => Treatment::Refused("name the file in `dns_hostsfile`"),
        "resolver_family" => Treatment::Refused("name the record types in `dns_order`"),
        "resolver_valid_ttl" => Treatment::Refused("set it as `dns_valid_ttl`"),
        "resolver_stale_ttl" => Treatment::Refused("set it as `dns_stale_ttl`"),
        "resolver_error_ttl" => Treatment::Refused("set it as `dns_error_ttl`"),
        "allow_debug_header" => Treatment::NoEffect(
            "no request makes an answer name its route and service: the access log and `X-Kong-Request-Id` lead there",
        ),
        _ if NO_EFFECT.contains(&name) => Treatment::NoEffect("nothing here corresponds to it"),
        _ if NO_EFFECT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            Treatment::NoEffect("nothing here corresponds to it")
        }
        _ => Treatment::Unknown,
    }
}

const NO_EFFECT: &[&str] = &[
    "admin_error_log",
    "admin_gui_api_url",
    "admin_gui_listen",
    "admin_gui_path",
    "anonymous_reports",
    "cluster_data_plane_purge_delay",
    "cluster_max_payload",
    "cluster_server_name",
    "database",
    "db_cache_ttl",
    "db_resurrect_ttl",
    "db_update_frequency",
    "db_update_propagation",
    "lua_max_post_args",
    "lua_max_uri_args",
    "lua_package_cpath",
    "lua_package_path",
    "lua_socket_pool_size",
    "mem_cache_size",
    "nginx_daemon",
    "nginx_http_client_body_buffer_size",
    "nginx_http_client_header_buffer_size",
    "nginx_http_large_client_header_buffers",
    "nginx_user",
    "plugins",
    "prefix",
    "proxy_error_log",
    "ssl_cipher_suite",
    "status_error_log",
    "untrusted_lua",
    "vaults",
    "worker_consistency",
    "worker_state_update_frequency",
];

const NO_EFFECT_PREFIXES: &[&str] = &["pg_", "wasm", "nginx_"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn no_key_with_a_twin_is_also_without_effect() {
        for key in keys::ALL {
            if let Some(kong) = key.kong {
                assert!(!NO_EFFECT.contains(&kong), "{kong}");
            }
        }
    }

    #[test]
    fn what_would_do_something_else_is_refused() {
        for (name, value) in
            [("role", "data_plane"), ("admin_ssl_cert", "a.pem"), ("resolver_address", "10.0.0.2")]
        {
            assert!(matches!(treatment(name, value), Treatment::Refused(_)), "{name}");
        }
        let without = ["pg_host", "dns_no_sync", "new_dns_client", "allow_debug_header"];
        for (name, value) in without.map(|name| (name, "on")) {
            assert!(matches!(treatment(name, value), Treatment::NoEffect(_)), "{name}");
        }
        assert_eq!(treatment("no_such_key", "1"), Treatment::Unknown);
    }
}
