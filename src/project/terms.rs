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
/// Ends what is remembered of how many of several groups are needed.
const GROUPS: &str = " key groups";
/// A file has no more key groups: each has a share, whose number is a byte (Shamir's scheme, as SOPS has it).
const MOST_GROUPS: usize = 255;

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
    /// How many groups are needed.
    Needed,
    /// What is in clear.
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
            _ => format!("{needed} of {count}{GROUPS}"),
        };
        terms.insert(needed, About::Needed);
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

    /// Returns those that are not among `known`, as they are remembered; those of `own` keys are nobody else's. What asks
    /// for as many known keys as before, or more, is nothing new.
    pub fn beyond<'t>(
        &'t self,
        known: &BTreeSet<String>,
        own: &[String],
    ) -> Vec<(&'t str, &'t About)> {
        let own: BTreeSet<String> = own.iter().map(|key| text_of(&KeyId::age(key))).collect();
        let before = Asked::of(known.iter().map(String::as_str));
        let asked = Asked::of(self.0.keys().map(String::as_str));
        let new_groups = asked.new_groups(&before, &own);
        // Where nothing is known of how many, no number is enough.
        let (needed, needed_before) = (asked.needed.unwrap_or(1), before.needed);
        let needed_before = needed_before.unwrap_or(usize::MAX);
        let is_weaker = needed_before > 1 && needed - new_groups.len().min(needed) < needed_before;
        let is_new = |(text, about): &(&'t String, &'t About)| match about {
            About::Reader(_) => !known.contains(*text) && !own.contains(*text),
            About::Group(_) => is_weaker && new_groups.contains(text.as_str()),
            About::Needed => is_weaker && needed < needed_before,
            About::Other => !known.contains(*text),
        };
        let new = self.0.iter().filter(is_new);
        new.map(|(text, about)| (text.as_str(), about)).collect()
    }

    /// Returns what is known after a sync on these terms that nobody agreed to, where `known` was before: they, without
    /// those that are new, so that who was taken away and comes back is new.
    pub fn known_after(&self, known: &BTreeSet<String>) -> BTreeSet<String> {
        let new = self.beyond(known, &[]);
        let is_weaker = new
            .iter()
            .any(|(_, about)| matches!(about, About::Group(_) | About::Needed));
        let new: BTreeSet<&str> = new.into_iter().map(|(text, _)| text).collect();
        let is_asked = |text: &str| text.starts_with(GROUP) || needed_in(text).is_some();
        let found = self.0.keys().filter(|text| !new.contains(text.as_str()));
        // Whose keys have to come together is known as a whole.
        let found = found.filter(|text| !is_weaker || !is_asked(text));
        let kept = known.iter().filter(|text| is_weaker && is_asked(text));
        found.chain(kept).cloned().collect()
    }

    /// Returns whether this is one of them, as remembered.
    pub fn has(&self, text: &str) -> bool {
        self.0.contains_key(text)
    }
}

/// Whose keys have to come together, as remembered terms tell it.
struct Asked<'t> {
    /// Of so many groups a key is needed. The least, where the terms are those of several files.
    needed: Option<usize>,
    /// The groups by their terms, none where any one key is enough.
    groups: Vec<(&'t str, BTreeSet<&'t str>)>,
}

impl<'t> Asked<'t> {
    fn of(texts: impl Iterator<Item = &'t str>) -> Self {
        let (mut needed, mut groups) = (None, Vec::new());
        for text in texts {
            needed = needed.into_iter().chain(needed_in(text)).min();
            if let Some(keys) = text.strip_prefix(GROUP) {
                groups.push((text, keys.split('\n').skip(1).collect()));
            }
        }
        Self { needed, groups }
    }

    /// Returns the groups that no group of `before` stands for: each of that stands for one that has no other keys, but
    /// those of `own`, and for as many as can be found in all.
    fn new_groups(&self, before: &Self, own: &BTreeSet<String>) -> BTreeSet<&'t str> {
        let others = |keys: &BTreeSet<&'t str>| -> BTreeSet<&'t str> {
            let others = keys.iter().filter(|key| !own.contains(**key));
            others.copied().collect()
        };
        let before = &before.groups[..before.groups.len().min(MOST_GROUPS)];
        let mut stands_for = vec![None; before.len()];
        let mut new = BTreeSet::new();
        let mut fits = Vec::new();
        for (number, (text, keys)) in self.groups.iter().enumerate() {
            let keys = others(keys);
            let such = before.iter().enumerate();
            let such = such.filter(|(_, (_, wider))| number < MOST_GROUPS && keys.is_subset(wider));
            fits.push(such.map(|(place, _)| place).collect::<Vec<_>>());
            // A group of one's own keys alone is open to nobody else.
            let mut tried = vec![false; before.len()];
            if !keys.is_empty() && !find_place(number, &fits, &mut stands_for, &mut tried) {
                new.insert(*text);
            }
        }
        new
    }
}

