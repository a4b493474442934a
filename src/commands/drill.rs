//! `drill`: everything `recover` would do, in memory: would this host come back?

use std::time::{Instant, UNIX_EPOCH};

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::place::Found;
use crate::project::guard::{Allowed, check_change};
use crate::project::manifest::{Entry, Kind};
use crate::project::pem::{self, Block, PublicHalf};
use crate::secret::SecretBytes;
use crate::ui::drill::{DrillRow, DrillView};

use super::open::{Lookup, open, read_encrypted};
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
    if workspace.root.is_none() && !workspace.is_root_absent() {
        problems.push(workspace.not_the_server());
    }
    let (plain, secret): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.kind == Kind::Plain);
    let mut opened = Vec::new();
    for entry in plain {
        let file = workspace.repository_file(entry);
        match fs::read_regular(&file) {
            Ok(content) => opened.push(Opened::of(entry, SecretBytes::new(content))),
            Err(_) if entry.optional => {}
            Err(_) => {
                let what = "the file does not exist in the repository".to_owned();
                rows.push(DrillRow::of(&entry.repository_path, "missing", what));
            }
        }
    }
    let results = in_parallel(&secret, workspace.jobs, |entry| {
        open_entry(&workspace, entry)
    });
    let mut absent = 0;
    for (entry, result) in secret.iter().zip(results) {
        match result {
            Ok(Some(one)) => opened.push(one),
            Ok(None) => absent += 1,
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
    let secrets = || opened.iter().filter(|one| one.entry.kind == Kind::Secret);
    let bytes = secrets().map(|one| one.plaintext.expose().len() as u64);
    let view = DrillView {
        host: workspace.host.clone(),
        is_whole: args.entries.is_empty(),
        entries: secret.len() - absent,
        opened: secrets().count(),
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
    let encrypted = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => encrypted,
        Lookup::Missing(_) if entry.optional => return Ok(None),
        Lookup::Missing(_) => {
            let name = &entry.repository_path;
            return Err(Problem::of(name, ErrorKind::EncryptedMissing));
        }
    };
    let plaintext = open(workspace, entry, &encrypted)?.0.plaintext;
    Ok(Some(Opened::of(entry, plaintext)))
}

impl<'w> Opened<'w> {
    fn of(entry: &'w Entry, plaintext: SecretBytes) -> Self {
        let blocks = pem::blocks(plaintext.expose());
        Self {
            entry,
            plaintext,
            blocks,
        }
    }

    fn folder(&self) -> &str {
        let path = &self.entry.server_path;
        path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Returns the file's name without its ending.
    fn stem(&self) -> &str {
        let path = &self.entry.server_path;
        let file = path
            .rsplit_once('/')
            .map_or(path.as_str(), |(_, file)| file);
        file.rsplit_once('.').map_or(file, |(stem, _)| stem)
    }

    /// Returns the public halves of its private keys; `None` for one that does not tell it.
    fn keys(&self) -> Vec<Option<&PublicHalf>> {
        let blocks = self.blocks.iter();
        blocks
            .filter_map(|block| match &block.kind {
                Ok(pem::Kind::PrivateKey { public }) => Some(public.as_ref()),
                _ => None,
            })
            .collect()
    }

    /// Returns the public keys of its certificates, with or without those of authorities; `None` for
    /// one that is not told.
    fn certificates(&self, with_authorities: bool) -> Vec<Option<&PublicHalf>> {
        let blocks = self.blocks.iter();
        blocks
            .filter_map(|block| match &block.kind {
                Ok(pem::Kind::Certificate {
                    public,
                    is_authority,
                    ..
                }) if with_authorities || !is_authority => Some(public.as_ref()),
                _ => None,
            })
            .collect()
    }
}

/// Looks at what is in an entry.
fn look_at(workspace: &Workspace, one: &Opened<'_>, now: u64, rows: &mut Vec<DrillRow>) {
    let entry = one.entry;
    let name = &entry.repository_path;
    let content = one.plaintext.expose();
    let allowed = Allowed::default();
    let found = check_change(None, content, entry.reading(), &entry.required, allowed);
    rows.extend(
        found
            .iter()
            .map(|refusal| DrillRow::of(name, "required", refusal.to_string())),
    );
    if content.is_empty() && entry.kind == Kind::Secret {
        rows.push(DrillRow::of(
            name,
            "empty",
            "it is empty (zero bytes)".to_owned(),
        ));
    }
    if let Some(root) = &workspace.root {
        let what = match root.place(entry.server_path.as_ref()) {
            Err(error) => Some(error.to_string()),
            Ok(place) => match (workspace.check_target(entry, &place), place.look()) {
                (Err(problem), _) => Some(problem.kind.to_string()),
                (Ok(()), Found::Other(kind)) => Some(format!(
                    "{} is {kind}, not a regular file",
                    place.path().display()
                )),
                _ => None,
            },
        };
        rows.extend(what.map(|what| DrillRow::of(name, "target", what)));
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
                rows.push(DrillRow::warning(name, "ends-soon", what));
            }
            Ok(_) => {}
        }
    }
}

