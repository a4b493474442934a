//! `recover`: brings a bare host back: identity, root, every file of this host.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::keyring::Keyring;
use crate::os::fs;
use crate::project::manifest::{Entry, Kind};
use crate::project::plan::DecryptOptions;
use crate::secret::SecretBytes;

use super::install::{self, Installation};
use super::keygen::identity_mode;
use super::lost_key;
use super::open::{Lookup, key_problem, read_encrypted};
use super::ownership::{self, Owners, Purpose};
use super::placing::{self, PlacingOptions};
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, apply, in_parallel};

/// Bring a bare host back: identity, root, every file of this host
///
/// Needs this program, a copy of the repository, and the key. An identity that is installed and opens
/// everything is used; else one is read from a hidden prompt, or from standard input. It must open every
/// entry of this host before anything is written. Then it is installed, the root is made, and every file
/// is placed as `decrypt` would. No command is run.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets recover < key.txt        with the key from the password manager on standard input\n  secrets recover --new-key        the key is lost: make a new one, and say what must be replaced"
)]
pub struct RecoverArgs {
    /// Where to install the identity [default: `identity` of the manifest, else where `sops` looks]
    #[arg(long, value_name = "FILE")]
    identity_out: Option<PathBuf>,
    /// Owner of the identity file
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Group of the identity file [default: `group` of the manifest's defaults]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Mode of the identity file, octal [default: 0640 with a group, else 0600]
    #[arg(long, value_name = "MODE", value_parser = identity_mode)]
    mode: Option<u32>,
    #[command(flatten)]
    write: WriteArgs,
    /// Replace files that are there and differ; an encrypted backup of each is kept
    #[arg(short, long)]
    force: bool,
    /// The key is truly lost: make a new one, put it into `.sops.yaml`, and say which values to replace
    #[arg(long, conflicts_with = "force")]
    new_key: bool,
    /// Which recipient is lost, by its name in the manifest or in full, where it cannot be told
    #[arg(long, value_name = "RECIPIENT", requires = "new_key")]
    lost: Option<String>,
    /// Make a post-quantum key
    #[arg(long, requires = "new_key")]
    pq: bool,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &RecoverArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let mut workspace = Workspace::open_to_write(cx, args.write)?;
    let mut problems = Vec::new();
    let place = install::Request {
        path: args.identity_out.as_deref(),
        owner: args.owner.as_ref(),
        group: args.group.as_ref(),
        mode: args.mode,
        write: args.write,
    };
    let mut installation = install::plan(cx, &workspace, &place, &mut problems)?;
    if args.new_key {
        let request = lost_key::Request {
            lost: args.lost.as_deref(),
            has_own_place: args.identity_out.is_some(),
            is_hybrid: args.pq,
            write: args.write,
        };
        return lost_key::run(cx, &workspace, &request, &mut installation, &problems);
    }
    if workspace.root.is_none() && !workspace.is_root_absent() {
        return Err(workspace.not_the_server().into());
    }
    let hosts_entries = workspace.select(&[])?.into_iter().cloned();
    let entries: Vec<Entry> = hosts_entries
        .filter(|entry| entry.kind == Kind::Secret)
        .collect();
    let entries: Vec<&Entry> = entries.iter().collect();

    let (closed, _) = closed_by(&workspace, &entries);
    if closed.is_empty() {
        let content = named_identity(cx, &workspace, &entries, &installation);
        let there = installation.there();
        let is_good = there.is_some_and(|there| opens_all(&workspace, &entries, there.expose()));
        installation.set(content, is_good);
    } else {
        let destination = installation.destination();
        let line = format!("the key that is read goes to {destination}");
        cx.ui.status(&line);
        let text = read_identity(cx, args.write.dry_run, closed)?;
        workspace.keyring = keyring_of(cx, &text)?;
        let (closed, opened) = closed_by(&workspace, &entries);
        let opens_nothing = opened == 0;
        if !closed.is_empty() && (opens_nothing || !args.write.keep_going) {
            let mut problems = closed;
            problems.push(
                Problem::new(ErrorKind::Option(
                    "the key that was given does not open every entry of this host; nothing was written".to_owned(),
                ))
                .with_help(if opens_nothing {
                    "is it the key of this host, and of this repository?"
                } else {
                    "`-k` installs it and places what it opens"
                }),
            );
            return Err(Error { problems });
        }
        installation.set(Some(text), true);
    }
    installation.check(cx, &workspace)?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    let owners = if args.write.owner.no_owner {
        Owners::new()
    } else {
        ownership::resolve(&entries, Purpose::Give, &mut problems)
    };
    workspace.check_distinct(&entries, &mut problems);
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: args.force,
            ..DecryptOptions::default()
        },
        create_root: true,
    };
    let results = in_parallel(&entries, workspace.jobs, |entry| {
        let owner = owners.get(&entry.repository_path).copied();
        placing::transform(&workspace, entry, owner.unwrap_or_default(), options)
    });
    let outcome = placing::finish(
        cx,
        &workspace,
        "recover",
        results,
        options,
        problems,
        Some(&mut installation),
    );
    Ok(outcome)
}

/// Returns why entries cannot be opened with the identities at hand, and how many can. Entries whose file is missing or
/// damaged are told of when they are placed.
fn closed_by(workspace: &Workspace, entries: &[&Entry]) -> (Vec<Problem>, usize) {
    let found = in_parallel(entries, workspace.jobs, |entry| {
        let Ok(Lookup::Found(encrypted)) = read_encrypted(workspace, entry) else {
            return None;
        };
        let unwrapped = workspace.keyring.unwrap(&encrypted.sealed.metadata);
        Some(unwrapped.map_err(|error| key_problem(workspace, entry, error)))
    });
    let (opened, closed): (Vec<_>, Vec<_>) = found.into_iter().flatten().partition(Result::is_ok);
    (
        closed.into_iter().filter_map(Result::err).collect(),
        opened.len(),
    )
}

