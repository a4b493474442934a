//! `recover --new-key`: the key is truly lost. A new one takes its place in the rules, and what is
//! lost with the old one is named.
//!
//! The recipient that was lost and the one in its place are noted in the state directory: that is the
//! user's own word that `encrypt` may write the files anew without opening them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age::{self, canonical};
use crate::os::fs::{self, FsError};
use crate::os::place::Base;
use crate::os::state::StateDir;
use crate::project::manifest::{Entry, Kind};
use crate::rules::{RULES_FILE, Rules};
use crate::sops::master_key::KeyId;
use crate::sops::metadata::Metadata;
use crate::ui::lost::{LostEntry, LostView};

use super::apply::{self, Work};
use super::govern::govern;
use super::hints::quoted;
use super::install::Installation;
use super::open::{Lookup, read_encrypted};
use super::origin::key_names;
use super::repository::RepositoryFile;
use super::workspace::{FoundRules, Workspace};
use super::{Context, Outcome, WriteArgs};

/// The name of the note in the state directory.
const LOST_FILE: &str = "lost.json";

/// What is asked for.
pub struct Request<'a> {
    /// Which recipient is lost, by name or in full.
    pub lost: Option<&'a str>,
    /// The file for the new identity is named.
    pub has_own_place: bool,
    /// Make a post-quantum key.
    pub is_hybrid: bool,
    /// Options of every writing command.
    pub write: WriteArgs,
}

/// A recipient whose key is lost, and the one in its place, both canonical.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The lost one.
    pub lost: String,
    /// The new one.
    pub new: String,
}

/// Returns what this user said is lost.
pub fn replacements(state: Option<&StateDir>) -> Vec<Replacement> {
    let read = || serde_json::from_slice(&state?.read(LOST_FILE).ok()??).ok();
    read().unwrap_or_default()
}

/// Returns whether one of a file's recipients is lost.
pub fn names_lost(workspace: &Workspace, metadata: &Metadata) -> bool {
    let mut recipients = metadata.age_recipients().into_iter().map(canonical);
    recipients.any(|recipient| workspace.lost.iter().any(|one| one.lost == recipient))
}

/// Returns whether one of these recipients is lost.
pub fn is_one_lost(workspace: &Workspace, recipients: &[String]) -> bool {
    let mut recipients = recipients.iter().map(|recipient| canonical(recipient));
    recipients.any(|recipient| workspace.lost.iter().any(|one| one.lost == recipient))
}

/// Says how to go on with a file that was encrypted for a lost recipient and that nobody here opens;
/// returns its recipients by name too.
pub fn help(workspace: &Workspace, entry: &Entry, recipients: &[String]) -> (String, Vec<String>) {
    let name_of = |key: &String| workspace.manifest.name_recipient(key);
    let is_lost = |key: &&String| is_one_lost(workspace, std::slice::from_ref(*key));
    let others: Vec<String> = recipients
        .iter()
        .filter(|key| !is_lost(key))
        .map(name_of)
        .collect();
    let name = &entry.repository_path;
    let server = workspace.server_file(entry);
    let server = server.display();
    let hints = &workspace.hints;
    let help = if others.is_empty() {
        format!(
            "its key is lost: write new values into {server}, then {}",
            hints.ours("encrypt", name)
        )
    } else {
        format!(
            "this host's key is lost, and {} can open it: ask them to run {}, then pull; or {} replaces it by {server}",
            others.join(", "),
            stock_updatekeys(workspace, entry),
            hints.ours("encrypt --allow-unreadable", name)
        )
    };
    (help, recipients.iter().map(name_of).collect())
}

/// Returns the stock command that brings a file in line with its rule.
fn stock_updatekeys(workspace: &Workspace, entry: &Entry) -> String {
    let kind = match read_encrypted(workspace, entry) {
        Ok(Lookup::Found(encrypted)) => encrypted.format.name(),
        _ => "binary",
    };
    let file = quoted(&entry.repository_path);
    format!("`sops updatekeys -y --input-type {kind} {file}`")
}

/// Returns whether every recipient of a file is lost.
pub fn is_lost(workspace: &Workspace, metadata: &Metadata) -> bool {
    let recipients = metadata.age_recipients();
    let is_lost = |recipient: &&str| {
        let recipient = canonical(recipient);
        let mut lost = workspace.lost.iter();
        lost.any(|one| one.lost == recipient)
    };
    !recipients.is_empty() && metadata.other_kinds().is_empty() && recipients.iter().all(is_lost)
}

