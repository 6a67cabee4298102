//! Connections to targets in the making, and those that wait for them: a burst of requests takes as few connections as
//! carry it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::proxy::reach::{Identity, Whither};
use crate::proxy::retry::Fault;

/// What is being made, by where it leads.
#[derive(Debug, Default)]
pub struct Dials(RefCell<HashMap<SocketAddr, Vec<Rc<Dial>>>>);

/// A connection in the making.
#[derive(Debug)]
struct Dial {
    identity: Option<Identity>,
    /// How many wait for it.
    waiting: Cell<usize>,
    /// Why there is none.
    fault: Cell<Option<Fault>>,
    is_over: Cell<bool>,
    /// Told once it is over.
    over: Notify,
}

/// The part that a request has in a connection.
#[derive(Debug)]
pub enum Part {
    /// It makes one.
    Make(Making),
    /// It waits for one.
    Wait(Waiting),
}

/// The part of who makes it. Dropping it ends the wait of all others: there is a connection then, or nobody makes it any more.
#[derive(Debug)]
pub struct Making(Rc<Dial>);

/// The part of who waits for it.
#[derive(Debug)]
pub struct Waiting(Rc<Dial>);

impl Dials {
    /// Waits for a connection that leads there and that fewer than `waiting_max` wait for, if there is one in the making.
    pub fn join(&self, whither: &Whither, waiting_max: usize) -> Part {
        let mut dials = self.0.borrow_mut();
        let there = dials.entry(whither.address).or_default();
        there.retain(|dial| !dial.is_over.get());
        let fits = |dial: &&Rc<Dial>| dial.identity == whither.identity && dial.waiting.get() < waiting_max;
        if let Some(dial) = there.iter().find(fits) {
            dial.waiting.set(dial.waiting.get() + 1);
            return Part::Wait(Waiting(Rc::clone(dial)));
        }
        let dial = Rc::new(Dial {
            identity: whither.identity.clone(),
            waiting: Cell::new(0),
            fault: Cell::new(None),
            is_over: Cell::new(false),
            over: Notify::new(),
        });
        there.push(Rc::clone(&dial));
        Part::Make(Making(dial))
    }

    /// Forgets what is over.
    pub fn sweep(&self) {
        self.0.borrow_mut().retain(|_, there| {
            there.retain(|dial| !dial.is_over.get());
            !there.is_empty()
        });
    }
}

impl Making {
    /// There will be no connection.
    pub fn fail(&self, fault: Fault) {
        self.0.fault.set(Some(fault));
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.over.notify_waiters();
    }
}

impl Waiting {
    /// Waits until it is made, or not; then why not, if that is known.
    pub async fn over(&self) -> Option<Fault> {
        let over = self.0.over.notified();
        if !self.0.is_over.get() {
            over.await;
        }
        self.0.fault.get()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn there() -> Whither {
        Whither { address: ([127, 0, 0, 1], 1).into(), identity: None }
    }

    fn make(part: Part) -> Making {
        let Part::Make(making) = part else { panic!("somebody makes one") };
        making
    }

    fn wait(part: Part) -> Waiting {
        let Part::Wait(waiting) = part else { panic!("nobody makes one") };
        waiting
    }

    fn poll(waiting: &Waiting) -> Poll<Option<Fault>> {
        std::pin::pin!(waiting.over()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn as_many_wait_as_there_will_be_room_for() {
        let dials = Dials::default();
        let making = make(dials.join(&there(), 2));
        let waiting = [wait(dials.join(&there(), 2)), wait(dials.join(&there(), 2))];
        let other = make(dials.join(&there(), 2));
        // Who leaves makes room, and who is elsewhere takes none.
        let [left, stays] = waiting;
        drop(left);
        let elsewhere = Whither { address: ([127, 0, 0, 1], 2).into(), identity: None };
        drop(make(dials.join(&elsewhere, 2)));
        let joined = wait(dials.join(&there(), 2));
        assert_eq!((poll(&stays), poll(&joined)), (Poll::Pending, Poll::Pending));
        making.fail(Fault::Connect);
        drop(making);
        assert_eq!(
            (poll(&stays), poll(&joined)),
            (Poll::Ready(Some(Fault::Connect)), Poll::Ready(Some(Fault::Connect)))
        );
        drop(other);
        drop(make(dials.join(&there(), 2)));
        dials.sweep();
        assert!(dials.0.borrow().is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn who_waits_makes_one_when_whoever_did_has_left() {
        let dials = Dials::default();
        let making = make(dials.join(&there(), 2));
        let waiting = wait(dials.join(&there(), 2));
        drop(making);
        assert_eq!(poll(&waiting), Poll::Ready(None));
        drop(make(dials.join(&there(), 2)));
    }
}
