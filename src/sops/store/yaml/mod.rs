//! YAML as go-yaml reads it for SOPS: typed scalars, comments as leaves, aliases written out.
//!
//! Only scalars, comments and aliases are replaced; indentation, blank lines, quotes, keys, markers
//! and line ends stay (SOPS `stores/yaml/store.go`; what can be carried and how is
//! `docs/compatibility.md`). The parser is `granit-parser`; what its events mean to SOPS is
//! [`compose()`].

mod compose;
mod scalar;
mod stock;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use base64::Engine;

use crate::secret::SecretBytes;

use super::super::document::{
    Container, Document, Expanded, Extent, Frame, KeyPath, Leaf, Note, SealedDocument, SealedLeaf,
    Seat, SeatForm, Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{Metadata, Node};
use super::super::tree::{self, Item, Tree};
use super::super::value::Value;
use super::{
    Indents, LeafText, OpenNote, OpenedLeaves, Store, conflict_marker, splice_leaves, splice_values,
};
use compose::{ALIAS_TAG, Composed, Part, Quote, Reserved, Root, Shape, compose, line_of};

/// Blanks, for the indentation of a token in a block scalar.
const BLANKS: &str = "                                                                                                                                                                                                                                                                ";

/// How metadata begins where the root stands in braces.
pub(super) const FLOW_METADATA: &[u8] = b"\"sops\": {\"";

pub(super) struct YamlStore;

impl Store for YamlStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        check_line_ends(source)?;
        let composed = compose(source, false).map_err(|error| explained(source, error))?;
        let seat = seat_of(source, &composed);
        let mut alias_of = vec![None; composed.parts.len()];
        for (number, alias) in composed.aliases.iter().enumerate() {
            alias_of[alias.parts.clone()].fill(Some(number));
        }
        let expansions: Vec<Vec<Expanded>> = (0..composed.aliases.len())
            .map(|number| expand(&composed, number))
            .collect();
        let mut expansions: Vec<_> = expansions.into_iter().map(Vec::into_iter).collect();
        let mut leaves = Vec::with_capacity(composed.parts.len());
        for (index, part) in composed.parts.into_iter().enumerate() {
            let spelling = match &part.shape {
                Shape::Copy { alias, .. } => match expansions[*alias].next() {
                    Some(expanded) => Spelling {
                        extent: Extent::Expanded(Box::new(expanded)),
                        ..Spelling::quoted("\"", "\"")
                    },
                    None => Spelling::BARE,
                },
                _ => spelling_of(source, &part),
            };
            let is_first = alias_of[index]
                .is_none_or(|alias: usize| index == composed.aliases[alias].parts.start);
            let span = match &part.shape {
                Shape::Copy { .. } if !is_first => part.span.end..part.span.end,
                _ => span_of(source, &part),
            };
            leaves.push(Leaf {
                value: value_in(&composed.frames, &part),
                path: part.path,
                frame: part.frame,
                step: part.step,
                span,
                spelling,
            });
        }
        Ok(Document {
            source,
            leaves,
            frames: composed.frames,
            seat,
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let composed = compose(&source, true).map_err(|error| explained(&source, error))?;
        let node = composed
            .reserved
            .iter()
            .find(|reserved| reserved.document == 0)
            .ok_or(DocumentError::NotSops)?;
        let metadata = Metadata::from_node(read_node(&source, node)?)?;
        let metadata_spans = composed
            .reserved
            .iter()
            .map(|reserved| cut_of(&source, reserved))
            .collect();
        let aliases = composed
            .aliases
            .iter()
            .filter(|alias| alias.is_written_out)
            .map(|alias| (alias.span.clone(), format!("*{}", alias.name).into_bytes()))
            .collect();
        let mut covered = vec![false; composed.parts.len()];
        for alias in &composed.aliases {
            covered[alias.parts.clone()].fill(true);
        }
        let texts: Vec<Range<usize>> = composed.parts.iter().map(text_of).collect();
        let leaves = composed.parts.into_iter().enumerate();
        let leaves = leaves.map(|(index, part)| {
            let is_comment = matches!(part.shape, Shape::Comment);
            let (style, text) = match &part.shape {
                Shape::Alias { original, .. } | Shape::Copy { original, .. } => (
                    Style::Covered,
                    texts.get(*original).cloned().unwrap_or_default(),
                ),
                Shape::Comment => (Style::Bare, texts[index].clone()),
                Shape::Hollow { .. } => (Style::Covered, part.span.clone()),
                Shape::Scalar { quote, in_flow, .. } => {
                    (style_of(*quote, *in_flow), texts[index].clone())
                }
            };
            let style = if covered[index] && !is_comment {
                Style::Covered
            } else {
                style
            };
            // Where the text is a token, the value is the text; where quotes hide it, it is not.
            let is_block = matches!(style, Style::Folded | Style::Literal);
            let (clear, unescaped) = match part.value {
                Value::Str(value) if value.expose() == &source[text.clone()] => (None, None),
                // A block's value ends with a line break that is no part of the token.
                Value::Str(value)
                    if is_block
                        && value.expose().starts_with(b"ENC[")
                        && value.expose().trim_ascii_end() == &source[text.clone()] =>
                {
                    (Some(Value::Str(value).into_owned()), None)
                }
                Value::Str(value) if value.expose().starts_with(b"ENC[") => {
                    (None, Some(value.into_owned().into_public()))
                }
                Value::Comment(_) => (None, None),
                value => (Some(value.into_owned()), None),
            };
            SealedLeaf {
                path: part.path,
                frame: part.frame,
                step: part.step,
                is_comment,
                span: part.span,
                text,
                unescaped,
                clear,
                style,
            }
        });
        let mut leaves: Vec<SealedLeaf> = leaves.collect();
        let mut frames = composed.frames;
        count_items(&source, &mut leaves, &mut frames);
        Ok(SealedDocument {
            leaves,
            frames,
            metadata_spans,
            aliases,
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
        let Seat { at, form } = document.seat;
        splice_leaves(document, leaves, |_, out| {
            let metadata = metadata();
            match form {
                SeatForm::Member | SeatForm::OnlyMember => {
                    if form == SeatForm::Member {
                        out.extend_from_slice(b", ");
                    }
                    out.extend_from_slice(b"\"sops\": ");
                    out.extend_from_slice(flow_json(metadata.node()).as_bytes());
                }
                SeatForm::Lines | SeatForm::Indented(_) => {
                    let indent = match form {
                        SeatForm::Indented(columns) => columns,
                        _ => 0,
                    };
                    let ends_with_newline =
                        document.source[..at].last().is_none_or(|b| *b == b'\n');
                    if !ends_with_newline {
                        out.push(b'\n');
                    }
                    let block = stock::metadata(metadata.node(), !ends_with_newline, stock::INDENT);
                    for line in block.lines() {
                        out.resize(out.len() + indent, b' ');
                        out.extend_from_slice(line.as_bytes());
                        out.push(b'\n');
                    }
                }
            }
        })
    }

    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes {
        let plain = write_plain(sealed, opened);
        let has_sources = opened
            .notes
            .values()
            .any(|note| matches!(note, OpenNote::Source(_)));
        if !has_sources {
            return plain;
        }
        // A note counts as long as what it says is the value.
        let stale = stale_notes(sealed, opened, plain.expose());
        if stale.is_empty() {
            return plain;
        }
        opened.notes.retain(|index, _| !stale.contains(index));
        write_plain(sealed, opened)
    }

    fn is_typed(&self) -> bool {
        true
    }

    fn spell(&self, text: &str, like: &Value<'_>) -> SecretBytes {
        let reads_as_typed = !matches!(like, Value::Str(_)) && scalar::is_plain_syntax(text, true);
        if reads_as_typed || scalar::is_plain(text, true) {
            return SecretBytes::copy_of(text.as_bytes());
        }
        let mut out = SecretBytes::new(Vec::with_capacity(text.len() * 4 + 2));
        scalar::write_double(text, out.expose_mut());
        out
    }

    fn is_respelled(&self) -> bool {
        true
    }

    fn may_be_of_stock(&self, source: &[u8]) -> bool {
        // What is indented first is so by four columns.
        let first = memchr::memmem::find(source, b"\n ").map(|at| &source[at + 1..]);
        let is_indented = first.is_none_or(|rest| rest.starts_with(b"    "));
        is_indented && !source.starts_with(b"---") && !source.starts_with(b"\n")
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&Node>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        Ok(stock::write(tree, metadata, indents))
    }

    fn emit_value(
        &self,
        value: &tree::Node<'_>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        Ok(stock::write_value(value))
    }
}

/// Numbers the items of lists anew, without the comments that the reference writes as items.
fn count_items(source: &[u8], leaves: &mut [SealedLeaf], frames: &mut [Frame]) {
    let mut comments: HashMap<u32, usize> = HashMap::new();
    let mut is_counted = vec![false; frames.len()];
    for leaf in leaves {
        let mut frame = Some(leaf.frame);
        while let Some(id) = frame
            && !std::mem::replace(&mut is_counted[id as usize], true)
        {
            let parent = frames[id as usize].parent;
            if let (Step::Item(number), Some(parent)) = (frames[id as usize].step, parent) {
                let before = comments.get(&parent).copied().unwrap_or(0);
                frames[id as usize].step = Step::Item(number - before.min(number));
            }
            frame = parent;
        }
        let Step::Item(number) = leaf.step else {
            continue;
        };
        let before = comments.get(&leaf.frame).copied().unwrap_or(0);
        leaf.step = Step::Item(number - before.min(number));
        let text = leaf
            .unescaped
            .as_deref()
            .unwrap_or(&source[leaf.text.clone()]);
        if text.ends_with(b",type:comment]") && text.starts_with(b"ENC[") {
            *comments.entry(leaf.frame).or_default() += 1;
        }
    }
}

/// Decodes base64 as Go does: standard alphabet, padding required.
fn decode_base64(text: &[u8]) -> Option<SecretBytes> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.ok().map(SecretBytes::new)
}

/// Names an unresolved merge, which breaks the structure, as what it is.
fn explained(source: &[u8], error: DocumentError) -> DocumentError {
    match conflict_marker(source) {
        Some(line) if matches!(error, DocumentError::Syntax { .. }) => {
            DocumentError::ConflictMarker { line }
        }
        _ => error,
    }
}

fn seat_of(source: &[u8], composed: &Composed<'_>) -> Seat {
    let at = composed.end_of_first.unwrap_or(source.len());
    match &composed.root {
        Root::Block(0) | Root::Nothing => Seat {
            at,
            form: SeatForm::Lines,
        },
        Root::Block(columns) => Seat {
            at,
            form: SeatForm::Indented(*columns),
        },
        Root::Flow {
            last: Some(last), ..
        } => Seat {
            at: *last,
            form: SeatForm::Member,
        },
        Root::Flow { last: None, open } => Seat {
            at: *open,
            form: SeatForm::OnlyMember,
        },
    }
}

/// Returns the value of a part; an empty comment in a list is one blank, since the reference makes an
/// item of an encrypted comment that is empty.
fn value_in<'a>(frames: &[Frame], part: &Part<'a>) -> Value<'a> {
    match &part.value {
        Value::Comment(text)
            if text.expose().is_empty() && frames[part.frame as usize].kind == Container::List =>
        {
            Value::Comment(crate::secret::SecretText::Borrowed(b" "))
        }
        value => value.clone(),
    }
}

