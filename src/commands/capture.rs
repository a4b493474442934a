//! Capturing one source in memory: read, guard, compare with what is stored, encrypt, verify.
//!
//! Separate from the command because everything here is about one entry and writes nothing.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Problem};
use crate::keys::KeyError;
use crate::os::RandomPool;
use crate::os::fs::FsError;
use crate::os::place::{Base, FileState, Found, Place};
use crate::project::diff;
use crate::project::drift::Verdict;
use crate::project::error::Refusal;
use crate::project::guard;
use crate::project::keys::Reading;
use crate::project::manifest::Entry;
use crate::project::plan::{self, Action, Step, Stored};
use crate::project::terms::Terms;
use crate::secret::SecretBytes;
use crate::sops::cipher::Token;
use crate::sops::data_key::DataKey;
use crate::sops::document::{self, Document, Leaf};
use crate::sops::error::DocumentError;
use crate::sops::master_key::{KeyId, MasterKey};
use crate::sops::metadata::{GroupChange, KeyGroup, Metadata, group_changes};
use crate::sops::selector::SelectionRule;
use crate::sops::store::{Format, age};
use crate::sops::{self, Layout, Manner, Opened, Reuse};

use super::drift;
use super::foreign_key::{self, ForeignKey};
use super::gather::Prospect;
use super::govern::{Governing, govern};
use super::lost_key;
use super::memory::KeyInUse;
use super::open::{Encrypted, Lookup, damaged, key_problem, leads_out, read_encrypted, unwrap_key};
use super::workspace::Workspace;

/// How far a capture may go.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions<'o> {
    /// Bring files in line with their rule.
    pub update_recipients: bool,
    /// Write files that no identity here opens.
    pub allow_unreadable: bool,
    /// Capture the server's file also where the repository moved.
    pub force: bool,
    /// The file is new in the repository, whatever was there before.
    pub is_new: bool,
    /// Encrypt everything under a data key of our own making.
    pub new_data_key: bool,
    /// The longest source, in bytes.
    pub max_size: u64,
    /// Which content guards are told to let pass.
    pub allowed: &'o Allowances,
}

/// Options that let a content guard pass, by name.
#[derive(Args, Clone, Debug, Default)]
pub struct GuardArgs {
    /// Capture this entry although it lost more than half of what is stored, or a `required` key
    /// (repeatable)
    #[arg(long, value_name = "ENTRY")]
    pub allow_shrink: Vec<String>,
    /// Capture this key although its value became empty or a placeholder (repeatable)
    #[arg(long, value_name = "KEY")]
    pub allow_placeholder: Vec<String>,
}

/// What content guards let pass.
#[derive(Clone, Debug, Default)]
pub struct Allowances {
    /// Names of the entries that may shrink.
    shrink: Vec<String>,
    /// Keys that may become placeholders.
    placeholders: Vec<String>,
}

impl GuardArgs {
    /// Finds the entries that are named.
    ///
    /// # Errors
    /// A word that names none.
    pub fn resolve(&self, workspace: &Workspace) -> Result<Allowances, Error> {
        let shrink = if self.allow_shrink.is_empty() {
            Vec::new()
        } else {
            workspace.select(&self.allow_shrink)?
        };
        let names = shrink.iter().map(|entry| entry.repository_path.clone());
        Ok(Allowances {
            shrink: names.collect(),
            placeholders: self.allow_placeholder.clone(),
        })
    }
}

impl Allowances {
    fn for_entry(&self, entry: &Entry) -> guard::Allowed<'_> {
        guard::Allowed {
            shrink: self.shrink.contains(&entry.repository_path),
            placeholders: &self.placeholders,
        }
    }
}

/// One entry, captured in memory.
pub struct Captured<'w> {
    /// The entry.
    pub entry: &'w Entry,
    /// What is to be done.
    pub step: Step,
    /// Where the encrypted file goes.
    pub target: Place,
    /// What was seen there; the content is left out where it is long.
    pub target_seen: Option<(FileState, Vec<u8>)>,
    /// Where the source is, and what was seen there.
    pub source: Option<(Place, FileState, SecretBytes)>,
    /// What is stored, where it is not what was seen at the source.
    pub merged: Option<SecretBytes>,
    /// The encrypted file, empty where nothing is to be written.
    pub sealed: Vec<u8>,
    /// Its stored form.
    pub format: Format,
    /// The form of the file that is there.
    pub stored_format: Format,
    /// Who can open the file that is there.
    pub stored_readers: Vec<KeyId>,
    /// Who can open it.
    pub readers: Vec<KeyId>,
    /// The `mac` token of the encrypted file as it will be, where it is the content's.
    pub mac: String,
    /// The same whatever the form of the file.
    pub seal: String,
    /// The data key it is under, where it was needed.
    pub data_key: Option<KeyInUse>,
    /// What somebody else changed of how the file that is there is encrypted, and is not answered by this run.
    pub foreign: Option<ForeignKey>,
    /// Remarks for the user.
    pub warnings: Vec<String>,
}

