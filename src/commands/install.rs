//! Installing an identity on a host: where it may go, what is kept of what was there, taking it back.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age::canonical;
use crate::keys::keyring::Keyring;
use crate::os::place::{Base, Ownership};
use crate::os::signal::Watch;
use crate::os::users::{self, Database};
use crate::os::{fs, staging};
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind};
use crate::project::plan::Plan;
use crate::secret::SecretBytes;
use crate::ui::diff::Comparison;
use crate::ui::prompt::{self, Choice};
use crate::ui::report::Recovery;

use super::hints::quoted;
use super::placing::Recovering;
use super::sides::{compare, read_plain_sides};
use super::workspace::Workspace;
use super::{Context, WriteArgs};

/// Where and how the identity is to be installed, by the command line.
pub struct Request<'a> {
    /// The file.
    pub path: Option<&'a Path>,
    /// Its owner.
    pub owner: Option<&'a String>,
    /// Its group.
    pub group: Option<&'a String>,
    /// Its permission bits.
    pub mode: Option<u32>,
    /// Options of every writing command.
    pub write: WriteArgs,
}

/// How the identity is installed.
pub struct Installation {
    /// Where.
    pub path: PathBuf,
    owner: Ownership,
    /// The name of its group.
    group: Option<String>,
    mode: u32,
    /// What is to stand there; `None` where nothing is to be installed.
    content: Option<SecretBytes>,
    is_dry: bool,
    /// What was done with it.
    action: &'static str,
    /// Where the identity is now that was there before.
    pub old: Option<PathBuf>,
    /// The folders that were made for it, the innermost first.
    made_folders: Vec<PathBuf>,
    /// The root was made for it.
    made_root: bool,
    /// Notes signals while it stands there and what it is for is not done.
    watch: Option<Watch>,
}

/// Says where and how the identity is installed. Accounts that do not exist are problems, told with
/// those of the entries.
///
/// # Errors
/// That nothing says where.
pub fn plan(
    cx: &Context,
    workspace: &Workspace,
    request: &Request<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Installation, Error> {
    let named = request.path.map(|path| cx.env.absolute(path));
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
    let no_owner = request.write.owner.no_owner;
    let group = request.group.or(workspace.manifest.defaults.group.as_ref());
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
        uid: find(Database::Passwd, "user", request.owner),
        gid: find(Database::Group, "group", group),
    };
    let usual_mode = if owner.gid.is_some() { 0o640 } else { 0o600 };
    Ok(Installation {
        path,
        owner,
        group: group.filter(|_| owner.gid.is_some()).cloned(),
        mode: request.mode.unwrap_or(usual_mode),
        content: None,
        is_dry: request.write.dry_run,
        action: "not-installed",
        old: None,
        made_folders: Vec::new(),
        made_root: false,
        watch: None,
    })
}

impl Installation {
    /// Says where the identity goes, and who may read it there: the manifest may say it, and others may write that.
    pub fn destination(&self) -> String {
        let group = self.group.as_ref();
        let group = group.map_or_else(String::new, |group| format!(", group {group}"));
        format!("{}, mode {:04o}{group}", self.path.display(), self.mode)
    }
}

/// Makes sure that an identity may stand at a path: not where git would take it along, not in the
/// place of a file that an entry has, and only in the place of a regular file.
fn check_place(workspace: &Workspace, path: &Path) -> Result<(), Problem> {
    let refuse = |what: &str| {
        let message = format!("no identity may be at {}: {what}", path.display());
        Err(Problem::new(ErrorKind::Option(message))
            .with_help("name another file: `--identity-out FILE`"))
    };
    let is_regular = path
        .symlink_metadata()
        .map_or(true, |found| found.is_file());
    if !is_regular {
        return refuse("what is there is not a regular file");
    }
    if fs::is_there(path)
        && let Err(error) = fs::read_regular(path)
    {
        return refuse(&format!("what is there cannot be read: {error}"));
    }
    let real = resolved(path);
    let nearest = real.ancestors().skip(1).find(|folder| fs::is_there(folder));
    let nearest = nearest.unwrap_or(&real);
    if !fs::is_folder(nearest) || !fs::may_write(nearest) {
        return refuse(&format!(
            "{} is no folder that you may write",
            nearest.display()
        ));
    }
    let mut entries = workspace.manifest.entries.iter();
    let is_target = entries.any(|entry| {
        let target = resolved(&workspace.server_file(entry));
        target.starts_with(&real) || real.starts_with(&target)
    });
    if is_target {
        return refuse("a row of the manifest places a file there");
    }
    if real.components().any(|part| part.as_os_str() == ".git") {
        return refuse("it is in a git folder");
    }
    let top = workspace.repository.path();
    let checkout = workspace.checkout().unwrap_or(None);
    let is_inside = real.starts_with(checkout.map_or(top, |checkout| checkout.top()));
    let is_ignored = checkout.is_some_and(|checkout| {
        checkout.is_ignored(&real).unwrap_or(false) && !checkout.is_tracked(&real).unwrap_or(true)
    });
    if is_inside && !is_ignored {
        return refuse("it is in the repository, and git does not ignore it");
    }
    Ok(())
}

