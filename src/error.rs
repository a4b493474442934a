//! The problems a command reports: what failed on which thing, what to do about it, exit code.
//!
//! Each layer has its own error type; a [`Problem`] adds the entry it happened to and one sentence
//! of help. The kind is a stable word in JSON (`code`); numbers exist only as exit codes.

use std::path::PathBuf;

use crate::keys::KeyError;
use crate::os::fs::FsError;
use crate::os::git::GitError;
use crate::os::lock::LockError;
use crate::project::error::{ManifestError, Refusal, SelectionError};
use crate::rules::RulesError;
use crate::sops::error::DocumentError;

/// How bad a problem is; the exit code of the run follows from the worst one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A guard refused: 3.
    Refused,
    /// It could not be done, or not be told: 2.
    Trouble,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An identity file would be overwritten.
    #[error("`{}` is an identity file", path.display())]
    IdentityTarget {
        /// The path.
        path: PathBuf,
    },
    /// A document is damaged or cannot be represented.
    #[error("{0}")]
    Document(#[from] DocumentError),
    /// The encrypted file is missing.
    #[error("the encrypted file does not exist in the repository")]
    EncryptedMissing,
    /// Reading or writing failed.
    #[error("{0}")]
    Fs(#[from] FsError),
    /// The checkout cannot be read.
    #[error("{0}")]
    Git(#[from] GitError),
    /// A mistake in the program itself.
    #[error("internal error; every file is as it was")]
    Internal,
    /// SIGINT, SIGTERM or SIGHUP came.
    #[error("interrupted{}", if *is_undone { "; every file is as it was" } else { "" })]
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// Whether every file is as it was.
        is_undone: bool,
    },
    /// A key problem.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Another run is at work.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// The manifest is wrong.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// Two rows lead to one file on the server.
    #[error("its file on the server is also that of `{other}`, through a link")]
    SameTarget {
        /// The other entry.
        other: String,
    },
    /// The target lies where git keeps its data.
    #[error("the target {} lies in a git folder", path.display())]
    GitTarget {
        /// The target, links resolved.
        path: PathBuf,
    },
    /// The target is one of the program's own files.
    #[error("the target {} lies in the state directory", path.display())]
    StateTarget {
        /// The target, links resolved.
        path: PathBuf,
    },
    /// Something that must be a regular file is not.
    #[error("{}: it is {kind}, not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The root is there, but cannot be used.
    #[error("the root {} cannot be used: {reason}", root.display())]
    RootUnusable {
        /// The root.
        root: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// An answer is needed and nobody can be asked.
    #[error("{what} has to be decided, and there is no terminal to ask on")]
    NoTerminal {
        /// What.
        what: String,
    },
    /// No manifest found.
    #[error("no `secret-files.toml` in {} or above it", from.display())]
    NoManifest {
        /// Where the search began.
        from: PathBuf,
    },
    /// No root given.
    #[error("no root: the manifest names none")]
    NoRoot,
    /// The root does not exist.
    #[error("this is not the server: the root {} does not exist", root.display())]
    NotTheServer {
        /// The root.
        root: PathBuf,
    },
    /// No right to give a file to its owner.
    #[error("no right to give the file to {what}")]
    NoRightToGive {
        /// `user root`, `group debian`.
        what: String,
    },
    /// An option's value makes no sense.
    #[error("{0}")]
    Option(String),
    /// The file of a plain row is missing.
    #[error("the file does not exist in the repository")]
    PlainMissing,
    /// A plain row where only encrypted ones are handled.
    #[error("is a row of [plain]: there is nothing to encrypt or decrypt in it")]
    PlainRow,
    /// A guard refuses.
    #[error("{0}")]
    Refusal(#[from] Refusal),
    /// The rules file is wrong.
    #[error("{}: {source}", path.display())]
    Rules {
        /// The rules file.
        path: PathBuf,
        /// What is wrong with it.
        source: RulesError,
    },
    /// A key of a rule that is none.
    #[error("{}: creation rule {rule}: {reason}", path.display())]
    RuleKeyMalformed {
        /// The rules file.
        path: PathBuf,
        /// The rule's position.
        rule: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule with a key that SOPS does not know.
    #[error("{}: creation rule {rule} holds the unknown key `{key}`", path.display())]
    UnknownRuleKey {
        /// The rules file.
        path: PathBuf,
        /// The rule's position.
        rule: usize,
        /// The key.
        key: String,
    },
    /// A rule without recipients.
    #[error("{}: creation rule {rule} names no key, or has a group without one", path.display())]
    RuleWithoutKeys {
        /// The rules file.
        path: PathBuf,
        /// The rule's position.
        rule: usize,
    },
    /// A word that names no entry.
    #[error("{0}")]
    Selection(#[from] SelectionError),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used: {source}")]
    State {
        /// Why.
        source: FsError,
    },
    /// The state directory cannot be read, and it is needed.
    #[error("{reason}")]
    StateUnreadable {
        /// What cannot be told, and why.
        reason: String,
    },
    /// An account that does not exist here.
    #[error("the {kind} `{name}` does not exist here")]
    UnknownAccount {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The file on the server cannot be read.
    #[error("{}: cannot read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ErrorKind {
    /// Returns the stable word for the kind.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Document(error) => match error {
                DocumentError::MacMismatch => "mac-mismatch",
                DocumentError::Token { .. } | DocumentError::Value { .. } => "altered",
                DocumentError::NotEncrypted { .. } => "not-encrypted",
                DocumentError::NotSops | DocumentError::Empty => "not-sops",
                DocumentError::ConflictMarker { .. } => "conflict-marker",
                _ => "damaged",
            },
            Self::EncryptedMissing => "encrypted-missing",
            Self::PlainMissing => "plain-missing",
            Self::Fs(_) | Self::Unreadable { .. } => "io",
            Self::Git(_) => "git",
            Self::IdentityTarget { .. } => "identity-target",
            Self::Internal => "internal",
            Self::Interrupted { .. } => "interrupted",
            Self::Key(KeyError::NoIdentity { .. }) => "no-identity",
            Self::Key(_) => "key",
            Self::Lock(_) => "locked",
            Self::Manifest(_) | Self::NoManifest { .. } => "manifest",
            Self::NoTerminal { .. } => "no-terminal",
            Self::NoRightToGive { .. } | Self::UnknownAccount { .. } => "owner",
            Self::NoRoot | Self::NotTheServer { .. } | Self::RootUnusable { .. } => "root",
            Self::NotRegular { .. } => "not-regular",
            Self::GitTarget { .. } => "git-target",
            Self::StateTarget { .. } => "state-target",
            Self::SameTarget { .. } => "same-target",
            Self::Option(_) | Self::PlainRow | Self::Selection(_) => "usage",
            Self::Refusal(refusal) => match refusal {
                Refusal::AlreadyEncrypted => "source-encrypted",
                Refusal::Blank | Refusal::CommentsOnly | Refusal::Empty => "source-empty",
                Refusal::BreakGlassMissing { .. } => "break-glass-missing",
                Refusal::ConflictMarker { .. } => "conflict-marker",
                Refusal::NotARow { .. } => "not-a-row",
                Refusal::OnlyCopy { .. } => "only-copy",
                Refusal::AlreadyThere { .. } => "already-there",
                Refusal::ChangedSince { .. } => "changed-since",
                Refusal::RootChanged { .. } | Refusal::RootOfAnother { .. } => "root-changed",
                Refusal::NotUndone { .. } => "not-undone",
                Refusal::BothMoved { .. } => "both-moved",
                Refusal::DeletedInRepository => "deleted-in-repo",
                Refusal::BeingWritten { .. } => "being-written",
                Refusal::Placeholder { .. } => "placeholder",
                Refusal::RequiredMissing { .. } => "required-missing",
                Refusal::Shrunk { .. } => "shrunk",
                Refusal::Conflict { .. } | Refusal::Entangled { .. } => "conflict",
                Refusal::Pinned { .. } => "pinned",
                Refusal::RepositoryAhead { .. } => "repo-ahead",
                Refusal::Rollback { .. } => "rollback",
                Refusal::ServerAhead { .. } => "server-ahead",
                Refusal::UnknownDirection { .. } => "unknown-direction",
                Refusal::MultiLineValue { .. } => "multi-line-value",
                Refusal::NoRule { .. } | Refusal::NoRulesFile => "no-rule",
                Refusal::TwoRules { .. } => "two-rules",
                Refusal::NotOpenable => "not-openable",
                Refusal::NotRegular { .. } => "not-regular",
                Refusal::RecipientsDiffer { .. } => "recipients-differ",
                Refusal::SelectionDiffers { .. } => "selection-differs",
                Refusal::TermsUnknown { .. } => "terms-unknown",
                Refusal::SourceMissing { .. } => "source-missing",
                Refusal::TooLarge { .. } => "too-large",
                Refusal::TrackedTarget { .. } => "tracked-target",
                Refusal::OwnerSince { .. } => "owner-since",
                Refusal::UntrackedPlain { .. } => "untracked-plain",
                Refusal::PlaintextAsPlain { .. } => "plaintext-as-plain",
                Refusal::Unreadable { .. } => "source-unreadable",
                Refusal::NeedsNote { .. } => "needs-note",
                Refusal::NameInClear { .. } => "name-in-clear",
                Refusal::Unrepresentable { .. } => "unrepresentable",
            },
            Self::Rules { .. }
            | Self::RuleKeyMalformed { .. }
            | Self::RuleWithoutKeys { .. }
            | Self::UnknownRuleKey { .. } => "rules",
            Self::State { .. } | Self::StateUnreadable { .. } => "state",
        }
    }

    /// Returns how bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Refusal(_)
            | Self::EncryptedMissing
            | Self::PlainMissing
            | Self::IdentityTarget { .. }
            | Self::GitTarget { .. }
            | Self::StateTarget { .. }
            | Self::RuleKeyMalformed { .. }
            | Self::RuleWithoutKeys { .. }
            | Self::UnknownRuleKey { .. } => Severity::Refused,
            _ => Severity::Trouble,
        }
    }
}

/// A problem of a run or of one of its entries.
#[derive(Debug)]
pub struct Problem {
    /// The entry it happened to.
    pub entry: Option<String>,
    /// What went wrong.
    pub kind: Box<ErrorKind>,
    /// What to do about it: one sentence with a command.
    pub help: Option<String>,
}

impl Problem {
    /// Returns a problem of the whole run.
    pub fn new(kind: impl Into<ErrorKind>) -> Self {
        Self {
            entry: None,
            kind: Box::new(kind.into()),
            help: None,
        }
    }

    /// Returns a problem of an entry.
    pub fn of(entry: &str, kind: impl Into<ErrorKind>) -> Self {
        Self {
            entry: Some(entry.to_owned()),
            ..Self::new(kind)
        }
    }

    /// Adds what to do about it, where it is not that no more files can be opened.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(if has_too_many_files_open(&*self.kind) {
            "raise the limit of open files (`ulimit -n`), then run the command again".to_owned()
        } else {
            help.into()
        });
        self
    }
}

/// Returns whether an error is due to the limit of open files, of this process or of the system.
fn has_too_many_files_open(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let code = error.downcast_ref().and_then(std::io::Error::raw_os_error);
        matches!(code, Some(libc::EMFILE | libc::ENFILE))
    })
}

/// Why a command stopped before it could report: everything that was wrong.
#[derive(Debug, Default)]
pub struct Error {
    /// The problems, in order.
    pub problems: Vec<Problem>,
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl<K: Into<ErrorKind>> From<K> for Error {
    fn from(kind: K) -> Self {
        Problem::new(kind).into()
    }
}
