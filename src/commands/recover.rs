//! `recover`: brings a bare host back: identity, root, every file of this host.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::keyring::Keyring;
use crate::os::fs;
use crate::os::place::Ownership;
use crate::os::users::{self, Database};
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind};
use crate::project::plan::{DecryptOptions, Plan};
use crate::secret::SecretBytes;
use crate::ui::prompt::{self, Choice};
use crate::ui::report::Recovery;

use super::keygen::identity_mode;
use super::lost_key;
use super::open::{Lookup, key_problem, read_encrypted};
use super::ownership::{self, Owners, Purpose};
use super::placing::{self, PlacingOptions, Recovering};
use super::sides::{compare, read_plain_sides};
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, apply, in_parallel};
use crate::ui::diff::Comparison;

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

/// How the identity is installed.
pub struct Installation {
    /// Where.
    pub path: PathBuf,
    /// Owner and group.
    pub owner: Ownership,
    /// Permission bits.
    pub mode: u32,
    /// What is to stand there; `None` where nothing is to be installed.
    pub content: Option<SecretBytes>,
    /// Nothing is to be written.
    pub is_dry: bool,
    /// What was done with it.
    pub action: &'static str,
    /// Where the identity is now that was there before.
    pub old: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &RecoverArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let mut workspace = Workspace::open(cx, args.write.owner)?;
    let mut problems = Vec::new();
    let mut installation = installation(cx, &workspace, args, &mut problems)?;
    if args.new_key {
        let request = lost_key::Request {
            lost: args.lost.as_deref(),
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
        installation.content = content_of_named(cx, &installation.path);
    } else {
        let text = read_identity(cx, closed)?;
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
        installation.content = Some(text);
    }
    confirm_replacement(cx, args, &installation)?;
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

/// Says where and how the identity is installed. Accounts that do not exist are problems, told with
/// those of the entries.
fn installation(
    cx: &Context,
    workspace: &Workspace,
    args: &RecoverArgs,
    problems: &mut Vec<Problem>,
) -> Result<Installation, Error> {
    let named = args.identity_out.as_ref().map(|path| cx.env.absolute(path));
    let usual = || Some(cx.env.config_dir()?.join("sops/age/keys.txt"));
    let path = named
        .or_else(|| workspace.identity.clone())
        .or_else(usual)
        .ok_or_else(|| {
            Problem::new(ErrorKind::Option(
                "nothing says where the identity goes".to_owned(),
            ))
            .with_help("name the file: `--identity-out FILE`")
        })?;
    let no_owner = args.write.owner.no_owner;
    let defaults = &workspace.manifest.defaults;
    let group = args.group.as_ref().or(defaults.group.as_ref());
    let mut find = |database, kind: &'static str, name: Option<&String>| -> Option<u32> {
        let name = name.filter(|_| !no_owner)?;
        let found = users::find_id(database, name);
        if found.is_none() {
            let name = name.clone();
            problems.push(
                Problem::new(ErrorKind::UnknownAccount { kind, name }).with_help(format!(
                    "create the {kind}, or leave owner and group alone with `--no-owner`"
                )),
            );
        }
        found
    };
    let owner = Ownership {
        uid: find(Database::Passwd, "user", args.owner.as_ref()),
        gid: find(Database::Group, "group", group),
    };
    let usual_mode = if owner.gid.is_some() { 0o640 } else { 0o600 };
    Ok(Installation {
        path,
        owner,
        mode: args.mode.unwrap_or(usual_mode),
        content: None,
        is_dry: args.write.dry_run,
        action: "not-installed",
        old: None,
    })
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

/// Returns what `-i` names, where that opens everything and nothing is installed yet: it becomes the
/// installed one.
fn content_of_named(cx: &Context, installed: &Path) -> Option<SecretBytes> {
    let named = cx.global.identities.first()?;
    let named = cx.env.absolute(named);
    let is_same = fs::canonical(&named) == fs::canonical(installed);
    if is_same || fs::is_there(installed) {
        return None;
    }
    fs::read_regular(&named).ok().map(SecretBytes::new)
}

/// Reads an identity from a hidden prompt, or from standard input.
fn read_identity(cx: &mut Context, closed: Vec<Problem>) -> Result<SecretBytes, Error> {
    /// More than any identity file holds.
    const LONGEST: u64 = 1 << 20;
    let failed = |source| {
        let path = "standard input".into();
        Problem::new(ErrorKind::Unreadable { path, source })
            .with_help("hand the key over on standard input: `secrets recover < key.txt`")
    };
    if let Some(asker) = cx.asker() {
        asker.say("No identity here opens every entry of this host.");
        // A pasted file begins with comments: the line that counts comes behind them.
        for _ in 0..16 {
            let typed = asker
                .hidden("Paste the key (AGE-SECRET-KEY-…), it is not shown: ")
                .map_err(failed)?;
            let line = typed.expose().trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                return Ok(typed);
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
        let what = "the key".to_owned();
        problems.push(
            Problem::new(ErrorKind::NoTerminal { what })
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
    Ok(SecretBytes::copy_of(&text))
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

/// Asks before another key than the one that is installed takes its place.
fn confirm_replacement(
    cx: &mut Context,
    args: &RecoverArgs,
    installation: &Installation,
) -> Result<(), Error> {
    if !installation.replaces_another() || cx.global.yes || args.write.dry_run {
        return Ok(());
    }
    let path = installation.path.display().to_string();
    let refusal = || {
        let refusal = Refusal::AlreadyThere { path: path.clone() };
        Problem::new(refusal).with_help(
            "`--yes` keeps that key under another name and installs the new one; `--identity-out FILE` leaves it alone",
        )
    };
    let Some(asker) = cx.asker() else {
        return Err(refusal().into());
    };
    let choices = [
        Choice::new(
            'y',
            "yes",
            "keep it under another name, and install the new one",
        ),
        Choice::new('n', "no", "stop"),
    ];
    let question = format!("{path} holds another key. Go on?");
    match prompt::choose(&*asker, &question, &choices) {
        Ok(Some('y')) => Ok(()),
        _ => Err(refusal().into()),
    }
}

impl Installation {
    /// Returns whether another key is there.
    fn replaces_another(&self) -> bool {
        let Some(content) = &self.content else {
            return false;
        };
        fs::read_regular(&self.path)
            .is_ok_and(|there| there.trim_ascii() != content.expose().trim_ascii())
    }

    /// Installs the identity; what was there is kept under another name.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub fn install(&mut self, now: &str) -> Result<(), Problem> {
        if self.action != "not-installed" {
            return Ok(());
        }
        let Some(content) = &self.content else {
            let is_installed = fs::is_there(&self.path);
            self.action = if is_installed { "used" } else { "elsewhere" };
            return Ok(());
        };
        let failed = |error| {
            Problem::new(error)
                .with_help("name a file in a folder you may write: `--identity-out FILE`")
        };
        let is_there = fs::is_there(&self.path);
        if is_there && !self.replaces_another() {
            self.action = "used";
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            fs::create_folder(folder, 0o755).map_err(failed)?;
        }
        let mut text = SecretBytes::new(Vec::with_capacity(content.expose().len() + 1));
        text.expose_mut().extend_from_slice(content.expose());
        if !text.expose().ends_with(b"\n") {
            text.expose_mut().push(b'\n');
        }
        if is_there {
            let stamp = now.replace([':', '-'], "");
            let old = with_suffix(&self.path, &format!(".old-{stamp}"));
            fs::rename(&self.path, &old)
                .map_err(fs::failed(&self.path, "keep under another name"))
                .map_err(failed)?;
            self.old = Some(old);
        }
        let written = fs::write_new(&self.path, text.expose(), self.owner, self.mode);
        if let (Err(_), Some(old)) = (&written, self.old.take_if(|_| written.is_err())) {
            drop(fs::rename(&old, &self.path));
        }
        written.map_err(failed)?;
        self.action = if is_there { "replaced" } else { "installed" };
        Ok(())
    }
}

impl Recovering for Installation {
    fn before(&mut self, cx: &mut Context, workspace: &Workspace) -> Result<(), Problem> {
        if workspace.root.is_none() && !fs::is_folder(&workspace.root_path) {
            fs::create_folder(&workspace.root_path, 0o755).map_err(|error| {
                Problem::new(error).with_help("create the root by hand, or run as root")
            })?;
        }
        self.install(&cx.env.now())
    }

    fn after(&self, workspace: &Workspace, _plan: &Plan) -> Recovery {
        Recovery {
            identity: self.path.display().to_string(),
            identity_action: match &self.content {
                Some(_) if self.is_dry => "to-be-installed",
                _ => self.action,
            },
            old_identity: self.old.as_ref().map(|old| old.display().to_string()),
            not_deployed: not_deployed(workspace),
            deploy: workspace.hints.ours_for_all("deploy"),
        }
    }
}

/// Returns the rows of `[plain]` whose file is missing on the server or differs.
fn not_deployed(workspace: &Workspace) -> Vec<String> {
    let entries = workspace.select(&[]).unwrap_or_default().into_iter();
    let plain = entries.filter(|entry| entry.kind == Kind::Plain);
    let root = crate::os::place::Base::open(&workspace.root_path).ok();
    let differs = |entry: &&Entry| match &root {
        None => true,
        Some(root) => read_plain_sides(workspace, root, entry).map_or(true, |sides| {
            let repository = sides.repository.as_ref().map(SecretBytes::expose);
            let server = sides.server.as_ref().map(|(_, content)| content.expose());
            let found = compare(entry, repository, server);
            !matches!(found, Comparison::Same)
        }),
    };
    plain
        .filter(differs)
        .map(|entry| entry.repository_path.clone())
        .collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
