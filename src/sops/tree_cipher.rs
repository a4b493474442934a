//! Encrypting and decrypting a whole tree, as the reference program does: for files that change their
//! format, or are to be written as stock `sops` writes them.
//!
//! Documents that keep their spelling go through [`super::seal`] and [`super::open`] instead. The walk is
//! SOPS `sops.go`, `Tree.Encrypt` and `Tree.Decrypt`.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::parallel;
use crate::secret::{SecretBytes, SecretText};

use super::Fill;
use super::cipher::{Cipher, IV_BYTES, Token};
use super::data_key::DataKey;
use super::document::{Container, Frame, KeyPath, Step};
use super::error::DocumentError;
use super::mac::Mac;
use super::metadata::Metadata;
use super::opening::{self, SHARE};
use super::selector::{SelectionRule, Selector};
use super::tree::{Item, Node, Tree};
use super::value::{self, Value};

/// A leaf of a tree in the order of the walk.
struct Leaf<'t> {
    item: &'t mut Item<'static>,
    /// Where its associated data comes from: the container for comments and items of lists.
    path: KeyPath,
    frame: u32,
    in_list: bool,
}

/// The tokens of an opened tree, so that a value that stays keeps its token.
#[derive(Default)]
pub struct Stash(HashMap<StashKey, SecretBytes>);

/// What makes two leaves alike: associated data, type, plaintext.
type StashKey = (Box<[u8]>, &'static str, Hidden);

/// A plaintext as a map key.
struct Hidden(SecretBytes);

impl PartialEq for Hidden {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for Hidden {}

impl std::hash::Hash for Hidden {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.expose().hash(state);
    }
}

/// What opening a tree told.
pub struct OpenedTree {
    /// The tokens, by what was in them.
    pub stash: Stash,
    /// Comments that were never encrypted.
    pub clear_comments: usize,
}

/// Lists the leaves of a tree with their containers.
fn leaves_of<'t>(tree: &'t mut Tree<'static>) -> (Vec<Leaf<'t>>, Vec<Frame>) {
    let mut frames = Vec::new();
    let mut leaves = Vec::new();
    for (number, items) in tree.documents.iter_mut().enumerate() {
        let frame = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        frames.push(Frame::root(number));
        collect(
            items,
            &KeyPath::root(),
            frame,
            false,
            &mut frames,
            &mut leaves,
        );
    }
    (leaves, frames)
}

fn collect<'t>(
    items: &'t mut [Item<'static>],
    path: &KeyPath,
    frame: u32,
    in_list: bool,
    frames: &mut Vec<Frame>,
    leaves: &mut Vec<Leaf<'t>>,
) {
    for (number, item) in items.iter_mut().enumerate() {
        let own = match &item {
            Item::Entry { key, .. } if !in_list => path.child(key),
            _ => path.clone(),
        };
        match item {
            Item::Entry {
                node: node @ (Node::List(_) | Node::Map(_)),
                ..
            } => {
                let inner = u32::try_from(frames.len()).unwrap_or(u32::MAX);
                let (children, kind) = match node {
                    Node::List(items) => (items, Container::List),
                    Node::Map(items) => (items, Container::Map),
                    Node::Scalar(_) => continue,
                };
                frames.push(Frame {
                    parent: Some(frame),
                    step: if in_list {
                        Step::Item(number)
                    } else {
                        Step::Key
                    },
                    kind,
                    path: own.clone(),
                });
                let is_list = kind == Container::List;
                collect(children, &own, inner, is_list, frames, leaves);
            }
            item => leaves.push(Leaf {
                item,
                path: own,
                frame,
                in_list,
            }),
        }
    }
}

impl Leaf<'_> {
    fn is_comment(&self) -> bool {
        matches!(self.item, Item::Comment { .. })
    }

    /// Returns its value; a comment's is its text.
    fn value(&self) -> Value<'_> {
        match &*self.item {
            Item::Comment { text, .. } => Value::Comment(SecretText::Borrowed(text.expose())),
            Item::Entry {
                node: Node::Scalar(value),
                ..
            } => value.borrowed(),
            Item::Entry { .. } => Value::Null,
        }
    }

    /// Returns the text of a string or comment.
    fn text(&self) -> Option<&[u8]> {
        match &*self.item {
            Item::Comment { text, .. }
            | Item::Entry {
                node: Node::Scalar(Value::Str(text)),
                ..
            } => Some(text.expose()),
            Item::Entry { .. } => None,
        }
    }

    fn set(&mut self, value: Value<'static>) {
        let key = match &mut *self.item {
            Item::Entry { key, .. } => std::mem::take(key),
            Item::Comment { .. } => Cow::Borrowed(&b""[..]),
        };
        *self.item = match value {
            Value::Comment(text) => Item::Comment {
                text,
                is_inline: false,
            },
            value => Item::Entry {
                key,
                node: Node::Scalar(value),
            },
        };
    }

    fn name(&self) -> String {
        if self.is_comment() {
            "comment".to_owned()
        } else {
            self.path.display()
        }
    }
}

