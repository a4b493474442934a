//! JSON as SOPS reads it: one object, values typed, order and repeated keys kept.
//!
//! Only values are replaced; white space, keys and escapes in keys stay. A string is a token in its
//! quotes, any other value a token in quotes of ours. (SOPS `stores/json/store.go`.)

use std::collections::BTreeMap;
use std::ops::Range;

use crate::secret::{SecretBytes, SecretText};

use super::super::document::{
    Container, Document, Frame, KeyPath, Leaf, Note, SealedDocument, SealedLeaf, Seat, SeatForm,
    Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{self, Metadata};
use super::super::tree::{Item, Node, Tree};
use super::super::value::{Value, positional_float};
use super::binary::{self, indented_json};
use super::{
    Indents, LeafText, OpenNote, OpenedLeaves, Store, conflict_marker, splice_leaves, splice_values,
};

/// The deepest nesting that is read.
const DEEPEST: usize = 512;

pub(super) struct JsonStore;

/// A value as it stands in the text.
enum Scalar {
    Bool(bool),
    Empty(Container),
    Null,
    Number,
    /// `decoded` is `None` where the quotes hold the text itself.
    Text {
        decoded: Option<SecretBytes>,
    },
}

struct RawLeaf {
    path: KeyPath,
    frame: u32,
    step: Step,
    span: Range<usize>,
    scalar: Scalar,
}

/// What a text holds.
#[derive(Default)]
struct Scan {
    leaves: Vec<RawLeaf>,
    frames: Vec<Frame>,
    /// The member `sops`: where its key begins, and its value.
    metadata: Option<Range<usize>>,
    /// Behind the last value of the root object, `metadata` left out.
    end_of_members: Option<usize>,
    /// Behind the opening brace of the root object.
    after_brace: usize,
}

impl Store for JsonStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        let scan = scan(source)?;
        if let Some(span) = &scan.metadata {
            return Err(DocumentError::ReservedKey {
                line: line_of(source, span.start),
                name: "is `sops`",
            });
        }
        if let [
            RawLeaf {
                path,
                scalar: Scalar::Text { .. },
                span,
                ..
            },
        ] = &scan.leaves[..]
            && path.associated_data() == b"data:"
            && scan.frames.len() == 1
        {
            return Err(DocumentError::Line {
                line: line_of(source, span.start),
                construct: "an object with nothing but a string `data`, the form of a binary file,",
                format: "JSON",
            });
        }
        let leaves = scan.leaves.into_iter().map(|raw| leaf_of(source, raw));
        Ok(Document {
            source,
            leaves: leaves.collect::<Result<_, _>>()?,
            frames: scan.frames,
            seat: Seat {
                at: scan.end_of_members.unwrap_or(scan.after_brace),
                form: match scan.end_of_members {
                    Some(_) => SeatForm::Member,
                    None => SeatForm::OnlyMember,
                },
            },
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let scan = scan(&source)?;
        let span = scan.metadata.clone().ok_or(DocumentError::NotSops)?;
        let value = &source[span.clone()];
        let colon = end_of_key(value);
        let node: metadata::Node = serde_json::from_slice(&value[colon..])
            .map_err(|_| syntax(&source, span.start, "the `sops` member cannot be read"))?;
        let metadata = Metadata::from_node(node)?;
        // The comma in front belongs to the member, or the one behind it where it is the first.
        let rest = source[span.end..].trim_ascii_start();
        let cut = if let [before @ .., b','] = source[..span.start].trim_ascii_end() {
            before.len()..span.end
        } else if rest.starts_with(b",") {
            span.start..source.len() - rest.len() + 1
        } else {
            scan.after_brace..span.end
        };
        let mut leaves = Vec::with_capacity(scan.leaves.len());
        for raw in scan.leaves {
            leaves.push(sealed_leaf(&source, raw)?);
        }
        Ok(SealedDocument {
            leaves,
            frames: scan.frames,
            metadata_spans: std::iter::once(cut).collect(),
            aliases: Vec::new(),
            places: BTreeMap::new(),
            metadata,
            source,
        })
    }

    fn emit_sealed(
        &self,
        document: &Document<'_>,
        _previous: Option<&SealedDocument>,
        leaves: &mut dyn LeafText,
        metadata: &mut dyn FnMut() -> Metadata,
    ) -> Vec<u8> {
        splice_leaves(document, leaves, |_, out| {
            let indent = indentation(document.source);
            let line_end = if document.source.windows(2).any(|pair| pair == b"\r\n") {
                "\r\n"
            } else {
                "\n"
            };
            // An empty object keeps the white space it has.
            if document.seat.form == SeatForm::Member {
                out.push(b',');
                out.extend_from_slice(line_end.as_bytes());
                out.extend_from_slice(indent.as_bytes());
            }
            out.extend_from_slice(b"\"sops\": ");
            let block = indented_json(metadata().node(), indent);
            for (index, line) in block.lines().enumerate() {
                if index > 0 {
                    out.extend_from_slice(line_end.as_bytes());
                    out.extend_from_slice(indent.as_bytes());
                }
                out.extend_from_slice(line.as_bytes());
            }
        })
    }

    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes {
        splice_values(
            sealed,
            opened,
            &mut |index, value, out| match opened.notes.get(&index) {
                Some(OpenNote::Source(text)) if spells(text.expose(), value) => {
                    out.extend_from_slice(text.expose());
                }
                _ => write_value(value, out),
            },
        )
    }

    fn is_typed(&self) -> bool {
        true
    }

    fn spell(&self, text: &str, like: &Value<'_>) -> SecretBytes {
        let mut scanner = Scanner::new(text.as_bytes());
        let is_scalar = !matches!(like, Value::Str(_))
            && scanner.value(0, &KeyPath::root(), Step::Key, 0).is_ok()
            && scanner.at == text.len();
        if is_scalar {
            return SecretBytes::copy_of(text.as_bytes());
        }
        let mut out = SecretBytes::new(Vec::with_capacity(text.len() * 2 + 2));
        write_text(text.as_bytes(), false, out.expose_mut());
        out
    }

    fn is_respelled(&self) -> bool {
        true
    }

    fn may_be_of_stock(&self, source: &[u8]) -> bool {
        source.starts_with(b"{\n\t\"")
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&metadata::Node>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        let mut out = SecretBytes::default();
        let items = tree.documents.first().map_or(&[][..], Vec::as_slice);
        let mut writer = stock::Writer::new(indents, out.expose_mut());
        writer.object(items, metadata, 0)?;
        out.expose_mut().push(b'\n');
        Ok(out)
    }

    fn emit_value(&self, value: &Node<'_>, indents: Indents) -> Result<SecretBytes, DocumentError> {
        let mut out = SecretBytes::default();
        stock::Writer::new(indents, out.expose_mut()).value(value, 0)?;
        Ok(out)
    }
}

/// Returns whether a note's text is a spelling of the value.
fn spells(text: &[u8], value: &Value<'_>) -> bool {
    let mut scanner = Scanner::new(text);
    let is_whole = scanner.value(0, &KeyPath::root(), Step::Key, 0).is_ok()
        && scanner.at == text.len()
        && scanner.found.leaves.len() == 1;
    let raw = scanner.found.leaves.pop().filter(|_| is_whole);
    raw.is_some_and(|raw| leaf_of(text, raw).is_ok_and(|leaf| leaf.value.is_same(value)))
}

/// Returns whether an encrypted text is the envelope of one value; `None` when it is not JSON.
pub(super) fn is_envelope(source: &[u8]) -> Option<bool> {
    binary::is_envelope(source)
}

/// Returns whether a text is an object with a member `sops`.
pub(super) fn has_metadata(source: &[u8]) -> bool {
    scan(source).is_ok_and(|scan| scan.metadata.is_some())
}

/// Returns what the members of the root object are indented by; two blanks where they stand on one
/// line.
fn indentation(source: &[u8]) -> &str {
    let brace = source.iter().position(|&byte| byte == b'{').unwrap_or(0);
    let rest = source.get(brace + 1..).unwrap_or_default();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let inner = rest.trim_ascii_start();
    let white = &rest[..rest.len() - inner.len()];
    let last = memchr::memrchr(b'\n', white).map(|at| &white[at + 1..]);
    match last {
        Some(indent) if !indent.is_empty() && indent.len() <= 16 && indent.iter().all(blank) => {
            std::str::from_utf8(indent).unwrap_or("  ")
        }
        _ => "  ",
    }
}

fn line_of(source: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &source[..at]).count() + 1
}

