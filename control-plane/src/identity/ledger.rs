//! What the control plane knows of tokens and of who has enrolled: pure. Time is an argument.
//!
//! Every change is an [`Entry`], which `log` makes durable before it counts; [`Ledger::apply`] is the only way to change
//! but for [`Ledger::prune`], which time alone brings about.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use equipoise_identity::certificate::{LATE_MAX, PublicKey, Serial};
use equipoise_identity::{Fingerprint, JoinToken, Role, SecretHash, TokenId};
use equipoise_proto::NodeId;
use imbl::OrdMap;

use super::excluded::Excluded;

/// Most tokens at once; those that ran out a day ago are gone.
pub const TOKENS_MAX: usize = 10_000;

/// Most processes that are enrolled, and most that are denied.
pub const MEMBERS_MAX: usize = 100_000;

/// How long a token that ran out is still listed.
const TOKEN_LISTED: Duration = Duration::from_secs(86_400);

/// Where a token puts those who join with it; what it leaves open, they say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
    /// Labels, over those of the same name that a node has.
    pub labels: BTreeMap<String, String>,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Of its secret.
    pub hash: SecretHash,
    /// What its bearers become.
    pub role: Role,
    /// Where.
    pub place: Place,
    /// When it was given out.
    pub created: SystemTime,
    /// When it runs out.
    pub expires: SystemTime,
    /// How many may still join with it.
    pub uses_left: u32,
    /// Whether an operator took it back.
    pub is_revoked: bool,
}

/// A process that has enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The key that has the id.
    pub key: PublicKey,
    /// What it is.
    pub role: Role,
    /// Where it is bound to be.
    pub place: Place,
    /// The token it joined with.
    pub token: TokenId,
    /// For people.
    pub hostname: String,
    /// When it joined.
    pub enrolled: SystemTime,
    /// Its newest certificate.
    pub issued: Issue,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// When.
    pub at: SystemTime,
    /// Which.
    pub serial: Serial,
    /// When it runs out.
    pub not_after: SystemTime,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A token was given out.
    Created(TokenId, Box<Token>),
    /// A token was taken back.
    Revoked(TokenId),
    /// A process joined: a use of its token.
    Enrolled(NodeId, Box<Member>),
    /// A member got its next certificate.
    Issued(NodeId, Issue),
    /// An id is free again.
    Forgotten(NodeId),
    /// An id is shut out.
    Denied(NodeId, SystemTime),
    /// No longer.
    Allowed(NodeId),
}

/// Why nobody is let in. Each is a bounded label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Also for a wrong secret.
    #[error("there is no such join token")]
    UnknownToken,
    /// It ran out.
    #[error("the join token has expired")]
    ExpiredToken,
    /// Taken back.
    #[error("the join token was revoked")]
    RevokedToken,
    /// All uses are used.
    #[error("the join token is used up")]
    UsedUp,
    /// The id has another key.
    #[error("another key is enrolled with this id; forget the id first")]
    OtherKey,
    /// Shut out.
    #[error("this id is denied")]
    Denied,
    /// Not, or not any more, enrolled.
    #[error("this id is not enrolled, or was forgotten")]
    NotEnrolled,
    /// The certificate says another role than the id has.
    #[error("this id has another role")]
    OtherRole,
    /// Too many.
    #[error("there are too many members")]
    TooMany,
    /// By a relay that its own control plane will not have.
    #[error("this relay is denied by its control plane: ask another one")]
    Closed,
}

impl Refusal {
    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::UsedUp => "used_up",
            Self::OtherKey => "other_key",
            Self::Denied => "denied",
            Self::NotEnrolled => "not_enrolled",
            Self::OtherRole => "other_role",
            Self::TooMany => "too_many",
            Self::Closed => "closed",
        }
    }
}

/// What an application comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It joins, for a use of the token.
    Joins {
        /// What it becomes.
        role: Role,
        /// Where.
        place: Place,
    },
    /// It has joined with this key and this token before: it gets an answer again, and that is no use.
    Again {
        /// What it is.
        role: Role,
    },
}

/// Tokens, members and the denied. Cloning costs O(1): who reads gets a copy, and waits for nobody who writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    tokens: OrdMap<TokenId, Token>,
    members: OrdMap<NodeId, Member>,
    denied: OrdMap<NodeId, SystemTime>,
    /// Who was forgotten, by id and key, as long as its last certificate is in time.
    forgotten: OrdMap<(NodeId, Fingerprint), Member>,
}

impl Ledger {
    /// All tokens, by id.
    pub const fn tokens(&self) -> &OrdMap<TokenId, Token> {
        &self.tokens
    }

    /// All members, by id.
    pub const fn members(&self) -> &OrdMap<NodeId, Member> {
        &self.members
    }

    /// Who is denied, and since when.
    pub const fn denied(&self) -> &OrdMap<NodeId, SystemTime> {
        &self.denied
    }

    /// Whose certificate counts no more although it is in time.
    pub fn excluded(&self, now: SystemTime) -> Excluded {
        let in_time = self.forgotten.iter().filter(|(_, member)| member.issued.not_after > now);
        let as_of = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Excluded {
            as_of_ms: u64::try_from(as_of.as_millis()).unwrap_or(u64::MAX).max(1),
            denied: self.denied.keys().copied().collect(),
            forgotten: in_time.map(|(forgotten, _)| *forgotten).collect(),
        }
    }

    /// Whether somebody with this key and id was forgotten.
    pub fn is_forgotten(&self, id: NodeId, key: &PublicKey) -> bool {
        self.forgotten.contains_key(&(id, Fingerprint::of(key.as_der())))
    }

