//! `status`: one line an entry, then counts, then what git says.

use clap::Args;

use crate::error::{Error, Problem};
use crate::os::fs::{Base, FileState, Found};
use crate::project::manifest::{Entry, Kind};
use crate::secret::SecretBytes;
use crate::ui::diff::Comparison;
use crate::ui::status::{Status, StatusRow};

use super::diff::{compare, read_sides, resolve_known_owners};
use super::open::read_encrypted;
use super::workspace::{Workspace, attribute_drift};
use super::{Context, Outcome, in_parallel};

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
    /// Exit with 1 when anything differs
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// A wrong manifest, or a word that names no entry.
pub fn run(args: &StatusArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx)?;
    let entries = workspace.select(&args.entries)?;
    let root = workspace.root.as_ref();
    let mut status = Status::new(workspace.root_path.display().to_string(), root.is_some());
    let mut problems = Vec::new();
    let owners = resolve_known_owners(&workspace, &entries);
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
    if let Err(problem) = add_git(&workspace, &entries, &mut status) {
        problems.push(problem);
    }
    cx.ui.show_status(&mut status, &problems);
    let drifts = status
        .entries
        .iter()
        .any(|row| !matches!(row.state, "in-sync" | "on-neither-side") || !row.detail.is_empty());
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
    owner: crate::os::fs::Ownership,
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
    let is_env = entry.kind == Kind::Secret && entry.is_env();
    let comparison = compare(
        repository.as_ref().map(SecretBytes::expose),
        server.as_ref().map(|(_, content)| content.expose()),
        is_env,
    );
    let mut detail = server
        .as_ref()
        .map(|(state, _)| attribute_drift(state, owner, entry.mode))
        .unwrap_or_default();
    let state = match &comparison {
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

fn read_plain(
    base: &Base,
    path: &str,
    entry: &Entry,
) -> Result<Option<(FileState, SecretBytes)>, Problem> {
    let name = &entry.repository_path;
    let place = base
        .place(path.as_ref())
        .map_err(|error| Problem::of(name, error))?;
    match place.read(u64::MAX) {
        Found::File(state, content) => Ok(Some((state, content))),
        Found::Missing => Ok(None),
        Found::Other(kind) => Err(Problem::of(
            name,
            crate::project::error::Refusal::NotRegular { kind },
        )),
        Found::TooLarge(bytes) => Err(Problem::of(
            name,
            crate::project::error::Refusal::TooLarge {
                bytes,
                limit: u64::MAX,
            },
        )),
        Found::Unreadable(source) => Err(Problem::of(
            name,
            crate::error::ErrorKind::Unreadable {
                path: place.path(),
                source,
            },
        )),
    }
}

/// Adds what git knows: files not committed, not pushed, an upstream that is ahead.
fn add_git(workspace: &Workspace, entries: &[&Entry], status: &mut Status) -> Result<(), Problem> {
    let Some(checkout) = workspace.checkout().map_err(Problem::new)? else {
        return Ok(());
    };
    let upstream = checkout.upstream().map_err(Problem::new)?;
    for (entry, row) in entries.iter().zip(&mut status.entries) {
        if entry.kind != Kind::Secret {
            continue;
        }
        let file = workspace.repository_file(entry);
        if crate::os::fs::exists(&file) {
            row.uncommitted = !checkout.is_committed(&file).map_err(Problem::new)?;
        }
        if let Some(upstream) = &upstream {
            row.unpushed = !checkout.is_pushed(&file, upstream).map_err(Problem::new)?;
        }
    }
    if let Some(upstream) = upstream {
        status.upstream_ahead = upstream.behind;
        status.upstream = Some(upstream.name);
    }
    Ok(())
}
