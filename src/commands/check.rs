//! `check`: whether the repository is in order, told without a key.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use clap::Args;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age::canonical;
use crate::keys::age::shortened;
use crate::keys::keyring::Keyring;
use crate::keys::locked;
use crate::os::fs;
use crate::os::git::Checkout;
use crate::os::staging;
use crate::project::check::{Finding, Sealed, Unchecked, check_sealed, finding, identities_in};
use crate::project::family::PathPattern;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry, Kind, Manifest};
use crate::rules::{RULES_FILE, Rules, RulesError};
use crate::sops;

use super::workspace::find_manifest;
use super::{Context, Outcome, in_parallel, jobs_of};

/// Check without a key that the repository is in order
///
/// Every value is encrypted or left in clear by its rule; who can read a file is who the rule says;
/// manifest and files agree; no plaintext and no identity is tracked. Nothing is needed but the
/// repository. Exit code 1 when something is found, 2 when something could not be checked.
#[derive(Args, Debug, Default)]
#[command(
    after_help = "Examples:\n  secrets check --staged             what the next commit would hold; for a pre-commit hook\n  secrets check --changed origin/main  only files that differ from there; for CI"
)]
pub struct CheckArgs {
    /// Check what is staged for the next commit instead of the files in the folder
    #[arg(long)]
    staged: bool,
    /// Check only files that differ from this commit
    #[arg(long, value_name = "REV")]
    changed: Option<String>,
}

/// The files that are checked: those of git's index, or, without git, all below the manifest.
struct View {
    /// The folder that paths are relative to: the checkout's top, else the manifest's folder.
    top: PathBuf,
    /// The manifest's folder, relative to `top`, with a final slash unless it is `top`.
    prefix: String,
    files: Vec<String>,
    /// Tracked files that are not in the folder.
    gone: Vec<String>,
    /// How many tracked files have names that are not UTF-8.
    unnamed: usize,
    checkout: Option<Checkout>,
    is_staged: bool,
}

impl View {
    /// Reads a file, by its path relative to `top`; `None` where there is none.
    ///
    /// # Errors
    /// Says in words that there is one and it cannot be read.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.shown(path));
        match &self.checkout {
            Some(checkout) if self.is_staged => {
                checkout.read_staged(path).map_err(|error| failed(&error))
            }
            _ => match fs::read_regular(&self.top.join(path)) {
                Ok(content) => Ok(Some(content)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(&error)),
            },
        }
    }

    /// Returns a path as findings name it: relative to the manifest.
    fn shown(&self, path: &str) -> String {
        if let Some(inside) = path.strip_prefix(&self.prefix) {
            return inside.to_owned();
        }
        let mut base = self.prefix.as_str();
        let mut up = String::new();
        while !path.starts_with(base) {
            up.push_str("../");
            let without = base.trim_end_matches('/');
            base = without.rfind('/').map_or("", |at| &base[..=at]);
        }
        format!("{up}{}", &path[base.len()..])
    }

    fn holds(&self, path: &str) -> bool {
        self.files
            .binary_search_by(|file| file.as_str().cmp(path))
            .is_ok()
    }
}

/// Runs the command.
///
/// # Errors
/// What keeps the check from being done at all: no manifest, a wrong one, an unknown commit.
pub fn run(args: &CheckArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let (findings, unchecked) = examine(args, cx)?;
    cx.ui.show_findings(&findings, &unchecked);
    Ok(Outcome {
        differs: !findings.is_empty(),
        trouble: !unchecked.is_empty(),
        ..Outcome::default()
    })
}