/// Returns what the token of a part takes the place of.
fn span_of(source: &[u8], part: &Part<'_>) -> Range<usize> {
    match &part.shape {
        Shape::Scalar {
            tag: Some(tag),
            has_own_tag: true,
            ..
        } => *tag..part.span.end,
        Shape::Scalar { lines, .. }
            if part.span == *lines
                && source[lines.clone()].trim_ascii().is_empty()
                && !source[lines.clone()].contains(&b'\t') =>
        {
            // Blank lines only: their last line break stays.
            lines.start..lines.end.saturating_sub(1).max(lines.start)
        }
        _ => part.span.clone(),
    }
}

/// Returns where the token of a sealed part stands.
fn text_of(part: &Part<'_>) -> Range<usize> {
    match part.shape {
        Shape::Scalar {
            quote: Quote::Single | Quote::Double,
            ..
        } if part.span.len() >= 2 => part.span.start + 1..part.span.end - 1,
        _ => part.span.clone(),
    }
}

fn style_of(quote: Quote, in_flow: bool) -> Style {
    match quote {
        Quote::Double => Style::Double,
        Quote::Folded => Style::Folded,
        Quote::Literal => Style::Literal,
        Quote::Plain if in_flow => Style::BareInFlow,
        Quote::Plain => Style::Bare,
        Quote::Single => Style::Single,
    }
}

