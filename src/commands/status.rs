//! `status`: one line an entry, then counts, then what git says.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::KeyError;
use crate::os::fs;
use crate::os::git::{Branch, GitError};
use crate::os::place::{Base, Ownership};
use crate::project::drift::Verdict;
use crate::project::manifest::{Entry, Kind};
use crate::secret::SecretBytes;
use crate::ui::diff::Comparison;
use crate::ui::keys::{self, KeyRow};
use crate::ui::status::{Status, StatusRow};

use super::apply;
use super::foreign_key::{self, ForeignKey};
use super::hints::DAMAGED_GIT;
use super::lost_key;
use super::open::{Lookup, read_encrypted};
use super::sides::{compare, declared_owners, read_plain_sides, read_server, read_sides};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, in_parallel};

/// Show the state of every entry: one line each, then counts
///
/// A report: exit code 0 when it could tell, 2 when it could not.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets status            the state of every entry\n  secrets status --check    the same, exit code 1 when anything differs"
)]
pub struct StatusArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    owner: OwnerArgs,
    /// Exit with 1 when anything differs
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// A wrong manifest, or a word that names no entry.
pub fn run(args: &StatusArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, args.owner)?;
    let entries = workspace.select(&args.entries)?;
    let root = workspace.root.as_ref();
    if root.is_none() && !workspace.is_root_absent() {
        return Err(workspace.not_the_server().into());
    }
    let mut status = Status::new(workspace.root_path.display().to_string(), root.is_some());
    let mut problems = Vec::new();
    let owners = declared_owners(&entries, args.owner, &mut problems);
    let states = in_parallel(&entries, workspace.jobs, |entry| {
        let state = state_of(&workspace, root, entry, owners(entry));
        under_lost_key(&workspace, root, entry, state)
    });
    let mut foreign = Vec::new();
    for (entry, state) in entries.iter().zip(states) {
        let state = state.unwrap_or_else(|problem| {
            problems.push(problem);
            State::of("error")
        });
        status.entries.push(StatusRow {
            entry: entry.repository_path.clone(),
            target: workspace.server_file(entry).display().to_string(),
            state: state.word,
            verdict: state.verdict.map(Verdict::word),
            is_older: state.is_older,
            detail: state.detail,
            data_key: state.foreign.as_ref().and_then(ForeignKey::since_version),
            terms: state
                .foreign
                .as_ref()
                .map_or_else(Vec::new, ForeignKey::terms_in_words),
            keys: state.keys,
            uncommitted: false,
            unpushed: false,
        });
        foreign.extend(state.foreign.map(|found| (&*entry.repository_path, found)));
    }
    let found: Vec<_> = foreign.iter().map(|(name, found)| (*name, found)).collect();
    if args.entries.is_empty() {
        let found = workspace.found_on_server.iter();
        status.found_on_server = found
            .filter(|entry| entry.kind == Kind::Secret && entry.is_for(&workspace.host))
            .map(|entry| entry.server_path.clone())
            .collect();
    }
    status.next = next_commands(&workspace, &entries, &found, &status);
    status.is_half_done = warn_of_plaintext(&workspace, &entries, cx);
    if let Err(problem) = add_git(&workspace, &entries, &mut status) {
        problems.push(problem);
    }
    cx.ui.show_status(&mut status, &problems);
    let drifts = status
        .entries
        .iter()
        .any(|row| row.state != "in-sync" || !row.detail.is_empty());
    let outcome = Outcome {
        differs: args.check && drifts,
        ..Outcome::default()
    };
    Ok(outcome.with_problems(&problems))
}

/// The word for an entry that is still under a lost key.
const LOST_KEY: &str = "lost-key";

/// The state of an entry.
struct State {
    word: &'static str,
    verdict: Option<Verdict>,
    detail: String,
    foreign: Option<ForeignKey>,
    keys: Vec<KeyRow>,
    is_older: bool,
}

impl State {
    fn of(word: &'static str) -> Self {
        Self {
            word,
            verdict: None,
            detail: String::new(),
            foreign: None,
            keys: Vec::new(),
            is_older: false,
        }
    }
}

