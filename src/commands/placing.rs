//! Placing files on the server: what `decrypt` and `deploy` do alike. Every entry is read, opened
//! and compared in memory; then all of them are placed, or none.

use std::collections::HashMap;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::place::{FileState, Found, Ownership, Place};
use crate::os::users;
use crate::project::diff;
use crate::project::drift::{Drift, Verdict};
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind, WriteMode};
use crate::project::plan::{self, Action, DecryptOptions, Plan, Step, Target};
use crate::secret::SecretBytes;
use crate::sops::master_key::KeyId;
use crate::sops::store::Format;
use crate::sops::{self, Layout};
use crate::ui::report::{Recovery, Report};

use super::apply::{self, Failure};
use super::backup;
use super::delivering;
use super::drift;
use super::foreign_key::{self, ForeignKey};
use super::gather::{Prospect, gather};
use super::hints;
use super::memory::KeyInUse;
use super::open::{Lookup, leads_out, open, place_in_repository, read_encrypted};
use super::ownership::{self, Purpose};
use super::settle;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Server files longer than this are not kept in memory once they are compared.
const KEPT_BYTES: usize = 1 << 20;

/// The options of `decrypt` and `deploy`.
#[derive(Args, Debug)]
pub struct PlacingArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    /// Options of every writing command.
    #[command(flatten)]
    pub write: WriteArgs,
    /// Replace files that were changed on the server; an encrypted backup of each is kept, and `undo`
    /// brings it back
    #[arg(short, long)]
    force: bool,
    /// Place only what is missing, leave every file that exists
    #[arg(long, conflicts_with = "force")]
    missing_only: bool,
    /// Place files also from a checkout that is older than what was last applied on this host
    #[arg(long)]
    allow_rollback: bool,
    /// Create the root folder when it does not exist
    #[arg(long)]
    create_root: bool,
}

impl PlacingArgs {
    /// Returns how far the placement may go.
    pub fn options(&self) -> PlacingOptions {
        PlacingOptions {
            write: self.write,
            plan: DecryptOptions {
                force: self.force,
                missing_only: self.missing_only,
                allow_rollback: self.allow_rollback,
                is_restore: false,
            },
            create_root: self.create_root,
        }
    }
}

/// How far a placement may go.
#[derive(Clone, Copy, Debug)]
pub struct PlacingOptions {
    /// Options of every writing command.
    pub write: WriteArgs,
    /// Whether files are replaced against the direction in which they moved, or only missing ones
    /// are placed.
    pub plan: DecryptOptions,
    /// Make the root where it is missing.
    pub create_root: bool,
}

/// One entry, decrypted and compared.
pub struct Prepared<'w> {
    /// The entry.
    pub entry: &'w Entry,
    /// What is to be done.
    pub step: Step,
    /// `None` where the root is yet to be made.
    pub(super) place: Option<Place>,
    pub(super) plaintext: SecretBytes,
    /// What was seen at the target; the content is left out where it is long.
    pub(super) seen: Option<(FileState, SecretBytes)>,
    pub(super) owner: Ownership,
    pub(super) readers: Vec<KeyId>,
    pub(super) format: Format,
    /// The `mac` token of the encrypted file, empty for a row of `[plain]`.
    pub(super) mac: String,
    /// The same whatever the form of the file.
    pub(super) seal: String,
    /// The data key of the encrypted file.
    pub(super) data_key: Option<KeyInUse>,
    /// The commit in whose version of the entry's file stands, to the byte, what is replaced.
    pub(super) kept_in: Option<String>,
    /// The commit whose version this is, where the repository's file is another.
    pub(super) pinned: Option<String>,
    /// It is a version that was asked for.
    is_restored: bool,
    /// What somebody else changed of how the file is encrypted.
    pub(super) foreign: Option<ForeignKey>,
    warnings: Vec<String>,
}

/// What is to be placed, where it is not what the encrypted file holds now.
pub struct Content {
    /// The bytes.
    pub plaintext: SecretBytes,
    /// Who can open a backup of what is replaced.
    pub readers: Vec<KeyId>,
    /// The stored form of the encrypted file.
    pub format: Format,
    /// The `mac` token of the encrypted file that holds it.
    pub mac: String,
    /// The same whatever the form of the file.
    pub seal: String,
    /// The commit whose version it is, where the repository's file stays another.
    pub pinned: Option<String>,
    /// How the encrypted file that holds it is encrypted, where that is to be remembered.
    pub data_key: Option<KeyInUse>,
}

