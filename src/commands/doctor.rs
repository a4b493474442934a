//! `doctor`: one line for each thing that must be right, with what to do where it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Problem};
use crate::keys::age::canonical;
use crate::keys::keyring::Keyring;
use crate::os::{fs, users};
use crate::project::manifest::{Entry, Kind};
use crate::rules::RULES_FILE;
use crate::sops;
use crate::ui::doctor::{Check, DoctorView, Verdict};

use super::apply;
use super::check::{self, CheckArgs};
use super::govern::{govern, rule_help};
use super::hints::DAMAGED_GIT;
use super::install;
use super::lost_key;
use super::open::{Lookup, read_encrypted};
use super::ownership::{self, Purpose};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, trust};

/// Say of everything that must be right whether it is
///
/// Identity, rules, ignore lines, files of the repository, root, state directory, versions: one line
/// each, with what to do. Reads only, never a network. Exit code 1 when something is wrong, 2 when
/// something could not be told, such as without a key.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets doctor           what is right and what is not\n  secrets doctor --json    the same for a program"
)]
pub struct DoctorArgs {}

/// Runs the command.
///
/// # Errors
/// No manifest, or a wrong one.
pub fn run(_args: &DoctorArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    let entries = workspace.select_everywhere(&[])?;
    let mut checks = vec![version(&workspace, &entries)];
    checks.push(host(&workspace));
    let opens = opens(&workspace, &entries);
    let opens_all = opens.iter().all(|check| check.verdict == Verdict::Ok);
    checks.extend(identity_files(cx, &workspace, opens_all));
    checks.extend(opens);
    checks.extend(rules(&workspace, &entries));
    checks.push(other_rules(&workspace, &entries));
    let has_rules = entries
        .iter()
        .any(|entry| workspace.rules_for(entry).is_some());
    let has_git = matches!(workspace.checkout(), Ok(Some(_)));
    checks.extend(repository(cx, has_rules, has_git));
    checks.extend(git(&workspace, &entries));
    checks.push(accounts(&entries));
    checks.push(plaintext(&workspace, &entries));
    checks.push(root(cx, &workspace));
    checks.push(state(&workspace));
    let (traces, _) = apply::traces(&workspace);
    let traces = traces.into_iter();
    checks.extend(traces.map(|line| Check::of("runs", Verdict::Wrong, line, None)));
    let view = DoctorView { checks };
    cx.ui.show_doctor(&view);
    let has = |verdict| view.checks.iter().any(|check| check.verdict == verdict);
    Ok(Outcome {
        differs: has(Verdict::Wrong),
        trouble: has(Verdict::Unknown),
        ..Outcome::default()
    })
}

fn version(workspace: &Workspace, entries: &[&Entry]) -> Check {
    let count = entries.len();
    Check::ok(
        "manifest",
        format!(
            "{} names {count} {}; this is secrets {}",
            workspace.manifest_path.display(),
            if count == 1 { "entry" } else { "entries" },
            env!("CARGO_PKG_VERSION")
        ),
    )
}

fn host(workspace: &Workspace) -> Check {
    match workspace.select(&[]) {
        Ok(here) => Check::ok(
            "host",
            format!("{}: {} entries are for it", workspace.host, here.len()),
        ),
        Err(error) => of_problem("host", Verdict::Wrong, error.problems.first()),
    }
}

fn of_problem(name: &'static str, verdict: Verdict, problem: Option<&Problem>) -> Check {
    let message = problem.map_or_else(String::new, |problem| match &problem.entry {
        Some(entry) => format!("{entry}: {}", problem.kind),
        None => problem.kind.to_string(),
    });
    let help = problem.and_then(|problem| problem.help.clone());
    Check::of(name, verdict, message, help)
}

