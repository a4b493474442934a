//! The keys of a plaintext with their values, whatever the format: what differences, records, guards
//! and merges are told by.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::secret::{SecretBytes, SecretText};
use crate::sops::document::{self, Container};
use crate::sops::error::DocumentError;
use crate::sops::store::{Format, Indents};
use crate::sops::tree::Tree;
use crate::sops::value::Value;

use super::lines;

/// How the keys of a plaintext are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not at all: the content is one thing.
    Bytes,
    /// As an environment file, as its readers understand it.
    Env,
    /// As the tree of a format.
    Tree(Format),
}

/// Name of what stands for the whole content where nothing has a key.
pub const COMMENTS: &str = lines::COMMENTS;

/// The keys in order of first appearance, each with all its values. Behind them, where there are any,
/// what stands for comments and for lines that are no assignments.
pub type Keyed<'a> = Vec<(Cow<'a, str>, Vec<SecretText<'a>>)>;

impl Reading {
    /// Returns the reading of a stored form's plaintext.
    pub fn of(format: Format) -> Self {
        match format {
            Format::Age | Format::Binary => Self::Bytes,
            Format::Dotenv => Self::Env,
            Format::Ini | Format::Json | Format::Yaml => Self::Tree(format),
        }
    }

    /// Returns whether there are keys to be named.
    pub fn has_keys(self) -> bool {
        self != Self::Bytes
    }

    /// Returns whether the content is an environment file.
    pub fn is_env(self) -> bool {
        self == Self::Env
    }

    /// Says in words, line first, what makes a content none of its format; never what stands there.
    pub fn trouble(self, content: &[u8]) -> Option<String> {
        let Self::Tree(format) = self else {
            return None;
        };
        match format.store().parse(content) {
            Err(error @ DocumentError::Syntax { .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Returns a content as stock `sops` would write it; `None` where it has no tree or cannot be read.
    pub fn as_stock(self, content: &[u8]) -> Option<SecretBytes> {
        let Self::Tree(format) = self else {
            return None;
        };
        let document = format.store().parse(content).ok()?;
        format
            .store()
            .emit_tree(&Tree::of(&document), None, Indents::default())
            .ok()
    }

    /// Returns the keys of a content; `None` where it has none to be named, also because it cannot be
    /// read. Keys of trees are paths (`services.db.password`, `users[2].token`, `#1.name` in the
    /// second document); a value is its text, in double quotes where a string would be taken for
    /// something else.
    pub fn keys(self, content: &[u8]) -> Option<Keyed<'_>> {
        match self {
            Self::Bytes => None,
            Self::Env => {
                let items = lines::items(content);
                let keys = lines::values_by_key(&items).into_iter();
                Some(
                    keys.map(|(key, values)| {
                        let values = values.into_iter().map(SecretText::Borrowed);
                        (Cow::Borrowed(key), values.collect())
                    })
                    .collect(),
                )
            }
            Self::Tree(format) => keys_of_tree(format, content),
        }
    }
}

fn keys_of_tree(format: Format, content: &[u8]) -> Option<Keyed<'_>> {
    let document = format.store().parse(content).ok()?;
    let mut positions: HashMap<String, usize> = HashMap::with_capacity(document.leaves.len());
    let mut keys: Keyed<'_> = Vec::with_capacity(document.leaves.len());
    let mut comments = Vec::new();
    for leaf in document.leaves {
        let text = match leaf.value {
            Value::Comment(text) => {
                comments.push(text);
                continue;
            }
            value => text_of(value, format),
        };
        let place = document::place(&document.frames, &leaf.path, leaf.frame, leaf.step);
        if let Some(&at) = positions.get(&place) {
            keys[at].1.push(text);
        } else {
            positions.insert(place.clone(), keys.len());
            keys.push((Cow::Owned(place), vec![text]));
        }
    }
    if !comments.is_empty() {
        comments.sort_unstable_by(|one, other| one.expose().cmp(other.expose()));
        keys.push((Cow::Borrowed(COMMENTS), comments));
    }
    Some(keys)
}

/// Returns what tells a value from every other one.
fn text_of(value: Value<'_>, format: Format) -> SecretText<'_> {
    let owned = |text: String| SecretText::Owned(SecretBytes::new(text.into_bytes()));
    match value {
        Value::Str(text) if format != Format::Ini && is_ambiguous(text.expose()) => {
            let mut quoted = SecretBytes::new(Vec::with_capacity(text.expose().len() + 2));
            quoted.expose_mut().push(b'"');
            quoted.expose_mut().extend_from_slice(text.expose());
            quoted.expose_mut().push(b'"');
            SecretText::Owned(quoted)
        }
        Value::Str(text) | Value::Comment(text) => text,
        Value::Empty(Container::List) => SecretText::Borrowed(b"[]"),
        Value::Empty(Container::Map) => SecretText::Borrowed(b"{}"),
        Value::Null => SecretText::Borrowed(b"null"),
        Value::Bool(flag) => owned(flag.to_string()),
        Value::Float(number) if number.is_finite() && number.fract() == 0.0 => {
            owned(format!("{number:.1}"))
        }
        value => value.plaintext().into_owned_text(),
    }
}

/// Returns whether a string could be taken for a value that is none, or for one in quotes.
fn is_ambiguous(text: &[u8]) -> bool {
    let is_number_like = |byte: u8| {
        byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'i' | b'n' | b'N' | b'I')
    };
    matches!(text, b"" | b"null" | b"true" | b"false" | b"{}" | b"[]")
        || text.first().is_some_and(|byte| is_number_like(*byte))
        || (text.len() > 1 && text.starts_with(b"\"") && text.ends_with(b"\""))
}
