//! What a writing command did, or with `--dry-run` would do.

use std::collections::{BTreeSet, HashSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Problem, Severity};
use crate::project::plan::{Action, Plan, Side};

use super::style::harmless;
use super::{ProblemJson, SCHEMA_VERSION, Ui};

/// A finished run of a writing command.
pub struct Report<'a> {
    /// `encrypt` or `decrypt`.
    pub command: &'static str,
    /// The plan that was carried out, or would have been.
    pub plan: &'a Plan,
    /// What went wrong.
    pub problems: &'a [Problem],
    /// Whether the plan was carried out.
    pub outcome: Applied,
    /// Encrypted backups kept.
    pub backups: &'a [Backup],
    /// What `recover` did besides, and what it left.
    pub recovery: Option<&'a Recovery>,
}

/// What `recover` did besides placing files, and what it left to be done.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Recovery {
    /// The identity file that is used from now on.
    pub identity: String,
    /// What was done with it: `used`, `installed`, `replaced`,
    /// `to-be-installed` (a dry run), `elsewhere` (one at hand opens everything, none is installed); after a failure `not-installed`.
    pub identity_action: &'static str,
    /// Where the identity is now that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_identity: Option<String>,
    /// Rows of `[plain]` whose file is missing on the server or differs.
    pub not_deployed: Vec<String>,
    /// What to type for these.
    #[serde(skip)]
    pub deploy: String,
}

/// An encrypted backup of what was replaced.
pub struct Backup {
    /// The entry's name.
    pub entry: String,
    /// Which of its files it is of.
    pub side: Side,
    /// The backup.
    pub path: String,
    /// The stock command that opens it.
    pub command: String,
}

/// Whether a plan was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was.
    Done,
    /// It was not asked for.
    DryRun,
    /// A problem stood against it.
    Nothing,
    /// It failed, and not everything could be brought back.
    Partly,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ReportJson<'a> {
    schema_version: u32,
    command: &'static str,
    dry_run: bool,
    applied: bool,
    entries: Vec<StepJson<'a>>,
    problems: Vec<ProblemJson>,
    backups: Vec<BackupJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<&'a Recovery>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct StepJson<'a> {
    entry: &'a str,
    target: String,
    action: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct BackupJson<'a> {
    entry: &'a str,
    path: &'a str,
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Keep => "unchanged",
        Action::Mend => "mend",
        Action::Refuse => "refuse",
        Action::Remove => "remove",
        Action::Replace => "replace",
        Action::Skip => "skip",
    }
}

impl Ui {
    /// Shows a report.
    pub fn report(&mut self, report: &Report<'_>) {
        if self.json {
            self.json(&ReportJson {
                schema_version: SCHEMA_VERSION,
                command: report.command,
                dry_run: report.outcome == Applied::DryRun,
                applied: report.outcome == Applied::Done,
                entries: report
                    .plan
                    .steps
                    .iter()
                    .map(|step| StepJson {
                        entry: &step.name,
                        target: step.target.display().to_string(),
                        action: word(step.action),
                        detail: &step.detail,
                    })
                    .collect(),
                problems: report.problems.iter().map(ProblemJson::of).collect(),
                backups: report
                    .backups
                    .iter()
                    .map(|backup| BackupJson {
                        entry: &backup.entry,
                        path: &backup.path,
                    })
                    .collect(),
                recovery: report.recovery,
            });
        }
        for step in &report.plan.steps {
            let verb = match (step.action, report.outcome) {
                (Action::Keep, _) => {
                    self.detail(&format!("unchanged    {}", harmless(&step.name)));
                    continue;
                }
                (Action::Skip, _) => "left out    ",
                (Action::Refuse, _) | (_, Applied::Nothing | Applied::Partly) => continue,
                (Action::Create, Applied::Done) => "created     ",
                (Action::Replace, Applied::Done) => "replaced    ",
                (Action::Mend, Applied::Done) => "mended      ",
                (Action::Remove, Applied::Done) => "removed     ",
                (Action::Remove, Applied::DryRun) => "would remove",
                (Action::Create, Applied::DryRun) => "would create",
                (Action::Replace, Applied::DryRun) => "would replace",
                (Action::Mend, Applied::DryRun) => "would mend  ",
            };
            let detail = if step.detail.is_empty() {
                String::new()
            } else {
                format!("  ({})", step.detail)
            };
            let target = harmless(&step.target.display().to_string());
            self.status(&format!("{verb} {target}{}", harmless(&detail)));
        }
        for backup in report.backups {
            let (entry, path) = (harmless(&backup.entry), harmless(&backup.path));
            let side = match backup.side {
                Side::Repository => "in the repository",
                Side::Server => "on the server",
            };
            self.status(&format!(
                "kept         {path}  (what was there before: {entry}, {side})\n             open it with: {}",
                harmless(&backup.command)
            ));
        }
        self.problems(report.problems);
        self.status(&summary(report));
        if let Some(recovery) = report.recovery {
            self.status(&recovery.in_words());
        }
    }
}