impl Prospect for Captured<'_> {
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

/// What has been found out about an entry so far.
struct Judgement {
    stored: Stored,
    /// The data key of the file that is there.
    data_key: Option<DataKey>,
    /// What is new of how it is encrypted.
    foreign: Option<ForeignKey>,
    refusals: Vec<Refusal>,
    warnings: Vec<String>,
}

/// Reads, guards, compares and encrypts one entry in memory.
///
/// # Errors
/// What stands against the entry; refusals of guards are part of its step.
pub fn capture<'w>(
    workspace: &Workspace,
    root: &Base,
    entry: &'w Entry,
    options: CaptureOptions<'_>,
    now: &str,
) -> Result<Captured<'w>, Problem> {
    capture_content(workspace, root, entry, options, now, None)
}

/// As [`capture`], with another content than the server's where `merged` says so.
///
/// # Errors
/// As [`capture`].
#[expect(
    clippy::too_many_lines,
    reason = "the straight line of one capture, step after step"
)]
pub fn capture_content<'w>(
    workspace: &Workspace,
    root: &Base,
    entry: &'w Entry,
    options: CaptureOptions<'_>,
    now: &str,
    merged: Option<SecretBytes>,
) -> Result<Captured<'w>, Problem> {
    let name = &entry.repository_path;
    let new_format = entry.format_for_new();
    let source_place = root
        .place(entry.server_path.as_ref())
        .map_err(|error| leads_out(name, error))?;
    workspace.check_source(entry, &source_place)?;
    let path = source_place.path();
    if workspace.half_written.contains(&path) {
        return Err(Problem::of(name, FsError::HalfWritten { path })
            .with_help({
                let (undo, decrypt, trust) = (
                    workspace.hints.ours_for_all("undo --list"),
                    workspace.hints.ours("decrypt --force", name),
                    workspace.hints.ours("trust", name),
                );
                format!("{decrypt} takes the repository's; what it held is in a backup ({undo}) where git does not have it; where it is whole: {trust}")
            }));
    }
    let shown = workspace.server_file(entry).display().to_string();
    let limit = options.max_size.min(LONGEST_SOURCE);
    let (source, refusals) = read_source(&source_place, &shown, limit);
    let (mut existing, place) = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => {
            let place = encrypted.place.clone();
            (Some(encrypted), place)
        }
        Lookup::Missing(place) => (None, place),
    };
    let stored_format = existing.as_ref().map(|found| found.format);
    let format = entry.format.or(stored_format).unwrap_or(new_format);
    let mut captured = Captured {
        entry,
        step: plan::skip(name, PathBuf::from(name), "optional, and not on the server"),
        target: place,
        target_seen: None,
        source: None,
        merged: None,
        sealed: Vec::new(),
        format,
        stored_format: stored_format.unwrap_or(format),
        stored_readers: existing.iter().flat_map(|found| found.readers()).collect(),
        readers: Vec::new(),
        mac: String::new(),
        seal: String::new(),
        data_key: None,
        foreign: None,
        warnings: Vec::new(),
    };
    let is_absent = matches!(refusals[..], [Refusal::SourceMissing { .. }]);
    let mut judgement = Judgement {
        stored: Stored::Missing,
        data_key: None,
        foreign: None,
        refusals,
        warnings: Vec::new(),
    };
    if existing.is_none() && !options.is_new {
        let sides = drift::Sides {
            entry,
            target: &source_place.path(),
            server: source.as_ref().map(|(_, content)| content.expose()),
            repository: None,
            is_restored: false,
        };
        if drift::of(workspace, &sides).verdict == Verdict::DeletedInRepository {
            let path = PathBuf::from(name);
            captured.step = plan::encrypt(name, path, &Stored::Deleted, Vec::new(), false);
            return Ok(captured);
        }
    }
    if entry.optional && is_absent {
        return Ok(captured);
    }
    let content = merged
        .as_ref()
        .or(source.as_ref().map(|(_, content)| content));
    let mut document = None;
    if let Some(content) = content {
        match guard::check_source(content.expose(), format, entry.reading(), entry.layout) {
            Ok(read) => document = Some(read),
            Err(found) => judgement.refusals.extend(found),
        }
        // A form that the name speaks for is the owner's own word.
        if existing.is_none() && format != entry.format_by_name() {
            let shown = document.as_ref();
            let shown = shown.and_then(|document| guard::name_in_clear(document, format));
            judgement.refusals.extend(shown);
        }
        if existing.is_none() && judgement.refusals.is_empty() {
            let allowed = options.allowed.for_entry(entry);
            let (content, required) = (content.expose(), &entry.required);
            let found = guard::check_change(None, content, entry.reading(), required, allowed);
            judgement.refusals.extend(found);
        }
    }
    if workspace.is_tracked(entry, &source_place.path())? {
        let path = source_place.path();
        judgement.warnings.push(format!(
            "{name}: git tracks its plaintext, {}",
            path.display()
        ));
    }
    let governing = govern(workspace, entry, &mut judgement.refusals)?;
    if let Some(governing) = &governing {
        // A file that follows its rule already shows which of the two is meant.
        let follows = existing
            .as_ref()
            .is_some_and(|found| governing.differences(workspace, found).is_empty());
        let hidden = governing.hidden.clone().filter(|_| !follows);
        judgement.refusals.extend(hidden);
    }
    let both = existing.as_deref().zip(content);
    let opened = match (both, &governing) {
        (Some((encrypted, content)), Some(governing)) if judgement.refusals.is_empty() => {
            let sides = Sides {
                entry,
                encrypted,
                content,
                target: &source_place.path(),
                format,
            };
            judge(workspace, &sides, governing, options, &mut judgement)?
        }
        _ => None,
    };
    let Judgement {
        stored,
        data_key,
        foreign,
        refusals,
        warnings,
    } = judgement;
    captured.foreign = foreign;
    captured.data_key = existing
        .as_ref()
        .zip(data_key)
        .map(|(found, key)| KeyInUse {
            // With the option the user says that the rule is meant.
            is_agreed: options.update_recipients,
            ..KeyInUse::found(key, found.format, &found.sealed.metadata)
        });
    if let (None, Some(governing), Format::Age, true) =
        (&captured.data_key, &governing, format, existing.is_some())
    {
        // The file does not say for whom it is: the rule does.
        captured.data_key = Some(KeyInUse {
            key: None,
            is_made: false,
            terms: governing.terms(format, None),
            is_agreed: options.update_recipients,
        });
    }
    captured.warnings = warnings;
    if let Some(governing) = &governing {
        captured.readers.clone_from(&governing.keys);
    }
    captured.step = plan::encrypt(name, PathBuf::from(name), &stored, refusals, options.force);
    if let (true, Some(governing)) = (
        captured.step.writes() || options.update_recipients,
        &governing,
    ) {
        let terms = governing.terms(format, existing.as_deref());
        let new = foreign_key::new_terms(workspace, entry, &source_place.path(), &terms);
        let is_there = existing.is_some();
        check_terms(workspace, new, is_there, options, &mut captured);
    }

    if let (Some(encrypted), Stored::Differs(..) | Stored::Unopened, Some(Format::Binary)) =
        (&mut existing, &stored, stored_format)
    {
        // No token of it is used again: a large one need not stay in memory.
        if encrypted.sealed.source.len() > NAMED_BYTES {
            encrypted.sealed.forget_leaf_text();
        }
    }
    if let (true, Some(content), Some(document), Some(governing)) =
        (captured.step.writes(), content, document, &governing)
    {
        let request = Request {
            workspace,
            entry,
            format,
            existing: existing.as_deref(),
            opened: opened.as_ref(),
            stored: &stored,
            governing,
            options,
            now,
        };
        match request.seal(content, document, &mut captured)? {
            Ok((bytes, mac)) => {
                if format == Format::Binary {
                    captured.mac.clone_from(&mac);
                }
                (captured.sealed, captured.seal) = (bytes, mac);
                let is_made = captured.data_key.as_ref().is_some_and(|used| used.is_made);
                if let (Some(foreign), true) = (&mut captured.foreign, is_made) {
                    foreign.forget(true, false);
                }
                captured.foreign = captured.foreign.take().filter(|found| !found.is_nothing());
            }
            Err(refusal) => {
                captured.step.action = Action::Refuse;
                captured.step.refusals.push(refusal);
            }
        }
    }
    if let Some(existing) = existing.as_ref().filter(|_| captured.sealed.is_empty()) {
        existing.content_mac().clone_into(&mut captured.mac);
        captured.seal.clone_from(&existing.sealed.metadata.mac);
    }
    captured.target_seen = existing.map(|found| (found.state, found.sealed.source));
    if let Some((_, content)) = &mut captured.target_seen {
        forget_large(content);
    }
    captured.source = source.map(|(state, content)| (source_place, state, content));
    captured.merged = merged;
    Ok(captured)
}

