//! A document as a tree, for writing it in another format or as the reference program spells it.
//!
//! Documents themselves are edited in place and know no tree. It is built from their leaves where
//! one is needed: to convert, and to tell whether a file has the layout that stock `sops` gives
//! every file it writes.

use std::borrow::Cow;

use crate::secret::SecretText;

use super::document::{Container, Document, Frame, KeyPath, SealedDocument, Step};
use super::store::OpenedLeaves;
use super::value::Value;

/// A file: one mapping or more (YAML documents).
#[derive(Debug, Default)]
pub struct Tree<'a> {
    /// The mappings, in order.
    pub documents: Vec<Vec<Item<'a>>>,
}

/// An item of a mapping or a list.
#[derive(Debug)]
pub enum Item<'a> {
    /// A comment: its text behind the mark, and whether it stands on the line of the next item.
    Comment {
        /// The text, blanks kept.
        text: SecretText<'a>,
        /// Whether it is an inline comment.
        is_inline: bool,
    },
    /// A value; the key is empty in lists.
    Entry {
        /// The key.
        key: Cow<'a, [u8]>,
        /// The value.
        node: Node<'a>,
    },
}

/// A value of a tree.
#[derive(Debug)]
pub enum Node<'a> {
    /// A list.
    List(Vec<Item<'a>>),
    /// A mapping.
    Map(Vec<Item<'a>>),
    /// A scalar, or an empty container.
    Scalar(Value<'a>),
}

impl Item<'_> {
    /// Detaches the item from the document it was read from.
    pub fn into_owned(self) -> Item<'static> {
        match self {
            Self::Comment { text, is_inline } => Item::Comment {
                text: SecretText::Owned(text.into_owned()),
                is_inline,
            },
            Self::Entry { key, node } => Item::Entry {
                key: Cow::Owned(key.into_owned()),
                node: node.into_owned(),
            },
        }
    }

    /// Returns whether both are the same, whatever line a comment stands on.
    fn is_same(&self, other: &Item<'_>) -> bool {
        match (self, other) {
            (Self::Comment { text, .. }, Item::Comment { text: other, .. }) => {
                text.expose() == other.expose()
            }
            (
                Self::Entry { key, node },
                Item::Entry {
                    key: other_key,
                    node: other,
                },
            ) => key == other_key && node.is_same(other),
            _ => false,
        }
    }
}

impl Node<'_> {
    /// Returns whether the node is a list or a mapping with something in it.
    pub fn has_children(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// Returns whether the node is a list or a mapping, be it an empty one.
    pub fn is_container(&self) -> bool {
        self.has_children() || matches!(self, Self::Scalar(Value::Empty(_)))
    }

    /// Detaches the node from the document it was read from.
    pub fn into_owned(self) -> Node<'static> {
        let owned = |items: Vec<Item<'_>>| items.into_iter().map(Item::into_owned).collect();
        match self {
            Self::List(items) => Node::List(owned(items)),
            Self::Map(items) => Node::Map(owned(items)),
            Self::Scalar(value) => Node::Scalar(value.into_owned()),
        }
    }

    /// Returns whether both hold the same in the same order.
    pub fn is_same(&self, other: &Node<'_>) -> bool {
        match (self, other) {
            (Self::List(one), Node::List(other)) | (Self::Map(one), Node::Map(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| one.is_same(other))
            }
            (Self::Scalar(one), Node::Scalar(other)) => one.is_same(other),
            _ => false,
        }
    }
}

/// A step of a path as it is typed for the reference program: `["key"]` or `[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// The number of an item of a list, comments not counted.
    Index(usize),
    /// A key of a mapping.
    Key(String),
}

/// Why there is nothing at a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A part of the path that is no step.
    #[error("component {0} doesn't end with ]")]
    Open(String),
    /// A step that is neither a quoted key nor a number from 0.
    #[error("component {0} is neither a quoted key nor a number")]
    NotANumber(String),
    /// The mapping has no such key.
    #[error("component ['{0}'] not found")]
    NoKey(String),
    /// The list has no such item.
    #[error("component [{0}] accesses out of bounds")]
    NoItem(usize),
    /// A number where there is no list.
    #[error("component [{0}] is integer, but tree part is not a slice")]
    NotAList(usize),
    /// A key where there is no mapping.
    #[error("component ['{0}'] is a key, but tree part is not a mapping")]
    NotAMap(String),
    /// No step at all, where one is needed.
    #[error("the path is empty")]
    Empty,
}

