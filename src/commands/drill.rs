//! `drill`: everything `recover` would do, in memory: would this host come back?

use std::time::{Instant, UNIX_EPOCH};

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::project::guard::{Allowed, check_change};
use crate::project::manifest::{Entry, Kind};
use crate::project::pem::{self, Block, PublicHalf};
use crate::secret::SecretBytes;
use crate::ui::drill::{DrillRow, DrillView};

use super::open::{Lookup, check_format, open, read_encrypted};
use super::ownership::{self, Purpose};
use super::sides::in_words;
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, in_parallel};

/// A certificate that ends within this many seconds is told of: 14 days.
const SOON: u64 = 14 * 24 * 60 * 60;

/// Try in memory whether this host could be recovered, and write nothing
///
/// Opens every entry of this host and looks at what is in it: the format, the keys that the manifest
/// requires, the accounts that files are given to, certificates and their keys. Exit code 1 when
/// something is found, 2 when something could not be told.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets drill                       every entry of this host\n  secrets drill -i KEY --host web1    with the key from the password manager, as another host"
)]
pub struct DrillArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    owner: OwnerArgs,
}

/// An entry, opened.
struct Opened<'w> {
    entry: &'w Entry,
    plaintext: SecretBytes,
    blocks: Vec<Block>,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DrillArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let start = Instant::now();
    let workspace = Workspace::open(cx, args.owner)?;
    let entries = workspace.select(&args.entries)?;
    let mut problems = Vec::new();
    let mut rows = Vec::new();
    if !args.owner.no_owner {
        let mut unknown = Vec::new();
        ownership::resolve(&entries, Purpose::Give, &mut unknown);
        for problem in unknown {
            let entry = problem.entry.clone().unwrap_or_default();
            rows.push(DrillRow::of(&entry, "owner", problem.kind.to_string()));
        }
    }
    let (plain, secret): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.kind == Kind::Plain);
    for entry in plain {
        let file = workspace.repository_file(entry);
        if !entry.optional && !fs::is_file(&file) {
            let what = "the file does not exist in the repository".to_owned();
            rows.push(DrillRow::of(&entry.repository_path, "missing", what));
        }
    }
    let results = in_parallel(&secret, workspace.jobs, |entry| {
        open_entry(&workspace, entry)
    });
    let mut opened = Vec::new();
    for (entry, result) in secret.iter().zip(results) {
        match result {
            Ok(Some(one)) => opened.push(one),
            Ok(None) => {}
            Err(problem) if matches!(*problem.kind, ErrorKind::EncryptedMissing) => {
                let name = &entry.repository_path;
                rows.push(DrillRow::of(name, "missing", problem.kind.to_string()));
            }
            Err(problem) => problems.push(problem),
        }
    }
    let now = (cx.env.clock)().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    for one in &opened {
        look_at(&workspace, one, now, &mut rows);
    }
    match_keys(&opened, &mut rows);
    let order = |name: &str| {
        entries
            .iter()
            .position(|entry| entry.repository_path == name)
    };
    rows.sort_by_key(|row| order(&row.entry));
    let bytes = opened.iter().map(|one| one.plaintext.expose().len() as u64);
    let view = DrillView {
        host: workspace.host.clone(),
        entries: secret.len(),
        opened: opened.len(),
        bytes: bytes.sum(),
        milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings: rows,
    };
    let differs = view.findings.iter().any(|row| !row.is_warning);
    cx.ui.show_drill(&view, &problems);
    let outcome = Outcome {
        differs,
        ..Outcome::default()
    };
    Ok(outcome.with_problems_as_trouble(&problems))
}

/// Opens an entry as `recover` would; `None` for an optional one that is missing.
fn open_entry<'w>(workspace: &Workspace, entry: &'w Entry) -> Result<Option<Opened<'w>>, Problem> {
    check_format(entry)?;
    let encrypted = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => encrypted,
        Lookup::Missing(_) if entry.optional => return Ok(None),
        Lookup::Missing(_) => {
            let name = &entry.repository_path;
            return Err(Problem::of(name, ErrorKind::EncryptedMissing));
        }
    };
    let plaintext = open(workspace, entry, &encrypted)?.plaintext;
    let blocks = pem::blocks(plaintext.expose());
    Ok(Some(Opened {
        entry,
        plaintext,
        blocks,
    }))
}

