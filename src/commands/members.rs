//! Which files are members of the patterns of the manifest: in the repository, in `HEAD`, in the
//! records, and on the server.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Problem;
use crate::os::fs;
use crate::os::git::Checkout;
use crate::os::place::Base;
use crate::os::state::StateDir;
use crate::project::family::{PathPattern, is_pattern};
use crate::project::manifest::{Entry, Family, Manifest};

use super::memory;

/// Finds the files of the repository that may be members of each pattern: those that are there,
/// those that were there by `HEAD`, and those that were placed by the records.
///
/// # Errors
/// When the checkout cannot be read.
pub fn members(
    manifest: &Manifest,
    repository: &Base,
    root: Option<&Base>,
    state: Option<&StateDir>,
    further: &[String],
) -> Result<Vec<Vec<String>>, Problem> {
    if manifest.families.is_empty() {
        return Ok(Vec::new());
    }
    // A member that is gone must not be forgotten because git could not be asked.
    let head = match Checkout::discover(repository.path()) {
        Ok(Some(checkout)) => checkout.files_in_head(repository.path()),
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let head = head.map_err(|error| {
        Problem::new(error).with_help("`git status` in the repository shows what is wrong with it")
    })?;
    let records = state.map(memory::records_of).unwrap_or_default();
    let recorded: Vec<String> = root
        .and_then(|root| root.path().to_str())
        .map(|root| records.entries_below(root).map(str::to_owned).collect())
        .unwrap_or_default();
    let find = |family: &Family| {
        let mut found = files_matching(repository.path(), &family.pattern);
        let known = head.iter().chain(&recorded).chain(further);
        found.extend(
            known
                .filter(|file| !family.pattern.readings(file).is_empty())
                .cloned(),
        );
        found
    };
    Ok(manifest.families.iter().map(find).collect())
}

/// Finds the files on the server that match a pattern and belong to no entry.
pub fn found_on_server(manifest: &Manifest, root: &Base) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let entries = manifest.entries.iter();
    let mut known: HashSet<String> = entries.map(|entry| entry.server_path.clone()).collect();
    for family in &manifest.families {
        for file in files_matching(root.path(), &family.server) {
            let readings = family.server.readings(&file);
            let [captures] = &readings[..] else { continue };
            let member = family.member(captures);
            let is_whole = !is_pattern(&member.repository_path);
            if is_whole && known.insert(member.server_path.clone()) {
                found.push(member);
            }
        }
    }
    found
}

/// Returns the files below a folder that match a pattern, relative to it.
fn files_matching(folder: &Path, pattern: &PathPattern) -> Vec<String> {
    let segments = pattern.segments();
    let mut found = Vec::new();
    collect_matching(folder, "", &segments, &mut found);
    found.retain(|file| !pattern.readings(file).is_empty());
    found
}

fn collect_matching(
    folder: &Path,
    inside: &str,
    segments: &[PathPattern],
    found: &mut Vec<String>,
) {
    let Some((segment, rest)) = segments.split_first() else {
        return;
    };
    let names = match segment.literal() {
        Some(name) => vec![name.to_owned()],
        None => fs::names(folder)
            .into_iter()
            .filter(|name| !segment.readings(name).is_empty())
            .collect(),
    };
    for name in names {
        let path = folder.join(&name);
        let inside = format!("{inside}{name}");
        if rest.is_empty() {
            if fs::is_file(&path) {
                found.push(inside);
            }
        } else if fs::is_folder(&path) {
            collect_matching(&path, &format!("{inside}/"), rest, found);
        }
    }
}
