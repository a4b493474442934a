//! INI as SOPS reads it: sections of `key = value` lines, all values strings.
//!
//! The reader is that of Go's `ini.v1`: a `#` or `;` anywhere in a value begins a comment, quotes or
//! not; comment lines above an item and behind it are one comment; of a key that stands twice the
//! last value counts, at the place of the first (SOPS `stores/ini/store.go`). Only values and comment
//! texts are replaced; blanks, quotes, marks and line ends stay.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::secret::{SecretBytes, SecretText};

use super::super::document::{
    Container, Document, Extent, Frame, KeyPath, Leaf, Note, SealedDocument, SealedLeaf, Seat,
    Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{self, Metadata};
use super::super::tree::{Item, Node, Tree};
use super::super::value::Value;
use super::flatten::{flatten, unflatten};
use super::{
    Indents, LeafText, OpenNote, OpenedLeaves, Store, conflict_marker, splice_leaves, splice_values,
};

/// The section of keys that stand in front of any header.
const DEFAULT_SECTION: &[u8] = b"DEFAULT";
/// The section of the metadata.
const METADATA_SECTION: &[u8] = b"sops";
/// The word of a note that says that its comment line was inserted for the comment behind the header
/// below; the number of blanks behind that one's mark follows.
const HEADER_WORD: &str = "h";
/// As many of those blanks as are carried.
const HEADER_BLANKS: &str = "                                                                ";

pub(super) struct IniStore;

/// A comment: its text as the reference joins it, and where its lines stand.
struct Comment {
    /// Its lines from their marks on, but for one behind an item.
    lines: Vec<Range<usize>>,
    /// The lines joined, marks of the first left out.
    text: SecretBytes,
    /// The text of the first line; behind the mark alone where it has none.
    first: Range<usize>,
    /// The further lines: behind the mark, up to the last byte that is not blank.
    others: Vec<Range<usize>>,
    /// Whether the first place is behind a section's header.
    on_header: bool,
    /// Whether the last place is on the line of its item.
    is_inline: bool,
}

impl Comment {
    /// Returns whether it stands behind a section's header and nowhere else.
    fn is_header_only(&self) -> bool {
        self.on_header && self.others.is_empty()
    }

    /// Returns the number of blanks between its mark and its text.
    fn blanks_before(&self, source: &[u8]) -> usize {
        let before = source[..self.first.start].iter().rev();
        before.take_while(|byte| **byte == b' ').count()
    }

    fn step(&self, is_shadowed: bool) -> Step {
        if is_shadowed {
            Step::Shadowed
        } else if self.is_inline {
            Step::Aside
        } else {
            Step::Remark
        }
    }
}

struct KeyLine {
    key: Vec<u8>,
    value: SecretBytes,
    /// Where the value stands: what its quotes hold.
    span: Range<usize>,
    style: Style,
    /// The value goes on over lines by backslashes.
    is_continued: bool,
    /// A comment follows the quote that ends a value of several lines: it is one only there.
    needs_lines: bool,
    comment: Option<Comment>,
}

struct Section {
    name: Vec<u8>,
    /// Where its header's line begins, and where it ends.
    header: Range<usize>,
    comment: Option<Comment>,
    keys: Vec<KeyLine>,
}

struct Scan {
    sections: Vec<Section>,
    /// What stands behind the last item, line by line: the reference does not read it.
    tail: Vec<Comment>,
}

/// One item of the tree, in its order.
#[derive(Clone, Copy)]
enum Piece<'s> {
    Comment {
        comment: &'s Comment,
        section: Option<&'s Section>,
        is_shadowed: bool,
    },
    Empty,
    Key {
        line: &'s KeyLine,
        is_shadowed: bool,
    },
}

