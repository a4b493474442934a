//! Steps: what a writing command will do with each entry, and why.
//!
//! A plan holds no secret bytes. It can be printed and compared, and the dry run is the plan of the
//! real run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::diff::Differences;
use super::drift::{Drift, Rollback, Verdict};
use super::error::Refusal;

/// Which file of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The encrypted file, or that of a row of `[plain]`.
    Repository,
    /// The plaintext.
    Server,
}

/// What is done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A file is made where there was none.
    Create,
    /// Nothing: both sides agree.
    Keep,
    /// Owner, group or mode are set; the content stays.
    Mend,
    /// Nothing, because a guard refuses.
    Refuse,
    /// A file is removed.
    Remove,
    /// A file is replaced.
    Replace,
    /// Nothing, because the user or the manifest said so.
    Skip,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The entry's name.
    pub name: String,
    /// The file that is written.
    pub target: PathBuf,
    /// What is done.
    pub action: Action,
    /// Why, or what changes, in words; may be empty.
    pub detail: String,
    /// Why it is refused.
    pub refusals: Vec<Refusal>,
    /// What is there is not kept anywhere else: an encrypted backup comes first.
    pub needs_backup: bool,
    /// It goes against the direction in which the entry moved, on the user's word.
    pub is_forced: bool,
}

impl Step {
    /// Returns whether carrying it out changes anything.
    pub fn writes(&self) -> bool {
        matches!(
            self.action,
            Action::Create | Action::Mend | Action::Remove | Action::Replace
        )
    }
}

/// The steps of a run, in manifest order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Returns how many steps have one of `actions`.
    pub fn count(&self, actions: &[Action]) -> usize {
        self.steps
            .iter()
            .filter(|step| actions.contains(&step.action))
            .count()
    }

    /// Returns how many entries have a step with one of `actions`.
    pub fn count_entries(&self, actions: &[Action]) -> usize {
        let steps = self.steps.iter();
        let steps = steps.filter(|step| actions.contains(&step.action));
        let names: BTreeSet<&str> = steps.map(|step| step.name.as_str()).collect();
        names.len()
    }

    /// Takes the step of an entry out: it failed while the others are carried out.
    pub fn forget(&mut self, name: Option<&str>) {
        self.steps.retain(|step| Some(step.name.as_str()) != name);
    }
}

/// What stands on the server where an entry is to be placed.
#[expect(clippy::large_enum_variant, reason = "one at a time, never in a list")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another content, and which side moved.
    Differs(Differences, Drift),
    /// Nothing; whether the repository's file is older than what was last applied.
    Missing(Option<Rollback>),
    /// Something that is not a regular file.
    NotRegular(&'static str),
    /// The same content; what is declared and differs of owner, group and mode, in words.
    Same(Vec<String>),
}

/// How far `decrypt` may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecryptOptions {
    /// Replace a server file that differs.
    pub force: bool,
    /// Leave every file that exists.
    pub missing_only: bool,
    /// Place also what is older than what was last applied here.
    pub allow_rollback: bool,
    /// Another version takes the place of the one that `restore` put there.
    pub is_restore: bool,
}

/// Plans the placement of one plaintext.
pub fn decrypt(name: &str, path: PathBuf, target: &Target, options: DecryptOptions) -> Step {
    let mut step = step(name, path);
    match target {
        Target::Missing(Some(rollback)) if !options.allow_rollback => {
            refuse(&mut step, Refusal::of_rollback(rollback, None));
        }
        Target::Missing(_) => step.action = Action::Create,
        Target::NotRegular(kind) => refuse(&mut step, Refusal::NotRegular { kind }),
        Target::Same(drift) if !drift.is_empty() && !options.missing_only => {
            step.action = Action::Mend;
            step.detail = drift.join(", ");
        }
        Target::Same(_) => {}
        Target::Differs(differences, drift) => {
            step.detail = differences.reversed().summary();
            let is_behind = match drift.verdict {
                Verdict::RepositoryAhead => true,
                Verdict::RepositoryBehind => options.allow_rollback,
                Verdict::Pinned => options.is_restore && drift.is_server_recorded,
                _ => false,
            };
            let rollback = drift.rollback.as_ref();
            let rollback = rollback.filter(|_| !options.allow_rollback);
            if options.missing_only {
                step.action = Action::Skip;
                step.detail = format!("left as it is: {}", differences.summary());
            } else if rollback.is_none() && (is_behind || options.force) {
                step.action = Action::Replace;
                step.is_forced = drift.verdict != Verdict::RepositoryAhead;
                // An old version that is committed is kept by git.
                let in_history = drift
                    .behind
                    .as_ref()
                    .is_some_and(|version| version.is_exact);
                step.needs_backup = step.is_forced || !in_history;
            } else {
                let rollback =
                    rollback.map(|rollback| Refusal::of_rollback(rollback, Some(differences)));
                let direction = Refusal::of_drift(drift, differences)
                    .filter(|_| !options.force && drift.verdict != Verdict::RepositoryBehind);
                let refusals = direction.into_iter().chain(rollback);
                refusals.for_each(|refusal| refuse(&mut step, refusal));
            }
        }
    }
    step
}