/// Returns whether a file differs from its rule in nothing but that new recipients stand there for lost
/// ones.
pub fn is_only_replaced(workspace: &Workspace, metadata: &Metadata, wanted: &[Vec<KeyId>]) -> bool {
    let have: BTreeSet<String> = metadata
        .age_recipients()
        .into_iter()
        .map(canonical)
        .collect();
    let [wanted] = wanted else { return false };
    let want: BTreeSet<String> = wanted
        .iter()
        .map(|key| key.canonical().to_string())
        .collect();
    let lost = &workspace.lost;
    let mut gone = have.difference(&want);
    let mut added = want.difference(&have);
    have != want
        && metadata.other_kinds().is_empty()
        && gone.all(|key| lost.iter().any(|one| one.lost == *key))
        && added.all(|key| lost.iter().any(|one| one.new == *key))
}

/// Makes a new key and puts it in the place of the lost one.
///
/// # Errors
/// What stands against it; nothing is written then.
pub fn run(
    cx: &mut Context,
    workspace: &Workspace,
    request: &Request<'_>,
    installation: &mut Installation,
    problems: &[Problem],
) -> Result<Outcome, Error> {
    let entries = workspace.select_everywhere(&[])?;
    let entries: Vec<&Entry> = entries
        .into_iter()
        .filter(|entry| entry.kind == Kind::Secret)
        .collect();
    let lost = find_lost(workspace, request, &entries)?;
    check_identity(workspace, request, installation, &lost, &entries)?;
    let is_hybrid = request.is_hybrid || lost.starts_with("age1pq");
    let key = age::generate(is_hybrid, &cx.env.now());
    let files = rewritten(workspace, &entries, &lost, &key.recipient)?;
    let view = view(workspace, &entries, &lost);
    if !problems.is_empty() {
        cx.ui.problems(problems);
        return Ok(Outcome::default().with_problems(problems));
    }
    installation.set(Some(key.file), true);
    installation.check(cx, workspace)?;
    let _locks = apply::begin(cx, workspace, request.write)?;
    if !request.write.dry_run {
        // First the note and the key: rules that name a key nobody has would be worse than a key that
        // no rule names.
        installation.note_signals();
        let noted = note(workspace, &lost, &key.recipient)?;
        let written = installation
            .install(cx)
            .and_then(|()| installation.check_signals())
            .and_then(|()| write(cx, workspace, &files));
        if let Err(problem) = written {
            installation.take_back(cx, workspace);
            take_back_note(workspace, &noted);
            return Err(problem.into());
        }
    }
    let old = installation.old.as_ref();
    cx.ui.show_lost(&LostView {
        lost: workspace.manifest.name_recipient(&lost),
        recipient: if request.write.dry_run {
            String::new()
        } else {
            key.recipient
        },
        identity: installation.path.display().to_string(),
        old_identity: old.map(|old| old.display().to_string()),
        changed: files.iter().map(|file| file.name.clone()).collect(),
        entries: view,
        dry_run: request.write.dry_run,
        encrypt: workspace.hints.ours_for_all("encrypt"),
        status: workspace.hints.ours_for_all("status"),
    });
    Ok(Outcome::default())
}

/// Makes sure that the new identity may stand where it is to stand: not on a machine that is not the
/// server, below a root that is not there; not in the place of a key that is not the lost one and is in
/// use.
fn check_identity(
    workspace: &Workspace,
    request: &Request<'_>,
    installation: &Installation,
    lost: &str,
    entries: &[&Entry],
) -> Result<(), Problem> {
    if request.has_own_place {
        return Ok(());
    }
    if workspace.is_root_absent() && installation.path.starts_with(&workspace.root_path) {
        return Err(workspace
            .not_the_server()
            .with_help("name a file for the new key: `--identity-out FILE`"));
    }
    let mut used = BTreeSet::new();
    for entry in entries {
        used.extend(govern_loosely(workspace, entry)?.unwrap_or_default());
    }
    let there = installation.recipients_there();
    let Some(other) = there.iter().find(|key| *key != lost && used.contains(*key)) else {
        return Ok(());
    };
    let message = format!(
        "{} holds the key of {}, which is in use",
        installation.path.display(),
        workspace.manifest.name_recipient(other)
    );
    Err(Problem::new(ErrorKind::Option(message))
        .with_help("name another file for the new key: `--identity-out FILE`"))
}

