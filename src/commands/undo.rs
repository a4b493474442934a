//! `undo`: takes back what the last run wrote.

use std::path::Path;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::place::{FileState, Found, Ownership, Place};
use crate::os::staging::Attributes;
use crate::project::drift::short;
use crate::project::error::Refusal;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Kind};
use crate::project::plan;
use crate::project::plan::{Action, Plan};
use crate::project::record::{Digester, Record};
use crate::secret::SecretBytes;
use crate::sops;
use crate::sops::master_key::KeyId;
use crate::sops::store::Format;
use crate::ui::report::{Applied, Backup, Report};

use super::apply::{self, Job, Mending, Removal, Work};
use super::backup;
use super::drift;
use super::hints;
use super::memory;
use super::open::{leads_out, place_in_repository, stock_command};
use super::prune;
use super::reversal::{self, Replaced, Reversal, Side};
use super::settle::{self, Activity};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, StepArgs};

/// Take back what the last run wrote
///
/// What a run replaces is kept: in git's history, or else in an encrypted backup. This puts those files
/// back as they were, and removes those that were not there. A file that was changed since is refused, and so is a
/// run of `add`, `mv` or `remove`, whose changes of the repository git takes back. Exit code 1 when there is nothing to undo.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets undo             take back what the last run wrote\n  secrets undo --list      say which runs can be undone"
)]
pub struct UndoArgs {
    /// Only these entries of the run, by repository path, path without `.enc`, or server path [default:
    /// all]
    pub entries: Vec<String>,
    #[command(flatten)]
    step: StepArgs,
    /// List the runs that can be undone, newest first, and change nothing
    #[arg(long)]
    list: bool,
    /// Remove the backups whose content is on a side of an entry or in git's history; all others stay
    #[arg(long, conflicts_with_all = ["list", "entries"])]
    prune: bool,
    /// Take the newest run off the list without undoing it: its files were changed since, and an older
    /// run is to be undone
    #[arg(long, conflicts_with_all = ["list", "entries", "prune", "dry_run"])]
    forget: bool,
}

/// A file to take back.
struct Return<'r> {
    replaced: &'r Replaced,
    place: Place,
    old: Old,
    /// `None` where the file is gone meanwhile: nothing can be lost by bringing it back.
    seen: Option<(FileState, SecretBytes)>,
}

impl Return<'_> {
    fn seen_file(&self) -> Option<(&Place, &FileState)> {
        let (state, _) = self.seen.as_ref()?;
        Some((&self.place, state))
    }
}

