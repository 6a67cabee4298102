//! Names of all metrics of a node, and their buckets: existing dashboards and alerts know the `kong_` ones.
//!
//! Source: the metrics of Kong 3.10's prometheus plugin.

/// Requests by service, route, code and source.
pub const HTTP_REQUESTS: &str = "kong_http_requests_total";
/// Time the gateway itself took: what of a request's time is not the upstream's.
pub const KONG_LATENCY: &str = "kong_kong_latency_ms";
/// Time from the pick of a target to the head of its response.
pub const UPSTREAM_LATENCY: &str = "kong_upstream_latency_ms";
/// Time from the whole head of a request to the last byte of its response.
pub const REQUEST_LATENCY: &str = "kong_request_latency_ms";
/// Bytes by direction.
pub const BANDWIDTH: &str = "kong_bandwidth_bytes";
/// Client connections by state.
pub const CONNECTIONS: &str = "kong_nginx_connections_total";
/// Requests that came in.
pub const REQUESTS: &str = "kong_nginx_requests_total";
/// Health by upstream, target and address.
pub const TARGET_HEALTH: &str = "kong_upstream_target_health";
/// What a part of memory with a bound holds: the process itself, and the memory of `proxy-cache`.
pub const SHARED_MEMORY: &str = "kong_memory_lua_shared_dict_bytes";
/// That bound.
pub const SHARED_MEMORY_TOTAL: &str = "kong_memory_lua_shared_dict_total_bytes";
/// Counts of `rate-limiting`.
pub const RATE_COUNTERS: &str = "equipoise_rate_limiting_counters";
/// Deadlines of connections (`pending`), and the ticks of the workers that look at them (`running`).
pub const TIMERS: &str = "kong_nginx_timers";
/// Resident memory.
pub const MEMORY: &str = "kong_memory_workers_lua_vms_bytes";
/// When the node's certificate for the cluster runs out, in seconds since 1970.
pub const CLUSTER_CERTIFICATE_EXPIRY: &str = "kong_data_plane_cluster_cert_expiry_timestamp";
/// Whether a control plane is connected.
pub const CONTROL_PLANE_CONNECTED: &str = "kong_control_plane_connected";
/// Whether the node has config to serve.
pub const DATASTORE_REACHABLE: &str = "kong_datastore_reachable";
/// Node id and build.
pub const NODE_INFO: &str = "kong_node_info";
/// Revision in force.
pub const CONFIG_REVISION: &str = "equipoise_config_revision";
/// Where the config in force comes from: 1 for the one source that it is.
pub const CONFIG_SOURCE: &str = "equipoise_config_source";
/// Receipt to swap of the newest change.
pub const CONFIG_APPLY: &str = "equipoise_config_apply_seconds";
/// When config was applied last, in seconds since 1970.
pub const CONFIG_APPLIED_AT: &str = "equipoise_config_applied_timestamp_seconds";
/// Changes applied.
pub const CONFIG_APPLIED: &str = "equipoise_config_applied_total";
/// Changes refused.
pub const CONFIG_REFUSED: &str = "equipoise_config_refused_total";
/// Attempts after the first.
pub const RETRIES: &str = "equipoise_upstream_retries_total";
/// Retries that the budget did not allow.
pub const RETRIES_OVER_BUDGET: &str = "equipoise_upstream_retries_over_budget_total";
/// Second attempts that were made while the first was under way, and those of them that gave the answer.
pub const HEDGES: &str = "equipoise_upstream_hedges_total";
/// Requests that waited for room in an upstream, and those that found no place to.
pub const QUEUE: &str = "equipoise_upstream_queue_total";
/// Targets that stopped being available.
pub const EJECTIONS: &str = "equipoise_target_ejections_total";
/// Targets that became available again.
pub const RESTORATIONS: &str = "equipoise_target_restorations_total";
/// Attempts by whether a pooled connection served them.
pub const POOL: &str = "equipoise_upstream_connections_total";
/// Requests that came by HTTP/2.
pub const HTTP2_REQUESTS: &str = "equipoise_http2_requests_total";