/// Looks at the identity files: mode, owner, place, and whether a rule names their recipient.
fn identity_files(cx: &Context, workspace: &Workspace, opens_all: bool) -> Vec<Check> {
    let mut files: Vec<PathBuf> = cx
        .global
        .identities
        .iter()
        .map(|path| cx.env.absolute(path))
        .collect();
    if files.is_empty() {
        files.extend(cx.env.path_var("SOPS_AGE_KEY_FILE"));
        let usual = cx.env.config_dir();
        files.extend(
            usual
                .map(|config| config.join("sops/age/keys.txt"))
                .filter(|path| fs::is_there(path)),
        );
        files.extend(workspace.identity.clone());
    }
    files.dedup();
    if files.is_empty() {
        return vec![Check::of(
            "identity",
            Verdict::Note,
            "no identity file is named, by the manifest or SOPS_AGE_KEY_FILE".to_owned(),
            Some("add `identity = \"FILE\"` to [defaults]".to_owned()),
        )];
    }
    let wanted = wanted_recipients(workspace);
    files
        .iter()
        .map(|path| identity_file(workspace, path, &wanted, opens_all))
        .collect()
}

fn identity_file(
    workspace: &Workspace,
    path: &Path,
    wanted: &BTreeSet<String>,
    opens_all: bool,
) -> Check {
    let shown = path.display();
    let quoted = super::hints::quoted(&path.to_string_lossy());
    let wrong = |what: String, help: String| {
        Check::of(
            "identity",
            Verdict::Wrong,
            format!("{shown}: {what}"),
            Some(help),
        )
    };
    let Ok(metadata) = path.metadata() else {
        // Where another identity opens everything, this is another machine.
        let verdict = if opens_all {
            Verdict::Note
        } else {
            Verdict::Wrong
        };
        let hints = &workspace.hints;
        let remedy = format!(
            "{} puts the key there, or {} where it is lost",
            hints.ours_for_all("recover"),
            hints.ours_for_all("recover --new-key")
        );
        let message = format!("{shown} does not exist");
        return Check::of("identity", verdict, message, Some(remedy));
    };
    if !metadata.is_file() {
        return wrong(
            "it is not a regular file".to_owned(),
            "move it away, then `secrets recover` puts the key there".to_owned(),
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return wrong(
            format!("mode is {mode:04o}: everybody on this host may use it"),
            install::close_to_others(path),
        );
    }
    let folder = path.parent().and_then(|folder| folder.metadata().ok());
    if folder.is_some_and(|folder| folder.mode() & 0o1002 == 0o002) {
        return wrong(
            "everybody may replace files in its folder".to_owned(),
            "put it into a folder of its owner's".to_owned(),
        );
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me && metadata.uid() != 0 {
        let owner = users::name_of(users::Database::Passwd, metadata.uid());
        return wrong(
            format!("it belongs to {owner}, neither to root nor to you"),
            format!("`chown root {quoted}`"),
        );
    }
    if let Some(what) = in_repository(workspace, path) {
        let help = "move it out of the repository; a key that was committed counts as lost";
        return wrong(what.to_owned(), help.to_owned());
    }
    let content = match fs::read_regular(path) {
        Ok(content) => crate::secret::SecretBytes::new(content),
        Err(error) => {
            return Check::of(
                "identity",
                Verdict::Unknown,
                format!("{shown}: cannot read: {error}"),
                Some("run as a user who may read it".to_owned()),
            );
        }
    };
    let keyring = Keyring::of_text("the file", content.expose(), None);
    if keyring.is_empty() {
        let what = keyring.looked_at().join("; ");
        return wrong(what, "put an age identity there".to_owned());
    }
    let recipients = keyring.recipients();
    let fits = recipients
        .iter()
        .any(|recipient| wanted.contains(&canonical(recipient)));
    let names: Vec<_> = recipients
        .iter()
        .map(|recipient| workspace.manifest.name_recipient(recipient))
        .collect();
    if !fits && !recipients.is_empty() && !wanted.is_empty() {
        return wrong(
            format!(
                "it holds {}, which no rule of an entry names",
                names.join(", ")
            ),
            format!("add the recipient to `{RULES_FILE}`, or put the right key there"),
        );
    }
    let holds = if names.is_empty() {
        "a key behind a passphrase or a plugin".to_owned()
    } else {
        names.join(", ")
    };
    Check::ok("identity", format!("{shown}: {holds}, mode {mode:04o}"))
}

/// Says where git would take an identity file along.
fn in_repository(workspace: &Workspace, path: &Path) -> Option<&'static str> {
    let real = fs::canonical(path).unwrap_or_else(|| path.to_owned());
    let checkout = workspace.checkout().unwrap_or(None)?;
    if !real.starts_with(checkout.top()) {
        return None;
    }
    if checkout.is_tracked(&real).unwrap_or(false) {
        return Some("git tracks it");
    }
    let is_ignored = checkout.is_ignored(&real).unwrap_or(false);
    (!is_ignored).then_some("it lies in the repository and is not ignored")
}

/// Returns the recipients of all rules that govern an entry, canonical.
fn wanted_recipients(workspace: &Workspace) -> BTreeSet<String> {
    let entries = workspace.manifest.entries.iter();
    let secret = entries.filter(|entry| entry.kind == Kind::Secret);
    let governing = secret.filter_map(|entry| govern(workspace, entry, &mut Vec::new()).ok()?);
    governing
        .flat_map(|governing| governing.keys)
        .filter_map(|key| key.recipient().map(canonical))
        .collect()
}

/// Says whether an identity at hand opens every entry of this host. Nothing is asked.
fn opens(workspace: &Workspace, entries: &[&Entry]) -> Vec<Check> {
    let mut closed = Vec::new();
    let mut opened = 0;
    let mut is_lost = false;
    let mut wrong = Vec::new();
    let here = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Secret && entry.is_for(&workspace.host));
    for entry in here {
        match read_encrypted(workspace, entry) {
            Ok(Lookup::Found(encrypted)) => {
                let metadata = &encrypted.sealed.metadata;
                let Some(key) = workspace.keyring.unwrap_quiet(metadata) else {
                    closed.push(entry.repository_path.as_str());
                    is_lost |= lost_key::names_lost(workspace, metadata);
                    continue;
                };
                let name = &entry.repository_path;
                match sops::open(encrypted.format, &encrypted.sealed, &key) {
                    Ok(_) => opened += 1,
                    Err(error) => wrong.push(super::open::damaged(workspace, name, error)),
                }
            }
            Ok(Lookup::Missing(_)) => {}
            Err(problem) => wrong.push(problem),
        }
    }
    let mut checks = Vec::new();
    if closed.is_empty() {
        checks.push(Check::ok(
            "opens",
            format!("{opened} of {opened} entries of this host"),
        ));
    } else {
        let looked_at: Vec<_> = workspace.keyring.looked_at().to_vec();
        let message = format!(
            "no identity at hand opens {} of {}: {}",
            closed.len(),
            closed.len() + opened,
            closed.join(", ")
        );
        let help = if is_lost {
            format!(
                "a key is lost: {} shows what is still under it",
                workspace.hints.ours_for_all("status")
            )
        } else if workspace.keyring.is_empty() {
            format!("looked at: {}", looked_at.join("; "))
        } else {
            "`secrets list` shows who can read what; a key behind a passphrase is not asked for here".to_owned()
        };
        checks.push(Check::of("opens", Verdict::Unknown, message, Some(help)));
    }
    checks.extend(
        wrong
            .iter()
            .map(|problem| of_problem("opens", Verdict::Wrong, Some(problem))),
    );
    checks
}