impl Scan {
    /// Calls `take` for each item in the order of the tree, with the frame it stands in and its path.
    fn walk(&self, mut take: impl FnMut(Piece<'_>, u32, KeyPath)) -> Vec<Frame> {
        let mut frames = vec![Frame::root(0)];
        for section in &self.sections {
            let path = KeyPath::root().child(&section.name);
            let is_empty = section.comment.is_none() && section.keys.is_empty();
            if is_empty {
                take(Piece::Empty, Frame::ROOT, path);
                continue;
            }
            let frame = u32::try_from(frames.len()).unwrap_or(u32::MAX);
            frames.push(Frame {
                parent: Some(Frame::ROOT),
                step: Step::Key,
                kind: Container::Map,
                path: path.clone(),
            });
            if let Some(comment) = &section.comment {
                let piece = Piece::Comment {
                    comment,
                    section: Some(section),
                    is_shadowed: false,
                };
                take(piece, frame, path.clone());
            }
            let mut last_of: HashMap<&[u8], usize> = HashMap::new();
            for (index, line) in section.keys.iter().enumerate() {
                last_of.insert(&line.key, index);
            }
            let mut is_taken = vec![false; section.keys.len()];
            for (index, line) in section.keys.iter().enumerate() {
                // Of a key that stands twice, the last value counts at the place of the first.
                let last = last_of.get(&*line.key).copied().unwrap_or(index);
                for (at, is_shadowed) in [(last, false), (index, true)] {
                    if std::mem::replace(&mut is_taken[at], true) {
                        continue;
                    }
                    let line = &section.keys[at];
                    let key_path = path.child(&line.key);
                    take(Piece::Key { line, is_shadowed }, frame, key_path);
                    if let Some(comment) = &line.comment {
                        let piece = Piece::Comment {
                            comment,
                            section: None,
                            is_shadowed,
                        };
                        take(piece, frame, path.clone());
                    }
                }
            }
        }
        for comment in &self.tail {
            let piece = Piece::Comment {
                comment,
                section: None,
                is_shadowed: false,
            };
            take(piece, Frame::ROOT, KeyPath::root());
        }
        frames
    }
}

impl Store for IniStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        let scan = scan(source)?;
        for section in &scan.sections {
            if section.name == METADATA_SECTION {
                return Err(DocumentError::ReservedKey {
                    line: line_of(source, section.header.start),
                    name: "is `sops`",
                });
            }
            let comment = section.comment.as_ref();
            if comment.is_some_and(|comment| {
                comment.is_header_only() && comment.blanks_before(source) > HEADER_BLANKS.len()
            }) {
                return Err(DocumentError::Line {
                    line: line_of(source, section.header.start),
                    construct: "a comment behind a section header with more than 64 blanks before its text",
                    format: "INI",
                });
            }
        }
        let mut leaves = Vec::new();
        let frames = scan.walk(|piece, frame, path| {
            leaves.push(leaf_of(source, piece, frame, path));
        });
        Ok(Document {
            source,
            leaves,
            frames,
            seat: Seat {
                at: source.len(),
                ..Seat::default()
            },
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let mut scan = scan(&source)?;
        let at = scan
            .sections
            .iter()
            .position(|section| section.name == METADATA_SECTION)
            .ok_or(DocumentError::NotSops)?;
        let block = scan.sections.remove(at);
        let pairs = block.keys.iter().map(|line| {
            let text = String::from_utf8_lossy(line.value.expose()).replace("\\n", "\n");
            (String::from_utf8_lossy(&line.key).into_owned(), text)
        });
        let metadata = Metadata::from_node(unflatten(pairs.collect())?)?;
        let start = block.header.start;
        let end = scan
            .sections
            .get(at)
            .map_or(source.len(), |next| next.header.start);
        let before = match &source[..start] {
            [.., b'\n'] => start - 1,
            _ => start,
        };
        // Comments above the metadata are the last of the file; below it there is nothing.
        scan.tail
            .retain(|comment| comment.first.start < block.header.start);
        let lines = block
            .comment
            .iter()
            .flat_map(|comment| comment.lines.iter());
        scan.tail
            .extend(lines.filter_map(|line| single(&source, line)));
        let mut leaves = Vec::new();
        let mut places = BTreeMap::new();
        let frames = scan.walk(|piece, frame, path| {
            if let Piece::Comment { comment, .. } = &piece {
                places.insert(leaves.len(), comment.others.clone());
            }
            leaves.push(sealed_leaf(piece, frame, path));
        });
        move_inserted_comments(&source, &mut leaves, &mut places);
        Ok(SealedDocument {
            leaves,
            frames,
            metadata_spans: std::iter::once(before..end).collect(),
            aliases: Vec::new(),
            places,
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
            out.push(b'\n');
            write_metadata(metadata().node(), out);
        })
    }

    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes {
        splice_values(sealed, opened, &mut |index, value, out| {
            let leaf = &sealed.leaves[index];
            let text = value.flat_text();
            match (value, opened.notes.get(&index)) {
                // The lines of a comment go to their places; only the first stands here.
                (Value::Comment(_), Some(OpenNote::Word(_))) => {}
                (Value::Comment(_), note) => {
                    let is_blank =
                        matches!(note, Some(OpenNote::Mark)) && text.expose().starts_with(b" ");
                    let first = first_line(text.expose());
                    out.extend_from_slice(if is_blank { b"" } else { first });
                }
                (_, Some(OpenNote::Source(source)))
                    if continues(source.expose(), text.expose()) =>
                {
                    out.extend_from_slice(source.expose());
                }
                _ => {
                    let behind = trim(first_line(&sealed.source[leaf.span.end..]));
                    // Behind such quotes on one line the reference reads nothing.
                    let is_last = matches!(leaf.style, Style::Backtick | Style::Triple)
                        && !sealed.source[leaf.span.clone()].contains(&b'\n');
                    let is_commented = !is_last && matches!(behind, [b'#' | b';', ..]);
                    write_value(text.expose(), leaf.style, is_commented, out);
                }
            }
        })
    }

    fn spell(&self, text: &str, _like: &Value<'_>) -> SecretBytes {
        let mut out = SecretBytes::new(Vec::with_capacity(text.len() + 6));
        stock::write_value(text.as_bytes(), out.expose_mut());
        out
    }

    fn is_respelled(&self) -> bool {
        true
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&metadata::Node>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        stock::write(tree, metadata)
    }

    /// Prints JSON on one line, as the reference does.
    fn emit_value(
        &self,
        value: &Node<'_>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        let json = super::Format::Json.store();
        let Node::List(items) = value else {
            return json.emit_value(value, Indents::default());
        };
        let mut out = SecretBytes::copy_of(b"[");
        for item in items {
            let Item::Entry { node, .. } = item else {
                continue;
            };
            if node.has_children() {
                return Err(DocumentError::Inexpressible {
                    what: "a list of lists or mappings",
                    format: "INI",
                });
            }
            if out.len() > 1 {
                out.expose_mut().push(b',');
            }
            let text = json.emit_value(node, Indents::default())?;
            out.expose_mut().extend_from_slice(text.expose());
        }
        out.expose_mut().push(b']');
        Ok(out)
    }
}

/// Returns where the text of an inserted comment line goes: behind the mark on the header below, and the
/// blanks that the word counts are written there.
pub(super) fn header_place(
    sealed: &SealedDocument,
    index: usize,
    word: &str,
) -> Option<(usize, &'static str)> {
    let count: usize = word.strip_prefix(HEADER_WORD)?.parse().ok()?;
    let start = sealed.leaves.get(index)?.span.end;
    let rest = &sealed.source[start..];
    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    let line = &rest[..end];
    let at = start + trim(line).len() + (line.len() - trim_start(line).len());
    Some((at, HEADER_BLANKS.get(..count)?))
}

/// Lets the text of an inserted comment line return to its header: the line goes as a whole.
fn move_inserted_comments(
    source: &[u8],
    leaves: &mut [SealedLeaf],
    places: &mut BTreeMap<usize, Vec<Range<usize>>>,
) {
    for (index, leaf) in leaves.iter_mut().enumerate() {
        let text = &source[leaf.text.clone()];
        let is_inserted = leaf.is_comment
            && matches!(
                super::super::cipher::NoteText::after(text),
                (_, Some(super::super::cipher::NoteText::Word(word))) if word.starts_with(HEADER_WORD.as_bytes())
            );
        if !is_inserted {
            continue;
        }
        let end = memchr::memchr(b'\n', &source[leaf.span.end..])
            .map_or(source.len(), |length| leaf.span.end + length + 1);
        let first = if source.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        let start = memchr::memrchr(b'\n', &source[..leaf.span.start]).map_or(first, |at| at + 1);
        leaf.span = start..end;
        places.entry(index).or_default();
    }
}

fn line_of(source: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &source[..at.min(source.len())]).count() + 1
}

