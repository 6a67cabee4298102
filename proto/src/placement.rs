//! A target's place and state, as its tags give them: `region=eu`, `zone=a`, `priority=1`, `state=drain`.
//!
//! Tags carry them so that a target keeps exactly Kong's fields and files of declarative tools need no others.
//! Every other tag is the operator's own, whatever it looks like.

use std::fmt;

use crate::limits::{NODE_TEXT_BYTES_MAX, is_node_text};

/// Where a target stands and whether it takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// Region, as nodes name theirs; `None` if no tag says it.
    pub region: Option<Box<str>>,
    /// Zone, as nodes name theirs; `None` if no tag says it.
    pub zone: Option<Box<str>>,
    /// Level: 0, the best, to [`Self::PRIORITY_MAX`].
    pub priority: u8,
    /// What the operator wants of it.
    pub state: TargetState,
}

/// What the operator wants of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TargetState {
    /// It takes requests.
    #[default]
    Ready,
    /// It takes no new requests but those of sessions that it has.
    Drain,
    /// It takes no requests and is not probed.
    Maint,
}

impl TargetState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maint];

    /// The word that a tag has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Placement {
    /// The worst level. Envoy has the same bound.
    pub const PRIORITY_MAX: u8 = 127;

    /// Reads a target's tags, in any order. One that says again what another said changes nothing.
    ///
    /// # Errors
    /// When one of the four keys has a value that cannot be used, or two that differ.
    pub fn from_tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidTag> {
        let (mut region, mut zone, mut priority, mut state) = (None, None, None, None);
        for tag in tags {
            let Some((key, value)) = tag.split_once('=') else { continue };
            match key {
                "region" => say(PlacementKey::Region, &mut region, read_name(PlacementKey::Region, value)?)?,
                "zone" => say(PlacementKey::Zone, &mut zone, read_name(PlacementKey::Zone, value)?)?,
                "priority" => say(PlacementKey::Priority, &mut priority, read_priority(value)?)?,
                "state" => say(PlacementKey::State, &mut state, read_state(value)?)?,
                _ => {}
            }
        }
        let (priority, state) = (priority.unwrap_or_default(), state.unwrap_or_default());
        Ok(Self { region: region.map(Box::from), zone: zone.map(Box::from), priority, state })
    }
}

fn say<T: PartialEq>(key: PlacementKey, said: &mut Option<T>, value: T) -> Result<(), InvalidTag> {
    if said.as_ref().is_some_and(|said| *said != value) {
        return Err(InvalidTag::Twice(key));
    }
    *said = Some(value);
    Ok(())
}

/// A name that no node can have is refused: nothing would ever be there.
fn read_name(key: PlacementKey, value: &str) -> Result<&str, InvalidTag> {
    if value.is_empty() || !is_node_text(value) {
        return Err(InvalidTag::Name(key));
    }
    Ok(value)
}

fn read_priority(value: &str) -> Result<u8, InvalidTag> {
    // The standard library also reads a sign.
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let priority = value.parse().ok().filter(|priority| is_number && *priority <= Placement::PRIORITY_MAX);
    priority.ok_or(InvalidTag::Priority)
}

fn read_state(value: &str) -> Result<TargetState, InvalidTag> {
    TargetState::ALL.into_iter().find(|state| state.as_str() == value).ok_or(InvalidTag::State)
}

/// The tags that mean something, by what stands before the `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementKey {
    /// `region=`
    Region,
    /// `zone=`
    Zone,
    /// `priority=`
    Priority,
    /// `state=`
    State,
}

impl fmt::Display for PlacementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Priority => "priority",
            Self::State => "state",
        })
    }
}

