//! Which leaves of a document are encrypted: suffix, regex and comment rules.
//!
//! Separate because the same decision is taken when encrypting, decrypting and checking. At most
//! one rule is in force; where none is, key names that end in `_unencrypted` stay in clear
//! (SOPS `sops.go`, `shouldBeEncrypted`).

use super::document::{Frame, KeyPath};
use super::mac::MacScope;
use super::pattern::Pattern;

/// The suffix that leaves a key in clear where a file names no rule.
pub const DEFAULT_UNENCRYPTED_SUFFIX: &str = "_unencrypted";

/// The one selection rule of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum SelectionRule {
    /// Encrypt what a preceding or inline comment asks for.
    EncryptedCommentRegex(Pattern),
    /// Encrypt keys that match, and everything below them.
    EncryptedRegex(Pattern),
    /// Encrypt keys with the suffix, and everything below them.
    EncryptedSuffix(String),
    /// Leave in clear what a preceding or inline comment asks for.
    UnencryptedCommentRegex(Pattern),
    /// Leave keys that match in clear.
    UnencryptedRegex(Pattern),
    /// Leave keys with the suffix in clear.
    UnencryptedSuffix(String),
}

impl SelectionRule {
    /// Returns the name of the option in `.sops.yaml` and in the metadata, and its value.
    pub fn option(&self) -> (&'static str, &str) {
        match self {
            Self::EncryptedCommentRegex(pattern) => ("encrypted_comment_regex", pattern.as_str()),
            Self::EncryptedRegex(pattern) => ("encrypted_regex", pattern.as_str()),
            Self::EncryptedSuffix(suffix) => ("encrypted_suffix", suffix),
            Self::UnencryptedCommentRegex(pattern) => {
                ("unencrypted_comment_regex", pattern.as_str())
            }
            Self::UnencryptedRegex(pattern) => ("unencrypted_regex", pattern.as_str()),
            Self::UnencryptedSuffix(suffix) => ("unencrypted_suffix", suffix),
        }
    }

    /// Returns the rule for an option name and value, `None` when the name is not one of the six.
    ///
    /// # Errors
    /// When the value is not a pattern that can be compiled.
    pub fn from_option(
        name: &str,
        value: &str,
    ) -> Option<Result<Self, super::pattern::PatternError>> {
        let pattern = || Pattern::new(value);
        Some(match name {
            "encrypted_comment_regex" => pattern().map(Self::EncryptedCommentRegex),
            "encrypted_regex" => pattern().map(Self::EncryptedRegex),
            "encrypted_suffix" => Ok(Self::EncryptedSuffix(value.to_owned())),
            "unencrypted_comment_regex" => pattern().map(Self::UnencryptedCommentRegex),
            "unencrypted_regex" => pattern().map(Self::UnencryptedRegex),
            "unencrypted_suffix" => Ok(Self::UnencryptedSuffix(value.to_owned())),
            _ => return None,
        })
    }
}

/// What of a file is encrypted and what its MAC covers.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The rule in force.
    pub rule: SelectionRule,
    /// `mac_only_encrypted`.
    pub scope: MacScope,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            rule: SelectionRule::UnencryptedSuffix(DEFAULT_UNENCRYPTED_SUFFIX.to_owned()),
            scope: MacScope::AllValues,
        }
    }
}

impl Selection {
    /// Returns the options in words, for messages: `encrypted_regex: ^DB_`, and
    /// `mac_only_encrypted` where set.
    pub fn describe(&self) -> String {
        let (name, value) = self.rule.option();
        let value = value.escape_debug();
        let scope = if self.scope == MacScope::OnlyEncrypted {
            ", mac_only_encrypted"
        } else {
            ""
        };
        format!("{name}: {value}{scope}")
    }
}

impl Selection {
    /// Returns whether both are the same once written into a file whose form keeps the two
    /// characters `\n` and a line feed alike, as dotenv does.
    pub fn is_same_in_dotenv(&self, other: &Self) -> bool {
        let as_kept = |selection: &Self| {
            let (name, value) = selection.rule.option();
            (name, value.replace("\\n", "\n"), selection.scope)
        };
        as_kept(self) == as_kept(other)
    }
}

/// Walks the leaves of a document in order and decides for each.
pub struct Selector<'s> {
    rule: &'s SelectionRule,
    frames: Vec<(u32, Vec<Vec<u8>>)>,
}

impl<'s> Selector<'s> {
    /// Starts a walk at the root container.
    pub fn new(selection: &'s Selection) -> Self {
        Self {
            rule: &selection.rule,
            frames: vec![(Frame::ROOT, Vec::new())],
        }
    }

    /// Decides whether the next leaf is encrypted. Leaves must be offered in document order;
    /// `comment` is the leaf's text where it is a comment, `parents` the frame table of the document.
    pub fn select(
        &mut self,
        path: &KeyPath,
        frame: u32,
        comment: Option<&[u8]>,
        parents: &[Frame],
    ) -> bool {
        if !self.follows_comments() {
            return self.judge_path(path);
        }
        self.enter(frame, parents);
        if let (Some(text), Some((_, active))) = (comment, self.frames.last_mut()) {
            active.push(text.to_vec());
        }
        let own = comment.map(|_| self.frames.len() - 1);
        let selected = match self.rule {
            SelectionRule::UnencryptedCommentRegex(pattern) => !self.any_comment(pattern, None),
            SelectionRule::EncryptedCommentRegex(pattern) => self.any_comment(pattern, own),
            _ => true,
        };
        if let (None, Some((_, active))) = (comment, self.frames.last_mut()) {
            active.clear();
        }
        selected
    }

    fn follows_comments(&self) -> bool {
        matches!(
            self.rule,
            SelectionRule::EncryptedCommentRegex(_) | SelectionRule::UnencryptedCommentRegex(_)
        )
    }

    fn judge_path(&self, path: &KeyPath) -> bool {
        let any = |test: &dyn Fn(&[u8]) -> bool| path.keys_upward().any(test);
        match self.rule {
            SelectionRule::UnencryptedSuffix(suffix) => {
                !any(&|key| key.ends_with(suffix.as_bytes()))
            }
            SelectionRule::EncryptedSuffix(suffix) => any(&|key| key.ends_with(suffix.as_bytes())),
            SelectionRule::UnencryptedRegex(pattern) => !any(&|key| pattern.is_match(key)),
            SelectionRule::EncryptedRegex(pattern) => any(&|key| pattern.is_match(key)),
            _ => true,
        }
    }

    /// Makes `frame` the innermost open container. Leaving a container completes an item of the
    /// one around it, which ends the comments that were active there.
    fn enter(&mut self, frame: u32, parents: &[Frame]) {
        let mut chain = vec![frame];
        while let Some(parent) = chain
            .last()
            .and_then(|&id| parents.get(id as usize)?.parent)
        {
            chain.push(parent);
        }
        while self
            .frames
            .last()
            .is_some_and(|(id, _)| !chain.contains(id))
        {
            self.frames.pop();
            if let Some((_, active)) = self.frames.last_mut() {
                active.clear();
            }
        }
        for id in chain.into_iter().rev() {
            if !self.frames.iter().any(|(open, _)| *open == id) {
                self.frames.push((id, Vec::new()));
            }
        }
    }

    /// Returns whether an active comment matches, leaving out the newest one of frame `except`.
    fn any_comment(&self, pattern: &Pattern, except: Option<usize>) -> bool {
        self.frames.iter().enumerate().any(|(index, (_, active))| {
            let count = active.len() - usize::from(except == Some(index));
            active[..count].iter().any(|text| pattern.is_match(text))
        })
    }
}
