//! The post-quantum recipient of age, `age1pq1…`, which the library does not have yet.
//!
//! HPKE in base mode (RFC 9180) with the KEM MLKEM768-X25519 (0x647a, also called X-Wing), HKDF-SHA-256
//! and ChaCha20-Poly1305 wraps the 16-byte file key; the stanza is `mlkem768x25519`. To be dropped
//! when the library brings its own.

use std::collections::HashSet;

use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::{Bech32, Hrp};
use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use hmac::{Hmac, KeyInit as _, Mac};
use ml_kem::kem::Decapsulate;
use ml_kem::{EncapsulateDeterministic, EncodedSizeUser, KemCore, MlKem768};
use sha2::Sha256;
use sha3::digest::{ExtendableOutput, Update, XofReader};
use sha3::{Digest, Sha3_256, Shake256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::os;

/// The prefix of recipients.
pub const RECIPIENT_PREFIX: &str = "age1pq";
/// The prefix of identities.
pub const IDENTITY_PREFIX: &str = "AGE-SECRET-KEY-PQ-";

const STANZA: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";
const COMBINER_LABEL: &[u8] = b"\\.//^\\";
const EK_BYTES: usize = 1184;
const CT_BYTES: usize = 1088;
const POINT_BYTES: usize = 32;
const SEED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

type EncapsulationKey = <MlKem768 as KemCore>::EncapsulationKey;
type DecapsulationKey = <MlKem768 as KemCore>::DecapsulationKey;

/// A recipient: an ML-KEM-768 encapsulation key (1184 bytes) and an X25519 point (32 bytes).
#[derive(Clone)]
pub struct HybridRecipient {
    lattice: Box<EncapsulationKey>,
    point: PublicKey,
}

/// An identity: a seed of 32 bytes, both secret halves derived from it by SHAKE-256.
#[derive(Clone)]
pub struct HybridIdentity {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    lattice: Box<DecapsulationKey>,
    scalar: StaticSecret,
    recipient: HybridRecipient,
}

impl HybridRecipient {
    /// Reads `age1pq1…`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = decode(text, RECIPIENT_PREFIX)?;
        if bytes.len() != EK_BYTES + POINT_BYTES {
            return None;
        }
        let (lattice, point) = bytes.split_at(EK_BYTES);
        let key = EncapsulationKey::from_bytes(&ml_kem::array::Array::try_from(lattice).ok()?);
        // A key whose coefficients are not reduced has another spelling, and is refused.
        if key.as_bytes().as_slice() != lattice {
            return None;
        }
        Some(Self {
            lattice: Box::new(key),
            point: PublicKey::from(<[u8; POINT_BYTES]>::try_from(point).ok()?),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.lattice.as_bytes().to_vec();
        bytes.extend_from_slice(self.point.as_bytes());
        bytes
    }

    /// Returns the spelling `age1pq1…`.
    pub fn spelled(&self) -> String {
        encode(RECIPIENT_PREFIX, &self.bytes())
    }

    /// Wraps a file key: the encapsulated key (1120 bytes) and the sealed file key (32 bytes).
    fn seal(&self, file_key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut message = Zeroizing::new([0; 32]);
        os::fill_random(&mut *message);
        let mut scalar = Zeroizing::new([0; 32]);
        os::fill_random(&mut *scalar);
        let scalar = StaticSecret::from(*scalar);
        let (ciphertext, lattice_secret) = self
            .lattice
            .encapsulate_deterministic(&ml_kem::array::Array::from(*message))
            .ok()?;
        let ephemeral = PublicKey::from(&scalar);
        let shared = scalar.diffie_hellman(&self.point);
        if !shared.was_contributory() {
            return None;
        }
        let secret = combine(&lattice_secret, shared.as_bytes(), &ephemeral, &self.point);
        let (key, nonce) = key_schedule(&*secret);
        let sealed = ChaCha20Poly1305::new(&(*key).into())
            .encrypt(&nonce.into(), file_key)
            .ok()?;
        let mut encapsulated = ciphertext.to_vec();
        encapsulated.extend_from_slice(ephemeral.as_bytes());
        Some((encapsulated, sealed))
    }
}

impl age::Recipient for HybridRecipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let (encapsulated, body) = self.seal(file_key.expose_secret()).ok_or_else(|| {
            age::EncryptError::Io(std::io::Error::other(
                "the recipient cannot be encrypted to",
            ))
        })?;
        let stanza = Stanza {
            tag: STANZA.to_owned(),
            args: vec![STANDARD_NO_PAD.encode(encapsulated)],
            body,
        };
        Ok((vec![stanza], HashSet::from(["postquantum".to_owned()])))
    }
}