impl<'w> Prepared<'w> {
    /// Returns an entry of which nothing is known yet.
    fn of(workspace: &Workspace, entry: &'w Entry, owner: Ownership) -> Self {
        let name = &entry.repository_path;
        let path = workspace.server_file(entry);
        Self {
            entry,
            step: plan::skip(name, path, "optional, and not in the repository"),
            place: None,
            plaintext: SecretBytes::default(),
            seen: None,
            owner,
            readers: Vec::new(),
            format: Format::Binary,
            mac: String::new(),
            seal: String::new(),
            data_key: None,
            kept_in: None,
            pinned: None,
            is_restored: false,
            foreign: None,
            warnings: Vec::new(),
        }
    }
}

impl Prepared<'_> {
    /// Returns where it goes and what was seen there, where something was.
    pub fn target(&self) -> Option<(&Place, &FileState)> {
        let (state, _) = self.seen.as_ref()?;
        Some((self.place.as_ref()?, state))
    }

    /// Returns what is to be done, and the remarks for the user.
    pub fn step_and_warnings(&mut self) -> (&mut Step, &mut Vec<String>) {
        (&mut self.step, &mut self.warnings)
    }
}

impl Prospect for Prepared<'_> {
    fn entry(&self) -> &Entry {
        self.entry
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn foreign(&self) -> Option<&ForeignKey> {
        self.foreign.as_ref()
    }

    fn sealed_as(&self) -> (Format, &[KeyId]) {
        (self.format, &self.readers)
    }
}

/// Places the files of `entries` on the server and reports it as `command`.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn place(
    cx: &mut Context,
    workspace: &Workspace,
    command: &'static str,
    entries: &[&Entry],
    options: PlacingOptions,
) -> Result<Outcome, Error> {
    if workspace.root.is_none() && !(options.create_root && workspace.is_root_absent()) {
        return Err(workspace.not_the_server().into());
    }
    let _locks = apply::begin(cx, workspace, options.write)?;

    let mut problems = Vec::new();
    let owners = if options.write.owner.no_owner {
        HashMap::new()
    } else {
        ownership::resolve(entries, Purpose::Give, &mut problems)
    };
    workspace.check_distinct(entries, &mut problems);
    let results = in_parallel(entries, workspace.jobs, |entry| {
        let owner = owners.get(&entry.repository_path).copied();
        transform(workspace, entry, owner.unwrap_or_default(), options)
    });
    Ok(finish(
        cx, workspace, command, results, options, problems, None,
    ))
}

/// What `recover` does around the placement.
pub trait Recovering {
    /// Is done before the first file is placed, and not at all where nothing may be.
    ///
    /// # Errors
    /// What stands against it; nothing is placed then.
    fn before(&mut self, cx: &mut Context, workspace: &Workspace) -> Result<(), Problem>;

    /// Is done where nothing could be placed after all.
    fn undone(&mut self, cx: &mut Context, workspace: &Workspace);

    /// Says afterwards what was done besides, and what is left to do.
    fn after(&self, workspace: &Workspace, plan: &Plan) -> Recovery;
}

/// Plans, writes and reports what was prepared: all of it, or none.
pub fn finish(
    cx: &mut Context,
    workspace: &Workspace,
    command: &'static str,
    mut results: Vec<Result<Prepared<'_>, Problem>>,
    options: PlacingOptions,
    mut problems: Vec<Problem>,
    recovery: Option<&mut dyn Recovering>,
) -> Outcome {
    let mut recovery = recovery;
    settle::targets(workspace, &mut results);
    let (mut plan, prepared) = gather(cx, workspace, results, &mut problems, |one, refusal| {
        delivering::explain(workspace, command, one.entry, refusal)
    });

    let mut backups = Vec::new();
    let outcome = apply::carry_out(
        workspace,
        &prepared,
        options.write,
        &mut plan,
        &mut problems,
        |good| {
            if let Some(recovery) = &mut recovery {
                recovery.before(cx, workspace)?;
            }
            let done = delivering::write(cx, workspace, command, good, &mut backups);
            if let (
                Err(Failure {
                    is_undone: true, ..
                }),
                Some(recovery),
            ) = (&done, &mut recovery)
            {
                recovery.undone(cx, workspace);
            }
            done
        },
    );
    let recovery = recovery.map(|recovery| recovery.after(workspace, &plan));
    cx.ui.report(&Report {
        command,
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
        recovery: recovery.as_ref(),
    });
    Outcome::default().with_problems(&problems)
}