/// Says how the token of a part is written, and whether a note has to go with it.
fn spelling_of(source: &[u8], part: &Part<'_>) -> Spelling {
    let with_note = |spelling: Spelling, text: Range<usize>, construct| Spelling {
        note: Note::Source { text, construct },
        ..spelling
    };
    let (quote, in_flow) = match &part.shape {
        Shape::Alias { original, in_flow } => {
            let spelling = if *in_flow {
                Spelling::quoted("\"", "\"")
            } else {
                Spelling::BARE
            };
            let spelling = Spelling {
                extent: Extent::Alias {
                    original: *original,
                },
                ..spelling
            };
            return with_note(spelling, part.span.clone(), "an alias to a value");
        }
        Shape::Comment => {
            let is_empty = matches!(&part.value, Value::Comment(text) if text.expose().is_empty());
            return Spelling {
                note: if is_empty { Note::Mark } else { Note::None },
                ..Spelling::BARE
            };
        }
        Shape::Copy { .. } | Shape::Hollow { .. } => return Spelling::BARE,
        Shape::Scalar {
            tag: Some(tag),
            has_own_tag: true,
            in_flow,
            ..
        } => {
            let spelling = if *in_flow {
                Spelling::quoted("\"", "\"")
            } else {
                Spelling::BARE
            };
            return with_note(
                spelling,
                *tag..part.span.end,
                "a value with a tag for its type",
            );
        }
        Shape::Scalar {
            tag: Some(tag),
            quote: Quote::Plain,
            in_flow: false,
            ..
        } if memchr::memchr(b'\n', &source[*tag..part.span.start]).is_some() => {
            let text = part.span.clone();
            return with_note(Spelling::BARE, text, "a value on the line below its tag");
        }
        Shape::Scalar {
            quote,
            in_flow,
            lines,
            indent,
            ..
        } => {
            if matches!(quote, Quote::Literal | Quote::Folded) {
                return block_spelling(source, part, *quote, lines.clone(), *indent);
            }
            (*quote, *in_flow)
        }
    };
    quoted_spelling(source, part, quote, in_flow)
}

