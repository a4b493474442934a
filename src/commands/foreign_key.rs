//! Data keys and readers that somebody else put into an encrypted file.
//!
//! Whoever may push can write a file anew, for the same readers, under a data key of their own. They learn
//! nothing by that; but what is encrypted under that key next they can read. A record knows the data key of
//! the last sync by a keyed digest, so the exchange is told, with who did it, until this user makes a new key
//! or agrees to the one that is there. It knows the terms of the last sync, too: for a reader who came since, or
//! with an option that leaves more in clear, nothing is encrypted until this user agrees.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Problem;
use crate::os::history::Version;
use crate::project::drift::short;
use crate::project::manifest::Entry;
use crate::project::terms::{NAMES_IN_CLEAR, Terms};
use crate::sops;
use crate::sops::data_key::DataKey;
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;
use crate::ui::keys::RepositorySince;

use super::Context;
use super::govern::govern;
use super::hints::quoted;
use super::memory::KeyInUse;
use super::open::Encrypted;
use super::sides::{in_words, since_version};
use super::workspace::Workspace;

/// What somebody else changed of how a file is encrypted since this user agreed to it.
pub struct ForeignKey {
    /// Since when it has another data key; `None` where its key is known.
    since: Option<Since>,
    /// Terms that are new, in words, and since when.
    terms: Vec<(String, Since)>,
    /// Whether the history is cut, so that it may have been before the commit named.
    is_cut: bool,
}

/// Since when something is so.
enum Since {
    Commit(Version),
    /// It is not committed, or git does not tell.
    NoCommit,
    /// What the rule says now: the file itself does not tell.
    Rule,
}

/// Returns how an encrypted file that is there is encrypted, under `key`. A raw age file does not say for whom it is: its
/// rule does, if there is one.
pub fn in_use(
    workspace: &Workspace,
    entry: &Entry,
    encrypted: &Encrypted,
    key: DataKey,
) -> Option<KeyInUse> {
    if encrypted.format == Format::Age {
        return by_rule(workspace, entry).ok()?;
    }
    Some(KeyInUse::found(
        key,
        encrypted.format,
        &encrypted.sealed.metadata,
    ))
}

/// Returns how the rule of an entry has a raw age file encrypted, nothing where there is no rule.
///
/// # Errors
/// When the rules cannot be read or honoured.
pub fn by_rule(workspace: &Workspace, entry: &Entry) -> Result<Option<KeyInUse>, Problem> {
    let governing = govern(workspace, entry, &mut Vec::new())?;
    Ok(governing.map(|governing| KeyInUse {
        key: None,
        is_made: false,
        terms: governing.terms(Format::Age, None),
        is_agreed: false,
    }))
}

/// Returns what is new of a file's data key and terms. Nothing where nothing is known of the last sync.
pub fn find(
    workspace: &Workspace,
    entry: &Entry,
    target: &Path,
    used: &KeyInUse,
) -> Option<ForeignKey> {
    let memory = workspace.memory();
    let digester = memory.digester.as_ref()?;
    let known = memory.known_of(target, &entry.repository_path);
    let is_same = |key| known.data_key == digester.data_key(key);
    let is_known = known.data_key.is_empty() || used.key.as_ref().is_none_or(is_same);
    let new = match &known.terms {
        Some(terms) => new_of(workspace, terms, &used.terms),
        None => Vec::new(),
    };
    if is_known && new.is_empty() {
        return None;
    }
    let mut is_cut = false;
    let mut since = |has: &dyn Fn(Format, &Metadata) -> bool| {
        let Some((found, is_oldest)) = since(workspace, entry, has) else {
            return Since::NoCommit;
        };
        is_cut |= is_oldest;
        Since::Commit(found)
    };
    let key = (!is_known)
        .then(|| since(&|_, metadata| workspace.keyring.unwrap_quiet(metadata) == used.key));
    // Each has its own commit.
    let mut since_term = |text: &str| match used.key {
        None => Since::Rule,
        Some(_) => since(&|format, metadata| Terms::of(format, metadata).has(text)),
    };
    let terms = new.into_iter().map(|(text, words)| {
        let since = since_term(&text);
        (words, since)
    });
    let terms = terms.collect();
    Some(ForeignKey {
        since: key,
        terms,
        is_cut,
    })
}