/// Reads or decrypts one entry and compares it with what is on the server.
///
/// # Errors
/// What stands against the entry; refusals of guards are part of its step.
pub fn transform<'w>(
    workspace: &Workspace,
    entry: &'w Entry,
    owner: Ownership,
    options: PlacingOptions,
) -> Result<Prepared<'w>, Problem> {
    let mut prepared = Prepared::of(workspace, entry, owner);
    let is_there = match entry.kind {
        Kind::Plain => read_plain(workspace, &mut prepared)?,
        Kind::Secret => decrypt(workspace, &mut prepared)?,
    };
    if !is_there {
        return Ok(prepared);
    }
    fit(workspace, prepared, options)
}

/// Compares a content that is not what the encrypted file holds now with what is on the server.
///
/// # Errors
/// What stands against the entry; refusals of guards are part of its step.
pub fn prepare<'w>(
    workspace: &Workspace,
    entry: &'w Entry,
    owner: Ownership,
    options: PlacingOptions,
    content: Content,
) -> Result<Prepared<'w>, Problem> {
    let mut prepared = Prepared::of(workspace, entry, owner);
    prepared.plaintext = content.plaintext;
    prepared.readers = content.readers;
    prepared.format = content.format;
    prepared.mac = content.mac;
    prepared.seal = content.seal;
    prepared.pinned = content.pinned;
    prepared.data_key = content.data_key;
    prepared.is_restored = options.plan.is_restore;
    fit(workspace, prepared, options)
}

/// Plans the placement of a plaintext.
fn fit<'w>(
    workspace: &Workspace,
    mut prepared: Prepared<'w>,
    options: PlacingOptions,
) -> Result<Prepared<'w>, Problem> {
    let (entry, owner) = (prepared.entry, prepared.owner);
    let name = &entry.repository_path;
    let path = workspace.server_file(entry);
    // The root is to be made (`--create-root`): everything is missing in it.
    let Some(root) = &workspace.root else {
        prepared.step = plan::decrypt(name, path, &Target::Missing(None), options.plan);
        return Ok(prepared);
    };
    let place = root
        .place(entry.server_path.as_ref())
        .map_err(|error| leads_out(name, error))?;
    workspace.check_target(entry, &place)?;
    if place.is_folder_open_to_others() {
        let folder = place.path();
        prepared.warnings.push(format!(
            "{name}: everybody may write the folder of {}",
            folder.display()
        ));
    }
    if entry.kind == Kind::Secret && workspace.would_be_added(&place.path()) {
        prepared.warnings.push(format!(
            "{name}: git does not ignore {}, its plaintext: add it to `.gitignore`",
            place.path().display()
        ));
    }
    let (target, seen) = compare(workspace, &mut prepared, &place)?;
    let foreign = prepared.data_key.as_ref();
    prepared.foreign =
        foreign.and_then(|used| foreign_key::find(workspace, entry, &place.path(), used));
    prepared.step = plan::decrypt(name, path, &target, options.plan);
    if entry.kind == Kind::Plain
        && matches!(
            prepared.step.action,
            Action::Create | Action::Replace | Action::Mend
        )
    {
        super::sides::check_shared(workspace, entry, &place_in_repository(workspace, name)?)?;
    }
    if let (Action::Replace, Some((state, _)), false) =
        (prepared.step.action, &seen, options.write.owner.no_owner)
        && let Some(what) = ownership::lost_owner(state, owner)
    {
        return Err(Problem::of(name, ErrorKind::NoRightToGive { what })
            .with_help("run as root, or `--no-owner` to let the file become yours"));
    }
    if let (Kind::Secret, Action::Replace, Some((state, _))) =
        (entry.kind, prepared.step.action, &seen)
    {
        check_owner(
            workspace,
            &mut prepared.warnings,
            entry,
            owner,
            state,
            &place,
        )?;
    }
    // A file that is written into has no old version to go back to.
    let is_in_place = entry.write == WriteMode::InPlace;
    prepared.step.needs_backup |= is_in_place && prepared.step.action == Action::Replace;
    if prepared.step.needs_backup {
        backup::check(workspace, name, &prepared.readers)?;
    }
    prepared.place = Some(place);
    prepared.seen = seen.map(|(state, content)| {
        let is_kept = content.len() <= KEPT_BYTES || entry.write == WriteMode::InPlace;
        (
            state,
            if is_kept {
                content
            } else {
                SecretBytes::default()
            },
        )
    });
    Ok(prepared)
}

