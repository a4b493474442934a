//! `decrypt`: puts the plaintext files in place on the server.

use clap::Args;

use crate::error::Error;
use crate::project::plan::DecryptOptions;

use super::placing::{self, PlacingOptions};
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs};

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
pub fn run(args: &DecryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, args.write.owner)?;
    let entries = workspace.select_secret(&args.entries)?;
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: args.force,
            missing_only: args.missing_only,
        },
        create_root: args.create_root,
    };
    placing::place(cx, &workspace, "decrypt", &entries, options)
}
