//! The engine behind `secrets`: encrypted files of a git repository (SOPS format, age keys) and
//! their plaintext on a server, kept in step.
//!
//! A manifest, `secret-files.toml`, says which encrypted file is which file on the server. Commands
//! look at both sides, decide in memory what should change, and carry it out whole or not at all.
//!
//! Layers, lowest first; each imports only from those named behind it (`docs/architecture.md`, held
//! by a test):
//!
//! | layer | imports |
//! |---|---|
//! | [`secret`] | – |
//! | [`os`] | `secret` |
//! | [`sops`] | `secret` |
//! | [`rules`] | `sops` |
//! | [`keys`] | `secret` `os` `sops` |
//! | [`project`] | `secret` `sops` `rules` |
//! | [`error`] | `os` `sops` `rules` `keys` `project` |
//! | [`ui`] | `os` `sops` `project` `error` |
//! | [`commands`] | all of the above |
//! | [`cli`] | `os` `error` `ui` `commands` |

pub mod cli;
pub mod commands;
pub mod error;
pub mod keys;
pub mod os;
pub mod parallel;
pub mod project;
pub mod rules;
pub mod secret;
pub mod sops;
pub mod stock;
pub mod ui;
