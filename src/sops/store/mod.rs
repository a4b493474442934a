//! One file per file format.
//!
//! A store finds the leaves of a text and says how a token or a value is spelled where a leaf
//! stands and where the metadata goes. It never encrypts, and it never re-emits what it can leave
//! alone.

pub mod age;
mod binary;
mod dotenv;
mod flatten;
mod ini;
mod json;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::secret::SecretBytes;

use super::document::{Document, Extent, Note, SealedDocument, Style};
use super::error::DocumentError;
use super::metadata::{Metadata, Node};
use super::tree::{self, Tree};
use super::value::Value;

/// A stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A raw age file, as the `age` program writes it.
    Age,
    /// Any bytes as one value, in the JSON envelope `{"data": …, "sops": …}`.
    Binary,
    /// `KEY=value` lines.
    Dotenv,
    /// Sections of `key = value` lines.
    Ini,
    /// One JSON object.
    Json,
    /// YAML documents, the first of them a mapping.
    Yaml,
}

impl Format {
    /// All stored forms.
    pub const ALL: [Self; 6] = [
        Self::Age,
        Self::Binary,
        Self::Dotenv,
        Self::Ini,
        Self::Json,
        Self::Yaml,
    ];

    /// Returns the name that the manifest and `sops --input-type` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Binary => "binary",
            Self::Dotenv => "dotenv",
            Self::Ini => "ini",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }

    /// Returns the store for this form.
    pub fn store(self) -> &'static dyn Store {
        match self {
            Self::Age => &age::AgeStore,
            Self::Binary => &binary::BinaryStore,
            Self::Dotenv => &dotenv::DotenvStore,
            Self::Ini => &ini::IniStore,
            Self::Json => &json::JsonStore,
            Self::Yaml => &yaml::YamlStore,
        }
    }

    /// Reads an encrypted file and finds its stored form from its content.
    ///
    /// # Errors
    /// `Empty`, `ConflictMarker`, `NotSops` for plain text, `Json` for a truncated envelope; what
    /// the form's parser finds wrong.
    pub fn parse_sealed(source: Vec<u8>) -> Result<(Self, SealedDocument), DocumentError> {
        let format = Self::of_sealed(&source)?;
        Ok((format, format.store().parse_sealed(source)?))
    }

    /// Finds the stored form of an encrypted file from its content.
    ///
    /// # Errors
    /// `Empty`, `ConflictMarker`, `NotSops`.
    pub fn of_sealed(source: &[u8]) -> Result<Self, DocumentError> {
        let text = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
        let Some(first) = text.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return Err(DocumentError::Empty);
        };
        if age::is_age(text) {
            return Ok(Self::Age);
        }
        let has_flat = has_flat_metadata(source);
        // An environment file may begin with a brace too.
        if *first == b'{' && !has_flat && !has_ini_metadata(text) {
            // JSON is YAML too: our own YAML writes the metadata in one line.
            let is_yaml = memchr::memmem::find(text, yaml::FLOW_METADATA).is_some();
            return Ok(match json::is_envelope(text) {
                _ if is_yaml => Self::Yaml,
                Some(false) => Self::Json,
                None if json::has_metadata(text) => Self::Json,
                Some(true) | None => Self::Binary,
            });
        }
        if let Some(line) = conflict_marker(source) {
            return Err(DocumentError::ConflictMarker { line });
        }
        if has_ini_metadata(text) {
            Ok(Self::Ini)
        } else if has_flat {
            Ok(Self::Dotenv)
        } else if has_yaml_metadata(text)
            || memchr::memmem::find(text, yaml::FLOW_METADATA).is_some()
        {
            Ok(Self::Yaml)
        } else {
            Err(DocumentError::NotSops)
        }
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

/// Returns whether a line that holds the word `sops` passes `test`.
fn has_line(source: &[u8], test: impl Fn(&[u8]) -> bool) -> bool {
    memchr::memmem::find_iter(source, b"sops").any(|at| {
        let start = memchr::memrchr(b'\n', &source[..at]).map_or(0, |line| line + 1);
        let end = memchr::memchr(b'\n', &source[at..]).map_or(source.len(), |length| at + length);
        test(&source[start..end])
    })
}

/// Returns whether a line `[sops]` has the field `version` below it.
fn has_ini_metadata(source: &[u8]) -> bool {
    let mut is_below = false;
    source.split(|&byte| byte == b'\n').any(|line| {
        let line = line.trim_ascii();
        is_below |= line == b"[sops]";
        let rest = line.strip_prefix(b"version").map(<[u8]>::trim_ascii);
        is_below && rest.is_some_and(|rest| rest.starts_with(b"=") || rest.starts_with(b":"))
    })
}

