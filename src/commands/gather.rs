//! From entries worked on in memory to a plan: what `encrypt` and `decrypt` do alike before
//! anything is written.

use crate::error::Problem;
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind};
use crate::project::plan::{Plan, Step};
use crate::sops::master_key::KeyId;
use crate::sops::store::Format;

use super::Context;
use super::foreign_key::{self, ForeignKey};
use super::open::stock_command;
use super::workspace::Workspace;

/// An entry that was decrypted or encrypted in memory.
pub trait Prospect {
    /// The entry.
    fn entry(&self) -> &Entry;
    /// What is to be done with it.
    fn step(&self) -> &Step;
    /// Remarks for the user.
    fn warnings(&self) -> &[String];
    /// What somebody else changed of how its file is encrypted.
    fn foreign(&self) -> Option<&ForeignKey>;
    /// The stored form of the encrypted file, and who can open it.
    fn sealed_as(&self) -> (Format, &[KeyId]);
}

/// Makes the plan of what succeeded, adds what failed or is refused to `problems`, and tells the
/// warnings and, with `-v`, the stock command of every file that is written.
pub fn gather<T: Prospect>(
    cx: &mut Context,
    workspace: &Workspace,
    results: Vec<Result<T, Problem>>,
    problems: &mut Vec<Problem>,
    explain: impl Fn(&T, &Refusal) -> Problem,
) -> (Plan, Vec<T>) {
    let mut prospects = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(one) => prospects.push(one),
            Err(problem) => problems.push(problem),
        }
    }
    let mut plan = Plan {
        steps: prospects.iter().map(|one| one.step().clone()).collect(),
    };
    for problem in problems.iter() {
        plan.forget(problem.entry.as_deref());
    }
    let foreign: Vec<_> = prospects
        .iter()
        .filter_map(|one| Some((&*one.entry().repository_path, one.foreign()?)))
        .collect();
    foreign_key::warn(cx, workspace, &foreign);
    for one in &prospects {
        for warning in one.warnings() {
            cx.ui.warning(warning);
        }
        let refusals = one.step().refusals.iter();
        problems.extend(refusals.map(|refusal| explain(one, refusal)));
        if one.step().writes() && one.entry().kind == Kind::Secret {
            let (format, readers) = one.sealed_as();
            let file = workspace.hints.file(&one.entry().repository_path);
            let command = stock_command(workspace, format, readers, &file);
            cx.ui.detail(&format!("stock opens it with: {command}"));
        }
    }
    (plan, prospects)
}
