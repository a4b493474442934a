//! The SOPS file format: bytes in, bytes out.
//!
//! [`open`] turns a sealed document into its plaintext, [`seal`] a plain document into an
//! encrypted file, [`matches()`] compares the two without keeping a second copy. Nothing here
//! touches files, people, clocks or random sources: time and randomness are arguments.

pub mod audit;
pub mod cipher;
pub mod data_key;
pub mod document;
pub mod error;
pub mod gcm;
pub mod mac;
pub mod master_key;
pub mod metadata;
mod opening;
pub mod pattern;
mod sealing;
pub mod selector;
pub mod shamir;
pub mod store;
pub mod tree;
pub mod tree_cipher;
pub mod value;

pub use opening::{Opened, matches, open, parse_sealed};
pub use sealing::{Layout, Manner, Reuse, Sealed, seal, seal_stream};

/// A source of cryptographically secure random bytes: fills its argument.
pub type Fill<'f> = &'f mut dyn FnMut(&mut [u8]);
