//! dotenv as SOPS reads it: lines split at LF, keys at the first `=`, nothing trimmed or unquoted.
//!
//! The two characters `\n` in a value stand for a line feed, and nothing else is an escape. Blank
//! lines stay in the encrypted file, where stock skips them. A source that ends without a newline
//! has its metadata lines first, so that the encrypted file ends as the source does.
//! (SOPS `stores/dotenv/store.go`.)

use std::collections::BTreeMap;
use std::ops::Range;

use crate::secret::{SecretBytes, SecretText};

use super::super::document::{
    Document, Frame, KeyPath, Leaf, Note, SealedDocument, SealedLeaf, Seat, Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{Metadata, Node};
use super::super::tree::{self, Item, Tree};
use super::super::value::Value;
use super::flatten::{flatten, unflatten};
use super::{Indents, LeafText, OpenNote, OpenedLeaves, Store, splice_leaves, splice_values};

/// The word of a note that says that a comment is a line as it stood, without the mark.
const RAW: &str = "r";

/// What the metadata keys start with.
const METADATA_PREFIX: &[u8] = b"sops_";

pub(super) struct DotenvStore;

/// What one line is.
enum Line {
    Blank,
    Comment {
        text: Range<usize>,
    },
    Pair {
        key: Range<usize>,
        value: Range<usize>,
    },
    /// A line that the reference refuses.
    Raw {
        /// What it is, in words.
        construct: &'static str,
    },
}

impl Store for DotenvStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        let mut leaves = Vec::new();
        for (number, range) in lines(source) {
            match parse_line(source, range.clone()) {
                Line::Blank => {}
                Line::Raw { construct } => leaves.push(Leaf {
                    path: KeyPath::root(),
                    frame: Frame::ROOT,
                    step: Step::Remark,
                    value: Value::Comment(SecretText::Borrowed(&source[range.clone()])),
                    span: range,
                    spelling: Spelling {
                        note: Note::Word {
                            word: RAW.into(),
                            construct,
                        },
                        ..Spelling::quoted("#", "")
                    },
                }),
                Line::Comment { text } => leaves.push(Leaf {
                    path: KeyPath::root(),
                    frame: Frame::ROOT,
                    step: Step::Remark,
                    value: Value::Comment(SecretText::Borrowed(&source[text.clone()])),
                    span: text,
                    spelling: Spelling::BARE,
                }),
                Line::Pair { key, value } => {
                    if source[key.clone()].starts_with(METADATA_PREFIX) {
                        return Err(DocumentError::ReservedKey {
                            line: number,
                            name: "starts with `sops_`",
                        });
                    }
                    leaves.push(Leaf {
                        path: KeyPath::root().child(&source[key]),
                        frame: Frame::ROOT,
                        step: Step::Key,
                        value: Value::Str(unescape(&source[value.clone()])),
                        span: value,
                        spelling: Spelling::BARE,
                    });
                }
            }
        }
        Ok(Document {
            source,
            leaves,
            frames: vec![Frame::root(0)],
            seat: Seat {
                at: source.len(),
                ..Seat::default()
            },
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let mut leaves = Vec::new();
        let mut metadata_spans: Vec<Range<usize>> = Vec::new();
        let mut pairs = Vec::new();
        for (number, range) in lines(&source) {
            let after_line = (range.end + 1).min(source.len());
            match parse_line(&source, range.clone()) {
                Line::Blank => {}
                Line::Raw { construct } => {
                    return Err(DocumentError::Line {
                        line: number,
                        construct,
                        format: "dotenv",
                    });
                }
                Line::Comment { text } => leaves.push(SealedLeaf {
                    path: KeyPath::root(),
                    frame: Frame::ROOT,
                    step: Step::Remark,
                    is_comment: true,
                    text: text.clone(),
                    span: text,
                    unescaped: None,
                    clear: None,
                    style: Style::Bare,
                }),
                Line::Pair { key, value } => {
                    match source[key.clone()].strip_prefix(METADATA_PREFIX) {
                        Some(name) => {
                            let text = |bytes: &[u8]| {
                                let construct = "metadata that is not UTF-8";
                                String::from_utf8(bytes.to_vec()).map_err(|_| DocumentError::Line {
                                    line: number,
                                    construct,
                                    format: "dotenv",
                                })
                            };
                            pairs.push((text(name)?, text(unescape(&source[value]).expose())?));
                            match metadata_spans.last_mut() {
                                Some(last) if last.end == range.start => last.end = after_line,
                                _ => metadata_spans.push(range.start..after_line),
                            }
                        }
                        None => leaves.push(SealedLeaf {
                            path: KeyPath::root().child(&source[key]),
                            frame: Frame::ROOT,
                            step: Step::Key,
                            is_comment: false,
                            clear: match unescape(&source[value.clone()]) {
                                text @ SecretText::Owned(_) => Some(Value::Str(text).into_owned()),
                                SecretText::Borrowed(_) => None,
                            },
                            text: value.clone(),
                            span: value,
                            unescaped: None,
                            style: Style::Bare,
                        }),
                    }
                }
            }
        }
        if pairs.is_empty() {
            return Err(DocumentError::NotSops);
        }
        let metadata = Metadata::from_node(unflatten(pairs)?)?;
        let frames = vec![Frame::root(0)];
        Ok(SealedDocument {
            source,
            leaves,
            frames,
            metadata_spans,
            aliases: Vec::new(),
            places: BTreeMap::new(),
            metadata,
        })
    }

    fn emit_sealed(
        &self,
        document: &Document<'_>,
        previous: Option<&SealedDocument>,
        leaves: &mut dyn LeafText,
        metadata: &mut dyn FnMut() -> Metadata,
    ) -> Vec<u8> {
        let body = splice_leaves(document, leaves, |_, _| {});
        let mut block = Vec::new();
        write_metadata(metadata().node(), &mut block);
        let ends_with_newline = document.source.last().is_none_or(|&byte| byte == b'\n');
        let was_first = previous
            .is_some_and(|file| matches!(&file.metadata_spans[..], [span] if span.start == 0));
        let (mut first, second) = if ends_with_newline && !was_first {
            (body, block)
        } else {
            (block, body)
        };
        first.extend_from_slice(&second);
        first
    }

    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes {
        splice_values(sealed, opened, &mut |index, value, out| match value {
            Value::Comment(text) => {
                // A line that the reference refuses travels as a comment; the mark is ours.
                if matches!(opened.notes.get(&index), Some(OpenNote::Word(word)) if **word == *RAW)
                {
                    out.pop();
                }
                out.extend_from_slice(text.expose());
            }
            value => escape(value.flat_text().expose(), out),
        })
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&Node>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        let mut out = Vec::new();
        for item in tree.documents.first().into_iter().flatten() {
            match item {
                Item::Comment { text, .. } => {
                    out.push(b'#');
                    out.extend_from_slice(text.expose());
                }
                Item::Entry {
                    key,
                    node: tree::Node::Scalar(value),
                } if !matches!(value, Value::Empty(_)) => {
                    out.extend_from_slice(key);
                    out.push(b'=');
                    escape(value.flat_text().expose(), &mut out);
                }
                Item::Entry { .. } => {
                    return Err(DocumentError::Inexpressible {
                        what: "a mapping or a list",
                        format: "dotenv",
                    });
                }
            }
            out.push(b'\n');
        }
        if let Some(node) = metadata {
            write_metadata(node, &mut out);
        }
        Ok(SecretBytes::new(out))
    }

    fn emit_value(
        &self,
        _value: &tree::Node<'_>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        Err(DocumentError::Inexpressible {
            what: "anything but a string",
            format: "dotenv",
        })
    }
}

