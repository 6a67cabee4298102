//! Files as they are written, and as they should not be.

use std::io::Write as _;

use bytes::Bytes;
use equipoise_identity::authority::Order;
use equipoise_identity::tls::{Presented, Signer, Trust};
use equipoise_identity::{Authorities, Authority, PrivateKey, Role};
use equipoise_proto::{ContentHash, EntityKind, Epoch, NodeId, Position, Revision, v1};
use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

use super::format::{Content, Sealed};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A cluster: its authority and somebody who signs.
struct Cluster {
    authority: Authority,
    signer: Signer,
}

impl Cluster {
    fn new(role: Role) -> Self {
        let authority = Authority::generate([1; 16], SystemTime::now()).unwrap();
        let key = PrivateKey::generate().unwrap();
        let name = SpiffeId { role, id: NodeId::new(Uuid::from_u128(7)) };
        let now = SystemTime::now();
        let order = Order { name, key: &key.public(), serial: [2; 16], now, lifetime: HOUR };
        let certificate = authority.issue(order).unwrap();
        let presented = Presented::nothing();
        presented.set(vec![certificate.der().clone(), authority.certificate().der().clone()], &key).unwrap();
        Self { signer: presented.signer().unwrap(), authority }
    }

    fn known(&self) -> Known {
        let authorities = Authorities::new(vec![self.authority.certificate().clone()]).unwrap();
        Known::Trusted(Trust::new(authorities).unwrap())
    }

    fn file(&self, content: Content) -> Vec<u8> {
        Sealed::new(content, &key('a'), &self.signer, SystemTime::now(), [3; 12]).unwrap().parts().concat()
    }
}

fn key(digit: char) -> SealKey {
    digit.to_string().repeat(64).parse().unwrap()
}

fn content() -> Content {
    let (kind, id, wire) = (EntityKind::Service, Uuid::from_u128(1), Bytes::from_static(b"wire"));
    let mut content_hash = ContentHash::EMPTY;
    content_hash.add(kind, id, &wire);
    let record = v1::EntityRecord { kind: kind.to_wire().into(), id: id.as_bytes().to_vec().into(), wire };
    let raw = record.encode_length_delimited_to_vec();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&raw).unwrap();
    let position =
        Position { epoch: Epoch::new(Uuid::from_u128(5)), revision: Revision::new(9), content_hash };
    Content {
        position,
        compressed: encoder.finish().unwrap(),
        raw_bytes: u64::try_from(raw.len()).unwrap(),
        min_protocol: 1,
    }
}

fn open(file: &[u8], known: &Known, key: &SealKey, now: SystemTime) -> Result<Found, Refusal> {
    let verified = Verified::read(file, known, key, now)?.ok_or(Refusal::Truncated)?;
    let (replica, compressed, raw_bytes) = verified.open(file.to_vec(), key)?;
    Ok(Found { replica, compressed, raw_bytes })
}

