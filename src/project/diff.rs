//! Differences of two plaintexts by key, without values.

use std::collections::HashMap;

use crate::sops::Layout;

use super::keys::{Keyed, Reading};
use super::manifest::Entry;

/// What happened to a key, seen from the repository towards the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the server has it.
    Added,
    /// Both have it, with different values.
    Changed,
    /// Only the repository has it.
    Removed,
}

impl Change {
    /// Returns the sign: `+`, `~` or `-`.
    pub fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Changed => '~',
            Self::Removed => '-',
        }
    }

    /// Returns the stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// How two plaintexts differ. Holds names, never values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys, or for files without keys one line that names the whole content.
    pub changes: Vec<(Change, String)>,
    /// Only blank lines, order or other spelling differ.
    pub is_layout_only: bool,
}

impl Differences {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.is_layout_only
    }

    /// Returns them seen from the server towards the repository: what placing the repository's file does.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let turned = |change: &Change| match change {
            Change::Added => Change::Removed,
            Change::Changed => Change::Changed,
            Change::Removed => Change::Added,
        };
        let changes = self.changes.iter();
        Self {
            changes: changes
                .map(|(change, key)| (turned(change), key.clone()))
                .collect(),
            is_layout_only: self.is_layout_only,
        }
    }

    /// Returns the changes in one line: `~ DB_PASSWORD, + NEW`; at most eight are named.
    pub fn summary(&self) -> String {
        const NAMED: usize = 8;
        if self.is_layout_only {
            return "layout only (no value differs)".to_owned();
        }
        let named = self.changes.iter().take(NAMED);
        let mut words: Vec<String> = named
            .map(|(change, key)| format!("{} {key}", change.sign()))
            .collect();
        if self.changes.len() > NAMED {
            words.push(format!("and {} more", self.changes.len() - NAMED));
        }
        words.join(", ")
    }
}

/// Compares both sides of an entry. Where its layout is stock's, only values count.
pub fn of(entry: &Entry, repository: &[u8], server: &[u8]) -> Differences {
    let differences = between(repository, server, entry.reading());
    if differences.is_empty() || entry.layout != Layout::Stock {
        return differences;
    }
    let is_same =
        differences.is_layout_only || is_same_to_stock(repository, server, entry.reading());
    if is_same {
        Differences::default()
    } else {
        differences
    }
}

/// Returns whether stock `sops` makes the same values of both: it makes an integer of `1.0`.
pub fn is_same_to_stock(one: &[u8], other: &[u8], reading: Reading) -> bool {
    let respelled = |text: &[u8]| reading.as_stock(text);
    match (respelled(one), respelled(other)) {
        (Some(one), Some(other)) => between(one.expose(), other.expose(), reading)
            .changes
            .is_empty(),
        _ => false,
    }
}

/// Compares the repository's plaintext with the server's, by key where both can be read by keys.
pub fn between(repository: &[u8], server: &[u8], reading: Reading) -> Differences {
    if repository == server {
        return Differences::default();
    }
    let (Some(old), Some(new)) = (reading.keys(repository), reading.keys(server)) else {
        let changes = vec![(Change::Changed, content_in_words(repository, server))];
        return Differences {
            changes,
            is_layout_only: false,
        };
    };
    let changes = key_changes(&old, &new);
    let is_layout_only = changes.is_empty();
    Differences {
        changes,
        is_layout_only,
    }
}

/// Compares by key; a key that stands several times is compared in order.
fn key_changes(old: &Keyed<'_>, new: &Keyed<'_>) -> Vec<(Change, String)> {
    let old_values: HashMap<&str, _> = old.iter().map(|(key, values)| (&**key, values)).collect();
    let new_values: HashMap<&str, _> = new.iter().map(|(key, values)| (&**key, values)).collect();
    let mut changes = Vec::new();
    for (key, values) in old {
        match new_values.get(&**key) {
            None => changes.push((Change::Removed, key.clone().into_owned())),
            Some(now) if *now != values => {
                changes.push((Change::Changed, key.clone().into_owned()));
            }
            Some(_) => {}
        }
    }
    for (key, _) in new {
        if !old_values.contains_key(&**key) {
            changes.push((Change::Added, key.clone().into_owned()));
        }
    }
    changes
}

/// Says how files without keys differ: by lines where both are text, else by length.
fn content_in_words(repository: &[u8], server: &[u8]) -> String {
    /// Beyond this, counting lines is not worth the time.
    const COUNTED_BYTES: usize = 1 << 20;
    let text = |bytes| -> Option<&str> {
        let text = std::str::from_utf8(bytes).ok()?;
        (bytes.len() <= COUNTED_BYTES && !bytes.contains(&0)).then_some(text)
    };
    let (Some(old), Some(new)) = (text(repository), text(server)) else {
        return format!(
            "(content: {} bytes in the repository, {} on the server)",
            repository.len(),
            server.len()
        );
    };
    let diff = similar::TextDiff::from_lines(old, new);
    let count = |wanted| {
        diff.iter_all_changes()
            .filter(|change| change.tag() == wanted)
            .count()
    };
    let (added, removed) = (
        count(similar::ChangeTag::Insert),
        count(similar::ChangeTag::Delete),
    );
    let lines = if added == 1 { "line" } else { "lines" };
    format!("(content: {added} {lines} added, {removed} removed)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(repository: &str, server: &str) -> String {
        between(repository.as_bytes(), server.as_bytes(), Reading::Env).summary()
    }

    #[test]
    fn keys_are_named_and_values_are_not() {
        assert_eq!(
            summary("A=1\nB=hunter2\nC=3\n", "A=1\nB=hunter3\nD=4\n"),
            "~ B, - C, + D"
        );
        assert_eq!(summary("A=1\n", "A=1\n"), "");
        assert_eq!(
            summary("A=1\nB=2\n", "B=2\n\nA=1\n"),
            "layout only (no value differs)"
        );
        assert_eq!(summary("# x\nA=1\n", "# y\nA=1\n"), "~ (comments)");
        assert_eq!(summary("A=1\nA=2\n", "A=1\n"), "~ A");
        assert_eq!(summary("A=1\n", "A=1"), "layout only (no value differs)");
    }

    #[test]
    fn files_without_keys_are_compared_as_a_whole() {
        let text = between(b"a\nb\n", b"a\nc\n", Reading::Bytes).summary();
        assert_eq!(text, "~ (content: 1 line added, 1 removed)");
        let bytes = between(b"\0a", b"\0ab", Reading::Bytes).summary();
        assert_eq!(
            bytes,
            "~ (content: 2 bytes in the repository, 3 bytes on the server)"
                .replace("3 bytes on", "3 on")
        );
    }
}
