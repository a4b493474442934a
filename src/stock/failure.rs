//! Why a command of the reference program failed: its words and its exit code.

/// The exit codes (SOPS `cmd/sops/codes/codes.go`).
pub(super) mod code {
    /// Whatever has no code of its own.
    pub(crate) const GENERIC: u8 = 1;
    /// An input cannot be read or is not of its format; also where the reference panics.
    pub(crate) const UNREADABLE: u8 = 2;
    /// An output cannot be written; also a shell or topic that there is no help for.
    pub(crate) const UNWRITABLE: u8 = 3;
    /// A tree cannot be expressed in a format.
    pub(crate) const INEXPRESSIBLE: u8 = 4;
    /// A malformed encryption context.
    pub(crate) const BAD_CONTEXT: u8 = 6;
    /// A malformed path or value of `set`.
    pub(crate) const BAD_SET: u8 = 7;
    /// Options that exclude each other.
    pub(crate) const CONFLICT: u8 = 8;
    /// The tree cannot be encrypted.
    pub(crate) const NOT_SEALED: u8 = 23;
    /// A value cannot be decrypted.
    pub(crate) const NOT_OPENED: u8 = 25;
    /// Keys of a file that does not exist.
    pub(crate) const NO_FILE_FOR_KEYS: u8 = 49;
    /// The MAC is another one, or cannot be decrypted.
    pub(crate) const MAC: u8 = 51;
    /// A malformed path of `--extract`.
    pub(crate) const BAD_PATH: u8 = 91;
    /// An input without a document.
    pub(crate) const NO_DOCUMENT: u8 = 92;
    /// No file, or one that does not exist.
    pub(crate) const NO_FILE: u8 = 100;
    /// A kind of key twice in the decryption order.
    pub(crate) const DUPLICATE_KIND: u8 = 112;
    /// No key opens the file.
    pub(crate) const NO_KEY: u8 = 128;
    /// Nobody reads standard output any more: what a shell makes of SIGPIPE.
    pub(crate) const BROKEN_PIPE: u8 = 141;
    /// The editor changed nothing.
    pub(crate) const UNCHANGED: u8 = 200;
    /// No editor, or one that failed.
    pub(crate) const EDITOR: u8 = 201;
    /// The input is encrypted already.
    pub(crate) const ALREADY_ENCRYPTED: u8 = 203;
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is said on standard error, without the line break at its end; nothing where it is empty.
    pub text: String,
}

impl Failure {
    /// Returns a failure with an exit code.
    pub(super) fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// Returns a failure with the general exit code.
    pub(super) fn generic(text: impl Into<String>) -> Self {
        Self::new(code::GENERIC, text)
    }
}