fn syntax(source: &[u8], at: usize, problem: &'static str) -> DocumentError {
    let start = memchr::memrchr(b'\n', &source[..at]).map_or(0, |line| line + 1);
    match conflict_marker(source) {
        Some(line) => DocumentError::ConflictMarker { line },
        None => DocumentError::Syntax {
            line: line_of(source, at),
            column: at - start + 1,
            format: "JSON",
            problem,
        },
    }
}

/// Returns where the value of a member begins that starts with its key.
fn end_of_key(member: &[u8]) -> usize {
    let mut scanner = Scanner::new(member);
    match scanner.string() {
        Ok(_) => {
            scanner.blank();
            scanner.at + 1
        }
        Err(_) => 0,
    }
}

fn value_of<'a>(source: &'a [u8], raw: &mut RawLeaf) -> Option<Value<'a>> {
    Some(match &mut raw.scalar {
        Scalar::Bool(flag) => Value::Bool(*flag),
        Scalar::Empty(kind) => Value::Empty(*kind),
        Scalar::Null => Value::Null,
        Scalar::Number => number(&source[raw.span.clone()])?,
        Scalar::Text { decoded } => Value::Str(match decoded.take() {
            Some(text) => SecretText::Owned(text),
            None => SecretText::Borrowed(&source[raw.span.start + 1..raw.span.end - 1]),
        }),
    })
}

