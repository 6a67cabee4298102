//! Routes that are likely not to do what their author meant. For people: nothing is refused for it.

use super::Table;

/// What is odd about a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lint {
    /// The route in this place may match the same requests, and nothing that anybody chose decides between them.
    Rival(usize),
    /// A regular expression in its paths has a possessive quantifier, which is an ordinary one here (`proxy.md` 1.7).
    Possessive,
}

impl Lint {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rival(_) => "equal_priority",
            Self::Possessive => "possessive_quantifier",
        }
    }

    /// The same as a sentence.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Rival(_) => {
                "two routes match the same requests with equal priority: the winner is as good as random"
            }
            Self::Possessive => {
                "a possessive quantifier in a path is an ordinary one here: the path may match more"
            }
        }
    }
}

impl Table {
    /// What is odd about the route in this place, each kind once. Cost: that of a look-up for each of its paths and hosts.
    pub fn lints(&self, place: usize) -> impl Iterator<Item = Lint> + use<> {
        let rival = self.router.rival(place).map(Lint::Rival);
        let possessive = self.router.is_possessive(place).then_some(Lint::Possessive);
        rival.into_iter().chain(possessive)
    }
}
