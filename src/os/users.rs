//! Users and groups by name and number.
//!
//! Read from `/etc/passwd` and `/etc/group`, then asked of `getent`: a static binary does not see
//! the name services that a C library would load.

use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid, getgroups};

use super::process;

/// Which database a name stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Groups.
    Group,
    /// Users.
    Passwd,
}

impl Database {
    fn file(self) -> &'static Path {
        Path::new(match self {
            Self::Group => "/etc/group",
            Self::Passwd => "/etc/passwd",
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Passwd => "passwd",
        }
    }
}

/// Returns the number of a user or group given by name or number, `None` when the name is not
/// known here.
pub fn find_id(database: Database, name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    lookup(database, name)?.get(2)?.parse().ok()
}

/// Returns the name of a user or group, or its number as text.
pub fn name_of(database: Database, id: u32) -> String {
    let text = id.to_string();
    let lines = std::fs::read_to_string(database.file()).unwrap_or_default();
    let known = lines
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|field| *field == text));
    match known {
        Some(fields) => fields[0].to_owned(),
        None => getent(database, &text)
            .and_then(|fields| fields.first().cloned())
            .unwrap_or(text),
    }
}

/// Returns the home directory of a user.
pub fn home_of(uid: u32) -> Option<PathBuf> {
    let name = name_of(Database::Passwd, uid);
    let fields = lookup(Database::Passwd, &name)?;
    fields
        .get(5)
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

fn lookup(database: Database, name: &str) -> Option<Vec<String>> {
    let lines = std::fs::read_to_string(database.file()).unwrap_or_default();
    let split = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let found = lines.lines().map(split).find(|fields| fields[0] == name);
    found.or_else(|| getent(database, name))
}

fn getent(database: Database, key: &str) -> Option<Vec<String>> {
    if key.starts_with('-') {
        return None;
    }
    let output = process::capture("getent", &[database.name(), "--", key]).ok()?;
    let line = String::from_utf8(output).ok()?;
    Some(line.lines().next()?.split(':').map(str::to_owned).collect())
}

/// Returns user and group of this process.
pub fn own_ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

/// Returns whether this process may give a file to `uid`.
pub fn may_give_to_user(uid: u32) -> bool {
    geteuid().is_root() || geteuid().as_raw() == uid
}

/// Returns whether this process may give a file of its own to the group `gid`.
pub fn may_give_to_group(gid: u32) -> bool {
    geteuid().is_root()
        || getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}
