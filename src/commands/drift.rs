//! Which side of an entry moved: brings the record and git's history to the table of verdicts.

use std::path::Path;

use crate::os::fs;
use crate::os::git::Checkout;
use crate::os::history::{Position, Version};
use crate::project::diff::{self, Change};
use crate::project::drift::{
    Drift, Likeness, Observed, OldVersion, Rollback, Verdict, judge, short,
};
use crate::project::key_drift::{self, Base, KeyDrift, Moved};
use crate::project::keys::Reading;
use crate::project::manifest::{Entry, Kind};
use crate::project::record::{Digester, Record};
use crate::secret::SecretBytes;
use crate::sops;
use crate::sops::cipher::Token;
use crate::sops::store::Format;

use super::open::Encrypted;
use super::sides::in_words;
use super::workspace::Workspace;

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
    /// That side is an older version that was asked for, not the repository's file.
    pub is_restored: bool,
}

/// Says which side of an entry moved, and which side changed which key.
pub fn of(workspace: &Workspace, sides: &Sides<'_>) -> Drift {
    let (mut drift, base) = judged(workspace, sides);
    if let (true, Some(server), Some(Stored { content, .. })) =
        (drift.verdict.differs(), sides.server, sides.repository)
    {
        drift.keys = keys_of(workspace, sides, &drift, content, server, base.as_ref());
        if base.is_some() {
            drift.verdict = verdict_of(&drift);
        }
    }
    drift
}

/// Returns the verdict that the keys come to, where what was synced last is not in this history: one side,
/// or both.
fn verdict_of(drift: &Drift) -> Verdict {
    let all = |side: Moved| drift.keys.iter().all(|one| one.moved == side);
    match drift.verdict {
        Verdict::RepositoryAhead | Verdict::BothMoved if drift.keys.is_empty() => drift.verdict,
        Verdict::RepositoryAhead | Verdict::BothMoved if all(Moved::Repository) => {
            Verdict::RepositoryAhead
        }
        Verdict::RepositoryAhead | Verdict::BothMoved if all(Moved::Server) => Verdict::ServerAhead,
        Verdict::RepositoryAhead => Verdict::BothMoved,
        other => other,
    }
}

/// Encrypted files in the binary form that are longer than this are not opened only to compare.
const LARGE: usize = 32 << 20;

/// What the repository had at the last sync, where what was synced then was never committed here.
struct Before {
    content: Option<SecretBytes>,
    /// The file is the same to the byte.
    is_current: bool,
}