/// What clients did on HTTP/2 connections that they should not, by kind.
pub const HTTP2_GLITCHES: &str = "equipoise_http2_glitches_total";

/// PROXY headers of connections by result.
pub const PROXY_HEADERS: &str = "equipoise_proxy_protocol_headers_total";
/// TLS handshakes of clients by result.
pub const HANDSHAKES: &str = "equipoise_tls_handshakes_total";
/// Connections that ended because their task panicked.
pub const PANICS: &str = "equipoise_connection_panics_total";
/// Times that accepting paused for want of descriptors.
pub const ACCEPT_PAUSES: &str = "equipoise_accept_pauses_total";
/// Lines of the log that were dropped.
pub const LOG_DROPPED: &str = "equipoise_log_dropped_total";
/// Times that a worker stalled.
pub const STALLS: &str = "equipoise_worker_stalls_total";
/// Lines of the access log that were written.
pub const ACCESS_LOG_LINES: &str = "equipoise_access_log_lines_total";
/// Lines of the access log that were dropped: disk, reader or queue had no room.
pub const ACCESS_LOG_DROPPED: &str = "equipoise_access_log_dropped_total";
/// Spans of traced requests, by whether the collector took them.
pub const SPANS: &str = "equipoise_trace_spans_total";
/// Stream sessions by service, route, code and source.
pub const STREAM_SESSIONS: &str = "kong_stream_sessions_total";
/// Stream sessions under way by what carries them.
pub const STREAM_ACTIVE: &str = "equipoise_stream_active_sessions";
/// Sessions over UDP that made way for newer ones.
pub const STREAM_EVICTED: &str = "equipoise_stream_evicted_sessions_total";
/// Datagrams that no session could take, or whose receiver took nothing.
pub const STREAM_DROPPED: &str = "equipoise_stream_dropped_datagrams_total";
/// TLS handshakes with targets that came to their end.
pub const UPSTREAM_HANDSHAKES: &str = "equipoise_upstream_tls_handshakes_total";
/// TLS handshakes with targets that failed, by reason.
pub const UPSTREAM_HANDSHAKE_FAILURES: &str = "equipoise_upstream_tls_failures_total";
/// DNS look-ups by result.
pub const DNS_LOOKUPS: &str = "equipoise_dns_lookups_total";

/// Requests under way by upstream.
pub const UPSTREAM_ACTIVE: &str = "equipoise_upstream_active_requests";
/// Requests that wait for room, by upstream.
pub const UPSTREAM_PENDING: &str = "equipoise_upstream_pending_requests";
/// Retries under way by upstream.
pub const UPSTREAM_RETRIES: &str = "equipoise_upstream_active_retries";
/// Weight of what is available, by upstream.
pub const UPSTREAM_AVAILABLE: &str = "equipoise_upstream_available_weight";
/// Weight of all that is there, by upstream.
pub const UPSTREAM_TOTAL: &str = "equipoise_upstream_total_weight";
/// Percent of the requests that go to other zones or regions, where there is a preference, for want of room in their own.
pub const UPSTREAM_SPILLOVER: &str = "equipoise_upstream_zone_spillover_percent";
/// Whether a level is in panic, by upstream.
pub const UPSTREAM_PANIC: &str = "equipoise_upstream_panic";
/// Changes of who takes requests, by cause.
pub const TRANSITIONS: &str = "equipoise_target_transitions_total";
/// Upstreams and addresses that have no series for want of room.
pub const LEFT_OUT: &str = "equipoise_metrics_left_out";

/// Upstreams, and addresses, that have series of their own: a scrape of more helps nobody.
pub const SUBJECTS_MAX: usize = 10_000;

/// Upper bounds of the gateway's own latency.
pub const KONG_BUCKETS_MS: [u32; 17] =
    [1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000];
/// Upper bounds of upstream and request latency.
pub const UPSTREAM_BUCKETS_MS: [u32; 13] =
    [25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10_000, 30_000, 60_000];
