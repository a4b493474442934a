//! When each key of a file last changed, by whom, in which commit: from ciphertext alone.
//!
//! Encrypting keeps the token of an unchanged value, so a token that differs is a value that changed.
//! Where every token differs and no wrapped key is shared, the file was encrypted anew and the content
//! cannot be told without an identity; with one both versions are opened and compared.

use std::collections::{HashMap, HashSet};

use crate::error::ErrorKind;
use crate::os::file_history::FileChange;
use crate::os::fs;
use crate::os::git::{Checkout, GitError};
use crate::os::history::Version;
use crate::project::diff::{self, Change};
use crate::project::key_drift::{KeyDrift, Moved};
use crate::project::lines::{COMMENTS, bare_key};
use crate::project::manifest::{Entry, Kind};
use crate::sops;
use crate::sops::cipher::Token;
use crate::sops::document::SealedDocument;
use crate::sops::store::Format;
use crate::sops::value::Value;

use super::drift::opened_quietly;
use super::workspace::Workspace;

/// Names the content of a file without keys.
pub const CONTENT: &str = "(content)";

/// What happened to a key in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It came.
    Added,
    /// Its value changed.
    Changed,
    /// It was there in the oldest commit that a shallow clone has; it may be older.
    Cut,
    /// It was encrypted anew; whether its value changed cannot be told without an identity.
    Reencrypted,
    /// It went.
    Removed,
}

impl Event {
    /// Returns the stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Cut => "cut",
            Self::Reencrypted => "re-encrypted",
            Self::Removed => "removed",
        }
    }

    fn of(change: Change) -> Self {
        match change {
            Change::Added => Self::Added,
            Change::Changed => Self::Changed,
            Change::Removed => Self::Removed,
        }
    }
}

/// A version of a file, and what it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The commit; `None` for what is in the folder and not committed.
    pub version: Option<Version>,
    /// What happened to which key, in the order of the file.
    pub events: Vec<(String, Event)>,
}

/// What can be told of a version without opening it.
struct Snapshot {
    /// The encrypted file, or the plain one.
    content: Vec<u8>,
    format: Option<Format>,
    /// Keys with the texts of their values.
    keys: Vec<(String, Vec<Vec<u8>>)>,
    /// Where each key is among them.
    places: HashMap<String, usize>,
    /// The wrapped copies of the data key.
    wrapped: HashSet<String>,
}

impl Snapshot {
    /// Returns what can be told; a file that is damaged has one key, its content.
    fn of(entry: &Entry, content: Vec<u8>) -> Self {
        let parsed = match entry.kind {
            Kind::Secret => sops::parse_sealed(content.clone()).ok(),
            Kind::Plain => None,
        };
        let mut snapshot = match parsed {
            Some((format, sealed)) => Self {
                keys: keys_of(format, &sealed),
                places: HashMap::new(),
                wrapped: sealed
                    .metadata
                    .age_keys()
                    .map(|(_, enc)| enc.to_owned())
                    .collect(),
                format: Some(format),
                content,
            },
            None => Self {
                keys: vec![(CONTENT.to_owned(), vec![content.clone()])],
                places: HashMap::new(),
                format: None,
                wrapped: HashSet::new(),
                content,
            },
        };
        let keys = snapshot.keys.iter().enumerate();
        snapshot.places = keys.map(|(place, (key, _))| (key.clone(), place)).collect();
        snapshot
    }

    fn get(&self, key: &str) -> Option<&Vec<Vec<u8>>> {
        let place = self.places.get(key)?;
        self.keys.get(*place).map(|(_, texts)| texts)
    }

    fn all(&self, event: Event) -> Vec<(String, Event)> {
        let keys = self.keys.iter();
        keys.map(|(key, _)| (key.clone(), event)).collect()
    }
}

/// Returns whether a text is an encrypted comment, as the reference writes them into lists.
fn is_comment_token(text: &[u8]) -> bool {
    Token::parse(text).is_ok_and(|token| token.kind == "comment")
}