/// Resolves the links of a path as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        if let Some(real) = fs::canonical(folder) {
            return missing
                .iter()
                .rev()
                .fold(real, |real, name| real.join(name));
        }
        missing.extend(folder.file_name());
    }
    path.to_owned()
}

impl Installation {
    /// Returns what stands there now; empty files count as none.
    pub fn there(&self) -> Option<SecretBytes> {
        let there = fs::read_regular(&self.path).ok().map(SecretBytes::new)?;
        (!there.expose().trim_ascii().is_empty()).then_some(there)
    }

    /// Says what is to be installed; `None` leaves what is there, `is_good` whether that opens
    /// everything.
    pub fn set(&mut self, content: Option<SecretBytes>, is_good: bool) {
        let there = self.there();
        let is_same = |content: &SecretBytes| {
            let there = there.as_ref();
            there.is_some_and(|there| there.expose().trim_ascii() == content.expose().trim_ascii())
        };
        self.action = match &content {
            None if is_good => "used",
            None => "elsewhere",
            Some(content) if is_same(content) => "used",
            Some(_) if self.is_dry => "to-be-installed",
            Some(_) => "not-installed",
        };
        self.content = content.filter(|_| self.action == "not-installed" || self.is_dry);
        if self.action == "used" {
            self.content = None;
        }
    }

    /// Returns the recipients of what stands there now, canonical.
    pub fn recipients_there(&self) -> Vec<String> {
        let there = self.there().unwrap_or_default();
        let keyring = Keyring::of_text("it", there.expose(), None);
        let recipients = keyring.recipients();
        recipients.iter().map(|key| canonical(key)).collect()
    }

