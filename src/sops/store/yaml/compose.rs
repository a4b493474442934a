//! YAML text to leaves: the parser's events composed into containers, scalars resolved, comments given
//! to the container that SOPS would give them to, aliases written out.
//!
//! Both the plain and the sealed reading start from what is found here.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, StructureStyle, Tag};

use crate::secret::{SecretBytes, SecretText};

use super::super::super::document::{Container, Frame, KeyPath, Step};
use super::super::super::error::DocumentError;
use super::super::super::value::Value;
use super::scalar;

/// The most values that aliases may stand for in one file.
const MOST_COPIES: usize = 200_000;
/// The deepest nesting, that of the parser.
const DEEPEST: usize = 250;
/// What the tag of a written-out alias begins with.
pub(super) const ALIAS_TAG: &str = "alias-";

/// How a scalar is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quote {
    Double,
    Folded,
    Literal,
    Plain,
    Single,
}

/// An item that stands in the text, or a copy of one behind an alias.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) path: KeyPath,
    pub(super) frame: u32,
    pub(super) step: Step,
    pub(super) value: Value<'a>,
    /// The scalar with its quotes, the comment's text, or the lines of a block scalar from the first
    /// that has text to the last, without the indentation of the first.
    pub(super) span: Range<usize>,
    pub(super) shape: Shape,
    /// Where the item begins, for its order among comments; its key where it has one.
    pub(super) order: (usize, u8),
}

#[derive(Debug)]
pub(super) enum Shape {
    /// An alias to a scalar: the part it names.
    Alias {
        original: usize,
        in_flow: bool,
    },
    Comment,
    /// A copy of a part of a collection: that part, and the alias it belongs to.
    Copy {
        original: usize,
        alias: usize,
    },
    /// A collection without items.
    Hollow {
        frame: u32,
    },
    Scalar {
        quote: Quote,
        in_flow: bool,
        /// Where a tag begins that says what the value is.
        tag: Option<usize>,
        has_own_tag: bool,
        /// For block scalars: the lines from the first to the last that is not blank.
        lines: Range<usize>,
        /// For block scalars: the columns their lines are indented by.
        indent: usize,
    },
}

/// An alias to a collection.
pub(super) struct Alias {
    pub(super) span: Range<usize>,
    pub(super) name: String,
    /// Its parts.
    pub(super) parts: Range<usize>,
    /// The frame that stands for the collection.
    pub(super) frame: u32,
    /// Whether a `!alias-…` tag stands for it, rather than `*…`.
    pub(super) is_written_out: bool,
}

/// A key of the first document's root mapping that is `sops`.
pub(super) struct Reserved {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) document: usize,
    pub(super) is_flow: bool,
}

/// What a YAML text holds.
#[derive(Default)]
pub(super) struct Composed<'a> {
    pub(super) parts: Vec<Part<'a>>,
    pub(super) frames: Vec<Frame>,
    pub(super) aliases: Vec<Alias>,
    pub(super) reserved: Vec<Reserved>,
    /// Where the first document ends: the start of the line of `...` or of the next `---`.
    pub(super) end_of_first: Option<usize>,
    /// The first document's root: how it is written.
    pub(super) root: Root,
    pub(super) documents: usize,
}

/// The root of the first document.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Root {
    /// Lines indented by so many columns.
    Block(usize),
    /// In braces: behind the last item, `None` where there is none, and behind the opening brace.
    Flow { last: Option<usize>, open: usize },
    /// Nothing.
    #[default]
    Nothing,
}

/// An open container.
struct Open {
    frame: u32,
    kind: Container,
    is_flow: bool,
    path: KeyPath,
    /// The key that waits for its value.
    key: Option<Key>,
    items: usize,
    start: usize,
    order: usize,
    anchor: Option<usize>,
    first_part: usize,
    seen: HashSet<Vec<u8>>,
    is_reserved: bool,
    last_end: Option<usize>,
    alias_tag: Option<(usize, String)>,
}

#[derive(Clone)]
struct Key {
    path: KeyPath,
    span: Range<usize>,
    is_reserved: bool,
}

/// What an anchor stands for.
struct Target {
    name: String,
    parts: Range<usize>,
    /// The frame of a collection.
    frame: Option<u32>,
    path: KeyPath,
    is_closed: bool,
}

/// A place where an item begins, for giving comments their container.
struct Mark {
    start: usize,
    end: usize,
    /// The end of the key itself.
    key_end: usize,
    frame: u32,
    is_key: bool,
    /// The collection that an alias here stands for.
    inner: Option<u32>,
}

/// Where a container stands.
#[derive(Clone, Default)]
struct Extent {
    is_flow: bool,
    /// With brackets.
    span: Range<usize>,
    /// The column of the key that holds it, or of the container around it.
    key_column: usize,
    has_key: bool,
    has_anchor: bool,
    first_item: Option<usize>,
    parent: Option<u32>,
}

pub(super) struct Composer<'a> {
    text: &'a str,
    /// Bytes before `text` in the file: those of a byte order mark.
    skipped: usize,
    found: Composed<'a>,
    open: Vec<Open>,
    extents: Vec<Extent>,
    marks: Vec<Mark>,
    comments: Vec<(Range<usize>, usize)>,
    anchors: HashMap<usize, Target>,
    anchored_keys: HashMap<usize, Vec<u8>>,
    copies: usize,
    /// Names and ids of anchors that wait for their node.
    document: usize,
    root_seen: bool,
    /// The end of the last token, for finding the header of a block scalar.
    last_token: usize,
    wants_tags: bool,
    keeps_reserved: bool,
}

/// Reads `text`. `is_sealed` says that written-out aliases and the key `sops` are expected.
pub(super) fn compose(source: &[u8], is_sealed: bool) -> Result<Composed<'_>, DocumentError> {
    if source.starts_with(b"\xff\xfe") || source.starts_with(b"\xfe\xff") {
        return Err(refused(1, "UTF-16"));
    }
    let skipped = if source.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let text = std::str::from_utf8(&source[skipped..]).map_err(|error| {
        let at = skipped + error.valid_up_to();
        refused(line_of(source, at), "text that is not UTF-8")
    })?;
    let mut composer = Composer {
        text,
        skipped,
        found: Composed::default(),
        open: Vec::new(),
        extents: Vec::new(),
        marks: Vec::new(),
        comments: Vec::new(),
        anchors: HashMap::new(),
        anchored_keys: HashMap::new(),
        copies: 0,
        document: 0,
        root_seen: false,
        last_token: 0,
        wants_tags: is_sealed,
        keeps_reserved: is_sealed,
    };
    composer.run()?;
    composer.finish()
}

/// Returns the number of the next frame; there are never as many as would not fit.
fn frame_number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn is_anchor_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn refused(line: usize, construct: &'static str) -> DocumentError {
    DocumentError::Line {
        line,
        construct,
        format: "YAML",
    }
}

pub(super) fn line_of(source: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &source[..at.min(source.len())]).count() + 1
}

impl<'a> Composer<'a> {
    fn error(&self, at: usize, construct: &'static str) -> DocumentError {
        refused(line_of(self.text.as_bytes(), at), construct)
    }

    fn column(&self, at: usize) -> usize {
        let start = memchr::memrchr(b'\n', &self.text.as_bytes()[..at]).map_or(0, |line| line + 1);
        at - start
    }

