//! Which trace a request belongs to: `traceparent` and `tracestate`.
//!
//! Source: W3C Trace Context, Recommendation of 23 November 2021.

/// Bytes of a `traceparent` of version 00.
pub const PARENT_BYTES: usize = 55;

/// Members of a `tracestate` (3.3.1.1), and bytes that are passed on: more than the 512 that everybody has to.
const STATE_MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 4096;

/// Where a request belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Of the trace; not 0.
    pub trace: u128,
    /// The span that called, if there is one.
    pub parent: Option<u64>,
    /// Whether its spans are recorded.
    pub is_sampled: bool,
    /// What other systems say of it, as a header's value.
    pub state: Option<Box<[u8]>>,
}

impl Context {
    /// Reads the headers of a request. `None` where there is no `traceparent`, more than one, or one that breaks a rule: then
    /// nothing of both is passed on.
    pub fn read<'a>(
        mut parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let (trace, parent, is_sampled) = parse_parent(parents.next()?)?;
        if parents.next().is_some() {
            return None;
        }
        Some(Self { trace, parent: Some(parent), is_sampled, state: parse_state(states) })
    }

    /// Of a request that comes without one; `random` decides which and, with the share that is sampled, whether its spans are
    /// recorded.
    pub fn new(random: u128, sampling: Sampling) -> Self {
        // 0 is no id.
        let trace = random.max(1);
        Self { trace, parent: None, is_sampled: sampling.takes(trace), state: None }
    }

    /// The value of `traceparent` for whoever is called by `span`.
    pub fn parent_header(&self, span: u64) -> [u8; PARENT_BYTES] {
        let mut header = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (place, digit) in header.iter_mut().enumerate() {
            match place {
                3..=34 => *digit = hex(self.trace >> ((34 - place) * 4)),
                36..=51 => *digit = hex(u128::from(span) >> ((51 - place) * 4)),
                54 => *digit = if self.is_sampled { b'1' } else { b'0' },
                _ => {}
            }
        }
        header
    }

    /// The id of the trace, as text.
    pub fn trace_text(&self) -> [u8; 32] {
        std::array::from_fn(|place| hex(self.trace >> ((31 - place) * 4)))
    }
}

/// The share of the traces that begin here whose spans are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling(f64);

impl Sampling {
    /// From 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// By the id's lower half, as all who sample by the id do, so that they agree.
    fn takes(self, trace: u128) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what counts")]
        let half = (trace as u64) >> 1;
        #[expect(clippy::cast_precision_loss, reason = "a share is no more exact than that")]
        let place = half as f64 / (1_u64 << 63) as f64;
        self.0 >= 1.0 || place < self.0
    }
}

fn hex(number: u128) -> u8 {
    let digit = usize::try_from(number & 15).unwrap_or(0);
    b"0123456789abcdef".get(digit).copied().unwrap_or(b'0')
}

fn parse_parent(text: &[u8]) -> Option<(u128, u64, bool)> {
    let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
    let version = number(known.get(..2)?)?;
    // Later versions may have more behind, set off by a dash.
    let may_follow = version != 0 && rest.first() == Some(&b'-');
    if version == 0xff || !(rest.is_empty() || may_follow) {
        return None;
    }
    if [2, 35, 52].into_iter().any(|place| known.get(place) != Some(&b'-')) {
        return None;
    }
    let trace = number(known.get(3..35)?)?;
    let parent = u64::try_from(number(known.get(36..52)?)?).ok()?;
    let flags = number(known.get(53..55)?)?;
    (trace != 0 && parent != 0).then_some((trace, parent, flags & 1 == 1))
}

/// Lower-case digits only.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |sum, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(digit))
    })
}

/// All of it, or nothing where a part breaks a rule.
fn parse_state<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Box<[u8]>> {
    let mut state: Vec<u8> = Vec::new();
    let mut keys: Vec<&[u8]> = Vec::new();
    let members = values.flat_map(|value| value.split(|byte| *byte == b','));
    for member in members.map(trimmed).filter(|member| !member.is_empty()) {
        let equals = member.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (member.get(..equals)?, member.get(equals + 1..)?);
        if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == STATE_MEMBERS_MAX {
            return None;
        }
        keys.push(key);
        if !state.is_empty() {
            state.push(b',');
        }
        state.extend_from_slice(member);
    }
    (1..=STATE_BYTES_MAX).contains(&state.len()).then(|| state.into())
}

fn trimmed(member: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = member.iter().position(|byte| !is_space(byte)).unwrap_or(member.len());
    let end = member.iter().rposition(|byte| !is_space(byte)).map_or(start, |end| end + 1);
    member.get(start..end).unwrap_or_default()
}