fn first_line(text: &[u8]) -> &[u8] {
    let line = text.split(|&byte| byte == b'\n').next();
    trim_end(line.unwrap_or_default())
}

/// Trims the end as [`trim`] does.
pub(super) fn trim_end(line: &[u8]) -> &[u8] {
    let blanks = line.len() - trim_start(line).len();
    let text = trim(line);
    if text.is_empty() {
        text
    } else {
        &line[..blanks + text.len()]
    }
}

fn leaf_of<'a>(source: &[u8], piece: Piece<'_>, frame: u32, path: KeyPath) -> Leaf<'a> {
    match piece {
        Piece::Comment {
            comment,
            section,
            is_shadowed,
        } => {
            let mut spelling = Spelling::BARE;
            let mut span = comment.first.clone();
            let mut text = comment.text.clone();
            if let (true, Some(section)) = (comment.is_header_only(), section) {
                // No token may stand behind a header: its `]` would end the name.
                let start = section.header.start;
                let before = comment.blanks_before(source);
                let blanks = comment.first.start - before..comment.first.end;
                span = start..start;
                spelling.open = "; ";
                spelling.close = if source[..section.header.end].ends_with(b"\r") {
                    "\r\n"
                } else {
                    "\n"
                };
                spelling.note = Note::Word {
                    word: format!("{HEADER_WORD}{before}").into(),
                    construct: "a comment behind a section header",
                };
                spelling.extent = Extent::Joined(Box::new([blanks]));
            } else if !comment.others.is_empty() {
                spelling.extent = Extent::Joined(comment.others.clone().into());
                if text.expose().starts_with(b"\n") {
                    let mut blank = SecretBytes::new(Vec::with_capacity(text.len() + 1));
                    blank.expose_mut().push(b' ');
                    blank.expose_mut().extend_from_slice(text.expose());
                    text = blank;
                    spelling.note = Note::Mark;
                }
            }
            Leaf {
                path,
                frame,
                step: comment.step(is_shadowed),
                value: Value::Comment(SecretText::Owned(text)),
                span,
                spelling,
            }
        }
        Piece::Empty => Leaf {
            path,
            frame,
            step: Step::Key,
            value: Value::Empty(Container::Map),
            span: 0..0,
            spelling: Spelling::BARE,
        },
        Piece::Key { line, is_shadowed } => {
            let mut spelling = Spelling::BARE;
            if line.needs_lines {
                spelling.close = "\n";
            }
            if line.is_continued {
                spelling.note = Note::Source {
                    text: line.span.clone(),
                    construct: "a value continued by a backslash",
                };
            }
            Leaf {
                path,
                frame,
                step: if is_shadowed {
                    Step::Shadowed
                } else {
                    Step::Key
                },
                value: Value::Str(SecretText::Owned(line.value.clone())),
                span: line.span.clone(),
                spelling,
            }
        }
    }
}

