//! The data key of a file: the 32 bytes that every value in it is encrypted with.
//!
//! Separate because it crosses layers: `keys` wraps and unwraps it, `sops` encrypts with it.
//! It is wiped on drop and never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a data key in bytes (AES-256).
pub const DATA_KEY_BYTES: usize = 32;

/// A data key, wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; DATA_KEY_BYTES]);

impl DataKey {
    /// Returns the key held in `bytes`, `None` unless there are exactly 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns a new key drawn from `random`, which must fill its argument with
    /// cryptographically secure bytes.
    pub fn generate(random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut key = Self([0; DATA_KEY_BYTES]);
        random(&mut key.0);
        key
    }

    /// Returns the key bytes.
    pub fn expose(&self) -> &[u8; DATA_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}
