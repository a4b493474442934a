//! `adopt`: decides for entries that differ with nothing to tell which side is newer.

use std::path::Path;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs::{self, FsError};
use crate::os::place::{Base, FileState, Found};
use crate::project::diff::{self, Differences};
use crate::project::drift::Verdict;
use crate::project::error::Refusal;
use crate::project::manifest::Entry;
use crate::project::plan::{DecryptOptions, Plan};
use crate::ui::prompt::{self, Choice};
use crate::ui::report::{Applied, Report};

use super::apply;
use super::both;
use super::capture::{self, CaptureOptions, GuardArgs};
use super::delivering;
use super::gather::gather;
use super::open::leads_out;
use super::ownership::{self, Purpose};
use super::placing::{self, PlacingOptions};
use super::settle;
use super::sides::{Sides, in_words, read_sides};
use super::storing;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Decide which side to take where nothing tells which one is newer
///
/// For entries that differ without a record of a last sync and without a trace in git's history: as
/// after a move from a Makefile. Shows for each which keys differ and when each side was changed, and
/// asks which one to take. What is replaced is kept as an encrypted backup; `undo` brings it back.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets adopt                       ask for every entry of unknown direction\n  secrets adopt --server shared/.env  take the server's version of one, without a question"
)]
pub struct AdoptArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Take the server's version of all of them
    #[arg(long, conflicts_with = "repository")]
    server: bool,
    /// Take the repository's version of all of them
    #[arg(long)]
    repository: bool,
    #[command(flatten)]
    allowed: GuardArgs,
}

/// What was decided for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Repository,
    Server,
    Skip,
}

/// An entry of unknown direction.
struct Open<'w> {
    entry: &'w Entry,
    differences: Differences,
    note: Option<String>,
    dates: String,
    server: Option<FileState>,
    repository: Option<Vec<u8>>,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &AdoptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.write)?;
    let entries = workspace.select_secret(&args.entries)?;
    let root = workspace.require_root()?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    let mut problems = Vec::new();
    let found = find_open(&workspace, root, &entries, &mut problems);
    if found.is_empty() && problems.is_empty() {
        cx.ui.status(&format!(
            "nothing to adopt: no entry of [files] is of unknown direction; {} shows them",
            workspace.hints.ours_for_all("status")
        ));
        cx.ui.report(&Report {
            command: "adopt",
            plan: &Plan::default(),
            problems: &[],
            outcome: Applied::Done,
            backups: &[],
            recovery: None,
        });
        return Ok(Outcome::default());
    }
    let mut decisions = Vec::new();
    for open in &found {
        show(cx, open);
        decisions.push(decide(cx, args, open)?);
    }
    // Somebody may have been at work while the questions were open.
    for open in &found {
        if let Err(problem) = check_unchanged(&workspace, root, open) {
            problems.push(problem);
        }
    }
    let of = |wanted: Decision| -> Vec<&Entry> {
        let decided = found.iter().zip(&decisions);
        decided
            .filter(|(_, decision)| **decision == wanted)
            .map(|(open, _)| open.entry)
            .collect()
    };
    let outcome = carry_out(
        cx,
        &workspace,
        root,
        args,
        (&of(Decision::Server), &of(Decision::Repository)),
        &mut problems,
    )?;
    let skipped = decisions.contains(&Decision::Skip);
    if skipped {
        cx.ui
            .status("what was skipped stays as it is on both sides");
    }
    let outcome = Outcome {
        differs: skipped,
        ..outcome
    };
    Ok(outcome.with_problems(&problems))
}