/// Finds private keys whose certificate belongs to another key. Which certificate is meant is told by the
/// file, else by the name without its ending, else by the folder: the one that it belongs to, or, where it
/// is the only key there, those that are no authority's.
fn match_keys(opened: &[Opened<'_>], rows: &mut Vec<DrillRow>) {
    for one in opened {
        let in_folder: Vec<&Opened<'_>> = opened
            .iter()
            .filter(|other| other.folder() == one.folder())
            .collect();
        let (meant, with_authorities) = meant_by(one, &in_folder);
        let certificates: Vec<_> = meant
            .iter()
            .flat_map(|other| other.certificates(with_authorities))
            .collect();
        let has_some = in_folder
            .iter()
            .any(|other| !other.certificates(true).is_empty());
        let name = &one.entry.repository_path;
        for key in one.keys() {
            if certificates.is_empty() && has_some && !one.entry.reading().has_keys() {
                let what =
                    "to which certificate of its folder its private key belongs cannot be told";
                rows.push(DrillRow::warning(name, "not-told", what.to_owned()));
            }
            let is_matched = key.is_some() && certificates.contains(&key);
            if certificates.is_empty() || is_matched {
                continue;
            }
            let place = match &meant[..] {
                [other] if std::ptr::eq(*other, one) => "its certificate".to_owned(),
                [other] => format!("the certificate in {}", other.entry.repository_path),
                _ => "a certificate beside it".to_owned(),
            };
            if key.is_none() || certificates.contains(&None) {
                let what = format!("whether its private key belongs to {place} cannot be told");
                rows.push(DrillRow::warning(name, "not-told", what));
            } else {
                let what = format!("its private key does not belong to {place}");
                rows.push(DrillRow::of(name, "key-mismatch", what));
            }
        }
    }
}

/// Returns the files whose certificates a file's key is meant for, and whether those of authorities
/// count.
fn meant_by<'o>(one: &'o Opened<'o>, in_folder: &[&'o Opened<'o>]) -> (Vec<&'o Opened<'o>>, bool) {
    let has = |other: &&Opened<'_>, with: bool| !other.certificates(with).is_empty();
    if has(&one, true) {
        return (vec![one], true);
    }
    let namesakes: Vec<_> = in_folder
        .iter()
        .copied()
        .filter(|other| other.stem() == one.stem() && has(other, true))
        .collect();
    if !namesakes.is_empty() {
        return (namesakes, true);
    }
    let any = || in_folder.iter().copied();
    let keys = one.keys();
    let is_matched = |other: &&Opened<'_>| {
        let certificates = other.certificates(true);
        keys.iter()
            .any(|key| key.is_some() && certificates.contains(key))
    };
    if any().any(|other| is_matched(&other)) {
        return (any().filter(|other| has(other, true)).collect(), true);
    }
    let count: usize = any().map(|other| other.keys().len()).sum();
    if count == 1 {
        (any().filter(|other| has(other, false)).collect(), false)
    } else {
        (Vec::new(), false)
    }
}
