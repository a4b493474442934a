//! `encrypt`: captures the plaintext files of the server into the repository.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::{KeyError, age};
use crate::os::fs::{Attributes, Base, FileState, Found, Ownership, Place};
use crate::os::{RandomPool, process, users};
use crate::project::diff;
use crate::project::error::Refusal;
use crate::project::guard;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry};
use crate::project::plan::{self, Action, Plan, Step, Stored};
use crate::rules::Rule;
use crate::secret::SecretBytes;
use crate::sops::data_key::DataKey;
use crate::sops::metadata::{MasterKey, Metadata};
use crate::sops::store::Format;
use crate::sops::{self, Opened, Reuse};
use crate::ui::report::{Applied, Report};

use super::apply::{self, Job, Watched, Work};
use super::open::{
    Encrypted, Lookup, check_format, damaged, key_problem, read_encrypted, stock_command,
    unwrap_key,
};
use super::workspace::{FoundRules, Workspace};
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
    /// Write files that no identity here can open, unchecked (for machines that may only write)
    #[arg(long)]
    allow_unreadable: bool,
    /// Refuse sources longer than this (bytes, or with KiB, MiB, GiB)
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    max_size: u64,
}

/// One entry, captured in memory.
struct Prepared<'w> {
    entry: &'w Entry,
    step: Step,
    /// Where the encrypted file goes, and what was seen there.
    target: Place,
    target_seen: Option<(FileState, Vec<u8>)>,
    /// Where the source is, and what was seen there.
    source: Option<(Place, FileState, SecretBytes)>,
    sealed: Vec<u8>,
    format: Format,
}

