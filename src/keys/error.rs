//! Why a file cannot be opened, or a recipient not be encrypted to.

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
    #[error("`{recipient}` is not an age recipient")]
    InvalidRecipient {
        /// The text.
        recipient: String,
    },
    /// No identity opens the file.
    #[error("no identity opens it")]
    NoIdentity {
        /// Who could open it.
        wanted: Vec<String>,
        /// Each place looked at and what was there.
        looked_at: Vec<String>,
    },
    /// The file splits its data key over several groups.
    #[error(
        "its data key is split over {groups} key groups, which this version cannot put together yet"
    )]
    SeveralGroups {
        /// How many.
        groups: usize,
    },
    /// A kind of recipient that this version does not encrypt to.
    #[error("{kind} recipients are not supported yet: `{recipient}`")]
    UnsupportedRecipient {
        /// The kind in words.
        kind: &'static str,
        /// The text.
        recipient: String,
    },
    /// The recipient could not be encrypted to.
    #[error("cannot encrypt to {recipient}")]
    WrapFailed {
        /// The recipient.
        recipient: String,
    },
}
