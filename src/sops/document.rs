//! Documents: a source text together with its leaves.
//!
//! A document never re-emits what it does not understand. It keeps the source as it is and knows
//! for every leaf where it stands; encrypting and decrypting replace leaf texts in place
//! (`store/mod.rs`). Plain and sealed documents are different types, so that nothing encrypted twice
//! or written in clear type-checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use crate::secret::{SecretBytes, SecretText};

use super::metadata::Metadata;
use super::value::Value;

/// The mapping keys from the root to a leaf; list positions are not part of it. A comment has the
/// path of its container. Paths share their beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyPath(Option<Arc<PathStep>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct PathStep {
    parent: KeyPath,
    key: Box<[u8]>,
    /// The associated data of this path.
    joined: Box<[u8]>,
}

impl KeyPath {
    /// Returns the empty path, that of the root container.
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns this path with one more key.
    #[must_use]
    pub fn child(&self, key: &[u8]) -> Self {
        let before = self.0.as_ref().map_or(&b""[..], |step| &step.joined);
        let mut joined = Vec::with_capacity(before.len() + key.len() + 1);
        joined.extend_from_slice(before);
        joined.extend_from_slice(key);
        joined.push(b':');
        Self(Some(Arc::new(PathStep {
            parent: self.clone(),
            key: key.into(),
            joined: joined.into(),
        })))
    }

    /// Returns the path without its last key.
    pub fn parent(&self) -> Option<&Self> {
        self.0.as_ref().map(|step| &step.parent)
    }

    /// Returns the last key.
    pub fn last(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|step| &*step.key)
    }

    /// Iterates over the keys, innermost first.
    pub fn keys_upward(&self) -> impl Iterator<Item = &[u8]> {
        let steps = std::iter::successors(self.0.as_ref(), |step| step.parent.0.as_ref());
        steps.map(|step| &*step.key)
    }

    /// Returns the associated data of a value at this path: the keys joined with `:` and one `:`
    /// behind them; `:` for the root container.
    pub fn associated_data(&self) -> &[u8] {
        self.0.as_ref().map_or(b":", |step| &step.joined)
    }

    /// Returns the path in words, keys joined with `.`; bytes that are not UTF-8 are replaced.
    pub fn display(&self) -> String {
        let mut keys: Vec<_> = self.keys_upward().map(String::from_utf8_lossy).collect();
        keys.reverse();
        keys.join(".")
    }
}

/// How a leaf or a container is reached from the container around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An inline comment: it stands on the line of the item behind it in document order.
    Aside,
    /// The root of the document with that number, from 0; YAML alone has more than one.
    Document(usize),
    /// The item with that number, from 0, of a list; comments are not counted.
    Item(usize),
    /// The value under the last key of the path.
    Key,
    /// A comment on lines of its own.
    Remark,
    /// A value that a later one of the same key replaces: encrypted like any other, but no part of the
    /// tree.
    Shadowed,
}

/// The two kinds of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Values in order.
    List,
    /// Values under keys, in order.
    Map,
}

/// A container of a document; the table of them is indexed by frame number.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The container around this one, `None` for a root.
    pub parent: Option<u32>,
    /// How it is reached from there.
    pub step: Step,
    /// What it is.
    pub kind: Container,
    /// The path of the comments in it.
    pub path: KeyPath,
}

impl Frame {
    /// The frame number of the first root container.
    pub const ROOT: u32 = 0;

    /// Returns the root mapping of the document with that number.
    pub fn root(document: usize) -> Self {
        Self {
            parent: None,
            step: Step::Document(document),
            kind: Container::Map,
            path: KeyPath::root(),
        }
    }
}

/// What stands behind the `]` of a token, where stock does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nothing: the value and the visible quotes say how the source spelled it.
    None,
    /// `~`: the source was plain, spelled as the value; the quotes around the token are ours.
    Mark,
    /// `~` and a word that says what the token stands for, such as `~r`.
    Word {
        /// The word.
        word: Box<str>,
        /// What the token stands for, in words.
        construct: &'static str,
    },
    /// `~` and the encrypted source text, which the value does not determine.
    Source {
        /// Where the text stands in the source.
        text: Range<usize>,
        /// What it is, in words.
        construct: &'static str,
    },
}

/// Where and how the token of a leaf is written.
#[derive(Clone, Debug)]
pub struct Spelling {
    /// What stands before the token.
    pub open: &'static str,
    /// What stands behind the token and its note.
    pub close: &'static str,
    /// What follows the token.
    pub note: Note,
    /// What else the token takes the place of.
    pub extent: Extent,
}