impl HybridIdentity {
    /// Makes a new one.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        os::fill_random(&mut *seed);
        Self::from_seed(seed)
    }

    /// Reads `AGE-SECRET-KEY-PQ-1…`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(decode(text, IDENTITY_PREFIX)?);
        let seed = <[u8; SEED_BYTES]>::try_from(bytes.as_slice()).ok()?;
        Some(Self::from_seed(Zeroizing::new(seed)))
    }

    fn from_seed(seed: Zeroizing<[u8; SEED_BYTES]>) -> Self {
        let mut expand = Shake256::default();
        expand.update(&*seed);
        let mut reader = expand.finalize_xof();
        let mut part = || {
            let mut part = Zeroizing::new([0; 32]);
            reader.read(&mut *part);
            part
        };
        let (d, z, scalar) = (part(), part(), part());
        let (lattice, public) = MlKem768::generate_deterministic(
            &ml_kem::array::Array::from(*d),
            &ml_kem::array::Array::from(*z),
        );
        let scalar = StaticSecret::from(*scalar);
        let recipient = HybridRecipient {
            lattice: Box::new(public),
            point: PublicKey::from(&scalar),
        };
        Self {
            seed,
            lattice: Box::new(lattice),
            scalar,
            recipient,
        }
    }

    /// Returns the recipient it answers to.
    pub fn recipient(&self) -> &HybridRecipient {
        &self.recipient
    }

    /// Returns the spelling `AGE-SECRET-KEY-PQ-1…`. Secret.
    pub fn spelled(&self) -> Zeroizing<String> {
        let lower = Zeroizing::new(encode(IDENTITY_PREFIX, &*self.seed));
        Zeroizing::new(lower.to_ascii_uppercase())
    }

    fn open(&self, stanza: &Stanza) -> Result<Option<FileKey>, age::DecryptError> {
        let [argument] = &stanza.args[..] else {
            return Err(age::DecryptError::InvalidHeader);
        };
        let encapsulated = STANDARD_NO_PAD
            .decode(argument)
            .map_err(|_| age::DecryptError::InvalidHeader)?;
        if encapsulated.len() != CT_BYTES + POINT_BYTES
            || stanza.body.len() != FILE_KEY_BYTES + TAG_BYTES
        {
            return Err(age::DecryptError::InvalidHeader);
        }
        let (ciphertext, point) = encapsulated.split_at(CT_BYTES);
        let invalid = |_| age::DecryptError::InvalidHeader;
        let ciphertext = ml_kem::array::Array::try_from(ciphertext).map_err(invalid)?;
        let point = <[u8; POINT_BYTES]>::try_from(point).map_err(invalid)?;
        let lattice_secret = self
            .lattice
            .decapsulate(&ciphertext)
            .map_err(|()| age::DecryptError::InvalidHeader)?;
        let ephemeral = PublicKey::from(point);
        let shared = self.scalar.diffie_hellman(&ephemeral);
        if !shared.was_contributory() {
            return Err(age::DecryptError::InvalidHeader);
        }
        let secret = combine(
            &lattice_secret,
            shared.as_bytes(),
            &ephemeral,
            &self.recipient.point,
        );
        let (key, nonce) = key_schedule(&*secret);
        let opened = ChaCha20Poly1305::new(&(*key).into()).decrypt(&nonce.into(), &stanza.body[..]);
        // Made for somebody else: the lattice half gives another secret, without saying so.
        let Ok(opened) = opened.map(Zeroizing::new) else {
            return Ok(None);
        };
        Ok(Some(FileKey::init_with_mut(|file_key| {
            file_key.copy_from_slice(&opened);
        })))
    }
}

impl age::Identity for HybridIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        if stanza.tag != STANZA {
            return None;
        }
        self.open(stanza).transpose()
    }
}

