//! `merge`: brings together what was changed on both sides, key by key.

use std::collections::{BTreeSet, HashMap, HashSet};

use clap::{Args, ValueEnum};

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs::FsError;
use crate::os::place::{Base, Ownership};
use crate::os::terminal::Ask;
use crate::project::diff::{self, Change, Differences};
use crate::project::drift::{Drift, Verdict};
use crate::project::error::Refusal;
use crate::project::key_drift::{KeyDrift, Moved};
use crate::project::lines::{COMMENTS, OTHER_LINES};
use crate::project::manifest::Entry;
use crate::project::merge::{self, Take};
use crate::project::plan::{self, Action, DecryptOptions, Plan};
use crate::secret::SecretBytes;
use crate::sops::store::Format;
use crate::ui::keys::KeyRow;
use crate::ui::prompt::{self, Choice};
use crate::ui::report::Report;

use super::apply;
use super::both;
use super::capture::{self, Allowances, CaptureOptions, Captured, GuardArgs};
use super::delivering;
use super::foreign_key;
use super::gather::gather;
use super::open::{Lookup, read_encrypted, unwrap_key};
use super::ownership::{self, Owners, Purpose};
use super::placing::{self, Content, PlacingOptions, Prepared};
use super::settle;
use super::sides::{Sides, read_sides};
use super::storing;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Bring together what was changed on both sides, key by key
///
/// Compares server, repository and what both last agreed on. Keys that only one side changed are taken
/// from it without a question; for a key that both changed, it asks which side to take, or for a value.
/// Both sides are written in one plan, and what is replaced is kept. Without a terminal such keys are
/// listed and nothing is written.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets merge                                  every entry that differs\n  secrets merge shared/.env --key DB_HOST=server  one key decided, the rest by who changed it"
)]
pub struct MergeArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Take the server's value of every key that both sides changed
    #[arg(long, conflicts_with = "repository")]
    server: bool,
    /// Take the repository's value of every key that both sides changed
    #[arg(long)]
    repository: bool,
    /// Take this side's value of one key: `KEY=server` or `KEY=repository` (repeatable)
    #[arg(long = "key", value_name = "KEY=SIDE")]
    keys: Vec<String>,
    /// Whose order, blank lines and comments to keep [default: of the side that changed more keys]
    #[arg(long, value_name = "SIDE", value_enum)]
    layout: Option<Side>,
    /// Bring the files that are written in line with their rule: recipients and selection options
    #[arg(long)]
    update_recipients: bool,
    #[command(flatten)]
    allowed: GuardArgs,
}

/// A side to take something from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// The server's.
    Server,
    /// The repository's.
    Repository,
}

/// Reads what `--key` says. What stands there instead of a side may be a value, and is not repeated.
fn key_choices(texts: &[String]) -> Result<Vec<(String, Side)>, Problem> {
    let mut choices: Vec<(String, Side)> = Vec::new();
    for text in texts {
        let (key, side) = text.split_once('=').unwrap_or((text.as_str(), ""));
        let side = match side {
            "server" => Side::Server,
            "repository" => Side::Repository,
            _ => {
                let message = format!("--key {key}: names no side");
                return Err(Problem::new(ErrorKind::Option(message)).with_help(
                    "say `KEY=server` or `KEY=repository`; a value is typed when it asks",
                ));
            }
        };
        if choices
            .iter()
            .any(|(known, other)| known == key && *other != side)
        {
            let message = format!("--key {key}: named for both sides");
            return Err(Problem::new(ErrorKind::Option(message)).with_help("name it once"));
        }
        choices.push((key.to_owned(), side));
    }
    Ok(choices)
}

/// An entry whose sides differ.
struct Open<'w> {
    entry: &'w Entry,
    sides: Sides,
    drift: Drift,
    keys: Vec<KeyRow>,
}

/// What a key becomes.
#[derive(Clone, Debug)]
enum Decision {
    Side(Side),
    Typed(SecretBytes),
}

/// What an entry becomes.
struct Merged<'w> {
    entry: &'w Entry,
    content: SecretBytes,
    to_repository: bool,
    to_server: bool,
    /// The side whose changed comments are not taken.
    lost_comments: Option<Side>,
}

/// Keys that are undecided.
#[derive(Default)]
struct Conflict {
    /// Both sides changed them.
    both: Vec<String>,
    /// Nothing tells which side did.
    unknown: Vec<String>,
}

