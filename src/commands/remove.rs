//! `remove`: takes an entry out of the manifest and out of the repository.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::place::{FileState, Found, Place};
use crate::project::edit;
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind};
use crate::project::plan::{self, Action, Plan};
use crate::secret::SecretBytes;
use crate::ui::report::{Applied, Backup, Report};

use super::apply::{self, Removal};
use super::backup;
use super::drift;
use super::hints;
use super::memory;
use super::open::{leads_out, place_in_repository};
use super::repository::{IGNORE_FILE, RepositoryFile, check_rest};
use super::reversal;
use super::workspace::{Workspace, find_manifest};
use super::{Context, Outcome, OwnerArgs, StepArgs};

/// Take an entry out of the manifest, and its encrypted file out of the repository
///
/// The file on the server stays, unless `--wipe` is given: it is then removed too, once it was found
/// in git's history.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets remove shared/.env          row and encrypted file; the server keeps its file\n  secrets remove --wipe shared/.env   the server's file too, if history holds it"
)]
pub struct RemoveArgs {
    /// The entry, by repository path, path without `.enc`, or server path
    #[arg(value_name = "ENTRY")]
    entry: String,
    /// Remove the file on the server too, after it was found in git's history
    #[arg(long)]
    wipe: bool,
    #[command(flatten)]
    step: StepArgs,
}

/// A file that is to go.
struct Going {
    place: Place,
    state: FileState,
    content: SecretBytes,
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is changed then.
pub fn run(args: &RemoveArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.step.write_args())?;
    let entry = workspace.select_one(&args.entry)?;
    let _locks = apply::begin(cx, &workspace, args.step.write_args())?;
    let name = &entry.repository_path;
    let sealed = match entry.kind {
        Kind::Secret => read_sealed(&workspace, entry)?,
        Kind::Plain => None,
    };
    let plaintext = if args.wipe {
        Some(read_to_wipe(&workspace, entry)?)
    } else {
        None
    };
    let mut plan = Plan::default();
    let mut step = |path: std::path::PathBuf, detail: &str| {
        let mut step = plan::skip(name, path, detail);
        step.action = Action::Remove;
        plan.steps.push(step);
    };
    if sealed.is_some() {
        step(name.into(), "the encrypted file");
    }
    if entry.family.is_none() {
        step(workspace.manifest_path.clone(), "its row");
    }
    if plaintext.is_some() {
        step(workspace.server_file(entry), "the plaintext");
    }

    let manifest_path = find_manifest(cx)?;
    let manifest_name = manifest_path.file_name().unwrap_or_default();
    let mut manifest =
        RepositoryFile::read(&workspace.repository, &manifest_name.to_string_lossy())?;
    let text = manifest.text()?;
    // The row of a pattern stays: it stands for others too.
    if entry.family.is_none() {
        let text = edit::remove_row(&text, entry.kind, name)
            .ok_or_else(|| Problem::of(name, ErrorKind::Internal))?;
        let owner = OwnerArgs::default();
        let after = Workspace::open_text(cx, owner, manifest_path.clone(), &text, &[])?;
        check_rest(&workspace.manifest, &after.manifest, &[name])?;
        manifest.content = Some(text.into_bytes());
    }
    let mut ignore = RepositoryFile::read(&workspace.repository, IGNORE_FILE)?;
    if args.wipe {
        let ignore_text = ignore.text()?;
        let line = ignore_line(&workspace, entry);
        let line = line.and_then(|line| edit::remove_line(&ignore_text, &line));
        ignore.content = line.map(String::into_bytes);
    }

    let mut backups = Vec::new();
    let outcome = if args.step.dry_run {
        Applied::DryRun
    } else {
        let mut work = apply::Work::default();
        work.jobs.extend(manifest.job()?);
        work.jobs.extend(ignore.job()?);
        work.removals = [&sealed, &plaintext]
            .into_iter()
            .flatten()
            .map(|going| Removal {
                name,
                place: going.place.clone(),
                seen: (going.state, going.content.expose()),
            })
            .collect();
        if sealed.is_some() {
            keep_uncommitted(cx, &workspace, entry, &mut backups)?;
        }
        apply::run(cx, &workspace, &work).map_err(|failure| failure.problem)?;
        forget(cx, &workspace, entry);
        reversal::mark(cx, &workspace, "remove", &[name]);
        Applied::Done
    };
    if outcome == Applied::Done && plaintext.is_none() {
        let path = workspace.server_file(entry);
        cx.ui.status(&format!("{} stays as it is", path.display()));
    }
    if outcome == Applied::Done
        && workspace
            .checkout()
            .is_ok_and(|checkout| checkout.is_some())
    {
        cx.ui.status(&format!(
            "commit it: until then `HEAD` still has {}",
            workspace.hints.file(name)
        ));
    }
    cx.ui.report(&Report {
        command: "remove",
        plan: &plan,
        problems: &[],
        outcome,
        backups: &backups,
        recovery: None,
    });
    Ok(Outcome::default())
}

