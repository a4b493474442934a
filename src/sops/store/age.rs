//! A raw age file, as the `age` program writes it: one content, no metadata.
//!
//! It is no SOPS file. It is read as one whose only wrapped key holds the content itself, so that all
//! that works on entries works on it too; who can open it stands in no readable place.

use std::collections::BTreeMap;

use base64::Engine;

use crate::secret::{SecretBytes, SecretText};

use super::super::document::{
    Document, Frame, KeyPath, Leaf, SealedDocument, SealedLeaf, Seat, Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{Metadata, Node};
use super::super::tree::{self, Tree};
use super::super::value::Value;
use super::{Indents, LeafText, OpenedLeaves, Store};

/// How a binary age file begins (age-encryption.org/v1).
const BINARY_START: &[u8] = b"age-encryption.org/v1\n";
/// How an armored one begins.
const ARMOR_START: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";
/// Characters in a line of armor.
const ARMOR_COLUMNS: usize = 64;

pub(super) struct AgeStore;

/// Returns whether a text is an age file.
pub(super) fn is_age(source: &[u8]) -> bool {
    let is_line = |rest: &[u8]| {
        let blanks = rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        matches!(
            &rest[blanks..],
            [] | [b'\r'] | [b'\n', ..] | [b'\r', b'\n', ..]
        )
    };
    let armored = source.trim_ascii_start().strip_prefix(ARMOR_START);
    source.starts_with(BINARY_START) || armored.is_some_and(is_line)
}

/// Returns whether an age file is armored.
pub fn is_armored(source: &[u8]) -> bool {
    !source.starts_with(BINARY_START)
}

/// Returns an armored age file without its armor; `None` where it is damaged.
pub fn without_armor(armored: &str) -> Option<Vec<u8>> {
    let body = armored
        .trim()
        .strip_prefix("-----BEGIN AGE ENCRYPTED FILE-----")?;
    let body = body.strip_suffix(ARMOR_END)?;
    let compact: String = body.split_ascii_whitespace().collect();
    base64::engine::general_purpose::STANDARD
        .decode(compact)
        .ok()
}

fn armored(source: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(source);
    let mut text = String::from_utf8_lossy(ARMOR_START).into_owned();
    text.push('\n');
    for line in base64.as_bytes().chunks(ARMOR_COLUMNS) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(ARMOR_END);
    text.push('\n');
    text
}

impl Store for AgeStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        Ok(Document {
            source,
            leaves: vec![Leaf {
                path: KeyPath::root(),
                frame: Frame::ROOT,
                step: Step::Key,
                value: Value::Str(SecretText::Borrowed(source)),
                span: 0..source.len(),
                spelling: Spelling::BARE,
            }],
            frames: vec![Frame::root(0)],
            seat: Seat::default(),
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let wrapped = if is_armored(&source) {
            String::from_utf8_lossy(&source).into_owned()
        } else {
            armored(&source)
        };
        let span = 0..source.len();
        Ok(SealedDocument {
            leaves: vec![SealedLeaf {
                path: KeyPath::root(),
                frame: Frame::ROOT,
                step: Step::Key,
                is_comment: false,
                text: span.clone(),
                span,
                unescaped: None,
                clear: None,
                style: Style::Covered,
            }],
            frames: vec![Frame::root(0)],
            metadata_spans: Vec::new(),
            aliases: Vec::new(),
            places: BTreeMap::new(),
            metadata: Metadata::of_age_file(&wrapped),
            source,
        })
    }

    fn emit_sealed(
        &self,
        _document: &Document<'_>,
        _previous: Option<&SealedDocument>,
        _leaves: &mut dyn LeafText,
        _metadata: &mut dyn FnMut() -> Metadata,
    ) -> Vec<u8> {
        // Made by age itself: see `Keyring::wrap_content`.
        Vec::new()
    }

    fn emit_plain(&self, _sealed: &SealedDocument, _opened: &mut OpenedLeaves) -> SecretBytes {
        SecretBytes::default()
    }

    fn has_selection(&self) -> bool {
        false
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&Node>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        let binary = super::Format::Binary.store();
        binary.emit_tree(tree, metadata, indents)
    }

    fn emit_value(
        &self,
        value: &tree::Node<'_>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        super::Format::Binary.store().emit_value(value, indents)
    }
}