/// How far the questions of an entry came.
enum Answer {
    Decided(HashMap<String, Decision>),
    /// These keys are undecided, and nobody can be asked.
    Conflict(Conflict),
    Skipped,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &MergeArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.write)?;
    let entries = workspace.select_secret(&args.entries)?;
    let root = workspace.require_root()?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    let mut problems = Vec::new();
    let mut plan = Plan::default();
    workspace.check_distinct(&entries, &mut problems);
    let open = find_open(&workspace, root, &entries, &mut plan, &mut problems);
    let choices = key_choices(&args.keys)?;
    if problems.is_empty() {
        check_keys(&workspace, &choices, &open)?;
    }

    let mut merged = Vec::new();
    let mut has_skipped = false;
    for one in &open {
        let name = &one.entry.repository_path;
        match decide(cx, args, &choices, one)? {
            Answer::Decided(decisions) => match put_together(&workspace, args, one, &decisions) {
                Ok(done) => {
                    if let Some(side) = done.lost_comments {
                        let (word, option) = match side {
                            Side::Server => ("the server", "server"),
                            Side::Repository => ("the repository", "repository"),
                        };
                        cx.ui.warning(&format!(
                            "{name}: the comments that were changed on {word} are not taken with the other side's layout; `--layout {option}` takes them"
                        ));
                    }
                    merged.push(done);
                }
                Err(problem) => problems.push(problem),
            },
            Answer::Conflict(conflict) => {
                let refusal = Refusal::Conflict {
                    both: conflict.both,
                    unknown: conflict.unknown,
                };
                problems.push(explain(&workspace, name, refusal));
            }
            Answer::Skipped => {
                has_skipped = true;
                plan.steps
                    .push(plan::skip(name, name.into(), "both sides stay as they are"));
            }
        }
    }
    let captured = capture_merged(
        cx,
        &workspace,
        root,
        (&args.allowed.resolve(&workspace)?, args.update_recipients),
        &merged,
        &mut plan,
        &mut problems,
    );
    let prepared = place_merged(
        cx,
        &workspace,
        args,
        &merged,
        &captured,
        &mut plan,
        &mut problems,
    );
    check_unchanged(&workspace, root, &open, &mut problems)?;
    let mut backups = Vec::new();
    let work = both::Work {
        command: "merge",
        args: args.write,
        captured: &captured,
        prepared: &prepared,
    };
    let applied = both::carry_out(cx, &workspace, &work, &mut problems, &mut backups)?;
    cx.ui.report(&Report {
        command: "merge",
        plan: &plan,
        problems: &problems,
        outcome: applied,
        backups: &backups,
        recovery: None,
    });
    let names_left_out =
        !args.entries.is_empty() && plan.steps.iter().any(|step| step.action == Action::Skip);
    let outcome = Outcome {
        differs: has_skipped || names_left_out,
        ..Outcome::default()
    };
    Ok(outcome.with_problems(&problems))
}

