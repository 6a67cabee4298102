//! Join tokens: their text, and what is kept of their secret: pure.
//!
//! A token is `eqp1.<id>.<secret>.<fingerprint of the authority>`: the id finds it, the secret proves it, and the
//! fingerprint lets its bearer know the control plane before it has any certificate.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::certificate::Fingerprint;

/// What every token begins with: its form.
const FORM: &str = "eqp1";

/// Names the use of the hash, so that it is of no use elsewhere (BLAKE3 `derive_key`).
const HASH_CONTEXT: &str = "equipoise 2026-11 join token secret";

/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 256;

/// Finds a token; no secret. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// Of eight random bytes.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenId {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 8];
        // As it is shown, and in no other way: a token has one spelling.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidToken);
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidToken)?;
        Ok(Self(bytes))
    }
}

/// What is kept of a token's secret.
#[derive(Clone, Copy)]
pub struct SecretHash(blake3::Hash);

impl SecretHash {
    /// As it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    /// To store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// In constant time.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// Lets its bearer enrol.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: TokenId,
    secret: [u8; 32],
    authority: Fingerprint,
}

/// Not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: one has the form eqp1.<id>.<secret>.<fingerprint>")]
pub struct InvalidToken;

impl JoinToken {
    /// `secret`: random bytes; `authority`: what the control plane presents in its chain.
    pub const fn new(id: TokenId, secret: [u8; 32], authority: Fingerprint) -> Self {
        Self { id, secret, authority }
    }

    /// Finds it.
    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// The authority of the control plane that gave it out.
    pub const fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// What is kept of its secret.
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::Hash::from_bytes(blake3::derive_key(HASH_CONTEXT, &self.secret)))
    }

    /// The secret in clear; nothing else shows it.
    pub fn reveal(&self) -> String {
        let (secret, authority) = (BASE64.encode(self.secret), BASE64.encode(self.authority.as_bytes()));
        format!("{FORM}.{}.{secret}.{authority}", self.id)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, ..)", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidToken);
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [FORM, id, secret, authority] = *parts else { return Err(InvalidToken) };
        Ok(Self {
            id: id.parse()?,
            secret: bytes(secret)?,
            authority: Fingerprint::from_bytes(bytes(authority)?),
        })
    }
}

fn bytes(text: &str) -> Result<[u8; 32], InvalidToken> {
    BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidToken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_reads_back(id: [u8; 8], secret: [u8; 32], authority: [u8; 32]) {
            let token = JoinToken::new(TokenId::new(id), secret, Fingerprint::from_bytes(authority));
            prop_assert_eq!(token.reveal().parse(), Ok(token));
        }

        #[test]
        fn nothing_else_is_a_token(text in "(eqp1\\.)?[a-zA-Z0-9._-]{0,140}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.reveal(), text);
            }
        }

        #[test]
        fn a_hash_knows_its_secret_only(one: [u8; 32], other: [u8; 32]) {
            let token = |secret| JoinToken::new(TokenId::new([1; 8]), secret, Fingerprint::from_bytes([2; 32]));
            prop_assert_eq!(token(one).hash() == token(other).hash(), one == other);
            prop_assert_eq!(SecretHash::from_bytes(*token(one).hash().as_bytes()), token(one).hash());
        }
    }

    #[test]
    fn a_token_is_not_shown_by_accident() {
        let token = JoinToken::new(TokenId::new([7; 8]), [9; 32], Fingerprint::from_bytes([2; 32]));
        assert_eq!(format!("{token:?}"), "JoinToken(0707070707070707, ..)");
        assert_eq!(format!("{:?}", token.hash()), "SecretHash(..)");
    }
}
