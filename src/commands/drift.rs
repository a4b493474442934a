//! Which side of an entry moved: brings the record and git's history to the table of verdicts, and
//! notes what agrees.

use std::path::{Path, PathBuf};

use crate::os::fs::{self, FsError};
use crate::os::git::Checkout;
use crate::os::history::{Position, Version};
use crate::os::place::FileState;
use crate::os::state::StateDir;
use crate::project::diff;
use crate::project::drift::{Drift, Likeness, Observed, OldVersion, Verdict, judge};
use crate::project::manifest::{Entry, Kind};
use crate::project::record::{Digester, Record, Records};
use crate::sops;
use crate::sops::store::Format;

use super::Context;
use super::workspace::Workspace;

/// The name of the records in the state directory.
pub const RECORDS_FILE: &str = "records.json";

/// The repository's side of an entry.
#[derive(Clone, Copy)]
pub struct Stored<'s> {
    /// The plaintext; `None` where it differs from the server's and is too long to be opened for
    /// more than that.
    pub content: Option<&'s [u8]>,
    /// The `mac` token, empty for a row of `[plain]`.
    pub mac: &'s str,
}

/// Both sides of an entry.
#[derive(Clone, Copy)]
pub struct Sides<'s> {
    /// The entry.
    pub entry: &'s Entry,
    /// Its file on the server, links resolved.
    pub target: &'s Path,
    /// The server's content.
    pub server: Option<&'s [u8]>,
    /// The repository's side.
    pub repository: Option<Stored<'s>>,
}

/// What the state directory tells of the last syncs.
#[derive(Default)]
pub struct Memory {
    /// The records.
    pub records: Records,
    digester: Option<Digester>,
    /// Why nothing is remembered, in words.
    trouble: Option<String>,
    /// Whether that is because the directory cannot be used.
    pub is_unusable: bool,
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
            Ok(None) => return Self::default(),
            Err(error) => return trouble(format!("the records cannot be read: {error}")),
        };
        let digester = Digester::new(key);
        match state.read(RECORDS_FILE) {
            Ok(None) => Self::default(),
            Ok(Some(text)) => match Records::parse(&text, &digester) {
                Some(records) => Self {
                    records,
                    digester: Some(digester),
                    trouble: None,
                    is_unusable: false,
                },
                None => trouble("the records of the last sync are damaged".to_owned()),
            },
            Err(error) => trouble(format!("the records cannot be read: {error}")),
        }
    }

    /// Returns the record of a file on the server.
    pub fn record_of(&self, target: &Path) -> Option<&Record> {
        self.digester.as_ref()?;
        self.records.get(target.to_str()?)
    }
}

/// Returns the records of a state directory, none where they cannot be read.
pub fn records_of(state: &StateDir) -> Records {
    let read = || -> Option<Records> {
        let digester = Digester::new(state.key().ok()??);
        Records::parse(&state.read(RECORDS_FILE).ok()??, &digester)
    };
    read().unwrap_or_default()
}

