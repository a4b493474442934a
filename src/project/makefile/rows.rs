//! The rows of the lists, and the root they are relative to.

use std::collections::{BTreeMap, BTreeSet};

use super::variables::{shown, why_unknown, words};
use super::{Notes, Root, Row, Rows, Unread};

const COMMENT: &str = "make knows no comment here, so `#` and what follows are in the list";

/// The rows of the list with this name; the flag says whether they are secret.
/// Variables that stand before server sides and whose value is not known go to `folders`.
pub(super) fn list_rows(
    list: &str,
    secret: bool,
    folders: &mut Vec<(String, usize)>,
    notes: &mut Notes,
) -> Rows {
    let mut rows = Vec::new();
    let mut comment_line = None;
    for (line, word) in words(list) {
        if word.starts_with('#') {
            comment_line = Some(line);
        }
        let result = match why_unknown(word) {
            _ if comment_line == Some(line) => Err(COMMENT.to_owned()),
            why => match below_unknown(word) {
                Some((variable, word)) => {
                    folders.push((variable, line));
                    row(&word, line, secret).map_err(str::to_owned)
                }
                None => match why {
                    Some(why) => Err(why),
                    None => row(word, line, secret).map_err(str::to_owned),
                },
            },
        };
        match result {
            Ok(row) => rows.push((secret, row)),
            Err(why) => notes.push(Unread::unreadable(line, word, &why)),
        }
    }
    rows
}

/// Splits a word whose server side begins with a variable of unknown value, or with the home
/// folder: returns the variable's name and the word without it.
fn below_unknown(word: &str) -> Option<(String, String)> {
    let text = shown(word);
    let (repository, server) = text.split_once([':', '|'])?;
    let (name, rest) = if let Some(rest) = server.strip_prefix("~/") {
        ("HOME", rest)
    } else {
        let inside = server.strip_prefix("$(").or(server.strip_prefix("${"))?;
        let (name, rest) = inside.split_once([')', '}'])?;
        (name, rest.strip_prefix('/')?)
    };
    let is_name = name
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let is_known = !repository.contains('$') && !rest.contains('$');
    (is_name && is_known).then(|| (name.to_owned(), format!("{repository}:{rest}")))
}

/// The one variable that stands before server sides.
pub(super) fn agreed_folder(folders: &[(String, usize)], notes: &mut Notes) -> Option<String> {
    let (first, _) = folders.first()?;
    for (other, line) in folders.iter().filter(|(other, _)| other != first) {
        let what = format!(
            "`$({other})` stands before a server side, and `$({first})` before others: check the root"
        );
        notes.push(Unread::new(*line, what));
    }
    Some(first.clone())
}

/// Splits one word into the repository side and the server side.
fn row(word: &str, line: usize, secret: bool) -> Result<Row, &'static str> {
    let bare = ['"', '\'']
        .into_iter()
        .find_map(|mark| word.strip_prefix(mark)?.strip_suffix(mark))
        .unwrap_or(word);
    if bare.contains(['"', '\'']) {
        return Err("its quotes do not pair up");
    }
    if bare.contains([',', '=']) {
        return Err("only `:` and `|` are read as separators");
    }
    if bare.contains(|letter: char| letter.is_control() || "$`*?[]{}~\\;&<>()".contains(letter)) {
        return Err("it has a character that the shell would act on");
    }
    let sides: Vec<&str> = bare.split([':', '|']).collect();
    let (repository, server) = match sides.as_slice() {
        [name] if secret => (*name, name.strip_suffix(".enc").unwrap_or(name)),
        [name] => (*name, *name),
        [repository, server] => (*repository, *server),
        _ => return Err("it has more than one separator"),
    };
    if repository.is_empty() || server.is_empty() {
        return Err("one side of it is empty");
    }
    if repository.starts_with('/') {
        return Err("its repository side leads out of the repository");
    }
    let mut repository_path = clean_path(repository, "it leads out of the repository")?;
    let server_path = clean_path(server, "it leads out of the root")?;
    if secret && !repository_path.ends_with(".enc") {
        repository_path.push_str(".enc");
    }
    Ok(Row {
        repository_path,
        server_path,
        line,
    })
}

