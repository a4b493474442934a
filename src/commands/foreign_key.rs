//! Data keys and readers that somebody else put into an encrypted file.
//!
//! Whoever may push can write a file anew, for the same readers, under a data key of their own. They learn
//! nothing by that; but what is encrypted under that key next they can read. A record knows the data key of
//! the last sync by a keyed digest, so the exchange is told, with who did it, until this user makes a new key
//! or agrees to the one that is there. It knows the terms of the last sync, too: for a reader who came since, or
//! with an option that leaves more in clear, nothing is encrypted until this user agrees.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Problem;
use crate::os::file_history::FileChange;
use crate::os::git::Checkout;
use crate::os::history::Version;
use crate::os::place::Base;
use crate::project::drift::short;
use crate::project::manifest::{Entry, Kind};
use crate::project::terms::{About, NAMES_IN_CLEAR, ONE_GROUP, Terms};
use crate::sops;
use crate::sops::data_key::DataKey;
use crate::sops::master_key::KeyId;
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;
use crate::ui::keys::RepositorySince;

use super::Context;
use super::govern::govern;
use super::hints::quoted;
use super::memory::{KeyInUse, Known};
use super::open::Encrypted;
use super::sides::{in_words, since_version};
use super::workspace::Workspace;

/// What somebody else changed of how a file is encrypted since this user agreed to it.
pub struct ForeignKey {
    /// Since when it has another data key; `None` where its key is known.
    since: Option<Since>,
    /// Terms that are new, in words, and since when; `None` is what the rule says now, where the file itself does not tell.
    terms: Vec<(String, Option<Since>)>,
    /// The entry that the row stood for before: it is another file that is encrypted otherwise, not this one that was changed.
    of_entry: Option<String>,
    /// Whether the history is cut, so that it may have been before the commit named.
    is_cut: bool,
}

/// Since when something is so.
enum Since {
    Commit(Version),
    /// It is not committed.
    NoCommit,
    /// The history cannot be read.
    Untold,
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
    let known = memory.known_of(workspace, target, &entry.repository_path);
    // To a file that has none a data key is new; a raw age file has none that somebody could know.
    let is_known =
        known.data_key.is_empty() || used.key.is_none() || known.data_key == used.digest(digester);
    let new = new_of(workspace, &known, &used.terms);
    if is_known && new.is_empty() {
        return None;
    }
    // Each has its own commit.
    let mut past = Past::of(workspace, entry);
    let since_key = (!is_known)
        .then(|| past.since(|_, metadata| workspace.keyring.unwrap_quiet(metadata) == used.key));
    let mut since_term = |text: &str| {
        used.key.as_ref()?;
        Some(past.since(|format, metadata| Terms::of(format, metadata).has(text)))
    };
    let terms = new.into_iter().map(|(text, words)| {
        let since = since_term(&text);
        (words, since)
    });
    let terms = terms.collect();
    Some(ForeignKey {
        since: since_key,
        terms,
        of_entry: known.of_entry,
        is_cut: past.is_cut,
    })
}

/// Returns which of the terms that the file of an entry is to be encrypted on are new, each in words, and whether they are
/// new to a file that was in sync; else they are new to all files that this user had in sync.
pub fn new_terms(
    workspace: &Workspace,
    entry: &Entry,
    target: &Path,
    terms: &Terms,
) -> Option<(Vec<String>, bool)> {
    let known = workspace
        .memory()
        .known_of(workspace, target, &entry.repository_path);
    let new = new_of(workspace, &known, terms);
    let words: Vec<String> = new.into_iter().map(|(_, words)| words).collect();
    (!words.is_empty()).then_some((words, known.is_of_file))
}

/// Returns new terms, as remembered and in words; nothing where nothing is known.
fn new_of(workspace: &Workspace, known: &Known, terms: &Terms) -> Vec<(String, String)> {
    let Some(known_terms) = &known.terms else {
        return Vec::new();
    };
    // An identity that was pushed, or that a pushed row placed, is nobody's own.
    let mut written = vec![workspace.repository.path()];
    written.extend(workspace.root.as_ref().map(Base::path));
    let mut own = workspace.keyring.recipients_outside(&written);
    // That a new key stands there for a lost one is the user's own word.
    for replaced in &workspace.lost {
        own.extend([replaced.new.clone(), replaced.lost.clone()]);
    }
    let name = |key: &KeyId| workspace.manifest.name_key(key);
    let new = terms.beyond(known_terms, &own).into_iter();
    // Of another file the form is nothing to go by.
    let new = new.filter(|(text, _)| known.is_of_file || *text != NAMES_IN_CLEAR);
    new.map(|(text, about)| {
        let words = match about {
            About::Reader(key) => format!("{} can read it", name(key)),
            About::Group(keys) => {
                let names: Vec<_> = keys.iter().map(name).collect();
                format!("{} can open one of its key groups", names.join(" or "))
            }
            About::Other if text == NAMES_IN_CLEAR => {
                "the names of its keys are in clear".to_owned()
            }
            About::Needed if text == ONE_GROUP => "any one of its keys opens it".to_owned(),
            About::Needed | About::Other => format!("`{text}`"),
        };
        (text.to_owned(), words)
    })
    .collect()
}

/// The versions of a file, the newest first, each read once.
struct Past<'w> {
    checkout: Option<&'w Checkout>,
    changes: Vec<FileChange>,
    read: Vec<Option<(Format, Metadata)>>,
    /// Whether something was found to be so as far as a shallow clone goes back.
    is_cut: bool,
    is_unreadable: bool,
}

