//! Documents: a source text together with its leaves.
//!
//! A document never re-emits what it does not understand. It keeps the source as it is and knows
//! for every leaf where it stands; encrypting and decrypting replace leaf texts in place
//! ([`splice`]). Plain and sealed documents are different types, so that nothing encrypted twice
//! or written in clear type-checks.

use std::ops::Range;

use super::metadata::Metadata;
use super::value::Value;

/// The mapping keys from the root to a leaf; list positions are not part of it. A comment has the
/// path of its container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyPath(Vec<Box<[u8]>>);

impl KeyPath {
    /// Returns the empty path, that of the root container.
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns this path with one more key.
    #[must_use]
    pub fn child(&self, key: &[u8]) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.into());
        Self(keys)
    }

    /// Iterates over the keys from the root.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Returns the associated data of a value at this path: the keys joined with `:` and one `:`
    /// behind them; `:` for the root container.
    pub fn associated_data(&self) -> Vec<u8> {
        let mut joined = self.0.join(&b':');
        joined.push(b':');
        joined
    }

    /// Returns the path in words, keys joined with `.`; bytes that are not UTF-8 are replaced.
    pub fn display(&self) -> String {
        let keys: Vec<_> = self.keys().map(String::from_utf8_lossy).collect();
        keys.join(".")
    }
}

/// A container (mapping or list) of a document; the table of them is indexed by frame number.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The container around this one, `None` for the root.
    pub parent: Option<u32>,
}

impl Frame {
    /// The frame number of the root container.
    pub const ROOT: u32 = 0;
}

/// A leaf of a plain document.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// Where it stands in the tree.
    pub path: KeyPath,
    /// The container it is an item of.
    pub frame: u32,
    /// Its typed value.
    pub value: Value<'a>,
    /// The bytes of the source that a token replaces.
    pub span: Range<usize>,
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
}

/// A leaf of a sealed document: a token or a value left in clear.
#[derive(Debug)]
pub struct SealedLeaf {
    /// Where it stands in the tree.
    pub path: KeyPath,
    /// The container it is an item of.
    pub frame: u32,
    /// Whether it stands where a comment stands.
    pub is_comment: bool,
    /// The bytes of the source that the opened text replaces.
    pub span: Range<usize>,
    /// The text in the span where the source spells it with escapes.
    pub unescaped: Option<Vec<u8>>,
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
    /// The `sops` block.
    pub metadata: Metadata,
}

impl SealedDocument {
    /// Returns the text of a leaf as it stands in the source.
    pub fn text<'d>(&'d self, leaf: &'d SealedLeaf) -> &'d [u8] {
        leaf.unescaped
            .as_deref()
            .unwrap_or(&self.source[leaf.span.clone()])
    }
}

impl SealedDocument {
    /// Frees the text of the only leaf of a document, keeping what surrounds it: its layout is all
    /// that is needed of a large file about to be replaced.
    pub fn forget_leaf_text(&mut self) {
        let [leaf] = &mut self.leaves[..] else { return };
        let after = self.source.split_off(leaf.span.end);
        self.source.truncate(leaf.span.start);
        self.source.extend_from_slice(&after);
        self.source.shrink_to_fit();
        leaf.span = leaf.span.start..leaf.span.start;
    }
}

/// Copies `source` to `out` with parts replaced: `spans` are ascending and disjoint, `replace`
/// appends the replacement of the span with that index.
pub fn splice(
    source: &[u8],
    spans: &[Range<usize>],
    out: &mut Vec<u8>,
    mut replace: impl FnMut(usize, &mut Vec<u8>),
) {
    let mut at = 0;
    for (index, span) in spans.iter().enumerate() {
        out.extend_from_slice(&source[at..span.start]);
        replace(index, out);
        at = span.end;
    }
    out.extend_from_slice(&source[at..]);
}