/// Makes sure that both sides are what was merged: somebody may have been at work since they were read,
/// while questions were open. What changes after this look is found before the first file is replaced.
fn check_unchanged(
    workspace: &Workspace,
    root: &Base,
    open: &[Open<'_>],
    problems: &mut Vec<Problem>,
) -> Result<(), Problem> {
    for one in open {
        let now = read_sides(workspace, root, one.entry)?;
        if now.repository != one.sides.repository || now.server != one.sides.server {
            let path = workspace.server_file(one.entry);
            let name = &one.entry.repository_path;
            problems.push(
                Problem::of(name, FsError::Changed { path })
                    .with_help("run the command again: it looks at both sides as they are now"),
            );
        }
    }
    Ok(())
}

/// Returns the problem of a refusal, with the way on.
fn explain(workspace: &Workspace, name: &str, refusal: Refusal) -> Problem {
    let hints = &workspace.hints;
    let help = match &refusal {
        Refusal::Rollback { .. } => format!(
            "{} brings this checkout up to date, then merge",
            delivering::bring_up_to_date(workspace)
        ),
        Refusal::Pinned { .. } => format!(
            "{} ends that with the repository's version, {} with the server's",
            hints.ours("decrypt --force", name),
            hints.ours("encrypt --force", name)
        ),
        _ => format!(
            "{} on a terminal asks for each; `--server` or `--repository` answer for all, `--key KEY=server` for one",
            hints.ours("merge", name)
        ),
    };
    Problem::of(name, refusal).with_help(help)
}

/// Finds the entries to merge. Those of which a side is missing are left out by name.
fn find_open<'w>(
    workspace: &Workspace,
    root: &Base,
    entries: &[&'w Entry],
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) -> Vec<Open<'w>> {
    let read = in_parallel(entries, workspace.jobs, |entry| {
        let sides = read_sides(workspace, root, entry)?;
        let drift = sides.drift(workspace, root, entry);
        let keys = sides.keys(workspace, entry, &drift);
        Ok((sides, drift, keys))
    });
    let mut open = Vec::new();
    for (entry, read) in entries.iter().zip(read) {
        let name = &entry.repository_path;
        let (sides, drift, keys) = match read {
            Ok(read) => read,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let differences = || match (&sides.repository, &sides.server) {
            (Some(repository), Some((_, server))) => {
                diff::between(repository.expose(), server.expose(), entry.reading())
            }
            _ => Differences::default(),
        };
        if let Some(rollback) = drift.rollback.as_ref().filter(|_| drift.verdict.differs()) {
            let refusal = Refusal::of_rollback(rollback, Some(&differences()));
            problems.push(explain(workspace, name, refusal));
        } else if drift.verdict == Verdict::Pinned {
            let refusal = Refusal::of_drift(&drift, &differences());
            problems.extend(refusal.map(|refusal| explain(workspace, name, refusal)));
        } else if drift.verdict.differs() {
            open.push(Open {
                entry,
                sides,
                drift,
                keys,
            });
        } else if drift.verdict == Verdict::InSync {
            let mut step = plan::skip(name, name.into(), "");
            step.action = Action::Keep;
            plan.steps.push(step);
        } else if drift.verdict != Verdict::NeitherSide || !entry.optional {
            let why = format!(
                "{}: nothing to merge, {} says what to type",
                drift.verdict.word().replace('-', " "),
                workspace.hints.ours("status", name)
            );
            plan.steps.push(plan::skip(name, name.into(), &why));
        }
    }
    open
}

/// Makes sure that every key of `--key` differs in one of the entries.
fn check_keys(
    workspace: &Workspace,
    choices: &[(String, Side)],
    open: &[Open<'_>],
) -> Result<(), Problem> {
    for (key, _) in choices {
        let mut keys = open.iter().flat_map(|one| &one.drift.keys);
        if !keys.any(|one| is_called(&one.key, key)) {
            let message = format!("--key {key}: no entry differs in that key");
            let diff = workspace.hints.ours_for_all("diff");
            return Err(Problem::new(ErrorKind::Option(message))
                .with_help(format!("{diff} shows the keys that differ")));
        }
    }
    Ok(())
}

/// Returns whether a word on the command line means a key; what is no key is also meant without its
/// brackets, and the content of a file without keys as `content`.
fn is_called(key: &str, word: &str) -> bool {
    let inner = key.strip_prefix('(').map(|key| key.trim_end_matches(')'));
    key == word
        || inner.is_some_and(|inner| {
            inner == word || (word == "content" && inner.starts_with("content:"))
        })
}

/// Decides every key of an entry: by who changed it, by the command line, by asking.
fn decide(
    cx: &mut Context,
    args: &MergeArgs,
    choices: &[(String, Side)],
    open: &Open<'_>,
) -> Result<Answer, Error> {
    let mut decisions = HashMap::new();
    let mut undecided = Conflict::default();
    let asker = cx.asker().filter(|_| !args.write.dry_run);
    let shifted = shifted_lists(&open.drift.keys);
    for (one, row) in open.drift.keys.iter().zip(&open.keys) {
        let is_shifted = lists_of(&one.key).any(|list| shifted.contains(list));
        let moved = if is_shifted { Moved::Both } else { one.moved };
        let named = choices.iter().find(|(key, _)| is_called(&one.key, key));
        let for_all = match (args.server, args.repository) {
            (true, _) => Some(Side::Server),
            (_, true) => Some(Side::Repository),
            _ => None,
        };
        let decision = match (named, moved) {
            (Some((_, side)), _) => Some(*side),
            (None, Moved::Server) => Some(Side::Server),
            (None, Moved::Repository) => Some(Side::Repository),
            // Comments are layout: which side's stay is settled there, where it can be told.
            (None, Moved::Both) if one.key == COMMENTS => Some(Side::Repository),
            (None, Moved::Unknown) if one.key == COMMENTS && args.layout.is_some() => args.layout,
            (None, Moved::Both | Moved::Unknown) => for_all,
        };
        let decision = match (decision, &asker) {
            (Some(side), _) => Decision::Side(side),
            (None, None) => {
                let list = match moved {
                    Moved::Both => &mut undecided.both,
                    _ => &mut undecided.unknown,
                };
                list.push(one.key.clone());
                continue;
            }
            (None, Some(asker)) => match ask(&**asker, open.entry, one, row)? {
                Some(decision) => decision,
                None => return Ok(Answer::Skipped),
            },
        };
        decisions.insert(one.key.clone(), decision);
    }
    let is_open = open.drift.keys.is_empty() && open.drift.verdict == Verdict::Unknown;
    if is_open && args.layout.is_none() && !args.server && !args.repository {
        undecided.unknown.push("(layout)".to_owned());
    }
    if undecided.both.is_empty() && undecided.unknown.is_empty() {
        Ok(Answer::Decided(decisions))
    } else {
        Ok(Answer::Conflict(undecided))
    }
}

/// Returns the lists that both sides changed, one of them by an item more or less: the items that a number names on the two
/// sides may be different ones then.
fn shifted_lists(keys: &[KeyDrift]) -> HashSet<&str> {
    let mut sides: HashMap<&str, (bool, bool, bool)> = HashMap::new();
    for one in keys {
        for list in lists_of(&one.key) {
            let (server, repository, is_shifted) = sides.entry(list).or_default();
            *server |= one.moved != Moved::Repository;
            *repository |= one.moved != Moved::Server;
            *is_shifted |= one.change != Change::Changed;
        }
    }
    let both = sides
        .into_iter()
        .filter(|(_, sides)| *sides == (true, true, true));
    both.map(|(list, _)| list).collect()
}

/// Returns the lists that a key is in, as far as it names them: `a[0].b[1]` is in `a` and in `a[0].b`.
fn lists_of(key: &str) -> impl Iterator<Item = &str> {
    let starts = key.match_indices('[').map(|(at, _)| at);
    let is_item = |at: &usize| key[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    starts.filter(is_item).map(|at| &key[..at])
}

/// Asks which side's value of a key to take, or for another one. `None` leaves the entry as it is.
fn ask(
    asker: &dyn Ask,
    entry: &Entry,
    one: &KeyDrift,
    row: &KeyRow,
) -> Result<Option<Decision>, Error> {
    let failed = |source| {
        let path = "/dev/tty".into();
        Problem::new(ErrorKind::Unreadable { path, source }).with_help(
            "`--server`, `--repository` and `--key KEY=server` answer without a terminal",
        )
    };
    let mut choices = vec![
        Choice::new('s', "server", "the server's value"),
        Choice::new('r', "repository", "the repository's value"),
    ];
    let is_key = !one.key.starts_with('(');
    if is_key {
        choices.push(Choice::new(
            't',
            "type",
            "another value, which is not shown",
        ));
    }
    choices.push(Choice::new(
        'k',
        "skip",
        "leave the entry as it is on both sides",
    ));
    let name = &entry.repository_path;
    let question = format!(
        "{name}: {} {} ({}): take which?",
        one.change.sign(),
        one.key,
        row.side_in_words()
    );
    match prompt::choose(asker, &question, &choices).map_err(failed)? {
        Some('s') => Ok(Some(Decision::Side(Side::Server))),
        Some('r') => Ok(Some(Decision::Side(Side::Repository))),
        Some('t') => {
            let typed = asker
                .pasted(&format!(
                    "Value of {}, as it is to stand in the file (not shown): ",
                    one.key
                ))
                .map_err(failed)?;
            let typed = SecretBytes::copy_of(typed.expose().trim_ascii_end());
            let is_one_line = !typed
                .expose()
                .iter()
                .any(|byte| matches!(byte, b'\n' | b'\r' | 0));
            if typed.expose().is_empty() || !is_one_line {
                let message = "a value is one line, and not empty; nothing was written".to_owned();
                return Err(Problem::of(name, ErrorKind::Option(message))
                    .with_help("run the command again")
                    .into());
            }
            Ok(Some(Decision::Typed(typed)))
        }
        Some(_) => Ok(None),
        None => Err(Problem::new(ErrorKind::Option(
            "no answer: the input has ended; nothing was written".to_owned(),
        ))
        .with_help("`--server`, `--repository` and `--key KEY=server` answer without a question")
        .into()),
    }
}

/// Makes the content of an entry from what was decided.
fn put_together<'w>(
    workspace: &Workspace,
    args: &MergeArgs,
    open: &Open<'w>,
    decisions: &HashMap<String, Decision>,
) -> Result<Merged<'w>, Problem> {
    let entry = open.entry;
    let (Some(repository), Some((_, server))) = (&open.sides.repository, &open.sides.server) else {
        return Err(Problem::of(&entry.repository_path, ErrorKind::Internal));
    };
    let mut keys = open.drift.keys.iter();
    let are_asked = keys.any(|one| one.key == COMMENTS && one.moved == Moved::Unknown);
    let comments = decisions.get(COMMENTS).filter(|_| are_asked);
    let whole = decisions.get(OTHER_LINES).or_else(|| whole(decisions));
    let layout = match whole.or(comments) {
        // Lines that are no assignments cannot be told apart: they come with the layout, and so do
        // comments.
        Some(Decision::Side(side)) => *side,
        _ => args.layout.unwrap_or_else(|| busier_side(open, args)),
    };
    if args.layout.is_some_and(|wanted| wanted != layout) {
        let message = "lines that are no assignments, or the content, are taken from the other side than `--layout` says";
        return Err(Problem::of(
            &entry.repository_path,
            ErrorKind::Option(message.to_owned()),
        )
        .with_help("leave `--layout` out, or decide these lines for the same side with `--key`"));
    }
    let (base, other) = match layout {
        Side::Server => (server, repository),
        Side::Repository => (repository, server),
    };
    let takes: HashMap<String, Take> = decisions
        .iter()
        .filter(|(key, _)| *key != COMMENTS && *key != OTHER_LINES)
        .map(|(key, decision)| {
            let take = match decision {
                Decision::Typed(value) => Take::Typed(value.clone()),
                Decision::Side(side) if *side == layout => Take::Layout,
                Decision::Side(_) => Take::Other,
            };
            (key.clone(), take)
        })
        .collect();
    let content = if is_keyed(open) {
        let merged = merge::merge(base.expose(), other.expose(), &takes, entry.reading());
        let Some(content) = merged else {
            let name = &entry.repository_path;
            let keys = takes.keys().cloned().collect::<BTreeSet<_>>();
            let refusal = Refusal::Entangled {
                keys: keys.into_iter().collect(),
            };
            let help = storing::entangled_help(workspace, name);
            return Err(Problem::of(name, refusal).with_help(help));
        };
        content
    } else {
        base.clone()
    };
    Ok(Merged {
        entry,
        to_repository: content != *repository,
        to_server: content != *server,
        lost_comments: lost_comments(open, layout),
        content,
    })
}

/// Returns whether the sides differ by keys, rather than as a whole.
fn is_keyed(open: &Open<'_>) -> bool {
    let mut keys = open.drift.keys.iter();
    open.entry.reading().has_keys() && !keys.any(|one| one.key.starts_with("(content"))
}

/// Returns the side that changed comments, where the other one's stay.
fn lost_comments(open: &Open<'_>, layout: Side) -> Option<Side> {
    let comments = open.drift.keys.iter().find(|one| one.key == COMMENTS)?;
    match (comments.moved, layout) {
        (Moved::Server | Moved::Both, Side::Repository) => Some(Side::Server),
        (Moved::Repository | Moved::Both, Side::Server) => Some(Side::Repository),
        _ => None,
    }
}

/// Returns the decision on a file without keys.
fn whole(decisions: &HashMap<String, Decision>) -> Option<&Decision> {
    let mut whole = decisions.iter();
    whole
        .find(|(key, _)| key.starts_with("(content"))
        .map(|(_, decision)| decision)
}

/// Returns the side whose layout is kept: that which changed more keys; the one that changed comments
/// where both changed as many, else the repository. Where no key differs, the side that moved.
fn busier_side(open: &Open<'_>, args: &MergeArgs) -> Side {
    let count = |side: Moved| {
        let keys = open.drift.keys.iter();
        keys.filter(|one| one.moved == side && one.key != COMMENTS)
            .count()
    };
    let comments = open.drift.keys.iter().find(|one| one.key == COMMENTS);
    match (count(Moved::Server), count(Moved::Repository)) {
        (server, repository) if server > repository => Side::Server,
        (server, repository) if server < repository => Side::Repository,
        _ if comments.is_some_and(|one| one.moved == Moved::Server) => Side::Server,
        _ if comments.is_some() => Side::Repository,
        _ if open.drift.verdict == Verdict::ServerAhead || args.server => Side::Server,
        _ => Side::Repository,
    }
}

fn capture_merged<'w>(
    cx: &mut Context,
    workspace: &Workspace,
    root: &Base,
    (allowed, update_recipients): (&Allowances, bool),
    merged: &[Merged<'w>],
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) -> Vec<Captured<'w>> {
    let now = cx.env.now();
    let options = CaptureOptions {
        new_data_key: false,
        update_recipients,
        allow_unreadable: false,
        force: true,
        is_new: false,
        max_size: u64::MAX,
        allowed,
    };
    let wanted: Vec<_> = merged.iter().filter(|one| one.to_repository).collect();
    let mut captured = in_parallel(&wanted, workspace.jobs, |one| {
        let content = Some(one.content.clone());
        capture::capture_content(workspace, root, one.entry, options, &now, content)
    });
    settle::sources(workspace, &mut captured);
    let (steps, captured) = gather(cx, workspace, captured, problems, |one, refusal| {
        storing::explain(workspace, "merge", one, refusal)
    });
    plan.steps.extend(steps.steps);
    captured
}