/// Returns the number as SOPS types it: an integer of 64 bits, else a float. `None` when it is
/// beyond both.
fn number(text: &[u8]) -> Option<Value<'static>> {
    let text = std::str::from_utf8(text).ok()?;
    let is_integer = !text.contains(['.', 'e', 'E']);
    if let (true, Ok(number)) = (is_integer, text.parse()) {
        return Some(Value::Int(number));
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Value::Float(number))
}

fn leaf_of(source: &[u8], mut raw: RawLeaf) -> Result<Leaf<'_>, DocumentError> {
    let value = value_of(source, &mut raw).ok_or_else(|| DocumentError::Line {
        line: line_of(source, raw.span.start),
        construct: "a number beyond 64 bits",
        format: "JSON",
    })?;
    let mut spelling = Spelling::quoted("\"", "\"");
    let text = &source[raw.span.clone()];
    let needs_note = match &value {
        Value::Str(_) => {
            // Text without escapes is its own spelling.
            matches!(&value, Value::Str(SecretText::Owned(_))) && !is_canonical(text, &value)
        }
        Value::Int(_) | Value::Float(_) => value.plaintext().expose() != text,
        _ => false,
    };
    if needs_note {
        spelling.note = Note::Source {
            text: raw.span.clone(),
            construct: match value {
                Value::Str(_) => "a string with unusual escapes",
                _ => "a number with an unusual spelling",
            },
        };
    }
    Ok(Leaf {
        path: raw.path,
        frame: raw.frame,
        step: raw.step,
        value,
        span: raw.span,
        spelling,
    })
}

fn is_canonical(text: &[u8], value: &Value<'_>) -> bool {
    let mut spelled = SecretBytes::new(Vec::with_capacity(text.len() + 8));
    write_value(value, spelled.expose_mut());
    spelled.expose() == text
}

fn sealed_leaf(source: &[u8], mut raw: RawLeaf) -> Result<SealedLeaf, DocumentError> {
    let is_text = matches!(raw.scalar, Scalar::Text { .. });
    let (clear, unescaped) = if is_text {
        match &mut raw.scalar {
            Scalar::Text { decoded } => (None, decoded.take().map(SecretBytes::into_public)),
            _ => (None, None),
        }
    } else {
        let value = value_of(source, &mut raw).ok_or_else(|| DocumentError::Line {
            line: line_of(source, raw.span.start),
            construct: "a number beyond 64 bits",
            format: "JSON",
        })?;
        (Some(value.into_owned()), None)
    };
    let text = if is_text {
        raw.span.start + 1..raw.span.end - 1
    } else {
        raw.span.clone()
    };
    Ok(SealedLeaf {
        path: raw.path,
        frame: raw.frame,
        step: raw.step,
        is_comment: false,
        span: raw.span,
        text,
        unescaped,
        clear,
        style: Style::Double,
    })
}

/// Appends a value in the one spelling that a token without a note stands for.
fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Empty(Container::List) => out.extend_from_slice(b"[]"),
        Value::Empty(Container::Map) => out.extend_from_slice(b"{}"),
        Value::Null => out.extend_from_slice(b"null"),
        Value::Float(number) if number.is_finite() => {
            out.extend_from_slice(positional_float(*number).as_bytes());
        }
        Value::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        value => write_text(value.plaintext().expose(), false, out),
    }
}