/// The rule that governs an entry, ready for writing.
struct Governing {
    recipients: Vec<String>,
    rule: Rule,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &EncryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx)?;
    let entries = workspace.select_secret(&args.entries)?;
    if !args.write.dry_run {
        apply::clean_up(cx, &workspace);
    }
    let root = workspace.require_root()?;
    warn_of_other_rules(cx, &workspace, &entries);

    let now = cx.env.now();
    let mut plan = Plan::default();
    let mut problems = Vec::new();
    let mut prepared = Vec::new();
    for result in in_parallel(&entries, workspace.jobs, |entry| {
        transform(&workspace, root, entry, args, &now)
    }) {
        match result {
            Err(problem) => problems.push(problem),
            Ok((one, warnings)) => {
                warnings.iter().for_each(|warning| cx.ui.warning(warning));
                problems.extend(
                    one.step
                        .refusals
                        .iter()
                        .map(|refusal| explain(one.entry, refusal)),
                );
                cx.ui.detail(&format!(
                    "opens with: {}",
                    stock_command(one.format, &one.entry.repository_path)
                ));
                plan.steps.push(one.step.clone());
                prepared.push(one);
            }
        }
    }

    let outcome = if args.write.dry_run {
        Applied::DryRun
    } else if problems.is_empty() || args.write.keep_going {
        let mut good: Vec<_> = prepared.iter().collect();
        let mut kept = BTreeSet::new();
        loop {
            let Err(problem) = carry_out(cx, &workspace, &good, &mut kept, args) else {
                break Applied::Done;
            };
            let failed = problem.entry.clone();
            problems.push(problem);
            let before = good.len();
            good.retain(|one| failed.as_ref() != Some(&one.entry.repository_path));
            if !args.write.keep_going || good.len() == before {
                break Applied::Nothing;
            }
            plan.forget(failed.as_deref());
        }
    } else {
        Applied::Nothing
    };
    cx.ui.report(&Report {
        command: "encrypt",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &[],
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

/// What has been found out about an entry so far.
struct Judgement {
    stored: Stored,
    refusals: Vec<Refusal>,
    warnings: Vec<String>,
}

/// Reads, guards, compares and encrypts one entry in memory.
fn transform<'w>(
    workspace: &Workspace,
    root: &Base,
    entry: &'w Entry,
    args: &EncryptArgs,
    now: &str,
) -> Result<(Prepared<'w>, Vec<String>), Problem> {
    let name = &entry.repository_path;
    let new_format = check_format(entry)?;
    let source_place = root
        .place(entry.server_path.as_ref())
        .map_err(|error| Problem::of(name, error))?;
    let (source, refusals) = read_source(&source_place, args.max_size);
    let (mut existing, place) = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => {
            let place = encrypted.place.clone();
            (Some(encrypted), place)
        }
        Lookup::Missing(place) => (None, place),
    };
    let stored_format = existing.as_ref().map(|found| found.format);
    let format = entry.format.or(stored_format).unwrap_or(new_format);
    let mut prepared = Prepared {
        entry,
        step: plan::skip(name, PathBuf::from(name), "optional, and not on the server"),
        target: place,
        target_seen: None,
        source: None,
        sealed: Vec::new(),
        format,
    };
    if entry.optional && refusals == [Refusal::SourceMissing] {
        return Ok((prepared, Vec::new()));
    }
    let mut judgement = Judgement {
        stored: Stored::Missing,
        refusals,
        warnings: Vec::new(),
    };
    if let Some((_, content)) = &source {
        let found = guard::check_source(content.expose(), format, entry.is_env());
        judgement.refusals.extend(found);
    }
    let governing = govern(workspace, entry, &mut judgement.refusals)?;
    let mut opened = None;
    if let (Some(encrypted), Some((_, content)), Some(governing), true) = (
        &existing,
        &source,
        &governing,
        judgement.refusals.is_empty(),
    ) {
        (judgement.stored, opened) = compare(workspace, entry, encrypted, content, args)?;
        if format != encrypted.format && judgement.stored == Stored::Same {
            let why = format!("stored as {} from now on", format.name());
            judgement.stored = Stored::Outdated(why);
        }
        check_rule(workspace, entry, encrypted, governing, args, &mut judgement);
    }
    let Judgement {
        stored,
        refusals,
        warnings,
    } = judgement;
    prepared.step = plan::encrypt(name, PathBuf::from(name), &stored, refusals);

    if let (Some(encrypted), Stored::Differs(_) | Stored::Unopened, Some(Format::Binary)) =
        (&mut existing, &stored, stored_format)
    {
        // No token of it is used again: a large one need not stay in memory.
        if encrypted.sealed.source.len() > NAMED_BYTES {
            encrypted.sealed.forget_leaf_text();
        }
    }
    if let (Action::Create | Action::Replace, Some((_, content)), Some(governing)) =
        (prepared.step.action, &source, &governing)
    {
        let request = Request {
            workspace,
            entry,
            format,
            existing: existing.as_deref(),
            opened: opened.as_ref(),
            stored: &stored,
            governing,
            args,
            now,
        };
        match request.seal(content)? {
            Ok(bytes) => prepared.sealed = bytes,
            Err(refusal) => {
                prepared.step.action = Action::Refuse;
                prepared.step.refusals.push(refusal);
            }
        }
    }
    prepared.target_seen = existing.map(|found| (found.state, found.sealed.source));
    if let Some((_, content)) = &mut prepared.target_seen {
        forget_large(content);
    }
    prepared.source = source.map(|(state, content)| (source_place, state, content));
    Ok((prepared, warnings))
}

/// Frees the content of a large file that is known by its state from here on.
fn forget_large(content: &mut Vec<u8>) {
    if content.len() > NAMED_BYTES {
        *content = Vec::new();
    }
}

/// Reads the source; what is no readable regular file is a refusal.
fn read_source(place: &Place, limit: u64) -> (Option<(FileState, SecretBytes)>, Vec<Refusal>) {
    let refusal = match place.read(limit) {
        Found::File(state, content) => return (Some((state, content)), Vec::new()),
        Found::Missing => Refusal::SourceMissing,
        Found::Other(kind) => Refusal::NotRegular { kind },
        Found::TooLarge(bytes) => Refusal::TooLarge { bytes, limit },
        Found::Unreadable(error) => Refusal::Unreadable {
            reason: error.to_string(),
        },
    };
    (None, vec![refusal])
}