/// Finds the entries of unknown direction.
fn find_open<'w>(
    workspace: &Workspace,
    root: &Base,
    entries: &[&'w Entry],
    problems: &mut Vec<Problem>,
) -> Vec<Open<'w>> {
    let read = in_parallel(entries, workspace.jobs, |entry| {
        let sides = read_sides(workspace, root, entry)?;
        let drift = sides.drift(workspace, root, entry);
        Ok((drift.verdict == Verdict::Unknown).then(|| Open {
            entry,
            differences: differences(entry, &sides),
            note: drift.note,
            dates: dates(workspace, entry, &sides),
            server: sides.server.as_ref().map(|(state, _)| *state),
            repository: fs::read_regular(&workspace.repository_file(entry)).ok(),
        }))
    });
    let mut found = Vec::new();
    for one in read {
        match one {
            Ok(open) => found.extend(open),
            Err(problem) => problems.push(problem),
        }
    }
    found
}

/// Makes sure that both sides are what was shown.
fn check_unchanged(workspace: &Workspace, root: &Base, open: &Open<'_>) -> Result<(), Problem> {
    let name = &open.entry.repository_path;
    let file = workspace.repository_file(open.entry);
    let place = root
        .place(open.entry.server_path.as_ref())
        .map_err(|error| leads_out(name, error))?;
    let server = match place.look() {
        Found::File(state, _) => Some(state),
        _ => None,
    };
    let path = if server != open.server {
        place.path()
    } else if fs::read_regular(&file).ok() != open.repository {
        file
    } else {
        return Ok(());
    };
    Err(Problem::of(name, FsError::Changed { path })
        .with_help("run the command again: it shows both sides as they are now"))
}

fn differences(entry: &Entry, sides: &Sides) -> Differences {
    match (&sides.repository, &sides.server) {
        (Some(repository), Some((_, server))) => {
            diff::between(repository.expose(), server.expose(), entry.reading())
        }
        _ => Differences::default(),
    }
}

/// Says when each side was changed, as far as that can be told.
fn dates(workspace: &Workspace, entry: &Entry, sides: &Sides) -> String {
    let server = sides.server.as_ref().map_or_else(
        || "?".to_owned(),
        |(state, _)| in_words(state.modified_seconds()),
    );
    let file = workspace.repository_file(entry);
    format!(
        "server: changed {server}; repository: {}",
        repository_date(workspace, &file)
    )
}

fn repository_date(workspace: &Workspace, file: &Path) -> String {
    let checkout = workspace.checkout().unwrap_or(None);
    let current = std::cell::Cell::new(false);
    let version = checkout.and_then(|checkout| {
        current.set(checkout.is_committed(file).unwrap_or(false));
        checkout.find_version(file, None, |_| Some(())).ok()?
    });
    match version {
        Some((version, ())) => {
            let time = in_words(version.seconds);
            let changed = if current.get() {
                ""
            } else {
                ", and changes that are not committed"
            };
            let commit: String = version.commit.chars().take(10).collect();
            format!("commit {commit} of {time} by {}{changed}", version.author)
        }
        None => "not in git's history".to_owned(),
    }
}

fn show(cx: &mut Context, open: &Open<'_>) {
    let name = &open.entry.repository_path;
    let note = open.note.as_ref();
    let note = note.map_or_else(String::new, |note| format!(" ({note})"));
    cx.ui.status(&format!("{name}{note}\n  {}", open.dates));
    let differences = &open.differences;
    if differences.is_layout_only {
        cx.ui.status("  ~ layout only (no value differs)");
    }
    for (change, key) in &differences.changes {
        cx.ui.status(&format!("  {} {key}", change.sign()));
    }
}