    fn run(&mut self) -> Result<(), DocumentError> {
        let mut options = Options::default();
        options.emit_anchor_events = true;
        options.max_buffered_comment_events = usize::MAX;
        options.block_scalar_eof_without_line_feed = true;
        options.flow_nesting_limit = DEEPEST;
        options.block_nesting_limit = DEEPEST;
        let text = self.text;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| {
                let marker = error.marker();
                DocumentError::Syntax {
                    line: marker.line(),
                    column: marker.col() + 1,
                    format: "YAML",
                    problem: "the structure breaks here",
                }
            })?;
            let at = |marker: granit_parser::Marker| marker.byte_offset().unwrap_or(0);
            let range = at(span.start)..at(span.end);
            let tag_at = span.tag_start.map(at);
            self.event(event, range, tag_at, span.indent)?;
        }
        Ok(())
    }

    fn event(
        &mut self,
        event: Event<'a>,
        range: Range<usize>,
        tag_at: Option<usize>,
        indent: Option<usize>,
    ) -> Result<(), DocumentError> {
        match event {
            Event::DocumentStart(is_explicit, version) => {
                if version.is_some_and(|version| (version.major, version.minor) != (1, 1)) {
                    return Err(self.error(range.start, "a `%YAML` directive other than 1.1"));
                }
                if is_explicit && self.document > 0 && self.found.end_of_first.is_none() {
                    self.found.end_of_first = Some(self.line_start(range.start));
                }
                self.root_seen = false;
                self.last_token = range.end;
            }
            Event::DocumentEnd => {
                let is_explicit = self.text[range.clone()].starts_with("...");
                if is_explicit && self.document == 0 {
                    self.found.end_of_first = Some(range.start);
                }
                if !self.root_seen {
                    self.push_root_frame();
                }
                self.document += 1;
                self.anchors.clear();
                self.anchored_keys.clear();
                self.last_token = range.end;
            }
            Event::Comment(..) => self.comments.push((range, self.document)),
            Event::Anchor(_, name) if !name.bytes().all(is_anchor_byte) => {
                return Err(self.error(range.start, "an anchor that go-yaml does not read"));
            }
            Event::Anchor(id, name) => {
                self.last_token = self.last_token.max(range.end);
                if let Some(target) = self.anchors.get_mut(&id) {
                    target.name = name.into_owned();
                    if let Some(frame) = target.frame {
                        self.extents[frame as usize].has_anchor = true;
                    }
                }
            }
            Event::Alias(id) => self.alias(id, range)?,
            Event::Scalar(text, style, anchor, tag) => {
                let value = Found {
                    text,
                    style,
                    anchor,
                    tag: tag.as_deref(),
                    range,
                    tag_at,
                    indent,
                };
                self.scalar(&value)?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                let is_flow = style == StructureStyle::Flow;
                self.start(
                    Container::List,
                    is_flow,
                    anchor,
                    tag.as_deref(),
                    range,
                    tag_at,
                )?;
            }
            Event::MappingStart(style, anchor, tag) => {
                let is_flow = style == StructureStyle::Flow;
                self.start(
                    Container::Map,
                    is_flow,
                    anchor,
                    tag.as_deref(),
                    range,
                    tag_at,
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range),
            _ => {}
        }
        Ok(())
    }

    fn line_start(&self, at: usize) -> usize {
        memchr::memrchr(b'\n', &self.text.as_bytes()[..at]).map_or(0, |line| line + 1)
    }

    fn push_root_frame(&mut self) {
        self.found.frames.push(Frame::root(self.document));
        self.extents.push(Extent::default());
        self.root_seen = true;
    }

    /// Takes the place of the next value: its path, step and where its item begins. `None` for a key.
    fn next_place(&mut self, at: usize) -> Result<Place, DocumentError> {
        let Some(open) = self.open.last_mut() else {
            return Ok(Place {
                frame: Frame::ROOT,
                path: KeyPath::root(),
                step: Step::Document(self.document),
                order: at,
                is_reserved: false,
            });
        };
        let place = match open.kind {
            Container::List => {
                let number = open.items;
                open.items += 1;
                Place {
                    frame: open.frame,
                    path: open.path.clone(),
                    step: Step::Item(number),
                    order: at,
                    is_reserved: open.is_reserved,
                }
            }
            Container::Map => {
                let key = open.key.take();
                let Some(key) = key else {
                    return Err(self.error(at, "a key that is a list or a mapping"));
                };
                open.items += 1;
                Place {
                    frame: open.frame,
                    path: key.path,
                    step: Step::Key,
                    order: key.span.start,
                    is_reserved: open.is_reserved || key.is_reserved,
                }
            }
        };
        Ok(place)
    }

    fn expects_key(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.kind == Container::Map && open.key.is_none())
    }

    fn start(
        &mut self,
        kind: Container,
        is_flow: bool,
        anchor: usize,
        tag: Option<&Tag>,
        range: Range<usize>,
        tag_at: Option<usize>,
    ) -> Result<(), DocumentError> {
        let has_tag = tag.is_some();
        let alias_tag = match (tag, tag_at) {
            (Some(tag), Some(at)) if tag.original_handle() == "!" => tag
                .suffix()
                .strip_prefix(ALIAS_TAG)
                .map(|name| (at, name.to_owned())),
            _ => None,
        };
        if alias_tag.is_some() && !self.wants_tags {
            return Err(self.error(range.start, "a tag that begins with `!alias-`"));
        }
        if self.expects_key() {
            return Err(self.error(range.start, "a key that is a list or a mapping"));
        }
        let place = self.next_place(range.start)?;
        let is_root = self.open.is_empty();
        if is_root {
            if kind == Container::List {
                return Err(self.error(range.start, "a root that is a list"));
            }
            self.root_seen = true;
            if self.document == 0 {
                self.found.root = if is_flow {
                    Root::Flow {
                        last: None,
                        open: range.end,
                    }
                } else {
                    Root::Block(self.column(range.start))
                };
            }
        }
        let frame = u32::try_from(self.found.frames.len())
            .map_err(|_| self.error(range.start, "more values than this program reads"))?;
        let parent = (!is_root).then_some(place.frame);
        self.found.frames.push(Frame {
            parent,
            step: place.step,
            kind,
            path: place.path.clone(),
        });
        self.extents.push(Extent {
            is_flow,
            span: range.clone(),
            // In brackets columns mean nothing, and lines may be long.
            key_column: if is_flow || self.open.last().is_some_and(|open| open.is_flow) {
                0
            } else {
                self.column(place.order)
            },
            has_key: place.step == Step::Key,
            has_anchor: anchor != 0 || has_tag,
            first_item: None,
            parent,
        });
        if let Some(parent) = parent {
            let first = &mut self.extents[parent as usize].first_item;
            first.get_or_insert(range.start);
            let is_item = place.step != Step::Key;
            if is_flow && is_item && !place.is_reserved {
                self.mark(&range, false);
            }
        }
        let first_part = self.found.parts.len();
        if anchor != 0 && !place.is_reserved {
            self.anchors.insert(
                anchor,
                Target {
                    name: String::new(),
                    parts: first_part..first_part,
                    frame: Some(frame),
                    path: place.path.clone(),
                    is_closed: false,
                },
            );
        }
        let in_flow = self.open.last().is_some_and(|open| open.is_flow);
        if is_flow || in_flow {
            self.last_token = range.end;
        }
        self.open.push(Open {
            frame,
            kind,
            is_flow: is_flow || in_flow,
            path: place.path,
            key: None,
            items: 0,
            start: range.start,
            order: place.order,
            anchor: (anchor != 0).then_some(anchor),
            first_part,
            seen: HashSet::new(),
            is_reserved: place.is_reserved,
            last_end: None,
            alias_tag,
        });
        Ok(())
    }

    fn end(&mut self, range: Range<usize>) {
        let Some(open) = self.open.pop() else {
            return;
        };
        let end = if open.is_flow { range.end } else { range.start };
        let extent = &mut self.extents[open.frame as usize];
        extent.span = open.start..end;
        let is_flow = extent.is_flow;
        if is_flow {
            self.last_token = range.end;
        }
        let frame = self.found.frames[open.frame as usize].clone();
        if open.items == 0
            && let Some(parent) = frame.parent
        {
            self.found.parts.push(Part {
                path: frame.path.clone(),
                frame: parent,
                step: frame.step,
                value: Value::Empty(open.kind),
                span: open.start..end,
                shape: Shape::Hollow { frame: open.frame },
                order: (open.order, 1),
            });
        }
        if let Some(id) = open.anchor
            && let Some(target) = self.anchors.get_mut(&id)
        {
            target.parts.end = self.found.parts.len();
            target.is_closed = true;
        }
        if let Some((at, name)) = open.alias_tag {
            self.found.aliases.push(Alias {
                span: at..end,
                name,
                parts: open.first_part..self.found.parts.len(),
                frame: open.frame,
                is_written_out: true,
            });
        }
        if open.is_reserved {
            self.found.parts.truncate(open.first_part);
        }
        self.item_ends(end);
        if self.open.is_empty()
            && self.document == 0
            && let Root::Flow { last, .. } = &mut self.found.root
        {
            *last = open.last_end;
        }
    }

    /// Notes the end of a value in the container around it.
    fn item_ends(&mut self, end: usize) {
        let document = self.document;
        if let Some(open) = self.open.last_mut() {
            open.last_end = Some(end);
        }
        if let Some(reserved) = self.found.reserved.last_mut()
            && reserved.document == document
            && reserved.value.end == usize::MAX
            && self.open.len() == 1
        {
            reserved.value.end = end;
        }
    }

    fn mark(&mut self, range: &Range<usize>, is_key: bool) {
        let Some(open) = self.open.last() else { return };
        let frame = open.frame;
        self.extents[frame as usize]
            .first_item
            .get_or_insert(range.start);
        self.marks.push(Mark {
            start: range.start,
            end: range.end,
            key_end: range.end,
            frame,
            is_key,
            inner: None,
        });
    }

    fn key(&mut self, text: &str, range: &Range<usize>) -> Result<(), DocumentError> {
        let (document, depth) = (self.document, self.open.len());
        let is_first = document == 0;
        let Some(open) = self.open.last_mut() else {
            return Ok(());
        };
        let is_reserved = depth == 1 && text == "sops";
        if is_first && !open.seen.insert(text.as_bytes().to_vec()) {
            return Err(self.error(range.start, "a key that stands twice"));
        }
        let path = open.path.child(text.as_bytes());
        open.key = Some(Key {
            path,
            span: range.clone(),
            is_reserved,
        });
        if is_reserved {
            if !self.keeps_reserved {
                return Err(DocumentError::ReservedKey {
                    line: line_of(self.text.as_bytes(), range.start),
                    name: "is `sops`",
                });
            }
            let is_flow = open.is_flow;
            self.found.reserved.push(Reserved {
                key: range.clone(),
                value: range.end..usize::MAX,
                document,
                is_flow,
            });
        } else {
            self.mark(range, true);
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, range: Range<usize>) -> Result<(), DocumentError> {
        self.last_token = range.end;
        let name = self.text[range.start + 1..range.end].to_owned();
        if self.expects_key() {
            let target = self.anchors.get(&id);
            let part = target
                .filter(|target| target.frame.is_none())
                .and_then(|target| self.found.parts.get(target.parts.start));
            let text = match (self.anchored_keys.get(&id), part.map(|part| &part.value)) {
                (Some(key), _) => String::from_utf8_lossy(key).into_owned(),
                (_, Some(Value::Str(text))) => String::from_utf8_lossy(text.expose()).into_owned(),
                _ => return Err(self.error(range.start, "a key that is not a string")),
            };
            return self.key(&text, &range);
        }
        if self.open.is_empty() {
            return Err(self.error(range.start, "a root that is not a mapping"));
        }
        let place = self.next_place(range.start)?;
        let in_flow = self.open.last().is_some_and(|open| open.is_flow);
        if self
            .open
            .last()
            .is_some_and(|open| open.kind == Container::List)
        {
            self.mark(&range, false);
        } else if let Some(mark) = self.marks.last_mut() {
            mark.end = range.end;
        }
        if place.is_reserved {
            self.item_ends(range.end);
            return Ok(());
        }
        if let Some(key) = self.anchored_keys.get(&id) {
            let value = Value::Str(SecretText::Owned(SecretBytes::copy_of(key)));
            self.found.parts.push(Part {
                path: place.path,
                frame: place.frame,
                step: place.step,
                value,
                span: range.clone(),
                shape: Shape::Alias {
                    original: usize::MAX,
                    in_flow,
                },
                order: (place.order, 1),
            });
            self.item_ends(range.end);
            return Ok(());
        }
        let Some(target) = self.anchors.get(&id) else {
            return Err(self.error(range.start, "an alias without an anchor"));
        };
        let (parts, target_frame, path) = (target.parts.clone(), target.frame, target.path.clone());
        if target_frame.is_none() && place.path.last() == Some(b"<<") && place.step == Step::Key {
            return Err(self.error(range.start, "a merge of something that is no mapping"));
        }
        let Some(target_frame) = target_frame else {
            let original = parts.start;
            let value = self.found.parts[original].value.clone();
            self.found.parts.push(Part {
                path: place.path,
                frame: place.frame,
                step: place.step,
                value,
                span: range.clone(),
                shape: Shape::Alias { original, in_flow },
                order: (place.order, 1),
            });
            self.item_ends(range.end);
            return Ok(());
        };
        if !target.is_closed {
            return Err(self.error(range.start, "an alias inside what it names"));
        }
        self.copies += parts.len();
        if self.copies > MOST_COPIES {
            return Err(self.error(range.start, "aliases that stand for too many values"));
        }
        let inner = u32::try_from(self.found.frames.len()).ok();
        if let Some(mark) = self.marks.last_mut() {
            mark.inner = inner;
        }
        self.copy(
            parts,
            (target_frame, &path),
            &place,
            (range.clone(), name),
            in_flow,
        );
        self.item_ends(range.end);
        Ok(())
    }

    /// Adds the parts of a collection once more, for the alias in `range`.
    fn copy(
        &mut self,
        parts: Range<usize>,
        (target, target_path): (u32, &KeyPath),
        place: &Place,
        (range, name): (Range<usize>, String),
        in_flow: bool,
    ) {
        let depth = target_path.keys_upward().count();
        let rebase = |path: &KeyPath| {
            let mut keys: Vec<_> = path.keys_upward().collect();
            keys.reverse();
            keys[depth.min(keys.len())..]
                .iter()
                .fold(place.path.clone(), |path, key| path.child(key))
        };
        let mut frames: HashMap<u32, u32> = HashMap::new();
        let alias = self.found.aliases.len();
        let first = self.found.parts.len();
        let root = frame_number(self.found.frames.len());
        let kind = self.found.frames[target as usize].kind;
        self.found.frames.push(Frame {
            parent: Some(place.frame),
            step: place.step,
            kind,
            path: place.path.clone(),
        });
        let parent_extent = Extent {
            parent: Some(place.frame),
            ..Extent::default()
        };
        self.extents.push(parent_extent.clone());
        frames.insert(target, root);
        let is_hollow = parts.len() == 1
            && matches!(self.found.parts[parts.start].shape, Shape::Hollow { frame } if frame == target);
        for original in parts {
            let one = &self.found.parts[original];
            if is_hollow {
                let value = one.value.clone();
                self.found.parts.push(Part {
                    path: place.path.clone(),
                    frame: place.frame,
                    step: place.step,
                    value,
                    span: range.clone(),
                    shape: Shape::Alias { original, in_flow },
                    order: (place.order, 1),
                });
                return;
            }
            let mut chain = vec![one.frame];
            while let Some(&last) = chain.last()
                && !frames.contains_key(&last)
                && let Some(parent) = self.found.frames[last as usize].parent
            {
                chain.push(parent);
            }
            for id in chain.into_iter().rev() {
                if frames.contains_key(&id) {
                    continue;
                }
                let frame = self.found.frames[id as usize].clone();
                let new = frame_number(self.found.frames.len());
                self.found.frames.push(Frame {
                    parent: frame.parent.and_then(|parent| frames.get(&parent).copied()),
                    step: frame.step,
                    kind: frame.kind,
                    path: rebase(&frame.path),
                });
                self.extents.push(parent_extent.clone());
                frames.insert(id, new);
            }
            let one = &self.found.parts[original];
            let part = Part {
                path: rebase(&one.path),
                frame: frames.get(&one.frame).copied().unwrap_or(root),
                step: one.step,
                value: one.value.clone(),
                span: range.clone(),
                shape: Shape::Copy { original, alias },
                order: (place.order, 1),
            };
            self.found.parts.push(part);
        }
        let end = self.found.parts.len();
        self.found.aliases.push(Alias {
            span: range,
            name,
            parts: first..end,
            frame: root,
            is_written_out: false,
        });
    }

    /// Finds the lines of a block scalar.
    fn block(&self, found: &Found<'a, '_>) -> Block {
        let header = self.header();
        let lines = self.block_lines(header, found.range.end);
        // Where there are blank lines only, nothing tells: any column behind the parent's.
        let indent = found.indent.unwrap_or_else(|| self.indent_of_block(header));
        let body = &self.text[lines.clone()];
        let blanks = body.len() - body.trim_start_matches(' ').len();
        let is_blank = body[blanks..].starts_with(['\n', '\r']) || blanks == body.len();
        let span = if is_blank || blanks < indent {
            lines.clone()
        } else {
            lines.start + indent..lines.end
        };
        Block {
            header,
            lines,
            span,
            indent,
        }
    }

    /// Takes a scalar for the key of the innermost mapping.
    fn scalar_key(&mut self, found: &Found<'a, '_>) -> Result<(), DocumentError> {
        let range = found.range.clone();
        let (value, _) = self.value_of(found)?;
        // A merge key is a string to SOPS.
        let is_string = matches!(value, Value::Str(_));
        if !is_string {
            return Err(self.error(range.start, "a key that is not a string"));
        }
        let text = found.text.as_ref();
        self.last_token = range.end;
        let bytes = value.plaintext().expose().to_vec();
        let key = std::str::from_utf8(&bytes).unwrap_or(text);
        self.key(key, &range)?;
        if found.anchor != 0 {
            self.anchored_keys.insert(found.anchor, bytes);
        }
        Ok(())
    }

    fn scalar(&mut self, found: &Found<'a, '_>) -> Result<(), DocumentError> {
        let range = found.range.clone();
        self.check_scalar(found)?;
        let is_key = self.expects_key();
        if is_key {
            return self.scalar_key(found);
        }
        let mut span = range.clone();
        let mut lines = 0..0;
        let mut indent = 0;
        let quote = match found.style {
            ScalarStyle::Plain => Quote::Plain,
            ScalarStyle::SingleQuoted => Quote::Single,
            ScalarStyle::DoubleQuoted => Quote::Double,
            ScalarStyle::Literal => Quote::Literal,
            ScalarStyle::Folded => Quote::Folded,
        };
        let mut header = None;
        if matches!(quote, Quote::Literal | Quote::Folded) {
            let block = self.block(found);
            header = Some(block.header);
            (span, lines, indent) = (block.span, block.lines, block.indent);
        }
        let (value, has_own_tag) = self.checked_value_of(found)?;
        if self.open.is_empty() {
            // An empty document, or one that only has a tag or an anchor.
            let is_nothing = matches!(value, Value::Null) && range.is_empty();
            if !is_nothing {
                return Err(self.error(range.start, "a root that is not a mapping"));
            }
            self.push_root_frame();
            return Ok(());
        }
        // The parser puts a block without a line where the next text begins, behind comments.
        let start = header.unwrap_or(range.start);
        let place = self.next_place(start)?;
        let in_flow = self.open.last().is_some_and(|open| open.is_flow);
        let is_item = self
            .open
            .last()
            .is_some_and(|open| open.kind == Container::List);
        let end = header.map_or(range.end, |header| self.line_end(header));
        // A block without a line has its header all the same.
        let is_empty = range.is_empty() && header.is_none();
        if !place.is_reserved {
            self.mark_value(start..end, is_item, is_empty);
        }
        let range = match header {
            Some(_) if range.is_empty() => end..end,
            _ => range,
        };
        self.last_token = range.end.max(self.last_token);
        // The parser puts an empty value in front of the colon of its key.
        let rest = self.text[range.end..].trim_start();
        let value_end = if in_flow && range.is_empty() && !is_item && rest.starts_with(':') {
            let behind = self.text.len() - rest.len() + 1;
            if !self.text[behind..].starts_with(' ') {
                return Err(self.error(range.end, "a colon with no blank behind it in brackets"));
            }
            behind + 1
        } else {
            range.end
        };
        // What the metadata names is nothing that a value may stand for.
        if found.anchor != 0 && !place.is_reserved {
            let at = self.found.parts.len();
            self.anchors.insert(
                found.anchor,
                Target {
                    name: String::new(),
                    parts: at..at + 1,
                    frame: None,
                    path: place.path.clone(),
                    is_closed: true,
                },
            );
        }
        if !place.is_reserved {
            let tag = found.tag_at;
            self.found.parts.push(Part {
                path: place.path,
                frame: place.frame,
                step: place.step,
                value,
                span,
                shape: Shape::Scalar {
                    quote,
                    in_flow,
                    tag,
                    has_own_tag,
                    lines,
                    indent,
                },
                order: (place.order, 1),
            });
        }
        self.item_ends(value_end);
        Ok(())
    }

    /// Notes where a value stands.
    fn mark_value(&mut self, span: Range<usize>, is_item: bool, is_empty: bool) {
        if is_item {
            let dash = is_empty.then(|| self.next_dash()).flatten();
            match dash {
                // The parser puts an empty item behind the comments that follow its dash.
                Some(dash) => {
                    self.mark(&(dash + 1..dash + 1), false);
                    self.last_token = self.last_token.max(dash + 1);
                }
                None => self.mark(&span, false),
            }
        } else if let Some(mark) = self.marks.last_mut()
            && !is_empty
        {
            mark.end = span.end;
        }
    }

    /// As [`Self::value_of`]; refuses a comment between a tag that has to go with the value and the value.
    fn checked_value_of(&self, found: &Found<'a, '_>) -> Result<(Value<'a>, bool), DocumentError> {
        let (value, has_own_tag) = self.value_of(found)?;
        match found.tag_at {
            Some(tag)
                if has_own_tag && has_comment(&self.text[tag..found.range.start.max(tag)]) =>
            {
                Err(self.error(tag, "a comment between a tag and its value"))
            }
            _ => Ok((value, has_own_tag)),
        }
    }

    /// Refuses what the reference's parser does not read as this one does.
    fn check_scalar(&self, found: &Found<'a, '_>) -> Result<(), DocumentError> {
        let at = found.range.start;
        let text = &self.text[found.range.clone()];
        let in_flow = self.open.last().is_some_and(|open| open.is_flow);
        if found.style == ScalarStyle::Plain && in_flow && text.contains('?') {
            return Err(self.error(at, "a `?` in a plain value in brackets"));
        }
        let is_comment = |line: &str| line.trim_start().starts_with('#');
        if found.style == ScalarStyle::Plain && text.lines().skip(1).any(is_comment) {
            return Err(self.error(at, "a plain value that goes on behind a comment"));
        }
        if found.style == ScalarStyle::DoubleQuoted {
            let mut escapes = text.split('\\').skip(1).peekable();
            while let Some(escape) = escapes.next() {
                if escape.is_empty() {
                    // A backslash escaped: what follows is text.
                    escapes.next();
                    continue;
                }
                let is_surrogate = escape
                    .strip_prefix('u')
                    .and_then(|digits| digits.get(..2))
                    .is_some_and(|digits| ("d8".."e0").contains(&&*digits.to_ascii_lowercase()));
                if escape.starts_with('/') || is_surrogate {
                    return Err(self.error(at, "an escape that go-yaml does not know"));
                }
            }
        }
        let is_merge = |open: &Open| {
            let key = open.key.as_ref();
            key.is_some_and(|key| &self.text[key.span.clone()] == "<<")
        };
        if self.open.last().is_some_and(is_merge) {
            return Err(self.error(at, "a merge of something that is no mapping"));
        }
        Ok(())
    }

    /// Returns the value of a scalar, and whether a tag says what it is, so that it has to go when the
    /// value becomes a token.
    fn value_of(&self, found: &Found<'a, '_>) -> Result<(Value<'a>, bool), DocumentError> {
        let text = || match &found.text {
            std::borrow::Cow::Borrowed(text) => SecretText::Borrowed(text.as_bytes()),
            std::borrow::Cow::Owned(text) => {
                SecretText::Owned(SecretBytes::copy_of(text.as_bytes()))
            }
        };
        let at = found.range.start;
        let source = if found.range.is_empty() && found.style == ScalarStyle::Plain {
            ""
        } else {
            found.text.as_ref()
        };
        let plain = |source: &str| {
            scalar::resolve(source)
                .ok_or_else(|| self.error(at, "an integer of 64 bits without a sign"))
        };
        let is_plain = found.style == ScalarStyle::Plain;
        let untagged = || -> Result<Value<'a>, DocumentError> {
            if !is_plain {
                return Ok(Value::Str(text()));
            }
            Ok(match plain(source)? {
                // Borrowed where it can be.
                Value::Str(_) => Value::Str(text()),
                value => value,
            })
        };
        let Some(tag) = found.tag else {
            return Ok((untagged()?, false));
        };
        let core = tag.suffix_in_namespace("tag:yaml.org,2002:");
        match core.as_deref() {
            Some("str") => Ok((
                Value::Str(if source.is_empty() {
                    SecretText::Borrowed(b"")
                } else {
                    text()
                }),
                false,
            )),
            Some("null") => Ok((Value::Null, false)),
            Some("binary") => {
                let compact: Vec<u8> = source
                    .bytes()
                    .filter(|byte| !matches!(byte, b'\n' | b'\r'))
                    .collect();
                let bytes = super::decode_base64(&compact)
                    .ok_or_else(|| self.error(at, "a `!!binary` value that is not base64"))?;
                Ok((Value::Str(SecretText::Owned(bytes)), true))
            }
            Some(name @ ("int" | "float" | "bool" | "timestamp")) => {
                let value = plain(source)?;
                let value = match (name, value) {
                    ("float", Value::Int(number)) =>
                    {
                        #[expect(clippy::cast_precision_loss, reason = "what the tag asks for")]
                        Value::Float(number as f64)
                    }
                    (_, value) => value,
                };
                let fits = matches!(
                    (name, &value),
                    ("int", Value::Int(_))
                        | ("float", Value::Float(_))
                        | ("bool", Value::Bool(_))
                        | ("timestamp", Value::Time(_))
                );
                if fits {
                    Ok((value, true))
                } else {
                    Err(self.error(at, "a value that is not what its tag says"))
                }
            }
            // The non-specific tag, which go-yaml passes over.
            None if tag.suffix().is_empty() || tag.suffix() == "!" => Ok((untagged()?, is_plain)),
            // Any other tag makes a string of what stands there, and is dropped.
            _ if source.is_empty() => Ok((Value::Str(SecretText::Borrowed(b"")), false)),
            _ => Ok((Value::Str(text()), false)),
        }
    }

    /// Finds the header of the block scalar that comes next: what stands between the last token and it
    /// are indicators, properties, blanks and comments.
    fn header(&self) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = self.last_token;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'|' | b'>' => return at,
                b'#' => at = self.line_end(at),
                b'!' | b'&' => {
                    while bytes
                        .get(at)
                        .is_some_and(|byte| !byte.is_ascii_whitespace())
                    {
                        at += 1;
                    }
                }
                _ => at += 1,
            }
        }
        at
    }

    /// Returns the first dash of a list behind the last token.
    fn next_dash(&self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = self.last_token;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'-' => return Some(at),
                b'#' => at = self.line_end(at),
                b' ' | b'\t' | b'\n' | b'\r' | b':' => at += 1,
                _ => return None,
            }
        }
        None
    }

    /// Returns the columns that the lines of a block scalar would be indented by, had it any: as its header
    /// says, else one more than the parent.
    fn indent_of_block(&self, header: usize) -> usize {
        let digit = self.text[header..self.line_end(header)]
            .bytes()
            .skip(1)
            .take(2)
            .find(u8::is_ascii_digit)
            .map_or(1, |digit| usize::from(digit - b'0'));
        let in_list = self
            .open
            .last()
            .is_some_and(|open| open.kind == Container::List);
        let parent = if in_list {
            let before = self.text[..header].trim_end();
            memchr::memrchr(b'-', before.as_bytes()).map_or(0, |dash| self.column(dash))
        } else {
            self.marks.last().map_or(0, |mark| self.column(mark.start))
        };
        parent + digit
    }

    fn line_end(&self, at: usize) -> usize {
        memchr::memchr(b'\n', &self.text.as_bytes()[at..])
            .map_or(self.text.len(), |length| at + length)
    }

    /// Returns the lines of a block scalar from the first behind its header to the last that is not
    /// blank; all but the last line break where all are blank.
    fn block_lines(&self, header: usize, end: usize) -> Range<usize> {
        let start = (self.line_end(header) + 1).min(self.text.len());
        let end = end.max(start);
        let body = &self.text[start..end];
        let trimmed = body.trim_end_matches(['\n', '\r', ' ']);
        if trimmed.is_empty() {
            // What stands before the next item on its line is not part of it.
            let lines = memchr::memrchr(b'\n', body.as_bytes()).map_or(body.len(), |at| at + 1);
            return start..start + lines;
        }
        // Blanks at the end of the last line are part of it.
        let rest = &body[trimmed.len()..];
        let tail = rest.find(['\n', '\r']).unwrap_or(rest.len());
        start..start + trimmed.len() + tail
    }

    fn finish(mut self) -> Result<Composed<'a>, DocumentError> {
        if self.document == 0 || self.found.frames.is_empty() {
            return Err(DocumentError::Line {
                line: 1,
                construct: "a text without a document",
                format: "YAML",
            });
        }
        if !self.root_seen {
            self.push_root_frame();
        }
        self.found.documents = self.document;
        if let Root::Flow {
            last: Some(last), ..
        } = self.found.root
            && self.text[last..].starts_with('#')
        {
            // The metadata would stand in front of the comment without a blank between.
            return Err(self.error(
                last,
                "a comment behind a key without a value, last in brackets",
            ));
        }
        self.check_explicit_keys()?;
        self.place_comments();
        if self.skipped > 0 {
            self.shift();
        }
        Ok(self.found)
    }

    /// Counts the byte order mark in.
    fn shift(&mut self) {
        let by = self.skipped;
        let move_range = |range: &mut Range<usize>| {
            range.start += by;
            range.end += by;
        };
        for part in &mut self.found.parts {
            move_range(&mut part.span);
            if let Shape::Scalar { lines, tag, .. } = &mut part.shape {
                move_range(lines);
                if let Some(tag) = tag {
                    *tag += by;
                }
            }
        }
        for alias in &mut self.found.aliases {
            move_range(&mut alias.span);
        }
        for reserved in &mut self.found.reserved {
            move_range(&mut reserved.key);
            move_range(&mut reserved.value);
        }
        if let Some(end) = &mut self.found.end_of_first {
            *end += by;
        }
        if let Root::Flow { last, open } = &mut self.found.root {
            *open += by;
            if let Some(last) = last {
                *last += by;
            }
        }
    }

    /// Refuses a comment between the `?` of a key and its value: to go-yaml it belongs to what depends on
    /// how both are written.
    fn check_explicit_keys(&self) -> Result<(), DocumentError> {
        for (range, _) in &self.comments {
            let next = self.marks.partition_point(|mark| mark.start < range.start);
            let Some(last) = next.checked_sub(1).map(|at| &self.marks[at]) else {
                continue;
            };
            let is_explicit = last.is_key && self.text[..last.start].trim_end().ends_with('?');
            let is_between = last.end == last.key_end || last.end > range.start;
            if is_explicit && is_between {
                return Err(self.error(
                    range.start,
                    "a comment between `?` and the value of its key",
                ));
            }
        }
        Ok(())
    }

    /// Gives every comment its container and its place in the order.
    fn place_comments(&mut self) {
        let comments = std::mem::take(&mut self.comments);
        if comments.is_empty() {
            self.sort(Vec::new());
            return;
        }
        let mut flows = Flows::default();
        for (extent, frame) in self.extents.iter().zip(0..) {
            if extent.is_flow {
                flows.opened.push(frame);
                // The outermost of those that end here was opened first.
                let end = flows.closed.entry(extent.span.end);
                end.or_insert((extent.span.start, frame));
            }
        }
        let start_of = |frame: &u32| self.extents[*frame as usize].span.start;
        flows.opened.sort_by_key(start_of);
        let roots: Vec<u32> = (0..)
            .zip(&self.found.frames)
            .filter(|(_, frame)| frame.parent.is_none())
            .map(|(id, _)| id)
            .collect();
        let metadata: Vec<Range<usize>> = self
            .found
            .reserved
            .iter()
            .map(|reserved| reserved.key.start..reserved.value.end)
            .collect();
        let mut parts = Vec::with_capacity(comments.len());
        let mut run: Vec<Range<usize>> = Vec::new();
        let mut comments = comments.into_iter().peekable();
        while let Some((range, document)) = comments.next() {
            if metadata.iter().any(|span| span.contains(&range.start)) {
                continue;
            }
            let root = roots
                .get(document.min(roots.len().saturating_sub(1)))
                .copied();
            let root = root.unwrap_or(0);
            let seat = self.seat_of(&range, &flows, root);
            if let Some(seat) = seat.or_else(|| self.seat_above_value(&range, root)) {
                parts.push(self.comment(range, &seat));
            } else {
                run.push(range.clone());
                let goes_on = comments.peek().is_some_and(|(next, next_document)| {
                    *next_document == document
                        && self.text[range.end..next.start].trim_ascii().is_empty()
                        && !metadata.iter().any(|span| span.contains(&next.start))
                });
                if !goes_on {
                    let frames = self.frames_of_run(&run, root);
                    for (range, frame) in std::mem::take(&mut run).into_iter().zip(frames) {
                        let seat = Seated {
                            frame,
                            order: (range.start, 0),
                            step: Step::Remark,
                        };
                        parts.push(self.comment(range, &seat));
                    }
                }
            }
        }
        self.sort(parts);
    }

    /// Merges comments into the parts; an empty collection with a comment in it is not empty.
    fn sort(&mut self, comments: Vec<Part<'a>>) {
        let held: HashSet<u32> = comments.iter().map(|part| part.frame).collect();
        let parts = std::mem::take(&mut self.found.parts);
        let count = parts.len() + comments.len();
        let mut all: Vec<(Option<usize>, Part<'a>)> = Vec::with_capacity(count);
        all.extend(
            parts
                .into_iter()
                .enumerate()
                .map(|(old, part)| (Some(old), part)),
        );
        all.extend(comments.into_iter().map(|part| (None, part)));
        all.sort_by_key(|(_, part)| part.order);
        all.retain(
            |(_, part)| !matches!(part.shape, Shape::Hollow { frame } if held.contains(&frame)),
        );
        // Parts know others by number.
        let mut new_of = HashMap::new();
        let has_references = !self.found.aliases.is_empty()
            || all
                .iter()
                .any(|(_, part)| matches!(part.shape, Shape::Alias { .. }));
        if has_references {
            new_of = all
                .iter()
                .zip(0..)
                .filter_map(|((old, _), new)| old.map(|old| (old, new)))
                .collect();
        }
        let renumber = |old: usize| new_of.get(&old).copied().unwrap_or(usize::MAX);
        self.found.parts = all
            .into_iter()
            .map(|(_, mut part)| {
                match &mut part.shape {
                    Shape::Alias { original, .. } | Shape::Copy { original, .. } => {
                        *original = renumber(*original);
                    }
                    _ => {}
                }
                part
            })
            .collect();
        for alias in &mut self.found.aliases {
            let old = alias.parts.clone();
            let numbers = old.clone().map(renumber).filter(|new| *new != usize::MAX);
            let (mut low, mut high) = (usize::MAX, 0);
            for number in numbers {
                low = low.min(number);
                high = high.max(number + 1);
            }
            alias.parts = if low < high { low..high } else { 0..0 };
        }
    }

    fn comment(&self, range: Range<usize>, seat: &Seated) -> Part<'a> {
        let text = &self.text.as_bytes()[range.start + 1..range.end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let span = range.start + 1..range.start + 1 + text.len();
        Part {
            path: self.found.frames[seat.frame as usize].path.clone(),
            frame: seat.frame,
            step: seat.step,
            value: Value::Comment(SecretText::Borrowed(text)),
            span,
            shape: Shape::Comment,
            order: seat.order,
        }
    }

    /// Returns where a comment belongs that stands in brackets or behind something on its line; `None`
    /// for one on a line of its own, or behind a dash alone, which counts as such.
    fn seat_of(&self, range: &Range<usize>, flows: &Flows, root: u32) -> Option<Seated> {
        let line_start = self.line_start(range.start);
        let before = self.text[line_start..range.start].trim_end();
        let is_inline = !before.trim_start_matches([' ', '-']).is_empty();
        let seated = |frame, order, step| Some(Seated { frame, order, step });
        // The innermost open bracket around it.
        let at = flows
            .opened
            .partition_point(|frame| self.extents[*frame as usize].span.start < range.start);
        let before_it = at.checked_sub(1).map(|at| flows.opened[at]);
        let around = std::iter::successors(before_it, |frame| self.extents[*frame as usize].parent)
            .take_while(|frame| self.extents[*frame as usize].is_flow)
            .find(|frame| self.extents[*frame as usize].span.end > range.start);
        let end_of_text = line_start + before.trim_end_matches([' ', ',']).len();
        let inner = flows.closed.get(&end_of_text);
        if let (Some(_), Some((start, frame)), true) = (around, inner, is_inline) {
            return seated(*frame, (*start, 0), Step::Aside);
        }
        if let Some(frame) = around {
            let step = if is_inline { Step::Aside } else { Step::Remark };
            let order = self.order_in_flow(range.start, is_inline);
            return seated(frame, order, step);
        }
        if !is_inline {
            return None;
        }
        let end_of_text = line_start + before.len();
        if before.ends_with([']', '}'])
            && let Some((start, frame)) = flows.closed.get(&end_of_text)
        {
            return seated(*frame, (*start, 0), Step::Aside);
        }
        let next = self.marks.partition_point(|mark| mark.start < range.start);
        let next_mark = self.marks.get(next);
        let last_mark = next.checked_sub(1).map(|at| &self.marks[at]);
        let on_line = last_mark.filter(|mark| mark.end > line_start || mark.start >= line_start);
        let is_marker = before.starts_with("---") || before.starts_with("...");
        match on_line {
            None if is_marker => seated(root, (range.start, 0), Step::Remark),
            Some(mark) => {
                // Behind a key whose value stands below: a property makes it the value's.
                let below = next_mark.filter(|next| {
                    let extent = &self.extents[next.frame as usize];
                    mark.is_key
                        && mark.end < end_of_text
                        && extent.has_anchor
                        && extent.parent == Some(mark.frame)
                        && !self.text[mark.end..end_of_text]
                            .trim_matches([':', ' '])
                            .is_empty()
                });
                if let Some(next) = below {
                    seated(next.frame, (next.start, 0), Step::Remark)
                } else {
                    let inner = mark.inner.filter(|_| mark.end == end_of_text);
                    seated(inner.unwrap_or(mark.frame), (mark.start, 0), Step::Aside)
                }
            }
            None => {
                let frame = next_mark.map_or(root, |mark| mark.frame);
                seated(frame, (range.start, 0), Step::Remark)
            }
        }
    }

    /// Returns where a comment belongs that stands between a key and its value, on a line of its own: to go-yaml it
    /// heads the key.
    fn seat_above_value(&self, range: &Range<usize>, root: u32) -> Option<Seated> {
        let next = self.marks.partition_point(|mark| mark.start < range.start);
        let key = &self.marks[next.checked_sub(1)?];
        let is_between = key.is_key && key.end > range.start && self.root_of(key.frame) == root;
        is_between.then_some(Seated {
            frame: key.frame,
            order: (key.start, 0),
            step: Step::Remark,
        })
    }

    /// Returns the container of each comment of a run: comments on lines of their own with nothing but
    /// blank lines between them.
    ///
    /// go-yaml takes comments for the head of what follows, unless indentation or a blank line speak
    /// against it: then they are the foot of what stands above, and the blocks that end here end before
    /// the first comment in their column (`scannerc.go`, `yaml_parser_scan_comments` and
    /// `yaml_parser_unroll_indent`).
    fn frames_of_run(&self, run: &[Range<usize>], root: u32) -> Vec<u32> {
        let Some(end) = run.last().map(|range| range.end) else {
            return Vec::new();
        };
        let next = self.next_content(end, root);
        let before = self.marks.partition_point(|mark| mark.start < run[0].start);
        let last = before
            .checked_sub(1)
            .map(|at| &self.marks[at])
            .filter(|mark| self.root_of(mark.frame) == root);
        let Some(last) = last else {
            return vec![next.frame; run.len()];
        };
        // The blocks that are open, innermost first, with their columns.
        let chain = std::iter::successors(Some(last.frame), |frame| {
            self.found.frames[*frame as usize].parent
        });
        let open: Vec<(u32, usize)> = chain
            .filter_map(|frame| Some((frame, self.block_column(frame)?)))
            .collect();
        let innermost = open.first().map_or(0, |(_, column)| *column);
        let is_value = last.is_key && last.end == last.key_end;
        // What has no text of its own passes its comments on.
        let is_carried = is_value || (!last.is_key && last.start == last.end);
        let groups = self.groups_of_run(run, &next, innermost, is_value);
        // Where the blocks end that what follows is not part of.
        let mut ends: Vec<(u32, Spot)> = Vec::new();
        let mut mark = Spot::Scan;
        for (frame, column) in &open {
            let is_over = next.column.is_none_or(|next| *column > next);
            if !is_over {
                break;
            }
            let mut stop = mark;
            for group in groups.iter().rev() {
                if group.end < stop {
                    break;
                }
                if group.column == *column {
                    mark = group.start;
                }
                stop = group.scan;
            }
            ends.push((*frame, mark));
        }
        let mut frames = Vec::with_capacity(run.len());
        for group in &groups {
            let frame = match group.token {
                _ if group.is_head => next.frame,
                Spot::Prior if !is_carried => self.block_of(last.frame),
                token => {
                    let is_map =
                        |frame: u32| self.found.frames[frame as usize].kind == Container::Map;
                    let first = ends.iter().position(|(_, spot)| *spot >= token);
                    let end = first
                        .and_then(|first| ends[first..].iter().find(|(frame, _)| is_map(*frame)));
                    end.map_or(next.frame, |(frame, _)| *frame)
                }
            };
            frames.extend(std::iter::repeat_n(frame, group.count));
        }
        // Behind a dash, a comment is about the item, not about what stands first in it.
        let line = self.line_start(run[0].start);
        let item = &self.found.frames[next.frame as usize];
        let is_behind = self.extents[next.frame as usize].span.start < run[0].start;
        if let (false, Step::Item(_), Some(list)) = (
            is_behind || self.text[line..run[0].start].trim_ascii().is_empty(),
            item.step,
            item.parent,
        ) {
            frames
                .iter_mut()
                .filter(|frame| **frame == next.frame)
                .for_each(|frame| *frame = list);
        }
        frames
    }

    /// Splits a run into what go-yaml takes for one comment each.
    fn groups_of_run(
        &self,
        run: &[Range<usize>],
        next: &Next,
        innermost: usize,
        is_value: bool,
    ) -> Vec<Group> {
        let line = |at: usize| self.line_start(at);
        let is_blank_before = |at: usize| {
            let start = line(at);
            start > 0 && {
                let above = line(start - 1);
                self.text[above..start].trim_ascii().is_empty()
            }
        };
        let column_of = |index: usize| run[index].start - line(run[index].start);
        let is_alone = |at: usize| self.text[line(at)..at].trim_ascii().is_empty();
        let mut groups: Vec<Group> = Vec::new();
        let (mut token, mut scan) = (Spot::Prior, Spot::Scan);
        let mut first_empty = !is_blank_before(run[0].start);
        let mut start: Option<usize> = None;
        for index in 0..run.len() {
            let column = column_of(index);
            if let Some(first) = start
                && column < innermost
                && column != column_of(first)
            {
                groups.push(Group {
                    is_head: false,
                    token,
                    scan,
                    start: Spot::Comment(first),
                    end: Spot::Comment(index),
                    column: column_of(first),
                    count: index - first,
                });
                scan = Spot::Comment(index);
                token = scan;
                start = None;
            }
            let first = *start.get_or_insert(index);
            // A blank line behind it, or the end of the text.
            let is_last = index + 1 == run.len();
            let follows = if is_last {
                next.at
            } else {
                run[index + 1].start
            };
            let is_end = is_last && next.is_end_of_text;
            // go-yaml takes the two bytes of a line's end for two lines here.
            let has_two_bytes = self.text[run[index].start..].lines().next().is_some()
                && self.text.as_bytes()[run[index].start..follows].contains(&b'\r');
            if is_end || has_two_bytes || is_blank_before(follows) {
                let is_directly_below = first == 0
                    && is_alone(run[0].start)
                    && !is_blank_before(run[0].start)
                    && !is_value;
                let column = column_of(first);
                if first_empty && (is_directly_below || column < innermost) {
                    groups.push(Group {
                        is_head: false,
                        token: if column < innermost {
                            Spot::Comment(first)
                        } else {
                            token
                        },
                        scan,
                        start: Spot::Comment(first),
                        end: Spot::Behind(index),
                        column,
                        count: index + 1 - first,
                    });
                    scan = Spot::Behind(index);
                    token = scan;
                    start = None;
                }
                first_empty = false;
            }
        }
        if let Some(first) = start {
            let column = column_of(first);
            let is_foot = !next.is_end_of_text
                && next
                    .column
                    .is_some_and(|next| next < innermost && next != column);
            groups.push(Group {
                is_head: !is_foot,
                token: if is_foot { token } else { Spot::Comment(first) },
                scan,
                start: Spot::Comment(first),
                end: Spot::Behind(run.len()),
                column,
                count: run.len() - first,
            });
        }
        groups
    }

    /// Returns what follows a run of comments.
    fn next_content(&self, end: usize, root: u32) -> Next {
        let rest = &self.text[end..];
        let at = end + rest.len() - rest.trim_ascii_start().len();
        let is_first = root == Frame::ROOT;
        // In the encrypted file, the metadata is what follows the first document.
        let seat = self.found.end_of_first.unwrap_or(self.text.len());
        let is_marker = |at: usize| {
            let line = &self.text[at..];
            self.line_start(at) == at && (line.starts_with("---") || line.starts_with("..."))
        };
        if is_first
            && (at >= seat || at >= self.text.len())
            && !matches!(self.found.root, Root::Flow { .. })
        {
            let column = match self.found.root {
                Root::Block(column) => column,
                _ => 0,
            };
            return Next {
                // A comment may stand behind the mark that ends the document.
                at: seat.max(end),
                column: Some(column),
                frame: root,
                is_end_of_text: false,
            };
        }
        if at >= self.text.len() {
            return Next {
                at,
                column: None,
                frame: root,
                is_end_of_text: true,
            };
        }
        let column = at - self.line_start(at);
        if is_marker(at) {
            return Next {
                at,
                column: Some(0),
                frame: root,
                is_end_of_text: false,
            };
        }
        let is_reserved = self.found.reserved.iter().any(|one| one.key.start == at);
        let mark = self.marks.partition_point(|mark| mark.start < at);
        let mark = self.marks.get(mark).filter(|_| !is_reserved);
        let frame = mark
            .map(|mark| mark.frame)
            .filter(|frame| self.root_of(*frame) == root)
            .unwrap_or(root);
        let is_dash = self.text[at..].starts_with("- ") || self.text[at..].starts_with("-\n");
        Next {
            at,
            column: Some(column),
            frame: if is_dash {
                self.list_at(frame, column)
            } else {
                frame
            },
            is_end_of_text: false,
        }
    }

    /// Returns the list around a frame whose dashes stand in that column.
    fn list_at(&self, frame: u32, column: usize) -> u32 {
        let mut chain = std::iter::successors(Some(frame), |frame| {
            self.found.frames[*frame as usize].parent
        });
        let list = chain.find(|frame| {
            self.found.frames[*frame as usize].kind == Container::List
                && self.dash_column(*frame) == Some(column)
        });
        list.unwrap_or(frame)
    }

    /// Returns the column of a block; `None` for brackets, and for a list that is not indented, which
    /// go-yaml does not count as a level.
    fn block_column(&self, frame: u32) -> Option<usize> {
        let extent = &self.extents[frame as usize];
        let first = extent.first_item.filter(|_| !extent.is_flow)?;
        if self.found.frames[frame as usize].kind == Container::Map {
            return Some(self.column(first));
        }
        let column = self.dash_column(frame)?;
        let is_flush = extent.has_key && column == extent.key_column;
        (!is_flush).then_some(column)
    }

    fn dash_column(&self, list: u32) -> Option<usize> {
        let first = self.extents[list as usize].first_item?;
        let before = self.text[..first].trim_ascii_end();
        memchr::memrchr(b'-', before.as_bytes()).map(|dash| self.column(dash))
    }

    /// Returns the block that a frame is in: itself, or what is around brackets.
    fn block_of(&self, frame: u32) -> u32 {
        let mut frame = frame;
        while self.extents[frame as usize].is_flow
            && let Some(parent) = self.extents[frame as usize].parent
        {
            frame = parent;
        }
        frame
    }

    /// Returns the order of a comment in brackets: before the item it stands on or above.
    fn order_in_flow(&self, at: usize, is_inline: bool) -> (usize, u8) {
        let next = self.marks.partition_point(|mark| mark.start < at);
        match next.checked_sub(1).map(|at| &self.marks[at]) {
            Some(mark) if is_inline && mark.start >= self.line_start(at) => (mark.start, 0),
            _ => (at, 0),
        }
    }

    fn root_of(&self, frame: u32) -> u32 {
        let mut frame = frame;
        while let Some(parent) = self.found.frames[frame as usize].parent {
            frame = parent;
        }
        frame
    }
}