/// Returns what is found, and what could not be checked.
///
/// # Errors
/// As [`run`].
pub fn examine(
    args: &CheckArgs,
    cx: &mut Context,
) -> Result<(Vec<Finding>, Vec<Unchecked>), Error> {
    let manifest_path = find_manifest(cx)?;
    let folder = manifest_path.parent().unwrap_or(Path::new("/"));
    let folder = fs::canonical(folder).unwrap_or_else(|| folder.to_owned());
    let view = open_view(cx, args, &folder)?;
    let manifest_name = manifest_path.file_name().unwrap_or_default();
    let manifest_file = format!("{}{}", view.prefix, manifest_name.to_string_lossy());
    let manifest = read_manifest(&view, &manifest_path, &manifest_file)?;
    let allowed = allowed(&manifest)?;
    let changed = changed_files(&view, args, &manifest_file)?;

    let mut checker = Checker {
        view: &view,
        manifest: &manifest,
        manifest_file: view.shown(&manifest_file),
        rules: BTreeMap::new(),
        findings: Vec::new(),
        unchecked: Vec::new(),
    };
    checker.read_rules();
    if view.unnamed > 0 {
        checker.unchecked.push(format!(
            "{} tracked files whose names are not UTF-8",
            view.unnamed
        ));
    }
    checker.check_rules();
    checker.check_entries(cx);
    checker.check_orphans();
    checker.check_targets();
    checker.check_plain();
    checker.check_identities(cx);
    let Checker {
        mut findings,
        unchecked,
        ..
    } = checker;
    // What stands against a row's own file is let pass, and not without a word.
    let entries = manifest.entries.iter();
    let rows: HashSet<&str> = entries.map(|entry| &*entry.repository_path).collect();
    let of_rows = |one: &&Finding| {
        let is_of_row = one.code == "tracked-plaintext" || rows.contains(&*one.path);
        allowed.is_match(&one.path) && is_of_row
    };
    let let_pass = findings.iter().filter(of_rows).count();
    if let_pass > 0 {
        let allow = manifest.check_allow.join(", ");
        cx.ui.status(&format!(
            "let pass by `allow` of [check] ({allow}), though it is about files of rows: {let_pass}"
        ));
    }
    findings.retain(|one| !allowed.is_match(&one.path));
    if let Some(changed) = &changed {
        // What is missing has no file that could have changed.
        findings.retain(|one| {
            matches!(one.code, "missing" | "not-ignored")
                || changed.iter().any(|path| view.shown(path) == one.path)
        });
    }
    findings.sort();
    findings.dedup();
    Ok((findings, unchecked))
}

fn open_view(cx: &Context, args: &CheckArgs, folder: &Path) -> Result<View, Error> {
    let git_help = "`git status` shows what is wrong with the repository";
    let checkout =
        Checkout::discover(folder).map_err(|error| Problem::new(error).with_help(git_help))?;
    let Some(checkout) = checkout else {
        if args.staged || args.changed.is_some() {
            let message = "`--staged` and `--changed` need a git repository".to_owned();
            return Err(Problem::new(ErrorKind::Option(message))
                .with_help(format!("{} is in none", folder.display()))
                .into());
        }
        let mut files = fs::files_below(folder);
        files.sort();
        return Ok(View {
            top: folder.to_owned(),
            prefix: String::new(),
            files,
            gone: Vec::new(),
            unnamed: 0,
            checkout: None,
            is_staged: false,
        });
    };
    // A hook of `git commit -a` or `git commit FILE` is given an index of its own.
    let index = cx.env.path_var("GIT_INDEX_FILE").filter(|_| args.staged);
    let checkout = match index {
        Some(index) => checkout.with_index(index),
        None => checkout,
    };
    let (mut files, unnamed) = checkout
        .tracked_files()
        .map_err(|error| Problem::new(error).with_help(git_help))?;
    let top = checkout.top().to_owned();
    let prefix = folder
        .strip_prefix(&top)
        .ok()
        .and_then(Path::to_str)
        .filter(|inside| !inside.is_empty())
        .map(|inside| format!("{inside}/"))
        .unwrap_or_default();
    let mut gone = Vec::new();
    if !args.staged {
        // What was taken away or is new in the folder counts as it is there.
        (files, gone) = files
            .into_iter()
            .partition(|file| fs::is_there(&top.join(file)));
        let here = fs::files_below(folder).into_iter();
        let sealed = here.filter(|file| file.ends_with(ENCRYPTED_SUFFIX));
        files.extend(
            sealed
                .map(|file| format!("{prefix}{file}"))
                .filter(|file| !checkout.is_ignored(&top.join(file)).unwrap_or(false)),
        );
    }
    files.sort();
    files.dedup();
    Ok(View {
        top,
        prefix,
        files,
        gone,
        unnamed,
        checkout: Some(checkout),
        is_staged: args.staged,
    })
}