/// What stands in the repository where an entry is to be captured.
#[expect(clippy::large_enum_variant, reason = "one at a time, never in a list")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing, where something was.
    Deleted,
    /// Another content, and which side moved.
    Differs(Differences, Drift),
    /// Nothing.
    Missing,
    /// The same content, but the file itself must change; why, in words.
    Outdated(String),
    /// The same content.
    Same,
    /// A file that no identity here opens; it is replaced on the user's word.
    Unopened,
}

/// Plans the capture of one source. `force` captures it also where the repository moved.
pub fn encrypt(
    name: &str,
    path: PathBuf,
    stored: &Stored,
    refusals: Vec<Refusal>,
    force: bool,
) -> Step {
    let mut step = step(name, path);
    match stored {
        _ if !refusals.is_empty() => {
            step.action = Action::Refuse;
            step.refusals = refusals;
        }
        Stored::Missing => step.action = Action::Create,
        Stored::Deleted => refuse(&mut step, Refusal::DeletedInRepository),
        Stored::Same => {}
        Stored::Differs(differences, drift) => {
            step.detail = differences.summary();
            step.is_forced = drift.verdict != Verdict::ServerAhead;
            if force || !step.is_forced {
                step.action = Action::Replace;
                step.needs_backup = step.is_forced;
            } else {
                let refusal = Refusal::of_drift(drift, differences);
                refusal
                    .into_iter()
                    .for_each(|refusal| refuse(&mut step, refusal));
            }
        }
        Stored::Outdated(why) => {
            step.action = Action::Replace;
            step.detail.clone_from(why);
        }
        Stored::Unopened => {
            step.action = Action::Replace;
            "not compared: no identity here opens it".clone_into(&mut step.detail);
        }
    }
    step
}

/// Plans to leave an entry out.
pub fn skip(name: &str, path: PathBuf, why: &str) -> Step {
    let mut step = step(name, path);
    step.action = Action::Skip;
    why.clone_into(&mut step.detail);
    step
}

fn step(name: &str, target: PathBuf) -> Step {
    Step {
        name: name.to_owned(),
        target,
        action: Action::Keep,
        detail: String::new(),
        refusals: Vec::new(),
        needs_backup: false,
        is_forced: false,
    }
}

fn refuse(step: &mut Step, refusal: Refusal) {
    step.action = Action::Refuse;
    step.refusals.push(refusal);
}

#[cfg(test)]
mod tests {
    use super::super::diff;
    use super::*;

    fn differs(verdict: Verdict) -> (Differences, Drift) {
        (
            diff::between(b"A=1\n", b"A=2\n", super::super::keys::Reading::Env),
            Drift::of(verdict),
        )
    }

    #[test]
    fn decrypt_writes_where_the_repository_is_ahead_or_by_force() {
        let plan = |verdict, force, missing_only| {
            let (differences, drift) = differs(verdict);
            let options = DecryptOptions {
                force,
                missing_only,
                ..DecryptOptions::default()
            };
            let target = Target::Differs(differences, drift);
            let step = decrypt("e", PathBuf::new(), &target, options);
            (step.action, step.needs_backup, step.is_forced)
        };
        for verdict in [Verdict::ServerAhead, Verdict::BothMoved, Verdict::Unknown] {
            assert_eq!(plan(verdict, false, false), (Action::Refuse, false, false));
            assert_eq!(plan(verdict, true, false), (Action::Replace, true, true));
            assert_eq!(plan(verdict, true, true), (Action::Skip, false, false));
        }
        let ahead = plan(Verdict::RepositoryAhead, false, false);
        assert_eq!(ahead, (Action::Replace, true, false));
    }

    #[test]
    fn encrypt_writes_where_the_server_is_ahead_or_by_force() {
        let plan = |verdict, force| {
            let (differences, drift) = differs(verdict);
            let stored = Stored::Differs(differences, drift);
            let step = encrypt("e", PathBuf::new(), &stored, Vec::new(), force);
            (step.action, step.needs_backup)
        };
        for verdict in [
            Verdict::RepositoryAhead,
            Verdict::BothMoved,
            Verdict::Unknown,
        ] {
            assert_eq!(plan(verdict, false), (Action::Refuse, false));
            assert_eq!(plan(verdict, true), (Action::Replace, true));
        }
        assert_eq!(plan(Verdict::ServerAhead, false), (Action::Replace, false));
    }

    #[test]
    fn planning_after_applying_yields_nothing() {
        let options = DecryptOptions::default();
        let same = Target::Same(Vec::new());
        assert_eq!(
            decrypt("e", PathBuf::new(), &same, options).action,
            Action::Keep
        );
        assert_eq!(
            encrypt("e", PathBuf::new(), &Stored::Same, Vec::new(), false).action,
            Action::Keep
        );
    }
}
