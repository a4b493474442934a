//! Writing on both sides in one run: what `adopt` and `merge` do alike.

use crate::error::{Error, Problem};
use crate::ui::report::{Applied, Backup};

use super::apply;
use super::capture::Captured;
use super::delivering;
use super::gather::Prospect;
use super::placing::Prepared;
use super::reversal;
use super::storing;
use super::workspace::Workspace;
use super::{Context, WriteArgs};

/// What is to be written on both sides.
pub struct Work<'a, 'w> {
    /// The command.
    pub command: &'static str,
    /// Its options.
    pub args: WriteArgs,
    /// What goes into the repository.
    pub captured: &'a [Captured<'w>],
    /// What goes onto the server.
    pub prepared: &'a [Prepared<'w>],
}

/// Carries out the plan on both sides for the entries without a problem: all of them, or none.
///
/// # Errors
/// What stands against the whole run.
pub fn carry_out(
    cx: &mut Context,
    workspace: &Workspace,
    work: &Work<'_, '_>,
    problems: &mut Vec<Problem>,
    backups: &mut Vec<Backup>,
) -> Result<Applied, Error> {
    let args = work.args;
    if args.dry_run {
        return Ok(Applied::DryRun);
    }
    if !problems.is_empty() && !args.keep_going {
        return Ok(Applied::Nothing);
    }
    let is_good = |name: &str| {
        let mut bad = problems.iter();
        bad.all(|problem| problem.entry.as_deref() != Some(name))
    };
    let captured = work.captured.iter();
    let captured: Vec<_> = captured
        .filter(|one| is_good(&one.entry().repository_path))
        .collect();
    let prepared = work.prepared.iter();
    let prepared: Vec<_> = prepared
        .filter(|one| is_good(&one.entry().repository_path))
        .collect();
    let mut all = storing::work(&captured, args.owner)?;
    let placing = delivering::work(workspace, None, &prepared)?;
    all.jobs.extend(placing.jobs);
    all.mendings.extend(placing.mendings);
    all.watched.extend(placing.watched);
    let kept = storing::keep_backups(cx, workspace, &captured, backups)
        .and_then(|()| delivering::keep_backups(cx, workspace, &prepared, backups));
    if let Err(problem) = kept {
        delivering::drop_backups(workspace, backups);
        return Err(problem.into());
    }
    let head = workspace.head();
    let mut undoable = storing::undoable(&captured, backups, head);
    undoable.extend(delivering::undoable(workspace, None, &prepared, backups));
    let noted = reversal::note(cx, workspace, work.command, undoable);
    if let Err(failure) = apply::run(cx, workspace, &all) {
        if failure.is_undone {
            reversal::take_back(workspace, noted);
            delivering::drop_backups(workspace, backups);
        }
        let outcome = failure.outcome();
        problems.push(failure.problem);
        return Ok(outcome);
    }
    storing::remember(cx, workspace, &captured);
    delivering::remember(cx, workspace, None, &prepared);
    Ok(Applied::Done)
}