/// Appends a string in quotes. `as_stock` escapes what Go's encoder escapes for HTML. Bytes that are not
/// UTF-8 are the replacement character, each of them.
fn write_text(text: &[u8], as_stock: bool, out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            write_character(character, as_stock, out);
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn write_character(character: char, as_stock: bool, out: &mut Vec<u8>) {
    let escaped: &[u8] = match character {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\u{8}' => b"\\b",
        '\u{c}' => b"\\f",
        '\0'..='\u{1f}' => {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
            return;
        }
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if as_stock => {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
            return;
        }
        character => {
            let mut buffer = [0; 4];
            out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            return;
        }
    };
    out.extend_from_slice(escaped);
}

fn scan(source: &[u8]) -> Result<Scan, DocumentError> {
    if source.starts_with(b"\xef\xbb\xbf") {
        return Err(DocumentError::Line {
            line: 1,
            construct: "a byte order mark",
            format: "JSON",
        });
    }
    if let Err(error) = std::str::from_utf8(source) {
        return Err(DocumentError::Line {
            line: line_of(source, error.valid_up_to()),
            construct: "text that is not UTF-8",
            format: "JSON",
        });
    }
    let mut scanner = Scanner::new(source);
    scanner.blank();
    match scanner.peek() {
        Some(b'{') => {}
        None => return Err(syntax(source, scanner.at, "it is empty")),
        Some(_) => {
            return Err(DocumentError::Line {
                line: line_of(source, scanner.at),
                construct: "a root that is not an object",
                format: "JSON",
            });
        }
    }
    scanner.root()?;
    scanner.blank();
    if scanner.at < source.len() {
        return Err(scanner.error("there is text behind the root object"));
    }
    Ok(scanner.found)
}

struct Scanner<'s> {
    source: &'s [u8],
    at: usize,
    found: Scan,
}