/// What a token stands for beyond its span.
#[derive(Clone, Debug)]
pub enum Extent {
    /// Nothing.
    Span,
    /// Further spans that are emptied, as their text is part of the value.
    Joined(Box<[Range<usize>]>),
    /// An alias to a single value: the leaf it names; `usize::MAX` for a key.
    Alias {
        /// The leaf.
        original: usize,
    },
    /// A leaf of a collection that an alias names, written out in place of the alias.
    Expanded(Box<Expanded>),
}

/// A leaf of an alias that is written out. The first leaf of an alias has its span, the others are
/// empty and stand behind it.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// The number of leaves of this alias that follow.
    pub following: usize,
    /// The leaf of the anchored collection that this one copies.
    pub original: usize,
    /// What stands before the value: tag, brackets, keys.
    pub before: Vec<u8>,
    /// What stands behind it: closing brackets.
    pub after: Vec<u8>,
    /// The value's text where it stays in clear.
    pub clear: SecretBytes,
}

impl Spelling {
    /// The token alone, in place of the span.
    pub const BARE: Self = Self::quoted("", "");

    /// A token between `open` and `close`.
    pub const fn quoted(open: &'static str, close: &'static str) -> Self {
        Self {
            open,
            close,
            note: Note::None,
            extent: Extent::Span,
        }
    }
}

/// A leaf of a plain document.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// Where it stands in the tree.
    pub path: KeyPath,
    /// The container it is an item of.
    pub frame: u32,
    /// How it is reached from there.
    pub step: Step,
    /// Its typed value.
    pub value: Value<'a>,
    /// The bytes of the source that a token replaces.
    pub span: Range<usize>,
    /// How the token is written.
    pub spelling: Spelling,
}

/// A plain document: source and leaves in document order.
#[derive(Debug)]
pub struct Document<'a> {
    /// The source text.
    pub source: &'a [u8],
    /// All leaves, comments included, in document order.
    pub leaves: Vec<Leaf<'a>>,
    /// The container table.
    pub frames: Vec<Frame>,
    /// Where the metadata goes, and how.
    pub seat: Seat,
}

impl Document<'_> {
    /// Returns the leaf's place in words, as [`SealedDocument::place`].
    pub fn place(&self, leaf: &Leaf<'_>) -> String {
        place(&self.frames, &leaf.path, leaf.frame, leaf.step)
    }
}

/// Where the metadata of an encrypted file stands in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The offset in the source at which it is inserted.
    pub at: usize,
    /// The form of the insertion, as the store knows it.
    pub form: SeatForm,
}

/// How metadata is inserted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeatForm {
    /// As lines of their own, indented by so many blanks.
    #[default]
    Lines,
    /// As lines indented by so many blanks.
    Indented(usize),
    /// As the next member of a mapping in braces.
    Member,
    /// As the only member of a mapping in braces.
    OnlyMember,
}

/// How a leaf of a sealed document is spelled around its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The token alone.
    Bare,
    /// The token alone, where a plain value may not hold brackets or commas.
    BareInFlow,
    /// Between backticks.
    Backtick,
    /// Part of something that is replaced or kept as a whole.
    Covered,
    /// Between double quotes.
    Double,
    /// As a folded block.
    Folded,
    /// As a literal block.
    Literal,
    /// Between single quotes.
    Single,
    /// Between three double quotes.
    Triple,
}

/// A leaf of a sealed document: a token or a value left in clear.
#[derive(Debug)]
pub struct SealedLeaf {
    /// Where it stands in the tree.
    pub path: KeyPath,
    /// The container it is an item of.
    pub frame: u32,
    /// How it is reached from there.
    pub step: Step,
    /// Whether it stands where a comment stands.
    pub is_comment: bool,
    /// The bytes of the source that the opened text replaces.
    pub span: Range<usize>,
    /// Where the token stands, within the span: what its quotes hold.
    pub text: Range<usize>,
    /// The text in the span where the source spells it with escapes.
    pub unescaped: Option<Vec<u8>>,
    /// What the text says where that is not the text itself.
    pub clear: Option<Value<'static>>,
    /// How it is spelled.
    pub style: Style,
}

