//! Folding rows that differ only in a folder or an environment into one pattern, where the pattern
//! stands for exactly these rows.

use super::edit::Row;
use super::family::PathPattern;
use super::manifest::ENCRYPTED_SUFFIX;

/// Folds what can be folded. `files` are the files of the repository, relative to the manifest: a
/// pattern that would stand for one more of them is no fold.
pub fn fold(rows: &[Row], files: &[String]) -> Vec<Row> {
    let mut rows = rows.to_vec();
    while let Some(folded) = fold_once(&rows, files) {
        rows = folded;
    }
    rows
}

/// Makes the pattern that stands for the most rows.
fn fold_once(rows: &[Row], files: &[String]) -> Option<Vec<Row>> {
    let mut best: Option<(Row, Vec<usize>)> = None;
    for row in rows {
        for pattern in candidates(row) {
            let members = members(&pattern, rows);
            let size = best.as_ref().map_or(1, |(_, members)| members.len());
            if members.len() > size && is_identical(&pattern, &members, rows, files) {
                best = Some((pattern, members));
            }
        }
    }
    let (pattern, members) = best?;
    let first = *members.first()?;
    let mut folded = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if index == first {
            folded.push(pattern.clone());
        } else if !members.contains(&index) {
            folded.push(row.clone());
        }
    }
    Some(folded)
}

/// Returns the patterns a row could be a member of: one of the folders that both sides have, the
/// varying part of the name, or both, become captures.
fn candidates(row: &Row) -> Vec<Row> {
    if row.repository_path.contains('{') {
        return Vec::new();
    }
    let folders = row.repository_path.matches('/').count();
    let positions = (0..folders).map(Some).chain(std::iter::once(None));
    let both = positions.flat_map(|folder| [(folder, true), (folder, false)]);
    both.filter_map(|(folder, has_name)| generalize(row, folder, has_name))
        .collect()
}

fn generalize(row: &Row, folder: Option<usize>, has_name: bool) -> Option<Row> {
    let mut repository: Vec<String> = row.repository_path.split('/').map(str::to_owned).collect();
    let mut server: Vec<String> = row.server_path.split('/').map(str::to_owned).collect();
    if let Some(at) = folder {
        let value = repository.get(at)?.clone();
        let (_, server_folders) = server.split_last()?;
        if !is_value(&value) || !server_folders.contains(&value) {
            return None;
        }
        for segment in repository.iter_mut().chain(&mut server) {
            if *segment == value {
                "{app}".clone_into(segment);
            }
        }
    } else if !has_name {
        return None;
    }
    if has_name {
        let name = repository.last_mut()?;
        let (before, value, after) = varying(name)?;
        let of = |text: &str| {
            let (start, end) = text.rsplit_once(&value)?;
            Some(format!("{start}{{{}}}{end}", capture_name(&before, &after)))
        };
        let changed = server.last().and_then(|name| of(name))?;
        *name = format!("{before}{{{}}}{after}", capture_name(&before, &after));
        *server.last_mut()? = changed;
    }
    Some(Row {
        repository_path: repository.join("/"),
        server_path: server.join("/"),
        fields: row.fields.clone(),
    })
}

/// Splits a file name around the part that differs from member to member: the environment of an
/// environment file, else what stands before the first dot.
fn varying(name: &str) -> Option<(String, String, String)> {
    let stem = name.strip_suffix(ENCRYPTED_SUFFIX).unwrap_or(name);
    let suffix = &name[stem.len()..];
    let (before, value, after) = if let Some(value) = stem.strip_prefix(".env.") {
        (".env.", value, "")
    } else if let Some(value) = stem.strip_suffix(".env") {
        ("", value, ".env")
    } else {
        let (value, after) = stem.split_at(stem.find('.')?);
        ("", value, after)
    };
    is_value(value).then(|| {
        (
            before.to_owned(),
            value.to_owned(),
            format!("{after}{suffix}"),
        )
    })
}

fn capture_name(before: &str, after: &str) -> &'static str {
    if before.contains("env") || after.contains(".env") {
        "env"
    } else {
        "name"
    }
}

/// Returns whether a capture can stand for a text.
fn is_value(text: &str) -> bool {
    PathPattern::parse("{x}").is_ok_and(|pattern| pattern.readings(text).len() == 1)
}