/// Says whether every entry has a rule that can be honoured, and every rule an entry.
fn rules(workspace: &Workspace, entries: &[&Entry]) -> Vec<Check> {
    let mut secret = entries.iter().filter(|entry| entry.kind == Kind::Secret);
    if secret.all(|entry| workspace.rules_for(entry).is_none()) {
        // Told once, as the rules file.
        return Vec::new();
    }
    let mut checks = Vec::new();
    let mut used: BTreeMap<PathBuf, BTreeSet<usize>> = BTreeMap::new();
    let mut governed = 0;
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Secret) {
        let name = &entry.repository_path;
        let mut refusals = Vec::new();
        match govern(workspace, entry, &mut refusals) {
            Ok(Some(governing)) => {
                governed += 1;
                refusals.extend(governing.hidden);
                if let Some(found) = workspace.rules_for(entry) {
                    used.entry(found.path.clone())
                        .or_default()
                        .insert(governing.rule.number);
                }
            }
            Ok(None) => {}
            Err(problem) => checks.push(of_problem("rules", Verdict::Wrong, Some(&problem))),
        }
        checks.extend(refusals.iter().map(|refusal| {
            Check::of(
                "rules",
                Verdict::Wrong,
                format!("{name}: {refusal}"),
                rule_help(refusal),
            )
        }));
    }
    for (path, numbers) in &used {
        let found = entries.iter().find_map(|entry| {
            let found = workspace.rules_for(entry)?;
            (found.path == *path).then_some(found)
        });
        let Some(found) = found else { continue };
        let Ok(rules) = &found.rules else { continue };
        let unused = rules
            .all()
            .iter()
            .filter(|rule| !numbers.contains(&rule.number));
        for rule in unused {
            let regex = rule.path_regex.as_ref();
            let regex = regex.map_or_else(String::new, |regex| format!(" (`{}`)", regex.as_str()));
            checks.push(Check::of(
                "rules",
                Verdict::Note,
                format!(
                    "{}: creation rule {}{regex} governs no entry",
                    path.display(),
                    rule.number
                ),
                Some("take it out, if no other file needs it".to_owned()),
            ));
        }
    }
    if checks.iter().all(|check| check.verdict == Verdict::Note) {
        checks.insert(
            0,
            Check::ok("rules", format!("{governed} entries have a rule")),
        );
    }
    checks
}

