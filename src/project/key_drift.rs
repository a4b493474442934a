//! Which side changed which key: both sides of an environment file and what they last agreed on,
//! compared key by key.

use std::collections::HashMap;

use super::diff::Change;
use super::lines::{items, values_by_key};
use super::record::{Digester, Record};

/// Which side changed a key since both last agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moved {
    /// Both, to different values: a true conflict.
    Both,
    /// The repository.
    Repository,
    /// The server.
    Server,
    /// Nothing tells.
    Unknown,
}

impl Moved {
    /// Returns the stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Repository => "repository",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }
}

/// A key that differs between the two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDrift {
    /// The key, or words in round brackets for what is no key.
    pub key: String,
    /// What happened to it, seen from the repository towards the server.
    pub change: Change,
    /// Which side changed it.
    pub moved: Moved,
}

/// What both sides last agreed on.
pub enum Base<'a> {
    /// Nothing is known.
    Unknown,
    /// The digests of a record.
    Record(&'a Record, &'a Digester),
    /// A content.
    Content(HashMap<&'a str, Vec<&'a [u8]>>),
}

impl<'a> Base<'a> {
    /// Returns the base that is a content.
    pub fn of(content: &'a [u8]) -> Self {
        Self::Content(values_by_key(&items(content)).into_iter().collect())
    }

    /// Returns whether a key had these values then, `None` for a key that was not there; no answer
    /// where nothing is known.
    fn had(&self, key: &str, values: Option<&Vec<&[u8]>>) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Content(keys) => Some(keys.get(key) == values),
            Self::Record(record, digester) => {
                let known = record.keys.get(&digester.key_name(key));
                Some(match (known, values) {
                    (None, None) => true,
                    (Some(known), Some(values)) => *known == digester.key_values(key, values),
                    _ => false,
                })
            }
        }
    }
}

/// Compares two environment files by key.
pub fn compare(repository: &[u8], server: &[u8], base: &Base<'_>) -> Vec<KeyDrift> {
    let (old, new) = (items(repository), items(server));
    let (old, new) = (values_by_key(&old), values_by_key(&new));
    let in_old: HashMap<_, _> = old.iter().map(|(key, values)| (*key, values)).collect();
    let in_new: HashMap<_, _> = new.iter().map(|(key, values)| (*key, values)).collect();
    let added = new.iter().filter(|(key, _)| !in_old.contains_key(key));
    let keys = old.iter().chain(added).map(|(key, _)| *key);
    keys.filter_map(|key| {
        let (repository, server) = (in_old.get(key).copied(), in_new.get(key).copied());
        let change = match (repository, server) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(one), Some(other)) if one == other => return None,
            _ => Change::Changed,
        };
        let moved = match (base.had(key, repository), base.had(key, server)) {
            (Some(true), Some(false)) => Moved::Server,
            (Some(false), Some(true)) => Moved::Repository,
            (Some(false), Some(false)) => Moved::Both,
            _ => Moved::Unknown,
        };
        Some(KeyDrift {
            key: key.to_owned(),
            change,
            moved,
        })
    })
    .collect()
}

/// Returns the keys that have the same values, or are missing, in both texts alike, of those that are
/// asked for.
pub fn agreeing<'k>(one: &[u8], other: &[u8], keys: impl Iterator<Item = &'k str>) -> Vec<&'k str> {
    let (one, other) = (items(one), items(other));
    let one: HashMap<_, _> = values_by_key(&one).into_iter().collect();
    let other: HashMap<_, _> = values_by_key(&other).into_iter().collect();
    keys.filter(|key| one.get(key) == other.get(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::diff;
    use super::*;
    use crate::secret::SecretBytes;

    fn digester() -> Digester {
        Digester::new(SecretBytes::copy_of(&[7; 32]))
    }

    fn record(text: &[u8]) -> Record {
        Record {
            keys: digester().keys(text, true),
            ..Record::default()
        }
    }

    /// Every combination of same, changed, added and removed on both sides.
    #[test]
    fn the_table_by_key() {
        let base = "SAME=1\nK=1\n";
        for (repository, server, expected) in [
            ("K=1", "K=1", None),
            ("K=2", "K=2", None),
            ("", "", None),
            ("K=1", "K=2", Some((Change::Changed, Moved::Server))),
            ("K=2", "K=1", Some((Change::Changed, Moved::Repository))),
            ("K=2", "K=3", Some((Change::Changed, Moved::Both))),
            ("K=1", "", Some((Change::Removed, Moved::Server))),
            ("", "K=1", Some((Change::Added, Moved::Repository))),
            ("K=2", "", Some((Change::Removed, Moved::Both))),
            ("", "K=2", Some((Change::Added, Moved::Both))),
            (
                "K=1\nN=1",
                "K=1",
                Some((Change::Removed, Moved::Repository)),
            ),
            ("K=1", "K=1\nN=1", Some((Change::Added, Moved::Server))),
            ("K=1\nN=1", "K=1\nN=2", Some((Change::Changed, Moved::Both))),
            ("K=1\nN=1", "K=1\nN=1", None),
        ] {
            let repository = format!("SAME=1\n{repository}\n");
            let server = format!("SAME=1\n{server}\n");
            let (record, digester) = (record(base.as_bytes()), digester());
            let found = compare(
                repository.as_bytes(),
                server.as_bytes(),
                &Base::Record(&record, &digester),
            );
            let found: Vec<_> = found.iter().map(|one| (one.change, one.moved)).collect();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(found, expected, "{repository:?} {server:?}");
            let unknown = compare(repository.as_bytes(), server.as_bytes(), &Base::Unknown);
            assert!(unknown.iter().all(|one| one.moved == Moved::Unknown));
            // The same keys as in the diff.
            let diff = diff::between(repository.as_bytes(), server.as_bytes(), true);
            let named: Vec<_> = unknown
                .into_iter()
                .map(|one| (one.change, one.key))
                .collect();
            assert_eq!(named, diff.changes);
        }
    }

    #[test]
    fn comments_count_as_one_key() {
        let (record, digester) = (record(b"# a\nK=1\n"), digester());
        let base = Base::Record(&record, &digester);
        let found = compare(b"# b\nK=1\n", b"# a\nK=2\n", &base);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.key.as_str(), one.moved))
            .collect();
        assert_eq!(
            found,
            [("K", Moved::Server), ("(comments)", Moved::Repository)]
        );
    }
}
