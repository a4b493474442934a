//! Data keys and readers that somebody else put into an encrypted file.
//!
//! Whoever may push can write a file anew, for the same readers, under a data key of their own. They learn
//! nothing by that; but what is encrypted under that key next they can read. A record knows the data key of
//! the last sync by a keyed digest, so the exchange is told, with who did it, until this user makes a new key
//! or agrees to the one that is there. It knows the terms of the last sync, too: for a reader who came since, or
//! with an option that leaves more in clear, nothing is encrypted until this user agrees.

use std::collections::BTreeSet;
use std::path::Path;

use crate::os::history::Version;
use crate::project::drift::short;
use crate::project::manifest::Entry;
use crate::project::terms::Terms;
use crate::sops;
use crate::sops::metadata::Metadata;

use super::memory::KeyInUse;
use super::sides::in_words;
use super::workspace::Workspace;

/// What somebody else changed of how a file is encrypted since this user agreed to it.
pub struct ForeignKey {
    /// The commit that brought another data key; the inner `None` where it is not committed, or git does not tell.
    pub since: Option<Option<Version>>,
    /// Terms that are new, in words, and since when.
    terms: Vec<(String, Option<Version>)>,
    /// Whether the history is cut, so that it may have been before the commit named.
    is_cut: bool,
}

/// Returns what is new of a file's data key and terms. Nothing where nothing is known of the last sync.
pub fn find(
    workspace: &Workspace,
    entry: &Entry,
    target: &Path,
    used: &KeyInUse,
) -> Option<ForeignKey> {
    let memory = workspace.memory();
    let record = memory.record_of(target)?;
    let digester = memory.digester.as_ref()?;
    let is_same = |key| record.data_key == digester.data_key(key);
    let is_known = record.data_key.is_empty() || used.key.as_ref().is_none_or(is_same);
    let new = if record.terms.is_empty() {
        Vec::new()
    } else {
        new_of(workspace, &record.terms, &used.terms)
    };
    if is_known && new.is_empty() {
        return None;
    }
    let mut is_cut = false;
    let mut since = |has: &dyn Fn(&Metadata) -> bool| {
        let (found, is_oldest) = since(workspace, entry, has)?;
        is_cut |= is_oldest;
        Some(found)
    };
    let key = (!is_known)
        .then(|| since(&|metadata| workspace.keyring.unwrap_quiet(metadata) == used.key));
    // Each has its own commit.
    let terms = new.into_iter().map(|(text, words)| {
        let version = since(&|metadata| Terms::of(metadata).has_any(std::slice::from_ref(&text)));
        (words, version)
    });
    let terms = terms.collect();
    Some(ForeignKey {
        since: key,
        terms,
        is_cut,
    })
}

/// Returns which of the terms that something is to be encrypted on are new, in words, and whether they are new to a file
/// that was in sync; else they are new to all files that this user had in sync.
pub fn new_terms(workspace: &Workspace, target: &Path, terms: &Terms) -> Option<(String, bool)> {
    let memory = workspace.memory();
    let record = memory.record_of(target);
    let of_file = record.map(|record| record.terms.clone());
    let of_file = of_file.filter(|terms| !terms.is_empty());
    let is_of_file = of_file.is_some();
    let known = of_file.or_else(|| {
        let root = workspace.root.as_ref()?.path().to_str()?;
        Some(memory.records.terms_below(root))
    })?;
    if known.is_empty() {
        return None;
    }
    let new = new_of(workspace, &known, terms);
    (!new.is_empty()).then(|| (words_of(&new), is_of_file))
}

/// Returns new terms, as remembered and in words.
fn new_of(workspace: &Workspace, known: &BTreeSet<String>, terms: &Terms) -> Vec<(String, String)> {
    // An identity that was pushed is nobody's own.
    let folder = workspace.repository.path();
    let mut own = workspace.keyring.recipients_outside(folder);
    // That a new key stands there for a lost one is the user's own word.
    own.extend(workspace.lost.iter().map(|replaced| replaced.new.clone()));
    let new = terms.beyond(known, &own);
    new.map(|(text, key)| {
        let words = match key {
            Some(key) => format!("{} can read it", workspace.manifest.name_key(key)),
            None => format!("`{text}`"),
        };
        (text.to_owned(), words)
    })
    .collect()
}

fn words_of(new: &[(String, String)]) -> String {
    let words: Vec<&str> = new.iter().map(|(_, words)| words.as_str()).collect();
    words.join(", ")
}

/// Returns the commit from which on the versions of a file are such, and whether that is where a shallow clone is cut.
fn since(
    workspace: &Workspace,
    entry: &Entry,
    is_such: &dyn Fn(&Metadata) -> bool,
) -> Option<(Version, bool)> {
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let changes = checkout.file_history(&file, None).ok()?;
    let count = changes.len();
    let is_such = |blob: Option<String>| {
        let content = checkout.blob(&blob?).ok()?;
        let (_, sealed) = sops::parse_sealed(content).ok()?;
        is_such(&sealed.metadata).then_some(())
    };
    let versions: Vec<Version> = changes
        .into_iter()
        .map_while(|change| is_such(change.after).map(|()| change.version))
        .collect();
    let is_oldest = versions.len() == count && checkout.is_shallow();
    versions
        .into_iter()
        .last()
        .map(|version| (version, is_oldest))
}

impl ForeignKey {
    /// Leaves out what the user of this run answers: a new data key is made, or the terms are agreed to.
    pub fn forget(&mut self, is_key_made: bool, is_agreed: bool) {
        self.since = self.since.take().filter(|_| !is_key_made);
        if is_agreed {
            self.terms.clear();
        }
    }

    /// Returns whether nothing is left to be told.
    pub fn is_nothing(&self) -> bool {
        self.since.is_none() && self.terms.is_empty()
    }

    /// Says what happened, in a part of a sentence.
    pub fn in_words(&self) -> String {
        let of = |version: &Version| {
            format!(
                "commit {} of {} by {}",
                short(&version.commit),
                in_words(version.seconds),
                version.author
            )
        };
        let key = self.since.as_ref().map(|since| match since {
            Some(version) if self.is_cut => format!(
                "its data key was replaced in {} or before, where this shallow clone is cut",
                of(version)
            ),
            Some(version) => format!("its data key was replaced in {}", of(version)),
            None => "its data key was replaced, in no commit of this branch".to_owned(),
        });
        let terms = self.terms.iter().map(|(words, since)| match since {
            Some(version) if self.is_cut => {
                format!("{words} since {} or longer", of(version))
            }
            Some(version) => format!("{words} since {}", of(version)),
            None => format!("{words}, in no commit of this branch"),
        });
        let both: Vec<String> = key.into_iter().chain(terms).collect();
        both.join("; ")
    }

    /// Warns, with what to do.
    pub fn warning(&self, workspace: &Workspace, entry: &Entry) -> String {
        let name = &entry.repository_path;
        let agree = format!("{} agrees to it", workspace.hints.ours("trust", name));
        let help = if self.since.is_some() {
            let make = workspace.hints.ours("encrypt --new-data-key", name);
            format!(
                "who did that can read what is encrypted under it from now on: {make} makes a new one, {agree}"
            )
        } else {
            format!("nothing is encrypted so until you say so: {agree}")
        };
        format!("{name}: {}; {help}", self.in_words())
    }
}
