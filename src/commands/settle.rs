//! Files that somebody is writing right now: half of one would be captured, or the other half be written
//! into a file that was replaced.

use std::thread;
use std::time::Duration;

use crate::os::place::{FileState, Found, Place};
use crate::project::error::Refusal;
use crate::project::plan::{Action, Step};

use super::capture::Captured;
use super::placing::Prepared;
use super::workspace::Workspace;

/// A file that was changed longer ago is not waited for.
const RECENT: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// So many looks at a file that a program has open for writing.
const LOOKS: usize = 10;

/// What is to be done with a file, and what was seen of it.
trait Watch {
    /// The place and what was seen there; `None` where nothing is read or replaced.
    fn seen(&self) -> Option<(&Place, &FileState)>;
    /// The file on the server, for messages.
    fn shown(&self, workspace: &Workspace) -> String;
    /// The step, and where remarks go.
    fn parts(&mut self) -> (&mut Step, &mut Vec<String>);
}

impl Watch for Captured<'_> {
    fn seen(&self) -> Option<(&Place, &FileState)> {
        let source = self.source.as_ref().filter(|_| self.step.writes());
        source.map(|(place, state, _)| (place, state))
    }

    fn shown(&self, workspace: &Workspace) -> String {
        workspace.server_file(self.entry).display().to_string()
    }

    fn parts(&mut self) -> (&mut Step, &mut Vec<String>) {
        (&mut self.step, &mut self.warnings)
    }
}

impl Watch for Prepared<'_> {
    fn seen(&self) -> Option<(&Place, &FileState)> {
        let is_replaced = self.step.action == Action::Replace;
        let (place, state) = self.target().filter(|_| is_replaced)?;
        Some((place, state))
    }

    fn shown(&self, workspace: &Workspace) -> String {
        workspace.server_file(self.entry).display().to_string()
    }

    fn parts(&mut self) -> (&mut Step, &mut Vec<String>) {
        let (step, warnings) = self.step_and_warnings();
        (step, warnings)
    }
}

/// Looks a second time at sources that are to be captured; one that is being written is refused.
pub fn sources<E>(workspace: &Workspace, results: &mut [Result<Captured<'_>, E>]) {
    look_again(workspace, results);
}

/// Looks a second time at files on the server that are to be replaced; one that is being written is
/// refused.
pub fn targets<E>(workspace: &Workspace, results: &mut [Result<Prepared<'_>, E>]) {
    look_again(workspace, results);
}

fn look_again<T: Watch, E>(workspace: &Workspace, results: &mut [Result<T, E>]) {
    let mut watched: Vec<&mut T> = results.iter_mut().flatten().collect();
    let files: Vec<_> = watched.iter().map(|one| one.seen()).collect();
    let found = watch(&files);
    for (one, found) in watched.iter_mut().zip(found) {
        let path = one.shown(workspace);
        let (step, warnings) = one.parts();
        match found {
            Activity::Moving => {
                step.action = Action::Refuse;
                step.refusals.push(Refusal::BeingWritten { path });
            }
            Activity::Open => warnings.push(format!(
                "{}: a program has {path} open for writing, without writing now",
                step.name
            )),
            Activity::Quiet => {}
        }
    }
}

/// What goes on with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It changed between two looks.
    Moving,
    /// A program has it open for writing.
    Open,
    /// Nothing.
    Quiet,
}

/// Says of each file what goes on with it. Only files that were changed a moment ago, or that a program has
/// open for writing, are waited for.
pub fn watch(files: &[Option<(&Place, &FileState)>]) -> Vec<Activity> {
    let mut found = vec![Activity::Quiet; files.len()];
    let mut looks = 0;
    let mut waiting = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let Some((place, state)) = file else { continue };
        let needed = match (place.has_writer(), state.was_modified_within(RECENT)) {
            (true, _) => LOOKS,
            (false, true) => 1,
            (false, false) => continue,
        };
        if needed == LOOKS {
            found[index] = Activity::Open;
        }
        looks = looks.max(needed);
        waiting.push((index, *place, *state));
    }
    for _ in 0..looks {
        thread::sleep(PAUSE);
        for (index, place, state) in &waiting {
            if !matches!(place.look(), Found::File(now, _) if now == **state) {
                found[*index] = Activity::Moving;
            }
        }
    }
    found
}
