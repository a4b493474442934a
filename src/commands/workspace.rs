//! The repository and the server as one run sees them: manifest, folders, rules, identities.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::keyring::{Keyring, Sources};
use crate::os::fs::{self, FolderState};
use crate::os::git::{self, Checkout};
use crate::os::place::{Base, Place};
use crate::os::process;
use crate::os::state::StateDir;
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind, MANIFEST_FILE, Manifest, WriteMode};
use crate::rules::{RULES_FILE, Rules, RulesError};

use super::hints::{self, Hints};
use super::lost_key::{self, Replacement};
use super::members::{found_on_server, members};
use super::memory::Memory;
use super::{Context, Jobs, OwnerArgs, WriteArgs, apply, jobs_of};
use crate::sops::master_key::KeyId;

/// The way out of a server path that may not be one.
const ANOTHER_PATH: &str = "give the row another server path in the manifest";

/// Everything a command needs to know of repository and server.
pub struct Workspace {
    /// The manifest.
    pub manifest: Manifest,
    /// Where the manifest is.
    pub manifest_path: PathBuf,
    /// The folder of the manifest: the repository.
    pub repository: Base,
    /// The root on the server, as given.
    pub root_path: PathBuf,
    /// The root on the server, where it exists.
    pub root: Option<Base>,
    /// The identities of this run.
    pub keyring: Keyring,
    /// The identity file that the manifest names.
    pub identity: Option<PathBuf>,
    /// The state directory, where one could be determined.
    pub state: Option<StateDir>,
    /// The root, where the manifest names it and not the user's own word.
    pub declared_root: Option<PathBuf>,
    /// Recipients whose keys are lost, and those in their places.
    pub lost: Vec<Replacement>,
    /// This host's name, or the one to work as.
    pub host: String,
    /// Files on the server that match a pattern and are not in the repository.
    pub found_on_server: Vec<Entry>,
    /// How many entries are worked on at once.
    pub jobs: Jobs,
    /// Proposed command lines.
    pub hints: Hints,
    /// Files that a killed run was writing into.
    pub half_written: Vec<PathBuf>,
    /// The manifest as it was read.
    text: Option<String>,
    root_state: FolderState,
    pub(super) cwd: PathBuf,
    identity_files: Vec<PathBuf>,
    git_folders: Mutex<HashMap<PathBuf, bool>>,
    checkouts: Mutex<HashMap<PathBuf, Arc<Option<Checkout>>>>,
    checkout: OnceLock<Option<Checkout>>,
    head: OnceLock<Option<String>>,
    rules: Mutex<HashMap<PathBuf, Option<Arc<FoundRules>>>>,
    memory: OnceLock<Memory>,
}

/// A rules file and where it was found.
pub struct FoundRules {
    /// The file.
    pub path: PathBuf,
    /// Its folder.
    pub folder: PathBuf,
    /// What it says, or what is wrong with it.
    pub rules: Result<Rules, RulesError>,
}

impl Workspace {
    /// Opens the repository around the working directory; proposed commands repeat `owner`.
    ///
    /// # Errors
    /// No manifest, a wrong manifest, or no root.
    pub fn open(cx: &Context, owner: OwnerArgs) -> Result<Self, Error> {
        let manifest_path = find_manifest(cx)?;
        let text = read_manifest(cx, &manifest_path)?;
        let mut workspace = Self::open_text(cx, owner, manifest_path, &text, &[])?;
        workspace.text = Some(text);
        Ok(workspace)
    }