/// Looks at what is in an entry.
fn look_at(workspace: &Workspace, one: &Opened<'_>, now: u64, rows: &mut Vec<DrillRow>) {
    let entry = one.entry;
    let name = &entry.repository_path;
    let content = one.plaintext.expose();
    let allowed = Allowed::default();
    let found = check_change(None, content, entry.is_env(), &entry.required, allowed);
    rows.extend(
        found
            .iter()
            .map(|refusal| DrillRow::of(name, "required", refusal.to_string())),
    );
    if content.is_empty() {
        rows.push(DrillRow::of(
            name,
            "empty",
            "it is empty (zero bytes)".to_owned(),
        ));
    }
    if let Some(root) = &workspace.root
        && let Err(error) = root.place(entry.server_path.as_ref())
    {
        rows.push(DrillRow::of(name, "target", error.to_string()));
    }
    let day = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let time = in_words(seconds);
        time.get(..10).unwrap_or(&time).to_owned()
    };
    for block in &one.blocks {
        let label = block.label.to_lowercase();
        match &block.kind {
            Err(reason) => rows.push(DrillRow::of(name, "pem", format!("{label}: {reason}"))),
            Ok(pem::Kind::Certificate { not_after, .. }) if *not_after < now => {
                let what = format!("the certificate ended on {}", day(*not_after));
                rows.push(DrillRow::of(name, "expired", what));
            }
            Ok(pem::Kind::Certificate { not_before, .. }) if *not_before > now => {
                let what = format!("the certificate begins on {}", day(*not_before));
                rows.push(DrillRow::of(name, "not-yet-valid", what));
            }
            Ok(pem::Kind::Certificate { not_after, .. }) if *not_after < now + SOON => {
                let what = format!("the certificate ends on {}", day(*not_after));
                rows.push(DrillRow {
                    is_warning: true,
                    ..DrillRow::of(name, "ends-soon", what)
                });
            }
            Ok(_) => {}
        }
    }
}

/// Finds private keys whose certificate belongs to another key. Which certificate is meant is told by the
/// file, else by the name without its ending, else by the folder, where one key and one certificate
/// stand there.
fn match_keys(opened: &[Opened<'_>], rows: &mut Vec<DrillRow>) {
    let split = |one: &Opened<'_>| -> (String, String) {
        let path = &one.entry.server_path;
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        (folder.to_owned(), stem.to_owned())
    };
    for one in opened {
        let Some(key) = private_half(one) else {
            continue;
        };
        let (folder, stem) = split(one);
        let own = certificate(one).map(|found| (one, found));
        let named = || {
            let others = opened
                .iter()
                .filter(|other| split(other) == (folder.clone(), stem.clone()));
            let mut others = others;
            others.find_map(|other| Some((other, certificate(other)?)))
        };
        let alone = || {
            let here = || opened.iter().filter(|other| split(other).0 == folder);
            let keys = here().filter(|other| private_half(other).is_some()).count();
            let found: Vec<_> = here()
                .filter_map(|other| Some((other, certificate(other)?)))
                .collect();
            match found[..] {
                [only] if keys == 1 => Some(only),
                _ => None,
            }
        };
        if let Some((other, certificate)) = own.or_else(named).or_else(alone)
            && certificate != key
        {
            let what = if std::ptr::eq(one, other) {
                "its private key and its certificate do not belong together".to_owned()
            } else {
                format!(
                    "its private key does not belong to the certificate in {}",
                    other.entry.repository_path
                )
            };
            rows.push(DrillRow::of(
                &one.entry.repository_path,
                "key-mismatch",
                what,
            ));
        }
    }
}

/// Returns the public half of the only private key of an entry.
fn private_half<'o>(one: &'o Opened<'_>) -> Option<&'o PublicHalf> {
    let mut keys = one.blocks.iter().filter_map(|block| match &block.kind {
        Ok(pem::Kind::PrivateKey { public }) => Some(public.as_ref()),
        _ => None,
    });
    match (keys.next(), keys.next()) {
        (Some(only), None) => only,
        _ => None,
    }
}

/// Returns the public key of an entry's first certificate: in a chain the server's own stands first.
fn certificate<'o>(one: &'o Opened<'_>) -> Option<&'o PublicHalf> {
    one.blocks.iter().find_map(|block| match &block.kind {
        Ok(pem::Kind::Certificate { public, .. }) => public.as_ref(),
        _ => None,
    })
}