/// Refuses to write on new terms, or tells of them where the user says that they are meant, or no file was there.
fn check_terms(
    workspace: &Workspace,
    new: Option<(Vec<String>, bool)>,
    is_there: bool,
    options: CaptureOptions<'_>,
    captured: &mut Captured<'_>,
) {
    let name = &captured.entry.repository_path;
    let is_refused = captured.step.action == Action::Refuse;
    match new {
        Some((changes, true)) if !options.update_recipients => {
            let changes = changes.join(", ");
            captured.step.action = Action::Refuse;
            captured
                .step
                .refusals
                .push(Refusal::TermsUnknown { changes });
        }
        Some((changes, is_of_file)) if !is_of_file || !is_there => {
            let warning = format!(
                "{name}: {}; so far that is so of no file here: where it is not meant, mend `.sops.yaml` and run {}",
                changes.join(", "),
                workspace.hints.ours("encrypt --update-recipients", name)
            );
            captured.warnings.push(warning);
        }
        Some((changes, _)) if !is_refused => {
            let foreign = captured.foreign.iter();
            let agreed = foreign.flat_map(|found| found.terms_since(|one| changes.contains(one)));
            let agreed: Vec<_> = agreed.collect();
            if !agreed.is_empty() {
                let warning = format!("{name}: agreed, {}", agreed.join("; "));
                captured.warnings.push(warning);
            }
        }
        _ => {}
    }
    if let (Some(foreign), true) = (&mut captured.foreign, options.update_recipients) {
        foreign.forget(false, true);
    }
    let foreign = captured.foreign.take();
    captured.foreign = foreign.filter(|found| !found.is_nothing());
}