fn keys_of(format: Format, sealed: &SealedDocument) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut keys: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    for leaf in &sealed.leaves {
        let name = match format {
            Format::Age | Format::Binary => CONTENT.to_owned(),
            Format::Dotenv if leaf.is_comment => COMMENTS.to_owned(),
            Format::Dotenv => bare_key(&leaf.path.display()).to_owned(),
            _ if leaf.is_comment || is_comment_token(sealed.text(leaf)) => COMMENTS.to_owned(),
            _ => sealed.place(leaf),
        };
        // However nothing is spelled.
        let text = match &leaf.clear {
            Some(Value::Null) => b"null".to_vec(),
            _ => sealed.text(leaf).to_vec(),
        };
        let at = *positions.entry(name.clone()).or_insert_with(|| {
            keys.push((name, Vec::new()));
            keys.len() - 1
        });
        keys[at].1.push(text);
    }
    for (name, texts) in &mut keys {
        if name == COMMENTS {
            texts.sort_unstable();
        }
    }
    keys
}

/// Returns the names of an encrypted file's keys, or words in round brackets for what is no key.
pub fn key_names(format: Format, sealed: &SealedDocument) -> Vec<String> {
    keys_of(format, sealed)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Looks back through the versions of an entry's file, newest first, until `is_enough` says so. With
/// `since`, a commit, only versions after it count.
///
/// # Errors
/// When the history cannot be read.
pub fn look_back(
    workspace: &Workspace,
    entry: &Entry,
    since: Option<&str>,
    mut is_enough: impl FnMut(&Revision) -> bool,
) -> Result<(), ErrorKind> {
    let Some(checkout) = workspace.checkout()? else {
        return Ok(());
    };
    let file = workspace.repository_file(entry);
    let mut cache = HashMap::new();
    let mut read = |id: &Option<String>| snapshot(entry, checkout, &mut cache, id.as_deref());
    if !checkout.is_committed(&file).unwrap_or(true) {
        let head = match workspace.head() {
            Some(_) => checkout.version_at(&file, "HEAD")?.1,
            None => None,
        };
        let head = head.map(|content| Snapshot::of(entry, content));
        let now = fs::read_regular(&file).ok();
        let now = now.map(|content| Snapshot::of(entry, content));
        let is_damaged =
            |head: &Snapshot, now: &Snapshot| head.format.is_some() && now.format.is_none();
        let events = match (&head, &now) {
            // Which keys it had nobody can tell.
            (Some(head), Some(now)) if is_damaged(head, now) => now.all(Event::Changed),
            (head, now) => events(workspace, entry, &[head.as_ref()], now.as_ref()),
        };
        let revision = Revision {
            version: None,
            events,
        };
        if is_enough(&revision) {
            return Ok(());
        }
    }
    for FileChange {
        version,
        after,
        before,
    } in checkout.file_history(&file, since)?
    {
        let after = read(&after)?;
        let before = before
            .iter()
            .map(&mut read)
            .collect::<Result<Vec<_>, _>>()?;
        let before: Vec<_> = before.iter().map(|one| one.as_deref()).collect();
        let mut events = events(workspace, entry, &before, after.as_deref());
        if before.is_empty() && checkout.is_shallow() {
            events.iter_mut().for_each(|(_, event)| *event = Event::Cut);
        }
        let revision = Revision {
            version: Some(version),
            events,
        };
        if is_enough(&revision) {
            break;
        }
    }
    Ok(())
}

type Cache = HashMap<String, Option<std::rc::Rc<Snapshot>>>;

/// Returns what can be told of a blob; nothing where it is left with the server.
fn snapshot(
    entry: &Entry,
    checkout: &Checkout,
    cache: &mut Cache,
    id: Option<&str>,
) -> Result<Option<std::rc::Rc<Snapshot>>, GitError> {
    let Some(id) = id else { return Ok(None) };
    if let Some(known) = cache.get(id) {
        return Ok(known.clone());
    }
    let content = match checkout.blob(id) {
        Err(_) if checkout.is_shallow() => None,
        content => Some(content?),
    };
    let snapshot = content.map(|content| std::rc::Rc::new(Snapshot::of(entry, content)));
    cache.insert(id.to_owned(), snapshot.clone());
    Ok(snapshot)
}

/// Says what happened between the versions of the parents and the one after them. In a merge only
/// what differs from every parent happened in it.
fn events(
    workspace: &Workspace,
    entry: &Entry,
    before: &[Option<&Snapshot>],
    after: Option<&Snapshot>,
) -> Vec<(String, Event)> {
    let mut known = before.iter().flatten();
    let Some(first) = known.next() else {
        return after.map_or_else(Vec::new, |after| after.all(Event::Added));
    };
    let Some(after) = after else {
        return first.all(Event::Removed);
    };
    let mut events = between(workspace, entry, first, after);
    for other in known {
        let others = between(workspace, entry, other, after);
        let others: HashSet<&str> = others.iter().map(|(key, _)| &**key).collect();
        events.retain(|(key, _)| others.contains(&**key));
    }
    events
}

fn between(
    workspace: &Workspace,
    entry: &Entry,
    before: &Snapshot,
    after: &Snapshot,
) -> Vec<(String, Event)> {
    let is_token = |texts: &Vec<Vec<u8>>| texts.iter().all(|text| Token::is_likely(text));
    let common = after.keys.iter().filter_map(|(key, texts)| {
        let old = before.get(key)?;
        Some((old, texts))
    });
    let mut encrypted = common
        .filter(|(old, new)| is_token(old) && is_token(new))
        .peekable();
    let shares_key = after
        .wrapped
        .iter()
        .any(|wrapped| before.wrapped.contains(wrapped));
    let is_anew = entry.kind == Kind::Secret
        && !shares_key
        && encrypted.peek().is_some()
        && encrypted.all(|(old, new)| old != new);
    let is_other_form = before.format != after.format;
    let hides_keys = after.format == Some(Format::Binary) && entry.reading().has_keys();
    if (is_anew || is_other_form || hides_keys)
        && let Some(events) = opened(workspace, entry, before, after)
    {
        return events;
    }
    let mut events = Vec::new();
    for (key, texts) in &after.keys {
        match before.get(key) {
            None => events.push((key.clone(), Event::Added)),
            Some(old) if old == texts => {}
            Some(old) if is_anew && is_token(old) && is_token(texts) => {
                events.push((key.clone(), Event::Reencrypted));
            }
            Some(_) => events.push((key.clone(), Event::Changed)),
        }
    }
    let gone = before.keys.iter();
    let gone = gone.filter(|(key, _)| after.get(key).is_none());
    events.extend(gone.map(|(key, _)| (key.clone(), Event::Removed)));
    events
}

/// Compares two versions opened, where an identity at hand opens both.
fn opened(
    workspace: &Workspace,
    entry: &Entry,
    before: &Snapshot,
    after: &Snapshot,
) -> Option<Vec<(String, Event)>> {
    let before = opened_quietly(workspace, &before.content)?;
    let after = opened_quietly(workspace, &after.content)?;
    let found = diff::between(before.expose(), after.expose(), entry.reading());
    let name = |key: String| {
        if entry.reading().has_keys() {
            key
        } else {
            CONTENT.to_owned()
        }
    };
    let changes = found.changes.into_iter();
    Some(
        changes
            .map(|(change, key)| (name(key), Event::of(change)))
            .collect(),
    )
}

/// Since when the repository has what it has of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Since a commit.
    Commit(Version),
    /// It is in the folder and not committed.
    Uncommitted,
}

/// Returns since when the repository has what it has of each key that it changed, or may have
/// changed; keys of which that cannot be told are left out.
pub fn since(
    workspace: &Workspace,
    entry: &Entry,
    keys: &[KeyDrift],
    last_commit: Option<&str>,
) -> HashMap<String, Since> {
    let mut open: Vec<&str> = keys
        .iter()
        .filter(|one| one.moved != Moved::Server)
        .map(|one| one.key.as_str())
        .collect();
    let mut found = HashMap::new();
    if open.is_empty() {
        return found;
    }
    let looked = look_back(workspace, entry, last_commit, |revision| {
        let since = || match &revision.version {
            Some(version) => Since::Commit(version.clone()),
            None => Since::Uncommitted,
        };
        let names: HashSet<&str> = revision.events.iter().map(|(name, _)| &**name).collect();
        open.retain(|key| {
            // A key of a file whose keys cannot be told apart, or its content in more words.
            let is_found = names.contains(key) || names.contains(CONTENT);
            if is_found {
                found.insert((*key).to_owned(), since());
            }
            !is_found
        });
        open.is_empty()
    });
    drop(looked);
    found
}