/// Appends the metadata lines.
fn write_metadata(node: &Node, out: &mut Vec<u8>) {
    for (key, value) in flatten(node) {
        out.extend_from_slice(METADATA_PREFIX);
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        escape(value.as_bytes(), out);
        out.push(b'\n');
    }
}

/// Iterates over line numbers from 1 and the ranges of the lines without their LF. A final LF
/// starts no further line.
fn lines(source: &[u8]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = 0;
    let mut number = 0;
    std::iter::from_fn(move || {
        if at >= source.len() {
            return None;
        }
        let end = source[at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(source.len(), |i| at + i);
        let line = at..end;
        at = end + 1;
        number += 1;
        Some((number, line))
    })
}

fn parse_line(source: &[u8], range: Range<usize>) -> Line {
    let line = &source[range.clone()];
    if line.is_empty() {
        return Line::Blank;
    }
    if line[0] == b'#' {
        return Line::Comment {
            text: range.start + 1..range.end,
        };
    }
    if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
        let equals = range.start + equals;
        return Line::Pair {
            key: range.start..equals,
            value: equals + 1..range.end,
        };
    }
    let construct = match line.trim_ascii() {
        [] if line == b"\r" => "a blank line that ends in CR",
        [] => "a line of blanks",
        [b'#', ..] => "an indented comment",
        _ => "a line without `=`",
    };
    Line::Raw { construct }
}

/// Replaces the two characters `\n` by a line feed; borrows when there are none.
fn unescape(value: &[u8]) -> SecretText<'_> {
    if !value.windows(2).any(|pair| pair == b"\\n") {
        return SecretText::Borrowed(value);
    }
    let mut out = SecretBytes::new(Vec::with_capacity(value.len()));
    let mut at = 0;
    while at < value.len() {
        if value[at..].starts_with(b"\\n") {
            out.expose_mut().push(b'\n');
            at += 2;
        } else {
            out.expose_mut().push(value[at]);
            at += 1;
        }
    }
    SecretText::Owned(out)
}

/// Appends `value` with every line feed written as the two characters `\n`.
fn escape(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        if byte == b'\n' {
            out.extend_from_slice(b"\\n");
        } else {
            out.push(byte);
        }
    }
}
