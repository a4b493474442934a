//! What can be told of a sealed document without a key: which leaves stand in clear.

use super::cipher::Token;
use super::document::SealedDocument;
use super::selector::{Selection, Selector};

/// A leaf that stands in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearLeaf {
    /// Its key path in words.
    pub key: String,
    /// The last key of its path.
    pub name: Vec<u8>,
    /// The line it stands on, from 1.
    pub line: usize,
    /// Whether it stands where a comment stands.
    pub is_comment: bool,
    /// Whether the selection leaves it in clear.
    pub is_allowed: bool,
    /// Its text, which is in the file for everybody to read.
    pub text: Vec<u8>,
}

/// Returns the leaves of a sealed document that stand in clear, in document order, judged by
/// `selection`. Empty ones are left out: SOPS keeps an empty string as it is.
pub fn clear_leaves(sealed: &SealedDocument, selection: &Selection) -> Vec<ClearLeaf> {
    let mut selector = Selector::new(selection);
    let mut found = Vec::new();
    for leaf in &sealed.leaves {
        let text = sealed.text(leaf);
        let comment = leaf.is_comment.then_some(text);
        let selected = selector.select(&leaf.path, leaf.frame, comment, &sealed.frames);
        let is_empty = sealed.clear_value(leaf).plaintext().expose().is_empty();
        if text.is_empty() || is_empty || Token::parse(text).is_ok() {
            continue;
        }
        let before = &sealed.source[..leaf.span.start.min(sealed.source.len())];
        found.push(ClearLeaf {
            key: sealed.place(leaf),
            name: leaf.path.last().unwrap_or_default().to_vec(),
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            is_comment: leaf.is_comment,
            is_allowed: !selected,
            text: text.to_vec(),
        });
    }
    found
}
