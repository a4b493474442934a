//! Differences of two plaintexts by key, without values.

use std::collections::HashMap;

use super::lines::{Item, items};

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

/// Compares the repository's plaintext with the server's. `is_env` tells whether they are
/// environment files, whose keys can be named.
pub fn between(repository: &[u8], server: &[u8], is_env: bool) -> Differences {
    if repository == server {
        return Differences::default();
    }
    if !is_env {
        let changes = vec![(Change::Changed, content_in_words(repository, server))];
        return Differences {
            changes,
            is_layout_only: false,
        };
    }
    let (old, new) = (items(repository), items(server));
    let mut changes = key_changes(&old, &new);
    changes.extend(other_changes(&old, &new));
    let is_layout_only = changes.is_empty();
    Differences {
        changes,
        is_layout_only,
    }
}

/// Compares assignments by key; a key that stands several times is compared in order.
fn key_changes(old: &[Item<'_>], new: &[Item<'_>]) -> Vec<(Change, String)> {
    let (old, new) = (values_by_key(old), values_by_key(new));
    let old_values: HashMap<_, _> = old.iter().map(|(key, values)| (*key, values)).collect();
    let new_keys: HashMap<_, _> = new.iter().map(|(key, values)| (*key, values)).collect();
    let mut changes = Vec::new();
    for (key, values) in &old {
        match new_keys.get(key) {
            None => changes.push((Change::Removed, (*key).to_owned())),
            Some(now) if *now != values => changes.push((Change::Changed, (*key).to_owned())),
            Some(_) => {}
        }
    }
    for (key, _) in &new {
        if !old_values.contains_key(key) {
            changes.push((Change::Added, (*key).to_owned()));
        }
    }
    changes
}

/// Returns the keys in order of first appearance with all their values.
fn values_by_key<'i>(items: &'i [Item<'i>]) -> Vec<(&'i str, Vec<&'i [u8]>)> {
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut keys: Vec<(&str, Vec<&[u8]>)> = Vec::new();
    for item in items {
        if let Item::Assignment { key, value, .. } = item {
            let at = *positions.entry(key).or_insert_with(|| {
                keys.push((key, Vec::new()));
                keys.len() - 1
            });
            keys[at].1.push(value);
        }
    }
    keys
}

/// Counts what differs besides assignments: comments, and lines that are neither.
fn other_changes(old: &[Item<'_>], new: &[Item<'_>]) -> Vec<(Change, String)> {
    let comments = |item: &Item<'_>| matches!(item, Item::Comment(_));
    let others = |item: &Item<'_>| matches!(item, Item::Other(_));
    let mut changes = Vec::new();
    for (name, old, new) in [
        (
            "comments",
            sorted_texts(old, comments),
            sorted_texts(new, comments),
        ),
        (
            "lines that are no assignments",
            sorted_texts(old, others),
            sorted_texts(new, others),
        ),
    ] {
        if old != new {
            let change = match (old.is_empty(), new.is_empty()) {
                (true, _) => Change::Added,
                (_, true) => Change::Removed,
                _ => Change::Changed,
            };
            changes.push((change, format!("({name})")));
        }
    }
    changes
}

/// Returns the texts of the items that are wanted, sorted; nothing is copied.
fn sorted_texts<'i>(items: &'i [Item<'i>], is_wanted: impl Fn(&Item<'_>) -> bool) -> Vec<&'i [u8]> {
    let text = |item: &'i Item<'i>| match item {
        Item::Comment(text) | Item::Other(text) => *text,
        Item::Assignment { value, .. } => *value,
    };
    let mut texts: Vec<_> = items
        .iter()
        .filter(|item| is_wanted(item))
        .map(text)
        .collect();
    texts.sort_unstable();
    texts
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
        between(repository.as_bytes(), server.as_bytes(), true).summary()
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
        let text = between(b"a\nb\n", b"a\nc\n", false).summary();
        assert_eq!(text, "~ (content: 1 line added, 1 removed)");
        let bytes = between(b"\0a", b"\0ab", false).summary();
        assert_eq!(
            bytes,
            "~ (content: 2 bytes in the repository, 3 bytes on the server)"
                .replace("3 bytes on", "3 on")
        );
    }
}
