//! Owner, group and mode of entries: what is declared, what is there, what may be done about it.

use std::collections::HashMap;

use crate::error::{ErrorKind, Problem};
use crate::os::place::{FileState, Ownership};
use crate::os::users::{self, Database};
use crate::project::manifest::Entry;
use crate::project::record::Record;

/// What the declared accounts are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To compare with what is there.
    Compare,
    /// To give files to them.
    Give,
}

/// Owner and group of every entry as numbers, by the entry's name.
pub type Owners = HashMap<String, Ownership>;

/// Resolves the declared accounts of all entries. Accounts that do not exist here, or that files
/// may not be given to, are problems of their entries; all of them are collected.
pub fn resolve(entries: &[&Entry], purpose: Purpose, problems: &mut Vec<Problem>) -> Owners {
    let mut known: HashMap<(bool, String), Option<u32>> = HashMap::new();
    let mut owners = Owners::new();
    for entry in entries {
        let mut find = |database, name: &Option<String>| -> Option<u32> {
            let name = name.as_ref()?;
            let is_user = database == Database::Passwd;
            let id = *known
                .entry((is_user, name.clone()))
                .or_insert_with(|| users::find_id(database, name));
            let checked = check(is_user, name, id, purpose);
            checked
                .map_err(|problem| {
                    problems.push(Problem {
                        entry: Some(entry.repository_path.clone()),
                        ..problem
                    });
                })
                .ok()
        };
        let ownership = Ownership {
            uid: find(Database::Passwd, &entry.owner),
            gid: find(Database::Group, &entry.group),
        };
        owners.insert(entry.repository_path.clone(), ownership);
    }
    owners
}

/// Returns the number of an account that exists and can be used as wanted.
fn check(is_user: bool, name: &str, id: Option<u32>, purpose: Purpose) -> Result<u32, Problem> {
    let kind = if is_user { "user" } else { "group" };
    let Some(id) = id else {
        let name = name.to_owned();
        return Err(
            Problem::new(ErrorKind::UnknownAccount { kind, name }).with_help(format!(
                "create the {kind}, or leave owner and group alone with `--no-owner`"
            )),
        );
    };
    let may_give = if is_user {
        users::may_give_to_user(id)
    } else {
        users::may_give_to_group(id)
    };
    if purpose == Purpose::Give && !may_give {
        let what = format!("{kind} {name}");
        return Err(Problem::new(ErrorKind::NoRightToGive { what })
            .with_help("run as root, or leave owner and group alone with `--no-owner`"));
    }
    Ok(id)
}

/// Returns owner and group that a replaced file would lose because this process may not keep
/// them.
pub fn lost_owner(state: &FileState, declared: Ownership) -> Option<String> {
    let name = |database, id| users::name_of(database, id);
    if declared.uid.is_none() && !users::may_give_to_user(state.uid) {
        return Some(format!("its user {}", name(Database::Passwd, state.uid)));
    }
    if declared.gid.is_none() && !users::may_give_to_group(state.gid) {
        return Some(format!("its group {}", name(Database::Group, state.gid)));
    }
    None
}

/// Says in words what of owner, group and mode differs from what is declared.
pub fn drift(state: &FileState, owner: Ownership, mode: Option<u32>) -> Vec<String> {
    let mut drift = Vec::new();
    let mut account = |word: &str, database, have: u32, want: Option<u32>| {
        if let Some(want) = want.filter(|&want| want != have) {
            let (have, want) = (
                users::name_of(database, have),
                users::name_of(database, want),
            );
            drift.push(format!("{word} is {have}, should be {want}"));
        }
    };
    account("owner", Database::Passwd, state.uid, owner.uid);
    account("group", Database::Group, state.gid, owner.gid);
    if let Some(mode) = mode.filter(|&mode| mode != state.mode) {
        drift.push(format!("mode is {:04o}, should be {mode:04o}", state.mode));
    }
    drift
}

/// Says in words what of owner, group and mode is not as the last sync saw it, where nothing is
/// declared.
pub fn drift_since(
    state: &FileState,
    owner: Ownership,
    mode: Option<u32>,
    record: Option<&Record>,
) -> Vec<String> {
    let Some(record) = record else {
        return Vec::new();
    };
    let mut drift = Vec::new();
    let mut account = |word: &str, database, have: u32, had: u32, is_declared: bool| {
        if have != had && !is_declared {
            let (have, had) = (
                users::name_of(database, have),
                users::name_of(database, had),
            );
            drift.push(format!("{word} is {have}, was {had} at the last sync"));
        }
    };
    let (uid, gid) = (owner.uid.is_some(), owner.gid.is_some());
    account("owner", Database::Passwd, state.uid, record.uid, uid);
    account("group", Database::Group, state.gid, record.gid, gid);
    if mode.is_none() && state.mode != record.mode {
        drift.push(format!(
            "mode is {:04o}, was {:04o} at the last sync",
            state.mode, record.mode
        ));
    }
    drift
}