/// Finds the rule of an entry and checks that it can be honoured.
fn govern(
    workspace: &Workspace,
    entry: &Entry,
    refusals: &mut Vec<Refusal>,
) -> Result<Option<Governing>, Problem> {
    let name = &entry.repository_path;
    let Some(found) = workspace.rules_for(entry) else {
        refusals.push(Refusal::NoRulesFile);
        return Ok(None);
    };
    let FoundRules {
        path,
        folder,
        rules,
    } = &*found;
    let rules = rules.as_ref().map_err(|error| {
        Problem::of(
            name,
            ErrorKind::Rules {
                path: path.clone(),
                source: error.clone(),
            },
        )
        .with_help(format!("mend {}", path.display()))
    })?;
    let file = workspace.repository_file(entry);
    let subject = file
        .strip_prefix(folder)
        .unwrap_or(&file)
        .to_string_lossy()
        .into_owned();
    let Some(rule) = rules.find(&subject) else {
        // Rules written for the plaintext paths of a shell loop end before `.enc`.
        let shorter = subject
            .strip_suffix(ENCRYPTED_SUFFIX)
            .and_then(|path| rules.find(path));
        let pattern = shorter.and_then(|rule| rule.path_regex.as_ref());
        let suggestion = pattern
            .and_then(|pattern| pattern.as_str().strip_suffix('$'))
            .map(|pattern| format!("{pattern}(\\.enc)?$"));
        refusals.push(Refusal::NoRule {
            rules: path.display().to_string(),
            path: subject,
            suggestion,
        });
        return Ok(None);
    };
    if !rule.unsupported.is_empty() {
        let names: Vec<_> = rule
            .unsupported
            .iter()
            .map(|key| format!("`{key}`"))
            .collect();
        let kind = ErrorKind::RuleUnsupported {
            path: path.clone(),
            rule: rule.number,
            names: names.join(", "),
        };
        return Err(Problem::of(name, kind)
            .with_help("encrypt this file with `sops`, or take them out of the rule"));
    }
    if rule.age.is_empty() {
        let kind = ErrorKind::RuleWithoutKeys {
            path: path.clone(),
            rule: rule.number,
        };
        return Err(Problem::of(name, kind).with_help(format!(
            "add `age: RECIPIENT` to the rule in {}",
            path.display()
        )));
    }
    for recipient in &rule.age {
        age::check_recipient(recipient).map_err(|error| {
            Problem::of(name, error).with_help(format!(
                "mend creation rule {} in {}",
                rule.number,
                path.display()
            ))
        })?;
    }
    let missing: Vec<_> = workspace
        .manifest
        .recipients
        .iter()
        .filter(|named| named.break_glass && !rule.age.contains(&named.key))
        .map(|named| named.name.clone())
        .collect();
    if !missing.is_empty() {
        refusals.push(Refusal::BreakGlassMissing {
            names: missing.join(", "),
        });
    }
    Ok(Some(Governing {
        recipients: rule.age.clone(),
        rule: rule.clone(),
    }))
}

/// Files longer than this are not opened as a whole only to name keys or count lines.
const NAMED_BYTES: usize = 1 << 20;

/// Compares the source with what is stored. The binary form is compared without a second copy.
fn compare(
    workspace: &Workspace,
    entry: &Entry,
    encrypted: &Encrypted,
    source: &SecretBytes,
    args: &EncryptArgs,
) -> Result<(Stored, Option<Opened>), Problem> {
    let name = &entry.repository_path;
    let sealed = &encrypted.sealed;
    let key = match workspace.keyring.unwrap(&sealed.metadata) {
        Ok(key) => key,
        Err(KeyError::NoIdentity { .. }) if args.allow_unreadable => {
            return Ok((Stored::Unopened, None));
        }
        Err(error) => return Err(key_problem(&workspace.manifest, entry, error)),
    };
    if encrypted.format == Format::Binary {
        let same = sops::matches(encrypted.format, sealed, &key, source.expose(), None)
            .map_err(|error| damaged(name, error))?;
        if same {
            return Ok((Stored::Same, None));
        }
        if sealed.source.len() > NAMED_BYTES {
            let whole = (diff::Change::Changed, "(content)".to_owned());
            return Ok((
                Stored::Differs(diff::Differences {
                    changes: vec![whole],
                    is_layout_only: false,
                }),
                None,
            ));
        }
    }
    let opened =
        sops::open(encrypted.format, sealed, &key).map_err(|error| damaged(name, error))?;
    let differences = diff::between(opened.plaintext.expose(), source.expose(), entry.is_env());
    let stored = if differences.is_empty() {
        Stored::Same
    } else {
        Stored::Differs(differences)
    };
    Ok((stored, Some(opened)))
}

