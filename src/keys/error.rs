//! Why a file cannot be opened, or a recipient not be encrypted to.

use crate::sops::shamir::ShamirError;

/// What came of a key group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOutcome {
    /// Whether one of its keys gave its share.
    pub is_open: bool,
    /// Who could open it.
    pub wanted: Vec<String>,
    /// Each place looked at and what was there.
    pub looked_at: Vec<String>,
}

/// An error of the key layer. Never holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// An identity fits, but the wrapped data key does not open.
    #[error("the data key wrapped for {recipient} is damaged")]
    Damaged {
        /// The recipient, as text or by name.
        recipient: String,
    },
    /// Not a recipient.
    #[error("`{recipient}` is not an age recipient: {reason}")]
    InvalidRecipient {
        /// The text, shortened.
        recipient: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No identity opens the file.
    #[error("no identity opens it")]
    NoIdentity {
        /// Who could open it.
        wanted: Vec<String>,
        /// Each place looked at and what was there.
        looked_at: Vec<String>,
    },
    /// A key of a cloud that this program has no client for.
    #[error(
        "the key {name} is of the kind `{kind}`, which only stock `sops` can use: do it with `sops rotate`, `sops updatekeys` or `sops encrypt` of stock"
    )]
    Cloud {
        /// The key.
        name: String,
        /// The list of the metadata it stands in.
        kind: &'static str,
    },
    /// A group without keys.
    #[error("empty key group provided")]
    EmptyGroup,
    /// No groups at all.
    #[error("no key groups provided")]
    NoGroups,
    /// Too few of several groups are open.
    #[error(
        "its data key is shared out over {} key groups, {needed} of which are needed, and {} could be opened",
        groups.len(),
        groups.iter().filter(|group| group.is_open).count()
    )]
    TooFewGroups {
        /// How many are needed.
        needed: usize,
        /// What came of each.
        groups: Vec<GroupOutcome>,
    },
    /// The shares of several groups do not fit.
    #[error("{0}")]
    Shares(#[from] ShamirError),
    /// `gpg` or Vault did not wrap.
    #[error("failed to encrypt new data key with master key {name:?}: {reason}")]
    NotWrapped {
        /// The key.
        name: String,
        /// What was said.
        reason: String,
    },
    /// The program of a plugin is not there.
    #[error("the program age-plugin-{name} is not installed here")]
    PluginMissing {
        /// The plugin.
        name: String,
    },
    /// A plugin that only a file of the repository names.
    #[error("its recipient is of the plugin {name}, which you did not name yourself")]
    PluginNotNamed {
        /// The plugin.
        name: String,
    },
    /// The recipient could not be encrypted to.
    #[error("cannot encrypt to {recipient}")]
    WrapFailed {
        /// The recipient.
        recipient: String,
    },
}