/// Refuses what ends a line for stock and for nothing else that reads files: a carriage return by itself, and
/// U+0085, U+2028 and U+2029. Behind one of them a comment can be a key, and in a value it can stand for a
/// blank (go-yaml, `is_break`).
fn check_line_ends(source: &[u8]) -> Result<(), DocumentError> {
    let refused = |at: usize, construct| {
        Err(DocumentError::Line {
            line: memchr::memchr_iter(b'\n', &source[..at]).count() + 1,
            construct,
            format: "YAML",
        })
    };
    for at in memchr::memchr3_iter(b'\r', 0xc2, 0xe2, source) {
        match &source[at..] {
            [b'\r', b'\n', ..] => (),
            [b'\r', ..] => return refused(at, "a carriage return without a line feed"),
            [0xc2, 0x85, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..] => {
                return refused(at, "a line separator (U+0085, U+2028 or U+2029)");
            }
            _ => (),
        }
    }
    Ok(())
}

/// Says how the token of a plain or quoted scalar is written.
fn quoted_spelling(source: &[u8], part: &Part<'_>, quote: Quote, in_flow: bool) -> Spelling {
    let with_note = |spelling: Spelling, text: Range<usize>, construct| Spelling {
        note: Note::Source { text, construct },
        ..spelling
    };
    let text = &source[part.span.clone()];
    let has_break = memchr::memchr(b'\n', text).is_some();
    match quote {
        Quote::Plain => {
            let is_text = matches!(part.value, Value::Str(_));
            let spelling = if in_flow {
                Spelling {
                    note: if is_text { Note::Mark } else { Note::None },
                    ..Spelling::quoted("\"", "\"")
                }
            } else {
                Spelling::BARE
            };
            if has_break {
                with_note(
                    spelling,
                    part.span.clone(),
                    "a plain value over several lines",
                )
            } else if is_text
                && !std::str::from_utf8(text)
                    .is_ok_and(|text| scalar::is_plain_syntax(text, in_flow))
            {
                with_note(
                    spelling,
                    part.span.clone(),
                    "a plain value with unusual characters",
                )
            } else if !is_text && scalar::plain_spelling(&part.value).as_bytes() != text {
                with_note(
                    spelling,
                    part.span.clone(),
                    "a value with an unusual spelling",
                )
            } else {
                spelling
            }
        }
        Quote::Single => {
            let spelling = Spelling::quoted("'", "'");
            if has_break {
                with_note(
                    spelling,
                    part.span.clone(),
                    "a quoted value over several lines",
                )
            } else if String::from_utf8_lossy(text).contains(scalar::is_special) {
                with_note(
                    spelling,
                    part.span.clone(),
                    "a quoted value with unusual characters",
                )
            } else {
                spelling
            }
        }
        Quote::Double => {
            let spelling = Spelling::quoted("\"", "\"");
            if has_break {
                return with_note(
                    spelling,
                    part.span.clone(),
                    "a quoted value over several lines",
                );
            }
            let mut canonical = SecretBytes::new(Vec::with_capacity(text.len() * 2));
            let value = part.value.plaintext();
            let is_same = std::str::from_utf8(value.expose()).is_ok_and(|value| {
                scalar::write_double(value, canonical.expose_mut());
                canonical.expose() == text
            });
            if is_same {
                spelling
            } else {
                with_note(spelling, part.span.clone(), "a string with unusual escapes")
            }
        }
        Quote::Literal | Quote::Folded => Spelling::BARE,
    }
}