#[test]
fn a_file_opens_for_its_cluster_and_long_after_its_signer_ran_out() {
    for role in [Role::ControlPlane, Role::Relay] {
        let cluster = Cluster::new(role);
        let file = cluster.file(content());
        for late in [Duration::ZERO, 2 * HOUR, 29 * 24 * HOUR] {
            let found = open(&file, &cluster.known(), &key('a'), SystemTime::now() + late).unwrap();
            assert_eq!(*found.replica.position(), content().position);
            assert_eq!((found.compressed, found.raw_bytes), (content().compressed, content().raw_bytes));
        }
        let token = Known::IssuedBy(cluster.authority.certificate().fingerprint());
        assert!(open(&file, &token, &key('a'), SystemTime::now()).is_ok());
        let never = open(&file, &cluster.known(), &key('a'), SystemTime::now() + 32 * 24 * HOUR);
        assert_eq!(never.unwrap_err(), Refusal::Late);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let (cluster, foreign) = (Cluster::new(Role::ControlPlane), Cluster::new(Role::ControlPlane));
    let file = cluster.file(content());
    let refused =
        |file: &[u8]| open(file, &cluster.known(), &key('a'), SystemTime::now()).unwrap_err().to_string();
    let mut newer = file.clone();
    newer[7] = 2;
    let mut altered = file.clone();
    *altered.last_mut().unwrap() ^= 1;
    // Without its signature, as one would write it who has none.
    let lengths = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (head, signature) = (lengths(8), lengths(12));
    let unsigned = [&file[..12], &[0; 4], &file[16..16 + head], &file[16 + head + signature..]].concat();
    let mut other_signature = file.clone();
    other_signature[16 + head + signature - 1] ^= 1;
    let mut huge = content();
    huge.raw_bytes = u64::MAX;
    let mut young = content();
    young.min_protocol = u32::MAX;
    let mut other = content();
    other.raw_bytes += 1;
    for (name, file, want) in [
        ("another file", b"PK\x03\x04".to_vec(), "it is no fallback snapshot"),
        ("newer", newer, "its format 2 is newer than 1"),
        ("unsigned", unsigned, "it is unsigned"),
        ("altered content", altered, "its content was altered"),
        ("altered signature", other_signature, "the signature does not match"),
        ("foreign", foreign.file(content()), "none of the authorities that this process trusts"),
        ("cut", file[..file.len() - 1].to_vec(), "it is cut short"),
        ("cut in the head", file[..100].to_vec(), "it is cut short"),
        ("empty", Vec::new(), "it is cut short"),
        ("longer", [file.as_slice(), b"!"].concat(), "it is longer than it says"),
        ("huge", cluster.file(huge), "it is larger than a config can be"),
        ("needs more", cluster.file(young), "it needs protocol version 4294967295"),
        ("says another size", cluster.file(other), "another size than it says"),
    ] {
        let said = refused(&file);
        assert!(said.contains(want), "{name}: {said}");
    }
    let other_key = open(&file, &cluster.known(), &key('b'), SystemTime::now()).unwrap_err().to_string();
    assert!(other_key.contains("cluster.snapshot_key_file holds"), "{other_key}");
    let token = Known::IssuedBy(foreign.authority.certificate().fingerprint());
    assert!(open(&file, &token, &key('a'), SystemTime::now()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_byte_or_a_cut_is_refused(at: prop::sample::Index, flip in 1..=255_u8) {
        let cluster = Cluster::new(Role::ControlPlane);
        let (known, now) = (cluster.known(), SystemTime::now());
        let mut file = cluster.file(content());
        let at = at.index(file.len());
        prop_assert!(open(&file[..at], &known, &key('a'), now).is_err());
        file[at] ^= flip;
        prop_assert!(open(&file, &known, &key('a'), now).is_err());
    }

    #[test]
    fn no_bytes_panic(mut bytes: Vec<u8>) {
        let cluster = Cluster::new(Role::ControlPlane);
        prop_assert!(open(&bytes, &cluster.known(), &key('a'), SystemTime::now()).is_err());
        let beginning: &[u8] = b"EQPFALL\x01";
        bytes.splice(..0, beginning.iter().copied());
        prop_assert!(open(&bytes, &cluster.known(), &key('a'), SystemTime::now()).is_err());
    }
}

#[test]
fn a_place_is_a_directory_or_a_url() {
    for (text, want) in [
        ("/var/snapshots", Ok("/var/snapshots/equipoise-snapshot.eqs")),
        ("other.eqs", Ok("other.eqs")),
        ("http://files.example", Ok("http://files.example/equipoise-snapshot.eqs")),
        ("http://files.example:81/a/?key=secret", Ok("http://files.example:81/a/equipoise-snapshot.eqs")),
        ("http://[::1]:81/a/b.eqs", Ok("http://[::1]:81/a/b.eqs")),
        ("https://files.example/", Err(InvalidPlace::Https)),
        ("ftp://files.example/", Err(InvalidPlace::Url)),
        ("http://u:p@files.example/", Err(InvalidPlace::User)),
        ("", Err(InvalidPlace::Empty)),
    ] {
        let place = text.parse::<Place>();
        assert_eq!(place.map(|place| place.to_string()), want.map(str::to_owned), "{text}");
    }
}