impl PathError {
    /// Returns whether the path leads to nothing, rather than being impossible.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoKey(_) | Self::NoItem(_) | Self::NotAList(_))
    }
}

impl PathStep {
    /// Reads a path: `["key"]['key'][0]`; nothing is escaped in a key, and `[` cannot be in one.
    ///
    /// # Errors
    /// `Open`, `NotANumber`.
    pub fn parse(text: &str) -> Result<Vec<Self>, PathError> {
        let parts = text.split('[').filter(|part| !part.is_empty());
        parts
            .map(|part| {
                let inner = part
                    .strip_suffix(']')
                    .ok_or_else(|| PathError::Open(part.to_owned()))?;
                if let Some(quote @ ('"' | '\'')) = inner.chars().next() {
                    let key = &inner[quote.len_utf8()..];
                    let mut key = key.chars();
                    // Whatever stands there is taken for the closing quote.
                    key.next_back();
                    return Ok(Self::Key(key.as_str().to_owned()));
                }
                let digits = inner.strip_prefix('+').unwrap_or(inner);
                let number = digits.parse().map(Self::Index);
                number.map_err(|_| PathError::NotANumber(inner.to_owned()))
            })
            .collect()
    }
}

/// Returns the position of an item of a list, comments not counted.
fn position(items: &[Item<'_>], number: usize) -> Option<usize> {
    let mut entries = items
        .iter()
        .enumerate()
        .filter(|(_, item)| matches!(item, Item::Entry { .. }));
    entries.nth(number).map(|(at, _)| at)
}

fn forget_inline(items: &mut [Item<'_>]) {
    for item in items {
        match item {
            Item::Comment { is_inline, .. } => *is_inline = false,
            Item::Entry {
                node: Node::List(items) | Node::Map(items),
                ..
            } => forget_inline(items),
            Item::Entry { .. } => {}
        }
    }
}

fn find(items: &[Item<'_>], wanted: &str) -> Option<usize> {
    items
        .iter()
        .position(|item| matches!(item, Item::Entry { key, .. } if **key == *wanted.as_bytes()))
}

/// Returns what a path makes of a value that nothing is there for yet.
fn wrapped(path: &[PathStep], value: Node<'static>) -> Node<'static> {
    path.iter().rev().fold(value, |node, step| match step {
        PathStep::Index(_) => Node::List(vec![entry("", node)]),
        PathStep::Key(key) => Node::Map(vec![entry(key, node)]),
    })
}

fn entry(key: &str, node: Node<'static>) -> Item<'static> {
    Item::Entry {
        key: Cow::Owned(key.as_bytes().to_vec()),
        node,
    }
}

/// Puts a value at a path below a container; what is missing on the way is made. Returns whether anything is
/// different then.
///
/// # Errors
/// `NotAMap` and `NotAList` for a step of the wrong kind, `Empty`.
pub fn set(
    items: &mut Vec<Item<'static>>,
    is_list: bool,
    path: &[PathStep],
    value: Node<'static>,
) -> Result<bool, PathError> {
    let (step, rest) = path.split_first().ok_or(PathError::Empty)?;
    let (found, key) = match step {
        PathStep::Key(key) if is_list => return Err(PathError::NotAMap(key.clone())),
        PathStep::Index(number) if !is_list => return Err(PathError::NotAList(*number)),
        PathStep::Key(key) => (find(items, key), key.as_str()),
        PathStep::Index(number) => (position(items, *number), ""),
    };
    let Some(Item::Entry { node, .. }) = found.and_then(|at| items.get_mut(at)) else {
        items.push(entry(key, wrapped(rest, value)));
        return Ok(true);
    };
    if rest.is_empty() {
        let is_changed = !node.is_same(&value);
        *node = value;
        return Ok(is_changed);
    }
    match node {
        Node::Map(items) => set(items, false, rest, value),
        Node::List(items) => set(items, true, rest, value),
        Node::Scalar(Value::Empty(kind)) => {
            let mut items = Vec::new();
            let is_list = *kind == Container::List;
            set(&mut items, is_list, rest, value)?;
            *node = if is_list {
                Node::List(items)
            } else {
                Node::Map(items)
            };
            Ok(true)
        }
        Node::Scalar(_) => {
            let new = wrapped(rest, value);
            *node = new;
            Ok(true)
        }
    }
}

/// Takes away what stands at a path below a container.
///
/// # Errors
/// As [`get`].
pub fn unset(
    items: &mut Vec<Item<'static>>,
    is_list: bool,
    path: &[PathStep],
) -> Result<(), PathError> {
    let (step, rest) = path.split_first().ok_or(PathError::Empty)?;
    let at = place_of(items, is_list, step)?;
    if rest.is_empty() {
        items.remove(at);
        return Ok(());
    }
    let Item::Entry { node, .. } = &mut items[at] else {
        return Err(PathError::Empty);
    };
    let emptied = match node {
        Node::Map(items) => {
            unset(items, false, rest)?;
            items.is_empty().then_some(Container::Map)
        }
        Node::List(items) => {
            unset(items, true, rest)?;
            items.is_empty().then_some(Container::List)
        }
        Node::Scalar(value) => return Err(nothing_below(value, &rest[0])),
    };
    if let Some(kind) = emptied {
        *node = Node::Scalar(Value::Empty(kind));
    }
    Ok(())
}

/// Returns what stands at a path below a container.
///
/// # Errors
/// `NoKey`, `NoItem`, `NotAMap`, `NotAList`; `Empty` for no path.
pub fn get<'n, 'a>(
    items: &'n [Item<'a>],
    is_list: bool,
    path: &[PathStep],
) -> Result<&'n Node<'a>, PathError> {
    let (step, rest) = path.split_first().ok_or(PathError::Empty)?;
    let Item::Entry { node, .. } = &items[place_of(items, is_list, step)?] else {
        return Err(PathError::Empty);
    };
    match (node, rest.first()) {
        (node, None) => Ok(node),
        (Node::Map(items), _) => get(items, false, rest),
        (Node::List(items), _) => get(items, true, rest),
        (Node::Scalar(value), Some(step)) => Err(nothing_below(value, step)),
    }
}

fn place_of(items: &[Item<'_>], is_list: bool, step: &PathStep) -> Result<usize, PathError> {
    match step {
        PathStep::Key(key) if is_list => Err(PathError::NotAMap(key.clone())),
        PathStep::Index(number) if !is_list => Err(PathError::NotAList(*number)),
        PathStep::Key(key) => find(items, key).ok_or_else(|| PathError::NoKey(key.clone())),
        PathStep::Index(number) => position(items, *number).ok_or(PathError::NoItem(*number)),
    }
}

fn nothing_below(value: &Value<'_>, step: &PathStep) -> PathError {
    match (value, step) {
        (Value::Empty(Container::Map), PathStep::Key(key)) => PathError::NoKey(key.clone()),
        (Value::Empty(Container::List), PathStep::Index(number)) => PathError::NoItem(*number),
        (_, PathStep::Key(key)) => PathError::NotAMap(key.clone()),
        (_, PathStep::Index(number)) => PathError::NotAList(*number),
    }
}

impl<'a> Tree<'a> {
    /// Makes comments that stood on the line of an item stand on lines of their own, as those of formats
    /// that tell no difference.
    pub fn forget_inline_comments(&mut self) {
        self.documents
            .iter_mut()
            .for_each(|items| forget_inline(items));
    }

    /// Detaches the tree from the document it was read from.
    pub fn into_owned(self) -> Tree<'static> {
        let owned = |items: Vec<Item<'a>>| items.into_iter().map(Item::into_owned).collect();
        Tree {
            documents: self.documents.into_iter().map(owned).collect(),
        }
    }

    /// Returns the tree of leaves in document order: path, frame, step and value of each.
    pub fn build<'f: 'a>(
        frames: &'f [Frame],
        leaves: impl Iterator<Item = (&'a KeyPath, u32, Step, Value<'a>)>,
    ) -> Self {
        Builder::build(frames, leaves)
    }

    /// Returns the tree of a plain document.
    pub fn of(document: &'a Document<'_>) -> Self {
        let leaves = document.leaves.iter();
        let items = leaves.map(|leaf| (&leaf.path, leaf.frame, leaf.step, leaf.value.borrowed()));
        Self::build(&document.frames, items)
    }

    /// Returns the tree of a sealed document once opened.
    pub fn of_opened(sealed: &'a SealedDocument, opened: &'a OpenedLeaves) -> Self {
        let leaves = sealed.leaves.iter().zip(&opened.values);
        let items = leaves.map(|(leaf, opened)| {
            let value = match opened {
                Some(value) => value.borrowed(),
                None => sealed.clear_value(leaf),
            };
            // An encrypted comment loses its place on the line of its item.
            let is_opened_comment = matches!((opened, &value), (Some(_), Value::Comment(_)));
            let step = if is_opened_comment {
                Step::Remark
            } else {
                leaf.step
            };
            (&leaf.path, leaf.frame, step, value)
        });
        Self::build(&sealed.frames, items)
    }

    /// Returns the tree of a sealed document as it stands, tokens being strings.
    pub fn of_sealed(sealed: &'a SealedDocument) -> Self {
        let items = sealed
            .leaves
            .iter()
            .map(|leaf| (&leaf.path, leaf.frame, leaf.step, sealed.clear_value(leaf)));
        Self::build(&sealed.frames, items)
    }
}

/// Returns a container and those around it, innermost first.
fn chain_of(frames: &[Frame], frame: u32) -> impl Iterator<Item = u32> + '_ {
    std::iter::successors(Some(frame), |&id| frames.get(id as usize)?.parent)
}

/// Puts leaves back into their containers.
struct Builder<'a, 'f> {
    frames: &'f [Frame],
    documents: Vec<Vec<Item<'a>>>,
    /// The open containers, outermost first.
    open: Vec<(u32, Vec<Item<'a>>)>,
}

impl<'a, 'f: 'a> Builder<'a, 'f> {
    fn build(
        frames: &'f [Frame],
        leaves: impl Iterator<Item = (&'a KeyPath, u32, Step, Value<'a>)>,
    ) -> Tree<'a> {
        let mut builder = Self {
            frames,
            documents: Vec::new(),
            open: Vec::new(),
        };
        let leaves: Vec<_> = leaves
            .filter(|(_, _, step, _)| *step != Step::Shadowed)
            .collect();
        // The last leaf of each container, those of its containers included.
        let mut ends = vec![0; frames.len()];
        for (index, (_, frame, ..)) in leaves.iter().enumerate() {
            for id in chain_of(frames, *frame) {
                ends[id as usize] = index;
            }
        }
        for (index, (path, frame, step, value)) in leaves.into_iter().enumerate() {
            // A comment of another container closes none that goes on.
            let goes_on = |(id, _): &&(u32, _)| ends[*id as usize] > index;
            let open = builder.open.iter().rev().find(goes_on).map(|(id, _)| *id);
            let is_kept = |id: &u32| {
                matches!(value, Value::Comment(_)) && chain_of(frames, frame).all(|of| of != *id)
            };
            builder.enter(open.filter(is_kept).unwrap_or(frame));
            let item = match value {
                Value::Comment(text) => Item::Comment {
                    text,
                    is_inline: step == Step::Aside,
                },
                value => Item::Entry {
                    key: match step {
                        Step::Key => Cow::Borrowed(path.last().unwrap_or_default()),
                        _ => Cow::Borrowed(&b""[..]),
                    },
                    node: Node::Scalar(value),
                },
            };
            if let Some((_, items)) = builder.open.last_mut() {
                items.push(item);
            }
        }
        while !builder.open.is_empty() {
            builder.close();
        }
        let roots = frames.iter().filter(|frame| frame.parent.is_none()).count();
        builder.documents.resize_with(roots, Vec::new);
        Tree {
            documents: builder.documents,
        }
    }

    /// Closes and opens containers until `frame` is the innermost.
    fn enter(&mut self, frame: u32) {
        if self.open.last().is_some_and(|(open, _)| *open == frame) {
            return;
        }
        let chain: Vec<u32> = chain_of(self.frames, frame).collect();
        while self
            .open
            .last()
            .is_some_and(|(open, _)| !chain.contains(open))
        {
            self.close();
        }
        for id in chain.into_iter().rev() {
            if !self.open.iter().any(|(open, _)| *open == id) {
                self.open.push((id, Vec::new()));
            }
        }
    }

    fn close(&mut self) {
        let Some((id, items)) = self.open.pop() else {
            return;
        };
        let frame = &self.frames[id as usize];
        match (frame.step, self.open.last_mut()) {
            (Step::Document(number), _) => {
                self.documents
                    .resize_with(self.documents.len().max(number), Vec::new);
                self.documents.push(items);
            }
            (step, Some((_, parent))) => parent.push(Item::Entry {
                key: match step {
                    Step::Key => Cow::Borrowed(frame.path.last().unwrap_or_default()),
                    _ => Cow::Borrowed(&b""[..]),
                },
                node: match frame.kind {
                    Container::List => Node::List(items),
                    Container::Map => Node::Map(items),
                },
            }),
            (_, None) => self.documents.push(items),
        }
    }
}