    /// Opens the repository for a writing command, as [`Workspace::open`] does, after what killed runs had done by half
    /// was taken back.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_to_write(cx: &mut Context, args: WriteArgs) -> Result<Self, Error> {
        let cleaned = apply::clean_up(cx, args);
        let mut workspace = Self::open(cx, args.owner)?;
        workspace.half_written = cleaned.written_over;
        Ok(workspace)
    }

    /// Returns the manifest's path if it is not what was read, as another run had the repository meanwhile.
    pub fn changed_manifest(&self) -> Option<PathBuf> {
        let text = self.text.as_ref()?;
        let now = fs::read_regular(&self.manifest_path).ok();
        (now.as_deref() != Some(text.as_bytes())).then(|| self.manifest_path.clone())
    }

    /// Opens the repository as it would be with this text as its manifest, and with further files.
    ///
    /// # Errors
    /// A wrong manifest.
    pub fn open_text(
        cx: &Context,
        owner: OwnerArgs,
        manifest_path: PathBuf,
        text: &str,
        files: &[String],
    ) -> Result<Self, Error> {
        let shown = shown_path(&cx.env.cwd, &manifest_path);
        let wrong = |error| Problem::new(error).with_help(format!("mend these lines of {shown}"));
        let mut manifest = Manifest::parse(text, &shown).map_err(wrong)?;
        let folder = manifest_path.parent().unwrap_or(Path::new("/"));
        let repository = Base::open(folder)?;
        let (root_path, is_declared) = root_path(cx, &manifest, folder);
        let (root, root_state) = match fs::folder_state(&root_path) {
            FolderState::Present => match Base::open(&root_path) {
                Ok(root) => (Some(root), FolderState::Present),
                Err(error) => (None, FolderState::Unusable(error.to_string())),
            },
            other => (None, other),
        };

        let state = state_dir(cx)?;
        let lost = lost_key::replacements(state.as_ref());
        let members = members(&manifest, &repository, root.as_ref(), state.as_ref(), files)?;
        manifest.expand(&members, &shown).map_err(wrong)?;
        let found_on_server = root
            .as_ref()
            .map(|root| found_on_server(&manifest, root))
            .unwrap_or_default();

        let (keyring, identity, identity_files) = load_keyring(cx, &manifest, folder)?;

        let hints = Hints::new(
            &cx.global,
            owner,
            &cx.env,
            repository.path(),
            git::work_tree_of(&manifest_path).is_some(),
        );
        let jobs = jobs_of(cx);
        let jobs = Jobs {
            // A question would be written over by it.
            shows_progress: jobs.shows_progress && !keyring.may_ask(),
            ..jobs
        };
        Ok(Self {
            manifest,
            manifest_path,
            repository,
            root,
            keyring,
            identity,
            state,
            declared_root: is_declared.then(|| root_path.clone()),
            host: host_name(cx),
            lost,
            found_on_server,
            jobs,
            hints,
            root_path,
            root_state,
            text: None,
            half_written: Vec::new(),
            cwd: cx.env.cwd.clone(),
            identity_files,
            git_folders: Mutex::new(HashMap::new()),
            checkouts: Mutex::new(HashMap::new()),
            checkout: OnceLock::new(),
            head: OnceLock::new(),
            rules: Mutex::new(HashMap::new()),
            memory: OnceLock::new(),
        })
    }

    /// Returns whether an entry's file on the server is written into, not replaced.
    pub fn is_written_in_place(&self, name: &str) -> bool {
        let mut entries = self.manifest.entries.iter();
        entries.any(|entry| entry.repository_path == name && entry.write == WriteMode::InPlace)
    }

    /// Returns the entry of this name, on whatever host.
    pub fn entry_named(&self, name: &str) -> Option<&Entry> {
        let mut entries = self.manifest.entries.iter();
        entries.find(|entry| entry.repository_path == name)
    }

    /// Returns whether the manifest has an entry of this name, on whatever host.
    pub fn is_entry(&self, name: &str) -> bool {
        self.entry_named(name).is_some()
    }

    /// Returns whom a backup of what is no secret of its own is encrypted for: the named recipients,
    /// else those of the identities at hand.
    pub fn own_recipients(&self) -> Vec<KeyId> {
        let named: Vec<String> = self
            .manifest
            .recipients
            .iter()
            .map(|named| named.key.clone())
            .collect();
        let recipients = if named.is_empty() {
            self.keyring.recipients()
        } else {
            named
        };
        recipients.iter().map(|key| KeyId::age(key)).collect()
    }

    /// Returns the root on the server.
    ///
    /// # Errors
    /// When it does not exist: this is not the server.
    pub fn require_root(&self) -> Result<&Base, Error> {
        self.root
            .as_ref()
            .ok_or_else(|| self.not_the_server().into())
    }

    /// Returns the problem that there is no root, that it does not exist, or cannot be used.
    pub fn not_the_server(&self) -> Problem {
        let root = self.root_path.clone();
        if root.as_os_str().is_empty() {
            return Problem::new(ErrorKind::NoRoot).with_help(
                "add `root = \"/opt/docker\"` to [defaults], or name it with `--root DIR`",
            );
        }
        if let FolderState::Unusable(reason) = &self.root_state {
            let reason = reason.clone();
            return Problem::new(ErrorKind::RootUnusable { root, reason })
                .with_help("name a folder you may enter with `--root DIR`");
        }
        Problem::new(ErrorKind::NotTheServer { root }).with_help(format!(
            "on another machine name a folder with `--root DIR`; on a new server {} makes it",
            self.hints.ours_for_all("decrypt --create-root")
        ))
    }

    /// Returns whether the root is known to be absent, as on a machine that is not the server.
    pub fn is_root_absent(&self) -> bool {
        matches!(self.root_state, FolderState::Absent) && !self.root_path.as_os_str().is_empty()
    }

    /// Returns the git checkout around the repository, where there is one that can be read.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn checkout(&self) -> Result<Option<&Checkout>, ErrorKind> {
        if let Some(found) = self.checkout.get() {
            return Ok(found.as_ref());
        }
        let found = Checkout::discover(self.repository.path())?;
        Ok(self.checkout.get_or_init(|| found).as_ref())
    }

    /// Returns the commit that `HEAD` was at when this was first asked, in full: a writing run asks before it reads
    /// the repository's files, which a pull may replace while it is at work.
    pub fn head(&self) -> Option<&str> {
        let head = || self.checkout().ok().flatten()?.head();
        self.head.get_or_init(head).as_deref()
    }

    /// Returns what is remembered of the last syncs, read when first needed: a writing run needs it
    /// after it has its locks.
    pub fn memory(&self) -> &Memory {
        self.memory.get_or_init(|| Memory::load(self))
    }

    /// Returns whether git's history is cut here.
    pub fn is_history_cut(&self) -> bool {
        matches!(self.checkout(), Ok(Some(checkout)) if checkout.is_shallow())
    }

    /// Returns the absolute path of an entry's file in the repository.
    pub fn repository_file(&self, entry: &Entry) -> PathBuf {
        self.repository.path().join(&entry.repository_path)
    }

    /// Returns the absolute path of an entry's file on the server.
    pub fn server_file(&self, entry: &Entry) -> PathBuf {
        self.root_path.join(&entry.server_path)
    }

    /// Finds the rules file that governs an entry: in the folder of its encrypted file or above,
    /// not beyond the repository.
    pub fn rules_for(&self, entry: &Entry) -> Option<Arc<FoundRules>> {
        let file = self.repository_file(entry);
        let limit = match self.checkout() {
            Ok(Some(checkout)) if self.repository.path().starts_with(checkout.top()) => {
                checkout.top().to_owned()
            }
            _ => self.repository.path().to_owned(),
        };
        let folder = file.parent()?.to_owned();
        let mut cache = self
            .rules
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = cache.get(&folder) {
            return found.clone();
        }
        let found = folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&limit))
            .find_map(read_rules)
            .map(Arc::new);
        cache.insert(folder, found.clone());
        found
    }

    /// Returns the rules file that stock `sops` would use in the working directory, when it is
    /// another one than `ours`.
    pub fn other_rules_file(&self, ours: &Path) -> Option<PathBuf> {
        let stock = self
            .cwd
            .ancestors()
            .map(|folder| folder.join(RULES_FILE))
            .find(|path| fs::exists(path))?;
        let same = fs::canonical(&stock) == fs::canonical(ours);
        (!same).then_some(stock)
    }

    /// Checks that an entry's file on the server may be captured, links resolved: a row that somebody pushed
    /// must not bring an identity, or something of a git folder, into the repository.
    ///
    /// # Errors
    /// The problem, with the entry's name.
    pub fn check_source(&self, entry: &Entry, place: &Place) -> Result<(), Problem> {
        let name = &entry.repository_path;
        let path = place.path();
        if self.is_in_git_folder(&path) {
            return Err(Problem::of(name, ErrorKind::GitTarget { path }).with_help(ANOTHER_PATH));
        }
        if let Some(state) = &self.state
            && path.starts_with(fs::resolved(state.path()))
        {
            return Err(Problem::of(name, ErrorKind::StateTarget { path }).with_help(ANOTHER_PATH));
        }
        let mut identity_files = self.identity_files.iter();
        if identity_files.any(|file| *file == path || fs::is_same_file(file, &path)) {
            let kind = ErrorKind::IdentityTarget { path };
            return Err(Problem::of(name, kind).with_help(ANOTHER_PATH));
        }
        Ok(())
    }

    /// Checks that the repository's file of a row of `[plain]` may be placed and shown: whoever pushes the row must not
    /// publish what lies in the checkout and is not the repository's.
    ///
    /// # Errors
    /// The problem, with the entry's name.
    pub fn check_plain(&self, entry: &Entry, place: &Place) -> Result<(), Problem> {
        let another = "give the row of [plain] another file, or leave it out";
        self.check_source(entry, place)
            .map_err(|problem| problem.with_help(another))?;
        let path = place.path();
        let Some(root) = self
            .root
            .as_ref()
            .filter(|root| path.starts_with(root.path()))
        else {
            return Ok(());
        };
        let secrets = self.manifest.entries.iter();
        // A link in the place of a file is none of ours, so that the last name tells most of them apart.
        let is_named_so =
            |one: &&Entry| Path::new(&one.server_path).file_name() == path.file_name();
        let mut secrets = secrets.filter(|one| one.kind == Kind::Secret && is_named_so(one));
        let is_its_own = |one: &&Entry| {
            let target = root.place(one.server_path.as_ref());
            target.is_ok_and(|target| target.path() == path)
        };
        let of_entry = secrets.find(is_its_own).map(|one| &*one.repository_path);
        let Some(of_entry) = of_entry.or_else(|| self.memory().secret_at(&path)) else {
            return Ok(());
        };
        let path = path.display().to_string();
        let refusal = Refusal::PlaintextAsPlain {
            path,
            entry: of_entry.to_owned(),
        };
        Err(Problem::of(&entry.repository_path, refusal).with_help(another))
    }

    /// Checks that a plaintext may be placed at an entry's target, links resolved: not in a git
    /// folder, not over an identity, the manifest, or a file that git tracks.
    ///
    /// # Errors
    /// The problem, with the entry's name.
    pub fn check_target(&self, entry: &Entry, place: &Place) -> Result<(), Problem> {
        self.check_source(entry, place)?;
        let name = &entry.repository_path;
        let another = ANOTHER_PATH;
        let path = place.path();
        let is_manifest =
            fs::canonical(&self.manifest_path).is_some_and(|manifest| manifest == path);
        if is_manifest || self.is_tracked(entry, &path)? {
            let shown = hints::quoted(&path.to_string_lossy());
            let top = git::work_tree_of(&path).unwrap_or(&path);
            let top = hints::quoted(&top.to_string_lossy());
            let remove = format!("`git -C {top} rm --cached -- {shown}`");
            return Err(Problem::of(
                name,
                Refusal::TrackedTarget {
                    path: path.display().to_string(),
                },
            )
            .with_help(format!("{another}, or stop tracking it: {remove}")));
        }
        Ok(())
    }

    /// Returns whether `git add` would take a path along, links resolved, in whatever checkout it lies; not where that cannot
    /// be told.
    pub fn would_be_added(&self, path: &Path) -> bool {
        let checkout = git::work_tree_of(path).map(|top| self.checkout_at(top));
        let Some(Ok(checkout)) = checkout else {
            return false;
        };
        checkout
            .as_ref()
            .as_ref()
            .is_some_and(|checkout| !checkout.is_ignored(path).unwrap_or(true))
    }

    /// Returns the checkout with this work tree, opened once in a run.
    fn checkout_at(&self, top: &Path) -> Result<Arc<Option<Checkout>>, ErrorKind> {
        let mut known = self
            .checkouts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(checkout) = known.get(top) {
            return Ok(Arc::clone(checkout));
        }
        let found = Arc::new(Checkout::discover(top)?);
        known.insert(top.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    /// Returns whether git tracks a path, links resolved, in whatever checkout it lies.
    ///
    /// # Errors
    /// When that checkout cannot be read.
    pub fn is_tracked(&self, entry: &Entry, path: &Path) -> Result<bool, Problem> {
        let Some(top) = git::work_tree_of(path) else {
            return Ok(false);
        };
        let ask = || -> Result<bool, ErrorKind> {
            match &*self.checkout_at(top)? {
                Some(checkout) => Ok(checkout.is_tracked(path)?),
                None => Ok(false),
            }
        };
        ask().map_err(|error| {
            let status = format!("`git -C {} status`", hints::quoted(&top.to_string_lossy()));
            Problem::of(&entry.repository_path, error)
                .with_help(format!("{status} shows what is wrong with the checkout"))
        })
    }

    /// Returns whether a path lies where git keeps its data. Each folder above it is looked at once
    /// in a run.
    fn is_in_git_folder(&self, path: &Path) -> bool {
        let mut known = self
            .git_folders
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut seen = Vec::new();
        let mut found = false;
        for folder in path.ancestors().skip(1) {
            if let Some(&answer) = known.get(folder) {
                found = answer;
                break;
            }
            seen.push(folder.to_owned());
            if git::is_git_folder(folder) {
                found = true;
                break;
            }
        }
        known.extend(seen.into_iter().map(|folder| (folder, found)));
        found
    }

    /// Finds entries that lead to one file on the server through links. Every entry of the
    /// manifest counts; problems are told for `entries`.
    pub fn check_distinct(&self, entries: &[&Entry], problems: &mut Vec<Problem>) {
        let Some(root) = &self.root else { return };
        let mut owners: HashMap<PathBuf, Vec<&Entry>> = HashMap::new();
        let here = self.manifest.entries.iter();
        for entry in here.filter(|entry| entry.is_for(&self.host)) {
            if let Ok(place) = root.place(entry.server_path.as_ref()) {
                owners.entry(place.path()).or_default().push(entry);
            }
        }
        for group in owners.values().filter(|group| group.len() > 1) {
            for entry in entries.iter().filter(|entry| group.contains(entry)) {
                let Some(other) = group.iter().find(|other| *other != entry) else {
                    continue;
                };
                let other = other.repository_path.clone();
                problems.push(
                    Problem::of(&entry.repository_path, ErrorKind::SameTarget { other })
                        .with_help("remove one of the two rows, or the link"),
                );
            }
        }
    }
}

/// Reads the identities, and returns the files they may be in, links resolved.
fn load_keyring(
    cx: &Context,
    manifest: &Manifest,
    folder: &Path,
) -> Result<(Keyring, Option<PathBuf>, Vec<PathBuf>), Error> {
    let manifest_identity = manifest
        .identity
        .as_deref()
        .map(|path| expand(cx, folder, path));
    let explicit: Vec<PathBuf> = cx
        .global
        .identities
        .iter()
        .map(|path| cx.env.absolute(path))
        .collect();
    if let Some(absent) = explicit.iter().find(|path| !fs::exists(path)) {
        let message = format!("-i {}: there is no such file", absent.display());
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("name an identity file that exists")
            .into());
    }
    let keyring = Keyring::load(
        &cx.env,
        &Sources {
            explicit: &explicit,
            manifest: manifest_identity.as_deref(),
        },
        cx.asker(),
    );
    let mut identity_files = explicit;
    identity_files.extend(manifest_identity.clone());
    identity_files.extend(cx.env.path_var("SOPS_AGE_KEY_FILE"));
    identity_files.extend(
        cx.env
            .config_dir()
            .map(|config| config.join("sops/age/keys.txt")),
    );
    identity_files.extend(cx.env.path_var("SOPS_AGE_SSH_PRIVATE_KEY_FILE"));
    // An SSH key that is not what files are opened with is a secret like others.
    let recipients = keyring.recipients();
    if !recipients.is_empty() && recipients.iter().all(|one| one.starts_with("ssh-")) {
        let folder = cx.env.home().map(|home| home.join(".ssh"));
        let names = ["id_ed25519", "id_rsa"];
        identity_files.extend(
            folder
                .iter()
                .flat_map(|folder| names.map(|name| folder.join(name))),
        );
    }
    // Also where none is yet: what a row puts there would be taken for one.
    let identity_files = identity_files
        .iter()
        .map(|path| fs::resolved(&cx.env.absolute(path)))
        .collect();
    Ok((keyring, manifest_identity, identity_files))
}

