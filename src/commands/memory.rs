//! What the state directory remembers of the last syncs: read, noted, put back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::os::fs::FsError;
use crate::os::place::FileState;
use crate::os::state::{StateDir, UNDERSTAND};
use crate::project::manifest::Entry;
use crate::project::record::{Digester, NO_DATA_KEY, Record, Records};
use crate::project::terms::{NAMES_IN_CLEAR, Terms};
use crate::sops::data_key::DataKey;
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;

use super::Context;
use super::workspace::Workspace;

/// The name of the records in the state directory.
pub const RECORDS_FILE: &str = "records.json";

/// What the state directory tells of the last syncs.
#[derive(Default)]
pub struct Memory {
    /// The records.
    pub records: Records,
    /// Makes their digests, where there are records.
    pub digester: Option<Digester>,
    /// Why nothing is remembered, in words.
    pub trouble: Option<String>,
    /// Whether that is because the directory cannot be used.
    pub is_unusable: bool,
    here: OnceLock<Here>,
}

/// What the records of all files of this repository say together.
#[derive(Default)]
struct Here {
    /// The file on the server of the newest record of each entry.
    by_entry: HashMap<String, String>,
    /// On what terms they are encrypted.
    terms: Option<BTreeSet<String>>,
}

impl Memory {
    /// Reads records and their key.
    pub fn load(workspace: &Workspace) -> Self {
        let Some(state) = &workspace.state else {
            return Self::default();
        };
        let trouble = |what: String| Self {
            is_unusable: what.contains("cannot be read"),
            trouble: Some(what),
            ..Self::default()
        };
        let key = match state.key() {
            Ok(Some(key)) => key,
            Ok(None) => match state.read(RECORDS_FILE) {
                Ok(None) => return Self::default(),
                _ => return trouble("the key of the records of the last sync is gone".to_owned()),
            },
            Err(FsError::Io { action, .. }) if action == UNDERSTAND => {
                return trouble("the key of the records of the last sync is damaged".to_owned());
            }
            Err(error) => return trouble(format!("the records cannot be read: {error}")),
        };
        let digester = Digester::new(key);
        match state.read(RECORDS_FILE) {
            Ok(None) => Self::default(),
            Ok(Some(text)) => match Records::parse(&text, &digester) {
                Some(records) => Self {
                    records,
                    digester: Some(digester),
                    ..Self::default()
                },
                None => trouble("the records of the last sync are damaged".to_owned()),
            },
            Err(error) => trouble(format!("the records cannot be read: {error}")),
        }
    }

    /// Returns the record of a file on the server.
    pub fn record_of(&self, target: &Path) -> Option<&Record> {
        self.digester.as_ref()?;
        let record = self.records.get(target.to_str()?);
        record.filter(|record| !record.is_of_terms())
    }

    /// Returns the encrypted entry that a file on the server was of at the last sync, if it was of one.
    pub fn secret_at(&self, target: &Path) -> Option<&str> {
        let record = self.record_of(target)?;
        (!record.seal.is_empty() || !record.data_key.is_empty()).then_some(&*record.entry)
    }

    /// Returns what is known of how the file of an entry is encrypted, which lies at `target`, a canonical path: from
    /// its own record; where it had another path on the server before, from the record of that; of a file that is new,
    /// the terms of all files of this repository.
    pub fn known_of(&self, workspace: &Workspace, target: &Path, entry: &str) -> Known {
        let here = self.here.get_or_init(|| Here::of(self, workspace));
        let own = target.to_str().and_then(|target| self.records.get(target));
        let own = own.filter(|record| !record.data_key.is_empty() || record.terms.is_some());
        let record = own.or_else(|| self.records.get(here.by_entry.get(entry)?));
        let terms = record.and_then(|record| record.terms.clone());
        let other = record.map(|record| &record.entry);
        Known {
            of_entry: other.filter(|other| *other != entry).cloned(),
            data_key: record.map_or_else(String::new, |record| record.data_key.clone()),
            is_of_file: terms.is_some(),
            terms: terms.or_else(|| here.terms.clone()),
        }
    }
}