fn clean_path(path: &str, leads_out: &'static str) -> Result<String, &'static str> {
    let parts = path_parts(path);
    if parts.contains(&"..") {
        return Err(leads_out);
    }
    if parts.is_empty() || path.ends_with('/') || path.ends_with("/.") {
        return Err("it names a folder, not a file");
    }
    let start = if path.starts_with('/') { "/" } else { "" };
    Ok(format!("{start}{}", parts.join("/")))
}

/// The parts of a path that name something.
pub(super) fn path_parts(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

/// Keeps the rows whose two sides are new, and says when one side has another partner.
pub(super) fn keep_first(rows: Rows, notes: &mut Notes) -> Rows {
    let mut servers: BTreeMap<String, String> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut kept = Vec::new();
    for (secret, row) in rows {
        let (repository, server) = (row.repository_path.clone(), row.server_path.clone());
        let twice = match servers.get(&repository) {
            Some(known) if *known == server => continue,
            None if taken.insert(server.clone()) => {
                servers.insert(repository, server);
                kept.push((secret, row));
                continue;
            }
            None => server,
            Some(_) => repository,
        };
        let what = "is in the lists twice with different partners, and the first one is kept";
        notes.push(Unread::new(row.line, format!("`{twice}` {what}")));
    }
    kept
}

fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root)?.strip_prefix('/')?;
    Some(rest).filter(|rest| !rest.is_empty())
}

/// The deepest folder that holds all these absolute paths, unless it is `/`.
fn common_folder(paths: &[&str]) -> Option<String> {
    let mut folder = *paths.first()?;
    loop {
        (folder, _) = folder.rsplit_once('/')?;
        if !folder.is_empty() && paths.iter().all(|path| below(path, folder).is_some()) {
            return Some(folder.to_owned());
        }
    }
}

/// Chooses the root for the rows, and makes the rows relative to it.
pub(super) fn apply_root(found: Root, rows: Rows, notes: &mut Notes) -> (Root, Rows) {
    let is_absolute = |path: &&str| path.starts_with('/');
    let decides = rows.iter().any(|(secret, _)| *secret);
    let mut deciding = rows.iter().filter(|(secret, _)| *secret == decides);
    let all_absolute = deciding.all(|(_, row)| row.server_path.starts_with('/'));
    let paths = rows.iter().map(|(_, row)| row.server_path.as_str());
    let (absolute, relative): (Vec<&str>, Vec<&str>) = paths.partition(is_absolute);
    let covers = match &found {
        Root::Known(root) => absolute.iter().all(|path| below(path, root).is_some()),
        Root::Unknown { .. } => false,
    };
    let own = all_absolute && !absolute.is_empty() && (relative.is_empty() || !covers);
    let root = match common_folder(&absolute) {
        Some(folder) if own => Root::Known(folder),
        None if own => Root::Unknown { variable: None },
        _ => found,
    };
    let mut kept = Vec::new();
    for (secret, mut row) in rows {
        let path = row.server_path.as_str();
        let result = match &root {
            _ if own && !is_absolute(&path) => {
                Err("its server side is relative, those of the others are absolute")
            }
            Root::Known(folder) if is_absolute(&path) => below(path, folder)
                .ok_or("its server side is absolute and not below the root of the recipes"),
            Root::Unknown { .. } if is_absolute(&path) && !own => {
                Err("its server side is absolute, and the root of the others is not known")
            }
            _ => Ok(path),
        };
        match result.map(str::to_owned) {
            Ok(path) => {
                row.server_path = path;
                kept.push((secret, row));
            }
            Err(why) => {
                let word = format!("{}:{path}", row.repository_path);
                notes.push(Unread::unreadable(row.line, &word, why));
            }
        }
    }
    (root, kept)
}