/// Says how the token of a block scalar is written: in place of its lines, indented as they are.
fn block_spelling(
    source: &[u8],
    part: &Part<'_>,
    quote: Quote,
    lines: Range<usize>,
    indent: usize,
) -> Spelling {
    let indent = &BLANKS[..indent.min(BLANKS.len())];
    let keeps_indent = part.span.start > lines.start;
    let value = part.value.plaintext();
    let is_text = std::str::from_utf8(value.expose()).is_ok_and(is_literal);
    if quote == Quote::Literal && keeps_indent && is_text {
        let text = &source[part.span.clone()];
        let mut canonical = SecretBytes::new(Vec::with_capacity(text.len() * 2));
        let ending = line_end_before(source, lines.start);
        write_literal(value.expose(), indent, ending, canonical.expose_mut());
        if canonical.expose() == text {
            return Spelling::BARE;
        }
    }
    let construct = match quote {
        Quote::Literal => "a literal block with unusual blanks",
        _ => "a folded block",
    };
    Spelling {
        note: Note::Source {
            text: lines,
            construct,
        },
        ..Spelling::quoted(if keeps_indent { "" } else { indent }, "")
    }
}

fn line_end_before(source: &[u8], at: usize) -> &'static [u8] {
    if source[..at].ends_with(b"\r\n") {
        b"\r\n"
    } else {
        b"\n"
    }
}

/// Appends the lines of a literal block, the first without its indentation, the last without its line
/// break.
fn write_literal(value: &[u8], indent: &str, line_end: &[u8], out: &mut Vec<u8>) {
    let end = value
        .iter()
        .rposition(|&byte| byte != b'\n')
        .map_or(0, |at| at + 1);
    for (index, line) in value[..end].split(|&byte| byte == b'\n').enumerate() {
        if index > 0 {
            out.extend_from_slice(line_end);
            if !line.is_empty() {
                out.extend_from_slice(indent.as_bytes());
            }
        }
        out.extend_from_slice(line);
    }
}

