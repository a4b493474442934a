//! `diff`: how repository and server differ, without values.

use clap::Args;

use crate::error::{Error, Problem};
use crate::os::fs;
use crate::os::place::{Base, Ownership};
use crate::os::process;
use crate::project::manifest::{Entry, Kind};
use crate::project::mask::Mask;
use crate::secret::SecretBytes;
use crate::ui::diff::{Comparison, DiffForm, DiffRow, render, unified};

use super::apply;
use super::sides::{Sides, compare, declared_owners, read_plain_sides, read_sides, target_of};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, in_parallel};

/// Show how repository and server differ: key names, never values
///
/// `-` is only in the repository, `+` only on the server, `~` on both with another value. Plain
/// files are shown line by line with the values of secret files masked. Exit code 1 when anything
/// differs.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets diff                     every entry that differs, by key\n  secrets diff --stat 'envs/*'     counts for some of them"
)]
pub struct DiffArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    owner: OwnerArgs,
    /// Only the names of entries that differ
    #[arg(long, conflicts_with_all = ["stat", "show_values"])]
    name_only: bool,
    /// Only counts
    #[arg(long, conflicts_with = "show_values")]
    stat: bool,
    /// Show the values, line by line
    #[arg(long, conflicts_with = "json")]
    show_values: bool,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DiffArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, args.owner)?;
    let entries = workspace.select(&args.entries)?;
    let root = workspace.require_root()?;
    apply::warn_of_traces(cx, &workspace);
    let mut problems = Vec::new();
    let owners = declared_owners(&entries, args.owner, &mut problems);

    let (plain, secret): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.kind == Kind::Plain);
    let read: Vec<_> = in_parallel(&secret, workspace.jobs, |entry| {
        read_sides(&workspace, root, entry)
    });
    let mut rows = Vec::new();
    for (entry, sides) in secret.iter().zip(read) {
        match sides {
            Ok(sides) => {
                let owner = owners(entry);
                rows.push((
                    entry.line,
                    secret_row(&workspace, root, entry, &sides, owner, args),
                ));
                for warning in &sides.warnings {
                    cx.ui
                        .warning(&format!("{}: {warning}", entry.repository_path));
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !plain.is_empty() {
        let mask = build_mask(&workspace, root);
        for entry in plain {
            match plain_row(&workspace, root, entry, owners(entry), mask.as_ref(), args) {
                Ok(row) => rows.push((entry.line, row)),
                Err(problem) => problems.push(problem),
            }
        }
    }
    rows.sort_by_key(|(line, _)| *line);
    let rows: Vec<DiffRow> = rows.into_iter().map(|(_, row)| row).collect();
    show(cx, &rows, &problems, args);
    let outcome = Outcome {
        differs: rows.iter().any(DiffRow::differs),
        ..Outcome::default()
    };
    Ok(outcome.with_problems(&problems))
}

fn secret_row(
    workspace: &Workspace,
    root: &Base,
    entry: &Entry,
    sides: &Sides,
    owner: Ownership,
    args: &DiffArgs,
) -> DiffRow {
    let repository = sides.repository.as_ref().map(SecretBytes::expose);
    let server = sides.server.as_ref().map(|(_, content)| content.expose());
    let comparison = compare(entry, repository, server);
    let unified = match (args.show_values, &comparison, repository, server) {
        (true, Comparison::Differs(_), Some(repository), Some(server)) => {
            unified(repository, server)
        }
        _ => None,
    };
    let drift = sides.drift(workspace, root, entry);
    DiffRow {
        name: entry.repository_path.clone(),
        target: workspace.server_file(entry).display().to_string(),
        attributes: sides.attributes(workspace, root, entry, owner),
        keys: sides.keys(workspace, entry, &drift),
        drift,
        comparison,
        unified,
    }
}

/// Collects the values of all entries, to mask them in plain files; `None` when some of them
/// cannot be read, so that nothing would be safe to show.
fn build_mask(workspace: &Workspace, root: &Base) -> Option<Mask> {
    let secret: Vec<&Entry> = workspace
        .manifest
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Secret)
        .collect();
    let sides: Option<Vec<_>> = in_parallel(&secret, workspace.jobs, |entry| {
        read_sides(workspace, root, entry)
            .ok()
            .map(|sides| (sides, entry.reading()))
    })
    .into_iter()
    .collect();
    let sides = sides?;
    let texts = sides.iter().flat_map(|(sides, reading)| {
        let repository = sides.repository.as_ref().map(SecretBytes::expose);
        let server = sides.server.as_ref().map(|(_, content)| content.expose());
        repository
            .into_iter()
            .chain(server)
            .map(|text| (text, *reading))
    });
    Mask::from_plaintexts(texts)
}

fn plain_row(
    workspace: &Workspace,
    root: &Base,
    entry: &Entry,
    owner: Ownership,
    mask: Option<&Mask>,
    args: &DiffArgs,
) -> Result<DiffRow, Problem> {
    let sides = read_plain_sides(workspace, root, entry)?;
    let (repository, server) = (&sides.repository, &sides.server);
    let old = repository.as_ref().map(SecretBytes::expose);
    let new = server.as_ref().map(|(_, content)| content.expose());
    let comparison = compare(entry, old, new);
    let text = match (&comparison, old, new) {
        (Comparison::Differs(_), Some(old), Some(new)) => unified(old, new),
        _ => None,
    };
    // What was a file of ours that is encrypted is shown by no row that says otherwise.
    let target = target_of(workspace, root, entry);
    let memory = workspace.memory();
    let is_known = memory.record_of(&target).is_some();
    // Nor what not everybody may read, where no sync has seen it: a row that was pushed may name any file.
    let is_open = server.is_some() && fs::may_be_read_by_all(&target);
    let is_plain = memory.secret_at(&target).is_none() && (is_known || is_open);
    let shown = match (text, mask, args.show_values) {
        (Some(text), _, true) => Some(text),
        (Some(text), Some(mask), false) if is_plain => Some(mask.apply(&text)),
        _ => None,
    };
    let drift = sides.drift(workspace, root, entry);
    Ok(DiffRow {
        name: entry.repository_path.clone(),
        target: workspace.server_file(entry).display().to_string(),
        attributes: sides.attributes(workspace, root, entry, owner),
        keys: sides.keys(workspace, entry, &drift),
        drift,
        comparison,
        unified: shown,
    })
}

fn show(cx: &mut Context, rows: &[DiffRow], problems: &[Problem], args: &DiffArgs) {
    if cx.ui.json {
        cx.ui.diff_json(rows, problems);
    } else {
        let form = match (args.name_only, args.stat) {
            (true, _) => DiffForm::NameOnly,
            (_, true) => DiffForm::Stat,
            _ => DiffForm::Keys,
        };
        let text = render(rows, form, cx.ui.color_out);
        if text.is_empty() || !page(cx, &text) {
            cx.ui.data(&text);
        }
    }
    cx.ui.problems(problems);
    let mut uncompared: Vec<_> = problems
        .iter()
        .filter_map(|problem| problem.entry.as_deref())
        .collect();
    uncompared.sort_unstable();
    uncompared.dedup();
    let uncompared = uncompared
        .iter()
        .filter(|name| !rows.iter().any(|row| row.name == **name))
        .count();
    let differing = rows.iter().filter(|row| row.differs()).count();
    let total = rows.len() + uncompared;
    let entries = if total == 1 { "entry" } else { "entries" };
    let differ = match differing {
        0 if problems.is_empty() => "no differences".to_owned(),
        1 => "1 differs".to_owned(),
        count => format!("{count} differ"),
    };
    let failed = if uncompared > 0 {
        format!(", {uncompared} could not be compared")
    } else {
        String::new()
    };
    cx.ui
        .status(&format!("{total} {entries}: {differ}{failed}"));
}

/// Shows a long text through the user's pager when standard output is a terminal.
fn page(cx: &Context, text: &str) -> bool {
    if !cx.env.owns_terminal || !cx.env.stdout_is_terminal {
        return false;
    }
    let pager = cx.env.var("SECRETS_PAGER").or_else(|| cx.env.var("PAGER"));
    let words = match pager.map(|pager| pager.to_str().and_then(shlex::split)) {
        None => vec!["less".to_owned()],
        Some(Some(words)) => words,
        Some(None) => return false,
    };
    process::page(&words, text.as_bytes())
}
