//! The digest over the values of a file: SHA-512 of their plaintexts, in document order.
//!
//! Separate because reading, writing and verifying must compute it alike. Comments and nulls are
//! not covered; nothing separates the values (SOPS `sops.go`, `computeMac`).

use sha2::{Digest, Sha512};

use super::value::Value;

/// SHA-256 of `sops`, put in front when only encrypted values are covered.
const ONLY_ENCRYPTED_START: [u8; 32] = [
    0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
    0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
];

/// Which values the digest covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacScope {
    /// Every value, encrypted or in clear.
    AllValues,
    /// Only the encrypted ones (`mac_only_encrypted`).
    OnlyEncrypted,
}

/// A digest in progress.
pub struct Mac {
    hasher: Sha512,
    scope: MacScope,
}

impl Mac {
    /// Starts a digest.
    pub fn new(scope: MacScope) -> Self {
        let mut hasher = Sha512::new();
        if scope == MacScope::OnlyEncrypted {
            hasher.update(ONLY_ENCRYPTED_START);
        }
        Self { hasher, scope }
    }

    /// Adds the next value, encrypted or in clear, where it is covered.
    pub fn add(&mut self, value: &Value<'_>, encrypted: bool) {
        let covered = encrypted || self.scope == MacScope::AllValues;
        if covered && !value.is_comment() {
            self.update(value.plaintext().expose());
        }
    }

    /// Adds the plaintext bytes of the next covered value, or a part of them.
    pub fn update(&mut self, plaintext: &[u8]) {
        self.hasher.update(plaintext);
    }

    /// Returns the digest as SOPS stores it: 128 upper-case hexadecimal digits.
    pub fn finish(self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digest = self.hasher.finalize();
        let pair = |byte: &u8| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        };
        digest.iter().flat_map(pair).map(char::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_reference() {
        let mut all = Mac::new(MacScope::AllValues);
        all.update("héllo\n-421.5TruexyplainFalse".as_bytes());
        assert_eq!(
            all.finish(),
            "21180586FFC231930DA37AB56002D1EAF491D06E1EA7C6A3A09E24B09BE9EB4D41CDDF19F2E64282EC52AF6F3C38A6C2E070506404309F064B1705D8FAE26B11"
        );
        let mut encrypted = Mac::new(MacScope::OnlyEncrypted);
        encrypted.update("héllo\n-421.5TruexyFalse".as_bytes());
        assert_eq!(
            encrypted.finish(),
            "5C68B305E120F6240E83C92B0F908D8D8B1961733E1AF1A464433E145A2EE5BBE40129E9CD7F8096F3E31BE06C75745B4C52045E8CF0F55A01D6ED6D8CCA0E1D"
        );
    }
}
