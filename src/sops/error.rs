//! What can be wrong with a document, plain or sealed.
//!
//! Messages name line, construct and key path, never a value and never a line of the file.

use super::cipher::TokenError;
use super::metadata::MetadataError;
use super::value::ValueError;

/// An error of the format layer. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The text holds the markers of a merge that was not resolved.
    #[error("line {line}: merge conflict marker")]
    ConflictMarker {
        /// Line of the first marker.
        line: usize,
    },
    /// The encrypted file is empty.
    #[error("the file is empty")]
    Empty,
    /// The JSON around a binary file cannot be read.
    #[error("line {line}, column {column}: not valid JSON; the file is truncated or damaged")]
    Json {
        /// Line of the error.
        line: usize,
        /// Column of the error.
        column: usize,
    },
    /// A value that a format has no words for, met in a conversion.
    #[error("{what} cannot be expressed in {format}")]
    Inexpressible {
        /// What it is, in words.
        what: &'static str,
        /// The format's name.
        format: &'static str,
    },
    /// A line that stock SOPS refuses, or would read as something else.
    #[error(
        "line {line}: {construct} cannot be kept in {} {format} SOPS file",
        if *.format == "INI" { "an" } else { "a" }
    )]
    Line {
        /// The line.
        line: usize,
        /// What stands there, in words.
        construct: &'static str,
        /// The format's name.
        format: &'static str,
    },
    /// A spelling that travels in a note only.
    #[error(
        "line {line}: {construct}, which a value in a SOPS file does not tell{}",
        if *.others == 0 { String::new() } else { format!(" (and {} more)", .others) }
    )]
    NeedsNote {
        /// The line of the first.
        line: usize,
        /// What stands there, in words.
        construct: &'static str,
        /// How many more there are.
        others: usize,
    },
    /// The MAC does not cover what is in the file.
    #[error(
        "MAC mismatch: values were added, removed, reordered or replaced since the file was encrypted"
    )]
    MacMismatch,
    /// The `sops` block is missing or broken.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A value that the rules say is encrypted stands in clear.
    #[error("`{key}` is not encrypted, but the file's rules say that it is")]
    NotEncrypted {
        /// Key path of the leaf.
        key: String,
    },
    /// The text is not a SOPS file.
    #[error("not a SOPS file: there is no `sops` metadata in it")]
    NotSops,
    /// A key name that SOPS reserves for itself.
    #[error("line {line}: the key name {name}, which SOPS reserves")]
    ReservedKey {
        /// The line.
        line: usize,
        /// What the name is, in words.
        name: &'static str,
    },
    /// A comment rule would leave a file that cannot be opened again.
    #[error("`unencrypted_comment_regex` matches an encrypted comment by chance")]
    SelfMatching,
    /// A token cannot be opened.
    #[error("`{key}`: {source}")]
    Token {
        /// Key path of the leaf, or `mac`.
        key: String,
        /// What is wrong with it.
        source: TokenError,
    },
    /// The text is not of its format.
    #[error("line {line}, column {column}: not valid {format}: {problem}")]
    Syntax {
        /// The line.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The format's name.
        format: &'static str,
        /// What is wrong, in words.
        problem: &'static str,
    },
    /// A token's plaintext is not of its type.
    #[error("`{key}`: {source}")]
    Value {
        /// Key path of the leaf.
        key: String,
        /// What is wrong with it.
        source: ValueError,
    },
    /// The plaintext that was written does not come back as it was.
    #[error("what was encrypted does not decrypt to the source")]
    NotReproduced,
}