/// Returns whether a line begins with the YAML key `sops`, quoted or not, that has a block below it.
fn has_yaml_metadata(source: &[u8]) -> bool {
    has_line(source, |line| {
        let line = line.trim_ascii();
        [&b"sops:"[..], b"\"sops\":", b"'sops':"]
            .iter()
            .any(|key| line.strip_prefix(*key).is_some_and(<[u8]>::is_empty))
    })
}

/// The texts of the leaves of a document about to be encrypted.
pub trait LeafText {
    /// Returns whether a leaf becomes a token, around which a format may need quotes.
    fn is_token(&self, index: usize) -> bool;

    /// Appends the text of a leaf: its token, or its spelling in the source. Called once for each
    /// leaf.
    fn write(&mut self, index: usize, out: &mut Vec<u8>);

    /// Appends the note of a leaf that is a token: the encrypted `text`.
    fn write_note(&mut self, index: usize, text: &[u8], out: &mut Vec<u8>);
}

/// What a note says once it is opened.
#[derive(Debug)]
pub enum OpenNote {
    /// `~` alone.
    Mark,
    /// The source text of the leaf.
    Source(SecretBytes),
    /// `~` and a word.
    Word(Box<str>),
}

/// The opened leaves of a sealed document.
#[derive(Debug, Default)]
pub struct OpenedLeaves {
    /// The values of the tokens, one place a leaf; `None` for what stands in clear.
    pub values: Vec<Option<Value<'static>>>,
    /// The notes, by leaf.
    pub notes: BTreeMap<usize, OpenNote>,
}

/// How the reference program indents what it writes: `stores` in `.sops.yaml`, or `--indent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indents {
    /// Columns of a level of YAML; go-yaml takes 2 to 9, anything else as 2.
    pub yaml: usize,
    /// Blanks of a level of JSON; `None` is a tab.
    pub json: Option<usize>,
}

impl Default for Indents {
    fn default() -> Self {
        Self {
            yaml: 4,
            json: None,
        }
    }
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

    /// Returns the plain text of a sealed document from its opened leaves; what has no value stands
    /// in clear and stays as it is. A form whose one value is the whole text takes it out of
    /// `opened`.
    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes;

    /// Returns whether the selection options of a rule are written into files of this form.
    fn has_selection(&self) -> bool {
        true
    }

    /// Returns whether values keep their type when they are read back from a plain text: in forms
    /// that know strings only, a token of any type stands for its text.
    fn is_typed(&self) -> bool {
        false
    }

    /// Returns how a text is spelled where a value stands in a plain document: as a number or truth value
    /// where it reads as one and `like` is one, else as a string.
    fn spell(&self, text: &str, _like: &Value<'_>) -> SecretBytes {
        SecretBytes::copy_of(text.as_bytes())
    }

    /// Returns whether stock `sops` spells files of this form anew when it writes them.
    fn is_respelled(&self) -> bool {
        false
    }

    /// Returns whether nothing tells at a glance that a text is not laid out as stock `sops` does it; the
    /// encrypted text and its source agree in that.
    fn may_be_of_stock(&self, _source: &[u8]) -> bool {
        self.is_respelled()
    }

    /// Returns the text of the tree as the reference program writes it, metadata included where
    /// there is any.
    ///
    /// # Errors
    /// `Inexpressible` for what the format has no words for.
    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&Node>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError>;