/// Both sides of an entry that is stored already.
struct Sides<'s> {
    entry: &'s Entry,
    encrypted: &'s Encrypted,
    content: &'s SecretBytes,
    /// The file on the server, links resolved.
    target: &'s Path,
    /// The form it is to be stored in.
    format: Format,
}

/// Compares both sides, and the file with its rule. Returns the file opened, where that was needed.
fn judge(
    workspace: &Workspace,
    sides: &Sides<'_>,
    governing: &Governing,
    options: CaptureOptions<'_>,
    judgement: &mut Judgement,
) -> Result<Option<Opened>, Problem> {
    let Sides {
        entry,
        encrypted,
        format,
        ..
    } = sides;
    let (stored, opened) = compare(workspace, sides, options, judgement)?;
    judgement.stored = stored;
    if judgement.stored == Stored::Unopened {
        let allowed = options.allowed.for_entry(entry);
        let content = sides.content.expose();
        let found = guard::check_change(None, content, entry.reading(), &entry.required, allowed);
        judgement.refusals.extend(found);
    }
    if *format != encrypted.format && judgement.stored == Stored::Same {
        let why = format!("stored as {} from now on", format.name());
        judgement.stored = Stored::Outdated(why);
    }
    if judgement.stored == Stored::Same && *format == Format::Age {
        // It does not say for whom it is encrypted: what is remembered does.
        let known = workspace
            .memory()
            .known_of(workspace, sides.target, &entry.repository_path);
        let wanted = governing.terms(Format::Age, None).texts();
        let is_known = known.is_of_file && known.terms == Some(wanted);
        if options.new_data_key || options.update_recipients && !is_known {
            judgement.stored = Stored::Outdated("for whom its rule names".to_owned());
        }
    } else if options.new_data_key && judgement.stored == Stored::Same {
        judgement.stored = Stored::Outdated("a new data key".to_owned());
    }
    check_rule(workspace, entry, encrypted, governing, options, judgement);
    Ok(opened)
}

/// Frees the content of a large file that is known by its state from here on.
fn forget_large(content: &mut Vec<u8>) {
    if content.len() > NAMED_BYTES {
        *content = Vec::new();
    }
}

/// Reads the source; what is no readable regular file is a refusal.
fn read_source(
    place: &Place,
    shown: &str,
    limit: u64,
) -> (Option<(FileState, SecretBytes)>, Vec<Refusal>) {
    let refusal = match place.read(limit) {
        Found::File(state, content) => return (Some((state, content)), Vec::new()),
        Found::Missing => Refusal::SourceMissing {
            path: shown.to_owned(),
        },
        Found::Other(kind) => Refusal::NotRegular { kind },
        Found::TooLarge(bytes) => Refusal::TooLarge { bytes, limit },
        Found::Unreadable(error) => Refusal::Unreadable {
            path: shown.to_owned(),
            reason: error.to_string(),
        },
    };
    (None, vec![refusal])
}

/// The longest source that is captured, in bytes.
pub const LONGEST_SOURCE: u64 = 4 << 30;
/// Files longer than this are not opened as a whole only to name keys or count lines.
const NAMED_BYTES: usize = 1 << 20;