/// Writes the leaves of an alias to a collection out: a mapping or list in brackets, with a tag that
/// names the alias.
fn expand(composed: &Composed<'_>, number: usize) -> Vec<Expanded> {
    let alias = &composed.aliases[number];
    let parts = &composed.parts[alias.parts.clone()];
    let mut all = Vec::with_capacity(parts.len());
    // The containers that are open, outermost first, and whether something stands in each.
    let mut open: Vec<(u32, bool)> = Vec::new();
    let close = |kind: Container| match kind {
        Container::List => b']',
        Container::Map => b'}',
    };
    let kind_of = |frame: u32| composed.frames[frame as usize].kind;
    for (index, part) in parts.iter().enumerate() {
        let mut before = Vec::new();
        let mut chain = vec![part.frame];
        while let Some(&last) = chain.last()
            && last != alias.frame
            && let Some(parent) = composed.frames[last as usize].parent
        {
            chain.push(parent);
        }
        let mut closing = Vec::new();
        while open.last().is_some_and(|(frame, _)| !chain.contains(frame)) {
            if let Some((frame, _)) = open.pop() {
                closing.push(close(kind_of(frame)));
            }
        }
        if let Some(previous) = all.last_mut() {
            let previous: &mut Expanded = previous;
            previous.after.extend_from_slice(&closing);
        }
        for id in chain.into_iter().rev() {
            if open.iter().any(|(frame, _)| *frame == id) {
                continue;
            }
            let frame = &composed.frames[id as usize];
            if open.is_empty() {
                before.extend_from_slice(format!("!{ALIAS_TAG}{} ", alias.name).as_bytes());
            } else {
                begin_item(&mut open, frame.step, &frame.path, &mut before);
            }
            before.push(match frame.kind {
                Container::List => b'[',
                Container::Map => b'{',
            });
            open.push((id, false));
        }
        begin_item(&mut open, part.step, &part.path, &mut before);
        let mut clear = SecretBytes::default();
        write_clear(&part.value, clear.expose_mut());
        let original = match part.shape {
            Shape::Copy { original, .. } => original,
            _ => alias.parts.start + index,
        };
        all.push(Expanded {
            following: parts.len() - 1 - index,
            original,
            before,
            after: Vec::new(),
            clear,
        });
    }
    if let Some(last) = all.last_mut() {
        while let Some((frame, _)) = open.pop() {
            last.after.push(close(kind_of(frame)));
        }
    }
    all
}

/// Appends what stands before an item in brackets: a comma, its key.
fn begin_item(open: &mut [(u32, bool)], step: Step, path: &KeyPath, out: &mut Vec<u8>) {
    if let Some((_, has_items)) = open.last_mut() {
        if *has_items {
            out.extend_from_slice(b", ");
        }
        *has_items = true;
    }
    if step == Step::Key {
        let key = String::from_utf8_lossy(path.last().unwrap_or_default());
        scalar::write_double(&key, out);
        out.extend_from_slice(b": ");
    }
}

/// Appends a value in clear as it can stand in brackets.
fn write_clear(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Str(text) => {
            scalar::write_double(&String::from_utf8_lossy(text.expose()), out);
        }
        value => out.extend_from_slice(scalar::plain_spelling(value).as_bytes()),
    }
}

/// Returns the part of the source that is metadata.
fn cut_of(source: &[u8], reserved: &Reserved) -> Range<usize> {
    let end = reserved.value.end.min(source.len());
    if reserved.is_flow {
        return match source[..reserved.key.start].trim_ascii_end() {
            [before @ .., b','] => before.len()..end,
            before => {
                let rest = source[end..].trim_ascii_start();
                match rest {
                    [b',', after @ ..] => {
                        let after = after.trim_ascii_start();
                        before.len()..source.len() - after.len()
                    }
                    _ => before.len()..end,
                }
            }
        };
    }
    let line = memchr::memrchr(b'\n', &source[..reserved.key.start]).map_or(0, |at| at + 1);
    // A key in quotes says that the source ends without a line break.
    let is_quoted = matches!(source[reserved.key.start], b'"' | b'\'');
    let start = if is_quoted && source[end..].trim_ascii().is_empty() {
        line.saturating_sub(1)
    } else {
        line
    };
    let mut end = end;
    // The value of a block ends with its last line.
    if end > 0 && source[end - 1] != b'\n' {
        end = memchr::memchr(b'\n', &source[end..]).map_or(source.len(), |at| end + at + 1);
    }
    start..end
}

/// Reads the metadata below the key `sops`.
fn read_node(source: &[u8], reserved: &Reserved) -> Result<Node, DocumentError> {
    let end = reserved.value.end.min(source.len());
    let line = memchr::memrchr(b'\n', &source[..reserved.key.start]).map_or(0, |at| at + 1);
    // Read by itself, at the column it stands in.
    let mut text = vec![b' '; reserved.key.start - line];
    if reserved.is_flow {
        text.push(b'{');
        text.extend_from_slice(&source[reserved.key.start..end]);
        text.push(b'}');
    } else {
        text.extend_from_slice(&source[reserved.key.start..end]);
    }
    let damaged = || DocumentError::Syntax {
        line: line_of(source, reserved.key.start),
        column: 1,
        format: "YAML",
        problem: "the `sops` block cannot be read",
    };
    let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
    let renamed = text.replacen("sops", "data", 1);
    let composed = compose(renamed.as_bytes(), false).map_err(|_| damaged())?;
    let leaves = composed.parts.iter();
    let items = leaves
        .filter(|part| !matches!(part.value, Value::Comment(_)))
        .map(|part| (&part.path, part.frame, part.step, part.value.borrowed()));
    let tree = Tree::build(&composed.frames, items);
    let node = tree.documents.first().and_then(|items| match &items[..] {
        [Item::Entry { node, .. }] => Some(node_of(node)),
        _ => None,
    });
    node.ok_or_else(damaged)
}

