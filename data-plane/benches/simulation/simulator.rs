//! A run in virtual time: events in the order of their moments, of one moment in the order in which they were planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use equipoise_data_plane::balancer::hash;
use equipoise_data_plane::health::Outcome;

use super::node::Node;
use super::random::{Random, Stream};
use super::report::{Report, Sample};
use super::scenario::{Contender, Keys, MEDIAN_US, Micros, SECOND, SIGMA, Scenario, Trouble};
use super::target::{Arrival, Attempt, Target, rounded};

/// There and back, within a zone.
const NEAR_US: Micros = 200;

/// There and back, to another zone.
const FAR_US: Micros = 1_000;

/// An attempt that is not answered after so long is given up.
const TIMEOUT_US: Micros = 2 * SECOND;

/// Active checks see so late what happened to a target.
const NOTICED_AFTER_US: Micros = 2 * SECOND;

/// Retries a request.
const RETRIES_MAX: u8 = 1;

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrive,
    /// A worker of the target is done with it.
    Served(usize, Attempt),
    /// The node learns how it ended.
    Ended(Attempt, Outcome),
    /// A target dies.
    Lose(usize),
    /// All nodes learn that a target is there, or is not.
    Notice(usize, bool),
    /// An interval of a node's outlier detection is over.
    Sweep(usize),
    /// Time alone changes whom a node serves from.
    Judge(usize),
}

#[derive(Debug)]
struct Planned {
    at: Micros,
    /// Tells events of one moment apart.
    number: u64,
    event: Event,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

#[derive(Debug)]
struct Request {
    arrived: Micros,
    work_us: Micros,
    key: u32,
    node: usize,
    /// Of the attempt under way.
    target: usize,
    picked: Micros,
    number: u8,
    tried: Option<usize>,
    is_over: bool,
}

struct Simulator<'a> {
    scenario: &'a Scenario,
    now: Micros,
    planned: BinaryHeap<Reverse<Planned>>,
    next_number: u64,
    nodes: Vec<Node>,
    targets: Vec<Target>,
    requests: Vec<Request>,
    arrivals: Random,
    work: Random,
    chances: Random,
    report: Report,
}

/// Runs a scenario to the end of its last request. The same arguments give the same report.
pub fn run(scenario: &Scenario, contender: Contender, seed: u64) -> Report {
    let has_joined = |plan: &super::scenario::TargetPlan| !matches!(plan.trouble, Trouble::Cold { .. });
    let node = |zone: &u8| Node::new(*zone, contender, scenario.rules.clone(), &scenario.targets, has_joined);
    let mut simulator = Simulator {
        scenario,
        now: 0,
        planned: BinaryHeap::new(),
        next_number: 0,
        nodes: scenario.nodes.iter().map(node).collect(),
        targets: scenario.targets.iter().copied().map(Target::new).collect(),
        requests: Vec::new(),
        arrivals: Random::new(seed, Stream::Arrivals),
        work: Random::new(seed, Stream::Work),
        chances: Random::new(seed, Stream::Chances),
        report: Report::new(scenario, contender),
    };
    simulator.prepare();
    while let Some(Reverse(planned)) = simulator.planned.pop() {
        simulator.now = planned.at;
        simulator.happen(planned.event);
    }
    simulator.report
}