    /// Whether there is room for one more token.
    pub fn has_room_for_token(&self) -> bool {
        self.tokens.len() < TOKENS_MAX
    }

    /// Judges an application with a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(
        &self,
        token: &JoinToken,
        id: NodeId,
        key: &PublicKey,
        now: SystemTime,
    ) -> Result<Verdict, Refusal> {
        let known = self.tokens.get(&token.id()).filter(|known| known.hash == token.hash());
        let known = known.ok_or(Refusal::UnknownToken)?;
        if known.is_revoked {
            return Err(Refusal::RevokedToken);
        }
        if now >= known.expires {
            return Err(Refusal::ExpiredToken);
        }
        if self.denied.contains_key(&id) {
            return Err(Refusal::Denied);
        }
        match self.members.get(&id) {
            Some(member) if member.key != *key => return Err(Refusal::OtherKey),
            Some(member) if member.token == token.id() => return Ok(Verdict::Again { role: member.role }),
            Some(_) => {}
            None if self.members.len() >= MEMBERS_MAX => return Err(Refusal::TooMany),
            None => {}
        }
        if known.uses_left == 0 {
            return Err(Refusal::UsedUp);
        }
        Ok(Verdict::Joins { role: known.role, place: known.place.clone() })
    }

    /// Whether somebody with this key and role may act as `id`.
    ///
    /// # Errors
    /// Why not.
    pub fn member(&self, id: NodeId, key: &PublicKey, role: Role) -> Result<&Member, Refusal> {
        if self.denied.contains_key(&id) {
            return Err(Refusal::Denied);
        }
        let member = self.members.get(&id).ok_or(Refusal::NotEnrolled)?;
        if member.key != *key {
            return Err(Refusal::OtherKey);
        }
        if member.role != role {
            return Err(Refusal::OtherRole);
        }
        Ok(member)
    }

    /// Changes it. What names nothing that is there changes nothing.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Created(id, token) => drop(self.tokens.insert(id, *token)),
            Entry::Revoked(id) => {
                if let Some(token) = self.tokens.get_mut(&id) {
                    token.is_revoked = true;
                }
            }
            Entry::Enrolled(id, member) => {
                if let Some(token) = self.tokens.get_mut(&member.token) {
                    token.uses_left = token.uses_left.saturating_sub(1);
                }
                self.forgotten.remove(&(id, Fingerprint::of(member.key.as_der())));
                self.members.insert(id, *member);
            }
            Entry::Issued(id, issued) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.issued = issued;
                }
            }
            Entry::Forgotten(id) => {
                if let Some(member) = self.members.remove(&id) {
                    self.remember(id, member);
                }
            }
            Entry::Denied(id, at) => {
                self.denied.entry(id).or_insert(at);
            }
            Entry::Allowed(id) => drop(self.denied.remove(&id)),
        }
    }

    /// Drops what can come to nothing any more, and answers how many members that were: those whose certificate ended so
    /// long ago that it cannot be renewed, those who were forgotten and whose certificate has ended, tokens that are
    /// gone. No [`Entry`]: a log that still has them is pruned again when it is read.
    pub fn prune(&mut self, now: SystemTime) -> usize {
        let ended = |member: &Member| now.duration_since(member.issued.not_after).ok();
        let is_past = |member: &Member| ended(member).is_some_and(|late| late > LATE_MAX);
        let past = self.members.iter().filter(|(_, member)| is_past(member));
        let past: Vec<_> = past.map(|(id, _)| *id).collect();
        for id in &past {
            self.members.remove(id);
        }
        let forgotten = self.forgotten.iter().filter(|(_, member)| ended(member).is_some());
        for key in forgotten.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.forgotten.remove(&key);
        }
        let tokens = self.tokens.iter().filter(|(_, token)| token.is_gone(now));
        for id in tokens.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.tokens.remove(&id);
        }
        past.len()
    }

    /// Keeps in mind who was forgotten; of too many, the one whose certificate ends first is let go of.
    fn remember(&mut self, id: NodeId, member: Member) {
        if self.forgotten.len() >= MEMBERS_MAX {
            let first = self.forgotten.iter().min_by_key(|(_, member)| member.issued.not_after);
            if let Some(first) = first.map(|(forgotten, _)| *forgotten) {
                self.forgotten.remove(&first);
            }
        }
        self.forgotten.insert((id, Fingerprint::of(member.key.as_der())), member);
    }

    /// The shortest way here: entries that make the same ledger, without tokens that are gone and without those who were
    /// forgotten and whose certificate has ended.
    pub fn entries(&self, now: SystemTime) -> Vec<Entry> {
        let in_time = self.forgotten.iter().filter(|(_, member)| member.issued.not_after > now);
        let forgotten = in_time.flat_map(|((id, _), member)| {
            [Entry::Enrolled(*id, Box::new(member.clone())), Entry::Forgotten(*id)]
        });
        let enrolled = |member: &Member| Box::new(member.clone());
        // Members first: as entries they would use their tokens again.
        let members = self.members.iter().map(|(id, member)| Entry::Enrolled(*id, enrolled(member)));
        let tokens = self.tokens.iter().filter(|(_, token)| !token.is_gone(now));
        let tokens = tokens.map(|(id, token)| Entry::Created(*id, Box::new(token.clone())));
        let denied = self.denied.iter().map(|(id, at)| Entry::Denied(*id, *at));
        forgotten.chain(members).chain(tokens).chain(denied).collect()
    }
}

impl Token {
    fn is_gone(&self, now: SystemTime) -> bool {
        now.duration_since(self.expires).is_ok_and(|past| past > TOKEN_LISTED)
    }
}

#[cfg(test)]
mod tests;