impl<'s> Scanner<'s> {
    fn new(source: &'s [u8]) -> Self {
        Self {
            source,
            at: 0,
            found: Scan::default(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, problem: &'static str) -> DocumentError {
        syntax(self.source, self.at.min(self.source.len()), problem)
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), DocumentError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.error(problem))
        }
    }

    fn root(&mut self) -> Result<(), DocumentError> {
        self.found.frames.push(Frame::root(0));
        self.at += 1;
        self.found.after_brace = self.at;
        self.members(Frame::ROOT, &KeyPath::root(), 0)
    }

    /// Reads members up to and with the closing brace.
    fn members(&mut self, frame: u32, path: &KeyPath, depth: usize) -> Result<(), DocumentError> {
        self.blank();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.blank();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in double quotes is missing"));
            }
            let (span, decoded) = self.string()?;
            self.blank();
            self.expect(b':', "a colon is missing")?;
            self.blank();
            let key = match &decoded {
                Some(key) => key.expose(),
                None => &self.source[span.start + 1..span.end - 1],
            };
            if frame == Frame::ROOT && key == b"sops" {
                if self.found.metadata.is_some() {
                    return Err(self.error("the key `sops` stands twice"));
                }
                let (leaves, frames) = (self.found.leaves.len(), self.found.frames.len());
                self.value(frame, path, Step::Key, depth + 1)?;
                self.found.leaves.truncate(leaves);
                self.found.frames.truncate(frames);
                self.found.metadata = Some(start..self.at);
            } else {
                let path = path.child(key);
                self.value(frame, &path, Step::Key, depth + 1)?;
                if frame == Frame::ROOT {
                    self.found.end_of_members = Some(self.at);
                }
            }
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("a comma or a closing brace is missing")),
            }
        }
    }

    fn items(&mut self, frame: u32, path: &KeyPath, depth: usize) -> Result<(), DocumentError> {
        for number in 0.. {
            self.blank();
            self.value(frame, path, Step::Item(number), depth + 1)?;
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.error("a comma or a closing bracket is missing")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn value(
        &mut self,
        frame: u32,
        path: &KeyPath,
        step: Step,
        depth: usize,
    ) -> Result<(), DocumentError> {
        if depth > DEEPEST {
            return Err(self.error("it is nested too deeply"));
        }
        let start = self.at;
        let scalar = match self.peek() {
            Some(b'"') => {
                let (_, decoded) = self.string()?;
                Scalar::Text { decoded }
            }
            Some(open @ (b'{' | b'[')) => {
                let (kind, close) = if open == b'{' {
                    (Container::Map, b'}')
                } else {
                    (Container::List, b']')
                };
                self.at += 1;
                self.blank();
                if self.peek() == Some(close) {
                    self.at += 1;
                    Scalar::Empty(kind)
                } else {
                    let inner = u32::try_from(self.found.frames.len())
                        .map_err(|_| self.error("it holds too many values"))?;
                    self.found.frames.push(Frame {
                        parent: Some(frame),
                        step,
                        kind,
                        path: path.clone(),
                    });
                    return match kind {
                        Container::Map => self.members(inner, path, depth),
                        Container::List => self.items(inner, path, depth),
                    };
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                self.digits()?;
                Scalar::Number
            }
            Some(b't') => self.word(b"true", Scalar::Bool(true))?,
            Some(b'f') => self.word(b"false", Scalar::Bool(false))?,
            Some(b'n') => self.word(b"null", Scalar::Null)?,
            _ => return Err(self.error("a value is missing")),
        };
        self.found.leaves.push(RawLeaf {
            path: path.clone(),
            frame,
            step,
            span: start..self.at,
            scalar,
        });
        Ok(())
    }

    fn word(&mut self, word: &[u8], scalar: Scalar) -> Result<Scalar, DocumentError> {
        if self.source[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(scalar)
        } else {
            Err(self.error("a value is missing"))
        }
    }

    /// Reads a number by the grammar of RFC 8259.
    fn digits(&mut self) -> Result<(), DocumentError> {
        let run = |scanner: &mut Self| {
            let start = scanner.at;
            while matches!(scanner.peek(), Some(b'0'..=b'9')) {
                scanner.at += 1;
            }
            scanner.at > start
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let is_fine = if self.peek() == Some(b'0') {
            self.at += 1;
            true
        } else {
            run(self)
        };
        let mut is_fine = is_fine && !matches!(self.peek(), Some(b'0'..=b'9'));
        if self.peek() == Some(b'.') {
            self.at += 1;
            is_fine &= run(self);
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            is_fine &= run(self);
        }
        if is_fine {
            Ok(())
        } else {
            Err(self.error("a number is not well-formed"))
        }
    }

    /// Reads a string with its quotes; returns its span and, where it holds escapes, its text.
    fn string(&mut self) -> Result<(Range<usize>, Option<SecretBytes>), DocumentError> {
        let start = self.at;
        self.at += 1;
        let mut decoded: Option<SecretBytes> = None;
        loop {
            let from = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            if let Some(text) = &mut decoded {
                text.expose_mut()
                    .extend_from_slice(&self.source[from..self.at]);
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((start..self.at, decoded));
                }
                Some(b'\\') => {
                    if decoded.is_none() {
                        // Up to the closing quote: growing would leave unwiped copies.
                        let room = self.rest_of_string() - start;
                        let mut text = SecretBytes::new(Vec::with_capacity(room));
                        text.expose_mut()
                            .extend_from_slice(&self.source[start + 1..self.at]);
                        decoded = Some(text);
                    }
                    let character = self.escape()?;
                    if let Some(text) = &mut decoded {
                        let mut buffer = [0; 4];
                        let bytes = character.encode_utf8(&mut buffer).as_bytes();
                        text.expose_mut().extend_from_slice(bytes);
                    }
                }
                Some(_) => return Err(self.error("a control character stands in a string")),
                None => return Err(self.error("a string has no end")),
            }
        }
    }

    /// Returns at most how many bytes the string that is being read has.
    fn rest_of_string(&self) -> usize {
        let mut at = self.at;
        while let Some(found) =
            memchr::memchr2(b'"', b'\\', &self.source[at.min(self.source.len())..])
        {
            at += found;
            if self.source[at] == b'"' {
                break;
            }
            at += 2;
        }
        at.min(self.source.len())
    }

    /// Reads an escape; lone surrogates stand for U+FFFD, as in Go.
    fn escape(&mut self) -> Result<char, DocumentError> {
        self.at += 1;
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.four_digits()?;
                if !(0xd800..0xe000).contains(&first) {
                    return Ok(char::from_u32(first).unwrap_or('\u{fffd}'));
                }
                let back = self.at;
                if first < 0xdc00 && self.source[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let second = self.four_digits()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    self.at = back;
                }
                '\u{fffd}'
            }
            _ => {
                self.at -= 1;
                return Err(self.error("an escape is not one of JSON's"));
            }
        })
    }

    fn four_digits(&mut self) -> Result<u32, DocumentError> {
        let digits = self.source.get(self.at..self.at + 4);
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("an escape is not one of JSON's"))?;
        self.at += 4;
        Ok(code)
    }
}

