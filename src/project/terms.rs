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

/// Terms, each with the key that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(BTreeMap<String, Option<KeyId>>);

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
        let count = groups.len();
        for group in groups {
            let mut names = BTreeSet::new();
            for key in group {
                let key = key.canonical();
                let text = format!("{} {key}", key.kind());
                names.insert(text.clone());
                terms.insert(text, Some(key));
            }
            if count > 1 {
                // The order of groups, and of keys in them, is nothing to anybody.
                let names: Vec<String> = names.into_iter().collect();
                terms.insert(format!("key group of {}", names.join(" or ")), None);
            }
        }
        if count > 1 {
            terms.insert(format!("{needed} of {count} key groups"), None);
        }
        let (option, value) = selection.rule.option();
        // Dotenv files keep a line feed and the two characters alike.
        let value = value.replace("\\n", "\n");
        terms.insert(format!("{option}: {}", value.escape_debug()), None);
        if !matches!(format, Format::Age | Format::Binary) {
            terms.insert(NAMES_IN_CLEAR.to_owned(), None);
        }
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

    /// Returns whether this is one of them, as remembered.
    pub fn has(&self, text: &str) -> bool {
        self.0.contains_key(text)
    }
}