/// A tag of one of the four keys that says nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTag {
    /// A region or zone that no node can have.
    #[error("invalid tag '{0}=': expected 1 to {NODE_TEXT_BYTES_MAX} bytes without control characters")]
    Name(PlacementKey),
    /// No number, or beyond [`Placement::PRIORITY_MAX`].
    #[error("invalid tag 'priority=': expected an integer between 0 and {max}", max = Placement::PRIORITY_MAX)]
    Priority,
    /// No [`TargetState`].
    #[error("invalid tag 'state=': expected one of: ready, drain, maint")]
    State,
    /// Two values for one key.
    #[error("invalid tag '{0}=': given twice with different values")]
    Twice(PlacementKey),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placement(region: Option<&str>, zone: Option<&str>, priority: u8, state: TargetState) -> Placement {
        Placement { region: region.map(Box::from), zone: zone.map(Box::from), priority, state }
    }

    #[test]
    fn tags_give_place_and_state() {
        let ready = |region, zone, priority| placement(region, zone, priority, TargetState::Ready);
        let cases: [(&str, &[&str], Placement); 9] = [
            ("none", &[], Placement::default()),
            (
                "all four",
                &["state=drain", "region=eu", "priority=3", "zone=a"],
                placement(Some("eu"), Some("a"), 3, TargetState::Drain),
            ),
            ("the worst level", &["priority=127"], ready(None, None, 127)),
            ("in maintenance", &["state=maint"], placement(None, None, 0, TargetState::Maint)),
            ("the defaults, said", &["priority=0", "state=ready"], Placement::default()),
            ("the same twice", &["zone=a", "priority=01", "priority=1", "zone=a"], ready(None, Some("a"), 1)),
            ("the value has a sign of equality", &["zone=a=b"], ready(None, Some("a=b"), 0)),
            (
                "other tags",
                &["zone", "Zone=", " zone=", "zones=", "=zone", "env=prod", "state:foo", "priorité=x"],
                Placement::default(),
            ),
            ("case and other scripts are kept", &["zone=Zürich"], ready(None, Some("Zürich"), 0)),
        ];
        for (name, tags, want) in cases {
            assert_eq!(Placement::from_tags(tags.iter().copied()), Ok(want), "{name}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused() {
        let long = format!("zone={}", "a".repeat(NODE_TEXT_BYTES_MAX + 1));
        let cases: [(&[&str], InvalidTag); 15] = [
            (&["region="], InvalidTag::Name(PlacementKey::Region)),
            (&["zone="], InvalidTag::Name(PlacementKey::Zone)),
            (&["zone=a\tb"], InvalidTag::Name(PlacementKey::Zone)),
            (&[&long], InvalidTag::Name(PlacementKey::Zone)),
            (&["priority="], InvalidTag::Priority),
            (&["priority=x"], InvalidTag::Priority),
            (&["priority=+1"], InvalidTag::Priority),
            (&["priority=-1"], InvalidTag::Priority),
            (&["priority=1.0"], InvalidTag::Priority),
            (&["priority=128"], InvalidTag::Priority),
            (&["priority=99999999999999999999"], InvalidTag::Priority),
            (&["state="], InvalidTag::State),
            (&["state=Drain"], InvalidTag::State),
            (&["zone=a", "env=x", "zone=b"], InvalidTag::Twice(PlacementKey::Zone)),
            (&["state=ready", "state=drain"], InvalidTag::Twice(PlacementKey::State)),
        ];
        for (tags, want) in cases {
            assert_eq!(Placement::from_tags(tags.iter().copied()), Err(want), "{tags:?}");
        }
    }

    #[test]
    fn refusals_name_the_key() {
        for (tag, want) in [
            ("zone=", "invalid tag 'zone=': expected 1 to 256 bytes without control characters"),
            ("priority=x", "invalid tag 'priority=': expected an integer between 0 and 127"),
            ("state=foo", "invalid tag 'state=': expected one of: ready, drain, maint"),
        ] {
            assert_eq!(Placement::from_tags([tag]).unwrap_err().to_string(), want);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_tags_means_nothing(
            mut tags in prop::collection::vec("(zone|region|priority|state|env)=(a|1|drain|ready)?", 0..5),
        ) {
            let read = |tags: &[String]| Placement::from_tags(tags.iter().map(String::as_str)).ok();
            let forwards = read(&tags);
            tags.reverse();
            prop_assert_eq!(forwards, read(&tags));
        }
    }
}