fn write(cx: &mut Context, workspace: &Workspace, files: &[RepositoryFile]) -> Result<(), Problem> {
    let mut work = Work::default();
    for file in files {
        work.jobs.extend(file.job()?);
    }
    apply::run(cx, workspace, &work).map_err(|failure| failure.problem)
}

/// Returns the lost recipient: the one that is named, else the only one in the rules of this host's
/// entries that no identity at hand is.
fn find_lost(
    workspace: &Workspace,
    request: &Request<'_>,
    entries: &[&Entry],
) -> Result<String, Problem> {
    let own: Vec<String> = workspace.keyring.recipients();
    let mut candidates: BTreeSet<String> = BTreeSet::new();
    let here = entries.iter().filter(|entry| entry.is_for(&workspace.host));
    for entry in here {
        if let Some(governing) = govern_loosely(workspace, entry)? {
            candidates.extend(governing);
        }
    }
    let recipients = &workspace.manifest.recipients;
    if let Some(word) = request.lost {
        let named = recipients.iter().find(|named| named.name == word);
        let wanted = canonical(named.map_or(word, |named| &named.key));
        if candidates.contains(&wanted) {
            return Ok(wanted);
        }
    }
    let is_break_glass = |key: &String| {
        let mut named = recipients.iter();
        named.any(|named| named.break_glass && canonical(&named.key) == *key)
    };
    candidates.retain(|key| !is_break_glass(key) && !own.contains(key));
    let names: Vec<String> = candidates
        .iter()
        .map(|key| workspace.manifest.name_recipient(key))
        .collect();
    match (request.lost, candidates.len()) {
        (None, 1) => Ok(candidates.pop_first().unwrap_or_default()),
        (Some(word), _) => Err(Problem::new(ErrorKind::Option(format!(
            "no rule of this host's entries names `{}`",
            age::shortened(word)
        )))
        .with_help(format!("one of: {}", names.join(", ")))),
        (None, 0) => Err(Problem::new(ErrorKind::Option(
            "every rule of this host's entries names a key that is at hand: none is lost".to_owned(),
        ))
        .with_help("`secrets status` shows what is still under an old key; another one that is lost is named with `--lost RECIPIENT`")),
        (None, _) => Err(Problem::new(ErrorKind::Option(format!(
            "the rules of this host's entries name several recipients that no identity here is: {}",
            names.join(", ")
        )))
        .with_help("say whose key is lost: `--lost RECIPIENT`")),
    }
}

/// Returns the recipients of an entry's rule, canonical; `None` where there is no rule.
fn govern_loosely(workspace: &Workspace, entry: &Entry) -> Result<Option<Vec<String>>, Problem> {
    let governing = govern(workspace, entry, &mut Vec::new())?;
    Ok(governing.map(|governing| {
        let keys = governing.keys.iter();
        keys.filter_map(|key| key.recipient().map(canonical))
            .collect()
    }))
}

/// Returns the rules files and the manifest with the new recipient in the place of the lost one: the
/// text is kept, comments and anchors too.
fn rewritten(
    workspace: &Workspace,
    entries: &[&Entry],
    lost: &str,
    new: &str,
) -> Result<Vec<RepositoryFile>, Problem> {
    let mut found: BTreeMap<PathBuf, Arc<FoundRules>> = BTreeMap::new();
    for entry in entries {
        if let Some(rules) = workspace.rules_for(entry) {
            found.insert(rules.path.clone(), rules);
        }
    }
    let mut files = Vec::new();
    for (path, found) in &found {
        let Ok(rules) = &found.rules else { continue };
        let spelled = spellings(rules, lost);
        if spelled.is_empty() {
            continue;
        }
        let by_hand = || {
            let message = format!(
                "{}: the lost recipient is spelled in a way that is not found",
                path.display()
            );
            let help = "write it on one line, then run the command again";
            Problem::new(ErrorKind::Option(message)).with_help(help)
        };
        let base = Base::open(&found.folder).map_err(|error| {
            Problem::new(error).with_help("run as a user who may enter the folder")
        })?;
        let file = replaced(&base, RULES_FILE, &spelled, new)?.ok_or_else(by_hand)?;
        let text = String::from_utf8_lossy(file.content.as_deref().unwrap_or_default());
        let is_done = Rules::parse(&text).is_ok_and(|rules| {
            spellings(&rules, lost).is_empty() && !spellings(&rules, new).is_empty()
        });
        if !is_done {
            return Err(by_hand());
        }
        files.push(file);
    }
    if let Some(name) = workspace.manifest_path.file_name() {
        let named = workspace.manifest.recipients.iter();
        let spelled = named.filter(|named| canonical(&named.key) == lost);
        let spelled: Vec<String> = spelled.map(|named| named.key.clone()).collect();
        let name = name.to_string_lossy();
        files.extend(replaced(&workspace.repository, &name, &spelled, new)?);
    }
    Ok(files)
}