fn read_manifest(view: &View, path: &Path, file: &str) -> Result<Manifest, Error> {
    let unreadable = |reason: &str| {
        Problem::new(ErrorKind::Option(format!("{}: {reason}", path.display())))
            .with_help("name the manifest with `-m FILE`")
    };
    let bytes = if view.is_staged {
        view.read(file)
            .map_err(|reason| unreadable(&reason))?
            .ok_or_else(|| unreadable("is not staged: `git add` it"))?
    } else {
        fs::read_regular(path).map_err(|error| unreadable(&error.to_string()))?
    };
    let text = String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8 text"))?;
    let shown = view.shown(file);
    let wrong = |error| Problem::new(error).with_help(format!("mend these lines of {shown}"));
    let mut manifest = Manifest::parse(&text, &shown).map_err(wrong)?;
    let below: BTreeSet<&str> = view
        .files
        .iter()
        .chain(&view.gone)
        .filter_map(|file| file.strip_prefix(&view.prefix))
        .collect();
    let members: Vec<Vec<String>> = manifest
        .families
        .iter()
        .map(|family| {
            let files = below.iter();
            let members = files.filter(|file| !family.pattern.readings(file).is_empty());
            members.map(|file| (*file).to_owned()).collect()
        })
        .collect();
    manifest.expand(&members, &shown).map_err(wrong)?;
    Ok(manifest)
}

/// Returns the paths that are excused by name.
fn allowed(manifest: &Manifest) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in &manifest.check_allow {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|_| {
            Problem::new(ErrorKind::Option(format!(
                "`allow` of [check]: `{pattern}` is not a path or glob"
            )))
            .with_help("write a path relative to the manifest, or a glob over them")
        })?);
    }
    set.build()
        .map_err(|_| ErrorKind::Option("`allow` of [check] is too large".to_owned()).into())
}

/// Returns the files that differ from the commit that was named; everything counts as different
/// where manifest or rules do.
fn changed_files(
    view: &View,
    args: &CheckArgs,
    manifest_file: &str,
) -> Result<Option<Vec<String>>, Error> {
    let (Some(revision), Some(checkout)) = (&args.changed, &view.checkout) else {
        return Ok(None);
    };
    let changed = checkout
        .changed_since(revision, args.staged)
        .map_err(|error| {
            Problem::new(error).with_help(format!(
                "name a commit that is here, `--changed REV`; in CI fetch it first (`{revision}` may need a deeper clone)"
            ))
        })?;
    // Attributes can change what a checkout makes of every file.
    let governs = |path: &String| {
        let name = path.rsplit('/').next();
        path == manifest_file || [Some(RULES_FILE), Some(".gitattributes")].contains(&name)
    };
    if changed.iter().any(governs) {
        return Ok(None);
    }
    Ok(Some(changed))
}

struct Checker<'c> {
    view: &'c View,
    manifest: &'c Manifest,
    manifest_file: String,
    rules: BTreeMap<String, Result<Rules, RulesError>>,
    findings: Vec<Finding>,
    unchecked: Vec<String>,
}