/// Returns the state of an entry and what differs.
fn state_of(
    workspace: &Workspace,
    root: Option<&Base>,
    entry: &Entry,
    owner: Ownership,
) -> Result<State, Problem> {
    let Some(root) = root else {
        // Not the server: only the repository's side can be told.
        if entry.kind == Kind::Secret {
            read_encrypted(workspace, entry)?;
        }
        return Ok(State::of("not-the-server"));
    };
    let sides = match entry.kind {
        Kind::Secret => read_sides(workspace, root, entry)?,
        Kind::Plain => read_plain_sides(workspace, root, entry)?,
    };
    let comparison = compare(
        entry,
        sides.repository.as_ref().map(SecretBytes::expose),
        sides.server.as_ref().map(|(_, content)| content.expose()),
    );
    let drift = sides.drift(workspace, root, entry);
    let mut detail = sides.attributes(workspace, root, entry, owner);
    let mut keys = Vec::new();
    let is_fine = matches!(comparison, Comparison::Same);
    let mut word = match (is_fine, detail.is_empty()) {
        (true, true) => "in-sync",
        (true, false) => "attributes",
        _ => drift.verdict.word(),
    };
    if let Comparison::Differs(differences) = &comparison {
        if differences.is_layout_only {
            word = "layout-only";
            detail.insert(0, drift.verdict.word().replace('-', " "));
        } else {
            keys = sides.keys(workspace, entry, &drift);
            detail.insert(0, keys::summary(&keys));
        }
        detail.extend(drift.remarks());
    }
    let foreign = sides.foreign_key(workspace, root, entry);
    detail.extend(foreign.iter().map(ForeignKey::in_words));
    Ok(State {
        foreign,
        word,
        verdict: Some(if is_fine {
            Verdict::InSync
        } else {
            drift.verdict
        }),
        detail: detail.join(", "),
        keys,
        is_older: drift.rollback.is_some(),
    })
}

/// Says of an entry that is still encrypted for a lost key that it is.
fn under_lost_key(
    workspace: &Workspace,
    root: Option<&Base>,
    entry: &Entry,
    state: Result<State, Problem>,
) -> Result<State, Problem> {
    if workspace.lost.is_empty() || entry.kind == Kind::Plain {
        return state;
    }
    let Ok(Lookup::Found(encrypted)) = read_encrypted(workspace, entry) else {
        return state;
    };
    let metadata = &encrypted.sealed.metadata;
    if !lost_key::names_lost(workspace, metadata) {
        return state;
    }
    let is_closed = lost_key::is_lost(workspace, metadata);
    let has_file =
        root.is_some_and(|root| matches!(read_server(workspace, root, entry), Ok(Some(_))));
    let cannot_open = |problem: &Problem| {
        let kind = &*problem.kind;
        matches!(kind, ErrorKind::Key(KeyError::NoIdentity { .. }))
    };
    let is_unopened = state.as_ref().is_err_and(cannot_open);
    let mut state = match state {
        Err(_) if is_unopened => State::of(LOST_KEY),
        other => other?,
    };
    let what = match (is_unopened, is_closed, has_file) {
        (true, true, true) => "nobody can open it; the server has the file",
        (true, true, false) => "nobody can open it, and the server has no file",
        (true, false, true) => "only others can open it; the server has the file",
        (true, false, false) => "only others can open it, and the server has no file",
        (false, ..) => "still encrypted for the lost key too",
    };
    if state.word == "in-sync" {
        state.word = LOST_KEY;
    }
    if !state.detail.is_empty() {
        state.detail.push_str(", ");
    }
    state.detail.push_str(what);
    Ok(state)
}

