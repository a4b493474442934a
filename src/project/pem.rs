//! PEM blocks in a plaintext: whether they parse, what certificates say, which key belongs to which.
//!
//! RFC 7468 for the blocks, RFC 5280 for certificates, PKCS #1, PKCS #8 and SEC 1 for keys. A block may
//! stand in an environment file, with `\n` for its line ends.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::edwards::EdwardsPoint;
use sha2::{Digest, Sha512};
use x509_cert::Certificate;
use x509_cert::der::{Decode, asn1::ObjectIdentifier};
use x509_cert::ext::pkix::BasicConstraints;
use zeroize::Zeroizing;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ELLIPTIC_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The public half of a key, as far as it is told: modulus, point or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicHalf(Vec<u8>);

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A certificate.
    Certificate {
        /// Its public key.
        public: Option<PublicHalf>,
        /// Last second of its validity, since 1970.
        not_after: u64,
        /// First second of its validity, since 1970.
        not_before: u64,
        /// Whether it says that it is one of an authority, which signs others; so do many that somebody
        /// made for one server.
        is_authority: bool,
    },
    /// A private key.
    PrivateKey {
        /// Its public half, `None` where it is not told: an encrypted key, an unusual kind.
        public: Option<PublicHalf>,
    },
    /// Something else.
    Other,
}

/// A PEM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its label, such as `CERTIFICATE`.
    pub label: String,
    /// What it is; an error says in words what is wrong with it.
    pub kind: Result<Kind, &'static str>,
}

/// Finds the PEM blocks of a plaintext. A block without an end mark is one that does not parse.
pub fn blocks(content: &[u8]) -> Vec<Block> {
    const END: &[u8] = b"-----END ";
    const BEGIN: &[u8] = b"-----BEGIN ";
    const DASHES: &[u8] = b"-----";
    let mut blocks = Vec::new();
    let mut rest = content;
    while let Some(at) = memchr::memmem::find(rest, BEGIN) {
        if memchr::memmem::find(&rest[..at], END).is_some() {
            blocks.push(without_begin());
        }
        let inner = &rest[at + BEGIN.len()..];
        let Some(end) = memchr::memmem::find(inner, DASHES) else {
            break;
        };
        let Ok(label) = std::str::from_utf8(&inner[..end]) else {
            rest = inner;
            continue;
        };
        let is_label = label.len() <= 64
            && label
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ');
        if !is_label {
            rest = inner;
            continue;
        }
        let body = &inner[end + DASHES.len()..];
        let mark = format!("-----END {label}-----");
        let kind = if let Some(length) = memchr::memmem::find(body, mark.as_bytes()) {
            rest = &body[length + mark.len()..];
            parse(label, &body[..length])
        } else {
            rest = body;
            Err("it has no end mark")
        };
        blocks.push(Block {
            label: label.to_owned(),
            kind,
        });
    }
    if memchr::memmem::find(rest, END).is_some() {
        blocks.push(without_begin());
    }
    blocks
}

fn without_begin() -> Block {
    Block {
        label: "block".to_owned(),
        kind: Err("it has no begin mark"),
    }
}

fn parse(label: &str, body: &[u8]) -> Result<Kind, &'static str> {
    let text = without_line_ends(body);
    if memchr::memmem::find(&text, b"Proc-Type:").is_some() {
        // Encrypted in the old way: headers, then what only the passphrase opens.
        return Ok(Kind::PrivateKey { public: None });
    }
    let decoded = STANDARD.decode(&*text).map(Zeroizing::new);
    let der = decoded.map_err(|_| "its base64 is damaged")?;
    match label {
        "CERTIFICATE" => certificate(&der),
        "PRIVATE KEY" => {
            let key =
                pkcs8::PrivateKeyInfo::from_der(&der).map_err(|_| "the key does not parse")?;
            let public = match key.algorithm.oid {
                RSA => rsa(key.private_key)?,
                ELLIPTIC_CURVE => elliptic(key.private_key)?,
                ED25519 => Some(ed25519(key.private_key)?),
                _ => None,
            };
            Ok(Kind::PrivateKey { public })
        }
        "RSA PRIVATE KEY" => rsa(&der).map(|public| Kind::PrivateKey { public }),
        "EC PRIVATE KEY" => elliptic(&der).map(|public| Kind::PrivateKey { public }),
        "OPENSSH PRIVATE KEY" if !der.starts_with(b"openssh-key-v1\0") => {
            Err("the key does not parse")
        }
        _ if label.ends_with("PRIVATE KEY") => Ok(Kind::PrivateKey { public: None }),
        _ => Ok(Kind::Other),
    }
}