/// What a file was before.
enum Old {
    /// The same, with other owner, group or mode.
    Attributes,
    /// Another content.
    Content(SecretBytes),
    /// Not there.
    Missing,
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is changed then.
pub fn run(args: &UndoArgs, cx: &mut Context) -> Result<Outcome, Error> {
    if args.list {
        let workspace = Workspace::open(cx, OwnerArgs::default())?;
        return show_list(cx, &workspace);
    }
    let workspace = Workspace::open_to_write(cx, args.step.write_args())?;
    if args.prune {
        return prune::run(cx, &workspace, args.step);
    }
    let _locks = apply::begin(cx, &workspace, args.step.write_args())?;
    let mut list = reversal::list(&workspace).map_err(apply::state_problem)?;
    let (Some(last), Some(state)) = (list.pop(), &workspace.state) else {
        cx.ui.report(&Report {
            command: "undo",
            plan: &Plan::default(),
            problems: &[],
            outcome: Applied::Nothing,
            backups: &[],
            recovery: None,
        });
        cx.ui
            .status("nothing to undo: no run is listed that wrote something");
        return Ok(Outcome {
            differs: true,
            ..Outcome::default()
        });
    };
    if args.forget {
        reversal::forget(state, &last).map_err(apply::state_problem)?;
        cx.ui.status(&format!(
            "`{}` of {} is off the list; its backups stay",
            last.command, last.time
        ));
        return show_list(cx, &workspace);
    }
    if last.files.is_empty() {
        return Err(not_undone(&workspace, last).into());
    }
    let key = state.make_key().map_err(apply::state_problem)?;
    let digester = Digester::new(key);
    let (chosen, rest) = choose(&workspace, &last, &args.entries)?;
    let mut problems = Vec::new();
    let mut returns = Vec::new();
    for file in &chosen {
        match prepare(&workspace, file, &digester) {
            Ok(Some(one)) => returns.push(one),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    let files: Vec<_> = returns.iter().map(Return::seen_file).collect();
    for (one, found) in returns.iter().zip(settle::watch(&files)) {
        if found == Activity::Moving {
            let path = one.replaced.target.clone();
            let refusal = Refusal::BeingWritten { path };
            problems.push(
                Problem::of(&one.replaced.entry, refusal)
                    .with_help("run the command again when whatever writes it has ended"),
            );
        }
    }
    let mut plan = Plan::default();
    for one in &returns {
        let mut step = plan::skip(&one.replaced.entry, one.place.path(), "");
        step.action = match (&one.old, &one.seen) {
            (Old::Missing, _) => Action::Remove,
            (Old::Attributes, _) => Action::Mend,
            (Old::Content(_), None) => Action::Create,
            (Old::Content(_), Some(_)) => Action::Replace,
        };
        step.detail = format!("as it was before `{}` at {}", last.command, last.time);
        plan.steps.push(step);
    }
    let mut backups = Vec::new();
    let outcome = if args.step.dry_run {
        Applied::DryRun
    } else if problems.is_empty() {
        keep_backups(cx, &workspace, &returns, &mut backups)?;
        write(cx, &workspace, &returns)?;
        close(cx, &workspace, &last, &chosen, &rest);
        Applied::Done
    } else {
        Applied::Nothing
    };
    cx.ui.report(&Report {
        command: "undo",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
        recovery: None,
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Returns the problem of a run that git takes back.
fn not_undone(workspace: &Workspace, last: Reversal) -> Problem {
    let Reversal { command, time, .. } = last;
    let status = workspace.hints.git("status");
    let forget = workspace.hints.ours_for_all("undo --forget");
    Problem::new(Refusal::NotUndone { command, time }).with_help(format!(
        "{status} shows what it changed in the repository, which git takes back; {forget} goes on to the run before"
    ))
}

/// Splits the files of a run into those to bring back now, and the rest.
fn choose(
    workspace: &Workspace,
    run: &Reversal,
    words: &[String],
) -> Result<(Vec<Replaced>, Vec<Replaced>), Problem> {
    let is_named = |file: &Replaced, word: &String| {
        let entry = workspace.entry_named(&file.entry);
        file.entry == *word
            || file.entry.strip_suffix(ENCRYPTED_SUFFIX) == Some(word)
            || entry.is_some_and(|entry| entry.server_path == *word)
    };
    for word in words {
        if !run.files.iter().any(|file| is_named(file, word)) {
            let names: Vec<_> = run.files.iter().map(|file| file.entry.as_str()).collect();
            let message = format!("the last run replaced nothing of `{word}`");
            return Err(Problem::new(ErrorKind::Option(message))
                .with_help(format!("it replaced: {}", names.join(", "))));
        }
    }
    let files = run.files.iter().cloned();
    Ok(files.partition(|file| words.is_empty() || words.iter().any(|word| is_named(file, word))))
}

fn show_list(cx: &mut Context, workspace: &Workspace) -> Result<Outcome, Error> {
    let list = reversal::list(workspace).map_err(apply::state_problem)?;
    cx.ui.show_reversals(
        &list
            .iter()
            .rev()
            .map(|run| crate::ui::status::ReversalRow {
                time: run.time.clone(),
                command: run.command.clone(),
                entries: {
                    let files = run.files.iter().map(|file| &file.entry);
                    let mut entries: Vec<_> = files.chain(&run.entries).cloned().collect();
                    entries.dedup();
                    entries
                },
            })
            .collect::<Vec<_>>(),
    );
    Ok(Outcome::default())
}

/// Finds the old content of a file and makes sure that what the run wrote is still there. `None` where
/// the old state is in place already: the run was killed before it, or somebody brought it back.
fn prepare<'r>(
    workspace: &Workspace,
    file: &'r Replaced,
    digester: &Digester,
) -> Result<Option<Return<'r>>, Problem> {
    let name = &file.entry;
    let old = old_state(workspace, file)?;
    let gone = || changed_since(workspace, file);
    // Through root and repository as any other run, so that no link on the way leads elsewhere.
    let place = match file.side {
        Side::Server => {
            let root = workspace.require_root().map_err(|_| gone())?;
            let inside = Path::new(&file.target).strip_prefix(root.path());
            let inside = inside.map_err(|_| gone())?;
            root.place(inside).map_err(|error| leads_out(name, error))?
        }
        Side::Repository => place_in_repository(workspace, name)?,
    };
    if place.path() != Path::new(&file.target) {
        return Err(gone());
    }
    if let (Side::Server, Some(entry)) = (file.side, workspace.entry_named(name)) {
        workspace.check_target(entry, &place)?;
    }
    let found = place.read(u64::MAX);
    let seen = match (&old, found) {
        (Old::Missing, Found::Missing) => return Ok(None),
        (Old::Content(content), Found::File(_, now)) if now == *content => return Ok(None),
        (Old::Content(_), Found::Missing) => None,
        (_, Found::File(state, now)) if digester.content(now.expose()) == file.written => {
            Some((state, now))
        }
        _ => return Err(gone()),
    };
    Ok(Some(Return {
        replaced: file,
        place,
        old,
        seen,
    }))
}

/// Finds what a file was before: in its backup, in the commit that holds it, or nothing.
fn old_state(workspace: &Workspace, file: &Replaced) -> Result<Old, Problem> {
    let name = &file.entry;
    if file.is_mended {
        return Ok(Old::Attributes);
    }
    let forget = workspace.hints.ours_for_all("undo --forget");
    let bytes = match &file.commit {
        Some(commit) => {
            let checkout = workspace.checkout().unwrap_or(None);
            let path = workspace.repository.path().join(name);
            let version = checkout.and_then(|checkout| checkout.version_at(&path, commit).ok());
            let content = version.and_then(|(_, content)| content);
            content.ok_or_else(|| {
                let message = format!("commit {} of the old content is not here", short(commit));
                Problem::of(name, ErrorKind::Option(message))
                    .with_help(format!("run it in the clone that the run was made in, or fetch the commit; {forget} goes on to the run before"))
            })?
        }
        None if file.backup.is_empty() => return Ok(Old::Missing),
        None => fs::read_regular(&file.backup_path(workspace)).map_err(|source| {
            let path = file.backup_path(workspace);
            Problem::of(name, ErrorKind::Unreadable { path, source })
                .with_help(format!("the backup is gone: look for the content in git's history; {forget} goes on to the run before"))
        })?,
    };
    let is_plain = workspace
        .entry_named(name)
        .is_some_and(|entry| entry.kind == Kind::Plain);
    Ok(Old::Content(match file.side {
        Side::Repository => SecretBytes::new(bytes),
        Side::Server if is_plain && file.commit.is_some() => SecretBytes::new(bytes),
        Side::Server => open_backup(workspace, name, bytes)?,
    }))
}

/// Returns the problem that a file is not what the run wrote any more, with the way by hand.
fn changed_since(workspace: &Workspace, file: &Replaced) -> Problem {
    let (name, path) = (&file.entry, file.target.clone());
    let target = hints::quoted(&file.target);
    let help = match (file.side, file.backup.is_empty()) {
        (_, true) => format!(
            "what is there now would be lost; {} shows the versions that git has",
            workspace.hints.ours("history", name)
        ),
        (Side::Server, false) => {
            let (_, recipients) =
                form_of(&fs::read_regular(&file.backup_path(workspace)).unwrap_or_default());
            let backup = hints::quoted(&file.backup_path(workspace).to_string_lossy());
            let command = stock_command(workspace, Format::Binary, &recipients, &backup);
            format!(
                "what is there now would be lost; put the old content there by hand where it is meant: `{command} > {target}`"
            )
        }
        (Side::Repository, false) => format!(
            "copy the old file there by hand: `cp {} {target}`",
            hints::quoted(&file.backup_path(workspace).to_string_lossy())
        ),
    };
    Problem::of(name, Refusal::ChangedSince { path }).with_help(help)
}

fn open_backup(workspace: &Workspace, name: &str, bytes: Vec<u8>) -> Result<SecretBytes, Problem> {
    let damaged = |error| {
        Problem::of(name, ErrorKind::Document(error))
            .with_help("the backup is damaged; look for the content in git's history")
    };
    let (format, sealed) = sops::parse_sealed(bytes).map_err(damaged)?;
    let key = workspace
        .keyring
        .unwrap(&sealed.metadata)
        .map_err(|error| {
            Problem::of(name, error)
                .with_help("name an identity of the entry's recipients with `-i FILE`")
        })?;
    let opened = sops::open(format, &sealed, &key).map_err(damaged)?;
    Ok(opened.plaintext)
}

/// Keeps what is about to be replaced: it may be nowhere else by now. An encrypted file that is
/// committed is kept by git.
fn keep_backups(
    cx: &Context,
    workspace: &Workspace,
    returns: &[Return<'_>],
    backups: &mut Vec<Backup>,
) -> Result<(), Problem> {
    for one in returns {
        let name = &one.replaced.entry;
        let (Some((state, now)), false) = (&one.seen, matches!(one.old, Old::Attributes)) else {
            continue;
        };
        let kept = match one.replaced.side {
            Side::Repository => {
                let file = one.place.path();
                if backup::is_committed(workspace, &file) {
                    continue;
                }
                let (format, recipients) = form_of(now.expose());
                backup::keep_encrypted(cx, workspace, name, &file, format, &recipients)?
            }
            Side::Server => {
                let entry = workspace.entry_named(name);
                let is_kept = |entry| {
                    matches!(
                        drift::in_history(workspace, entry, now.expose()),
                        Ok(Some(_))
                    )
                };
                if entry.is_some_and(is_kept) {
                    continue;
                }
                let old = fs::read_regular(&one.replaced.backup_path(workspace));
                // Without a backup of its own, for those who read the entry.
                let old =
                    old.or_else(|_| fs::read_regular(&workspace.repository.path().join(name)));
                let (_, recipients) = form_of(&old.unwrap_or_default());
                let label = one.place.path().display().to_string();
                backup::keep_plaintext(cx, workspace, name, &label, &one.place, state, &recipients)?
            }
        };
        backups.push(kept);
    }
    Ok(())
}

/// Returns the stored form of an encrypted file, and who can read it.
fn form_of(bytes: &[u8]) -> (Format, Vec<KeyId>) {
    sops::parse_sealed(bytes.to_vec()).map_or_else(
        |_| (Format::Binary, Vec::new()),
        |(format, sealed)| (format, sealed.metadata.key_ids()),
    )
}

fn write(cx: &mut Context, workspace: &Workspace, returns: &[Return<'_>]) -> Result<(), Error> {
    let mut work = Work::default();
    for one in returns {
        let name = one.replaced.entry.as_str();
        let owner = Ownership {
            uid: Some(one.replaced.uid),
            gid: Some(one.replaced.gid),
        };
        let seen = one.seen.as_ref();
        let seen = seen.map(|(state, now)| (*state, now.expose()));
        match (&one.old, seen) {
            (Old::Missing, Some(seen)) => work.removals.push(Removal {
                name,
                place: one.place.clone(),
                seen,
            }),
            (Old::Attributes, Some((seen, _))) => work.mendings.push(Mending {
                name,
                place: one.place.clone(),
                seen,
                owner,
                mode: one.replaced.mode_now(),
            }),
            (Old::Content(content), seen) => work.jobs.push(Job {
                name,
                place: one.place.clone(),
                content: content.expose(),
                attributes: Attributes {
                    owner,
                    mode: one.replaced.mode_now(),
                    keep_access_list: true,
                },
                folder_owner: owner,
                seen,
                in_place: workspace.is_written_in_place(name) && one.replaced.side == Side::Server,
            }),
            (Old::Missing | Old::Attributes, None) => {}
        }
    }
    apply::run(cx, workspace, &work).map_err(|failure| failure.problem.into())
}

/// Returns the record as it was before a run. What the user agreed to of the repository's file since stays, unless that is
/// the old one again.
fn record_of(workspace: &Workspace, file: &Replaced) -> Option<Record> {
    let mut record = file.record.clone()?;
    let known = workspace.memory().record_of(Path::new(&file.record_target));
    if let (Some(known), Side::Server) = (known, file.side) {
        record.data_key.clone_from(&known.data_key);
        record.terms.clone_from(&known.terms);
    }
    Some(record)
}

/// Brings back the records too, and takes the run off the list.
fn close(
    cx: &mut Context,
    workspace: &Workspace,
    run: &Reversal,
    undone: &[Replaced],
    rest: &[Replaced],
) {
    let Some(state) = &workspace.state else {
        return;
    };
    let records = undone
        .iter()
        .map(|file| (file.record_target.as_str(), record_of(workspace, file)));
    let settled = memory::restore(state, records).and_then(|()| reversal::keep(state, run, rest));
    if let Err(error) = settled {
        cx.ui.warning(&format!(
            "the list of what can be undone is not up to date: {error}"
        ));
    }
}