    /// Returns the text of one value as the reference program prints it.
    ///
    /// # Errors
    /// `Inexpressible` for what the format has no words for.
    fn emit_value(
        &self,
        value: &tree::Node<'_>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError>;
}

/// Returns `document` with the texts of `leaves` in place, and the metadata that `block` appends at
/// the document's seat.
fn splice_leaves(
    document: &Document<'_>,
    leaves: &mut dyn LeafText,
    block: impl FnOnce(&mut dyn LeafText, &mut Vec<u8>),
) -> Vec<u8> {
    enum Edit {
        Leaf(usize),
        Nothing,
        Seat,
    }
    let mut edits: Vec<(Range<usize>, Edit)> = Vec::with_capacity(document.leaves.len() + 1);
    let mut index = 0;
    while let Some(leaf) = document.leaves.get(index) {
        match &leaf.spelling.extent {
            Extent::Expanded(alias) => {
                let group = index..=index + alias.following;
                let is_secret = group.clone().any(|one| {
                    let original = match &document.leaves[one].spelling.extent {
                        Extent::Expanded(copy) => copy.original,
                        _ => one,
                    };
                    leaves.is_token(one) || leaves.is_token(original)
                });
                if is_secret {
                    edits.extend(group.clone().map(|one| {
                        let span = document.leaves[one].span.clone();
                        (span, Edit::Leaf(one))
                    }));
                }
                index = *group.end();
            }
            extent if leaves.is_token(index) => {
                edits.push((leaf.span.clone(), Edit::Leaf(index)));
                if let Extent::Joined(others) = extent {
                    edits.extend(others.iter().map(|span| (span.clone(), Edit::Nothing)));
                }
            }
            _ => {}
        }
        index += 1;
    }
    edits.push((document.seat.at..document.seat.at, Edit::Seat));
    edits.sort_by_key(|(span, edit)| (span.start, matches!(edit, Edit::Seat)));
    let mut out = Vec::with_capacity(document.source.len() + edits.len() * 128 + 4096);
    let (mut at, mut seat) = (0, 0);
    for (span, edit) in &edits {
        out.extend_from_slice(&document.source[at..span.start]);
        at = span.end;
        match edit {
            Edit::Leaf(index) => write_leaf(document, *index, leaves, &mut out),
            Edit::Nothing => {}
            Edit::Seat => seat = out.len(),
        }
    }
    out.extend_from_slice(&document.source[at..]);
    let mut metadata = Vec::new();
    block(leaves, &mut metadata);
    out.splice(seat..seat, metadata);
    out
}

/// Appends a leaf that is a token, or one of an alias that is written out, as it is spelled.
fn write_leaf(document: &Document<'_>, index: usize, leaves: &mut dyn LeafText, out: &mut Vec<u8>) {
    let leaf = &document.leaves[index];
    let spelling = &leaf.spelling;
    let expanded = match &spelling.extent {
        Extent::Expanded(expanded) => Some(expanded),
        _ => None,
    };
    if let Some(expanded) = expanded {
        out.extend_from_slice(&expanded.before);
        if !leaves.is_token(index) {
            out.extend_from_slice(expanded.clear.expose());
            out.extend_from_slice(&expanded.after);
            return;
        }
    }
    out.extend_from_slice(spelling.open.as_bytes());
    leaves.write(index, out);
    match &spelling.note {
        Note::None => {}
        Note::Mark => out.push(b'~'),
        Note::Word { word, .. } => {
            out.push(b'~');
            out.extend_from_slice(word.as_bytes());
        }
        Note::Source { text, .. } => {
            leaves.write_note(index, &document.source[text.clone()], out);
        }
    }
    out.extend_from_slice(spelling.close.as_bytes());
    if let Some(expanded) = expanded {
        out.extend_from_slice(&expanded.after);
    }
}

/// Returns the text of `sealed` with `replace` called for each leaf that has a value, metadata cut
/// out and aliases put back.
fn splice_values(
    sealed: &SealedDocument,
    opened: &OpenedLeaves,
    replace: &mut dyn FnMut(usize, &Value<'_>, &mut Vec<u8>),
) -> SecretBytes {
    enum Edit<'d> {
        Text(&'d [u8]),
        Value(usize, &'d Value<'static>),
    }
    let mut edits: Vec<(Range<usize>, Edit<'_>)> = Vec::with_capacity(opened.values.len() + 1);
    let mut longest = sealed.source.len();
    for (index, (leaf, value)) in sealed.leaves.iter().zip(&opened.values).enumerate() {
        if let Some(value) = value
            && leaf.style != Style::Covered
        {
            longest += value.plaintext().expose().len() * 2;
            edits.push((leaf.span.clone(), Edit::Value(index, value)));
        }
    }
    // The lines of a comment stand for themselves behind their marks; that of a header has none.
    for (index, places) in &sealed.places {
        let Some(Some(value)) = opened.values.get(*index) else {
            continue;
        };
        let Value::Comment(text) = value else {
            continue;
        };
        let text = text.expose();
        if let Some(OpenNote::Word(word)) = opened.notes.get(index) {
            if let Some((at, blanks)) = ini::header_place(sealed, *index, word) {
                edits.push((at..at, Edit::Text(blanks.as_bytes())));
                edits.push((at..at, Edit::Text(text)));
            }
            continue;
        }
        let lines = text.split(|&byte| byte == b'\n').skip(1);
        edits.extend(places.iter().zip(lines).map(|(place, line)| {
            let line = ini::trim_end(line);
            (place.clone(), Edit::Text(line.get(1..).unwrap_or_default()))
        }));
    }
    let cuts = sealed.metadata_spans.iter();
    edits.extend(cuts.map(|span| (span.clone(), Edit::Text(b""))));
    let aliases = sealed.aliases.iter();
    edits.extend(aliases.map(|(span, name)| (span.clone(), Edit::Text(name))));
    edits.sort_by_key(|(span, _)| (span.start, span.end));
    // Reserved once, since growing would leave unwiped copies.
    let mut plain = SecretBytes::new(Vec::with_capacity(longest + 64));
    let out = plain.expose_mut();
    let mut at = 0;
    for (span, edit) in edits {
        // What an earlier one has cut is gone with all in it.
        if span.start < at {
            at = at.max(span.end);
            continue;
        }
        out.extend_from_slice(&sealed.source[at..span.start]);
        match edit {
            Edit::Text(text) => out.extend_from_slice(text),
            Edit::Value(index, value) => replace(index, value, out),
        }
        at = at.max(span.end);
    }
    out.extend_from_slice(&sealed.source[at..]);
    plain
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