/// Says whether stock would use another rules file in the working directory.
fn other_rules(workspace: &Workspace, entries: &[&Entry]) -> Check {
    let ours: BTreeSet<PathBuf> = entries
        .iter()
        .filter_map(|entry| Some(workspace.rules_for(entry)?.path.clone()))
        .collect();
    let names = |paths: &BTreeSet<PathBuf>| {
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    };
    let other = ours
        .iter()
        .find_map(|path| workspace.other_rules_file(path));
    match (other, ours.len()) {
        (Some(other), _) => Check::of(
            "rules files",
            Verdict::Note,
            format!(
                "stock `sops` called in this folder would use {}, entries are governed by {}",
                other.display(),
                names(&ours)
            ),
            Some("call `sops` from the repository's top folder".to_owned()),
        ),
        (None, 0) => Check::of(
            "rules files",
            Verdict::Wrong,
            format!("there is no `{RULES_FILE}`"),
            Some(
                "write one beside the manifest: `creation_rules:`, below it `  - age: RECIPIENT`"
                    .to_owned(),
            ),
        ),
        (None, 1) => Check::ok("rules files", names(&ours)),
        (None, _) => Check::of(
            "rules files",
            Verdict::Note,
            format!("several: {}", names(&ours)),
            Some("one at the top is easier to keep right".to_owned()),
        ),
    }
}

/// Reads what git has of the entries: the commits, and the last version of each.
fn git(workspace: &Workspace, entries: &[&Entry]) -> Option<Check> {
    let checkout = workspace.checkout().ok()??;
    let first = workspace.repository_file(entries.first()?);
    let found = match checkout.file_history(&first, None) {
        // Before the first commit there is nothing to read.
        Ok(_) if workspace.head().is_none() => return None,
        Ok(_) => entries.iter().find_map(|entry| {
            let read = checkout.version_at(&workspace.repository_file(entry), "HEAD");
            let error = read.err()?;
            Some(format!("{}: {error}", entry.repository_path))
        }),
        Err(error) => Some(error.to_string()),
    };
    let error = found?;
    let help = Some(DAMAGED_GIT.to_owned());
    Some(Check::of("git", Verdict::Wrong, error, help))
}