/// Refuses to replace a file that another user put in the place of the one that was there at the last sync: the new one would
/// be theirs. Warns where its group or mode is another one since, which is kept.
fn check_owner(
    workspace: &Workspace,
    warnings: &mut Vec<String>,
    entry: &Entry,
    owner: Ownership,
    state: &FileState,
    place: &Place,
) -> Result<(), Problem> {
    let name = &entry.repository_path;
    let record = workspace.memory().record_of(&place.path());
    let since = ownership::drift_since(state, owner, entry.mode, record);
    if since.is_empty() {
        return Ok(());
    }
    let what = since.join("; ");
    let (own, _) = users::own_ids();
    let is_others = record.is_some_and(|record| record.uid != state.uid)
        && ![0, own].contains(&state.uid)
        && owner.uid.is_none();
    if is_others {
        let path = hints::quoted(&place.path().to_string_lossy());
        let was = record.map_or(own, |record| record.uid);
        let was = users::name_of(users::Database::Passwd, was);
        return Err(Problem::of(name, Refusal::OwnerSince { what }).with_help(format!(
            "look who may write its folder, then `chown {was} {path}`; where it is meant, name the `owner` in its row"
        )));
    }
    warnings.push(format!("{name}: {what}; the new file is like it"));
    Ok(())
}

/// Opens the encrypted file of an entry. Returns whether there is one; an optional one may be absent.
fn decrypt(workspace: &Workspace, prepared: &mut Prepared<'_>) -> Result<bool, Problem> {
    let entry = prepared.entry;
    let name = &entry.repository_path;
    prepared.format = entry.format_for_new();
    let encrypted = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => encrypted,
        Lookup::Missing(_) if is_deleted(workspace, entry) => {
            prepared.step.action = Action::Refuse;
            prepared.step.refusals.push(Refusal::DeletedInRepository);
            return Ok(false);
        }
        Lookup::Missing(_) if entry.optional => return Ok(false),
        Lookup::Missing(_) => {
            let encrypt = workspace.hints.ours("encrypt", name);
            let help = if fs::is_there(&workspace.server_file(entry)) {
                format!("{encrypt} makes it from the server's file")
            } else {
                let remove = workspace.hints.ours("remove", name);
                format!(
                    "it is on neither side: write the server's file, then {encrypt}; or {remove} takes its row out"
                )
            };
            return Err(Problem::of(name, ErrorKind::EncryptedMissing).with_help(help));
        }
    };
    let (opened, key) = open(workspace, entry, &encrypted)?;
    prepared.data_key = foreign_key::in_use(workspace, entry, &encrypted, key);
    prepared.readers = encrypted.readers();
    prepared.format = encrypted.format;
    encrypted.content_mac().clone_into(&mut prepared.mac);
    prepared.seal.clone_from(&encrypted.sealed.metadata.mac);
    drop(encrypted);
    let warnings = opened
        .warnings
        .iter()
        .map(|warning| format!("{name}: {warning}"));
    prepared.warnings.extend(warnings);
    prepared.plaintext = opened.plaintext;
    Ok(true)
}

/// Says where the file of a row of `[plain]` may come from.
fn missing_help(workspace: &Workspace, entry: &Entry) -> String {
    let name = &entry.repository_path;
    let file = workspace.repository_file(entry);
    let checkout = workspace.checkout().unwrap_or(None);
    if checkout.is_some_and(|checkout| checkout.is_in_head(&file).unwrap_or(false)) {
        return workspace.hints.restore(name);
    }
    let remove = workspace.hints.ours("remove", name);
    format!("put the file there, or {remove} takes its row out")
}

/// Returns whether the repository had the file of an entry and has it no more.
fn is_deleted(workspace: &Workspace, entry: &Entry) -> bool {
    let place = workspace
        .root
        .as_ref()
        .and_then(|root| root.place(entry.server_path.as_ref()).ok());
    let target = place.map_or_else(|| workspace.server_file(entry), |place| place.path());
    let sides = drift::Sides {
        entry,
        target: &target,
        server: None,
        repository: None,
        is_restored: false,
    };
    drift::of(workspace, &sides).verdict == Verdict::DeletedInRepository
}