fn judged(workspace: &Workspace, sides: &Sides<'_>) -> (Drift, Option<Before>) {
    let entry = sides.entry;
    let reading = entry.reading();
    let memory = workspace.memory();
    let record = record_of(workspace, sides);
    let mut seen = Observed {
        on_server: sides.server.is_some(),
        in_repository: sides.repository.is_some(),
        sides: Likeness::Different,
        since_record: None,
        was_in_repository: false,
        is_pinned: record.is_some_and(|record| record.pinned.is_some()),
        server_is_old_version: false,
    };
    let mut drift = Drift::of(judge(&seen));
    let mut base = None;
    drift.last_sync = record.map(|record| record.time.clone());
    drift.last_commit = record.and_then(|record| record.commit.clone());
    drift.pinned = record.and_then(|record| record.pinned.clone());
    let stored = sides.repository.and_then(|repository| {
        let (record, digester) = (record?, memory.digester.as_ref()?);
        Some(like_record(record, digester, &repository, reading))
    });
    let has_moved = matches!(stored, Some(Likeness::Different | Likeness::Layout));
    let (Some(server), Some(repository)) = (sides.server, sides.repository) else {
        if sides.repository.is_none() {
            let is_recorded = record.is_some_and(|record| record.entry == entry.repository_path);
            seen.was_in_repository = is_recorded || is_in_head(workspace, entry);
        } else if let (true, false, Some(record)) = (has_moved, sides.is_restored, record) {
            (drift.rollback, drift.warning) = age_of_checkout(workspace, entry, record);
            if drift.rollback.is_none() {
                let left_out = left_out(workspace, entry, record, sides.repository, reading);
                drift.warning = left_out.or(drift.warning);
            }
        }
        drift.verdict = judge(&seen);
        return (drift, None);
    };
    seen.sides = repository.content.map_or(Likeness::Different, |content| {
        let differences = diff::of(entry, content, server);
        match (differences.is_empty(), differences.is_layout_only) {
            (true, _) => Likeness::Same,
            (_, true) => Likeness::Layout,
            _ => Likeness::Different,
        }
    });
    if seen.sides == Likeness::Same {
        drift.verdict = judge(&seen);
        return (drift, None);
    }
    if let (Some(record), Some(digester), Some(stored)) = (record, &memory.digester, stored) {
        let server = like_content(record, digester, server, reading);
        seen.since_record = Some((server, stored));
        drift.is_server_recorded = server == Likeness::Same;
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
    if let (true, false, Some(record)) = (has_moved, sides.is_restored, record) {
        let found = before_capture(workspace, entry, record);
        let is_back = found
            .as_ref()
            .is_some_and(|before| before.has(repository, reading));
        if drift.verdict == Verdict::RepositoryAhead && is_back {
            drift.is_taken_back = true;
            drift.verdict = Verdict::ServerAhead;
            drift.note = Some("what was captured last is not in the repository".to_owned());
        } else {
            (drift.rollback, drift.warning) = age_of_checkout(workspace, entry, record);
            base = found;
        }
        if drift.rollback.is_some() && drift.verdict == Verdict::RepositoryAhead {
            drift.verdict = Verdict::RepositoryBehind;
        }
        if drift.verdict != Verdict::RepositoryAhead {
            drift.behind = None;
        }
    }
    if drift.note.is_none() {
        drift.note.clone_from(&memory.trouble);
    }
    if drift.note.is_none() && drift.behind.is_none() && workspace.is_history_cut() {
        drift.note = Some("this is a shallow clone: its history is cut".to_owned());
    }
    (drift, base)
}

/// Says what placing the repository's version leaves out, where the server's file is gone: a version that `restore` put
/// there, or one that was captured and never committed.
fn left_out(
    workspace: &Workspace,
    entry: &Entry,
    record: &Record,
    repository: Option<Stored<'_>>,
    reading: Reading,
) -> Option<String> {
    let name = &entry.repository_path;
    if let Some(pinned) = &record.pinned {
        let restore = format!("restore --rev {}", short(pinned));
        return Some(format!(
            "{name}: `restore` had put the version of commit {} on the server: {} puts it there again",
            short(pinned),
            workspace.hints.ours(&restore, name)
        ));
    }
    let before = before_capture(workspace, entry, record)?;
    before.has(repository?, reading).then(|| {
        format!(
            "{name}: what was captured last, at {}, is not in the repository any more",
            record.time
        )
    })
}

/// Says that the repository's file is an older version again: a revert, or an old file that somebody pushed anew, for which
/// no key is needed. Its MAC token tells, as nobody without the data key makes another one; where there is none, of raw age
/// files and rows of `[plain]`, the content does.
pub fn again(workspace: &Workspace, entry: &Entry) -> Option<String> {
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let mac_of = |content: Vec<u8>| {
        let mac = sops::parse_sealed(content.clone()).ok();
        let mac = mac.map(|(_, sealed)| sealed.metadata.mac);
        let mac = mac.filter(|mac| !mac.is_empty());
        Some(mac.map_or(content, String::into_bytes))
    };
    let now = mac_of(fs::read_regular(&file).ok()?)?;
    let versions = checkout.file_history(&file, None).ok()?;
    let mut is_it = versions.iter().map(|version| {
        let content = version.after.as_ref().map(|blob| checkout.blob(blob));
        let mac = content.and_then(|content| mac_of(content.ok()?));
        (version, mac.as_ref() == Some(&now))
    });
    let changed = is_it.by_ref().find(|(_, is_it)| !is_it);
    changed?;
    let (older, _) = is_it.find(|(_, is_it)| *is_it)?;
    let version = &older.version;
    Some(format!(
        "{}: the repository has what it had in commit {} of {} once more, not a new version",
        entry.repository_path,
        short(&version.commit),
        in_words(version.seconds)
    ))
}

/// Returns whether no encrypted value of a file changed since the last sync, told without opening it.
pub fn is_sealed_as_recorded(workspace: &Workspace, target: &Path, encrypted: &Encrypted) -> bool {
    let seal = &encrypted.sealed.metadata.mac;
    let record = workspace.memory().record_of(target);
    record.is_some_and(|record| !seal.is_empty() && record.seal == *seal)
}

/// Returns the record of an entry's file. The record of a file that is another entry's on another
/// host says nothing of this one.
fn record_of<'w>(workspace: &'w Workspace, sides: &Sides<'_>) -> Option<&'w Record> {
    let name = &sides.entry.repository_path;
    let record = workspace.memory().record_of(sides.target)?;
    (record.entry == *name || !workspace.is_entry(&record.entry)).then_some(record)
}

fn like_content(
    record: &Record,
    digester: &Digester,
    content: &[u8],
    reading: Reading,
) -> Likeness {
    if digester.content(content) == record.content {
        Likeness::Same
    } else if digester.meaning(content, reading) == record.meaning {
        Likeness::Layout
    } else {
        Likeness::Different
    }
}

fn like_record(
    record: &Record,
    digester: &Digester,
    repository: &Stored<'_>,
    reading: Reading,
) -> Likeness {
    let is_untouched = !repository.mac.is_empty() && repository.mac == record.mac;
    match repository.content {
        _ if is_untouched => Likeness::Same,
        Some(content) => like_content(record, digester, content, reading),
        None => Likeness::Different,
    }
}

/// Says which side changed each key that differs.
fn keys_of(
    workspace: &Workspace,
    sides: &Sides<'_>,
    drift: &Drift,
    repository: Option<&[u8]>,
    server: &[u8],
    before: Option<&Before>,
) -> Vec<KeyDrift> {
    let entry = sides.entry;
    let all = match drift.verdict {
        Verdict::ServerAhead | Verdict::Pinned => Some(Moved::Server),
        Verdict::RepositoryAhead if before.is_some() => None,
        Verdict::RepositoryAhead | Verdict::RepositoryBehind => Some(Moved::Repository),
        _ => None,
    };
    let can_be_read = |content: &[u8]| match entry.reading() {
        Reading::Tree(_) => entry.reading().keys(content).is_some(),
        reading => reading.has_keys(),
    };
    let keyed = repository.filter(|content| can_be_read(content) && can_be_read(server));
    let Some(repository) = keyed else {
        let name = repository.map(|content| diff::between(content, server, Reading::Bytes));
        let name = name.and_then(|found| found.changes.into_iter().next());
        let key = name.map_or_else(|| "(content)".to_owned(), |(_, name)| name);
        let key = match entry.reading().trouble(server) {
            Some(trouble) => format!("(content: the server's file cannot be read: {trouble})"),
            None => key,
        };
        let moved = all.unwrap_or(match drift.verdict {
            Verdict::BothMoved | Verdict::RepositoryAhead => Moved::Both,
            _ => Moved::Unknown,
        });
        return vec![KeyDrift {
            key,
            change: Change::Changed,
            moved,
        }];
    };
    let memory = workspace.memory();
    let record = record_of(workspace, sides).filter(|record| !record.keys.is_empty());
    let before = before.and_then(|before| before.content.as_ref());
    let base = match (before, record, &memory.digester) {
        (Some(before), ..) => Base::of(before.expose(), entry.reading()),
        (None, Some(record), Some(digester)) => Base::Record(record, digester),
        _ => Base::Unknown,
    };
    let mut keys = key_drift::compare(repository, server, &base, entry.reading());
    let is_sure = drift.is_taken_back || drift.behind.is_some() || drift.verdict == Verdict::Pinned;
    for key in &mut keys {
        match all {
            Some(all) if is_sure || key.moved == Moved::Unknown => key.moved = all,
            _ => {}
        }
    }
    if all.is_none() && drift.rollback.is_none() {
        let open = keys
            .iter()
            .filter(|one| matches!(one.moved, Moved::Both | Moved::Unknown));
        let open: Vec<String> = open.map(|one| one.key.clone()).collect();
        let record = record_of(workspace, sides);
        let old = old_keys(workspace, entry, server, record, open);
        for key in keys.iter_mut().filter(|one| old.contains(&one.key)) {
            key.moved = Moved::Repository;
        }
    }
    keys
}

/// Returns those of `keys` in which the server has what the repository had in a version committed at or
/// after the record's commit, without record in any: there the server is merely behind.
fn old_keys(
    workspace: &Workspace,
    entry: &Entry,
    server: &[u8],
    record: Option<&Record>,
    mut keys: Vec<String>,
) -> Vec<String> {
    let mut old = Vec::new();
    let since = record.and_then(|record| record.commit.as_deref());
    // A record without a commit: no version is known to be later.
    let is_blind = record.is_some() && since.is_none();
    let (false, Ok(Some(checkout))) = (keys.is_empty() || is_blind, workspace.checkout()) else {
        return old;
    };
    let file = workspace.repository_file(entry);
    let searched = checkout.find_version(&file, since, |version| {
        let opened = opened_quietly(workspace, version)?;
        let names = keys.iter().map(String::as_str);
        let found: Vec<String> =
            key_drift::agreeing(opened.expose(), server, names, entry.reading())
                .into_iter()
                .map(str::to_owned)
                .collect();
        keys.retain(|key| !found.contains(key));
        old.extend(found);
        keys.is_empty().then_some(())
    });
    match searched {
        Ok(_) => old,
        Err(_) => Vec::new(),
    }
}

/// Returns the plaintext of a version, where an identity at hand opens it that asks nothing and starts
/// nothing.
pub fn opened_quietly(workspace: &Workspace, version: &[u8]) -> Option<SecretBytes> {
    let (format, sealed) = sops::parse_sealed(version.to_vec()).ok()?;
    let key = workspace.keyring.unwrap_quiet(&sealed.metadata)?;
    Some(sops::open(format, &sealed, &key).ok()?.plaintext)
}

/// Returns what the repository had at the last sync, where what was synced then was never committed in
/// this history: it was captured in another clone, or thrown away.
fn before_capture(workspace: &Workspace, entry: &Entry, record: &Record) -> Option<Before> {
    let commit = record.commit.as_deref()?;
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let base = match checkout.position_of(commit) {
        Position::Before => commit.to_owned(),
        Position::Elsewhere => {
            // Where the last sync's own commit has it, git keeps what was synced.
            let (_, version) = checkout.version_at(&file, commit).ok()?;
            let digester = workspace.memory().digester.as_ref()?;
            let reading = entry.reading();
            let is_kept = version.is_some_and(|version| match entry.kind {
                Kind::Plain => digester.content(&version) == record.content,
                Kind::Secret => is_recorded(workspace, digester, record, &version, reading),
            });
            if is_kept {
                return None;
            }
            checkout.merge_base(commit)?
        }
        Position::After | Position::Absent => return None,
    };
    if has_synced(workspace, entry, record, checkout, Some(&base)) {
        return None;
    }
    let (_, version) = checkout.version_at(&file, &base).ok()?;
    let is_current = version.is_some() && version == fs::read_regular(&file).ok();
    let content = version.and_then(|version| match entry.kind {
        Kind::Plain => Some(SecretBytes::new(version)),
        Kind::Secret => opened_quietly(workspace, &version),
    });
    Some(Before {
        content,
        is_current,
    })
}

impl Before {
    /// Returns whether the repository has the same still.
    fn has(&self, repository: Stored<'_>, reading: Reading) -> bool {
        let (Some(before), Some(now)) = (&self.content, repository.content) else {
            return self.is_current;
        };
        let found = diff::between(before.expose(), now, reading);
        found.is_empty() || found.is_layout_only
    }
}

/// Says whether the repository moved backwards, to a checkout that is older than the last sync or does
/// not have what was synced then; or, as a warning, only elsewhere.
fn age_of_checkout(
    workspace: &Workspace,
    entry: &Entry,
    record: &Record,
) -> (Option<Rollback>, Option<String>) {
    let Some(commit) = record.commit.as_deref() else {
        return (None, None);
    };
    let short = short(commit).to_owned();
    let elsewhere = |what: &str| {
        let name = &entry.repository_path;
        let warning = format!("{name}: commit {short} of the last sync is {what}");
        (None, Some(warning))
    };
    let Ok(Some(checkout)) = workspace.checkout() else {
        return elsewhere("not known without git: whether this copy is older cannot be told");
    };
    let rollback = |is_ancestor| {
        let commit = short.clone();
        let rollback = Rollback {
            commit,
            is_ancestor,
        };
        (Some(rollback), None)
    };
    match checkout.position_of(commit) {
        Position::Before => (None, None),
        Position::After => rollback(true),
        // What was synced is kept by git all the same, or it is the base that says what moved.
        Position::Elsewhere => elsewhere("on another branch, or was rewritten"),
        // Where the history is cut, nothing can be told from that.
        Position::Absent if checkout.is_shallow() => {
            elsewhere("not in this shallow clone: whether this checkout is older cannot be told")
        }
        // Rewritten history still holds what was synced; a clone that is behind does not.
        Position::Absent if has_synced(workspace, entry, record, checkout, None) => {
            elsewhere("not in this history, which was rewritten")
        }
        Position::Absent => rollback(false),
    }
}

/// Returns whether the history, with `since` from that commit on, holds what the record saw.
fn has_synced(
    workspace: &Workspace,
    entry: &Entry,
    record: &Record,
    checkout: &Checkout,
    since: Option<&str>,
) -> bool {
    let Some(digester) = &workspace.memory().digester else {
        return false;
    };
    let file = workspace.repository_file(entry);
    let found = checkout.find_version(&file, since, |version| {
        let is_same = match entry.kind {
            Kind::Plain => digester.content(version) == record.content,
            Kind::Secret => is_recorded(workspace, digester, record, version, entry.reading()),
        };
        is_same.then_some(())
    });
    matches!(found, Ok(Some(_)))
}

/// Returns whether a version of an encrypted file holds what the record saw, layout left out, or may do so:
/// nobody here opens it, or it is too long to be opened for that.
fn is_recorded(
    workspace: &Workspace,
    digester: &Digester,
    record: &Record,
    version: &[u8],
    reading: Reading,
) -> bool {
    let Ok((format, sealed)) = sops::parse_sealed(version.to_vec()) else {
        return false;
    };
    let metadata = &sealed.metadata;
    if !metadata.mac.is_empty() && metadata.mac == record.seal {
        return true;
    }
    if format == Format::Binary && sealed.source.len() > LARGE {
        return true;
    }
    let key = workspace.keyring.unwrap_quiet(metadata);
    let opened = key.and_then(|key| sops::open(format, &sealed, &key).ok());
    opened.is_none_or(|opened| {
        let content = opened.plaintext.expose();
        like_content(record, digester, content, reading) != Likeness::Different
    })
}

fn is_in_head(workspace: &Workspace, entry: &Entry) -> bool {
    let Ok(Some(checkout)) = workspace.checkout() else {
        return false;
    };
    let file = workspace.repository_file(entry);
    checkout.is_in_head(&file).unwrap_or(false)
}

/// Says that the server has an older version of the repository's, though it had a later one at the last sync: its file was
/// set back there, by a restored disk, or by hand.
pub fn set_back(workspace: &Workspace, entry: &Entry, server: &[u8]) -> Option<String> {
    let old = old_version(workspace, entry, server, None, false).ok()??;
    let name = &entry.repository_path;
    Some(format!(
        "{name}: what the server has is the version of commit {} of {}, older than the last sync: where its disk was set back, {} brings it up to date",
        old.commit,
        old.date,
        workspace.hints.ours("decrypt --force", name)
    ))
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
    if format == Format::Binary && !entry.reading().has_keys() {
        // The length tells without opening it.
        let text = sealed.leaves.first().map(|leaf| sealed.text(leaf))?;
        let length = Token::parse(text).map_or(0, |token| token.plaintext_len());
        if length != content.len() {
            return None;
        }
    }
    // Nobody is asked and nothing is started for an old version.
    let key = workspace.keyring.unwrap_quiet(&sealed.metadata)?;
    if format == Format::Binary && !entry.reading().has_keys() {
        let is_same = sops::matches(format, &sealed, &key, content, None).ok()?;
        return is_same.then_some(true);
    }
    let opened = sops::open(format, &sealed, &key).ok()?;
    let differences = diff::between(opened.plaintext.expose(), content, entry.reading());
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
        id: version.commit.clone(),
        commit: short(&version.commit).to_owned(),
        date,
        author: version.author.clone(),
        is_exact,
    }
}