/// Compares recipients and options of an existing file with its rule: a warning where the file is
/// not written, a refusal where it would be, unless it is to be brought in line.
fn check_rule(
    workspace: &Workspace,
    entry: &Entry,
    encrypted: &Encrypted,
    governing: &Governing,
    args: &EncryptArgs,
    judgement: &mut Judgement,
) {
    let metadata = &encrypted.sealed.metadata;
    let mut found = Vec::new();
    let recipients = recipient_changes(workspace, metadata, governing);
    if !recipients.is_empty() {
        found.push(Refusal::RecipientsDiffer {
            changes: recipients,
        });
    }
    let has_selection = encrypted.format.store().has_selection();
    if has_selection && !metadata.selection.is_same(&governing.rule.selection, true) {
        found.push(Refusal::SelectionDiffers {
            file: metadata.selection.describe(),
            rule: governing.rule.selection.describe(),
        });
    }
    let is_same = judgement.stored == Stored::Same;
    match (found.is_empty(), args.update_recipients, is_same) {
        (true, _, _) | (_, true, false) => {}
        (_, true, true) => {
            let why: Vec<_> = found.iter().map(ToString::to_string).collect();
            judgement.stored = Stored::Outdated(why.join("; "));
        }
        (_, false, true) => {
            let name = &entry.repository_path;
            let remedy = "`secrets encrypt --update-recipients` brings it in line";
            let warnings = found
                .iter()
                .map(|refusal| format!("{name}: {refusal}; {remedy}"));
            judgement.warnings.extend(warnings);
        }
        (_, false, false) => judgement.refusals.extend(found),
    }
}

/// Says who would be added and removed, by name; empty when nobody.
fn recipient_changes(workspace: &Workspace, metadata: &Metadata, governing: &Governing) -> String {
    let have: BTreeSet<&str> = metadata.age_recipients().into_iter().collect();
    let want: BTreeSet<&str> = governing.recipients.iter().map(String::as_str).collect();
    let name = |key: &&str| workspace.manifest.name_recipient(key);
    let mut changes: Vec<String> = want
        .difference(&have)
        .map(|key| format!("+ {}", name(key)))
        .collect();
    changes.extend(have.difference(&want).map(|key| format!("- {}", name(key))));
    changes.extend(
        metadata
            .other_kinds()
            .iter()
            .map(|kind| format!("- keys of kind {kind}")),
    );
    changes.join(", ")
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
    args: &'r EncryptArgs,
    now: &'r str,
}