/// Takes out line ends, also those that are spelled `\n`, and blanks.
fn without_line_ends(body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
    let mut bytes = body.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' if bytes.next_if(|next| matches!(next, b'n' | b'r')).is_some() => {}
            // A line of an environment file that goes on.
            b'\\' if bytes.peek().is_some_and(|next| **next == b'\n') => {}
            _ if byte.is_ascii_whitespace() => {}
            _ => text.push(byte),
        }
    }
    text
}

fn certificate(der: &[u8]) -> Result<Kind, &'static str> {
    let certificate = Certificate::from_der(der).map_err(|_| "the certificate does not parse")?;
    let certificate = certificate.tbs_certificate;
    let constraints = certificate.get::<BasicConstraints>().ok().flatten();
    let is_authority = constraints.is_some_and(|(_, constraints)| constraints.ca);
    let key = certificate.subject_public_key_info;
    let bits = key.subject_public_key.raw_bytes();
    let public = match key.algorithm.oid {
        RSA => {
            let key =
                pkcs1::RsaPublicKey::from_der(bits).map_err(|_| "its public key does not parse")?;
            Some(PublicHalf(key.modulus.as_bytes().to_vec()))
        }
        ELLIPTIC_CURVE | ED25519 => Some(PublicHalf(bits.to_vec())),
        _ => None,
    };
    let validity = certificate.validity;
    Ok(Kind::Certificate {
        public,
        not_after: validity.not_after.to_unix_duration().as_secs(),
        not_before: validity.not_before.to_unix_duration().as_secs(),
        is_authority,
    })
}

fn rsa(der: &[u8]) -> Result<Option<PublicHalf>, &'static str> {
    let key = pkcs1::RsaPrivateKey::from_der(der).map_err(|_| "the key does not parse")?;
    // The modulus is the product of the primes; remainders tell without large numbers.
    let remainder = |number: &[u8], by: u64| {
        let digits = number.iter();
        digits.fold(0, |rest, &digit| (rest * 256 + u64::from(digit)) % by)
    };
    let (one, other) = (key.prime1.as_bytes(), key.prime2.as_bytes());
    let is_product = |by: &u64| {
        let product = remainder(one, *by) * remainder(other, *by) % by;
        product == remainder(key.modulus.as_bytes(), *by)
    };
    if ![4_294_967_291, 4_294_967_279, 2_147_483_647]
        .iter()
        .all(is_product)
    {
        return Err("its numbers do not fit together");
    }
    Ok(Some(PublicHalf(key.modulus.as_bytes().to_vec())))
}

fn elliptic(der: &[u8]) -> Result<Option<PublicHalf>, &'static str> {
    let key = sec1::EcPrivateKey::from_der(der).map_err(|_| "the key does not parse")?;
    Ok(key.public_key.map(|point| PublicHalf(point.to_vec())))
}

/// Returns the public half of an Ed25519 key (RFC 8032, 5.1.5): an octet string of 32 bytes.
fn ed25519(der: &[u8]) -> Result<PublicHalf, &'static str> {
    let [4, 32, seed @ ..] = der else {
        return Err("the key does not parse");
    };
    if seed.len() != 32 {
        return Err("the key does not parse");
    }
    let digest = Sha512::digest(seed);
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&digest[..32]);
    let point = EdwardsPoint::mul_base_clamped(*scalar).compress();
    Ok(PublicHalf(point.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_blocks_say_what_is_wrong() {
        for (text, expected) in [
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                Err("the certificate does not parse"),
            ),
            (
                "-----BEGIN CERTIFICATE-----\nA!\n-----END CERTIFICATE-----\n",
                Err("its base64 is damaged"),
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n",
                Err("it has no end mark"),
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
                Err("the key does not parse"),
            ),
            (
                "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----",
                Ok(Kind::Other),
            ),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
                Ok(Kind::PrivateKey { public: None }),
            ),
        ] {
            let found = blocks(text.as_bytes());
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].kind, expected, "{text}");
        }
        assert_eq!(blocks(b"A=-----BEGIN x-----\nB=-----BEGIN"), []);
        let headless = blocks(b"----BEGIN X-----\nAAAA\n-----END X-----\n");
        assert_eq!(headless[0].kind, Err("it has no begin mark"));
    }

    #[test]
    fn numbers_of_a_key_that_do_not_fit_are_found() {
        let text = include_str!("../../tests/fixtures/pem/throwaway-rsa.key");
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        let mark = |der: &[u8]| {
            let text = STANDARD.encode(der);
            let block = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
            blocks(block.as_bytes()).remove(0).kind
        };
        assert!(matches!(
            mark(&der),
            Ok(Kind::PrivateKey { public: Some(_) })
        ));
        // The first prime stands here, but for the bytes before it.
        let altered_somewhere = (600..760).filter(|&at| {
            let mut altered = der.clone();
            altered[at] ^= 1;
            mark(&altered) == Err("its numbers do not fit together")
        });
        assert!(altered_somewhere.count() > 100);
    }
}