fn selected(leaves: &[Leaf<'_>], frames: &[Frame], metadata: &Metadata) -> Vec<bool> {
    let mut selector = Selector::new(&metadata.selection);
    leaves
        .iter()
        .map(|leaf| {
            let comment = leaf.text().filter(|_| leaf.is_comment());
            selector.select(&leaf.path, leaf.frame, comment, frames)
        })
        .collect()
}

/// Decrypts a tree in place and verifies the MAC, unless `is_mac_ignored`.
///
/// # Errors
/// `Token`, `Value` or `NotEncrypted` for a leaf that cannot be opened, `MacMismatch`.
pub fn open_tree(
    tree: &mut Tree<'static>,
    metadata: &Metadata,
    key: &DataKey,
    is_mac_ignored: bool,
) -> Result<OpenedTree, DocumentError> {
    let cipher = Cipher::new(key);
    let (leaves, frames) = leaves_of(tree);
    let selected = selected(&leaves, &frames, metadata);
    let work: Vec<_> = leaves.iter().zip(&selected).collect();
    let opened = parallel::map(&work, SHARE, |(leaf, selected)| {
        if !**selected || leaf.value().plaintext().expose().is_empty() {
            return Ok(None);
        }
        let Some(text) = leaf.text() else {
            return Err(DocumentError::NotEncrypted { key: leaf.name() });
        };
        let open = || {
            let token = Token::parse(text)?;
            let bytes = cipher.open(&token, leaf.path.associated_data())?;
            Ok((token.kind, bytes))
        };
        match open() {
            Ok((kind, bytes)) => {
                let value = Value::from_plaintext(kind, bytes);
                let value = value.map_err(|source| DocumentError::Value {
                    key: leaf.name(),
                    source,
                })?;
                let is_fitting =
                    value.is_comment() == leaf.is_comment() || (value.is_comment() && leaf.in_list);
                if !is_fitting {
                    let source = value::ValueError::NotOfType;
                    let key = leaf.name();
                    return Err(DocumentError::Value { key, source });
                }
                Ok(Some(value))
            }
            // It was never encrypted: older versions and people leave such comments.
            Err(_) if leaf.is_comment() => Ok(None),
            Err(source) => Err(DocumentError::Token {
                key: leaf.name(),
                source,
            }),
        }
    });
    let mut mac = Mac::new(metadata.selection.scope);
    let mut stash = Stash::default();
    let mut clear_comments = 0;
    for ((mut leaf, selected), opened) in leaves.into_iter().zip(selected).zip(opened) {
        let Some(value) = opened? else {
            mac.add(&leaf.value(), selected);
            clear_comments += usize::from(selected && leaf.is_comment());
            continue;
        };
        mac.add(&value, true);
        if let (Some(tag), Some(text)) = (value.type_tag(), leaf.text()) {
            let plaintext = SecretBytes::copy_of(value.plaintext().expose());
            let aad = leaf.path.associated_data().into();
            let token = SecretBytes::copy_of(text);
            stash.0.insert((aad, tag, Hidden(plaintext)), token);
        }
        leaf.set(value);
    }
    if !is_mac_ignored {
        opening::verify_mac(&cipher, metadata, &mac.finish())?;
    }
    Ok(OpenedTree {
        stash,
        clear_comments,
    })
}

/// Encrypts a tree in place and sets MAC and time (RFC 3339, UTC, whole seconds) in its metadata. Values
/// that are in `stash` keep their tokens.
///
/// # Errors
/// `SelfMatching`.
pub fn seal_tree(
    tree: &mut Tree<'static>,
    metadata: &mut Metadata,
    key: &DataKey,
    stash: &Stash,
    now: &str,
    fill: Fill<'_>,
) -> Result<(), DocumentError> {
    let cipher = Cipher::new(key);
    let (leaves, frames) = leaves_of(tree);
    let selected = selected(&leaves, &frames, metadata);
    let mut mac = Mac::new(metadata.selection.scope);
    let mut work = Vec::with_capacity(leaves.len());
    for (leaf, &selected) in leaves.iter().zip(&selected) {
        mac.add(&leaf.value(), selected);
        let mut iv = [0; IV_BYTES];
        if selected {
            fill(&mut iv);
        }
        work.push((leaf, selected, iv));
    }
    let tokens = parallel::map(&work, SHARE, |(leaf, selected, iv)| {
        let value = leaf.value();
        let plaintext = value.plaintext();
        let tag = value
            .type_tag()
            .filter(|_| *selected && !plaintext.expose().is_empty())?;
        let aad = leaf.path.associated_data();
        let copy = SecretBytes::copy_of(plaintext.expose());
        if let Some(token) = stash.0.get(&(aad.into(), tag, Hidden(copy))) {
            return Some(token.clone());
        }
        let mut token = Vec::new();
        cipher.seal(plaintext.expose(), tag, aad, iv, &mut token);
        Some(SecretBytes::new(token))
    });
    let rule = metadata.selection.rule.clone();
    for (leaf, token) in leaves.into_iter().zip(tokens) {
        let Some(token) = token else { continue };
        if let (SelectionRule::UnencryptedCommentRegex(pattern), true) = (&rule, leaf.is_comment())
            && pattern.is_match(token.expose())
        {
            return Err(DocumentError::SelfMatching);
        }
        let text = SecretText::Owned(token);
        let in_list = leaf.in_list;
        match leaf.item {
            // In lists the reference makes an item of an encrypted comment.
            item @ Item::Comment { .. } if in_list => {
                *item = Item::Entry {
                    key: Cow::Borrowed(&b""[..]),
                    node: Node::Scalar(Value::Str(text)),
                };
            }
            Item::Comment { text: old, .. } => *old = text,
            Item::Entry { node, .. } => *node = Node::Scalar(Value::Str(text)),
        }
    }
    let mut iv = [0; IV_BYTES];
    fill(&mut iv);
    let digest = mac.finish();
    let mut token = Vec::new();
    cipher.seal(digest.as_bytes(), "str", now.as_bytes(), &iv, &mut token);
    let token = String::from_utf8_lossy(&token).into_owned();
    metadata.set_mac(token, now.to_owned());
    Ok(())
}