/// The collections in brackets.
#[derive(Default)]
struct Flows {
    /// In the order they begin.
    opened: Vec<u32>,
    /// By where they end: where the outermost begins, and which it is.
    closed: HashMap<usize, (usize, u32)>,
}

/// Where a block scalar stands.
struct Block {
    header: usize,
    lines: Range<usize>,
    span: Range<usize>,
    indent: usize,
}

/// Where a comment belongs.
struct Seated {
    frame: u32,
    order: (usize, u8),
    step: Step,
}

/// What follows a run of comments: where, in which column, in which container.
struct Next {
    at: usize,
    column: Option<usize>,
    frame: u32,
    is_end_of_text: bool,
}

/// A place in or around a run of comments, in the order of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// The token in front of the run.
    Prior,
    /// Behind that token.
    Scan,
    /// The comment with that number.
    Comment(usize),
    /// Behind the comment with that number.
    Behind(usize),
}

impl Spot {
    fn order(self) -> usize {
        match self {
            Self::Prior => 0,
            Self::Scan => 1,
            Self::Comment(number) => 2 * number + 2,
            Self::Behind(number) => 2 * number + 3,
        }
    }
}

impl PartialOrd for Spot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.order().cmp(&other.order()))
    }
}

/// Comments that go-yaml takes for one.
struct Group {
    is_head: bool,
    /// The first token that may carry it.
    token: Spot,
    scan: Spot,
    start: Spot,
    end: Spot,
    column: usize,
    count: usize,
}

struct Place {
    frame: u32,
    path: KeyPath,
    step: Step,
    order: usize,
    is_reserved: bool,
}

/// Returns whether a comment stands between the properties of a value.
fn has_comment(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'#', bytes).any(|at| at > 0 && bytes[at - 1].is_ascii_whitespace())
}

/// A scalar event.
struct Found<'a, 't> {
    text: std::borrow::Cow<'a, str>,
    style: ScalarStyle,
    anchor: usize,
    tag: Option<&'t Tag>,
    range: Range<usize>,
    tag_at: Option<usize>,
    /// For block scalars: the columns their lines are indented by.
    indent: Option<usize>,
}
