use std::num::NonZeroU8;

use proptest::prelude::*;

use super::*;
use crate::table::Outcome;

fn limits(successes: u8, http: u8, tcp: u8, timeouts: u8) -> Limits {
    let limit = NonZeroU8::new;
    Limits { successes: limit(successes), http: limit(http), tcp: limit(tcp), timeouts: limit(timeouts) }
}

fn report(event: char) -> Report {
    match event {
        's' => Report::Success,
        'h' => Report::Http,
        't' => Report::Tcp,
        'o' => Report::Timeout,
        other => panic!("no event {other}"),
    }
}

/// State after each event, and S,H,T,O.
type Step = (char, State, [u16; 4]);

/// `spec/health.md` section 3.
#[test]
fn worked_traces() {
    use State::{Healthy as Hy, MostlyHealthy as MH, MostlyUnhealthy as MU, Unhealthy as Un};
    let full = limits(3, 3, 2, 2);
    let cases: [(&str, Limits, &[Step]); 7] = [
        (
            "a success clears failures",
            full,
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('h', MH, [0, 2, 0, 0]),
                ('s', MH, [1, 0, 0, 0]),
                ('h', MH, [0, 1, 0, 0]),
                ('h', MH, [0, 2, 0, 0]),
                ('h', Un, [0, 3, 0, 0]),
            ],
        ),
        (
            "kinds accumulate side by side",
            full,
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('t', MH, [0, 1, 1, 0]),
                ('h', MH, [0, 2, 1, 0]),
                ('t', Un, [0, 2, 2, 0]),
                ('h', Un, [0, 2, 2, 0]),
            ],
        ),
        (
            "a failure on the way back starts the successes again",
            full,
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('h', MH, [0, 2, 0, 0]),
                ('h', Un, [0, 3, 0, 0]),
                ('s', MU, [1, 0, 0, 0]),
                ('s', MU, [2, 0, 0, 0]),
                ('h', MU, [0, 1, 0, 0]),
                ('s', MU, [1, 0, 0, 0]),
                ('s', MU, [2, 0, 0, 0]),
                ('s', Hy, [3, 0, 0, 0]),
            ],
        ),
        (
            "failures on the way back reach the limit",
            full,
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('h', MH, [0, 2, 0, 0]),
                ('h', Un, [0, 3, 0, 0]),
                ('s', MU, [1, 0, 0, 0]),
                ('h', MU, [0, 1, 0, 0]),
                ('h', MU, [0, 2, 0, 0]),
                ('h', Un, [0, 3, 0, 0]),
                ('s', MU, [1, 0, 0, 0]),
                ('s', MU, [2, 0, 0, 0]),
                ('s', Hy, [3, 0, 0, 0]),
            ],
        ),
        (
            "successes that do not count never clear failures",
            limits(0, 3, 0, 0),
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('s', MH, [0, 1, 0, 0]),
                ('h', MH, [0, 2, 0, 0]),
                ('s', MH, [0, 2, 0, 0]),
                ('h', Un, [0, 3, 0, 0]),
            ],
        ),
        (
            "back to healthy",
            limits(2, 3, 0, 0),
            &[
                ('h', MH, [0, 1, 0, 0]),
                ('s', MH, [1, 0, 0, 0]),
                ('s', Hy, [2, 0, 0, 0]),
                ('h', MH, [0, 1, 0, 0]),
            ],
        ),
        (
            "a success while healthy is ignored",
            limits(2, 0, 2, 0),
            &[
                ('t', MH, [0, 0, 1, 0]),
                ('t', Un, [0, 0, 2, 0]),
                ('s', MU, [1, 0, 0, 0]),
                ('s', Hy, [2, 0, 0, 0]),
                ('s', Hy, [2, 0, 0, 0]),
            ],
        ),
    ];
    for (name, limits, steps) in cases {
        let mut health = Health::default();
        for (at, (event, state, counters)) in steps.iter().enumerate() {
            let report = report(*event);
            health = health.after(report, limits.of(report));
            assert_eq!(health.state, *state, "{name}, step {at}");
            let got = [health.successes, health.http, health.tcp, health.timeouts];
            assert_eq!(got, *counters, "{name}, step {at}");
        }
    }
}