fn node_of(node: &tree::Node<'_>) -> Node {
    use super::super::tree::Node as TreeNode;
    let entries = |items: &[Item<'_>]| -> Vec<(String, Node)> {
        items
            .iter()
            .filter_map(|item| match item {
                Item::Entry { key, node } => {
                    Some((String::from_utf8_lossy(key).into_owned(), node_of(node)))
                }
                Item::Comment { .. } => None,
            })
            .collect()
    };
    match node {
        TreeNode::List(items) => {
            Node::List(entries(items).into_iter().map(|(_, node)| node).collect())
        }
        TreeNode::Map(items) => Node::Map(entries(items)),
        TreeNode::Scalar(value) => match value {
            Value::Bool(flag) => Node::Bool(*flag),
            Value::Empty(Container::List) => Node::List(Vec::new()),
            Value::Empty(Container::Map) => Node::Map(Vec::new()),
            Value::Int(number) => Node::Number((*number).into()),
            Value::Null => Node::Null,
            Value::Float(number) => {
                serde_json::Number::from_f64(*number).map_or(Node::Null, Node::Number)
            }
            value => Node::Text(String::from_utf8_lossy(value.plaintext().expose()).into_owned()),
        },
    }
}

/// Returns metadata as it stands in braces: JSON on one line, which is YAML too.
fn flow_json(node: &Node) -> String {
    let text = serde_json::to_string(node).unwrap_or_default();
    // `": "` between key and value, as YAML wants it, and `, ` between members.
    let mut out = String::with_capacity(text.len() + 64);
    let mut in_text = false;
    let mut is_escaped = false;
    for character in text.chars() {
        out.push(character);
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if in_text => is_escaped = true,
            '"' => in_text = !in_text,
            ':' | ',' if !in_text => out.push(' '),
            _ => {}
        }
    }
    out
}

/// Writes the plain text of a sealed document.
fn write_plain(sealed: &SealedDocument, opened: &OpenedLeaves) -> SecretBytes {
    splice_values(sealed, opened, &mut |index, value, out| {
        let leaf = &sealed.leaves[index];
        let note = opened.notes.get(&index);
        if let Value::Comment(text) = value {
            return write_comment(leaf, text.expose(), note, out);
        }
        if let Some(OpenNote::Source(text)) = note {
            return write_source(leaf, text.expose(), out);
        }
        let plaintext = value.plaintext();
        let text = String::from_utf8_lossy(plaintext.expose());
        let is_text = matches!(value, Value::Str(_));
        let is_marked = matches!(note, Some(OpenNote::Mark));
        match leaf.style {
            Style::Double | Style::Bare | Style::BareInFlow | Style::Single if !is_text => {
                out.extend_from_slice(scalar::plain_spelling(value).as_bytes());
            }
            Style::Double if is_marked && scalar::is_plain(&text, true) => {
                out.extend_from_slice(text.as_bytes());
            }
            Style::Double
                if has_tag_before(out) && is_marked && scalar::is_plain_syntax(&text, true) =>
            {
                out.extend_from_slice(text.as_bytes());
            }
            Style::Double if std::str::from_utf8(plaintext.expose()).is_ok() => {
                scalar::write_double(&text, out);
            }
            Style::Single if !text.contains('\n') && !text.contains(scalar::is_special) => {
                scalar::write_single(&text, out);
            }
            Style::Bare
                if scalar::is_plain(&text, false)
                    || (has_tag_before(out) && scalar::is_plain_syntax(&text, false)) =>
            {
                out.extend_from_slice(text.as_bytes());
            }
            Style::BareInFlow if scalar::is_plain(&text, true) => {
                out.extend_from_slice(text.as_bytes());
            }
            Style::Literal if is_literal(&text) => {
                let start = memchr::memrchr(b'\n', &sealed.source[..leaf.span.start])
                    .map_or(0, |at| at + 1);
                let columns = leaf.span.start - start;
                let ending = line_end_before(&sealed.source, start);
                write_literal(
                    text.as_bytes(),
                    &BLANKS[..columns.min(BLANKS.len())],
                    ending,
                    out,
                );
            }
            Style::Literal | Style::Folded => {
                drop_block_header(out);
                stock::write_text(plaintext.expose(), out);
            }
            _ => stock::write_text(plaintext.expose(), out),
        }
    })
}

