//! Bytes that must not be shown: plaintext of secret files, values in them, key material.
//!
//! Separate because every layer handles such bytes and reviewers search for one word, `expose`.
//! The types here are wiped when dropped and print as `[redacted]`; they never implement
//! `Display` or serialisation.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// Overwrites what earlier calls left on this thread's stack: libraries keep blocks of what they digest and
/// decrypt there. For the end of a thread, and of the program.
pub fn wipe_stack() {
    // Deeper than any call with a secret in its frame.
    wipe_frames::<{ 512 << 10 }>();
}

/// Does something that leaves pieces of a secret on the stack, and overwrites them: a value that is moved next
/// would carry them along in the bytes that it does not use.
pub fn wiping_behind<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn apart<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = apart(work);
    wipe_frames::<{ 8 << 10 }>();
    result
}

#[inline(never)]
fn wipe_frames<const DEPTH: usize>() {
    let mut frame = [0xa5_u8; DEPTH];
    std::hint::black_box(&mut frame).zeroize();
    std::hint::black_box(&frame);
}

/// Owned secret bytes, wiped on drop. Any length, any content.
#[derive(Clone, Default)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes ownership of `bytes`; they are wiped when the value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies `bytes` into a wiped buffer.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }

    /// Returns the bytes. The one way out: look at what the caller does with them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the buffer for filling in place. Growing it may leave unwiped copies behind, so
    /// reserve first.
    pub fn expose_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Takes the buffer out, for content that turned out not to be secret (an encrypted file). It is
    /// not wiped any more.
    pub fn into_public(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretBytes {}

/// Secret bytes that are either a part of a longer buffer or owned, so that a large value need
/// not be copied to be looked at.
#[derive(Clone)]
pub enum SecretText<'a> {
    /// A part of a buffer that somebody else wipes.
    Borrowed(&'a [u8]),
    /// Owned bytes, wiped on drop.
    Owned(SecretBytes),
}

impl SecretText<'_> {
    /// Returns the bytes.
    pub fn expose(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes.expose(),
        }
    }

    /// Returns the same text, independent of what it was borrowed from.
    pub fn into_owned_text<'b>(self) -> SecretText<'b> {
        SecretText::Owned(self.into_owned())
    }

    /// Returns an owned copy, or the owned bytes themselves without copying.
    pub fn into_owned(self) -> SecretBytes {
        match self {
            Self::Borrowed(bytes) => SecretBytes::copy_of(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl PartialEq for SecretText<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretText<'_> {}

impl fmt::Debug for SecretText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_holds_the_bytes() {
        let secret = SecretBytes::copy_of(b"hunter2");
        let text = SecretText::Borrowed(b"hunter2");
        assert_eq!(format!("{secret:?} {text:?}"), "[redacted] [redacted]");
    }
}
