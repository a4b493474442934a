//! `status`: one line an entry, then counts, then what git says.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::git::{Branch, GitError};
use crate::os::place::{Base, FileState, Ownership};
use crate::project::manifest::{Entry, Kind};
use crate::secret::SecretBytes;
use crate::ui::diff::Comparison;
use crate::ui::status::{Status, StatusRow};

use super::apply;
use super::open::{leads_out, read_encrypted};
use super::ownership;
use super::sides::{compare, declared_owners, read_file, read_sides};
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
        state_of(&workspace, root, entry, owners(entry))
    });
    for (entry, state) in entries.iter().zip(states) {
        let (state, detail) = state.unwrap_or_else(|problem| {
            problems.push(problem);
            ("unknown", String::new())
        });
        status.entries.push(StatusRow {
            entry: entry.repository_path.clone(),
            target: workspace.server_file(entry).display().to_string(),
            state,
            detail,
            uncommitted: false,
            unpushed: false,
        });
    }
    warn_of_plaintext(&workspace, &entries, cx);
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

/// Returns the state of an entry and what differs.
fn state_of(
    workspace: &Workspace,
    root: Option<&Base>,
    entry: &Entry,
    owner: Ownership,
) -> Result<(&'static str, String), Problem> {
    let Some(root) = root else {
        // Not the server: only the repository's side can be told.
        if entry.kind == Kind::Secret {
            read_encrypted(workspace, entry)?;
        }
        return Ok(("not-the-server", String::new()));
    };
    let (repository, server) = match entry.kind {
        Kind::Secret => {
            let sides = read_sides(workspace, root, entry)?;
            (sides.repository, sides.server)
        }
        Kind::Plain => (
            read_plain(&workspace.repository, &entry.repository_path, entry)?
                .map(|(_, content)| content),
            read_plain(root, &entry.server_path, entry)?,
        ),
    };
    let comparison = compare(
        entry,
        repository.as_ref().map(SecretBytes::expose),
        server.as_ref().map(|(_, content)| content.expose()),
    );
    let mut detail = server
        .as_ref()
        .map(|(state, _)| ownership::drift(state, owner, entry.mode))
        .unwrap_or_default();
    let state = match &comparison {
        Comparison::Same if !detail.is_empty() => "attributes",
        Comparison::Same => "in-sync",
        Comparison::Differs(differences) if differences.is_layout_only => "layout-only",
        Comparison::Differs(differences) => {
            detail.insert(0, differences.summary());
            "differs"
        }
        Comparison::OnlyRepository => "missing-on-server",
        Comparison::OnlyServer => "not-encrypted-yet",
        Comparison::NeitherSide => "on-neither-side",
    };
    Ok((state, detail.join(", ")))
}

/// Warns of plaintext where it should not be: tracked by git, or left in staging files.
fn warn_of_plaintext(workspace: &Workspace, entries: &[&Entry], cx: &mut Context) {
    let Some(root) = &workspace.root else {
        return;
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
    apply::warn_of_leftovers(cx, workspace);
}

fn read_plain(
    base: &Base,
    path: &str,
    entry: &Entry,
) -> Result<Option<(FileState, SecretBytes)>, Problem> {
    let place = base
        .place(path.as_ref())
        .map_err(|error| leads_out(&entry.repository_path, error))?;
    let shown = place.path();
    read_file(&place, entry, shown)
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
            (row.uncommitted, row.unpushed) = told().map_err(|error| failed(error.into()))?;
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
