//! `deploy`: puts plain and secret files in place on the server, in one plan.

use clap::Args;

use crate::error::Error;
use crate::project::plan::DecryptOptions;

use super::placing::{self, PlacingOptions};
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs};

/// Put plain and secret files in place on the server, in one plan
///
/// As `decrypt`, for the rows of [plain] too: one check, one staging, all files or none.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets deploy                   place every file, plain and secret\n  secrets deploy -n 'nginx/**'     say what would be placed below nginx"
)]
pub struct DeployArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Replace files that were changed on the server; an encrypted backup of each is kept, and `undo`
    /// brings it back
    #[arg(short, long)]
    force: bool,
    /// Place only what is missing, leave every file that exists
    #[arg(long, conflicts_with = "force")]
    missing_only: bool,
    /// Create the root folder when it does not exist
    #[arg(long)]
    create_root: bool,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DeployArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, args.write.owner)?;
    let entries = workspace.select(&args.entries)?;
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: args.force,
            missing_only: args.missing_only,
        },
        create_root: args.create_root,
    };
    placing::place(cx, &workspace, "deploy", &entries, options)
}