/// A sealed document: source, leaves in document order, and the metadata that was in it.
#[derive(Debug)]
pub struct SealedDocument {
    /// The encrypted file's text.
    pub source: Vec<u8>,
    /// All leaves, comments included, in document order.
    pub leaves: Vec<SealedLeaf>,
    /// The container table.
    pub frames: Vec<Frame>,
    /// The parts of the source that are metadata, ascending.
    pub metadata_spans: Vec<Range<usize>>,
    /// Further places of a leaf that stands for several: the lines of a comment behind its first.
    pub places: BTreeMap<usize, Vec<Range<usize>>>,
    /// Written-out aliases: the part of the source and the alias it stands for.
    pub aliases: Vec<(Range<usize>, Vec<u8>)>,
    /// The `sops` block.
    pub metadata: Metadata,
}

impl SealedDocument {
    /// Returns the text of a leaf as it stands in the source.
    pub fn text<'d>(&'d self, leaf: &'d SealedLeaf) -> &'d [u8] {
        leaf.unescaped
            .as_deref()
            .unwrap_or(&self.source[leaf.text.clone()])
    }

    /// Returns what a leaf says as it stands, a token being its own text.
    pub fn clear_value<'d>(&'d self, leaf: &'d SealedLeaf) -> Value<'d> {
        match &leaf.clear {
            Some(value) => value.borrowed(),
            None if leaf.is_comment => Value::Comment(SecretText::Borrowed(self.text(leaf))),
            None => Value::Str(SecretText::Borrowed(self.text(leaf))),
        }
    }

    /// Returns the leaf's place in words, as users write it: keys joined with `.`, list items as
    /// `[0]`, later documents as `#1.`.
    pub fn place(&self, leaf: &SealedLeaf) -> String {
        place(&self.frames, &leaf.path, leaf.frame, leaf.step)
    }
}

impl SealedDocument {
    /// Leaves out what stands behind the tokens.
    pub fn forget_notes(&mut self) {
        for leaf in &mut self.leaves {
            let text = leaf
                .unescaped
                .as_deref()
                .unwrap_or(&self.source[leaf.text.clone()]);
            if super::cipher::Token::parse(text).is_err() {
                continue;
            }
            let (length, _) = super::cipher::NoteText::after(text);
            if matches!(leaf.clear, Some(Value::Comment(_))) {
                leaf.clear = None;
            }
            match &mut leaf.unescaped {
                Some(text) => text.truncate(length),
                None => leaf.text.end = leaf.text.start + length,
            }
        }
    }

    /// Frees the text of the only leaf of a document, keeping what surrounds it: its layout is all
    /// that is needed of a large file about to be replaced.
    pub fn forget_leaf_text(&mut self) {
        let [leaf] = &mut self.leaves[..] else { return };
        let after = self.source.split_off(leaf.span.end);
        self.source.truncate(leaf.span.start);
        self.source.extend_from_slice(&after);
        self.source.shrink_to_fit();
        leaf.span = leaf.span.start..leaf.span.start;
        leaf.text = leaf.span.clone();
    }
}

/// Returns a leaf's place in words: see [`SealedDocument::place`].
pub fn place(frames: &[Frame], path: &KeyPath, frame: u32, step: Step) -> String {
    let mut steps = vec![(step, path)];
    let mut next = Some(frame);
    while let Some(frame) = next.and_then(|id| frames.get(id as usize)) {
        steps.push((frame.step, &frame.path));
        next = frame.parent;
    }
    let mut out = String::new();
    for (step, path) in steps.into_iter().rev() {
        match step {
            Step::Key | Step::Shadowed => {
                if !out.is_empty() && !out.ends_with('.') {
                    out.push('.');
                }
                push_key(path.last().unwrap_or_default(), &mut out);
            }
            Step::Item(number) => {
                let _ = write!(out, "[{number}]");
            }
            Step::Document(0) | Step::Aside | Step::Remark => {}
            Step::Document(number) => {
                let _ = write!(out, "#{number}.");
            }
        }
    }
    out
}

/// Appends a key as it is typed in a path: as it is, or in double quotes with `"`, `\` and control
/// characters escaped as in JSON where it is empty or holds a character that means something else in a
/// path (`.` `[` `]` `"` `#` `*` `?`, blanks).
fn push_key(key: &[u8], out: &mut String) {
    let key = String::from_utf8_lossy(key);
    let is_odd = |character: char| {
        matches!(character, '.' | '[' | ']' | '"' | '\\' | '#' | '*' | '?')
            || character.is_whitespace()
            || character.is_control()
    };
    if key.is_empty() || key.contains(is_odd) {
        out.push_str(&serde_json::to_string(&key).unwrap_or_default());
    } else {
        out.push_str(&key);
    }
}