fn read_sealed(workspace: &Workspace, entry: &Entry) -> Result<Option<Going>, Problem> {
    let name = &entry.repository_path;
    let place = place_in_repository(workspace, name)?;
    match place.read(u64::MAX) {
        Found::File(state, content) => Ok(Some(Going {
            place,
            state,
            content,
        })),
        Found::Missing => Ok(None),
        _ => Err(Problem::of(
            name,
            ErrorKind::NotRegular {
                path: place.path(),
                kind: "no readable file",
            },
        )
        .with_help("look at it by hand")),
    }
}

/// Reads the file on the server, and makes sure that git's history holds its very bytes.
fn read_to_wipe(workspace: &Workspace, entry: &Entry) -> Result<Going, Error> {
    let name = &entry.repository_path;
    let root = workspace.require_root()?;
    let place = root
        .place(entry.server_path.as_ref())
        .map_err(|error| leads_out(name, error))?;
    let path = place.path().display().to_string();
    let (state, content) = match place.read(u64::MAX) {
        Found::File(state, content) => (state, content),
        Found::Missing => {
            return Err(Problem::of(name, Refusal::SourceMissing { path })
                .with_help("leave `--wipe` out: there is nothing to remove on the server")
                .into());
        }
        Found::Unreadable(source) => {
            let path = place.path();
            return Err(Problem::of(name, ErrorKind::Unreadable { path, source })
                .with_help("run as a user who may read it")
                .into());
        }
        Found::Other(kind) => {
            let path = place.path();
            return Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help("leave `--wipe` out and look at it by hand")
                .into());
        }
        Found::TooLarge(_) => {
            let (path, kind) = (place.path(), super::sides::TOO_LONG);
            return Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help("leave `--wipe` out and look at it by hand")
                .into());
        }
    };
    let kept = drift::in_history(workspace, entry, content.expose());
    match kept {
        Ok(Some(_)) => Ok(Going {
            place,
            state,
            content,
        }),
        Ok(None) => {
            let keep = if entry.kind == Kind::Secret {
                format!(
                    "{} and commit it first",
                    workspace.hints.ours("encrypt", name)
                )
            } else {
                format!(
                    "copy it to {} and commit it first",
                    workspace.hints.file(name)
                )
            };
            let help = format!(
                "{keep}; or leave `--wipe` out and remove {} by hand",
                hints::quoted(&path)
            );
            Err(Problem::of(name, Refusal::OnlyCopy { path })
                .with_help(help)
                .into())
        }
        Err(reason) => Err(Problem::of(name, ErrorKind::Option(reason))
            .with_help("leave `--wipe` out")
            .into()),
    }
}

/// Returns the line of `.gitignore` that stands for the file on the server.
fn ignore_line(workspace: &Workspace, entry: &Entry) -> Option<String> {
    let path = workspace.server_file(entry);
    let inside = path.strip_prefix(workspace.repository.path()).ok()?;
    Some(edit::ignore_line(inside.to_str()?))
}

/// Keeps the encrypted file where git does not have it.
fn keep_uncommitted(
    cx: &Context,
    workspace: &Workspace,
    entry: &Entry,
    backups: &mut Vec<Backup>,
) -> Result<(), Problem> {
    let file = workspace.repository_file(entry);
    if backup::is_committed(workspace, &file) {
        return Ok(());
    }
    let format = entry.format_for_new();
    let name = &entry.repository_path;
    let kept = backup::keep_encrypted(cx, workspace, name, &file, format, &[])?;
    backups.push(kept);
    Ok(())
}

/// Forgets the record of the file on the server.
fn forget(cx: &mut Context, workspace: &Workspace, entry: &Entry) {
    let place = workspace
        .root
        .as_ref()
        .and_then(|root| root.place(entry.server_path.as_ref()).ok());
    let (Some(place), Some(state)) = (place, &workspace.state) else {
        return;
    };
    let path = place.path();
    let Some(target) = path.to_str() else { return };
    if workspace.memory().record_of(&path).is_none() {
        return;
    }
    if let Err(error) = memory::restore(state, std::iter::once((target, None))) {
        cx.ui.warning(&format!(
            "the record of its last sync is still there: {error}"
        ));
    }
}