/// Combines both shared secrets: SHA3-256 over them, the ephemeral point, the recipient's point and a
/// label (draft-connolly-cfrg-xwing-kem).
fn combine(
    lattice_secret: &[u8],
    point_secret: &[u8],
    ephemeral: &PublicKey,
    recipient: &PublicKey,
) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha3_256::new();
    for part in [
        lattice_secret,
        point_secret,
        ephemeral.as_bytes(),
        recipient.as_bytes(),
        COMBINER_LABEL,
    ] {
        Digest::update(&mut hash, part);
    }
    Zeroizing::new(hash.finalize().into())
}

/// Derives key and first nonce of HPKE's base mode (RFC 9180, section 5.1).
fn key_schedule(secret: &[u8]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
    let mut context = vec![0];
    context.extend_from_slice(&*extract(b"", b"psk_id_hash", b""));
    context.extend_from_slice(&*extract(b"", b"info_hash", INFO));
    let schedule = extract(secret, b"secret", b"");
    let key = expand(&*schedule, b"key", &context, 32);
    let long = expand(&*schedule, b"base_nonce", &context, 12);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&long[..12]);
    (key, nonce)
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        Mac::update(&mut mac, part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// `LabeledExtract` of RFC 9180, section 4.
fn extract(salt: &[u8], label: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac(salt, &[b"HPKE-v1", SUITE, label, input])
}

/// `LabeledExpand` of RFC 9180, section 4, for at most 32 bytes: the first block is enough.
fn expand(secret: &[u8], label: &[u8], info: &[u8], length: u8) -> Zeroizing<[u8; 32]> {
    hmac(
        secret,
        &[&[0, length], b"HPKE-v1", SUITE, label, info, &[1]],
    )
}

/// Reads a Bech32 text of any length (age does not keep to the limit of 90 characters).
fn decode(text: &str, prefix: &str) -> Option<Vec<u8>> {
    let parsed = bech32::primitives::decode::CheckedHrpstring::new::<LongBech32>(text).ok()?;
    let is_ours = parsed.hrp().as_str() == prefix;
    is_ours.then(|| parsed.byte_iter().collect())
}

/// Bech32 without a limit of length.
enum LongBech32 {}

impl bech32::Checksum for LongBech32 {
    type MidstateRepr = <Bech32 as bech32::Checksum>::MidstateRepr;
    const CODE_LENGTH: usize = usize::MAX;
    const CHECKSUM_LENGTH: usize = Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32::TARGET_RESIDUE;
}

fn encode(prefix: &str, bytes: &[u8]) -> String {
    let Ok(hrp) = Hrp::parse(prefix) else {
        return String::new();
    };
    bech32::encode_lower::<LongBech32>(hrp, bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_spelled_and_read_back() {
        let identity = HybridIdentity::generate();
        let text = identity.recipient().spelled();
        assert_eq!(text.len(), 1959);
        assert!(text.starts_with("age1pq1"));
        assert!(HybridRecipient::parse(&text).is_some());
        let secret = identity.spelled();
        assert!(secret.starts_with("AGE-SECRET-KEY-PQ-1"));
        let again = HybridIdentity::parse(&secret).unwrap();
        assert_eq!(again.recipient().spelled(), text);
        for wrong in ["age1pq1", "", &text[..text.len() - 1], &secret] {
            assert!(HybridRecipient::parse(wrong).is_none());
        }
    }

    #[test]
    fn a_file_key_opens_with_its_identity_only() {
        let (own, other) = (HybridIdentity::generate(), HybridIdentity::generate());
        let (encapsulated, body) = own.recipient().seal(&[7; 16]).unwrap();
        let stanza = Stanza {
            tag: STANZA.to_owned(),
            args: vec![STANDARD_NO_PAD.encode(encapsulated)],
            body,
        };
        let opened = own.open(&stanza).ok().flatten().unwrap();
        assert_eq!(opened.expose_secret(), &[7; 16]);
        assert!(other.open(&stanza).ok().flatten().is_none());
        let short = Stanza {
            body: stanza.body[1..].to_vec(),
            ..stanza
        };
        assert!(own.open(&short).is_err());
    }
}
