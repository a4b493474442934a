//! The repository and the server as one run sees them: manifest, folders, rules, identities.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age::{Keyring, Sources};
use crate::os::fs::{self, Base, FileState, Ownership};
use crate::os::git::Checkout;
use crate::os::state::StateDir;
use crate::os::users::{self, Database};
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind, Located, MANIFEST_FILE, Manifest};
use crate::rules::{RULES_FILE, Rules, RulesError};

use super::Context;

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
    /// The state directory, where one could be determined.
    pub state: Option<StateDir>,
    /// How many entries are worked on at once.
    pub jobs: usize,
    cwd: PathBuf,
    identity_files: Vec<PathBuf>,
    checkout: OnceLock<Option<Checkout>>,
    rules: Mutex<HashMap<PathBuf, Option<Arc<FoundRules>>>>,
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
    /// Opens the repository around the working directory.
    ///
    /// # Errors
    /// No manifest, a wrong manifest, or no root.
    pub fn open(cx: &Context) -> Result<Self, Error> {
        let manifest_path = find_manifest(cx)?;
        let read_failed = |source| fs::FsError::Io {
            path: manifest_path.clone(),
            action: "read",
            source,
        };
        let bytes = fs::read(&manifest_path).map_err(read_failed)?;
        let shown = shown_path(&cx.env.cwd, &manifest_path);
        let text = String::from_utf8(bytes)
            .map_err(|_| ErrorKind::Option(format!("{shown}: not UTF-8 text")))?;
        let manifest = Manifest::parse(&text, &shown).map_err(|error| {
            Problem::new(error)
                .with_help(format!("edit {shown}; `secrets list` shows what it means"))
        })?;
        let folder = manifest_path.parent().unwrap_or(Path::new("/"));
        let repository = Base::open(folder)?;
        let root_path = root_path(cx, &manifest, folder);
        let root = fs::is_folder(&root_path)
            .then(|| Base::open(&root_path))
            .transpose()?;

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
        let keyring = Keyring::load(
            &cx.env,
            &Sources {
                explicit: &explicit,
                manifest: manifest_identity.as_deref(),
            },
        );
        let mut identity_files = explicit;
        identity_files.extend(manifest_identity);
        identity_files.extend(cx.env.path_var("SOPS_AGE_KEY_FILE"));
        identity_files.extend(
            cx.env
                .config_dir()
                .map(|config| config.join("sops/age/keys.txt")),
        );
        let identity_files = identity_files
            .iter()
            .filter_map(|path| fs::canonical(path))
            .collect();

        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            manifest,
            manifest_path,
            repository,
            root_path,
            root,
            keyring,
            state: StateDir::locate(&cx.env),
            jobs: cx.global.jobs.map_or(processors, usize::from),
            cwd: cx.env.cwd.clone(),
            identity_files,
            checkout: OnceLock::new(),
            rules: Mutex::new(HashMap::new()),
        })
    }

    /// Returns the entries that `words` name, in manifest order.
    ///
    /// # Errors
    /// A word that names none, with the closest name.
    pub fn select(&self, words: &[String]) -> Result<Vec<&Entry>, Error> {
        let selected = self
            .manifest
            .select(words, |word| self.locate(word))
            .map_err(|error| {
                let help = match &error {
                    crate::project::error::SelectionError::Unknown {
                        closest: Some(name),
                        ..
                    } => {
                        format!("did you mean `{name}`? `secrets list` shows all entries")
                    }
                    _ => "`secrets list` shows all entries".to_owned(),
                };
                Problem::new(error).with_help(help)
            })?;
        Ok(selected
            .into_iter()
            .map(|index| &self.manifest.entries[index])
            .collect())
    }

    /// Returns the selected entries of [files]. Rows of [plain] are left out, and a problem where
    /// they were named.
    ///
    /// # Errors
    /// As [`Workspace::select`]; a plain row that was named.
    pub fn select_secret(&self, words: &[String]) -> Result<Vec<&Entry>, Error> {
        let (secret, plain): (Vec<_>, Vec<_>) = self
            .select(words)?
            .into_iter()
            .partition(|entry| entry.kind == Kind::Secret);
        match plain.first() {
            Some(entry) if secret.is_empty() && !words.is_empty() => {
                Err(Problem::of(&entry.repository_path, ErrorKind::PlainRow)
                    .with_help(format!(
                        "`secrets diff '{}'` compares it",
                        entry.repository_path
                    ))
                    .into())
            }
            _ => Ok(secret),
        }
    }

    /// Turns a path typed in the working directory into paths relative to repository and root.
    fn locate(&self, word: &str) -> Located {
        let path = fs::normalize(&self.cwd.join(word));
        // The folder may be reached through a link; the file itself need not exist.
        let resolved = match (path.parent().and_then(fs::canonical), path.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => path.clone(),
        };
        let below = |base: &Path| {
            [&path, &resolved]
                .iter()
                .find_map(|path| path.strip_prefix(base).ok())
                .and_then(|path| path.to_str())
                .map(str::to_owned)
        };
        let in_root = below(&self.root_path).or_else(|| below(self.root.as_ref()?.path()));
        Located {
            in_repository: below(self.repository.path()),
            in_root,
        }
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

    /// Returns the problem that there is no root, or that it does not exist.
    pub fn not_the_server(&self) -> Problem {
        if self.root_path.as_os_str().is_empty() {
            return Problem::new(ErrorKind::NoRoot).with_help(
                "add `root = \"/opt/docker\"` to [defaults], or name it with `--root DIR`",
            );
        }
        Problem::new(ErrorKind::NotTheServer { root: self.root_path.clone() })
            .with_help("on another machine name a folder with `--root DIR`; to set up a new server: `secrets decrypt --create-root`")
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

    /// Resolves the declared owners of all entries to numbers and checks that this process may
    /// give files to them. All problems at once.
    pub fn resolve_owners(
        &self,
        entries: &[&Entry],
        problems: &mut Vec<Problem>,
    ) -> HashMap<String, Ownership> {
        let mut known: HashMap<(bool, String), Option<u32>> = HashMap::new();
        let mut owners = HashMap::new();
        for entry in entries {
            let mut resolve = |database, name: &Option<String>| -> Option<u32> {
                let name = name.as_ref()?;
                let is_user = database == Database::Passwd;
                let id = *known
                    .entry((is_user, name.clone()))
                    .or_insert_with(|| users::find_id(database, name));
                let kind = if is_user { "user" } else { "group" };
                let problem = match id {
                    None => ErrorKind::UnknownAccount {
                        kind,
                        name: name.clone(),
                    },
                    Some(id) if is_user && !users::may_give_to_user(id) => {
                        ErrorKind::NoRightToGive {
                            what: format!("{kind} {name}"),
                        }
                    }
                    Some(id) if !is_user && !users::may_give_to_group(id) => {
                        ErrorKind::NoRightToGive {
                            what: format!("{kind} {name}"),
                        }
                    }
                    Some(_) => return id,
                };
                problems.push(Problem::of(&entry.repository_path, problem).with_help(
                    "create the account or run as root; `--no-owner` leaves owner and group as the system sets them",
                ));
                None
            };
            let ownership = Ownership {
                uid: resolve(Database::Passwd, &entry.owner),
                gid: resolve(Database::Group, &entry.group),
            };
            owners.insert(entry.repository_path.clone(), ownership);
        }
        owners
    }

    /// Resolves the declared owners that exist here, without asking whether files may be given to
    /// them: for commands that only compare.
    pub fn resolve_known(&self, entries: &[&Entry]) -> HashMap<String, Ownership> {
        let mut known: HashMap<(bool, String), Option<u32>> = HashMap::new();
        let mut find = |database, name: &Option<String>| {
            let name = name.clone()?;
            let is_user = database == Database::Passwd;
            *known
                .entry((is_user, name.clone()))
                .or_insert_with(|| users::find_id(database, &name))
        };
        entries
            .iter()
            .map(|entry| {
                let uid = find(Database::Passwd, &entry.owner);
                let gid = find(Database::Group, &entry.group);
                (entry.repository_path.clone(), Ownership { uid, gid })
            })
            .collect()
    }

    /// Checks that a plaintext may be placed at an entry's target: not over an identity, the
    /// manifest, or a file that git tracks.
    ///
    /// # Errors
    /// The problem, with the entry's name.
    pub fn check_target(&self, entry: &Entry, root: &Base) -> Result<(), Problem> {
        let path = root.path().join(&entry.server_path);
        let real = fs::canonical(&path).unwrap_or_else(|| path.clone());
        if self.identity_files.contains(&real) {
            return Err(
                Problem::of(&entry.repository_path, ErrorKind::IdentityTarget { path })
                    .with_help("give the row another server path in the manifest"),
            );
        }
        let is_own_file =
            fs::canonical(&self.manifest_path).is_some_and(|manifest| manifest == real);
        let is_tracked = match self.checkout() {
            Ok(Some(checkout)) if real.starts_with(checkout.top()) => checkout
                .is_tracked(&real)
                .map_err(|error| Problem::of(&entry.repository_path, error))?,
            Ok(_) => false,
            Err(error) => return Err(Problem::of(&entry.repository_path, error)),
        };
        if is_own_file || is_tracked {
            let shown = entry.server_path.clone();
            return Err(Problem::of(
                &entry.repository_path,
                Refusal::TrackedTarget {
                    path: real.display().to_string(),
                },
            )
            .with_help(format!(
                "`git rm --cached '{shown}'` and ignore it, or give the row another server path"
            )));
        }
        Ok(())
    }
}

/// Returns owner and group that a replaced file would lose because this process may not keep
/// them.
pub fn lost_owner(state: &FileState, declared: Ownership) -> Option<String> {
    if declared.uid.is_none() && !users::may_give_to_user(state.uid) {
        return Some(format!(
            "its user {}",
            users::name_of(Database::Passwd, state.uid)
        ));
    }
    if declared.gid.is_none() && !users::may_give_to_group(state.gid) {
        return Some(format!(
            "its group {}",
            users::name_of(Database::Group, state.gid)
        ));
    }
    None
}

/// Says in words what of owner, group and mode differs from what is declared.
pub fn attribute_drift(state: &FileState, owner: Ownership, mode: Option<u32>) -> Vec<String> {
    let mut drift = Vec::new();
    let mut account = |word: &str, database, have: u32, want: Option<u32>| {
        if let Some(want) = want.filter(|&want| want != have) {
            let name = |id| users::name_of(database, id);
            drift.push(format!(
                "{word} is {}, should be {}",
                name(have),
                name(want)
            ));
        }
    };
    account("owner", Database::Passwd, state.uid, owner.uid);
    account("group", Database::Group, state.gid, owner.gid);
    if let Some(mode) = mode.filter(|&mode| mode != state.mode) {
        drift.push(format!("mode is {:04o}, should be {mode:04o}", state.mode));
    }
    drift
}

fn find_manifest(cx: &Context) -> Result<PathBuf, Error> {
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

/// Returns the root by the user's own word, else as declared; empty where neither names one.
fn root_path(cx: &Context, manifest: &Manifest, folder: &Path) -> PathBuf {
    let own_word = cx.global.root.as_ref().map(|path| cx.env.absolute(path));
    let declared = || {
        manifest
            .root
            .as_deref()
            .map(|root| fs::normalize(&folder.join(root)))
    };
    own_word
        .or_else(|| cx.env.path_var("SECRETS_ROOT"))
        .or_else(declared)
        .unwrap_or_default()
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
    let bytes = fs::read(&path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(FoundRules {
        path,
        folder: folder.to_owned(),
        rules: Rules::parse(&text),
    })
}