impl<'w> Past<'w> {
    fn of(workspace: &'w Workspace, entry: &Entry) -> Self {
        let checkout = workspace.checkout().unwrap_or_default();
        let file = workspace.repository_file(entry);
        let changes = checkout.map(|checkout| checkout.file_history(&file, None));
        Self {
            checkout,
            is_unreadable: matches!(changes, Some(Err(_))),
            changes: changes.and_then(Result::ok).unwrap_or_default(),
            read: Vec::new(),
            is_cut: false,
        }
    }

    fn read(&self, number: usize) -> Option<(Format, Metadata)> {
        let blob = self.changes[number].after.as_ref()?;
        let content = self.checkout?.blob(blob).ok()?;
        let (format, sealed) = sops::parse_sealed(content).ok()?;
        Some((format, sealed.metadata))
    }

    /// Returns since when all versions are such.
    fn since(&mut self, is_such: impl Fn(Format, &Metadata) -> bool) -> Since {
        let mut count = 0;
        while count < self.changes.len() {
            if self.read.len() == count {
                self.read.push(self.read(count));
            }
            let is_one = |(format, metadata): &(Format, Metadata)| is_such(*format, metadata);
            if !self.read[count].as_ref().is_some_and(is_one) {
                // What a partial clone has left with the server may have been so, too.
                let change = &self.changes[count];
                let is_away = |blob: &String| {
                    let content = self.checkout.map(|checkout| checkout.blob(blob));
                    content.is_some_and(|content| content.is_err())
                };
                self.is_cut |= change.after.as_ref().is_some_and(is_away);
                break;
            }
            count += 1;
        }
        self.is_cut |= count > 0
            && count == self.changes.len()
            && self.checkout.is_some_and(Checkout::is_shallow);
        match count.checked_sub(1) {
            Some(oldest) => Since::Commit(self.changes[oldest].version.clone()),
            None if self.is_unreadable => Since::Untold,
            None => Since::NoCommit,
        }
    }
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
        // In the place of another entry's file nothing was replaced where it has its key from.
        let what = match &self.of_entry {
            Some(_) => "its data key is another one since",
            None => "its data key was replaced in",
        };
        let key = self.since.as_ref().map(|since| match since {
            Since::Commit(version) if self.is_cut => format!(
                "{what} {} or before, where this shallow clone is cut",
                commit_in_words(version)
            ),
            Since::Commit(version) => format!("{what} {}", commit_in_words(version)),
            Since::NoCommit => "its data key was replaced, in no commit of this branch".to_owned(),
            Since::Untold => {
                "its data key was replaced, in which commit cannot be told: git's history cannot be read"
                    .to_owned()
            }
        });
        let terms = self.terms_since(|_| true);
        let both: Vec<String> = key.into_iter().chain(terms).collect();
        let both = both.join("; ");
        match &self.of_entry {
            Some(other) => {
                format!("in the place of {other}, which stood for this file on the server: {both}")
            }
            None => both,
        }
    }

    /// Says which terms are new, those that are wanted by their words, and since when each is.
    pub fn terms_since(&self, is_wanted: impl Fn(&String) -> bool) -> Vec<String> {
        let terms = self.terms.iter().filter(|(words, _)| is_wanted(words));
        let terms = terms.map(|(words, since)| match since {
            Some(Since::Commit(version)) if self.is_cut => {
                format!("{words} since {} or longer", commit_in_words(version))
            }
            Some(Since::Commit(version)) => format!("{words} since {}", commit_in_words(version)),
            Some(Since::NoCommit) => format!("{words}, in no commit of this branch"),
            Some(Since::Untold) => format!("{words}, git's history cannot be read"),
            None => format!("{words} when it is encrypted anew, by its rule"),
        });
        terms.collect()
    }

    /// Returns the commit that brought another data key, as it is shown; `None` where the key is known.
    pub fn since_version(&self) -> Option<RepositorySince> {
        let version = match self.since.as_ref()? {
            Since::Commit(version) => Some(version),
            Since::NoCommit | Since::Untold => None,
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

fn commit_in_words(version: &Version) -> String {
    format!(
        "commit {} of {} by {}",
        short(&version.commit),
        in_words(version.seconds),
        version.author
    )
}

/// So many names, at most, are put into a command that is proposed.
const MOST_NAMES: usize = 20;

/// Proposes one of our commands for entries; for all with a pattern, where these are all there are.
fn propose(workspace: &Workspace, command: &str, names: &[&str]) -> String {
    let secrets = workspace.manifest.entries.iter();
    let count = secrets.filter(|entry| entry.kind == Kind::Secret).count();
    let names = if names.len() <= MOST_NAMES {
        let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        let is_dashed = names
            .iter()
            .any(|name| name.trim_start_matches('\'').starts_with('-'));
        let dashes = if is_dashed { "-- " } else { "" };
        format!("{dashes}{}", names.join(" "))
    } else if names.len() == count {
        "'**'".to_owned()
    } else {
        "ENTRY...".to_owned()
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
    let names_of = |has_terms: bool| {
        let such = found.iter();
        let such = such.filter(|(_, foreign)| foreign.has_terms() == has_terms);
        such.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let (replaced, others) = (names_of(false), names_of(true));
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
            "{} on other terms than this host knows, nothing is encrypted so: {} where all that is told of them is meant, else mend rule or row and then {}",
            entries(others.len()),
            propose(workspace, "trust", &others),
            propose(workspace, "encrypt --new-data-key --update-recipients", &others),
        ));
    }
    next
}

/// Warns of what is new of the entries of `found`, those with the same news together.
pub fn warn(cx: &mut Context, workspace: &Workspace, found: &[(&str, &ForeignKey)]) {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, foreign) in found {
        let words = foreign.in_words();
        if let Some(&place) = places.get(&words) {
            told[place].1.push(name);
        } else {
            places.insert(words.clone(), told.len());
            told.push((words, vec![name]));
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
