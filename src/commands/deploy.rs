//! `deploy`: puts plain and secret files in place on the server, in one plan.

use clap::Args;

use crate::error::Error;

use super::placing::{self, PlacingArgs};
use super::workspace::Workspace;
use super::{Context, Outcome};

/// Put plain and secret files in place on the server, in one plan
///
/// As `decrypt`, for the rows of `[plain]` too: one check, one staging, all files or none.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets deploy                   place every file, plain and secret\n  secrets deploy -n 'nginx/**'     say what would be placed below nginx"
)]
pub struct DeployArgs {
    #[command(flatten)]
    placing: PlacingArgs,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DeployArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.placing.write)?;
    let entries = workspace.select(&args.placing.entries)?;
    placing::place(cx, &workspace, "deploy", &entries, args.placing.options())
}