/// Compares the source with what is stored, and says which side moved. The binary form is compared
/// without a second copy.
fn compare(
    workspace: &Workspace,
    sides: &Sides<'_>,
    options: CaptureOptions<'_>,
    judgement: &mut Judgement,
) -> Result<(Stored, Option<Opened>), Problem> {
    let Sides {
        entry,
        encrypted,
        content: source,
        ..
    } = sides;
    let name = &entry.repository_path;
    let sealed = &encrypted.sealed;
    let whole = || diff::Differences {
        changes: vec![(diff::Change::Changed, "(content)".to_owned())],
        is_layout_only: false,
    };
    let drift_of = |content: Option<&[u8]>| {
        let sides = drift::Sides {
            entry,
            target: sides.target,
            server: Some(source.expose()),
            repository: Some(drift::Stored {
                content,
                mac: encrypted.content_mac(),
            }),
            is_restored: false,
        };
        drift::of(workspace, &sides)
    };
    let key = match workspace.keyring.unwrap(&sealed.metadata) {
        Ok(key) => key,
        // Nobody can open it, or it is as it was when both sides agreed: git or a backup keeps it.
        Err(KeyError::NoIdentity { .. })
            if lost_key::is_lost(workspace, &sealed.metadata)
                || (lost_key::names_lost(workspace, &sealed.metadata)
                    && drift::is_sealed_as_recorded(workspace, sides.target, encrypted)) =>
        {
            return Ok((Stored::Unopened, None));
        }
        Err(KeyError::NoIdentity { .. }) if options.allow_unreadable => {
            let drift = drift_of(None);
            let is_moved = matches!(drift.verdict, Verdict::BothMoved | Verdict::RepositoryAhead);
            let stored = if is_moved {
                Stored::Differs(whole(), drift)
            } else {
                Stored::Unopened
            };
            return Ok((stored, None));
        }
        Err(error) => return Err(key_problem(workspace, entry, error)),
    };
    if encrypted.format != Format::Age {
        judgement.data_key = Some(key.clone());
        let used = KeyInUse::found(key.clone(), encrypted.format, &sealed.metadata);
        let mut foreign = foreign_key::find(workspace, entry, sides.target, &used);
        if let Some(found) = &mut foreign {
            found.forget(options.new_data_key, false);
        }
        judgement.foreign = foreign.filter(|found| !found.is_nothing());
    }
    if encrypted.format == Format::Binary {
        let same = sops::matches(encrypted.format, sealed, &key, source.expose(), None)
            .map_err(|error| damaged(workspace, name, error))?;
        if same {
            return Ok((Stored::Same, None));
        }
        if sealed.source.len() > NAMED_BYTES && !entry.reading().has_keys() {
            let length = sealed.leaves.first().map(|leaf| sealed.text(leaf));
            let length = length.and_then(|text| Token::parse(text).ok());
            let length = length.map_or(0, |token| token.plaintext_len());
            let shrunk = guard::shrunk(source.expose().len(), length, "bytes");
            let drift = drift_of(None);
            let is_allowed = options.allowed.for_entry(entry).shrink;
            let counts = drift.verdict == Verdict::ServerAhead || options.force;
            judgement
                .refusals
                .extend(shrunk.filter(|_| counts && !is_allowed));
            return Ok((Stored::Differs(whole(), drift), None));
        }
    }
    let opened = sops::open(encrypted.format, sealed, &key)
        .map_err(|error| damaged(workspace, name, error))?;
    let differences = diff::of(entry, opened.plaintext.expose(), source.expose());
    if differences.is_empty() {
        return Ok((Stored::Same, Some(opened)));
    }
    let drift = drift_of(Some(opened.plaintext.expose()));
    if drift.verdict == Verdict::ServerAhead && drift.last_sync.is_some() {
        let told = drift::set_back(workspace, entry, source.expose());
        judgement.warnings.extend(told);
    }
    // Against the direction nothing is captured anyway, and the other side explains the difference.
    if drift.verdict == Verdict::ServerAhead || options.force {
        let found = guard::check_change(
            Some(opened.plaintext.expose()),
            source.expose(),
            entry.reading(),
            &entry.required,
            options.allowed.for_entry(entry),
        );
        judgement.refusals.extend(found);
    }
    Ok((Stored::Differs(differences, drift), Some(opened)))
}

/// Compares recipients and options of an existing file with its rule: a warning where the file is
/// not written, a refusal where it would be, unless it is to be brought in line.
fn check_rule(
    workspace: &Workspace,
    entry: &Entry,
    encrypted: &Encrypted,
    governing: &Governing,
    options: CaptureOptions<'_>,
    judgement: &mut Judgement,
) {
    let mut found = governing.differences(workspace, encrypted);
    let metadata = &encrypted.sealed.metadata;
    let is_replaced = lost_key::is_only_replaced(workspace, metadata, &governing.groups);
    if is_replaced {
        // That a new key stands there for a lost one is the user's own word.
        found.retain(|refusal| !matches!(refusal, Refusal::RecipientsDiffer { .. }));
        if judgement.stored == Stored::Same && found.is_empty() {
            let why = "a new key in the place of a lost one".to_owned();
            judgement.stored = Stored::Outdated(why);
        }
    }
    let is_same = judgement.stored == Stored::Same;
    match (found.is_empty(), options.update_recipients, is_same) {
        (true, _, _) => {}
        (_, true, false) => {
            let name = &entry.repository_path;
            let told = found.iter();
            let told = told.map(|refusal| format!("{name}: {refusal}; its rule is followed"));
            judgement.warnings.extend(told);
        }
        (_, true, true) => {
            let why: Vec<_> = found.iter().map(ToString::to_string).collect();
            judgement.stored = Stored::Outdated(why.join("; "));
        }
        (_, false, true) => {
            let name = &entry.repository_path;
            let update = workspace.hints.ours("encrypt --update-recipients", name);
            let remedy = format!("{update} brings it in line");
            let warnings = found
                .iter()
                .map(|refusal| format!("{name}: {refusal}; {remedy}"));
            judgement.warnings.extend(warnings);
        }
        (_, false, false) => judgement.refusals.extend(found),
    }
}