/// Says which side of an entry moved.
pub fn of(workspace: &Workspace, sides: &Sides<'_>) -> Drift {
    let entry = sides.entry;
    let is_env = entry.kind == Kind::Secret && entry.is_env();
    let memory = workspace.memory();
    // The record of a file that is another entry's on another host says nothing of this one.
    let is_other = |record: &&Record| {
        record.entry != entry.repository_path && workspace.is_entry(&record.entry)
    };
    let record = memory
        .record_of(sides.target)
        .filter(|record| !is_other(record));
    let mut seen = Observed {
        on_server: sides.server.is_some(),
        in_repository: sides.repository.is_some(),
        sides: Likeness::Different,
        since_record: None,
        was_in_repository: false,
        server_is_old_version: false,
    };
    let mut drift = Drift::of(judge(&seen));
    drift.last_sync = record.map(|record| record.time.clone());
    let (Some(server), Some(repository)) = (sides.server, sides.repository) else {
        if sides.repository.is_none() {
            let is_recorded = record.is_some_and(|record| record.entry == entry.repository_path);
            seen.was_in_repository = is_recorded || is_in_head(workspace, entry);
        }
        drift.verdict = judge(&seen);
        return drift;
    };
    seen.sides = repository.content.map_or(Likeness::Different, |content| {
        let differences = diff::between(content, server, is_env);
        match (differences.is_empty(), differences.is_layout_only) {
            (true, _) => Likeness::Same,
            (_, true) => Likeness::Layout,
            _ => Likeness::Different,
        }
    });
    if seen.sides == Likeness::Same {
        drift.verdict = judge(&seen);
        return drift;
    }
    if let (Some(record), Some(digester)) = (record, &memory.digester) {
        let like = |content: &[u8]| {
            if digester.content(content) == record.content {
                Likeness::Same
            } else if digester.meaning(content, is_env) == record.meaning {
                Likeness::Layout
            } else {
                Likeness::Different
            }
        };
        let is_untouched = !repository.mac.is_empty() && repository.mac == record.mac;
        let stored = match repository.content {
            _ if is_untouched => Likeness::Same,
            Some(content) => like(content),
            None => Likeness::Different,
        };
        seen.since_record = Some((like(server), stored));
    }
    let since = record.and_then(|record| record.commit.as_deref());
    // Only where the repository moved can the server be behind it. A record without a commit comes
    // from a copy without git: no version is known to be later.
    let is_moved = !matches!(seen.since_record, Some((_, Likeness::Same)));
    if record.is_none() || (since.is_some() && is_moved) {
        // Where only the layout differs, today's version has the same values: only the very bytes tell.
        let only_exact = seen.sides == Likeness::Layout;
        match old_version(workspace, entry, server, since, only_exact) {
            Ok(found) => drift.behind = found,
            Err(error) => drift.note = Some(error),
        }
    }
    seen.server_is_old_version = drift.behind.is_some();
    drift.verdict = judge(&seen);
    if let (Verdict::RepositoryAhead, Some(record)) = (drift.verdict, record)
        && let Some((verdict, note)) = went_back(workspace, entry, record, server)
    {
        drift.is_taken_back = verdict == Verdict::ServerAhead;
        drift.verdict = verdict;
        drift.behind = None;
        drift.note = Some(note);
    }
    if drift.note.is_none() {
        drift.note.clone_from(&memory.trouble);
    }
    if drift.note.is_none() && drift.behind.is_none() && workspace.is_history_cut() {
        drift.note = Some("this is a shallow clone: its history is cut".to_owned());
    }
    drift
}

/// Says that the repository did not move ahead of the last sync, but back: to a checkout that is older
/// or never had what was synced, or to what was committed before a capture that was thrown away.
fn went_back(
    workspace: &Workspace,
    entry: &Entry,
    record: &Record,
    server: &[u8],
) -> Option<(Verdict, String)> {
    let commit = record.commit.as_deref()?;
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let short: String = commit.chars().take(10).collect();
    if is_thrown_away(checkout, &file, commit) {
        let note = "what was captured last was taken back in the repository".to_owned();
        return Some((Verdict::ServerAhead, note));
    }
    match checkout.position_of(commit) {
        // On another branch its content is kept by git all the same.
        Position::Before | Position::Elsewhere => None,
        Position::After => Some((
            Verdict::Unknown,
            format!("this checkout is older than commit {short} of the last sync"),
        )),
        // Where the history is cut, nothing can be told from that.
        Position::Absent if checkout.is_shallow() => None,
        // Rewritten history still holds what was synced; a clone that is behind does not.
        Position::Absent => match in_history(workspace, entry, server) {
            Ok(Some(_)) => None,
            _ => Some((
                Verdict::Unknown,
                format!("this checkout does not have commit {short} of the last sync"),
            )),
        },
    }
}

/// Returns whether the file is as it was committed at the last sync, and was so all the time since:
/// what was synced then was never committed.
fn is_thrown_away(checkout: &Checkout, file: &Path, commit: &str) -> bool {
    let Ok(now) = fs::read_regular(file) else {
        return false;
    };
    let is_committed = checkout.is_committed(file).unwrap_or(false);
    let mut versions = 0;
    let other = checkout.find_version(file, Some(commit), |version| {
        versions += 1;
        (version != now).then_some(())
    });
    is_committed && versions > 0 && matches!(other, Ok(None))
}

fn is_in_head(workspace: &Workspace, entry: &Entry) -> bool {
    let Ok(Some(checkout)) = workspace.checkout() else {
        return false;
    };
    let file = workspace.repository_file(entry);
    checkout.is_in_head(&file).unwrap_or(false)
}