/// Takes the decision from the command line, else from the person.
fn decide(cx: &mut Context, args: &AdoptArgs, open: &Open<'_>) -> Result<Decision, Error> {
    if args.server {
        return Ok(Decision::Server);
    }
    if args.repository {
        return Ok(Decision::Repository);
    }
    // A dry run asks nothing.
    if args.write.dry_run {
        return Ok(Decision::Skip);
    }
    let name = &open.entry.repository_path;
    let Some(asker) = cx.asker() else {
        let what = format!("which side of `{name}` to take");
        return Err(Problem::new(ErrorKind::NoTerminal { what })
            .with_help("`--server` takes the server's version, `--repository` the repository's; name the entries it is for")
            .into());
    };
    let choices = [
        Choice::new(
            's',
            "server",
            "the server's version goes into the repository",
        ),
        Choice::new(
            'r',
            "repository",
            "the repository's version goes onto the server",
        ),
        Choice::new('k', "skip", "leave both as they are"),
    ];
    let question = format!("{name}: take which side?");
    match prompt::choose(&*asker, &question, &choices) {
        Ok(Some('s')) => Ok(Decision::Server),
        Ok(Some('r')) => Ok(Decision::Repository),
        Ok(Some(_)) => Ok(Decision::Skip),
        Ok(None) => Err(Problem::new(ErrorKind::Option(
            "no answer: the input has ended; nothing was written".to_owned(),
        ))
        .with_help("`--server` or `--repository` answer for all entries")
        .into()),
        Err(source) => Err(Problem::new(ErrorKind::Unreadable {
            path: "/dev/tty".into(),
            source,
        })
        .with_help("`--server` or `--repository` answer for all entries")
        .into()),
    }
}

/// Captures the server's versions and places the repository's, all in one plan.
fn carry_out(
    cx: &mut Context,
    workspace: &Workspace,
    root: &Base,
    args: &AdoptArgs,
    (from_server, from_repository): (&[&Entry], &[&Entry]),
    problems: &mut Vec<Problem>,
) -> Result<Outcome, Error> {
    let now = cx.env.now();
    let allowed = &args.allowed.resolve(workspace)?;
    let capture_options = CaptureOptions {
        new_data_key: false,
        update_recipients: false,
        allow_unreadable: false,
        force: true,
        is_new: false,
        max_size: u64::MAX,
        allowed,
    };
    let mut captured = in_parallel(from_server, workspace.jobs, |entry| {
        capture::capture(workspace, root, entry, capture_options, &now)
    });
    settle::sources(workspace, &mut captured);
    let (mut plan, captured) = gather(cx, workspace, captured, problems, |one, refusal| {
        let problem = storing::explain(workspace, "adopt --server", one, refusal);
        match refusal {
            // `encrypt` without `--force` would refuse the direction and send the user back here.
            Refusal::RecipientsDiffer { .. }
            | Refusal::SelectionDiffers { .. }
            | Refusal::TermsUnknown { .. } => {
                let update = "encrypt --force --update-recipients";
                let update = workspace.hints.ours(update, &one.entry.repository_path);
                problem.with_help(format!(
                    "if that is meant: {update} takes the server's and keeps a backup"
                ))
            }
            _ => problem,
        }
    });
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: true,
            ..DecryptOptions::default()
        },
        create_root: false,
    };
    let owners = if args.write.owner.no_owner {
        ownership::Owners::new()
    } else {
        ownership::resolve(from_repository, Purpose::Give, problems)
    };
    let mut prepared = in_parallel(from_repository, workspace.jobs, |entry| {
        let owner = owners.get(&entry.repository_path).copied();
        placing::transform(workspace, entry, owner.unwrap_or_default(), options)
    });
    settle::targets(workspace, &mut prepared);
    let (placed, prepared) = gather(cx, workspace, prepared, problems, |one, refusal| {
        delivering::explain(workspace, "decrypt", one.entry, refusal)
    });
    plan.steps.extend(placed.steps);

    let mut backups = Vec::new();
    let applied = both::carry_out(
        cx,
        workspace,
        &both::Work {
            command: "adopt",
            args: args.write,
            captured: &captured,
            prepared: &prepared,
        },
        problems,
        &mut backups,
    )?;
    let plan = Plan { steps: plan.steps };
    cx.ui.report(&Report {
        command: "adopt",
        plan: &plan,
        problems,
        outcome: applied,
        backups: &backups,
        recovery: None,
    });
    Ok(Outcome::default())
}