/// Finds the manifest: named, else upward from the working directory.
///
/// # Errors
/// That there is none.
pub fn find_manifest(cx: &Context) -> Result<PathBuf, Error> {
    let named = cx
        .global
        .manifest
        .as_ref()
        .map(|path| cx.env.absolute(path));
    if let Some(path) = named.or_else(|| cx.env.path_var("SECRETS_MANIFEST")) {
        return Ok(path);
    }
    let found = cx
        .env
        .cwd
        .ancestors()
        .map(|folder| folder.join(MANIFEST_FILE))
        .find(|path| fs::exists(path));
    found.ok_or_else(|| {
        Problem::new(ErrorKind::NoManifest {
            from: cx.env.cwd.clone(),
        })
        .with_help("go into the repository, or name the manifest with `-m FILE`")
        .into()
    })
}

/// A longer manifest, and longer rules, are not read: 16 MiB.
const LONGEST_TEXT: u64 = 16 << 20;

/// Reads the manifest's text.
///
/// # Errors
/// That it cannot be read.
pub fn read_manifest(cx: &Context, path: &Path) -> Result<String, Error> {
    let read_failed = |source| fs::FsError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    };
    let bytes = fs::read_regular_bounded(path, LONGEST_TEXT).map_err(|error| {
        Problem::new(read_failed(error)).with_help("name the manifest with `-m FILE`")
    })?;
    let shown = shown_path(&cx.env.cwd, path);
    String::from_utf8(bytes)
        .map_err(|_| ErrorKind::Option(format!("{shown}: not UTF-8 text")).into())
}

