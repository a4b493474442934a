//! `recover --new-key`: the key is truly lost. A new one takes its place in the rules, and what is
//! lost with the old one is named.
//!
//! The recipient that was lost and the one in its place are noted in the state directory: that is the
//! user's own word that `encrypt` may write the files anew without opening them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age::{self, canonical};
use crate::os::fs;
use crate::os::place::Base;
use crate::os::state::StateDir;
use crate::project::manifest::{Entry, Kind};
use crate::rules::Rules;
use crate::sops::metadata::Metadata;
use crate::ui::lost::{LostEntry, LostView};

use super::apply::{self, Work};
use super::govern::govern;
use super::open::{Lookup, read_encrypted};
use super::origin::key_names;
use super::recover::Installation;
use super::repository::RepositoryFile;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs};

/// The name of the note in the state directory.
const LOST_FILE: &str = "lost.json";

/// What is asked for.
pub struct Request<'a> {
    /// Which recipient is lost, by name or in full.
    pub lost: Option<&'a str>,
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
pub fn is_only_replaced(workspace: &Workspace, metadata: &Metadata, wanted: &[String]) -> bool {
    let have: BTreeSet<String> = metadata
        .age_recipients()
        .into_iter()
        .map(canonical)
        .collect();
    let want: BTreeSet<String> = wanted.iter().map(|key| canonical(key)).collect();
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
    let key = age::generate(
        request.is_hybrid || lost.starts_with("age1pq"),
        &cx.env.now(),
    );
    let files = rewritten(workspace, &entries, &lost, &key.recipient)?;
    let view = view(workspace, &entries, &lost);
    for problem in problems {
        cx.ui.problems(std::slice::from_ref(problem));
    }
    if !problems.is_empty() {
        return Ok(Outcome::default().with_problems(problems));
    }
    let _locks = apply::begin(cx, workspace, request.write)?;
    if !request.write.dry_run {
        // First the note and the key: rules that name a key nobody has would be worse than a key that
        // no rule names.
        note(workspace, &lost, &key.recipient)?;
        installation.content = Some(key.file);
        installation.install(&cx.env.now())?;
        let mut work = Work::default();
        for file in &files {
            work.jobs.extend(file.job()?);
        }
        apply::run(cx, workspace, &work).map_err(|failure| failure.problem)?;
    }
    cx.ui.show_lost(&LostView {
        lost: workspace.manifest.name_recipient(&lost),
        recipient: if request.write.dry_run {
            String::new()
        } else {
            key.recipient
        },
        identity: installation.path.display().to_string(),
        old_identity: installation
            .old
            .as_ref()
            .map(|old| old.display().to_string()),
        changed: files.iter().map(|file| file.name.clone()).collect(),
        entries: view,
        dry_run: request.write.dry_run,
        encrypt: workspace.hints.ours_for_all("encrypt"),
    });
    Ok(Outcome::default())
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
            "identities at hand open every entry of this host: no key is lost".to_owned(),
        ))
        .with_help("to lose one on purpose, name it: `--lost RECIPIENT`")),
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
    let recipients = governing.map(|governing| governing.recipients);
    Ok(recipients.map(|keys| keys.iter().map(|key| canonical(key)).collect()))
}

/// Returns the rules files and the manifest with the new recipient in the place of the lost one: the
/// text is kept, comments and anchors too.
fn rewritten(
    workspace: &Workspace,
    entries: &[&Entry],
    lost: &str,
    new: &str,
) -> Result<Vec<RepositoryFile>, Problem> {
    let paths: BTreeSet<PathBuf> = entries
        .iter()
        .filter_map(|entry| Some(workspace.rules_for(entry)?.path.clone()))
        .collect();
    let top = workspace.repository.path();
    let mut files = Vec::new();
    for path in &paths {
        let Ok(name) = path.strip_prefix(top) else {
            let message = format!("{}: it lies above the manifest's folder", path.display());
            return Err(Problem::new(ErrorKind::Option(message))
                .with_help(format!("put {new} there by hand for the lost recipient")));
        };
        files.extend(replaced(&workspace.repository, name, lost, new)?);
    }
    if let Some(file) = files.iter().find(|file| !is_sound(file, new)) {
        let message = format!(
            "{}: the lost recipient is spelled in a way that is not found",
            file.name
        );
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("replace it by hand, then make a key with `secrets keygen -o FILE`"));
    }
    if let Ok(name) = workspace.manifest_path.strip_prefix(top) {
        files.extend(replaced(&workspace.repository, name, lost, new)?);
    }
    Ok(files)
}

/// Returns a file with one recipient in the place of another; `None` where it does not hold the lost
/// one.
fn replaced(
    repository: &Base,
    name: &Path,
    lost: &str,
    new: &str,
) -> Result<Option<RepositoryFile>, Problem> {
    let mut file = RepositoryFile::read(repository, &name.to_string_lossy())?;
    let text = file.text()?;
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    let mut count = 0;
    while let Some(at) = rest.find(lost) {
        let (before, behind) = (&rest[..at], &rest[at + lost.len()..]);
        let is_whole = !before.ends_with(is_word) && !behind.starts_with(is_word);
        out.push_str(before);
        out.push_str(if is_whole { new } else { lost });
        count += usize::from(is_whole);
        rest = behind;
    }
    out.push_str(rest);
    file.content = Some(out.into_bytes());
    Ok((count > 0).then_some(file))
}

/// Returns whether the rules of a rewritten file can be read and name the new recipient.
fn is_sound(file: &RepositoryFile, new: &str) -> bool {
    let text = file.content.as_deref().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    Rules::parse(&text).is_ok() && text.contains(new)
}

fn note(workspace: &Workspace, lost: &str, new: &str) -> Result<(), Problem> {
    let state = workspace.state.as_ref().ok_or_else(|| {
        Problem::new(ErrorKind::Option("there is no state directory".to_owned()))
            .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
    })?;
    let replacement = Replacement {
        lost: lost.to_owned(),
        new: new.to_owned(),
    };
    state
        .update(LOST_FILE, |old| {
            let mut list: Vec<Replacement> = old
                .and_then(|text| serde_json::from_slice(&text).ok())
                .unwrap_or_default();
            list.push(replacement);
            serde_json::to_vec(&list).unwrap_or_default()
        })
        .map_err(apply::state_problem)
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
        if !recipients.iter().any(|recipient| recipient == lost) {
            continue;
        }
        let others = recipients.iter().filter(|recipient| *recipient != lost);
        let (mine, theirs): (Vec<_>, Vec<_>) = others.partition(|other| own.contains(other));
        let target = workspace.server_file(entry);
        rows.push(LostEntry {
            entry: entry.repository_path.clone(),
            target: target.display().to_string(),
            keys: key_names(encrypted.format, &encrypted.sealed),
            on_server: fs::is_file(&target),
            opens_here: !mine.is_empty(),
            others: theirs
                .into_iter()
                .map(|key| workspace.manifest.name_recipient(key))
                .collect(),
        });
    }
    rows
}