fn sealed_leaf(piece: Piece<'_>, frame: u32, path: KeyPath) -> SealedLeaf {
    match piece {
        Piece::Comment {
            comment,
            is_shadowed,
            ..
        } => SealedLeaf {
            path,
            frame,
            step: comment.step(is_shadowed),
            is_comment: true,
            span: comment.first.clone(),
            text: comment.first.clone(),
            unescaped: None,
            clear: Some(Value::Comment(SecretText::Owned(comment.text.clone()))),
            style: Style::Bare,
        },
        Piece::Empty => SealedLeaf {
            path,
            frame,
            step: Step::Key,
            is_comment: false,
            span: 0..0,
            text: 0..0,
            unescaped: None,
            clear: Some(Value::Empty(Container::Map)),
            style: Style::Covered,
        },
        Piece::Key { line, is_shadowed } => SealedLeaf {
            path,
            frame,
            step: if is_shadowed {
                Step::Shadowed
            } else {
                Step::Key
            },
            is_comment: false,
            span: line.span.start - quote_of(line.style).len()
                ..line.span.end + quote_of(line.style).len(),
            text: line.span.clone(),
            unescaped: line.is_continued.then(|| line.value.expose().to_vec()),
            clear: Some(Value::Str(SecretText::Owned(line.value.clone()))),
            style: line.style,
        },
    }
}

/// Returns whether lines joined by backslashes give the value.
fn continues(source: &[u8], value: &[u8]) -> bool {
    let mut reader = Reader { source, at: 0 };
    let line = reader.line();
    let text = trim(&source[line.clone()]);
    matches!(text, [before @ .., b'\\'] if reader.continuation(before).expose() == value)
}

