//! `undo --prune`: removes the backups whose content is kept elsewhere.
//!
//! Elsewhere means on a side of an entry, or in git's history. What cannot be opened, or is nowhere else,
//! stays, and so do the backups of the run that `undo` would take back next.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::error::{Error, Problem};
use crate::os::fs;
use crate::os::state::StateDir;
use crate::project::manifest::{Entry, Kind};
use crate::project::record::Digester;
use crate::ui::status::PruneView;

use super::apply;
use super::drift::opened_quietly;
use super::reversal;
use super::sides::read_server;
use super::workspace::Workspace;
use super::{Context, Outcome, StepArgs, in_parallel};

/// Removes the backups that are not needed.
///
/// # Errors
/// When the state directory cannot be read or written.
pub fn run(cx: &mut Context, workspace: &Workspace, args: StepArgs) -> Result<Outcome, Error> {
    let _locks = apply::begin(cx, workspace, args.write_args())?;
    let Some(state) = &workspace.state else {
        return Ok(Outcome::default());
    };
    let backups = state.backups();
    let digester = Digester::new(state.make_key().map_err(apply::state_problem)?);
    let known = kept_contents(workspace, &digester);
    let runs = reversal::list(workspace).map_err(apply::state_problem)?;
    let others = reversal::backups_of_others(workspace).map_err(apply::state_problem)?;
    let mut next: HashSet<PathBuf> = others.into_iter().map(PathBuf::from).collect();
    let last = runs
        .last()
        .into_iter()
        .flat_map(|run| run.files.iter().map(|file| PathBuf::from(&file.backup)));
    next.extend(last);
    let (mut pruned, mut kept, mut unopened) = (Vec::new(), 0, 0);
    for path in backups {
        let content = fs::read_regular(&path).unwrap_or_default();
        let opened = opened_quietly(workspace, &content);
        unopened += usize::from(opened.is_none());
        let is_elsewhere =
            opened.is_some_and(|content| known.contains(&digester.content(content.expose())));
        if is_elsewhere && !next.contains(&path) {
            pruned.push(path);
        } else {
            kept += 1;
        }
    }
    if !args.dry_run {
        remove(workspace, state, &pruned)?;
    }
    cx.ui.show_pruned(&PruneView {
        pruned: pruned
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        kept,
        unopened,
        dry_run: args.dry_run,
    });
    Ok(Outcome::default())
}

/// Removes backups, and takes what they would bring back off the list of runs.
fn remove(workspace: &Workspace, state: &StateDir, pruned: &[PathBuf]) -> Result<(), Problem> {
    let runs = reversal::list(workspace).map_err(apply::state_problem)?;
    for run in &runs {
        let (gone, rest): (Vec<_>, Vec<_>) = run
            .files
            .iter()
            .cloned()
            .partition(|file| pruned.contains(&PathBuf::from(&file.backup)));
        if !gone.is_empty() {
            reversal::keep(state, run, &rest).map_err(apply::state_problem)?;
        }
    }
    pruned.iter().for_each(|path| state.drop_backup(path));
    Ok(())
}

/// Returns the digests of everything that a side of an entry or git's history holds.
fn kept_contents(workspace: &Workspace, digester: &Digester) -> HashSet<String> {
    let entries: Vec<&Entry> = workspace.manifest.entries.iter().collect();
    let found = in_parallel(&entries, workspace.jobs, |entry| {
        let mut digests = HashSet::new();
        let mut add = |content: &[u8]| {
            let content = match entry.kind {
                Kind::Plain => Some(digester.content(content)),
                Kind::Secret => opened_quietly(workspace, content)
                    .map(|content| digester.content(content.expose())),
            };
            digests.extend(content);
        };
        let file = workspace.repository_file(entry);
        add(&fs::read_regular(&file).unwrap_or_default());
        if let Ok(Some(checkout)) = workspace.checkout() {
            drop(checkout.find_version(&file, None, |version| {
                add(version);
                None::<()>
            }));
        }
        let root = workspace.root.as_ref();
        let server = root.and_then(|root| read_server(workspace, root, entry).ok()?);
        digests.extend(server.map(|(_, content)| digester.content(content.expose())));
        digests
    });
    found.into_iter().flatten().collect()
}