/// 3.3.1.3.1: `name`, or `tenant@system`.
fn is_key(key: &[u8]) -> bool {
    let is_word = |word: &[u8], most: usize, may_begin_with_digit: bool| {
        let rest = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
        let first = |byte: &u8| byte.is_ascii_lowercase() || may_begin_with_digit && byte.is_ascii_digit();
        (1..=most).contains(&word.len()) && word.first().is_some_and(first) && word.iter().all(rest)
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => is_word(key, 256, false),
        Some(at) => {
            let (tenant, system) = key.split_at(at);
            is_word(tenant, 241, true) && is_word(system.get(1..).unwrap_or_default(), 14, false)
        }
    }
}

/// 3.3.1.3.2.
fn is_value(value: &[u8]) -> bool {
    let is_allowed = |byte: &u8| matches!(byte, 0x20..=0x2b | 0x2d..=0x3c | 0x3e..=0x7e);
    (1..=256).contains(&value.len()) && value.iter().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(parents: &[&str], states: &[&str]) -> Option<Context> {
        Context::read(parents.iter().map(|text| text.as_bytes()), states.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn a_parent_is_read_as_the_recommendation_has_it() {
        for (name, parents, want) in [
            ("sampled", &[GOOD][..], Some(true)),
            ("not sampled", &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"], Some(false)),
            ("other flags", &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe"], Some(false)),
            ("a later version", &["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], Some(true)),
            (
                "a later version with more",
                &["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"],
                Some(true),
            ),
            (
                "a later version with other",
                &["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x"],
                None,
            ),
            ("no version", &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], None),
            ("too long", &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"], None),
            ("too short", &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"], None),
            ("upper case", &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"], None),
            ("trace 0", &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"], None),
            ("parent 0", &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"], None),
            ("other separators", &["00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], None),
            ("no digits", &["00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01"], None),
            ("twice", &[GOOD, GOOD], None),
            ("nothing", &[""], None),
            ("none", &[], None),
        ] {
            assert_eq!(read(parents, &[]).map(|context| context.is_sampled), want, "{name}");
        }
        let context = read(&[GOOD], &[]).unwrap();
        assert_eq!((context.trace, context.parent), (TRACE, Some(0x00f0_67aa_0ba9_02b7)));
        assert_eq!(&context.parent_header(0x00f0_67aa_0ba9_02b7), GOOD.as_bytes());
        assert_eq!(&context.trace_text(), b"4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn a_state_passes_whole_or_not_at_all() {
        let many: Vec<_> = (0..=STATE_MEMBERS_MAX).map(|number| format!("k{number}=v")).collect();
        let long = format!("a={}", "x".repeat(257));
        for (name, states, want) in [
            ("one", &["a=1"][..], Some("a=1")),
            ("several lines", &["a=1, b=2", " c@d=3 "], Some("a=1,b=2,c@d=3")),
            ("empty members", &[" , a=1,,"], Some("a=1")),
            ("a tenant", &["0a@x=1"], Some("0a@x=1")),
            ("a name that begins with a digit", &["0a=1"], None),
            ("no value", &["a"], None),
            ("an empty value", &["a="], None),
            ("upper case", &["A=1"], None),
            ("a key twice", &["a=1,b=2,a=3"], None),
            ("two equals", &["a=1=2"], None),
            ("no ASCII", &["a=ä"], None),
            ("a long value", &[&*long], None),
            ("too many", &[&*many.join(",")], None),
            ("as many as there may be", &[&*many[1..].join(",")], Some(&*many[1..].join(","))),
            ("nothing", &[""], None),
        ] {
            let state = read(&[GOOD], states).unwrap().state;
            assert_eq!(state.as_deref(), want.map(str::as_bytes), "{name}");
        }
        assert_eq!(read(&["x"], &["a=1"]), None, "not without its parent");
    }

    #[test]
    fn a_share_of_what_begins_here_is_sampled() {
        let taken = |share: f64| {
            let sampling = Sampling::new(share).unwrap();
            let step = u128::MAX / 1000;
            (1..=1000).filter(|number| Context::new(number * (step | 1), sampling).is_sampled).count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 1000));
        let half = taken(0.5);
        assert!((400..600).contains(&half), "{half}");
        assert_eq!(Context::new(0, Sampling::new(1.0).unwrap()).trace, 1);
        assert!([-0.1, 1.1, f64::NAN].into_iter().all(|share| Sampling::new(share).is_none()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1_u128.., span in 1_u64.., is_sampled: bool) {
            let context = Context { trace, parent: None, is_sampled, state: None };
            let header = context.parent_header(span);
            let read = Context::read([&header[..]].into_iter(), std::iter::empty()).unwrap();
            prop_assert_eq!(read, Context { parent: Some(span), ..context });
        }

        #[test]
        fn no_bytes_break_it(parent in proptest::collection::vec(any::<u8>(), 0..70), state: Vec<u8>) {
            let read = Context::read([&parent[..], GOOD.as_bytes()].into_iter().skip(parent.len() % 2), [&state[..]].into_iter());
            if let Some(state) = read.and_then(|context| context.state) {
                prop_assert!(state.iter().all(|byte| (0x20..0x7f).contains(byte)));
            }
        }
    }
}
