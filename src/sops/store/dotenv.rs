//! dotenv as SOPS reads it: lines split at LF, keys at the first `=`, nothing trimmed or unquoted.
//!
//! The two characters `\n` in a value stand for a line feed, and nothing else is an escape. Blank
//! lines stay in the encrypted file, where stock skips them. A source that ends without a newline
//! has its metadata lines first, so that the encrypted file ends as the source does.
//! (SOPS `stores/dotenv/store.go`.)

use std::ops::Range;

use crate::secret::{SecretBytes, SecretText};

use super::super::document::{Document, Frame, KeyPath, Leaf, SealedDocument, SealedLeaf, splice};
use super::super::error::DocumentError;
use super::super::metadata::Metadata;
use super::super::value::Value;
use super::flatten::{flatten, unflatten};
use super::{LeafText, Store};

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
}

impl Store for DotenvStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        let mut leaves = Vec::new();
        for (number, range) in lines(source) {
            match parse_line(source, range, number)? {
                Line::Blank => {}
                Line::Comment { text } => leaves.push(Leaf {
                    path: KeyPath::root(),
                    frame: Frame::ROOT,
                    value: Value::Comment(SecretText::Borrowed(&source[text.clone()])),
                    span: text,
                }),
                Line::Pair { key, value } => {
                    if source[key.clone()].starts_with(METADATA_PREFIX) {
                        return Err(DocumentError::ReservedKey { line: number });
                    }
                    leaves.push(Leaf {
                        path: KeyPath::root().child(&source[key]),
                        frame: Frame::ROOT,
                        value: Value::Str(unescape(&source[value.clone()])),
                        span: value,
                    });
                }
            }
        }
        Ok(Document {
            source,
            leaves,
            frames: vec![Frame { parent: None }],
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let mut leaves = Vec::new();
        let mut metadata_spans: Vec<Range<usize>> = Vec::new();
        let mut pairs = Vec::new();
        for (number, range) in lines(&source) {
            let after_line = (range.end + 1).min(source.len());
            match parse_line(&source, range.clone(), number)? {
                Line::Blank => {}
                Line::Comment { text } => leaves.push(SealedLeaf {
                    path: KeyPath::root(),
                    frame: Frame::ROOT,
                    is_comment: true,
                    span: text,
                    unescaped: None,
                }),
                Line::Pair { key, value } => {
                    match source[key.clone()].strip_prefix(METADATA_PREFIX) {
                        Some(name) => {
                            let text = |bytes: &[u8]| {
                                let construct = "metadata that is not UTF-8";
                                String::from_utf8(bytes.to_vec()).map_err(|_| DocumentError::Line {
                                    line: number,
                                    construct,
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
                            is_comment: false,
                            span: value,
                            unescaped: None,
                        }),
                    }
                }
            }
        }
        if pairs.is_empty() {
            return Err(DocumentError::NotSops);
        }
        let metadata = Metadata::from_node(unflatten(pairs)?)?;
        let frames = vec![Frame { parent: None }];
        Ok(SealedDocument {
            source,
            leaves,
            frames,
            metadata_spans,
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
        let spans: Vec<_> = document
            .leaves
            .iter()
            .map(|leaf| leaf.span.clone())
            .collect();
        let mut body = Vec::with_capacity(document.source.len() * 2 + spans.len() * 160);
        splice(document.source, &spans, &mut body, |index, out| {
            leaves.write(index, out);
        });

        let mut block = Vec::new();
        for (key, value) in flatten(metadata().node()) {
            block.extend_from_slice(METADATA_PREFIX);
            block.extend_from_slice(key.as_bytes());
            block.push(b'=');
            escape(value.as_bytes(), &mut block);
            block.push(b'\n');
        }
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

    fn emit_plain(
        &self,
        sealed: &SealedDocument,
        values: &mut Vec<Option<Value<'static>>>,
    ) -> SecretBytes {
        // Leaves and metadata never overlap; both are cut out, only tokens get a replacement.
        let tokens = sealed.leaves.iter().zip(values.iter());
        let mut spans: Vec<(Range<usize>, Option<&Value<'_>>)> = tokens
            .filter_map(|(leaf, value)| {
                value.as_ref().map(|value| (leaf.span.clone(), Some(value)))
            })
            .chain(
                sealed
                    .metadata_spans
                    .iter()
                    .map(|span| (span.clone(), None)),
            )
            .collect();
        spans.sort_by_key(|(span, _)| (span.start, span.end));
        let ranges: Vec<_> = spans.iter().map(|(span, _)| span.clone()).collect();
        // Reserved once, since growing would leave unwiped copies; a line feed becomes two bytes.
        let values = spans.iter().filter_map(|(_, value)| *value);
        let longest = values
            .map(|value| value.flat_text().expose().len() * 2)
            .sum::<usize>();
        let mut plain = SecretBytes::new(Vec::with_capacity(sealed.source.len() + longest));
        splice(
            &sealed.source,
            &ranges,
            plain.expose_mut(),
            |index, out| match spans[index].1 {
                Some(Value::Comment(text)) => out.extend_from_slice(text.expose()),
                Some(value) => escape(value.flat_text().expose(), out),
                None => {}
            },
        );
        plain
    }

    fn clear_value<'a>(&self, leaf: &SealedLeaf, text: &'a [u8]) -> Value<'a> {
        if leaf.is_comment {
            Value::Comment(SecretText::Borrowed(text))
        } else {
            Value::Str(unescape(text))
        }
    }

    fn has_selection(&self) -> bool {
        true
    }

    fn value_text<'v>(&self, value: &'v Value<'_>) -> SecretText<'v> {
        value.flat_text()
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

fn parse_line(source: &[u8], range: Range<usize>, number: usize) -> Result<Line, DocumentError> {
    let line = &source[range.clone()];
    if line.is_empty() {
        return Ok(Line::Blank);
    }
    if line[0] == b'#' {
        return Ok(Line::Comment {
            text: range.start + 1..range.end,
        });
    }
    if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
        let equals = range.start + equals;
        return Ok(Line::Pair {
            key: range.start..equals,
            value: equals + 1..range.end,
        });
    }
    let construct = match line.trim_ascii() {
        [] if line == b"\r" => "a blank line that ends in CR",
        [] => "a line of blanks",
        [b'#', ..] => "an indented comment",
        _ => "a line without `=`",
    };
    Err(DocumentError::Line {
        line: number,
        construct,
    })
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