impl Recovery {
    fn in_words(&self) -> String {
        let identity = match self.identity_action {
            "used" => format!("identity: {} was there and opens everything", self.identity),
            "to-be-installed" => format!("identity: would be installed as {}", self.identity),
            "elsewhere" => format!(
                "identity: one at hand opens everything, and nothing is installed as {}: later runs need it too",
                self.identity
            ),
            "replaced" | "installed" => format!("identity: installed as {}", self.identity),
            _ => format!("identity: nothing was installed as {}", self.identity),
        };
        let old = self.old_identity.as_ref();
        let old = old.map_or_else(String::new, |old| {
            format!("; the other key that was there is kept as {old}")
        });
        let plain = match self.not_deployed.len() {
            0 => String::new(),
            count => format!(
                "not done: {count} plain {} not deployed ({}): {}\n",
                if count == 1 { "file is" } else { "files are" },
                self.not_deployed.join(", "),
                self.deploy
            ),
        };
        format!(
            "{identity}{old}\n{plain}not done: no service was started; this program runs no commands"
        )
    }
}

fn summary(report: &Report<'_>) -> String {
    let plan = report.plan;
    let (refused, failed) = entries_without_step(report);
    let named: BTreeSet<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    let total = named.len() + refused + failed;
    let entries = if total == 1 { "entry" } else { "entries" };
    let mut parts = Vec::new();
    let mut part = |actions: &[Action], word: &str| {
        let count = plan.count_entries(actions);
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    };
    match report.outcome {
        Applied::Nothing | Applied::Partly => part(
            &[
                Action::Create,
                Action::Replace,
                Action::Mend,
                Action::Remove,
            ],
            if report.outcome == Applied::Partly {
                "not done, or only in part"
            } else {
                "held back"
            },
        ),
        outcome => {
            let would = if outcome == Applied::DryRun {
                "to be "
            } else {
                ""
            };
            part(&[Action::Create], &format!("{would}created"));
            part(&[Action::Replace], &format!("{would}replaced"));
            part(&[Action::Mend], &format!("{would}mended"));
            part(&[Action::Remove], &format!("{would}removed"));
        }
    }
    part(&[Action::Keep], "unchanged");
    part(&[Action::Skip], "left out");
    let refused = refused + plan.count(&[Action::Refuse]);
    for (count, word) in [(refused, "refused"), (failed, "failed")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let list = if parts.is_empty() {
        String::new()
    } else {
        format!(": {}", parts.join(", "))
    };
    match report.outcome {
        Applied::Done => format!("{total} {entries}{list}"),
        Applied::DryRun => format!("{total} {entries}{list}; nothing was written (dry run)"),
        Applied::Nothing => format!("{total} {entries}{list}; nothing was written"),
        Applied::Partly => format!("{total} {entries}{list}; not every file could be brought back"),
    }
}

/// Counts the entries that have problems but no step: refused ones, and those that failed.
fn entries_without_step(report: &Report<'_>) -> (usize, usize) {
    let steps = report.plan.steps.iter();
    let steps: HashSet<&str> = steps.map(|step| &*step.name).collect();
    let has_step = |name: &str| steps.contains(name);
    let mut refused = BTreeSet::new();
    let mut failed = BTreeSet::new();
    for problem in report.problems {
        let Some(name) = problem.entry.as_deref().filter(|name| !has_step(name)) else {
            continue;
        };
        match problem.kind.severity() {
            Severity::Refused => refused.insert(name),
            Severity::Trouble => failed.insert(name),
        };
    }
    (refused.difference(&failed).count(), failed.len())
}