impl Request<'_> {
    /// Encrypts the source, opens the result again and compares.
    fn seal(&self, source: &SecretBytes) -> Result<Result<Vec<u8>, Refusal>, Problem> {
        let name = &self.entry.repository_path;
        let mut pool = RandomPool::new();
        let mut fill = |buffer: &mut [u8]| pool.fill(buffer);
        let store = self.format.store();
        let document = match store.parse(source.expose()) {
            Ok(document) => document,
            Err(error) => return Ok(Err(guard::unrepresentable(&error))),
        };
        let (key, metadata, keeps_tokens) = self.key_and_metadata(&mut fill)?;
        let reuse = match (self.existing, self.opened) {
            (Some(encrypted), Some(opened)) if keeps_tokens && self.format != Format::Binary => {
                Reuse::Leaves(&encrypted.sealed, opened)
            }
            (Some(encrypted), _)
                if keeps_tokens
                    && self.format == Format::Binary
                    && !matches!(self.stored, Stored::Differs(_)) =>
            {
                Reuse::All(&encrypted.sealed)
            }
            (Some(encrypted), _) if encrypted.format == self.format => {
                Reuse::Layout(&encrypted.sealed)
            }
            _ => Reuse::Nothing,
        };
        let sealed = sops::seal(
            self.format,
            &document,
            &key,
            &metadata,
            &reuse,
            self.now,
            &mut fill,
        )
        .map_err(|error| Problem::of(name, error))?;
        drop(document);
        self.verify(sealed.bytes, &sealed.digest, &key, source)
    }

    /// Decides under which data key and for whom the file is written, and whether tokens of the
    /// existing file may stay.
    fn key_and_metadata(&self, fill: sops::Fill<'_>) -> Result<(DataKey, Metadata, bool), Problem> {
        let wanted = &self.governing.recipients;
        let existing = self.existing.filter(|_| *self.stored != Stored::Unopened);
        let selection = self
            .format
            .store()
            .has_selection()
            .then_some(&self.governing.rule.selection);
        if let Some(encrypted) = existing {
            let metadata = &encrypted.sealed.metadata;
            let have = metadata.age_recipients();
            let is_removed = have
                .iter()
                .any(|key| !wanted.iter().any(|wanted| wanted == key))
                || !metadata.other_kinds().is_empty();
            if !is_removed {
                let key = unwrap_key(self.workspace, self.entry, metadata)?;
                let same_form = encrypted.format == self.format;
                let mut next = if same_form {
                    metadata.clone()
                } else {
                    Metadata::new(selection)
                };
                if let Some(selection) = selection
                    .filter(|selection| same_form && !metadata.selection.is_same(selection, true))
                {
                    next.set_selection(selection);
                }
                let mut keys = kept_keys(metadata);
                let added = wanted
                    .iter()
                    .filter(|recipient| !have.contains(&recipient.as_str()));
                let is_same_set = added.clone().next().is_none();
                for recipient in added {
                    keys.push((recipient.clone(), self.wrap(&key, recipient)?));
                }
                if !is_same_set || !same_form {
                    next.set_age_keys(&keys);
                }
                return Ok((key, next, same_form));
            }
        }
        let key = DataKey::generate(fill);
        let mut metadata = Metadata::new(selection);
        let wrapped: Result<Vec<_>, _> = wanted
            .iter()
            .map(|recipient| Ok((recipient.clone(), self.wrap(&key, recipient)?)))
            .collect();
        metadata.set_age_keys(&wrapped?);
        Ok((key, metadata, false))
    }

    fn wrap(&self, key: &DataKey, recipient: &str) -> Result<String, Problem> {
        age::wrap(key, recipient).map_err(|error| Problem::of(&self.entry.repository_path, error))
    }

    /// Opens what is about to be written with an identity at hand and compares it with the source.
    fn verify(
        &self,
        sealed: Vec<u8>,
        digest: &str,
        key: &DataKey,
        source: &SecretBytes,
    ) -> Result<Result<Vec<u8>, Refusal>, Problem> {
        let name = &self.entry.repository_path;
        let (format, document) =
            sops::parse_sealed(sealed).map_err(|error| Problem::of(name, error))?;
        let unwrapped = match self.workspace.keyring.unwrap(&document.metadata) {
            Ok(unwrapped) => unwrapped,
            Err(KeyError::NoIdentity { .. }) if self.args.allow_unreadable => key.clone(),
            Err(KeyError::NoIdentity { .. }) => return Ok(Err(Refusal::NotOpenable)),
            Err(error) => return Err(key_problem(&self.workspace.manifest, self.entry, error)),
        };
        let same = format == self.format
            && sops::matches(format, &document, &unwrapped, source.expose(), Some(digest))
                .map_err(|error| Problem::of(name, error))?;
        if !same {
            return Err(Problem::of(name, sops::error::DocumentError::NotReproduced)
                .with_help("add `format = \"binary\"` to its row, and please report this"));
        }
        Ok(Ok(document.source))
    }
}

/// Returns the wrapped copies of the data key that a file has.
fn kept_keys(metadata: &Metadata) -> Vec<(String, String)> {
    metadata
        .groups
        .iter()
        .flatten()
        .filter_map(|key| match key {
            MasterKey::Age { recipient, enc } => Some((recipient.clone(), enc.clone())),
            MasterKey::Other { .. } => None,
        })
        .collect()
}