/// Says what `check` finds: missing and orphaned files, ignore lines, recipients, what git tracks.
fn repository(cx: &mut Context, has_rules: bool, has_git: bool) -> Vec<Check> {
    let (findings, unchecked) = match check::examine(&CheckArgs::default(), cx) {
        Ok(found) => found,
        Err(error) => {
            return vec![of_problem(
                "repository",
                Verdict::Unknown,
                error.problems.first(),
            )];
        }
    };
    let mut checks: Vec<Check> = findings
        .iter()
        .filter(|one| has_rules || one.code != "no-rule")
        .map(|one| {
            let line = one.line.map_or_else(String::new, |line| format!(":{line}"));
            Check::of(
                "repository",
                Verdict::Wrong,
                format!("{}{line}: {} [{}]", one.path, one.message, one.code),
                remedy_of(one.code).map(str::to_owned),
            )
        })
        .collect();
    checks.extend(unchecked.iter().map(|what| {
        Check::of(
            "repository",
            Verdict::Unknown,
            format!("could not be checked: {what}"),
            None,
        )
    }));
    if checks.is_empty() && has_git {
        let what = "files, recipients, ignore lines and what git tracks are in order".to_owned();
        checks.push(Check::ok("repository", what));
    } else if checks.is_empty() {
        checks.push(Check::of(
            "repository",
            Verdict::Note,
            "files and recipients are in order; without git, what it tracks and ignores cannot be told".to_owned(),
            None,
        ));
    }
    checks
}

/// Says whether the users and groups that files are given to exist here.
fn accounts(entries: &[&Entry]) -> Check {
    let mut unknown = Vec::new();
    ownership::resolve(entries, Purpose::Compare, &mut unknown);
    let names: BTreeSet<String> = unknown
        .iter()
        .map(|problem| problem.kind.to_string())
        .collect();
    if names.is_empty() {
        return Check::ok(
            "accounts",
            "every user and group that is declared exists here".to_owned(),
        );
    }
    let names: Vec<_> = names.into_iter().collect();
    let help = "create them, or leave owner and group alone with `--no-owner`".to_owned();
    Check::of("accounts", Verdict::Wrong, names.join("; "), Some(help))
}

/// Returns what to do about a finding of `check`.
fn remedy_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "missing" => "`encrypt` makes it from the server's file, `remove` takes its row out",
        "orphan" => "add a row to the manifest, or `git rm` the file",
        "not-ignored" => "add the path to `.gitignore`",
        "tracked-plaintext" => "`git rm --cached` it, and change what was in it",
        "identity" => "`git rm --cached` it; a key that was committed counts as lost",
        "recipients-differ" | "options-differ" => "`encrypt --update-recipients` brings it in line",
        "conflict-marker" => "resolve the merge",
        "no-rule" | "two-rules" | "unknown-rule-key" => "mend `.sops.yaml`",
        "damaged" | "no-mac" | "not-encrypted" => {
            "`git log -- FILE` lists versions; `git checkout COMMIT -- FILE` brings one back"
        }
        _ => return None,
    })
}

/// Looks for plaintext that lies beside its encrypted file and is no target of a row.
fn plaintext(workspace: &Workspace, entries: &[&Entry]) -> Check {
    let top = workspace.repository.path();
    let targets: BTreeSet<PathBuf> = entries
        .iter()
        .map(|entry| workspace.server_file(entry))
        .filter_map(|path| fs::canonical(&path))
        .collect();
    let lying: Vec<String> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Secret)
        .flat_map(|entry| copies_beside(top, entry.path_without_suffix()))
        .filter(|path| {
            let file = top.join(path);
            let is_target = fs::canonical(&file).is_some_and(|real| targets.contains(&real));
            fs::is_file(&file) && !is_target
        })
        .collect();
    let lying: BTreeSet<String> = lying.into_iter().collect();
    let lying: Vec<String> = lying.into_iter().collect();
    if lying.is_empty() {
        let what = "none lies beside its encrypted file in the repository".to_owned();
        return Check::ok("plaintext", what);
    }
    Check::of(
        "plaintext",
        Verdict::Wrong,
        format!("lies in the repository: {}", lying.join(", ")),
        Some("remove it, once its values are where they belong".to_owned()),
    )
}