/// Returns the spellings of a recipient in the rules, the longest first.
fn spellings(rules: &Rules, recipient: &str) -> Vec<String> {
    let all = rules.all().iter().flat_map(|rule| &rule.age);
    let mut spelled: Vec<String> = all
        .filter(|key| canonical(key) == *recipient)
        .cloned()
        .collect();
    spelled.sort_by_key(|key| std::cmp::Reverse(key.len()));
    spelled.dedup();
    spelled
}

/// Returns a file with one recipient in the place of another, however that is spelled; `None` where it
/// does not hold it.
fn replaced(
    folder: &Base,
    name: &str,
    spelled: &[String],
    new: &str,
) -> Result<Option<RepositoryFile>, Problem> {
    let mut file = RepositoryFile::read(folder, name)?;
    let before = file.text()?;
    let mut text = before.clone();
    for old in spelled {
        text = with_word_replaced(&text, old, new);
    }
    let is_changed = text != before;
    file.content = Some(text.into_bytes());
    Ok(is_changed.then_some(file))
}

fn with_word_replaced(text: &str, old: &str, new: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(old) {
        let (before, behind) = (&rest[..at], &rest[at + old.len()..]);
        let is_whole = !before.ends_with(is_word) && !behind.starts_with(is_word);
        out.push_str(before);
        out.push_str(if is_whole { new } else { old });
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Notes which recipient is lost; returns what was added.
fn note(workspace: &Workspace, lost: &str, new: &str) -> Result<Replacement, Problem> {
    let state = workspace.state.as_ref().ok_or_else(|| {
        Problem::new(ErrorKind::Option("there is no state directory".to_owned()))
            .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
    })?;
    let replacement = Replacement {
        lost: lost.to_owned(),
        new: new.to_owned(),
    };
    change_notes(state, |list| list.push(replacement.clone())).map_err(apply::state_problem)?;
    Ok(replacement)
}

fn take_back_note(workspace: &Workspace, noted: &Replacement) {
    if let Some(state) = &workspace.state {
        // One too much only speaks of a recipient that no rule names.
        drop(change_notes(state, |list| list.retain(|one| one != noted)));
    }
}

fn change_notes(
    state: &StateDir,
    change: impl FnOnce(&mut Vec<Replacement>),
) -> Result<(), FsError> {
    let is_damaged = |text: &Vec<u8>| serde_json::from_slice::<Vec<Replacement>>(text).is_err();
    if state.read(LOST_FILE)?.as_ref().is_some_and(is_damaged) {
        state.set_aside(LOST_FILE)?;
    }
    state.update(LOST_FILE, |old| {
        let mut list: Vec<Replacement> = old
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        change(&mut list);
        serde_json::to_vec(&list).unwrap_or_default()
    })
}

/// Says of each entry that was encrypted for the lost key what is in it, and where its values may come
/// from.
fn view(workspace: &Workspace, entries: &[&Entry], lost: &str) -> Vec<LostEntry> {
    let own = workspace.keyring.recipients();
    let mut rows = Vec::new();
    for entry in entries {
        let Ok(Lookup::Found(encrypted)) = read_encrypted(workspace, entry) else {
            continue;
        };
        let metadata = &encrypted.sealed.metadata;
        let recipients: Vec<String> = metadata
            .age_recipients()
            .into_iter()
            .map(canonical)
            .collect();
        let is_lost =
            |key: &String| key == lost || is_one_lost(workspace, std::slice::from_ref(key));
        if !recipients.iter().any(is_lost) {
            continue;
        }
        let others = recipients.iter().filter(|key| !is_lost(key));
        let (mine, theirs): (Vec<_>, Vec<_>) = others.partition(|other| own.contains(other));
        let target = workspace.server_file(entry);
        rows.push(LostEntry {
            entry: entry.repository_path.clone(),
            target: target.display().to_string(),
            keys: key_names(encrypted.format, &encrypted.sealed),
            on_server: fs::is_file(&target),
            updatekeys: stock_updatekeys(workspace, entry),
            opens_here: !mine.is_empty(),
            others: theirs
                .into_iter()
                .map(|key| workspace.manifest.name_recipient(key))
                .collect(),
        });
    }
    rows
}