/// Says for each verdict which command comes next.
fn next_commands(
    workspace: &Workspace,
    entries: &[&Entry],
    foreign: &[(&str, &ForeignKey)],
    status: &Status,
) -> Vec<String> {
    use Verdict::{
        BothMoved, DeletedInRepository, MissingOnServer, NotEncryptedYet, Pinned, RepositoryAhead,
        RepositoryBehind, ServerAhead, Unknown,
    };
    let hints = &workspace.hints;
    let count = |kind: Kind, verdicts: &[Verdict]| {
        let rows = entries.iter().zip(&status.entries);
        let is_one = |row: &StatusRow| {
            let mut verdicts = verdicts.iter();
            let verdict = if row.is_older {
                Some(RepositoryBehind.word())
            } else {
                row.verdict
            };
            verdicts.any(|known| verdict == Some(known.word()))
        };
        rows.filter(|(entry, row)| entry.kind == kind && is_one(row))
            .count()
    };
    let mut next = Vec::new();
    for (kind, verdicts, what, command) in [
        (
            Kind::Secret,
            &[RepositoryAhead, MissingOnServer][..],
            "newer in the repository or missing on the server",
            "decrypt",
        ),
        (
            Kind::Secret,
            &[ServerAhead, NotEncryptedYet],
            "newer on the server or not encrypted yet",
            "encrypt",
        ),
        (Kind::Secret, &[Unknown], "of unknown direction", "adopt"),
        (Kind::Secret, &[BothMoved], "changed on both sides", "merge"),
        (
            Kind::Secret,
            &[RepositoryBehind],
            "newer on the server than this checkout, once it is brought up to date",
            "status",
        ),
        (
            Kind::Secret,
            &[Pinned],
            "pinned by `restore` until `decrypt --force` or `encrypt --force`",
            "diff",
        ),
        (
            Kind::Secret,
            &[DeletedInRepository],
            "gone from the repository",
            "encrypt -n",
        ),
        (
            Kind::Plain,
            &[RepositoryAhead, MissingOnServer],
            "plain, newer in the repository or missing on the server",
            "deploy",
        ),
        (
            Kind::Plain,
            &[
                ServerAhead,
                Unknown,
                BothMoved,
                NotEncryptedYet,
                DeletedInRepository,
                RepositoryBehind,
            ],
            "plain, changed on the server: copy into the repository what is to stay and is no secret",
            "diff",
        ),
    ] {
        let count = count(kind, verdicts);
        if count > 0 {
            next.push(format!("{count} {what}: {}", hints.ours_for_all(command)));
        }
    }
    let lost = status.entries.iter().filter(|row| row.state == LOST_KEY);
    let lost = lost.count();
    if lost > 0 {
        next.push(format!(
            "{lost} still under a lost key: put the files in place on the server, then {}",
            hints.ours_for_all("encrypt")
        ));
    }
    next.extend(foreign_key::next_commands(workspace, foreign));
    if !status.found_on_server.is_empty() {
        next.push(format!(
            "{} on the server only, matching a pattern ({}): {}",
            status.found_on_server.len(),
            status.found_on_server.join(", "),
            hints.ours_for_all("encrypt --new")
        ));
    }
    next
}

/// Warns of plaintext where it should not be: tracked by git, or left in staging files.
/// Returns whether a killed run of this user left something that its next one takes back.
fn warn_of_plaintext(workspace: &Workspace, entries: &[&Entry], cx: &mut Context) -> bool {
    let Some(root) = &workspace.root else {
        return false;
    };
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Secret) {
        let Ok(place) = root.place(entry.server_path.as_ref()) else {
            continue;
        };
        let path = place.path();
        // A checkout that cannot be read is told of by the commands that write there.
        if workspace.is_tracked(entry, &path).unwrap_or(false) {
            cx.ui.warning(&format!(
                "{}: git tracks its plaintext, {}",
                entry.repository_path,
                path.display()
            ));
        }
    }
    // What is needed to take it back is nothing to be removed by hand.
    apply::warn_of_traces(cx, workspace)
}

/// Adds what git knows: files not committed, not pushed, an upstream that is ahead.
fn add_git(workspace: &Workspace, entries: &[&Entry], status: &mut Status) -> Result<(), Problem> {
    let failed = |error: ErrorKind| {
        Problem::new(error).with_help("`git status` in the repository shows what is wrong with it")
    };
    let Some(checkout) = workspace.checkout().map_err(failed)? else {
        return Ok(());
    };
    let branch = checkout.branch().map_err(|error| failed(error.into()))?;
    for (entry, row) in entries.iter().zip(&mut status.entries) {
        if entry.kind != Kind::Secret {
            continue;
        }
        let file = workspace.repository_file(entry);
        let told = || -> Result<(bool, bool), GitError> {
            // In the folder but not in the index: the next commit would not hold it.
            let is_committed = checkout.is_committed(&file)? && checkout.is_tracked(&file)?;
            let is_pushed = match &branch {
                Branch::Following(upstream) => checkout.is_pushed(&file, upstream)?,
                _ => true,
            };
            Ok((!is_committed, !is_pushed))
        };
        if fs::is_file(&file) {
            (row.uncommitted, row.unpushed) = told().map_err(|error| {
                Problem::of(&entry.repository_path, error).with_help(DAMAGED_GIT)
            })?;
        }
    }
    match branch {
        Branch::Detached => status.push_note = Some("detached"),
        Branch::WithoutUpstream => status.push_note = Some("no-upstream"),
        Branch::Following(upstream) => {
            status.upstream_ahead = upstream.behind;
            status.upstream = Some(upstream.name);
        }
    }
    Ok(())
}