/// Appends a value in its quotes where it reads back between them, else in quotes of its own. Before a comment a backslash
/// at its end is nothing but that.
fn write_value(value: &[u8], style: Style, is_commented: bool, out: &mut Vec<u8>) {
    let quote = quote_of(style);
    let behind: &[u8] = if is_commented { b" ; c\n" } else { b"\n" };
    let line = [b"k = ", quote, value, quote, behind].concat();
    let reads_back = scan(&line).is_ok_and(|scan| {
        matches!(&scan.sections[..], [Section { keys, .. }]
            if matches!(&keys[..], [key]
                if key.value.expose() == value && key.comment.is_some() == is_commented))
    });
    if reads_back {
        out.extend_from_slice(quote);
        out.extend_from_slice(value);
        out.extend_from_slice(quote);
    } else {
        stock::write_value(value, out);
    }
}

fn quote_of(style: Style) -> &'static [u8] {
    match style {
        Style::Backtick => b"`",
        Style::Double => b"\"",
        Style::Single => b"'",
        Style::Triple => b"\"\"\"",
        _ => b"",
    }
}

/// Appends the `[sops]` section.
fn write_metadata(node: &metadata::Node, out: &mut Vec<u8>) {
    let pairs = flatten(node);
    out.extend_from_slice(b"[sops]\n");
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in pairs {
        out.extend_from_slice(format!("{key:<width$} = ").as_bytes());
        stock::write_value(value.replace('\n', "\\n").as_bytes(), out);
        out.push(b'\n');
    }
}

/// Trims as Go's `strings.TrimSpace` does: Unicode's white space, up to what is not UTF-8.
fn trim(text: &[u8]) -> &[u8] {
    let text = trim_start(text);
    let mut end = text.len();
    for chunk in text.utf8_chunks().collect::<Vec<_>>().iter().rev() {
        if !chunk.invalid().is_empty() {
            break;
        }
        end -= chunk.valid().len() - chunk.valid().trim_end().len();
        if !chunk.valid().trim_end().is_empty() {
            break;
        }
    }
    &text[..end]
}

/// Trims the beginning as Go's `unicode.IsSpace` tells.
fn trim_start(text: &[u8]) -> &[u8] {
    let first = text.utf8_chunks().next();
    let first = first.map_or("", |chunk| chunk.valid());
    &text[first.len() - first.trim_start().len()..]
}

/// Returns where `part`, a part of `whole`, stands in it.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

struct Reader<'s> {
    source: &'s [u8],
    at: usize,
}

impl Reader<'_> {
    /// Returns the next line with its line feed.
    fn line(&mut self) -> Range<usize> {
        let start = self.at;
        let end = memchr::memchr(b'\n', &self.source[start..])
            .map_or(self.source.len(), |length| start + length + 1);
        self.at = end;
        start..end
    }

    /// Reads the lines behind one that ends in a backslash.
    fn continuation(&mut self, first: &[u8]) -> SecretBytes {
        let mut value = first.to_vec();
        while self.at < self.source.len() {
            let line = self.line();
            let next = trim(&self.source[line]);
            if next.is_empty() {
                break;
            }
            value.extend_from_slice(next);
            if value.last() != Some(&b'\\') {
                break;
            }
            value.pop();
        }
        SecretBytes::new(value)
    }
}

/// Returns a line as a comment of its own.
fn single(source: &[u8], line: &Range<usize>) -> Option<Comment> {
    let mut pending = Pending {
        lines: vec![line.clone()],
    };
    pending.take(source, None, false)
}

/// Comment lines that wait for their item.
#[derive(Default)]
struct Pending {
    lines: Vec<Range<usize>>,
}

impl Pending {
    /// Makes one comment of the lines, and of what stands behind an item on its line: from its mark to
    /// the end.
    fn take(
        &mut self,
        source: &[u8],
        inline: Option<&Range<usize>>,
        on_header: bool,
    ) -> Option<Comment> {
        let lines = std::mem::take(&mut self.lines);
        let has_lines = !lines.is_empty();
        let is_inline = inline.is_some();
        let mut joined = SecretBytes::new(Vec::new());
        let mut places: Vec<Range<usize>> = Vec::new();
        for line in lines.iter().chain(inline) {
            joined.expose_mut().extend_from_slice(&source[line.clone()]);
            places.push(range_in(source, trim(&source[line.clone()])));
        }
        let first = places.first()?.clone();
        // The first line loses its mark and what repeats it; blanks too.
        let text = trim(joined.expose());
        let mark = text[0];
        let strip = |text: &[u8]| {
            text.iter()
                .position(|byte| *byte != mark && *byte != b' ')
                .unwrap_or(text.len())
        };
        let text = SecretBytes::copy_of(&text[strip(text)..]);
        let start = first.start + strip(&source[first.clone()]);
        let others = places[1..].iter().map(|place| place.start + 1..place.end);
        Some(Comment {
            lines,
            text,
            first: start..first.end,
            others: others.collect(),
            on_header: on_header && !has_lines,
            is_inline,
        })
    }
}