impl Here {
    fn of(memory: &Memory, workspace: &Workspace) -> Self {
        let mut here = Self::default();
        if memory.digester.is_none() {
            return here;
        }
        // Of other repositories nothing follows, and of rows that are gone only where no other is left.
        let repository = repository_of(workspace);
        let entries = workspace.manifest.entries.iter();
        let entries: HashSet<&str> = entries.map(|entry| &*entry.repository_path).collect();
        let records = memory.records.all();
        let all: Vec<_> = records
            .filter(|(_, record)| record.repository == repository)
            .collect();
        let has_row = |(_, record): &(&str, &Record)| entries.contains(record.entry.as_str());
        let mut by_age: Vec<_> = all.iter().copied().filter(has_row).collect();
        if by_age.is_empty() {
            by_age = all;
        }
        by_age.sort_by(|(_, one), (_, other)| one.time.cmp(&other.time));
        for (target, record) in by_age {
            let (entry, target) = (record.entry.clone(), target.to_owned());
            here.by_entry.insert(entry, target);
            if let Some(terms) = &record.terms {
                let all = here.terms.get_or_insert_default();
                all.extend(terms.iter().cloned());
            }
        }
        here
    }
}

/// Returns the repository as records have it.
fn repository_of(workspace: &Workspace) -> String {
    workspace.repository.path().display().to_string()
}

/// What this user knows of how a file is encrypted.
pub struct Known {
    /// Keyed digest of the data key, empty where none is known.
    pub data_key: String,
    /// The entry that this was of, where that is another one.
    pub of_entry: Option<String>,
    /// On what terms, see [`Terms`]; `None` where nothing is known.
    pub terms: Option<BTreeSet<String>>,
    /// Whether the terms are those of this file, else of all files of this repository.
    pub is_of_file: bool,
}

/// Returns the records of a state directory, none where they cannot be read.
pub fn records_of(state: &StateDir) -> Records {
    let read = || -> Option<Records> {
        let digester = Digester::new(state.key().ok()??);
        Records::parse(&state.read(RECORDS_FILE).ok()??, &digester)
    };
    read().unwrap_or_default()
}

/// The data key of an encrypted file.
pub struct KeyInUse {
    /// The key; none of a raw age file.
    pub key: Option<DataKey>,
    /// Whether this run made it.
    pub is_made: bool,
    /// On what terms the file is encrypted.
    pub terms: Terms,
    /// Whether the user of this run agreed to them.
    pub is_agreed: bool,
}

impl KeyInUse {
    /// Returns the key of a file that is there.
    pub fn found(key: DataKey, format: Format, metadata: &Metadata) -> Self {
        Self {
            key: Some(key),
            is_made: false,
            terms: Terms::of(format, metadata),
            is_agreed: false,
        }
    }

    /// Returns the key as it is remembered.
    pub fn digest(&self, digester: &Digester) -> String {
        let key = self.key.as_ref().map(|key| digester.data_key(key));
        key.unwrap_or_else(|| NO_DATA_KEY.to_owned())
    }
}

/// A file whose two sides agree now.
pub struct Agreed<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// Its file on the server, links resolved.
    pub target: PathBuf,
    /// The content of both.
    pub content: &'a [u8],
    /// The `mac` token of the encrypted file, empty for a row of `[plain]`.
    pub mac: &'a str,
    /// The same whatever the form of the file, see [`Record::seal`].
    pub seal: &'a str,
    /// The file on the server as it is now.
    pub state: FileState,
    /// Whether this run set its owner, group and mode; else those of the last record count on.
    pub is_placed: bool,
    /// The data key of the encrypted file, and whether this run made it; nothing where none was needed.
    pub data_key: Option<&'a KeyInUse>,
    /// The commit whose version `restore` put there, in full: the repository's file is another.
    pub pinned: Option<&'a str>,
}