/// `spec/health.md` section 2: every state by every event, failures of every kind. Counters as S and the kind's own.
#[test]
fn every_transition() {
    use State::{Healthy as Hy, MostlyHealthy as MH, MostlyUnhealthy as MU, Unhealthy as Un};
    let limit = limits(3, 3, 3, 3);
    // From a state with these counters, a success or a failure, to a state with these counters.
    let cases = [
        ("healthy, success below", (Hy, 0, 1), 's', (Hy, 0, 1)),
        ("healthy, success at the limit", (Hy, 2, 0), 's', (Hy, 2, 0)),
        ("healthy, failure below", (Hy, 2, 0), 'f', (MH, 0, 1)),
        ("healthy, failure at the limit", (Hy, 2, 2), 'f', (Un, 0, 3)),
        ("mostly healthy, success below", (MH, 0, 2), 's', (MH, 1, 0)),
        ("mostly healthy, success at the limit", (MH, 2, 0), 's', (Hy, 3, 0)),
        ("mostly healthy, failure below", (MH, 2, 1), 'f', (MH, 0, 2)),
        ("mostly healthy, failure at the limit", (MH, 0, 2), 'f', (Un, 0, 3)),
        ("mostly unhealthy, success below", (MU, 1, 0), 's', (MU, 2, 0)),
        ("mostly unhealthy, success at the limit", (MU, 2, 0), 's', (Hy, 3, 0)),
        ("mostly unhealthy, failure below", (MU, 2, 0), 'f', (MU, 0, 1)),
        ("mostly unhealthy, failure at the limit", (MU, 0, 2), 'f', (Un, 0, 3)),
        ("unhealthy, success below", (Un, 0, 3), 's', (MU, 1, 0)),
        ("unhealthy, success at the limit", (Un, 2, 3), 's', (Hy, 3, 0)),
        ("unhealthy, failure below", (Un, 1, 0), 'f', (Un, 1, 0)),
        ("unhealthy, failure at the limit", (Un, 0, 3), 'f', (Un, 0, 3)),
    ];
    let health = |(state, successes, failures): (State, u16, u16), kind: char, others: u16| {
        let of = |one: char| if one == kind { failures } else { others };
        Health { state, successes, http: of('h'), tcp: of('t'), timeouts: of('o') }
    };
    for (name, before, event, after) in cases {
        for kind in ['h', 't', 'o'] {
            let report = report(if event == 's' { 's' } else { kind });
            // A success that counts clears the other kinds as well; a failure leaves them.
            let others = if event == 's' && before != after { 0 } else { 1 };
            let got = health(before, kind, 1).after(report, limit.of(report));
            assert_eq!(got, health(after, kind, others), "{name}, {kind}");
            let ignored = health(before, kind, 1).after(report, None);
            assert_eq!(ignored, health(before, kind, 1), "{name}, {kind}, without a limit");
        }
    }
}

#[test]
fn the_largest_limit_of_the_schema_works() {
    let limits = limits(0, 255, 0, 0);
    let mut health = Health::default();
    for _ in 0..254 {
        health = health.after(Report::Http, limits.http);
    }
    assert_eq!(health.state, State::MostlyHealthy);
    assert_eq!(health.after(Report::Http, limits.http).state, State::Unhealthy);
}

#[test]
fn a_manual_override_clears_counters_and_is_not_sticky() {
    let health = Health::set_by_hand(false);
    assert_eq!(health.state, State::Unhealthy);
    assert_eq!(health.after(Report::Success, NonZeroU8::new(1)).state, State::Healthy);
    assert_eq!(Health::set_by_hand(true), Health::default());
}

/// `spec/health.md` section 4, with the documented differences.
#[test]
fn passive_judgement() {
    let passive = Passive {
        limits: limits(1, 1, 1, 1),
        healthy: [200, 302].into_iter().collect(),
        unhealthy: [302, 500, 503].into_iter().collect(),
    };
    let cases = [
        ("connect failed", Outcome::Refused, Some(Report::Tcp)),
        ("broke before a response", Outcome::Reset, Some(Report::Tcp)),
        ("too slow", Outcome::TimedOut, Some(Report::Timeout)),
        ("the upstream itself says 504", Outcome::Replied(504), Some(Report::Timeout)),
        ("healthy", Outcome::Replied(200), Some(Report::Success)),
        ("in both lists", Outcome::Replied(302), Some(Report::Success)),
        ("unhealthy", Outcome::Replied(500), Some(Report::Http)),
        ("in neither", Outcome::Replied(502), None),
        ("client abort", Outcome::Replied(499), None),
        ("beyond all lists", Outcome::Replied(u16::MAX), None),
    ];
    for (name, outcome, want) in cases {
        assert_eq!(passive.judge(outcome), want, "{name}");
    }
}

proptest! {
    #[test]
    fn bits_carry_the_whole_health(
        events in prop::collection::vec(prop::sample::select(vec!['s', 'h', 't', 'o']), 0..600),
        limit in 1_u8..,
    ) {
        let mut health = Health::default();
        for event in events {
            health = health.after(report(event), NonZeroU8::new(limit));
            prop_assert_eq!(Health::from_bits(health.to_bits()), health);
            prop_assert_eq!(Health::state_of(health.to_bits()), health.state);
        }
    }
}