/// What is needed to encrypt one source.
struct Request<'r> {
    workspace: &'r Workspace,
    entry: &'r Entry,
    format: Format,
    existing: Option<&'r Encrypted>,
    opened: Option<&'r Opened>,
    stored: &'r Stored,
    governing: &'r Governing,
    options: CaptureOptions<'r>,
    now: &'r str,
}

/// What a file is encrypted under.
struct Under {
    key: DataKey,
    metadata: Metadata,
    /// Tokens of the file that is there may stay.
    keeps_tokens: bool,
    /// The key is new.
    is_made: bool,
}

impl Request<'_> {
    /// Encrypts the source, read as `document`, opens the result again and compares.
    fn seal(
        &self,
        source: &SecretBytes,
        document: Document<'_>,
        captured: &mut Captured<'_>,
    ) -> Result<Result<(Vec<u8>, String), Refusal>, Problem> {
        let name = &self.entry.repository_path;
        let warnings = &mut captured.warnings;
        if self.workspace.keyring.is_in(source.expose()) {
            warnings.push(format!(
                "{name}: it holds an identity that this run uses: whoever can read it can open all that this host can"
            ));
        }
        if self.format == Format::Age {
            captured.data_key = Some(KeyInUse {
                key: None,
                is_made: false,
                terms: self.governing.terms(self.format, None),
                is_agreed: true,
            });
            return self.seal_age(source, warnings);
        }
        let mut pool = RandomPool::new();
        let mut fill = |buffer: &mut [u8]| pool.fill(buffer);
        warnings.extend(self.cut_values(&document));
        let Under {
            key,
            metadata,
            keeps_tokens,
            is_made,
        } = self.key_and_metadata(&mut fill)?;
        let terms = Terms::of(self.format, &metadata);
        let reuse = match (self.existing, self.opened) {
            (Some(encrypted), Some(opened)) if keeps_tokens && self.format != Format::Binary => {
                Reuse::Leaves(&encrypted.sealed, opened)
            }
            (Some(encrypted), _)
                if keeps_tokens
                    && self.format == Format::Binary
                    && !matches!(self.stored, Stored::Differs(..)) =>
            {
                Reuse::All(&encrypted.sealed)
            }
            (Some(encrypted), _) if encrypted.format == self.format => {
                Reuse::Layout(&encrypted.sealed)
            }
            _ => Reuse::Nothing,
        };
        let manner = Manner {
            reuse,
            layout: self.entry.layout,
            now: self.now,
        };
        let sealed = match sops::seal(self.format, &document, &key, &metadata, &manner, &mut fill) {
            Ok(sealed) => sealed,
            Err(error @ DocumentError::SelfMatching) => {
                return Err(
                    Problem::of(name, error).with_help("make the pattern in `.sops.yaml` narrower")
                );
            }
            Err(error) => return Ok(Err(guard::unrepresentable(&error))),
        };
        let clear = sealed.clear.iter().map(|&index| &document.leaves[index]);
        warnings.extend(self.clear_secrets(&document, clear));
        drop(document);
        let verified = self.verify(sealed.bytes, &sealed.digest, &key, source, warnings);
        captured.data_key = Some(KeyInUse {
            key: Some(key),
            is_made,
            terms,
            is_agreed: true,
        });
        verified
    }

    /// Encrypts the source as an age file for the rule's recipients; armored, unless it replaces one that
    /// is not.
    fn seal_age(
        &self,
        source: &SecretBytes,
        warnings: &mut Vec<String>,
    ) -> Result<Result<(Vec<u8>, String), Refusal>, Problem> {
        let content = DataKey::of_content(source.clone());
        let is_armored = self
            .existing
            .is_none_or(|file| file.format != Format::Age || age::is_armored(&file.sealed.source));
        let keys = &self.governing.keys;
        let recipients: Vec<String> = keys
            .iter()
            .filter_map(|key| key.recipient().map(str::to_owned))
            .collect();
        if recipients.len() != keys.len() || self.governing.groups.len() != 1 {
            let what = "keys other than age recipients, or several groups of them";
            let format = "a raw age file";
            let error = DocumentError::Inexpressible { what, format };
            return Err(Problem::of(&self.entry.repository_path, error)
                .with_help("take `format = \"age\"` out of its row, or give it a rule with age recipients alone"));
        }
        let keyring = &self.workspace.keyring;
        let sealed = keyring
            .wrap_content(&content, &recipients, is_armored)
            .map_err(|error| {
                Problem::of(&self.entry.repository_path, error)
                    .with_help("mend or take out this recipient in `.sops.yaml`")
            })?;
        self.verify(sealed, "", &content, source, warnings)
    }

    /// Returns whether the file comes back as stock `sops` spells it.
    fn is_respelled(&self) -> bool {
        self.entry.layout == Layout::Stock && self.format.store().is_respelled()
    }

    /// Says where a mark in an INI value makes a comment of what may have been meant as its end.
    fn cut_values(&self, document: &Document<'_>) -> Option<String> {
        let is_cut = |leaf: &&Leaf<'_>| {
            let mark = document.source[..leaf.span.start]
                .iter()
                .rposition(|byte| matches!(byte, b'#' | b';'));
            let is_adjacent = mark.and_then(|mark| mark.checked_sub(1)).is_some_and(|at| {
                !document.source[at].is_ascii_whitespace() && document.source[at] != b']'
            });
            leaf.step == document::Step::Aside && is_adjacent
        };
        let leaf = document
            .leaves
            .iter()
            .find(|leaf| self.format == Format::Ini && is_cut(leaf))?;
        let line = memchr::memchr_iter(b'\n', &document.source[..leaf.span.start]).count() + 1;
        Some(format!(
            "{}: line {line}: stock `sops` takes what stands behind `#` or `;` for a comment, quotes or not",
            self.entry.repository_path
        ))
    }

    /// Says which keys look like secrets and stay in clear by a rule. A suffix on the key itself is
    /// its owner's own word.
    fn clear_secrets<'d>(
        &self,
        document: &Document<'_>,
        clear: impl Iterator<Item = &'d Leaf<'d>>,
    ) -> Option<String> {
        let rule = &self.governing.rule.selection.rule;
        if matches!(rule, SelectionRule::UnencryptedSuffix(_)) {
            return None;
        }
        let keys: Vec<_> = clear
            .filter(|leaf| {
                let key = leaf.path.last().unwrap_or_default();
                guard::looks_secret(key, leaf.value.plaintext().expose())
            })
            .map(|leaf| document.place(leaf))
            .collect();
        let (option, value) = rule.option();
        (!keys.is_empty()).then(|| {
            format!(
                "{}: stored in clear by `{option}: {}`, though the name sounds secret: {}",
                self.entry.repository_path,
                value.escape_debug(),
                keys.join(", ")
            )
        })
    }

    /// Decides under which data key and for whom the file is written, and whether tokens of the
    /// existing file may stay.
    fn key_and_metadata(&self, fill: sops::Fill<'_>) -> Result<Under, Problem> {
        let wanted = &self.governing.groups;
        let threshold = self.governing.rule.threshold;
        let is_kept = *self.stored != Stored::Unopened && !self.options.new_data_key;
        let existing = self.existing.filter(|_| is_kept);
        let selection = self
            .format
            .store()
            .has_selection()
            .then_some(&self.governing.rule.selection);
        let change = existing.map(|found| KeyChange::of(&found.sealed.metadata, self.governing));
        if let (Some(encrypted), Some(KeyChange::None | KeyChange::Added)) = (existing, &change) {
            let metadata = &encrypted.sealed.metadata;
            let key = unwrap_key(self.workspace, self.entry, metadata)?;
            let same_form = encrypted.format == self.format;
            let mut next = if same_form {
                metadata.clone()
            } else {
                Metadata::new(selection)
            };
            if let Some(selection) = selection
                .filter(|selection| same_form && !metadata.selection.is_same_in_dotenv(selection))
            {
                next.set_selection(selection);
            }
            if matches!(change, Some(KeyChange::Added)) {
                self.wrap_added(&key, metadata, &mut next, fill)?;
            } else if !same_form {
                next.set_groups(metadata.groups.clone(), metadata.threshold());
            }
            return Ok(Under {
                key,
                metadata: next,
                keeps_tokens: same_form,
                is_made: false,
            });
        }
        let key = DataKey::generate(fill);
        let mut metadata = Metadata::new(selection);
        let mut groups = self.new_groups(wanted);
        let threshold = self.wrap_groups(&key, &mut groups, threshold, fill)?;
        metadata.set_groups(groups, threshold);
        Ok(Under {
            key,
            metadata,
            keeps_tokens: false,
            is_made: true,
        })
    }

    fn new_groups(&self, wanted: &[Vec<KeyId>]) -> Vec<KeyGroup> {
        let group = |keys: &Vec<KeyId>| {
            let keys = keys.iter().cloned();
            keys.map(|id| MasterKey::new(id, self.now)).collect()
        };
        wanted.iter().map(group).collect()
    }

    /// Lets further keys open a file with one group, under the same data key; wrapped keys that are there
    /// stay as they are.
    fn wrap_added(
        &self,
        key: &DataKey,
        metadata: &Metadata,
        next: &mut Metadata,
        fill: sops::Fill<'_>,
    ) -> Result<(), Problem> {
        let [wanted] = &self.governing.groups[..] else {
            // The shares are made anew.
            let mut groups = self.new_groups(&self.governing.groups);
            let threshold = self.governing.rule.threshold;
            let threshold = self.wrap_groups(key, &mut groups, threshold, fill)?;
            next.set_groups(groups, threshold);
            return Ok(());
        };
        let mut group: KeyGroup = metadata.keys().cloned().collect();
        for id in wanted {
            let is_there = metadata
                .keys()
                .any(|key| key.id.canonical() == id.canonical());
            if !is_there {
                let new = MasterKey::new(id.clone(), self.now);
                let mut added = vec![vec![new]];
                self.wrap_groups(key, &mut added, 0, fill)?;
                group.extend(added.into_iter().flatten());
            }
        }
        next.set_groups(vec![group], metadata.threshold());
        Ok(())
    }

    fn wrap_groups(
        &self,
        key: &DataKey,
        groups: &mut [KeyGroup],
        threshold: usize,
        fill: sops::Fill<'_>,
    ) -> Result<usize, Problem> {
        let wrapped = self
            .workspace
            .keyring
            .wrap_groups(key, groups, threshold, fill);
        wrapped.map_err(|errors| {
            let name = &self.entry.repository_path;
            let error = errors.into_iter().next().unwrap_or(KeyError::NoGroups);
            let help = match &error {
                KeyError::Cloud { .. } => format!(
                    "stock `sops` can: `sops updatekeys --input-type {} {}`, or take this key out of the rule",
                    self.format.name(),
                    self.workspace.hints.file(name)
                ),
                _ => "mend or take out this key in `.sops.yaml`".to_owned(),
            };
            Problem::of(name, error).with_help(help)
        })
    }

    /// Opens what is about to be written with an identity at hand and compares it with the source.
    fn verify(
        &self,
        sealed: Vec<u8>,
        digest: &str,
        key: &DataKey,
        source: &SecretBytes,
        warnings: &mut Vec<String>,
    ) -> Result<Result<(Vec<u8>, String), Refusal>, Problem> {
        let name = &self.entry.repository_path;
        let (format, document) = sops::parse_sealed(sealed).map_err(|error| {
            Problem::of(name, error)
                .with_help("add `format = \"binary\"` to its row, and please report this")
        })?;
        let unwrapped = match self.workspace.keyring.unwrap(&document.metadata) {
            Ok(unwrapped) => unwrapped,
            Err(KeyError::NoIdentity { .. }) if self.options.allow_unreadable => key.clone(),
            Err(KeyError::NoIdentity { .. }) => return Ok(Err(Refusal::NotOpenable)),
            Err(error) => return Err(key_problem(self.workspace, self.entry, error)),
        };
        let same = if format == self.format && self.is_respelled() {
            let opened = sops::open(format, &document, &unwrapped)
                .map_err(|error| Problem::of(name, error))?;
            let plaintext = opened.plaintext.expose();
            let differences = diff::between(source.expose(), plaintext, Reading::of(format));
            let reading = Reading::of(format);
            let is_same = differences.changes.is_empty()
                || diff::is_same_to_stock(source.expose(), plaintext, reading);
            if is_same && !differences.is_empty() {
                warnings.push(respelling(name, source.expose(), plaintext));
            }
            is_same
        } else {
            format == self.format
                && sops::matches(format, &document, &unwrapped, source.expose(), Some(digest))
                    .map_err(|error| Problem::of(name, error))?
        };
        if !same {
            return Err(Problem::of(name, DocumentError::NotReproduced)
                .with_help("add `format = \"binary\"` to its row, and please report this"));
        }
        Ok(Ok((document.source, document.metadata.mac)))
    }
}