/// Returns which of the terms that the file of an entry is to be encrypted on are new, in words, and whether they are new
/// to a file that was in sync; else they are new to all files that this user had in sync.
pub fn new_terms(
    workspace: &Workspace,
    entry: &Entry,
    target: &Path,
    terms: &Terms,
) -> Option<(String, bool)> {
    let known = workspace.memory().known_of(target, &entry.repository_path);
    let new = new_of(workspace, &known.terms?, terms);
    (!new.is_empty()).then(|| (words_of(&new), known.is_of_file))
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
            None if text == NAMES_IN_CLEAR => "the names of its keys are in clear".to_owned(),
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
    is_such: &dyn Fn(Format, &Metadata) -> bool,
) -> Option<(Version, bool)> {
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let changes = checkout.file_history(&file, None).ok()?;
    let count = changes.len();
    let is_such = |blob: Option<String>| {
        let content = checkout.blob(&blob?).ok()?;
        let (format, sealed) = sops::parse_sealed(content).ok()?;
        is_such(format, &sealed.metadata).then_some(())
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
            Since::Commit(version) if self.is_cut => format!(
                "its data key was replaced in {} or before, where this shallow clone is cut",
                of(version)
            ),
            Since::Commit(version) => format!("its data key was replaced in {}", of(version)),
            Since::NoCommit | Since::Rule => {
                "its data key was replaced, in no commit of this branch".to_owned()
            }
        });
        let terms = self.terms.iter().map(|(words, since)| match since {
            Since::Commit(version) if self.is_cut => {
                format!("{words} since {} or longer", of(version))
            }
            Since::Commit(version) => format!("{words} since {}", of(version)),
            Since::NoCommit => format!("{words}, in no commit of this branch"),
            Since::Rule => format!("{words} by its rule"),
        });
        let both: Vec<String> = key.into_iter().chain(terms).collect();
        both.join("; ")
    }

    /// Returns the commit that brought another data key, as it is shown; `None` where the key is known.
    pub fn since_version(&self) -> Option<RepositorySince> {
        let version = match self.since.as_ref()? {
            Since::Commit(version) => Some(version),
            Since::NoCommit | Since::Rule => None,
        };
        Some(since_version(version))
    }

    /// Returns whether terms are new.
    pub fn has_terms(&self) -> bool {
        !self.terms.is_empty()
    }

    /// Returns the terms that are new, in words.
    pub fn terms_in_words(&self) -> Vec<String> {
        self.terms.iter().map(|(words, _)| words.clone()).collect()
    }
}

/// So many names, at most, are put into a command that is proposed.
const MOST_NAMES: usize = 20;

/// Proposes one of our commands for entries.
fn propose(workspace: &Workspace, command: &str, names: &[&str]) -> String {
    let names = if names.len() > MOST_NAMES {
        "'**'".to_owned()
    } else {
        let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        names.join(" ")
    };
    workspace.hints.ours_for_all(&format!("{command} {names}"))
}

fn entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        _ => format!("{count} entries"),
    }
}

/// Says what to do about what is new of the entries of `found`.
pub fn next_commands(workspace: &Workspace, found: &[(&str, &ForeignKey)]) -> Vec<String> {
    let names_of = |is_such: &dyn Fn(&ForeignKey) -> bool| {
        let such = found.iter().filter(|(_, foreign)| is_such(foreign));
        such.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let replaced = names_of(&|foreign| foreign.since.is_some());
    let others = names_of(&|foreign| foreign.since.is_none());
    let mut next = Vec::new();
    if !replaced.is_empty() {
        next.push(format!(
            "{} with a data key of somebody else, who can read what is encrypted under it next: {} where you know who made it, else {}, on one host and pushed",
            entries(replaced.len()),
            propose(workspace, "trust", &replaced),
            propose(workspace, "encrypt --new-data-key", &replaced),
        ));
    }
    if !others.is_empty() {
        next.push(format!(
            "{} on other terms than this host knows, nothing is encrypted so: {} where that is meant, else mend `.sops.yaml` and then {}",
            entries(others.len()),
            propose(workspace, "trust", &others),
            propose(workspace, "encrypt --update-recipients", &others),
        ));
    }
    next
}

/// Warns of what is new of the entries of `found`, those with the same news together.
pub fn warn(cx: &mut Context, workspace: &Workspace, found: &[(&str, &ForeignKey)]) {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, foreign) in found {
        let words = foreign.in_words();
        match told.iter_mut().find(|(other, _)| *other == words) {
            Some((_, names)) => names.push(name),
            None => told.push((words, vec![name])),
        }
    }
    for (words, names) in told {
        let names = match &names[..] {
            [name] => (*name).to_owned(),
            [name, other] => format!("{name}, {other}"),
            [name, other, more @ ..] => format!("{name}, {other} and {} more", more.len()),
            [] => continue,
        };
        cx.ui.warning(&format!("{names}: {words}"));
    }
    for next in next_commands(workspace, found) {
        cx.ui.warning(&next);
    }
}
