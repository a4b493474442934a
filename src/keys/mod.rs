//! Who can open a file: finding identities, unwrapping and wrapping data keys.

pub mod age;
pub mod error;

pub use error::KeyError;