/// Says which lines of a source come back otherwise, in the layout of stock `sops`.
fn respelling(name: &str, source: &[u8], plaintext: &[u8]) -> String {
    const NAMED: usize = 8;
    let (old, new) = (
        String::from_utf8_lossy(source),
        String::from_utf8_lossy(plaintext),
    );
    let diff = similar::TextDiff::from_lines(&*old, &*new);
    let lines: Vec<String> = diff
        .iter_all_changes()
        .filter(|change| change.tag() == similar::ChangeTag::Delete)
        .filter_map(|change| change.old_index())
        .map(|index| (index + 1).to_string())
        .collect();
    let named = lines[..lines.len().min(NAMED)].join(", ");
    let more = match lines.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match lines.len() {
        0 => format!("{name}: comes back as stock `sops` spells it: lines are added"),
        1 => format!("{name}: comes back as stock `sops` spells it: line {named} differs"),
        _ => format!("{name}: comes back as stock `sops` spells it: lines {named}{more} differ"),
    }
}

/// How the keys of a file and those of its rule differ.
enum KeyChange {
    /// Further keys are to open it, in groups that are there.
    Added,
    /// Not at all.
    None,
    /// Some are not to open it any more, or it takes other groups.
    Removed,
}

impl KeyChange {
    fn of(metadata: &Metadata, governing: &Governing) -> Self {
        let (have, want) = (&metadata.groups, &governing.groups);
        if have.len() != want.len() || metadata.needed_groups() != governing.rule.needed_groups() {
            return Self::Removed;
        }
        let changes = group_changes(have, want, KeyId::canonical);
        if changes.iter().any(|change| !change.removed.is_empty()) {
            return Self::Removed;
        }
        let is_added = !changes.iter().all(GroupChange::is_none);
        if is_added { Self::Added } else { Self::None }
    }
}