fn scan(source: &[u8]) -> Result<Scan, DocumentError> {
    let mut reader = Reader {
        source,
        at: if source.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        },
    };
    if source.starts_with(b"\xff\xfe") || source.starts_with(b"\xfe\xff") {
        return Err(DocumentError::Line {
            line: 1,
            construct: "UTF-16",
            format: "INI",
        });
    }
    let refused = |at: usize, construct| {
        let line = line_of(source, at);
        match conflict_marker(source) {
            Some(line) => DocumentError::ConflictMarker { line },
            None => DocumentError::Line {
                line,
                construct,
                format: "INI",
            },
        }
    };
    let mut pending = Pending::default();
    let mut sections = vec![Section {
        name: DEFAULT_SECTION.to_vec(),
        header: 0..0,
        comment: None,
        keys: Vec::new(),
    }];
    while reader.at < source.len() {
        let line = reader.line();
        let text = trim(&source[line.clone()]);
        let whole = &source[line.clone()];
        let start = line.start + (whole.len() - trim_start(whole).len());
        match text {
            [] => {}
            [b'#' | b';', ..] => pending.lines.push(start..line.end),
            [b'[', ..] => {
                let inner = &source[start..line.end];
                let close = memchr::memrchr(b']', inner)
                    .ok_or_else(|| refused(start, "a section header without its bracket"))?;
                if close == 1 {
                    return Err(refused(start, "a section without a name"));
                }
                let rest = start + close + 1..line.end;
                let inline = mark_in(source, rest);
                let comment = pending.take(source, inline.as_ref(), true);
                sections.push(Section {
                    name: inner[1..close].to_vec(),
                    header: line.start..line.start + whole.trim_ascii_end_lf(),
                    comment,
                    keys: Vec::new(),
                });
            }
            _ => {
                let key = read_key(source, start..line.end, &mut reader, &mut pending)
                    .map_err(|construct| refused(start, construct))?;
                if let Some(section) = sections.last_mut() {
                    section.keys.push(key);
                }
            }
        }
    }
    let lines = std::mem::take(&mut pending.lines);
    let tail = lines
        .iter()
        .filter_map(|line| single(source, line))
        .collect();
    Ok(Scan { sections, tail })
}

trait LineEnd {
    /// Returns the length without the line feed.
    fn trim_ascii_end_lf(&self) -> usize;
}

impl LineEnd for [u8] {
    fn trim_ascii_end_lf(&self) -> usize {
        self.strip_suffix(b"\n").unwrap_or(self).len()
    }
}

/// Returns from the first mark of a comment to the end.
fn mark_in(source: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let at = memchr::memchr2(b'#', b';', &source[range.clone()])?;
    Some(range.start + at..range.end)
}

/// Reads `key = value`; `line` begins with the key and ends with the line feed.
fn read_key(
    source: &[u8],
    line: Range<usize>,
    reader: &mut Reader<'_>,
    pending: &mut Pending,
) -> Result<KeyLine, &'static str> {
    let text = &source[line.clone()];
    let quote: &[u8] = match text {
        _ if text.len() > 6 && text.starts_with(b"\"\"\"") => b"\"\"\"",
        [b'"', ..] => b"\"",
        [b'`', ..] => b"`",
        _ => b"",
    };
    let is_delimiter = |byte: &u8| matches!(byte, b'=' | b':');
    let missing = "a line without `=`";
    let (key, value_at) = if quote.is_empty() {
        let at = text.iter().position(is_delimiter).ok_or(missing)?;
        if at == 0 {
            return Err("a line without a key");
        }
        (trim(&text[..at]), at + 1)
    } else {
        let rest = &text[quote.len()..];
        let close = memchr::memmem::find(rest, quote).ok_or("a key whose quote does not end")?;
        let behind = quote.len() + close + quote.len();
        let at = text[behind..]
            .iter()
            .position(is_delimiter)
            .ok_or(missing)?;
        (trim(&rest[..close]), behind + at + 1)
    };
    if key.is_empty() {
        return Err("a line without a key");
    }
    if key == b"-" {
        return Err("the key `-`, which stock `sops` numbers,");
    }
    if matches!(key, [b'#' | b';', ..]) {
        return Err("a key that begins with a comment mark");
    }
    read_value(source, line, (key, value_at), reader, pending)
}

