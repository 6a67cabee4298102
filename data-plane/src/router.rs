//! Which route a request goes to: pure.
//!
//! Source of every rule: Kong 3.10, flavour `traditional_compatible`.

/// What the router looks at. All of it borrows from the request's head.
pub struct Query<'a> {
    /// Whether the request came over TLS.
    pub is_tls: bool,
    /// As received.
    pub method: &'a [u8],
    /// Host without port, lower case.
    pub host: &'a [u8],
    /// Port of the Host header, else the listener's.
    pub port: u16,
    /// Normalised path, without query.
    pub path: &'a [u8],
    /// TLS server name, lower case.
    pub sni: Option<&'a str>,
    /// The request's headers.
    pub headers: &'a dyn Headers,
}

/// Header look-up, whatever protocol the request came by.
pub trait Headers {
    /// Calls `found` with each value of the header `name` (lower case), in order.
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8]));
}

/// The outcome of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Index into the routes that the router was built from.
    pub route: usize,
    /// Bytes of the request path that the route's path matched: what `strip_path` strips. 0 without a path.
    pub prefix_bytes: usize,
}

/// What the router knows of one route.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Prefix paths as written.
    pub paths: Vec<String>,
}

/// Routes, indexed.
#[derive(Debug, Default)]
pub struct Router {
    rules: Vec<Rule>,
}

impl Router {
    /// Indexes `rules`; a match gives the index of its rule.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The route for a request, or `None` (the client gets 404).
    pub fn find(&self, query: &Query<'_>) -> Option<Match> {
        self.rules.iter().enumerate().find_map(|(route, rule)| {
            let path = rule.paths.iter().find(|path| query.path.starts_with(path.as_bytes()))?;
            Some(Match { route, prefix_bytes: path.len() })
        })
    }
}