/// Returns whether the value that comes next has a tag.
fn has_tag_before(out: &[u8]) -> bool {
    /// Longer tags than this are taken for none: lines may be long.
    const LOOKED_AT: usize = 512;
    let out = &out[out.len().saturating_sub(LOOKED_AT)..];
    let line = memchr::memrchr(b'\n', out).map_or(0, |at| at + 1);
    let is_before = |byte: &u8| matches!(byte, b' ' | b'[' | b'{');
    let words = out[line..].trim_ascii_end().rsplit(is_before);
    // What stands before it in a list in brackets may touch it; a key ends in a colon.
    let property = |word: &[u8]| {
        let last = word.rsplit(|byte| matches!(byte, b',' | b':')).next();
        let last = last.filter(|_| !word.ends_with(b":"));
        let firsts = [word.first(), last.and_then(|last| last.first())];
        [b'!', b'&']
            .into_iter()
            .find(|start| firsts.contains(&Some(start)))
    };
    words.map_while(property).any(|property| property == b'!')
}

/// Returns whether a text can stand in a literal block without an indentation digit.
fn is_literal(text: &str) -> bool {
    !text.contains(|character| character != '\n' && scalar::is_special(character))
}

fn write_comment(leaf: &SealedLeaf, text: &[u8], note: Option<&OpenNote>, out: &mut Vec<u8>) {
    if !leaf.is_comment {
        // The reference writes an encrypted comment in a list as an item: the dash goes.
        if let Some(dash) = memchr::memrchr(b'-', out) {
            out.truncate(dash);
        }
        out.push(b'#');
    }
    if !matches!(note, Some(OpenNote::Mark)) {
        out.extend_from_slice(text);
    }
}

/// Appends the source text of a note. That of a block is whole lines, and that of an anchored value may
/// begin with the anchor: what of it stands there already goes.
fn write_source(leaf: &SealedLeaf, text: &[u8], out: &mut Vec<u8>) {
    if matches!(leaf.style, Style::Literal | Style::Folded) {
        let line = memchr::memrchr(b'\n', out).map_or(0, |at| at + 1);
        out.truncate(line);
        let is_blank = text.trim_ascii().is_empty();
        let text = if is_blank {
            text.strip_suffix(b"\n").unwrap_or(text)
        } else {
            text
        };
        out.extend_from_slice(text);
        return;
    }
    if text.starts_with(b"&")
        && let Some(anchor) = memchr::memrchr(b'&', out)
    {
        out.truncate(anchor);
    }
    out.extend_from_slice(text);
}

/// Takes the header of a block scalar back.
fn drop_block_header(out: &mut Vec<u8>) {
    let line = memchr::memrchr(b'\n', out).unwrap_or(0);
    if let Some(header) = memchr::memrchr2(b'|', b'>', &out[..line]) {
        out.truncate(header);
    }
}

/// Returns the leaves whose notes do not say what their tokens say.
fn stale_notes(sealed: &SealedDocument, opened: &OpenedLeaves, plain: &[u8]) -> Vec<usize> {
    let all = || opened.notes.keys().copied().collect();
    let Ok(composed) = compose(plain, false) else {
        return all();
    };
    let is_data = |value: &Value<'_>| !matches!(value, Value::Comment(_));
    let written: Vec<_> = composed
        .parts
        .iter()
        .filter(|part| is_data(&part.value))
        .map(|part| &part.value)
        .collect();
    let expected: Vec<(usize, Value<'_>)> = sealed
        .leaves
        .iter()
        .zip(&opened.values)
        .enumerate()
        .map(|(index, (leaf, value))| match value {
            Some(value) => (index, value.borrowed()),
            None => (index, sealed.clear_value(leaf)),
        })
        .filter(|(_, value)| is_data(value))
        .collect();
    if written.len() != expected.len() {
        return all();
    }
    let pairs = expected.iter().zip(written);
    pairs
        .filter(|((_, expected), written)| !expected.is_same(written))
        .map(|((index, _), _)| *index)
        .collect()
}