/// Reads the value of a key that begins at an offset of its line.
fn read_value(
    source: &[u8],
    line: Range<usize>,
    (key, value_at): (&[u8], usize),
    reader: &mut Reader<'_>,
    pending: &mut Pending,
) -> Result<KeyLine, &'static str> {
    let text = &source[line.clone()];
    let mut found = KeyLine {
        key: key.to_vec(),
        value: SecretBytes::default(),
        span: line.end..line.end,
        style: Style::Bare,
        is_continued: false,
        needs_lines: false,
        comment: None,
    };
    let value = trim_start(&text[value_at..]);
    let start = line.start + (text.len() - value.len());
    if value.is_empty() {
        let at = line.start + value_at;
        found.span = at..at;
        found.comment = pending.take(source, None, false);
        return Ok(found);
    }
    let quote: &[u8] = match value {
        _ if value.len() > 3 && value.starts_with(b"\"\"\"") => b"\"\"\"",
        [b'`', ..] => b"`",
        _ => b"",
    };
    if !quote.is_empty() {
        found.style = if quote.len() == 3 {
            Style::Triple
        } else {
            Style::Backtick
        };
        let inner = start + quote.len();
        let mut inline = None;
        let end = match memchr::memmem::rfind(&source[inner..line.end], quote) {
            Some(length) => inner + length,
            None => loop {
                if reader.at >= source.len() {
                    return Err("a quoted value that does not end");
                }
                let next = reader.line();
                if let Some(length) = memchr::memmem::rfind(&source[next.clone()], quote) {
                    let end = next.start + length;
                    inline = mark_in(source, end..next.end);
                    break end;
                }
            },
        };
        found.value = SecretBytes::copy_of(&source[inner..end]);
        found.span = inner..end;
        found.needs_lines = inline.is_some();
        found.comment = pending.take(source, inline.as_ref(), false);
        return Ok(found);
    }
    let trimmed = trim(value);
    if let [before @ .., b'\\'] = trimmed {
        if line.end == source.len() && !text.ends_with(b"\n") {
            return Err("a backslash at the end of the file");
        }
        found.value = reader.continuation(before);
        found.is_continued = true;
        let end = reader.at;
        let is_open = !source[..end].ends_with(b"\n");
        if is_open && trim(&source[start..end]).ends_with(b"\\") {
            return Err("a backslash at the end of the file");
        }
        found.span = range_in(source, trim(&source[start..end]));
        found.comment = pending.take(source, None, false);
        return Ok(found);
    }
    let whole = range_in(source, trimmed);
    let inline = mark_in(source, whole.clone());
    let bare = match &inline {
        Some(inline) => trim(&source[whole.start..inline.start]),
        None => trimmed,
    };
    let is_quoted = |quote: u8| {
        bare.len() >= 2
            && bare[0] == quote
            && memchr::memchr(quote, &bare[1..]) == Some(bare.len() - 2)
    };
    let inner = if is_quoted(b'\'') {
        found.style = Style::Single;
        &bare[1..bare.len() - 1]
    } else if is_quoted(b'"') {
        found.style = Style::Double;
        &bare[1..bare.len() - 1]
    } else {
        bare
    };
    found.value = SecretBytes::copy_of(inner);
    found.span = if inner.is_empty() && found.style == Style::Bare {
        whole.start..whole.start
    } else {
        range_in(source, inner)
    };
    found.comment = pending.take(source, inline.as_ref(), false);
    Ok(found)
}

/// INI as the reference program writes it.
mod stock {
    use super::{
        Container, DEFAULT_SECTION, DocumentError, Item, Node, SecretBytes, Tree, Value, metadata,
        trim, write_metadata,
    };

