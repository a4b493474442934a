//! `encrypt`: captures the plaintext files of the server into the repository.

use std::collections::BTreeSet;

use clap::Args;

use crate::error::Error;
use crate::project::manifest::Entry;
use crate::ui::report::Report;

use super::apply;
use super::capture::{self, CaptureOptions, GuardArgs, LONGEST_SOURCE};
use super::gather::gather;
use super::settle;
use super::storing;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Capture the plaintext files of the server into the repository
///
/// Only what changed is written: one changed value of an environment file is three changed lines.
/// Sources that are missing, empty, damaged or would not survive stock `sops` are refused.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets encrypt                  capture every file that changed\n  secrets encrypt -n shared/.env   say which keys of one file would be captured"
)]
pub struct EncryptArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Bring the files in line with their rule: recipients and selection options. Who is added can
    /// read the file; where somebody is removed, everything is encrypted under a new data key
    #[arg(long)]
    update_recipients: bool,
    /// Encrypt everything under a new data key, also where nothing else changes: for a file whose data
    /// key somebody may know
    #[arg(long)]
    new_data_key: bool,
    /// Write files that no identity here can open, unchecked (for machines that may only write)
    #[arg(long)]
    allow_unreadable: bool,
    /// Capture the server's file also where the repository moved; an encrypted backup of what is
    /// replaced is kept, and `undo` brings it back
    #[arg(short, long)]
    force: bool,
    /// Capture also files that match a pattern on the server and are not in the repository yet
    #[arg(long)]
    new: bool,
    /// Refuse sources longer than this (bytes, or with KiB, MiB, GiB; at most 4GiB)
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    max_size: u64,
    #[command(flatten)]
    allowed: GuardArgs,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &EncryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.write)?;
    let root = workspace.require_root()?;
    let entries = workspace.select_to_capture(&args.entries, args.new)?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    warn_of_other_rules(cx, &workspace, &entries);

    let now = cx.env.now();
    let allowed = &args.allowed.resolve(&workspace)?;
    let options = CaptureOptions {
        update_recipients: args.update_recipients,
        allow_unreadable: args.allow_unreadable,
        force: args.force,
        is_new: false,
        new_data_key: args.new_data_key,
        max_size: args.max_size,
        allowed,
    };
    let mut problems = Vec::new();
    workspace.check_distinct(&entries, &mut problems);
    let mut results = in_parallel(&entries, workspace.jobs, |entry| {
        capture::capture(&workspace, root, entry, options, &now)
    });
    settle::sources(&workspace, &mut results);
    let command = match (args.force, args.new_data_key) {
        (false, false) => "encrypt",
        (true, false) => "encrypt --force",
        (false, true) => "encrypt --new-data-key",
        (true, true) => "encrypt --force --new-data-key",
    };
    let (mut plan, captured) = gather(cx, &workspace, results, &mut problems, |one, refusal| {
        storing::explain(&workspace, command, one, refusal)
    });

    let mut backups = Vec::new();
    let outcome = apply::carry_out(
        &workspace,
        &captured,
        args.write,
        &mut plan,
        &mut problems,
        |good| storing::write(cx, &workspace, good, args.write.owner, &mut backups),
    );
    cx.ui.report(&Report {
        command: "encrypt",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
        recovery: None,
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Warns once of a rules file that stock `sops`, called from here, would use instead.
fn warn_of_other_rules(cx: &mut Context, workspace: &Workspace, entries: &[&Entry]) {
    let ours: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| Some(workspace.rules_for(entry)?.path.clone()))
        .collect();
    if let Some(other) = ours
        .iter()
        .find_map(|path| workspace.other_rules_file(path))
    {
        let ours: Vec<_> = ours.iter().map(|path| path.display().to_string()).collect();
        cx.ui.warning(&format!(
            "stock `sops` called in this folder would use {}, the entries are governed by {}",
            other.display(),
            ours.join(", ")
        ));
    }
}

/// Reads a size: bytes, or a number with KiB, MiB or GiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("not a size such as 512MiB".to_owned()),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_| "not a size such as 512MiB".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|&bytes| bytes <= LONGEST_SOURCE)
        .ok_or_else(|| "more than 4GiB".to_owned())
}
