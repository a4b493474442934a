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
    let mut files: Vec<(&mut T, bool)> = Vec::new();
    for one in results.iter_mut().flatten() {
        let Some((place, state)) = one.seen() else {
            continue;
        };
        let has_writer = place.has_writer();
        if has_writer || state.was_modified_within(RECENT) {
            files.push((one, has_writer));
        }
    }
    if files.is_empty() {
        return;
    }
    let looks = if files.iter().any(|(_, has_writer)| *has_writer) {
        LOOKS
    } else {
        1
    };
    let mut moved = vec![false; files.len()];
    for _ in 0..looks {
        thread::sleep(PAUSE);
        for ((one, _), moved) in files.iter().zip(&mut moved) {
            let seen = one.seen();
            *moved |= seen.is_some_and(
                |(place, state)| !matches!(place.look(), Found::File(now, _) if now == *state),
            );
        }
    }
    for ((one, has_writer), moved) in files.iter_mut().zip(moved) {
        let path = one.shown(workspace);
        let (step, warnings) = one.parts();
        if moved {
            step.action = Action::Refuse;
            step.refusals.push(Refusal::BeingWritten { path });
        } else if *has_writer {
            warnings.push(format!(
                "{}: a program has {path} open for writing, without writing now",
                step.name
            ));
        }
    }
}