impl Simulator<'_> {
    fn end(&self) -> Micros {
        self.scenario.seconds * SECOND
    }

    fn plan(&mut self, at: Micros, event: Event) {
        self.next_number += 1;
        self.planned.push(Reverse(Planned { at, number: self.next_number, event }));
    }

    fn prepare(&mut self) {
        self.plan(0, Event::Arrive);
        for (target, plan) in self.scenario.targets.iter().enumerate() {
            match plan.trouble {
                Trouble::Cold { at, .. } => self.plan(at * SECOND, Event::Notice(target, true)),
                Trouble::Lost { from, to } => {
                    self.plan(from * SECOND, Event::Lose(target));
                    self.plan(from * SECOND + NOTICED_AFTER_US, Event::Notice(target, false));
                    self.plan(to * SECOND + NOTICED_AFTER_US, Event::Notice(target, true));
                }
                Trouble::None | Trouble::Slow { .. } | Trouble::Flapping { .. } => {}
            }
        }
        if let Some(settings) = &self.scenario.rules.outliers {
            let interval = rounded(settings.interval.as_secs_f64() * SECOND as f64);
            // Nodes started at different moments.
            let count = self.nodes.len() as u64;
            (0..count).for_each(|node| {
                self.plan(interval * (node + 1) / count, Event::Sweep(usize::try_from(node).unwrap_or(0)));
            });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Served(target, attempt) => self.served(target, attempt),
            Event::Ended(attempt, outcome) => self.ended(attempt, outcome),
            Event::Lose(target) => {
                for attempt in self.targets[target].lose() {
                    self.plan(self.now, Event::Ended(attempt, Outcome::Reset));
                }
            }
            Event::Notice(target, is_up) => {
                for node in 0..self.nodes.len() {
                    self.nodes[node].notice(target, is_up, self.now);
                    self.plan_judgement(node);
                }
            }
            Event::Sweep(node) => {
                self.nodes[node].sweep(self.now, &mut self.chances);
                self.plan_judgement(node);
                if let Some(settings) =
                    self.scenario.rules.outliers.as_ref().filter(|_| self.now < self.end())
                {
                    let interval = rounded(settings.interval.as_secs_f64() * SECOND as f64);
                    self.plan(self.now + interval, Event::Sweep(node));
                }
            }
            Event::Judge(node) => {
                // A judgement for another reason may have been faster.
                if self.nodes[node].due().is_some_and(|due| due <= self.now) {
                    self.nodes[node].judge(self.now);
                    self.plan_judgement(node);
                }
            }
        }
    }

    fn plan_judgement(&mut self, node: usize) {
        if let Some(due) = self.nodes[node].due() {
            self.plan(due.max(self.now), Event::Judge(node));
        }
    }

    fn arrive(&mut self) {
        let node = self.arrivals.below(self.nodes.len());
        let key = self.key();
        let request = Request {
            arrived: self.now,
            work_us: rounded(self.work.log_normal(MEDIAN_US, SIGMA)),
            key,
            node,
            target: 0,
            picked: self.now,
            number: 0,
            tried: None,
            is_over: false,
        };
        self.requests.push(request);
        self.report.arrived += 1;
        self.attempt(self.requests.len() - 1);
        let next = self.now + rounded(self.arrivals.exponential(SECOND as f64 / self.scenario.rate()));
        if next < self.end() {
            self.plan(next, Event::Arrive);
        }
    }

    fn key(&mut self) -> u32 {
        let word = self.arrivals.word();
        let is_hot = self.arrivals.unit();
        let key = match self.scenario.keys {
            Keys::Hot(_, part) if is_hot < part => 0,
            Keys::Even(keys) | Keys::Hot(keys, _) => 1 + word % keys,
        };
        hash(&key.to_le_bytes())
    }

    fn attempt(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let picked = self.nodes[request.node].pick(request.key, request.tried, self.now);
        let Some(target) = picked else {
            request.is_over = true;
            self.report.failed += 1;
            return;
        };
        (request.target, request.picked) = (target, self.now);
        let attempt = Attempt { request: number, number: request.number };
        let (work_us, trip) = (request.work_us, self.trip(number));
        self.report.attempted(target, self.now);
        match self.targets[target].arrive(attempt, self.now) {
            Arrival::Started => self.serve(target, attempt, work_us),
            Arrival::Waits => {}
            Arrival::Refused => return self.plan(self.now + trip, Event::Ended(attempt, Outcome::Refused)),
            Arrival::Fails(after) => {
                return self.plan(self.now + trip + after, Event::Ended(attempt, Outcome::Replied(503)));
            }
        }
        self.plan(self.now + TIMEOUT_US, Event::Ended(attempt, Outcome::TimedOut));
    }

    fn trip(&self, number: usize) -> Micros {
        let request = &self.requests[number];
        let is_near = self.scenario.nodes[request.node] == self.targets[request.target].plan().zone;
        if is_near { NEAR_US } else { FAR_US }
    }

    fn serve(&mut self, target: usize, attempt: Attempt, work_us: Micros) {
        let service_us = self.targets[target].service_us(work_us, self.now);
        self.plan(self.now + service_us, Event::Served(target, attempt));
    }

    /// What was given up while a worker had it is worked on to its end, what still waited is not begun.
    fn served(&mut self, target: usize, attempt: Attempt) {
        use super::scenario::Condition;
        let outcome = match self.targets[target].plan().trouble.condition(self.now) {
            Condition::Lost => Outcome::Reset,
            Condition::Works(_) | Condition::Refuses | Condition::Answers503 => Outcome::Replied(200),
        };
        let trip = self.trip(attempt.request);
        self.plan(self.now + trip, Event::Ended(attempt, outcome));
        let requests = &self.requests;
        if let Some(next) = self.targets[target].free(|attempt| is_current(requests, attempt)) {
            self.serve(target, next, self.requests[next.request].work_us);
        }
    }

    fn ended(&mut self, attempt: Attempt, outcome: Outcome) {
        if !is_current(&self.requests, attempt) {
            return;
        }
        let request = &mut self.requests[attempt.request];
        let node = &mut self.nodes[request.node];
        if node.ended(request.target, outcome, request.picked, self.now, &mut self.chances) {
            node.judge(self.now);
            self.plan_judgement(self.requests[attempt.request].node);
        }
        let request = &mut self.requests[attempt.request];
        match outcome {
            Outcome::Replied(200) => {
                request.is_over = true;
                let sample = Sample { arrived: request.arrived, took: self.now - request.arrived };
                self.report.answered.push(sample);
            }
            Outcome::Refused | Outcome::Reset | Outcome::TimedOut if request.number < RETRIES_MAX => {
                request.number += 1;
                request.tried = Some(request.target);
                self.report.retried += 1;
                self.attempt(attempt.request);
            }
            Outcome::Replied(_) | Outcome::Refused | Outcome::Reset | Outcome::TimedOut => {
                request.is_over = true;
                self.report.failed += 1;
            }
        }
    }
}

fn is_current(requests: &[Request], attempt: Attempt) -> bool {
    let request = &requests[attempt.request];
    !request.is_over && request.number == attempt.number
}
