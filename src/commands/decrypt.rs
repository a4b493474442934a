//! `decrypt`: puts the plaintext files in place on the server.

use clap::Args;

use crate::error::Error;

use super::placing::{self, PlacingArgs};
use super::workspace::Workspace;
use super::{Context, Outcome};

/// Put the plaintext files in place on the server
///
/// Every entry is decrypted, verified and compared before the first file is written: all of them
/// are placed, or none. A file on the server that is merely behind is brought up to date; one that was
/// changed there is refused.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets decrypt                         place every file\n  secrets decrypt --dry-run 'envs/*'      say what would be placed for some of them"
)]
pub struct DecryptArgs {
    #[command(flatten)]
    placing: PlacingArgs,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DecryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.placing.write)?;
    let entries = workspace.select_secret(&args.placing.entries)?;
    placing::place(cx, &workspace, "decrypt", &entries, args.placing.options())
}