/// Returns the names that a plaintext or a copy of it would have beside its encrypted file.
fn copies_beside(top: &Path, path: &str) -> Vec<String> {
    /// What editors, patches and people put behind a name.
    const ENDS: [&str; 12] = [
        "", "~", ".bak", ".backup", ".copy", ".dec", ".old", ".orig", ".plain", ".save", ".swp",
        ".tmp",
    ];
    let (folder, name) = match path.rsplit_once('/') {
        Some((folder, name)) => (format!("{folder}/"), name),
        None => (String::new(), path),
    };
    fs::names(&top.join(&folder))
        .into_iter()
        .filter(|file| {
            let rest = file
                .strip_prefix('.')
                .and_then(|rest| rest.strip_prefix(name));
            let rest = file.strip_prefix(name).or(rest);
            rest.is_some_and(|rest| ENDS.contains(&rest))
        })
        .map(|file| format!("{folder}{file}"))
        .collect()
}

fn root(cx: &Context, workspace: &Workspace) -> Check {
    let shown = workspace.root_path.display().to_string();
    if workspace.root.is_none() {
        let problem = workspace.not_the_server();
        let verdict = if workspace.is_root_absent() {
            Verdict::Note
        } else {
            Verdict::Wrong
        };
        return of_problem("root", verdict, Some(&problem));
    }
    if let Err(problem) = trust::check(workspace, true) {
        return of_problem("root", Verdict::Wrong, Some(&problem));
    }
    if !fs::may_write(&workspace.root_path) {
        return Check::of(
            "root",
            Verdict::Note,
            format!("{shown}: you may not write there"),
            Some("`decrypt` and `recover` need a user who may".to_owned()),
        );
    }
    let mode = workspace
        .root_path
        .metadata()
        .map_or(0, |found| found.mode());
    if mode & 0o1002 == 0o002 {
        return Check::of(
            "root",
            Verdict::Wrong,
            format!("{shown}: everybody may write there"),
            Some(format!("`chmod o-w {}`", super::hints::quoted(&shown))),
        );
    }
    let is_own_word = workspace.declared_root.is_none() && cx.global.root.is_some();
    let by = if is_own_word { " (by `--root`)" } else { "" };
    Check::ok("root", format!("{shown}{by}"))
}

fn state(workspace: &Workspace) -> Check {
    let Some(state) = &workspace.state else {
        return Check::of(
            "state",
            Verdict::Wrong,
            "no home directory for the state directory".to_owned(),
            Some("name a folder with `SECRETS_STATE_DIR=DIR`".to_owned()),
        );
    };
    let shown = state.path().display().to_string();
    if let Err(error) = state.check_usable() {
        return Check::of(
            "state",
            Verdict::Wrong,
            error.to_string(),
            Some("name a folder you may write with `SECRETS_STATE_DIR=DIR`".to_owned()),
        );
    }
    if let Some(trouble) = &workspace.memory().trouble {
        return Check::of(
            "state",
            Verdict::Wrong,
            format!("{shown}: {trouble}"),
            Some(
                "the next writing run sets them aside; directions are then told by git's history"
                    .to_owned(),
            ),
        );
    }
    for name in ["lost.json", "undo.json", "trust.json"] {
        let text = state.read(name);
        let is_sound = |text: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&text).is_ok();
        if !text.is_ok_and(|text| text.is_none_or(is_sound)) {
            let what = format!("{shown}/{name} is damaged");
            let help = "move it away; backups are in the folder `backups` beside it".to_owned();
            return Check::of("state", Verdict::Wrong, what, Some(help));
        }
    }
    if let Ok(found) = state.path().metadata()
        && found.mode() & 0o077 != 0
    {
        return Check::of(
            "state",
            Verdict::Note,
            format!("{shown}: mode is {:04o}", found.mode() & 0o7777),
            Some(format!("`chmod 0700 {}`", super::hints::quoted(&shown))),
        );
    }
    let backups = state.backups().len();
    Check::ok("state", format!("{shown}: {backups} backups"))
}