/// Reads the file of a row of `[plain]`. Returns whether there is one.
fn read_plain(workspace: &Workspace, prepared: &mut Prepared<'_>) -> Result<bool, Problem> {
    let entry = prepared.entry;
    let name = &entry.repository_path;
    match super::sides::read_plain(workspace, entry)? {
        Some(content) => prepared.plaintext = content,
        None if entry.optional => return Ok(false),
        None => {
            return Err(Problem::of(name, ErrorKind::PlainMissing)
                .with_help(missing_help(workspace, entry)));
        }
    }
    if sops::parse_sealed(prepared.plaintext.expose().to_vec()).is_ok() {
        let help = format!("move the row of `{name}` to [files], which decrypts it");
        return Err(Problem::of(name, Refusal::AlreadyEncrypted).with_help(help));
    }
    prepared.readers = workspace.own_recipients();
    Ok(true)
}

/// Compares the plaintext with what stands at the target.
fn compare(
    workspace: &Workspace,
    prepared: &mut Prepared<'_>,
    place: &Place,
) -> Result<(Target, Option<(FileState, SecretBytes)>), Problem> {
    let entry = prepared.entry;
    Ok(match place.read(u64::MAX) {
        Found::Missing => {
            let drift = drift_of(workspace, prepared, place, None);
            prepared.warnings.extend(drift.warning);
            (Target::Missing(drift.rollback), None)
        }
        Found::Other(kind) => (Target::NotRegular(kind), None),
        Found::File(state, content)
            if content == prepared.plaintext
                || (entry.layout == Layout::Stock
                    && diff::of(entry, prepared.plaintext.expose(), content.expose())
                        .is_empty()) =>
        {
            let drift = ownership::drift(&state, prepared.owner, entry.mode);
            let record = workspace.memory().record_of(&place.path());
            let undeclared =
                ownership::drift_since(&state, prepared.owner, entry.mode, record).into_iter();
            let name = &entry.repository_path;
            prepared.warnings.extend(
                undeclared.map(|what| format!("{name}: {what}; not declared, left as it is")),
            );
            (Target::Same(drift), Some((state, content)))
        }
        Found::File(state, content) => {
            let differences = diff::between(
                prepared.plaintext.expose(),
                content.expose(),
                entry.reading(),
            );
            let drift = drift_of(workspace, prepared, place, Some(content.expose()));
            prepared.warnings.extend(drift.warning.clone());
            let was = workspace.memory().secret_at(&place.path());
            if let (Kind::Plain, Some(was)) = (entry.kind, was) {
                let name = &entry.repository_path;
                prepared.warnings.push(format!(
                    "{name}: a plain row takes the place of {was}, which was encrypted: what stands there from now on is in clear in the repository"
                ));
            }
            let is_recorded = workspace.memory().record_of(&place.path()).is_some();
            if is_recorded && drift.verdict == Verdict::RepositoryAhead {
                prepared.warnings.extend(drift::again(workspace, entry));
            }
            let behind = drift.behind.as_ref();
            let behind = behind.filter(|version| version.is_exact);
            prepared.kept_in = behind.map(|version| version.id.clone());
            (Target::Differs(differences, drift), Some((state, content)))
        }
        Found::Unreadable(source) => {
            let path = workspace.server_file(entry);
            return Err(Problem::of(
                &entry.repository_path,
                ErrorKind::Unreadable { path, source },
            )
            .with_help("run as a user who may read it"));
        }
        Found::TooLarge(_) => (Target::NotRegular(super::sides::TOO_LONG), None),
    })
}

/// Says which side of an entry moved.
fn drift_of(
    workspace: &Workspace,
    prepared: &Prepared<'_>,
    place: &Place,
    server: Option<&[u8]>,
) -> Drift {
    drift::of(
        workspace,
        &drift::Sides {
            entry: prepared.entry,
            target: &place.path(),
            server,
            repository: Some(drift::Stored {
                content: Some(prepared.plaintext.expose()),
                mac: &prepared.mac,
            }),
            is_restored: prepared.is_restored,
        },
    )
}
