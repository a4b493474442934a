//! One file per file format.
//!
//! A store finds the leaves of a text and says how a token or a value is spelled where a leaf
//! stands and where the metadata goes. It never encrypts, and it never re-emits what it can leave
//! alone.

mod binary;
mod dotenv;
mod flatten;

use crate::secret::{SecretBytes, SecretText};

use super::document::{Document, SealedDocument, SealedLeaf};
use super::error::DocumentError;
use super::metadata::Metadata;
use super::value::Value;

/// A stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any bytes as one value, in the JSON envelope `{"data": …, "sops": …}`.
    Binary,
    /// `KEY=value` lines.
    Dotenv,
}

impl Format {
    /// Returns the name that the manifest and `sops --input-type` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Dotenv => "dotenv",
        }
    }

    /// Returns the store for this form.
    pub fn store(self) -> &'static dyn Store {
        match self {
            Self::Binary => &binary::BinaryStore,
            Self::Dotenv => &dotenv::DotenvStore,
        }
    }

    /// Reads an encrypted file and finds its stored form from its content.
    ///
    /// # Errors
    /// `Empty`, `ConflictMarker`, `NotSops` for plain text, `Json` for a truncated envelope,
    /// `UnsupportedForm` for YAML, INI and JSON trees; what the form's parser finds wrong.
    pub fn parse_sealed(source: Vec<u8>) -> Result<(Self, SealedDocument), DocumentError> {
        let Some(first) = source.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return Err(DocumentError::Empty);
        };
        // An environment file may begin with a brace too.
        if *first == b'{' && !has_flat_metadata(&source) {
            return Ok((Self::Binary, Self::Binary.store().parse_sealed(source)?));
        }
        if let Some(line) = conflict_marker(&source) {
            return Err(DocumentError::ConflictMarker { line });
        }
        if has_flat_metadata(&source) {
            return Ok((Self::Dotenv, Self::Dotenv.store().parse_sealed(source)?));
        }
        Err(match other_form(&source) {
            Some(form) => DocumentError::UnsupportedForm { form },
            None => DocumentError::NotSops,
        })
    }
}

/// Returns whether a line is flattened metadata of the dotenv form.
fn has_flat_metadata(source: &[u8]) -> bool {
    memchr::memmem::find_iter(source, b"sops_").any(|at| {
        let starts_line = at == 0 || source[at - 1] == b'\n';
        starts_line
            && memchr::memchr2(b'=', b'\n', &source[at..])
                .is_some_and(|end| source[at + end] == b'=')
    })
}

/// Recognises the forms that are not read yet by where their metadata stands.
fn other_form(source: &[u8]) -> Option<&'static str> {
    let is_yaml = |line: &[u8]| line.starts_with(b"sops:") || line.starts_with(b"\"sops\":");
    let mut lines = source.split(|&byte| byte == b'\n');
    lines.find_map(|line| match line {
        _ if is_yaml(line) => Some("YAML"),
        _ if line.trim_ascii_end() == b"[sops]" => Some("INI"),
        _ => None,
    })
}

/// The texts of the leaves of a document about to be encrypted.
pub trait LeafText {
    /// Returns whether a leaf becomes a token, around which a format may need quotes.
    fn is_token(&self, index: usize) -> bool;

    /// Appends the text of a leaf: its token, or its spelling in the source. Called once for each
    /// leaf, in document order.
    fn write(&mut self, index: usize, out: &mut Vec<u8>);
}

/// A file format.
pub trait Store: Sync {
    /// Finds the leaves of a plain text.
    ///
    /// # Errors
    /// `Line` or `ReservedKey` for what the format cannot carry without loss.
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError>;

    /// Finds leaves and metadata of an encrypted text.
    ///
    /// # Errors
    /// `NotSops`, `Metadata`, `Line` or `Json` when it is damaged.
    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError>;

    /// Returns the encrypted text: the document with the token or clear text that `leaves`
    /// appends for each leaf, and the metadata that `metadata` returns once all leaves are written.
    /// Where the file replaces a `previous` one, what surrounds the leaves stays as it was there.
    fn emit_sealed(
        &self,
        document: &Document<'_>,
        previous: Option<&SealedDocument>,
        leaves: &mut dyn LeafText,
        metadata: &mut dyn FnMut() -> Metadata,
    ) -> Vec<u8>;

    /// Returns the plain text of a sealed document from the values of its tokens; what has none
    /// stands in clear and stays as it is. A form whose one value is the whole text takes it out of
    /// `values`.
    fn emit_plain(
        &self,
        sealed: &SealedDocument,
        values: &mut Vec<Option<Value<'static>>>,
    ) -> SecretBytes;

    /// Returns the value of a leaf that stands in clear in a sealed document.
    fn clear_value<'a>(&self, leaf: &SealedLeaf, text: &'a [u8]) -> Value<'a>;

    /// Returns whether an encrypted comment may stand in the place of a value, as in the lists of
    /// formats that have them.
    fn has_comment_items(&self) -> bool {
        false
    }

    /// Returns whether the selection options of a rule are written into files of this form.
    fn has_selection(&self) -> bool;

    /// Returns the text that a value has in a plain document of this form, as a leaf of such a
    /// document would hold it.
    fn value_text<'v>(&self, value: &'v Value<'_>) -> SecretText<'v>;
}

/// Returns the line number of the first merge conflict marker: `<<<<<<<`, `|||||||`, `=======` or
/// `>>>>>>>` at the start of a line, followed by a blank or nothing.
pub fn conflict_marker(text: &[u8]) -> Option<usize> {
    const MARKERS: [&[u8]; 4] = [b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>"];
    let is_marker = |line: &[u8]| {
        MARKERS.iter().any(|marker| {
            line.strip_prefix(*marker)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b' ' | b'\r' | b'\n')))
        })
    };
    let line_starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1));
    line_starts
        .enumerate()
        .find(|(_, at)| is_marker(&text[*at..]))
        .map(|(index, _)| index + 1)
}