    struct Key<'t> {
        name: &'t [u8],
        value: Vec<u8>,
        comment: Option<&'t [u8]>,
    }

    /// Writes sections with their keys aligned; comments stand above.
    pub(super) fn write(
        tree: &Tree<'_>,
        metadata: Option<&metadata::Node>,
    ) -> Result<SecretBytes, DocumentError> {
        let mut out = SecretBytes::default();
        let text = out.expose_mut();
        for (number, items) in tree.documents.iter().enumerate() {
            sections(items, number == 0, text)?;
            if let Some(node) = metadata {
                write_metadata(node, text);
            }
        }
        if metadata.is_none() && text.ends_with(b"\n\n") {
            text.pop();
        }
        Ok(out)
    }

    /// Appends the sections of a document.
    fn sections(
        items: &[Item<'_>],
        is_first: bool,
        text: &mut Vec<u8>,
    ) -> Result<(), DocumentError> {
        let mut is_first = is_first;
        for item in items {
            let Item::Entry { key: name, node } = item else {
                continue;
            };
            let members = match node {
                Node::Map(members) => &members[..],
                Node::Scalar(Value::Empty(Container::Map)) => &[],
                _ => {
                    return Err(DocumentError::Inexpressible {
                        what: "a value outside of sections",
                        format: "INI",
                    });
                }
            };
            let mut section_comment = None;
            let mut keys: Vec<Key<'_>> = Vec::new();
            for member in members {
                match member {
                    Item::Comment { text, .. } => match keys.last_mut() {
                        Some(key) => key.comment = Some(text.expose()),
                        None => section_comment = Some(text.expose()),
                    },
                    Item::Entry { key, node } => keys.push(Key {
                        name: key,
                        value: value_of(node)?,
                        comment: None,
                    }),
                }
            }
            let is_default = is_first && **name == *DEFAULT_SECTION;
            is_first = false;
            if let Some(comment) = section_comment {
                write_comment(comment, false, text);
            }
            if is_default {
                if keys.is_empty() {
                    continue;
                }
            } else {
                text.push(b'[');
                text.extend_from_slice(name);
                text.extend_from_slice(b"]\n");
            }
            let width_of = |key: &Key<'_>| {
                let extra = if key.name.iter().any(|byte| b"\"=:".contains(byte)) {
                    2
                } else if key.name.contains(&b'`') {
                    6
                } else {
                    0
                };
                key.name.len() + extra
            };
            let width = keys.iter().map(width_of).max().unwrap_or(0);
            for key in &keys {
                if let Some(comment) = key.comment {
                    write_comment(comment, true, text);
                }
                let quote: &[u8] = if key.name.iter().any(|byte| b"\"=:".contains(byte)) {
                    b"`"
                } else if key.name.contains(&b'`') {
                    b"\"\"\""
                } else {
                    b""
                };
                text.extend_from_slice(quote);
                text.extend_from_slice(key.name);
                text.extend_from_slice(quote);
                text.resize(text.len() + width - width_of(key), b' ');
                text.extend_from_slice(b" = ");
                write_value(&key.value, text);
                text.push(b'\n');
            }
            text.push(b'\n');
        }
        Ok(())
    }

    /// Appends the lines of a comment, trimmed above keys only.
    fn write_comment(comment: &[u8], is_trimmed: bool, out: &mut Vec<u8>) {
        for line in comment.split(|&byte| byte == b'\n') {
            if let [mark @ (b'#' | b';'), rest @ ..] = line {
                out.extend_from_slice(&[*mark, b' ']);
                out.extend_from_slice(trim(rest));
            } else {
                out.extend_from_slice(b"; ");
                out.extend_from_slice(if is_trimmed { trim(line) } else { line });
            }
            out.push(b'\n');
        }
    }

    fn value_of(node: &Node<'_>) -> Result<Vec<u8>, DocumentError> {
        match node {
            Node::Scalar(Value::Empty(_)) | Node::List(_) | Node::Map(_) => {
                Err(DocumentError::Inexpressible {
                    what: "a list, or a mapping in a section,",
                    format: "INI",
                })
            }
            Node::Scalar(value) => Ok(value.flat_text().expose().to_vec()),
        }
    }

    /// Appends a value in the quotes that it needs.
    pub(super) fn write_value(value: &[u8], out: &mut Vec<u8>) {
        let quote: &[u8] = if memchr::memchr2(b'\n', b'`', value).is_some() {
            b"\"\"\""
        } else if memchr::memchr2(b'#', b';', value).is_some() {
            b"`"
        } else if trim(value).len() != value.len() {
            b"\""
        } else {
            b""
        };
        out.extend_from_slice(quote);
        out.extend_from_slice(value);
        out.extend_from_slice(quote);
    }
}
