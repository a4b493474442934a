//! `undo`: brings back what the last forced run replaced.

use std::path::Path;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::place::{FileState, Found, Ownership, Place};
use crate::os::staging::Attributes;
use crate::project::error::Refusal;
use crate::project::manifest::ENCRYPTED_SUFFIX;
use crate::project::plan;
use crate::project::plan::{Action, Plan};
use crate::project::record::Digester;
use crate::secret::SecretBytes;
use crate::sops;
use crate::sops::store::Format;
use crate::ui::report::{Applied, Backup, Report};

use super::apply::{self, Job, Work};
use super::backup;
use super::memory;
use super::hints;
use super::open::{leads_out, place_in_repository, stock_command};
use super::reversal::{self, Replaced, Reversal, Side};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, StepArgs};

/// Bring back what the last forced run replaced
///
/// Every `--force` keeps an encrypted backup of what it replaces; this puts those files back where
/// they were. A file that was changed since is refused. Exit code 1 when there is nothing to undo.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets undo             bring back what the last forced run replaced\n  secrets undo --list      say which runs can be undone"
)]
pub struct UndoArgs {
    /// Only these entries of the run, by repository path [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    step: StepArgs,
    /// List the runs that can be undone, newest first, and change nothing
    #[arg(long)]
    list: bool,
}

/// A file to bring back.
struct Return<'r> {
    replaced: &'r Replaced,
    place: Place,
    content: SecretBytes,
    /// `None` where the file is gone meanwhile: nothing can be lost by bringing it back.
    seen: Option<(FileState, SecretBytes)>,
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is changed then.
pub fn run(args: &UndoArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    if args.list {
        return show_list(cx, &workspace);
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
        });
        cx.ui
            .status("nothing to undo: no forced run left something to bring back");
        return Ok(Outcome {
            differs: true,
            ..Outcome::default()
        });
    };
    let key = state.make_key().map_err(apply::state_problem)?;
    let digester = Digester::new(key);
    let (chosen, rest) = choose(&last, &args.entries)?;
    let mut problems = Vec::new();
    let mut returns = Vec::new();
    for file in &chosen {
        match prepare(&workspace, file, &digester) {
            Ok(Some(one)) => returns.push(one),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    let mut plan = Plan::default();
    for one in &returns {
        let mut step = plan::skip(&one.replaced.entry, one.place.path(), "");
        step.action = Action::Replace;
        step.detail = format!("as it was before `{}` at {}", last.command, last.time);
        plan.steps.push(step);
    }
    let mut backups = Vec::new();
    let outcome = if args.step.dry_run {
        Applied::DryRun
    } else if problems.is_empty() {
        keep_backups(cx, &workspace, &returns, &mut backups)?;
        write(cx, &workspace, &returns)?;
        settle(cx, &workspace, &last, &chosen, rest);
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
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Splits the files of a run into those to bring back now, and the rest.
fn choose(run: &Reversal, words: &[String]) -> Result<(Vec<Replaced>, Vec<Replaced>), Problem> {
    let is_named = |file: &Replaced, word: &String| {
        file.entry == *word || file.entry.strip_suffix(ENCRYPTED_SUFFIX) == Some(word)
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
                entries: run.files.iter().map(|file| file.entry.clone()).collect(),
            })
            .collect::<Vec<_>>(),
    );
    Ok(Outcome::default())
}

/// Opens the backup of a file and makes sure that what the run wrote is still there. `None` where the
/// old content is in place already: the run was killed before it, or somebody brought it back.
fn prepare<'r>(
    workspace: &Workspace,
    file: &'r Replaced,
    digester: &Digester,
) -> Result<Option<Return<'r>>, Problem> {
    let name = &file.entry;
    let backup = Path::new(&file.backup);
    let (_, recipients) = form_of(&fs::read_regular(backup).unwrap_or_default());
    let command = stock_command(
        workspace,
        Format::Binary,
        &recipients,
        &hints::quoted(&file.backup),
    );
    let bytes = fs::read_regular(backup).map_err(|source| {
        Problem::of(
            name,
            ErrorKind::Unreadable {
                path: backup.to_owned(),
                source,
            },
        )
        .with_help("the backup is gone; look for the content in git's history")
    })?;
    let content = match file.side {
        Side::Repository => SecretBytes::new(bytes),
        Side::Server => open_backup(workspace, name, bytes)?,
    };
    let gone = || {
        let path = file.target.clone();
        let help = match file.side {
            Side::Server => format!(
                "what is there now would be lost; put the old content there by hand where it is meant: `{command} > {}`",
                hints::quoted(&file.target)
            ),
            Side::Repository => format!(
                "copy the old file there by hand: `cp {} {}`",
                hints::quoted(&file.backup),
                hints::quoted(&file.target)
            ),
        };
        Problem::of(name, Refusal::ChangedSince { path }).with_help(help)
    };
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
    match place.read(u64::MAX) {
        Found::File(_, now) if now == content => Ok(None),
        Found::File(state, now) if digester.content(now.expose()) == file.written => {
            Ok(Some(Return {
                replaced: file,
                place,
                content,
                seen: Some((state, now)),
            }))
        }
        Found::Missing => Ok(Some(Return {
            replaced: file,
            place,
            content,
            seen: None,
        })),
        _ => Err(gone()),
    }
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
        let Some((state, now)) = &one.seen else {
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
                let old = fs::read_regular(Path::new(&one.replaced.backup)).unwrap_or_default();
                let (_, recipients) = form_of(&old);
                let label = one.place.path().display().to_string();
                backup::keep_plaintext(cx, workspace, name, &label, &one.place, state, &recipients)?
            }
        };
        backups.push(kept);
    }
    Ok(())
}

/// Returns the stored form of an encrypted file, and who can read it.
fn form_of(bytes: &[u8]) -> (Format, Vec<String>) {
    sops::parse_sealed(bytes.to_vec()).map_or_else(
        |_| (Format::Binary, Vec::new()),
        |(format, sealed)| {
            let recipients = sealed.metadata.age_recipients().into_iter();
            (format, recipients.map(str::to_owned).collect())
        },
    )
}

fn write(cx: &mut Context, workspace: &Workspace, returns: &[Return<'_>]) -> Result<(), Error> {
    let mut work = Work::default();
    for one in returns {
        let owner = Ownership {
            uid: Some(one.replaced.uid),
            gid: Some(one.replaced.gid),
        };
        work.jobs.push(Job {
            name: &one.replaced.entry,
            place: one.place.clone(),
            content: one.content.expose(),
            attributes: Attributes {
                owner,
                mode: one.replaced.mode,
                keep_access_list: true,
            },
            folder_owner: owner,
            seen: one.seen.as_ref().map(|(state, now)| (*state, now.expose())),
            in_place: workspace.is_written_in_place(&one.replaced.entry)
                && one.replaced.side == Side::Server,
        });
    }
    apply::run(cx, workspace, &work).map_err(|failure| failure.problem.into())
}

/// Brings back the records too, and takes the run off the list.
fn settle(
    cx: &mut Context,
    workspace: &Workspace,
    run: &Reversal,
    undone: &[Replaced],
    rest: Vec<Replaced>,
) {
    let Some(state) = &workspace.state else {
        return;
    };
    let records = undone
        .iter()
        .map(|file| (file.record_target.as_str(), file.record.clone()));
    let settled = memory::restore(state, records).and_then(|()| reversal::keep(state, run, rest));
    if let Err(error) = settled {
        cx.ui.warning(&format!(
            "the list of what can be undone is not up to date: {error}"
        ));
    }
}
