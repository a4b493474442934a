//! On what terms a file is encrypted: who can open it, and what stays in clear.
//!
//! Rules and encrypted files come from the repository, which others may write. A server remembers the terms
//! of the last sync, so that a reader who came since, or an option that leaves more in clear, is not taken for granted.

use std::collections::{BTreeMap, BTreeSet};

use crate::sops::master_key::KeyId;
use crate::sops::metadata::Metadata;
use crate::sops::selector::Selection;
use crate::sops::store::Format;

/// What is remembered of a file whose form shows the names of its keys.
pub const NAMES_IN_CLEAR: &str = "names of keys in clear";
/// What is remembered of a file that any one of its keys opens.
pub const ONE_GROUP: &str = "one key group";
/// Begins what is remembered of one of several key groups: a number, as there can be equal ones, and its keys follow, each
/// on a line.
const GROUP: &str = "key group ";

/// Terms, as they are remembered, each with the keys that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(BTreeMap<String, About>);

/// What a term is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Who can read the file.
    Reader(KeyId),
    /// Of whom one is needed, beside one of other groups.
    Group(Vec<KeyId>),
    /// How many are needed, or what is in clear.
    Other,
}

impl Terms {
    /// Returns the terms of an encrypted file.
    pub fn of(format: Format, metadata: &Metadata) -> Self {
        let groups = metadata.groups.iter();
        let groups = groups.map(|group| group.iter().map(|key| &key.id).collect());
        Self::new(
            format,
            groups.collect(),
            metadata.needed_groups(),
            &metadata.selection,
        )
    }

    /// Returns the terms of what is encrypted as `format` for `groups`, `needed` of which have to come together (0 for a
    /// single one).
    pub fn new(
        format: Format,
        groups: Vec<Vec<&KeyId>>,
        needed: usize,
        selection: &Selection,
    ) -> Self {
        let mut terms = BTreeMap::new();
        let mut equal: BTreeMap<String, usize> = BTreeMap::new();
        let count = groups.len();
        for group in groups {
            let keys = group.into_iter().map(KeyId::canonical);
            // The order of groups, and of keys in them, is nothing to anybody.
            let keys: BTreeMap<String, KeyId> = keys.map(|key| (text_of(&key), key)).collect();
            if count > 1 {
                let names: Vec<_> = keys.keys().map(String::as_str).collect();
                let names = names.join("\n");
                let number = equal.entry(names.clone()).or_default();
                *number += 1;
                let group = format!("{GROUP}{number}\n{names}");
                terms.insert(group, About::Group(keys.values().cloned().collect()));
            }
            let readers = keys.into_iter();
            terms.extend(readers.map(|(text, key)| (text, About::Reader(key))));
        }
        let needed = match count {
            0 | 1 => ONE_GROUP.to_owned(),
            _ => format!("{needed} of {count} key groups"),
        };
        terms.insert(needed, About::Other);
        let (option, value) = selection.rule.option();
        // Dotenv files keep a line feed and the two characters alike.
        let value = value.replace("\\n", "\n");
        terms.insert(format!("{option}: {}", value.escape_debug()), About::Other);
        if !matches!(format, Format::Age | Format::Binary) {
            terms.insert(NAMES_IN_CLEAR.to_owned(), About::Other);
        }
        Self(terms)
    }

    /// Returns them as they are remembered.
    pub fn texts(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Returns those that are not among `known`, as they are remembered; those of `own` keys are nobody else's.
    pub fn beyond<'t>(
        &'t self,
        known: &BTreeSet<String>,
        own: &[String],
    ) -> Vec<(&'t str, &'t About)> {
        let own: BTreeSet<String> = own.iter().map(|key| text_of(&KeyId::age(key))).collect();
        let of_others = |text: &str| -> Option<Vec<String>> {
            let mut lines = text.strip_prefix(GROUP)?.split('\n').map(str::to_owned);
            let number = lines.next();
            let others = lines.filter(|key| !own.contains(key));
            Some(number.into_iter().chain(others).collect())
        };
        let groups: BTreeSet<_> = known.iter().filter_map(|text| of_others(text)).collect();
        let is_new = |(text, about): &(&'t String, &'t About)| match about {
            About::Reader(_) => !known.contains(*text) && !own.contains(*text),
            About::Group(_) => of_others(text).is_none_or(|keys| !groups.contains(&keys)),
            About::Other => !known.contains(*text),
        };
        let new = self.0.iter().filter(is_new);
        new.map(|(text, about)| (text.as_str(), about)).collect()
    }

    /// Returns whether this is one of them, as remembered.
    pub fn has(&self, text: &str) -> bool {
        self.0.contains_key(text)
    }
}

/// Returns a key as it is remembered, on one line.
fn text_of(key: &KeyId) -> String {
    format!("{} {}", key.kind(), key.to_string().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(groups: &[&[&str]], needed: usize) -> Terms {
        let keys: Vec<Vec<KeyId>> = groups
            .iter()
            .map(|group| group.iter().map(|key| KeyId::age(key)).collect())
            .collect();
        let keys = keys.iter().map(|group| group.iter().collect()).collect();
        Terms::new(Format::Yaml, keys, needed, &Selection::default())
    }

    fn new(now: &Terms, before: &Terms, own: &[&str]) -> usize {
        let own: Vec<String> = own.iter().map(|&key| key.to_owned()).collect();
        now.beyond(&before.texts(), &own).len()
    }

    #[test]
    fn who_needs_whom_is_known() {
        let two = terms(&[&["a", "c"], &["b", "a"]], 2);
        assert_eq!(new(&two, &terms(&[&["a", "b"], &["c", "a"]], 2), &[]), 0);
        // All keys are known, and need each other no more.
        assert_eq!(new(&terms(&[&["a", "b", "c"]], 0), &two, &[]), 1);
        assert_eq!(new(&terms(&[&["a"], &["b", "c"]], 2), &two, &[]), 2);
        assert_eq!(new(&terms(&[&["a", "c"], &["b", "a"]], 1), &two, &[]), 1);
        let three = terms(&[&["a"], &["a"], &["b"]], 2);
        assert_eq!(new(&terms(&[&["a"], &["b"], &["b"]], 2), &three, &[]), 1);
        // A key of one's own, and one in the place of a lost one.
        let with_own = terms(&[&["a", "c"], &["a", "b", "o"]], 2);
        assert_eq!(new(&with_own, &two, &["o"]), 0);
        assert_eq!(new(&with_own, &two, &[]), 2);
        assert_eq!(
            new(&terms(&[&["n", "c"], &["b", "n"]], 2), &two, &["n", "a"]),
            0
        );
    }
}