fn place_merged<'w>(
    cx: &mut Context,
    workspace: &Workspace,
    args: &MergeArgs,
    merged: &[Merged<'w>],
    captured: &[Captured<'w>],
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) -> Vec<Prepared<'w>> {
    let wanted: Vec<_> = merged.iter().filter(|one| one.to_server).collect();
    let entries: Vec<&Entry> = wanted.iter().map(|one| one.entry).collect();
    let owners = if args.write.owner.no_owner {
        Owners::new()
    } else {
        ownership::resolve(&entries, Purpose::Give, problems)
    };
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: true,
            allow_rollback: true,
            ..DecryptOptions::default()
        },
        create_root: false,
    };
    let mut prepared = in_parallel(&wanted, workspace.jobs, |one| {
        let name = &one.entry.repository_path;
        let owner: Ownership = owners.get(name).copied().unwrap_or_default();
        let new = captured
            .iter()
            .find(|captured| captured.entry.repository_path == *name && captured.step.writes());
        let mut content = Content {
            plaintext: one.content.clone(),
            readers: Vec::new(),
            format: Format::Binary,
            mac: String::new(),
            seal: String::new(),
            pinned: None,
            data_key: None,
        };
        match (new, read_encrypted(workspace, one.entry)?) {
            (Some(new), _) => {
                content.readers.clone_from(&new.readers);
                content.format = new.format;
                content.mac.clone_from(&new.mac);
                content.seal.clone_from(&new.seal);
            }
            (None, Lookup::Found(encrypted)) => {
                content.readers = encrypted.readers();
                content.format = encrypted.format;
                encrypted.content_mac().clone_into(&mut content.mac);
                content.seal.clone_from(&encrypted.sealed.metadata.mac);
                let key = unwrap_key(workspace, one.entry, &encrypted.sealed.metadata)?;
                content.data_key = foreign_key::in_use(workspace, one.entry, &encrypted, key);
            }
            (None, Lookup::Missing(_)) => {}
        }
        let mut prepared = placing::prepare(workspace, one.entry, owner, options, content)?;
        let is_captured = |captured: &Captured<'_>| captured.entry.repository_path == *name;
        if captured.iter().any(is_captured) {
            // Its news are told with that side.
            prepared.foreign = None;
        }
        Ok(prepared)
    });
    settle::targets(workspace, &mut prepared);
    let (steps, prepared) = gather(cx, workspace, prepared, problems, |one, refusal| {
        delivering::explain(workspace, "decrypt", one.entry, refusal)
    });
    plan.steps.extend(steps.steps);
    prepared
}
