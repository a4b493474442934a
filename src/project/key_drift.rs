//! Which side changed which key: both sides of an file with keys and what they last agreed on,
//! compared key by key.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::secret::SecretText;

use super::diff::Change;
use super::keys::{Keyed, Reading};
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
    Content(HashMap<Cow<'a, str>, Vec<SecretText<'a>>>),
}

impl<'a> Base<'a> {
    /// Returns the base that is a content.
    pub fn of(content: &'a [u8], reading: Reading) -> Self {
        let keys = reading.keys(content);
        keys.map_or(Self::Unknown, |keys| {
            Self::Content(keys.into_iter().collect())
        })
    }

    /// Returns whether a key had these values then, `None` for a key that was not there; no answer
    /// where nothing is known.
    fn had(&self, key: &str, values: Option<&Vec<SecretText<'_>>>) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Content(keys) => Some(match (keys.get(key), values) {
                (Some(before), Some(now)) => before == now,
                (before, now) => before.is_none() && now.is_none(),
            }),
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

/// Compares two contents by key; nothing where one of them cannot be read by keys.
pub fn compare(
    repository: &[u8],
    server: &[u8],
    base: &Base<'_>,
    reading: Reading,
) -> Vec<KeyDrift> {
    let (Some(old), Some(new)) = (reading.keys(repository), reading.keys(server)) else {
        return Vec::new();
    };
    let in_old = by_name(&old);
    let in_new = by_name(&new);
    let added = new.iter().filter(|(key, _)| !in_old.contains_key(&**key));
    let keys = old.iter().chain(added).map(|(key, _)| &**key);
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
pub fn agreeing<'k>(
    one: &[u8],
    other: &[u8],
    keys: impl Iterator<Item = &'k str>,
    reading: Reading,
) -> Vec<&'k str> {
    let (Some(one), Some(other)) = (reading.keys(one), reading.keys(other)) else {
        return Vec::new();
    };
    let (one, other) = (by_name(&one), by_name(&other));
    keys.filter(|key| one.get(key) == other.get(key)).collect()
}

fn by_name<'k, 'a>(keys: &'k Keyed<'a>) -> HashMap<&'k str, &'k Vec<SecretText<'a>>> {
    keys.iter().map(|(key, values)| (&**key, values)).collect()
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
            keys: digester().keys(text, Reading::Env),
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
                Reading::Env,
            );
            let found: Vec<_> = found.iter().map(|one| (one.change, one.moved)).collect();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(found, expected, "{repository:?} {server:?}");
            let unknown = compare(
                repository.as_bytes(),
                server.as_bytes(),
                &Base::Unknown,
                Reading::Env,
            );
            assert!(unknown.iter().all(|one| one.moved == Moved::Unknown));
            // The same keys as in the diff.
            let diff = diff::between(repository.as_bytes(), server.as_bytes(), Reading::Env);
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
        let found = compare(b"# b\nK=1\n", b"# a\nK=2\n", &base, Reading::Env);
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