/// Returns the rows that a pattern stands for.
fn members(pattern: &Row, rows: &[Row]) -> Vec<usize> {
    let (Ok(repository), Ok(server)) = (
        PathPattern::parse(&pattern.repository_path),
        PathPattern::parse(&pattern.server_path),
    ) else {
        return Vec::new();
    };
    let is_member = |row: &Row| {
        let readings = repository.readings(&row.repository_path);
        readings.len() == 1
            && server.fill(&readings[0]) == row.server_path
            && row.fields == pattern.fields
    };
    (0..rows.len())
        .filter(|&index| is_member(&rows[index]))
        .collect()
}

/// Returns whether the files of the repository that match are the members' files, each of them.
fn is_identical(pattern: &Row, members: &[usize], rows: &[Row], files: &[String]) -> bool {
    let Ok(repository) = PathPattern::parse(&pattern.repository_path) else {
        return false;
    };
    let mut matching: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|file| !repository.readings(file).is_empty())
        .collect();
    matching.sort_unstable();
    matching.dedup();
    let mut wanted: Vec<&str> = members
        .iter()
        .map(|&index| rows[index].repository_path.as_str())
        .collect();
    wanted.sort_unstable();
    // A row of its own beside a pattern that matches it would be an error.
    let others = rows.iter().enumerate();
    let mut others = others.filter(|(index, _)| !members.contains(index));
    varies(&repository, &wanted)
        && matching == wanted
        && others.all(|(_, row)| repository.readings(&row.repository_path).is_empty())
}

/// Returns whether every capture stands for different things: one that is always the same is part
/// of the name.
fn varies(pattern: &PathPattern, members: &[&str]) -> bool {
    let readings = members.iter().map(|member| pattern.readings(member));
    let readings: Vec<_> = readings.flatten().collect();
    pattern.names().iter().all(|name| {
        let mut values: Vec<_> = readings.iter().map(|reading| reading.get(*name)).collect();
        values.sort_unstable();
        values.dedup();
        values.len() > 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(repository_path: &str, server_path: &str) -> Row {
        Row {
            repository_path: repository_path.to_owned(),
            server_path: server_path.to_owned(),
            fields: Vec::new(),
        }
    }

    fn files(rows: &[Row]) -> Vec<String> {
        let files = rows.iter();
        files.map(|row| row.repository_path.clone()).collect()
    }

    #[test]
    fn a_family_becomes_a_pattern() {
        let rows = [
            row("envs/a/.env.dev.enc", "a/envs/.env.dev"),
            row("envs/a/.env.prod.enc", "a/envs/.env.prod"),
            row("envs/b/.env.dev.enc", "b/envs/.env.dev"),
            row("shared/.env.enc", "shared/.env"),
        ];
        let folded = fold(&rows, &files(&rows));
        let expected = [
            row("envs/{app}/.env.{env}.enc", "{app}/envs/.env.{env}"),
            row("shared/.env.enc", "shared/.env"),
        ];
        assert_eq!(folded, expected);
    }

    #[test]
    fn what_is_always_the_same_is_no_capture() {
        let rows = [
            row("envs/shop/.env.dev.enc", "shop/envs/.env.dev"),
            row("envs/shop/.env.prod.enc", "shop/envs/.env.prod"),
            row("envs/blog/.env.dev.enc", "blog/envs/.env.dev"),
            row("envs/blog/.env.prod.enc", "blog/envs/.env.prod"),
            row("certs/a.key.enc", "certs/a.key"),
            row("certs/b.key.enc", "certs/b.key"),
        ];
        let folded = fold(&rows, &files(&rows));
        let expected = [
            row("envs/{app}/.env.{env}.enc", "{app}/envs/.env.{env}"),
            row("certs/{name}.key.enc", "certs/{name}.key"),
        ];
        assert_eq!(folded, expected);
    }

    #[test]
    fn what_is_not_identical_stays() {
        let rows = [
            row("envs/a/.env.dev.enc", "a/.env.dev"),
            row("envs/b/.env.dev.enc", "elsewhere/b/.env.dev"),
        ];
        assert_eq!(fold(&rows, &files(&rows)), rows);
        let rows = [row("a/.env.enc", "a/.env"), row("b/.env.enc", "b/.env")];
        let mut more = files(&rows);
        more.push("c/.env.enc".to_owned());
        assert_eq!(fold(&rows, &more), rows, "one file more");
        assert_eq!(fold(&rows, &files(&rows)).len(), 1);
        assert_eq!(fold(&rows, &files(&rows[..1])), rows, "one file less");
        let mut with_mode = rows.clone();
        with_mode[1].fields.push(("mode", "\"0644\"".to_owned()));
        assert_eq!(fold(&with_mode, &files(&rows)), with_mode);
    }
}