/// Looks for the server's content among the versions of the repository's file.
fn old_version(
    workspace: &Workspace,
    entry: &Entry,
    server: &[u8],
    since: Option<&str>,
    only_exact: bool,
) -> Result<Option<OldVersion>, String> {
    let checkout = workspace.checkout().map_err(|error| error.to_string())?;
    let Some(checkout) = checkout else {
        return Ok(None);
    };
    let file = workspace.repository_file(entry);
    let found = checkout
        .find_version(&file, since, |version| match entry.kind {
            Kind::Plain => (version == server).then_some(true),
            Kind::Secret => {
                holds(workspace, entry, version, server).filter(|is_exact| *is_exact || !only_exact)
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(found.map(|(version, is_exact)| named(&version, is_exact)))
}

/// Returns the version of the repository's file, of any age, that has the very bytes of `content`.
///
/// # Errors
/// Says in words that the history cannot be read.
pub fn in_history(
    workspace: &Workspace,
    entry: &Entry,
    content: &[u8],
) -> Result<Option<OldVersion>, String> {
    old_version(workspace, entry, content, None, true)
}

/// Returns whether an encrypted file holds a content: `Some(true)` for its very bytes, `Some(false)`
/// for the same values in another layout. What no identity opens holds nothing that can be told.
fn holds(workspace: &Workspace, entry: &Entry, encrypted: &[u8], content: &[u8]) -> Option<bool> {
    let (format, sealed) = sops::parse_sealed(encrypted.to_vec()).ok()?;
    // Nobody is asked and nothing is started for an old version.
    let key = workspace.keyring.unwrap_quiet(&sealed.metadata)?;
    if format == Format::Binary && !entry.is_env() {
        let is_same = sops::matches(format, &sealed, &key, content, None).ok()?;
        return is_same.then_some(true);
    }
    let opened = sops::open(format, &sealed, &key).ok()?;
    let differences = diff::between(opened.plaintext.expose(), content, entry.is_env());
    if differences.is_empty() {
        return Some(true);
    }
    differences.is_layout_only.then_some(false)
}

fn named(version: &Version, is_exact: bool) -> OldVersion {
    let date = jiff::Timestamp::from_second(version.seconds)
        .map(|time| time.to_string().chars().take(10).collect())
        .unwrap_or_default();
    OldVersion {
        commit: version.commit.chars().take(10).collect(),
        date,
        author: version.author.clone(),
        is_exact,
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
    /// The file on the server as it is now.
    pub state: FileState,
    /// Whether this run set its owner, group and mode; else those of the last record count on.
    pub is_placed: bool,
}

/// Notes what agrees. That it cannot be noted is no failure: the next run then finds less to go by
/// and refuses more.
pub fn remember(cx: &mut Context, workspace: &Workspace, agreed: &[Agreed<'_>]) {
    let Some(state) = workspace.state.as_ref().filter(|_| !agreed.is_empty()) else {
        return;
    };
    let now = cx.env.now();
    let head = match workspace.checkout() {
        Ok(Some(checkout)) => checkout.head(),
        _ => None,
    };
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
        let is_env = one.entry.kind == Kind::Secret && one.entry.is_env();
        // The same token means the same content: no need to look at it.
        let (content, meaning) = match known {
            Some(known) if !one.mac.is_empty() && known.mac == one.mac => {
                (known.content.clone(), known.meaning.clone())
            }
            _ => (
                digester.content(one.content),
                digester.meaning(one.content, is_env),
            ),
        };
        let (uid, gid, mode) = match known {
            Some(known) if !one.is_placed => (known.uid, known.gid, known.mode),
            _ => (one.state.uid, one.state.gid, one.state.mode),
        };
        let record = Record {
            entry: one.entry.repository_path.clone(),
            content,
            meaning,
            mac: one.mac.to_owned(),
            commit: head.clone(),
            time: now.clone(),
            uid,
            gid,
            mode,
        };
        if !known.is_some_and(|known| known.says_the_same(&record)) {
            changed.push((target, record));
        }
    }
    if changed.is_empty() {
        return;
    }
    let updated = set_aside_damaged(state, &digester).and_then(|()| {
        state.update(RECORDS_FILE, |old| {
            let mut records = old
                .and_then(|text| Records::parse(&text, &digester))
                .unwrap_or_default();
            for (target, record) in changed {
                records.set(target, Some(record));
            }
            records.to_bytes(&digester)
        })
    });
    if let Err(error) = updated {
        cx.ui.warning(&format!(
            "what agrees now is not remembered, the next run may have to ask git or refuse: {error}"
        ));
    }
}

/// Puts back records as they were.
///
/// # Errors
/// When they cannot be written.
pub fn restore<'r>(
    state: &StateDir,
    records: impl Iterator<Item = (&'r str, Option<Record>)>,
) -> Result<(), FsError> {
    let digester = Digester::new(state.make_key()?);
    set_aside_damaged(state, &digester)?;
    state.update(RECORDS_FILE, |old| {
        let mut now = old
            .and_then(|text| Records::parse(&text, &digester))
            .unwrap_or_default();
        for (target, record) in records {
            now.set(target, record);
        }
        now.to_bytes(&digester)
    })
}

/// Gives records that cannot be understood another name, so that they are not written over.
fn set_aside_damaged(state: &StateDir, digester: &Digester) -> Result<(), FsError> {
    match state.read(RECORDS_FILE)? {
        Some(text) if Records::parse(&text, digester).is_none() => state.set_aside(RECORDS_FILE),
        _ => Ok(()),
    }
}