/// Returns the name of this host, or the one to work as.
fn host_name(cx: &Context) -> String {
    let named = cx.global.host.clone();
    let variable = || {
        let name = cx.env.var("SECRETS_HOST")?;
        Some(name.to_string_lossy().into_owned())
    };
    named.or_else(variable).unwrap_or_else(process::host_name)
}

/// Returns the state directory. One whose name depends on where a command is typed would forget all at the next
/// place.
fn state_dir(cx: &Context) -> Result<Option<StateDir>, Problem> {
    let named = cx.env.var("SECRETS_STATE_DIR").map(Path::new);
    if let Some(named) = named.filter(|named| named.is_relative()) {
        let message = format!(
            "SECRETS_STATE_DIR={}: the path is relative",
            named.display()
        );
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("give the whole path, from `/` on: it holds for every working directory"));
    }
    Ok(StateDir::locate(&cx.env))
}

/// Returns the root by the user's own word, else as declared, and whether it is declared; empty where
/// neither names one.
fn root_path(cx: &Context, manifest: &Manifest, folder: &Path) -> (PathBuf, bool) {
    let own_word = cx.global.root.as_ref().map(|path| cx.env.absolute(path));
    let declared = || {
        manifest
            .root
            .as_deref()
            .map(|root| fs::normalize(&folder.join(root)))
    };
    match own_word.or_else(|| cx.env.path_var("SECRETS_ROOT")) {
        Some(root) => (root, false),
        None => declared().map_or_else(Default::default, |root| (root, true)),
    }
}

/// Makes the manifest's identity path absolute; `~/` is the user's home.
fn expand(cx: &Context, folder: &Path, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), cx.env.home()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => fs::normalize(&folder.join(path)),
    }
}

/// Shortens a path for messages where it lies below the working directory.
fn shown_path(cwd: &Path, path: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

fn read_rules(folder: &Path) -> Option<FoundRules> {
    let path = folder.join(RULES_FILE);
    if !fs::is_there(&path) {
        return None;
    }
    let rules = match fs::read_regular_bounded(&path, LONGEST_TEXT) {
        Ok(bytes) => Rules::parse(&String::from_utf8_lossy(&bytes)),
        Err(error) => Err(RulesError::Unreadable {
            reason: error.to_string(),
        }),
    };
    Some(FoundRules {
        path,
        folder: folder.to_owned(),
        rules,
    })
}