fn carry_out(
    cx: &mut Context,
    workspace: &Workspace,
    prepared: &[&Prepared<'_>],
    backups: &mut BTreeSet<String>,
    args: &EncryptArgs,
) -> Result<(), Problem> {
    let mut work = Work::default();
    for one in prepared.iter().filter(|one| one.step.writes()) {
        let name = one.entry.repository_path.as_str();
        let seen = one
            .target_seen
            .as_ref()
            .map(|(state, content)| (*state, content.as_slice()));
        let owner = match seen {
            Some((state, _)) => (state.uid, state.gid),
            None => one
                .target
                .folder_owner()
                .map_err(|error| Problem::of(name, error))?,
        };
        let owner = repository_owner(owner, args);
        let mode = seen.map_or(0o644 & !process::umask(), |(state, _)| state.mode & 0o777);
        work.jobs.push(Job {
            name,
            place: one.target.clone(),
            content: &one.sealed,
            attributes: Attributes {
                owner,
                mode,
                keep_access_list: true,
            },
            folder_owner: owner,
            seen,
            in_place: false,
        });
        if let Some((place, state, content)) = &one.source {
            work.watched.push(Watched {
                name,
                place: place.clone(),
                state: *state,
                content: content.expose(),
            });
        }
    }
    if work.jobs.is_empty() {
        return Ok(());
    }
    let _locks = apply::lock(cx, workspace, None, !args.write.no_wait)?;
    keep_uncommitted(cx, workspace, prepared, backups)?;
    apply::run(cx, workspace, &work)
}

/// Files of the repository belong to whom they belonged, also when root runs; a plain user can
/// only make files of their own.
fn repository_owner((uid, gid): (u32, u32), args: &EncryptArgs) -> Ownership {
    if args.write.no_owner || !users::may_give_to_user(uid) {
        return Ownership::default();
    }
    let gid = users::may_give_to_group(gid).then_some(gid);
    Ownership {
        uid: Some(uid),
        gid,
    }
}

/// Keeps a copy of each encrypted file that is about to be replaced and is not in `HEAD`: it may
/// hold values that are nowhere else.
fn keep_uncommitted(
    cx: &mut Context,
    workspace: &Workspace,
    prepared: &[&Prepared<'_>],
    kept: &mut BTreeSet<String>,
) -> Result<(), Problem> {
    for one in prepared
        .iter()
        .filter(|one| one.step.action == Action::Replace)
    {
        if kept.contains(&one.entry.repository_path) {
            continue;
        }
        let file = workspace.repository_file(one.entry);
        // A history that cannot be read holds nothing that can be relied on.
        let checkout = workspace.checkout().unwrap_or(None);
        if checkout.is_some_and(|checkout| checkout.is_committed(&file).unwrap_or(false)) {
            continue;
        }
        let state = workspace.state.as_ref().ok_or_else(|| {
            Problem::new(ErrorKind::Option(
                "there is no state directory for the backup".to_owned(),
            ))
            .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
        })?;
        let label = one.entry.path_without_suffix();
        let path = state
            .keep_backup_of(label, &cx.env.now(), &file)
            .map_err(apply::state_problem)?;
        let name = &one.entry.repository_path;
        kept.insert(name.clone());
        cx.ui.status(&format!(
            "{name} was not committed: its old version is kept as {}",
            path.display()
        ));
    }
    Ok(())
}

fn explain(entry: &Entry, refusal: &Refusal) -> Problem {
    let name = &entry.repository_path;
    let server = &entry.server_path;
    let binary = "`format = \"binary\"` in its row stores the file byte for byte";
    let help = match refusal {
        Refusal::SourceMissing => format!(
            "`secrets decrypt '{name}'` restores it; `optional = true` in its row makes a missing source fine"
        ),
        Refusal::Empty | Refusal::Blank | Refusal::CommentsOnly => {
            format!("`secrets decrypt --force '{name}'` restores it from the repository")
        }
        Refusal::ConflictMarker { .. } => {
            format!("resolve the merge in {server}, then encrypt again")
        }
        Refusal::AlreadyEncrypted => {
            format!("`secrets decrypt --force '{name}'` puts the plaintext there")
        }
        Refusal::MultiLineValue { .. } => binary.to_owned(),
        Refusal::Unrepresentable { .. } => format!("mend the line in {server}, or {binary}"),
        Refusal::NotRegular { .. } => format!("put a regular file in the place of {server}"),
        Refusal::Unreadable { .. } => "run as a user who may read it".to_owned(),
        Refusal::TooLarge { .. } => "`--max-size SIZE` raises the limit".to_owned(),
        Refusal::NoRulesFile => {
            "write a `.sops.yaml` with `creation_rules` and `age: RECIPIENT` beside the manifest"
                .to_owned()
        }
        Refusal::NoRule { path, .. } => {
            format!("add a rule whose `path_regex` matches `{path}`, such as `path_regex: \\.enc$`")
        }
        Refusal::RecipientsDiffer { .. } | Refusal::SelectionDiffers { .. } => {
            format!("if that is meant: `secrets encrypt --update-recipients '{name}'`")
        }
        Refusal::NotOpenable => {
            "name your identity with `-i FILE`; `--allow-unreadable` writes it unchecked".to_owned()
        }
        Refusal::BreakGlassMissing { .. } => {
            "add the recipient to the rule in `.sops.yaml`".to_owned()
        }
        Refusal::Differs { .. } | Refusal::TrackedTarget { .. } => {
            "`secrets encrypt --help` explains the guards".to_owned()
        }
    };
    Problem::of(name, refusal.clone()).with_help(help)
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
        .ok_or_else(|| "too large".to_owned())
}
