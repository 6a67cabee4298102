//! Where each kind shows up in paths.

use crate::model::Kind;

/// Where a kind's entities are found.
pub(super) struct Declaration {
    /// Whether it has a collection and entities of its own at the top level.
    pub(super) top_level: Presence,
    /// Its foreign fields that show up in paths.
    pub(super) references: &'static [ReferencePaths],
}

#[derive(PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    /// `/targets…` is 404 in the reference.
    Absent,
}

/// What `/<parents>/{p}/<word>` leads to.
pub(super) enum Nested {
    /// A list of children.
    Many(&'static str),
    /// The one child that a parent can have.
    Only,
}

pub(super) struct ReferencePaths {
    pub(super) field: &'static str,
    pub(super) parent: Kind,
    pub(super) nested: Nested,
    /// Whether `/<children>/{c}/<field>` leads to the parent.
    pub(super) foreign: Presence,
}

/// What each kind adds to the table. A new kind does not compile until it has answered here.
pub(super) const fn declaration(kind: Kind) -> Declaration {
    match kind {
        Kind::Certificate | Kind::CaCertificate | Kind::Consumer => {
            Declaration { top_level: Presence::Present, references: &[] }
        }
        Kind::Sni => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "certificate",
                parent: Kind::Certificate,
                nested: Nested::Many("snis"),
                foreign: Presence::Absent,
            }],
        },
        Kind::Service => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "client_certificate",
                parent: Kind::Certificate,
                nested: Nested::Many("services"),
                foreign: Presence::Present,
            }],
        },
        Kind::Upstream => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "client_certificate",
                parent: Kind::Certificate,
                nested: Nested::Many("upstreams"),
                foreign: Presence::Present,
            }],
        },
        Kind::Route => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "service",
                parent: Kind::Service,
                nested: Nested::Many("routes"),
                foreign: Presence::Present,
            }],
        },
        Kind::Target => Declaration {
            top_level: Presence::Absent,
            references: &[ReferencePaths {
                field: "upstream",
                parent: Kind::Upstream,
                nested: Nested::Many("targets"),
                foreign: Presence::Absent,
            }],
        },
        Kind::Policy => Declaration {
            top_level: Presence::Absent,
            references: &[ReferencePaths {
                field: "upstream",
                parent: Kind::Upstream,
                nested: Nested::Only,
                foreign: Presence::Absent,
            }],
        },
        Kind::KeyAuth => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "consumer",
                parent: Kind::Consumer,
                nested: Nested::Many("key-auth"),
                foreign: Presence::Present,
            }],
        },
        Kind::BasicAuth => Declaration {
            top_level: Presence::Present,
            references: &[ReferencePaths {
                field: "consumer",
                parent: Kind::Consumer,
                nested: Nested::Many("basic-auth"),
                foreign: Presence::Present,
            }],
        },
        Kind::Plugin => Declaration {
            top_level: Presence::Present,
            references: &[
                ReferencePaths {
                    field: "service",
                    parent: Kind::Service,
                    nested: Nested::Many("plugins"),
                    foreign: Presence::Present,
                },
                ReferencePaths {
                    field: "route",
                    parent: Kind::Route,
                    nested: Nested::Many("plugins"),
                    foreign: Presence::Present,
                },
                ReferencePaths {
                    field: "consumer",
                    parent: Kind::Consumer,
                    nested: Nested::Many("plugins"),
                    foreign: Presence::Present,
                },
            ],
        },
    }
}
