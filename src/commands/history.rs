//! `history`: when each key last changed, by whom, in which commit.

use std::collections::HashSet;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::history::Version;
use crate::ui::history::{HistoryRow, HistoryView};

use super::hints::DAMAGED_GIT;
use super::origin::{self, CONTENT, Event};
use super::sides::since_version;
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs};

/// Show when each key last changed, by whom, in which commit
///
/// Read from ciphertext alone: no key is needed. A commit that encrypted the whole file anew hides
/// whether a value changed; an identity at hand settles that. Exit code 1 for a key that never was.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets history shared/.env               the last change of every key\n  secrets history shared/.env DB_PASSWORD   every change of one key, newest first"
)]
pub struct HistoryArgs {
    /// The entry, by repository path, path without `.enc`, or server path
    pub entry: String,
    /// Every change of this key instead of the last change of all
    pub key: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A word that names no entry, a repository without git, a history that cannot be read.
pub fn run(args: &HistoryArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    let entry = workspace.select_one(&args.entry)?;
    if workspace.checkout()?.is_none() {
        let message = "the repository is not in git: it has no history".to_owned();
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("run it in a clone of the repository")
            .into());
    }
    let mut rows: Vec<HistoryRow> = Vec::new();
    let mut seen = HashSet::new();
    origin::look_back(&workspace, entry, None, |revision| {
        for (key, event) in &revision.events {
            let is_wanted = match &args.key {
                Some(wanted) => key == wanted || (key == CONTENT && is_content(wanted)),
                None => seen.insert(key.clone()),
            };
            if is_wanted {
                rows.push(row(key, *event, revision.version.as_ref()));
            }
        }
        false
    })
    .map_err(|error| Problem::of(&entry.repository_path, error).with_help(DAMAGED_GIT))?;
    // In the order of their names, so that the list does not jump when a key changes.
    if args.key.is_none() {
        rows.sort_by(|one, other| one.key.cmp(&other.key));
    }
    let is_unknown = rows.is_empty() && args.key.is_some();
    cx.ui.show_history(&HistoryView {
        entry: &entry.repository_path,
        key: args.key.as_deref(),
        is_cut: workspace.is_history_cut(),
        rows: &rows,
    });
    if is_unknown {
        cx.ui.status(&format!(
            "no version of {} has that key; {} shows the keys",
            entry.repository_path,
            workspace.hints.ours("history", &entry.repository_path)
        ));
    } else if rows.is_empty() {
        cx.ui
            .status(&format!("{} is in no commit", entry.repository_path));
    }
    Ok(Outcome {
        differs: is_unknown,
        ..Outcome::default()
    })
}

fn is_content(word: &str) -> bool {
    word == CONTENT.trim_matches(['(', ')'])
}

fn row(key: &str, event: Event, version: Option<&Version>) -> HistoryRow {
    HistoryRow {
        key: key.to_owned(),
        event: event.word(),
        version: since_version(version),
    }
}