/// Returns of how many groups a key is needed, if these terms say it.
fn needed_in(text: &str) -> Option<usize> {
    if text == ONE_GROUP {
        return Some(1);
    }
    text.strip_suffix(GROUPS)?.split(' ').next()?.parse().ok()
}

/// Finds a place for a number among those that fit it; one that is taken gets free where its number fits elsewhere.
fn find_place(
    number: usize,
    fits: &[Vec<usize>],
    taken_by: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for &place in &fits[number] {
        if std::mem::replace(&mut tried[place], true) {
            continue;
        }
        let is_free = match taken_by[place] {
            Some(other) => find_place(other, fits, taken_by, tried),
            None => true,
        };
        if is_free {
            taken_by[place] = Some(number);
            return true;
        }
    }
    false
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
        assert_eq!(new(&terms(&[&["a", "c"], &["b", "a"]], 1), &two, &[]), 1);
        assert_eq!(new(&terms(&[&["b", "c"], &["b", "c"]], 2), &two, &[]), 2);
        // Two of one's groups are none of another's.
        let three = terms(&[&["a"], &["a"], &["b"]], 2);
        assert_eq!(new(&terms(&[&["a"], &["b"], &["b"]], 2), &three, &[]), 1);
        assert_eq!(new(&terms(&[&["a"], &["b"], &["b"]], 3), &three, &[]), 0);
        // A key of one's own, and one in the place of a lost one.
        let with_own = terms(&[&["a", "c"], &["a", "b", "o"]], 2);
        assert_eq!(new(&with_own, &two, &["o"]), 0);
        assert_eq!(new(&with_own, &two, &[]), 2);
        assert_eq!(
            new(&terms(&[&["n", "c"], &["b", "n"]], 2), &two, &["n", "a"]),
            0
        );
    }

    #[test]
    fn what_asks_for_more_keys_is_not_new() {
        let two = terms(&[&["a", "c"], &["b", "a"]], 2);
        // A key less in a group, whichever group it is found to be; a further group, and all are needed.
        assert_eq!(new(&terms(&[&["a"], &["b", "a"]], 2), &two, &[]), 0);
        assert_eq!(new(&terms(&[&["a"], &["c"]], 2), &two, &[]), 0);
        assert_eq!(
            new(
                &terms(&[&["a", "c"], &["b", "a"], &["a", "b", "c"]], 3),
                &two,
                &[]
            ),
            0
        );
        assert_eq!(
            new(
                &terms(&[&["a", "c"], &["b", "a"], &["a", "b", "c"]], 2),
                &two,
                &[]
            ),
            1
        );
        // Where any one key was enough, whatever asks for known ones.
        let one = terms(&[&["a", "b", "c"]], 0);
        assert_eq!(new(&two, &one, &[]), 0);
        assert_eq!(new(&terms(&[&["a"], &["b"]], 1), &one, &[]), 0);
        assert_eq!(new(&one, &terms(&[&["a", "b"], &["c"]], 1), &[]), 0);
        assert_eq!(new(&terms(&[&["a"], &["x"]], 2), &one, &[]), 1);
    }

    #[test]
    fn what_nobody_agreed_to_stays_new_and_what_is_gone_is_forgotten() {
        let (one, two) = (terms(&[&["a", "b"]], 0), terms(&[&["a"], &["b"]], 2));
        // Weaker: what is known stays, until somebody agrees.
        assert_eq!(one.known_after(&two.texts()), two.texts());
        assert_eq!(two.known_after(&two.texts()), two.texts());
        // Stronger: the weaker is new from then on.
        assert_eq!(two.known_after(&one.texts()), two.texts());
        // A reader that went is forgotten, one that came is not known.
        let other = terms(&[&["a", "x"]], 0);
        let known = other.known_after(&one.texts());
        assert_eq!(known, terms(&[&["a"]], 0).texts());
        assert_eq!(one.beyond(&known, &[]).len(), 1);
        // Of which nothing is known, that is new.
        let nothing: BTreeSet<String> = ["age a", "age b"].map(str::to_owned).into();
        let count = |terms: &Terms| terms.beyond(&nothing, &[]).len();
        assert_eq!((count(&one), count(&two)), (3, 5));
    }
}
