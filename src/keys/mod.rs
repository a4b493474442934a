//! Who can open a file: finding identities, unwrapping and wrapping data keys.

pub mod age;
pub mod error;
pub mod hybrid;
pub mod keyring;
pub mod locked;
pub mod pgp;
#[cfg(feature = "vault")]
mod proxies;
pub mod vault;

pub use error::KeyError;