/// Notes what agrees. That it cannot be noted is no failure: the next run then finds less to go by
/// and refuses more.
pub fn remember(cx: &mut Context, workspace: &Workspace, agreed: &[Agreed<'_>]) {
    let Some(state) = workspace.state.as_ref().filter(|_| !agreed.is_empty()) else {
        return;
    };
    settle(workspace, state, agreed);
    let now = cx.env.now();
    let head = workspace.head();
    let key = match state.make_key() {
        Ok(key) => key,
        Err(error) => {
            cx.ui
                .detail(&format!("the sync is not remembered: {error}"));
            return;
        }
    };
    let digester = Digester::new(key);
    let memory = workspace.memory();
    let mut changed = Vec::new();
    for one in agreed {
        let Some(target) = one.target.to_str() else {
            continue;
        };
        let known = memory.record_of(&one.target);
        let reading = one.entry.reading();
        // The same token means the same content: no need to look at it.
        let is_known = |known: &&Record| {
            (!one.mac.is_empty() && known.mac == one.mac)
                || known.content == digester.content(one.content)
        };
        let (content, meaning, keys) = match known.filter(is_known) {
            Some(known) if known.keys.is_empty() != reading.has_keys() => (
                known.content.clone(),
                known.meaning.clone(),
                known.keys.clone(),
            ),
            _ => {
                let (meaning, keys) = digester.meaning_and_keys(one.content, reading);
                (digester.content(one.content), meaning, keys)
            }
        };
        let (uid, gid, mode) = match known {
            Some(known) if !one.is_placed => (known.uid, known.gid, known.mode),
            _ => (one.state.uid, one.state.gid, one.state.mode),
        };
        let before = memory.known_of(workspace, &one.target, &one.entry.repository_path);
        // What is not there yet on an older checkout is not forgotten.
        let used = one.data_key.filter(|used| {
            let is_old = || known.is_some_and(|known| is_older(workspace, head, known));
            used.is_agreed || used.is_made || !before.is_of_file || !is_old()
        });
        let (data_key, terms) = known_after(before, used, &digester);
        let record = Record {
            data_key,
            terms,
            entry: one.entry.repository_path.clone(),
            repository: repository_of(workspace),
            content,
            meaning,
            keys,
            pinned: one.pinned.map(str::to_owned),
            mac: one.mac.to_owned(),
            seal: one.seal.to_owned(),
            commit: head.map(str::to_owned),
            time: now.clone(),
            uid,
            gid,
            mode,
        };
        if !known.is_some_and(|known| known.says_the_same(&record)) {
            changed.push((target, record, used));
        }
    }
    if changed.is_empty() {
        return;
    }
    let updated = write(state, &digester, changed);
    if let Err(error) = updated {
        cx.ui.warning(&format!(
            "what agrees now is not remembered, the next run may have to ask git or refuse: {error}"
        ));
    }
}

/// Writes records that changed, each with how the file on the server is encrypted.
fn write(
    state: &StateDir,
    digester: &Digester,
    changed: Vec<(&str, Record, Option<&KeyInUse>)>,
) -> Result<(), FsError> {
    set_aside_damaged(state, digester)?;
    state.update(RECORDS_FILE, |old| {
        let mut records = old
            .and_then(|text| Records::parse(&text, digester))
            .unwrap_or_default();
        for (target, mut record, used) in changed {
            // What this run noted before counts, too.
            if let Some(noted) = records.get(target) {
                let before = Known {
                    of_entry: None,
                    data_key: Some(noted.data_key.clone())
                        .filter(|key| !key.is_empty())
                        .unwrap_or(record.data_key),
                    terms: noted.terms.clone().or(record.terms),
                    is_of_file: true,
                };
                (record.data_key, record.terms) = known_after(before, used, digester);
            }
            records.set(target, Some(record));
        }
        records.to_bytes(digester)
    })
}

/// Returns whether the checkout is at an older commit than a record.
fn is_older(workspace: &Workspace, head: Option<&str>, record: &Record) -> bool {
    let (Some(head), Some(commit)) = (head, record.commit.as_deref()) else {
        return false;
    };
    let checkout = workspace.checkout().unwrap_or_default();
    let base = checkout.and_then(|checkout| checkout.merge_base(commit));
    commit != head && base.as_deref() == Some(head)
}

/// Notes that what a killed run was writing into is whole where both sides agree.
fn settle(workspace: &Workspace, state: &StateDir, agreed: &[Agreed<'_>]) {
    let targets = agreed.iter().map(|one| &one.target);
    let whole: Vec<PathBuf> = targets
        .filter(|target| workspace.half_written.contains(target))
        .cloned()
        .collect();
    if !whole.is_empty() {
        state.settle(&whole);
    }
}

/// Returns which data key, as a digest, and which terms are known after a sync: those agreed to, else those known before.
/// Terms that are not there any more are forgotten, so that who was taken away and comes back is new.
fn known_after(
    known: Known,
    used: Option<&KeyInUse>,
    digester: &Digester,
) -> (String, Option<BTreeSet<String>>) {
    let Some(used) = used else {
        return (known.data_key, known.terms.filter(|_| known.is_of_file));
    };
    // Somebody else's key is not taken for known only because it is used.
    let data_key = if used.is_made || known.data_key.is_empty() {
        used.digest(digester)
    } else {
        known.data_key
    };
    let terms = match known.terms {
        Some(terms) if !used.is_agreed => {
            let mut left = used.terms.known_after(&terms);
            // Of another file the form is nothing to go by.
            if !known.is_of_file && used.terms.has(NAMES_IN_CLEAR) {
                left.insert(NAMES_IN_CLEAR.to_owned());
            }
            left
        }
        _ => used.terms.texts(),
    };
    (data_key, Some(terms))
}

/// Agrees to the data keys and terms of files, by their canonical paths on the server.
///
/// # Errors
/// When the records cannot be written.
pub fn agree_to_keys(
    state: &StateDir,
    workspace: &Workspace,
    keys: &[(&Entry, PathBuf, KeyInUse)],
) -> Result<(), FsError> {
    change(state, |records, digester| {
        for (entry, target, used) in keys {
            let Some(target) = target.to_str() else {
                continue;
            };
            let mut record = records.get(target).cloned().unwrap_or_else(|| Record {
                entry: entry.repository_path.clone(),
                repository: repository_of(workspace),
                ..Record::default()
            });
            record.data_key = used.digest(digester);
            record.terms = Some(used.terms.texts());
            records.set(target, Some(record));
        }
    })
}

/// Puts back records as they were.
///
/// # Errors
/// When they cannot be written.
pub fn restore<'r>(
    state: &StateDir,
    records: impl Iterator<Item = (&'r str, Option<Record>)>,
) -> Result<(), FsError> {
    change(state, |now, _| {
        for (target, record) in records {
            now.set(target, record);
        }
    })
}

/// Changes the records.
fn change(state: &StateDir, change: impl FnOnce(&mut Records, &Digester)) -> Result<(), FsError> {
    let digester = Digester::new(state.make_key()?);
    set_aside_damaged(state, &digester)?;
    state.update(RECORDS_FILE, |old| {
        let mut records = old
            .and_then(|text| Records::parse(&text, &digester))
            .unwrap_or_default();
        change(&mut records, &digester);
        records.to_bytes(&digester)
    })
}

/// Gives records that cannot be understood another name, so that they are not written over.
fn set_aside_damaged(state: &StateDir, digester: &Digester) -> Result<(), FsError> {
    match state.read(RECORDS_FILE)? {
        Some(text) if Records::parse(&text, digester).is_none() => state.set_aside(RECORDS_FILE),
        _ => Ok(()),
    }
}
