//! Steps: what a writing command will do with each entry, and why.
//!
//! A plan holds no secret bytes. It can be printed and compared, and the dry run is the plan of the
//! real run.

use std::path::PathBuf;

use super::diff::Differences;
use super::error::Refusal;

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
}

impl Step {
    /// Returns whether carrying it out changes anything.
    pub fn writes(&self) -> bool {
        matches!(self.action, Action::Create | Action::Mend | Action::Replace)
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

    /// Takes the step of an entry out: it failed while the others are carried out.
    pub fn forget(&mut self, name: Option<&str>) {
        self.steps.retain(|step| Some(step.name.as_str()) != name);
    }
}

/// What stands on the server where an entry is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another content.
    Differs(Differences),
    /// Nothing.
    Missing,
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
}

/// Plans the placement of one plaintext.
pub fn decrypt(name: &str, path: PathBuf, target: &Target, options: DecryptOptions) -> Step {
    let mut step = step(name, path);
    match target {
        Target::Missing => step.action = Action::Create,
        Target::NotRegular(kind) => refuse(&mut step, Refusal::NotRegular { kind }),
        Target::Same(drift) if !drift.is_empty() && !options.missing_only => {
            step.action = Action::Mend;
            step.detail = drift.join(", ");
        }
        Target::Same(_) => {}
        Target::Differs(differences) => {
            step.detail = differences.summary();
            if options.missing_only {
                step.action = Action::Skip;
                step.detail = format!("left as it is: {}", differences.summary());
            } else if options.force {
                step.action = Action::Replace;
                step.needs_backup = true;
            } else {
                let changes = differences.summary();
                refuse(&mut step, Refusal::Differs { changes });
            }
        }
    }
    step
}

/// What stands in the repository where an entry is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Another content.
    Differs(Differences),
    /// Nothing.
    Missing,
    /// The same content, but the file itself must change; why, in words.
    Outdated(String),
    /// The same content.
    Same,
    /// A file that no identity here opens; it is replaced on the user's word.
    Unopened,
}

/// Plans the capture of one source.
pub fn encrypt(name: &str, path: PathBuf, stored: &Stored, refusals: Vec<Refusal>) -> Step {
    let mut step = step(name, path);
    match stored {
        _ if !refusals.is_empty() => {
            step.action = Action::Refuse;
            step.refusals = refusals;
        }
        Stored::Missing => step.action = Action::Create,
        Stored::Same => {}
        Stored::Differs(differences) => {
            step.action = Action::Replace;
            step.detail = differences.summary();
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

    #[test]
    fn a_file_that_differs_is_replaced_only_by_force() {
        let differs = Target::Differs(diff::between(b"A=1\n", b"A=2\n", true));
        let plan = |force, missing_only| {
            let step = decrypt(
                "e",
                PathBuf::new(),
                &differs,
                DecryptOptions {
                    force,
                    missing_only,
                },
            );
            (step.action, step.needs_backup)
        };
        assert_eq!(plan(false, false), (Action::Refuse, false));
        assert_eq!(plan(true, false), (Action::Replace, true));
        assert_eq!(plan(true, true), (Action::Skip, false));
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
            encrypt("e", PathBuf::new(), &Stored::Same, Vec::new()).action,
            Action::Keep
        );
    }
}