    /// Makes sure that the identity may be installed; asks before another key than that loses its name.
    ///
    /// # Errors
    /// That it is refused, or nobody can be asked; a place where no identity may be.
    pub fn check(&self, cx: &mut Context, workspace: &Workspace) -> Result<(), Error> {
        if self.content.is_none() {
            return Ok(());
        }
        check_place(workspace, &self.path)?;
        if self.there().is_none() || cx.global.yes {
            return Ok(());
        }
        let path = self.path.display().to_string();
        let refusal = || {
            let refusal = Refusal::AlreadyThere { path: path.clone() };
            Problem::new(refusal).with_help(
                "it holds another key: `--yes` keeps that under another name and installs the new one; `--identity-out FILE` leaves it alone",
            )
        };
        let Some(asker) = cx.asker() else {
            return Err(refusal().into());
        };
        if self.is_dry {
            return Ok(());
        }
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

    /// Installs the identity; what was there is kept under another name.
    ///
    /// # Errors
    /// What keeps it from being written; everything is as it was then.
    pub fn install(&mut self, cx: &mut Context) -> Result<(), Problem> {
        let (Some(content), "not-installed") = (&self.content, self.action) else {
            return Ok(());
        };
        let failed = |error| {
            Problem::new(error)
                .with_help("name a file in a folder you may write: `--identity-out FILE`")
        };
        if let Some(folder) = self.path.parent() {
            let missing = folder
                .ancestors()
                .take_while(|folder| !fs::is_there(folder));
            self.made_folders = missing.map(Path::to_owned).collect();
            fs::create_folder(folder, 0o755).map_err(failed)?;
        }
        // Beside it first: at every moment the name stands for the old key or for the new one.
        let name = staging::staging_name_of(self.path.file_name().unwrap_or_default());
        let new = self.path.with_file_name(name);
        if fs::is_there(&new) {
            fs::remove(&new).map_err(failed)?;
            cx.ui
                .status("removed 1 staging file that an interrupted run left behind");
        }
        fs::write_new(&new, content.expose(), self.owner, self.mode).map_err(failed)?;
        let old = fs::is_there(&self.path).then(|| self.name_for_old(&cx.env.now()));
        let kept = match &old {
            Some(old) => fs::link(&self.path, old),
            None => Ok(()),
        };
        let placed = kept.and_then(|()| match old {
            Some(_) => fs::rename(&new, &self.path),
            // Somebody may have put one there meanwhile.
            None => fs::rename_new(&new, &self.path),
        });
        if let Err(source) = placed {
            drop(fs::remove(&new));
            return Err(failed(fs::failed(&self.path, "replace")(source)));
        }
        if let Some(folder) = self.path.parent() {
            fs::synchronize_folder(folder);
        }
        self.action = if old.is_some() {
            "replaced"
        } else {
            "installed"
        };
        self.old = old;
        Ok(())
    }

    /// Notes signals from here on, so that none leaves the identity half installed.
    pub fn note_signals(&mut self) {
        self.watch = Some(Watch::start());
    }

    /// Makes sure that no signal asked this run to end meanwhile.
    ///
    /// # Errors
    /// `Interrupted`: the identity is to be taken back.
    pub fn check_signals(&self) -> Result<(), Problem> {
        match self.watch.as_ref().and_then(Watch::received) {
            Some(signal) => Err(Problem::new(ErrorKind::Interrupted {
                signal,
                is_undone: true,
            })),
            None => Ok(()),
        }
    }

    /// Returns a name beside the file that nothing has.
    fn name_for_old(&self, now: &str) -> PathBuf {
        let stamp = now.replace([':', '-'], "");
        let mut number = 1;
        loop {
            let mut name = self.path.as_os_str().to_owned();
            name.push(match number {
                1 => format!(".old-{stamp}"),
                _ => format!(".old-{stamp}-{number}"),
            });
            let name = PathBuf::from(name);
            if !fs::is_there(&name) {
                return name;
            }
            number += 1;
        }
    }

    /// Takes the identity away again, where what it was installed for came to nothing.
    pub fn take_back(&mut self, cx: &mut Context, workspace: &Workspace) {
        if matches!(self.action, "installed" | "replaced") {
            let path = self.path.display();
            match self.old.take() {
                Some(old) => {
                    if let Err(error) = fs::rename(&old, &self.path) {
                        let old = old.display();
                        cx.ui.warning(&format!("{path}: the key that was there cannot be brought back, it is {old}: {error}"));
                    }
                }
                None => {
                    if let Err(error) = fs::remove(&self.path) {
                        cx.ui
                            .warning(&format!("the identity that was installed stays: {error}"));
                    }
                }
            }
            self.action = "not-installed";
        }
        for folder in self.made_folders.drain(..) {
            fs::remove_empty_folder(&folder);
        }
        if self.made_root {
            fs::remove_empty_folder(&workspace.root_path);
        }
    }
}

impl Recovering for Installation {
    fn before(&mut self, cx: &mut Context, workspace: &Workspace) -> Result<(), Problem> {
        self.note_signals();
        if workspace.root.is_none() && !fs::is_folder(&workspace.root_path) {
            fs::create_folder(&workspace.root_path, 0o755).map_err(|error| {
                Problem::new(error).with_help("create the root by hand, or run as root")
            })?;
            self.made_root = true;
        }
        let installed = self.install(cx).and_then(|()| self.check_signals());
        if installed.is_err() {
            self.take_back(cx, workspace);
        }
        installed
    }

    fn undone(&mut self, cx: &mut Context, workspace: &Workspace) {
        self.take_back(cx, workspace);
    }

    fn after(&self, workspace: &Workspace, _plan: &Plan) -> Recovery {
        let old = self.old.as_ref();
        Recovery {
            identity: self.path.display().to_string(),
            identity_action: self.action,
            old_identity: old.map(|old| old.display().to_string()),
            not_deployed: not_deployed(workspace),
            deploy: workspace.hints.ours_for_all("deploy"),
        }
    }
}

/// Returns the rows of `[plain]` whose file is missing on the server or differs.
fn not_deployed(workspace: &Workspace) -> Vec<String> {
    let entries = workspace.select(&[]).unwrap_or_default().into_iter();
    let plain = entries.filter(|entry| entry.kind == Kind::Plain);
    let root = Base::open(&workspace.root_path).ok();
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

/// Says for a path what to type so that everybody else is kept out.
pub fn close_to_others(path: &Path) -> String {
    format!("`chmod o= {}`", quoted(&path.to_string_lossy()))
}
