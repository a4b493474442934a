//! Who can open a file: finding identities, unwrapping and wrapping data keys.

pub mod age;
pub mod error;
pub mod hybrid;
pub mod keyring;
pub mod locked;
pub mod pgp;
#[cfg(feature = "vault")]
mod proxies;
#[cfg_attr(
    not(feature = "vault"),
    expect(dead_code, reason = "read by the client alone")
)]
pub mod vault;

pub use error::KeyError;
