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
    /// The file splits its data key over several groups.
    #[error(
        "its data key is split over {groups} key groups, which this version cannot put together yet"
    )]
    SeveralGroups {
        /// How many.
        groups: usize,
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
