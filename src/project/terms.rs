//! On what terms a file is encrypted: who can open it, and what stays in clear.
//!
//! Rules and encrypted files come from the repository, which others may write. A server remembers the terms
//! of the last sync, so that a reader who came since, or an option that leaves more in clear, is not taken for granted.

use std::collections::{BTreeMap, BTreeSet};

use crate::sops::master_key::KeyId;
use crate::sops::metadata::Metadata;
use crate::sops::selector::Selection;

/// Terms, each with the key that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(BTreeMap<String, Option<KeyId>>);

impl Terms {
    /// Returns the terms of an encrypted file.
    pub fn of(metadata: &Metadata) -> Self {
        let groups = metadata.groups.iter();
        let groups = groups.map(|group| group.iter().map(|key| &key.id).collect());
        Self::new(
            groups.collect(),
            metadata.needed_groups(),
            &metadata.selection,
        )
    }

    /// Returns the terms of what is encrypted for `groups`, `needed` of which have to come together (0 for a single one).
    pub fn new(groups: Vec<Vec<&KeyId>>, needed: usize, selection: &Selection) -> Self {
        let mut terms = BTreeMap::new();
        let count = groups.len();
        for (number, key) in groups
            .into_iter()
            .enumerate()
            .flat_map(|(number, group)| group.into_iter().map(move |key| (number, key)))
        {
            let key = key.canonical();
            let text = match count {
                1 => format!("{} {key}", key.kind()),
                _ => format!("{} {key} in group {number}", key.kind()),
            };
            terms.insert(text, Some(key));
        }
        if count > 1 {
            terms.insert(format!("{needed} of {count} key groups"), None);
        }
        let (option, value) = selection.rule.option();
        // Dotenv files keep a line feed and the two characters alike.
        let value = value.replace("\\n", "\n");
        terms.insert(format!("{option}: {}", value.escape_debug()), None);
        Self(terms)
    }

    /// Returns them as they are remembered.
    pub fn texts(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Returns those that are not among `known`, with their keys; those of `own` keys are nobody else's.
    pub fn beyond<'t>(
        &'t self,
        known: &'t BTreeSet<String>,
        own: &'t [String],
    ) -> impl Iterator<Item = (&'t str, Option<&'t KeyId>)> {
        let is_own = |key: &Option<KeyId>| {
            let recipient = key.as_ref().and_then(KeyId::recipient);
            recipient.is_some_and(|recipient| own.iter().any(|one| one == recipient))
        };
        self.0
            .iter()
            .filter(move |(text, key)| !known.contains(*text) && !is_own(key))
            .map(|(text, key)| (text.as_str(), key.as_ref()))
    }

    /// Returns whether one of these is among them.
    pub fn has_any(&self, texts: &[String]) -> bool {
        texts.iter().any(|text| self.0.contains_key(text))
    }
}
