//! The data key of a file: the 32 bytes that every value in it is encrypted with.
//!
//! Separate because it crosses layers: `keys` wraps and unwraps it, `sops` encrypts with it.
//! It is wiped on drop and never printed.

use std::fmt;

use crate::secret::SecretBytes;

/// Length of a data key in bytes (AES-256).
pub const DATA_KEY_BYTES: usize = 32;

/// A data key, wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(SecretBytes);

impl DataKey {
    /// Returns the key held in `bytes`, `None` unless there are exactly 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == DATA_KEY_BYTES).then(|| Self(SecretBytes::copy_of(bytes)))
    }

    /// Returns what stands for the data key of a raw age file: its content, of any length.
    pub fn of_content(content: SecretBytes) -> Self {
        Self(content)
    }

    /// Returns whether it has the length of a data key.
    pub fn is_key(&self) -> bool {
        self.0.len() == DATA_KEY_BYTES
    }

    /// Returns a new key drawn from `random`, which must fill its argument with
    /// cryptographically secure bytes.
    pub fn generate(random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut key = SecretBytes::new(vec![0; DATA_KEY_BYTES]);
        random(key.expose_mut());
        Self(key)
    }

    /// Returns the key bytes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}
