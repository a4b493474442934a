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

impl Node<'_> {
    /// Returns whether the node is a list or a mapping with something in it.
    pub fn has_children(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }
}

impl<'a> Tree<'a> {
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
        for (path, frame, step, value) in leaves {
            if step == Step::Shadowed {
                continue;
            }
            builder.enter(frame);
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
        let mut chain = vec![frame];
        while let Some(parent) = chain
            .last()
            .and_then(|&id| self.frames.get(id as usize)?.parent)
        {
            chain.push(parent);
        }
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