/// Returns whether the identities of one file alone open every entry that can be opened at all.
fn opens_all(workspace: &Workspace, entries: &[&Entry], identities: &[u8]) -> bool {
    let keyring = Keyring::of_text("it", identities, None);
    entries.iter().all(|entry| {
        let Ok(Lookup::Found(encrypted)) = read_encrypted(workspace, entry) else {
            return true;
        };
        keyring.unwrap_quiet(&encrypted.sealed.metadata).is_some()
    })
}

/// Returns what is to be installed where identities at hand open everything: nothing, if the installed
/// one is among them; else what `-i` names.
fn named_identity(
    cx: &Context,
    workspace: &Workspace,
    entries: &[&Entry],
    installation: &Installation,
) -> Option<SecretBytes> {
    let files: Vec<SecretBytes> = cx
        .global
        .identities
        .iter()
        .filter_map(|path| fs::read_regular(&cx.env.absolute(path)).ok())
        .map(SecretBytes::new)
        .collect();
    let is_named = |there: &SecretBytes| files.iter().any(|file| file == there);
    let there = installation.there();
    if there.is_some_and(|there| is_named(&there) || opens_all(workspace, entries, there.expose()))
    {
        return None;
    }
    let alone = files
        .iter()
        .find(|file| opens_all(workspace, entries, file.expose()));
    if let Some(file) = alone {
        return Some(file.clone());
    }
    match &files[..] {
        [] => None,
        // Behind a passphrase or a plugin: it opened everything when it was asked for.
        [only] => Some(only.clone()),
        // Each opens a part.
        _ => {
            let mut all = SecretBytes::new(Vec::with_capacity(
                files.iter().map(|file| file.len() + 1).sum(),
            ));
            for file in &files {
                all.expose_mut().extend_from_slice(file.expose());
                all.expose_mut().push(b'\n');
            }
            Some(all)
        }
    }
}

/// Reads an identity from a hidden prompt, or from standard input.
fn read_identity(
    cx: &mut Context,
    is_dry: bool,
    closed: Vec<Problem>,
) -> Result<SecretBytes, Error> {
    /// More than any identity file holds.
    const LONGEST: u64 = 1 << 20;
    let failed = |source| {
        let path = "standard input".into();
        Problem::new(ErrorKind::Unreadable { path, source })
            .with_help("hand the key over on standard input: `secrets recover < key.txt`")
    };
    if let Some(asker) = cx.asker().filter(|_| !is_dry) {
        asker.say("No identity here opens every entry of this host.");
        for _ in 0..16 {
            let typed = asker
                .pasted("Paste the key (AGE-SECRET-KEY-…), it is not shown: ")
                .map_err(failed)?;
            // Only comments so far: the key is still to come.
            let mut lines = typed.expose().split(|&byte| byte == b'\n');
            let is_text = |line: &[u8]| !line.trim_ascii().is_empty() && !line.starts_with(b"#");
            if lines.any(is_text) {
                return Ok(identity_text(&typed));
            }
        }
        let message = "no key was typed; nothing was written".to_owned();
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("run the command again")
            .into());
    }
    if cx.env.asker.is_some() {
        // There is a terminal, and it may not be asked.
        let mut problems = closed;
        let message = "no identity here opens every entry, and nobody may be asked for one";
        problems.push(
            Problem::new(ErrorKind::Option(message.to_owned()))
                .with_help("hand the key over on standard input: `secrets recover < key.txt`"),
        );
        return Err(Error { problems });
    }
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let mut input = (&mut cx.env.stdin).take(LONGEST);
    input.read_to_end(&mut text).map_err(failed)?;
    if text.trim_ascii().is_empty() {
        let mut problems = closed;
        problems.push(
            Problem::new(ErrorKind::Option(
                "no identity here opens every entry, and none came on standard input".to_owned(),
            ))
            .with_help("hand the key over: `secrets recover < key.txt`"),
        );
        return Err(Error { problems });
    }
    Ok(identity_text(&SecretBytes::copy_of(&text)))
}

/// Returns an identity file as stock programs read it: of what was handed over, the lines that are
/// comments or identities, without a byte order mark. Other kinds of files stay as they are.
fn identity_text(given: &SecretBytes) -> SecretBytes {
    let Ok(text) = std::str::from_utf8(given.expose()) else {
        return given.clone();
    };
    let text = text.trim_start_matches('\u{feff}');
    let is_identity = |line: &str| line.trim_start().starts_with("AGE-");
    if !text.lines().any(is_identity) {
        return given.clone();
    }
    let mut out = SecretBytes::new(Vec::with_capacity(text.len() + 1));
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| line.starts_with('#') || is_identity(line)) {
        out.expose_mut().extend_from_slice(line.as_bytes());
        out.expose_mut().push(b'\n');
    }
    out
}

/// Returns the identities of a text that was handed over.
fn keyring_of(cx: &Context, text: &SecretBytes) -> Result<Keyring, Problem> {
    let keyring = Keyring::of_text("the key that was given", text.expose(), cx.asker());
    if keyring.is_empty() {
        let what = keyring.looked_at().join("; ");
        return Err(Problem::new(ErrorKind::Option(what)).with_help(
            "an age identity is a line that begins with AGE-SECRET-KEY-; an SSH private key works too",
        ));
    }
    Ok(keyring)
}
