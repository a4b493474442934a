//! `list`: the entries of the manifest, as they are understood.

use clap::Args;

use crate::error::Error;
use crate::project::manifest::{Kind, WriteMode};
use crate::ui::status::ListRow;

use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs};

/// List the entries of the manifest
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets list                  every entry, with format, owner and mode\n  secrets list --json 'envs/*'  some of them, for scripts"
)]
pub struct ListArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A wrong manifest, or a word that names no entry.
pub fn run(args: &ListArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    let rows: Vec<ListRow> = workspace
        .select(&args.entries)?
        .into_iter()
        .map(|entry| ListRow {
            entry: entry.repository_path.clone(),
            target: workspace.server_file(entry).display().to_string(),
            kind: if entry.kind == Kind::Secret {
                "secret"
            } else {
                "plain"
            },
            format: match entry.kind {
                Kind::Plain => "plain",
                Kind::Secret => entry
                    .format_for_new()
                    .map_or("unsupported", |format| format.name()),
            },
            owner: entry.owner.clone(),
            group: entry.group.clone(),
            mode: entry.mode.map(|mode| format!("{mode:04o}")),
            write: if entry.write == WriteMode::InPlace {
                "in-place"
            } else {
                "rename"
            },
            optional: entry.optional,
        })
        .collect();
    cx.ui.show_list(&rows);
    Ok(Outcome::default())
}