impl Checker<'_> {
    /// Reads every rules file, by its folder relative to the top, with a final slash unless empty.
    fn read_rules(&mut self) {
        let view = self.view;
        let files = view.files.iter().cloned();
        // Not tracked yet, but it governs all the same.
        let untracked = [
            format!("{}{RULES_FILE}", view.prefix),
            RULES_FILE.to_owned(),
        ];
        for file in files.chain(untracked.into_iter().filter(|_| !view.is_staged)) {
            let Some(folder) = file.strip_suffix(RULES_FILE) else {
                continue;
            };
            if !folder.is_empty() && !folder.ends_with('/') {
                continue;
            }
            let rules = match view.read(&file) {
                Ok(Some(content)) => Rules::parse(&String::from_utf8_lossy(&content)),
                Ok(None) => continue,
                Err(reason) => Err(RulesError::Unreadable { reason }),
            };
            self.rules.insert(folder.to_owned(), rules);
        }
    }

    fn path_of(&self, entry: &Entry) -> String {
        format!("{}{}", self.view.prefix, entry.repository_path)
    }

    fn secret_entries(&self) -> Vec<&Entry> {
        let entries = self.manifest.entries.iter();
        entries.filter(|entry| entry.kind == Kind::Secret).collect()
    }

    /// A rules file that cannot be read keeps files from being checked; what it holds that no
    /// version knows may be a typing mistake that leaves values in clear.
    fn check_rules(&mut self) {
        for (folder, rules) in &self.rules {
            let file = format!("{folder}{RULES_FILE}");
            let path = self.view.shown(&file);
            match rules {
                Err(error) => self.unchecked.push(format!("{path}: {error}")),
                Ok(rules) => {
                    let text = self.view.read(&file).ok().flatten().unwrap_or_default();
                    let text = String::from_utf8_lossy(&text).into_owned();
                    for (number, key) in rules.unknown_keys() {
                        let start = format!("{key}:");
                        let mut lines = text.lines();
                        let line = lines.position(|line| {
                            line.trim_start_matches([' ', '-', '\t'])
                                .starts_with(&start)
                        });
                        let text =
                            format!("creation rule {number}: unknown key `{}`", shortened(&key));
                        let one = finding(&path, line.map(|at| at + 1), "unknown-rule-key", text);
                        self.findings.push(one);
                    }
                }
            }
        }
    }

    /// Checks every encrypted file of the manifest.
    fn check_entries(&mut self, cx: &Context) {
        let entries = self.secret_entries();
        let this = &*self;
        let results = in_parallel(&entries, jobs_of(cx), |entry| this.check_entry(entry));
        for result in results {
            match result {
                Ok(found) => self.findings.extend(found),
                Err(unchecked) => self.unchecked.push(unchecked),
            }
        }
    }

    fn check_entry(&self, entry: &Entry) -> Result<Vec<Finding>, String> {
        let path = self.path_of(entry);
        let name = &entry.repository_path;
        if let Some(checkout) = &self.view.checkout
            && checkout
                .is_unmerged(&path)
                .map_err(|error| error.to_string())?
        {
            let text = "git is in the middle of a merge of the encrypted file";
            return Ok(vec![finding(name, None, "conflict-marker", text)]);
        }
        let Some(content) = self.view.read(&path)? else {
            if entry.optional {
                return Ok(Vec::new());
            }
            let text = format!("`{name}` has a row and no file in the repository");
            let line = Some(entry.line);
            return Ok(vec![finding(&self.manifest_file, line, "missing", text)]);
        };
        let mut found = Vec::new();
        if let Some(checkout) = &self.view.checkout
            && !checkout
                .is_tracked(&self.view.top.join(&path))
                .map_err(|error| error.to_string())?
        {
            found.push(finding(
                name,
                None,
                "untracked",
                "git does not track the encrypted file",
            ));
        }
        let governing = governing(&self.rules, &path);
        let rules = match &governing {
            Some((_, Err(_))) => return Err(format!("{name}: its rules cannot be read")),
            Some((folder, Ok(rules))) => Some((*folder, rules)),
            None => None,
        };
        let rules_path = rules.map(|(folder, _)| self.view.shown(&format!("{folder}{RULES_FILE}")));
        let sealed = Sealed {
            path: name,
            content: &content,
            rules: rules_path.as_deref().zip(rules.map(|(_, rules)| rules)),
            subject: path
                .strip_prefix(rules.map_or("", |(folder, _)| folder))
                .unwrap_or(&path),
            recipients: &self.manifest.recipients,
        };
        found.extend(check_sealed(&sealed)?);
        Ok(found)
    }

    /// Finds encrypted files without a row.
    fn check_orphans(&mut self) {
        let known: BTreeSet<String> = self
            .manifest
            .entries
            .iter()
            .map(|entry| self.path_of(entry))
            .collect();
        for file in &self.view.files {
            if file.starts_with(&self.view.prefix)
                && file.ends_with(ENCRYPTED_SUFFIX)
                && !known.contains(file)
            {
                let content = self.view.read(file).ok().flatten().unwrap_or_default();
                let is_sealed = sops::parse_sealed(content).is_ok();
                let text = if is_sealed {
                    "an encrypted file without a row in the manifest"
                } else {
                    "a file without a row in the manifest, named as if it were encrypted, which it is not"
                };
                let one = finding(&self.view.shown(file), None, "orphan", text);
                self.findings.push(one);
            }
        }
    }

    /// Makes sure that what rows of `[plain]` place is tracked: nothing else is placed.
    fn check_plain(&mut self) {
        let entries = self.manifest.entries.iter();
        let plain = entries.filter(|entry| entry.kind == Kind::Plain);
        for entry in plain.filter(|_| self.view.checkout.is_some()) {
            let path = self.path_of(entry);
            let may_be_absent = entry.optional && !fs::is_there(&self.view.top.join(&path));
            if !may_be_absent && !self.view.holds(&path) {
                let name = &entry.repository_path;
                let text = format!("git does not track `{name}`, which a row of [plain] names");
                let one = finding(&self.manifest_file, Some(entry.line), "untracked", text);
                self.findings.push(one);
            }
        }
    }

    /// Makes sure that plaintext inside the checkout is ignored and not tracked.
    fn check_targets(&mut self) {
        let folder = self.view.top.join(&self.view.prefix);
        let root = self
            .manifest
            .root
            .as_deref()
            .map(|root| fs::normalize(&folder.join(root)));
        let mut told: BTreeSet<String> = BTreeSet::new();
        let (mut found, mut unchecked) = (Vec::new(), Vec::new());
        for entry in self.secret_entries() {
            let own = format!("{}{}", self.view.prefix, entry.path_without_suffix());
            let target = root.as_ref().and_then(|root| {
                let target = root.join(&entry.server_path);
                let inside = target.strip_prefix(&self.view.top).ok()?;
                inside.to_str().map(str::to_owned)
            });
            for (path, is_target) in [(Some(own), false), (target, true)] {
                let Some(path) = path else { continue };
                if told.contains(&path) {
                    continue;
                }
                let shown = self.view.shown(&path);
                let name = &entry.repository_path;
                if self.view.holds(&path) {
                    let text = format!("the plaintext of `{name}` is tracked by git");
                    found.push(finding(&shown, None, "tracked-plaintext", text));
                    told.insert(path);
                } else if is_target && let Some(checkout) = &self.view.checkout {
                    match checkout.is_ignored(&self.view.top.join(&path)) {
                        Ok(true) => {}
                        Ok(false) => {
                            let text = format!(
                                "git does not ignore the plaintext of `{name}`, `{shown}`: add it to `.gitignore`"
                            );
                            let line = Some(entry.line);
                            found.push(finding(&self.manifest_file, line, "not-ignored", text));
                            told.insert(path);
                        }
                        Err(error) => unchecked.push(error.to_string()),
                    }
                }
            }
        }
        let name_of = |file: &str| Path::new(file).file_name().map(staging::is_staging_name);
        for file in self
            .view
            .files
            .iter()
            .filter(|file| name_of(file) == Some(true))
        {
            let text = "git tracks what an interrupted run left, which may be plaintext".to_owned();
            found.push(finding(
                &self.view.shown(file),
                None,
                "tracked-plaintext",
                text,
            ));
        }
        // A member that was never encrypted has no entry yet.
        for family in &self.manifest.families {
            let stem = family.pattern.as_str().strip_suffix(ENCRYPTED_SUFFIX);
            let stem = stem.and_then(|stem| PathPattern::parse(stem).ok());
            let Some(stem) = stem.filter(|_| family.row.kind == Kind::Secret) else {
                continue;
            };
            for file in &self.view.files {
                let inside = file.strip_prefix(&self.view.prefix);
                let is_member = inside.is_some_and(|file| !stem.readings(file).is_empty());
                if is_member && !told.contains(file) {
                    let shown = self.view.shown(file);
                    let text = format!(
                        "the plaintext of a member of `{}` is tracked by git",
                        family.pattern.as_str()
                    );
                    found.push(finding(&shown, None, "tracked-plaintext", text));
                }
            }
        }
        self.findings.extend(found);
        self.unchecked.extend(unchecked);
    }

    /// Returns whether an SSH key is one that files are encrypted for.
    fn is_of_reader(&self, content: &[u8]) -> bool {
        let own = Keyring::of_text("it", content, None).recipients();
        let own: Vec<String> = own.iter().map(|key| canonical(key)).collect();
        self.secret_entries().iter().any(|entry| {
            let sealed = self.view.read(&self.path_of(entry)).ok().flatten();
            let sealed = sealed.and_then(|content| sops::parse_sealed(content).ok());
            sealed.is_some_and(|(_, sealed)| {
                let mut readers = sealed.metadata.age_keys();
                readers.any(|(reader, _)| own.contains(&canonical(reader)))
            })
        })
    }

    /// Finds the secret halves of age keys, and of SSH keys that are recipients, in the files.
    fn check_identities(&mut self, cx: &Context) {
        let view = self.view;
        let lines = in_parallel(&view.files, jobs_of(cx), |file| {
            // Links and what is gone hold nothing of their own.
            let is_link = !view.is_staged && !fs::is_file(&view.top.join(file));
            if is_link {
                return Ok(Vec::new());
            }
            let content = view.read(file)?.unwrap_or_default();
            let age = "holds the secret half of an age key";
            let lines = identities_in(&content).into_iter();
            let mut found: Vec<_> = lines.map(|line| (line, age)).collect();
            if locked::is_ssh_key(&content) && self.is_of_reader(&content) {
                found.push((1, "is an SSH key that files are encrypted for"));
            }
            Ok::<_, String>(found)
        });
        for (file, lines) in view.files.iter().zip(lines) {
            match lines {
                Ok(lines) => {
                    self.findings.extend(lines.into_iter().map(|(line, text)| {
                        finding(&view.shown(file), Some(line), "identity", text)
                    }));
                }
                Err(reason) if !self.unchecked.contains(&reason) => self.unchecked.push(reason),
                Err(_) => {}
            }
        }
    }
}

/// Finds the rules that govern a file: those of the nearest folder that has some.
fn governing<'r>(
    rules: &'r BTreeMap<String, Result<Rules, RulesError>>,
    path: &str,
) -> Option<(&'r str, &'r Result<Rules, RulesError>)> {
    let mut folder = path;
    loop {
        folder = folder.rfind('/').map_or("", |at| &folder[..at]);
        let key = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        if let Some((key, rules)) = rules.get_key_value(&key) {
            return Some((key, rules));
        }
        if folder.is_empty() {
            return None;
        }
    }
}
