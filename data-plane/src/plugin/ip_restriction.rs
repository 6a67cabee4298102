//! `ip-restriction`: which addresses may call.
//!
//! Source: Kong 3.10's plugin.

use std::net::IpAddr;

use equipoise_proto::NetworkRange;

use super::answer::Answer;
use super::run::At;

/// Who may, and who may not.
#[derive(Debug, Default)]
pub struct IpRestriction {
    /// Only these may; empty: all.
    pub allow: Box<[NetworkRange]>,
    /// These may not, whatever `allow` says.
    pub deny: Box<[NetworkRange]>,
    /// Status of a refusal.
    pub status: u16,
    /// What a refusal says; `None`: the address.
    pub message: Option<Box<str>>,
}

impl IpRestriction {
    /// Whether a client of this address may call.
    pub fn admits(&self, client: IpAddr) -> bool {
        let is_in = |ranges: &[NetworkRange]| ranges.iter().any(|range| range.contains(client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

pub(super) fn run(config: &IpRestriction, at: &At<'_>) -> Option<Answer> {
    let client = at.asked.client;
    // What is no address is nobody's who is let in.
    if client.parse().is_ok_and(|address: IpAddr| config.admits(address.to_canonical())) {
        return None;
    }
    let message = match &config.message {
        Some(message) => message.to_string(),
        None => format!("IP address not allowed: {client}"),
    };
    Some(Answer::error(config.status, message))
}