/// JSON as the reference program writes it.
mod stock {
    use super::{
        Container, DocumentError, Indents, Item, Node, Value, indented_json, metadata, write_text,
    };

    /// Writes JSON with one member a line.
    pub(super) struct Writer<'o> {
        /// One level.
        indent: String,
        out: &'o mut Vec<u8>,
    }

    impl<'o> Writer<'o> {
        pub(super) fn new(indents: Indents, out: &'o mut Vec<u8>) -> Self {
            let indent = indents
                .json
                .map_or_else(|| "\t".to_owned(), |count| " ".repeat(count));
            Self { indent, out }
        }

        /// Appends an object. Comments are dropped, as JSON has none.
        pub(super) fn object(
            &mut self,
            items: &[Item<'_>],
            metadata: Option<&metadata::Node>,
            depth: usize,
        ) -> Result<(), DocumentError> {
            let entries: Vec<_> = items
                .iter()
                .filter_map(|item| match item {
                    Item::Entry { key, node } => Some((key, node)),
                    Item::Comment { .. } => None,
                })
                .collect();
            if entries.is_empty() && metadata.is_none() {
                self.out.extend_from_slice(b"{}");
                return Ok(());
            }
            self.out.push(b'{');
            let count = entries.len();
            for (index, (key, node)) in entries.into_iter().enumerate() {
                self.new_line(depth + 1);
                write_text(key, true, self.out);
                self.out.extend_from_slice(b": ");
                self.value(node, depth + 1)?;
                if index + 1 < count || metadata.is_some() {
                    self.out.push(b',');
                }
            }
            if let Some(node) = metadata {
                self.new_line(depth + 1);
                self.out.extend_from_slice(b"\"sops\": ");
                let block = indented_json(node, &self.indent);
                let line = format!("\n{}", self.indent);
                self.out
                    .extend_from_slice(block.replace('\n', &line).as_bytes());
            }
            self.new_line(depth);
            self.out.push(b'}');
            Ok(())
        }

        fn new_line(&mut self, depth: usize) {
            self.out.push(b'\n');
            for _ in 0..depth {
                self.out.extend_from_slice(self.indent.as_bytes());
            }
        }

        pub(super) fn value(&mut self, node: &Node<'_>, depth: usize) -> Result<(), DocumentError> {
            let items = match node {
                Node::Map(items) => return self.object(items, None, depth),
                Node::Scalar(value) => return scalar(value, self.out),
                Node::List(items) => items,
            };
            let entries: Vec<_> = items
                .iter()
                .filter_map(|item| match item {
                    Item::Entry { node, .. } => Some(node),
                    Item::Comment { .. } => None,
                })
                .collect();
            if entries.is_empty() {
                self.out.extend_from_slice(b"[]");
                return Ok(());
            }
            self.out.push(b'[');
            let count = entries.len();
            for (index, node) in entries.into_iter().enumerate() {
                self.new_line(depth + 1);
                self.value(node, depth + 1)?;
                if index + 1 < count {
                    self.out.push(b',');
                }
            }
            self.new_line(depth);
            self.out.push(b']');
            Ok(())
        }
    }

    fn scalar(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        match value {
            Value::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Value::Empty(Container::List) => out.extend_from_slice(b"[]"),
            Value::Empty(Container::Map) => out.extend_from_slice(b"{}"),
            Value::Float(number) if number.is_finite() => {
                out.extend_from_slice(float(*number).as_bytes());
            }
            Value::Float(_) => {
                return Err(DocumentError::Inexpressible {
                    what: "an infinite number, or one that is none,",
                    format: "JSON",
                });
            }
            Value::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Null => out.extend_from_slice(b"null"),
            value => write_text(value.plaintext().expose(), true, out),
        }
        Ok(())
    }

    /// Formats as Go's `encoding/json` does: an exponent below 1e-6 and from 1e21 on.
    fn float(number: f64) -> String {
        let size = number.abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            let text = format!("{number:e}");
            // Rust writes `1e21`, Go `1e+21`; both write `1e-7`.
            return match text.split_once('e') {
                Some((digits, exponent)) if !exponent.starts_with('-') => {
                    format!("{digits}e+{exponent}")
                }
                _ => text,
            };
        }
        number.to_string()
    }
}
