//! `secret-files.toml`: which encrypted file of the repository is which file on the server.
//!
//! What it declares and which entries a word on the command line names. [`super::reader`] reads it.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobBuilder;

use crate::sops::Layout;
use crate::sops::master_key::KeyId;
use crate::sops::store::Format;

use super::closest;
use super::error::{ManifestError, ManifestProblem, SelectionError};
use super::family::{Captures, PathPattern};
use super::keys::Reading;
use super::placement::{check_repository_path, check_server_path};
use super::reader::read;

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "secret-files.toml";
/// The suffix of encrypted files.
pub const ENCRYPTED_SUFFIX: &str = ".enc";

/// What kind of row an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[plain]`: tracked, not secret, the same bytes on both sides.
    Plain,
    /// `[files]`: encrypted in the repository.
    Secret,
}

/// How a target is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Into the file that is there: for files mounted into containers one by one. Not atomic.
    InPlace,
    /// A new file takes the place of the old one in one step.
    Rename,
}

/// One row of the manifest, defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The file in the repository, relative to the manifest; its name in messages.
    pub repository_path: String,
    /// The file on the server, relative to the root.
    pub server_path: String,
    /// Which table it stands in.
    pub kind: Kind,
    /// The stored form, where it is written out.
    pub format: Option<Format>,
    /// Owner, a name or a number.
    pub owner: Option<String>,
    /// Group, a name or a number.
    pub group: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// How the target is written.
    pub write: WriteMode,
    /// A missing source is fine.
    pub optional: bool,
    /// How much of its spelling has to come back.
    pub layout: Layout,
    /// The hosts it is for; none means every host.
    pub hosts: Vec<String>,
    /// The keys that it must have.
    pub required: Vec<String>,
    /// The pattern it is a member of.
    pub family: Option<String>,
    /// Line in the manifest, from 1.
    pub line: usize,
}

fn is_same_host(one: &str, other: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
    let both_full = one.contains('.') && other.contains('.');
    if both_full {
        one.eq_ignore_ascii_case(other)
    } else {
        short(one) == short(other)
    }
}

/// A row that stands for many files: its entry's texts may hold captures.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Which files of the repository are its members.
    pub pattern: PathPattern,
    /// Where they are on the server.
    pub server: PathPattern,
    /// The row, captures not yet filled in.
    pub row: Entry,
}

impl Family {
    /// Returns the member for these captures.
    pub fn member(&self, captures: &Captures) -> Entry {
        let fill = |text: &String| {
            PathPattern::parse(text).map_or_else(|_| text.clone(), |text| text.fill(captures))
        };
        Entry {
            repository_path: self.pattern.fill(captures),
            server_path: self.server.fill(captures),
            hosts: self.row.hosts.iter().map(fill).collect(),
            family: Some(self.pattern.as_str().to_owned()),
            ..self.row.clone()
        }
    }
}

impl Entry {
    /// Returns an entry of which only the two paths are known.
    pub fn named(repository_path: &str, server_path: &str) -> Self {
        Self {
            repository_path: repository_path.to_owned(),
            server_path: server_path.to_owned(),
            kind: Kind::Secret,
            format: None,
            layout: Layout::Exact,
            owner: None,
            group: None,
            mode: None,
            write: WriteMode::Rename,
            optional: false,
            hosts: Vec::new(),
            required: Vec::new(),
            family: None,
            line: 0,
        }
    }

    /// Returns whether the entry is for a host. Case does not count; where one of the two names has no
    /// domain, only the names before it are compared.
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|name| is_same_host(name, host))
    }

    /// Returns whether there may be a host that has both entries.
    fn shares_host_with(&self, other: &Self) -> bool {
        let mut others = other.hosts.iter();
        let mut any = |one: &String| others.any(|two| is_same_host(one, two));
        self.hosts.is_empty() || other.hosts.is_empty() || self.hosts.iter().any(&mut any)
    }

    /// Returns the path in the repository without the `.enc` suffix.
    pub fn path_without_suffix(&self) -> &str {
        self.repository_path
            .strip_suffix(ENCRYPTED_SUFFIX)
            .unwrap_or(&self.repository_path)
    }

    /// Returns whether the plaintext is an environment file by its name on the server.
    pub fn is_env(&self) -> bool {
        let name = self.server_path.rsplit('/').next().unwrap_or_default();
        name.starts_with(".env") || name.ends_with(".env")
    }

    /// Returns the form a new encrypted file is stored in: the one the row names, else that of the
    /// name on the server.
    pub fn format_for_new(&self) -> Format {
        self.format.unwrap_or_else(|| self.format_by_name())
    }

    /// Returns the form that the name on the server speaks for.
    pub fn format_by_name(&self) -> Format {
        let name = self.server_path.rsplit('/').next().unwrap_or_default();
        if self.is_env() {
            return Format::Dotenv;
        }
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("yaml" | "yml") => Format::Yaml,
            Some("json") => Format::Json,
            Some("ini") => Format::Ini,
            _ => Format::Binary,
        }
    }

    /// Returns how the keys of the plaintext are read: by its own format, whatever it is stored as.
    pub fn reading(&self) -> Reading {
        if self.kind == Kind::Plain {
            return Reading::Bytes;
        }
        match self.format_by_name() {
            Format::Binary => Reading::of(self.format.unwrap_or(Format::Binary)),
            format => Reading::of(format),
        }
    }
}

/// A named recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRecipient {
    /// The name.
    pub name: String,
    /// The recipient as text.
    pub key: String,
    /// Kept for emergencies: every rule must name it.
    pub break_glass: bool,
}

/// What rows that do not say otherwise start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Owner, a name or a number.
    pub owner: Option<String>,
    /// Group, a name or a number.
    pub group: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// The whole manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The folder on the server that server paths are relative to, as written.
    pub root: Option<String>,
    /// An identity file that is tried besides the usual sources, as written.
    pub identity: Option<String>,
    /// Owner, group and mode of rows that do not say otherwise.
    pub defaults: Defaults,
    /// All entries, in file order; the members of patterns once [`Manifest::expand`] was told of
    /// the files.
    pub entries: Vec<Entry>,
    /// The rows that are patterns.
    pub families: Vec<Family>,
    /// Names for recipients.
    pub recipients: Vec<NamedRecipient>,
    /// Paths and globs that `check` excuses.
    pub check_allow: Vec<String>,
}

impl Manifest {
    /// Reads a manifest. `path` is what error messages call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &str) -> Result<Self, ManifestError> {
        read(text, path)
    }

    /// Adds the members of the patterns: `found` is every file of the repository that may be one,
    /// relative to the manifest, for each of [`Manifest::families`]. `path` is what error messages
    /// call the manifest.
    ///
    /// # Errors
    /// A file that can be read in two ways or belongs to two rows, two entries for one target.
    pub fn expand(&mut self, found: &[Vec<String>], path: &str) -> Result<(), ManifestError> {
        let mut problems = Vec::new();
        for (family, files) in self.families.iter().zip(found) {
            let mut members: Vec<Entry> = Vec::new();
            let files: BTreeSet<&String> = files.iter().collect();
            for file in files {
                match member_of(family, file) {
                    Ok(Some(member)) => members.push(member),
                    Ok(None) => {}
                    Err(message) => problems.push(ManifestProblem {
                        line: family.row.line,
                        column: 1,
                        message,
                    }),
                }
            }
            members.sort_by(|one, other| one.repository_path.cmp(&other.repository_path));
            members.dedup_by(|one, other| one.repository_path == other.repository_path);
            self.entries.extend(members);
        }
        self.entries
            .sort_by_key(|entry| (entry.kind == Kind::Plain, entry.line));
        let conflicts = conflicts(&self.entries).into_iter();
        problems.extend(conflicts.map(|(index, message)| ManifestProblem {
            line: self.entries[index].line,
            column: 1,
            message,
        }));
        if problems.is_empty() {
            Ok(())
        } else {
            problems.sort_by_key(|problem| problem.line);
            Err(ManifestError {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// Returns the hosts that rows name, in order, each once.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = Vec::new();
        for host in self.entries.iter().flat_map(|entry| &entry.hosts) {
            if !hosts.contains(&host.as_str()) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Returns the name of a recipient, or the recipient itself where it has none.
    pub fn name_recipient(&self, key: &str) -> String {
        // The comment at the end of an SSH key is no part of it.
        let words = |key: &str| -> Vec<String> {
            let words = key.split_ascii_whitespace().take(2);
            words.map(str::to_owned).collect()
        };
        let named = self
            .recipients
            .iter()
            .find(|recipient| words(&recipient.key) == words(key));
        named.map_or_else(
            || {
                // A post-quantum key is two thousand characters long.
                if key.len() > 120 {
                    shortened(key)
                } else {
                    key.to_owned()
                }
            },
            |recipient| format!("{} ({})", recipient.name, shortened(key)),
        )
    }

    /// Returns the name of a recipient alone, or the recipient shortened where it has none.
    pub fn short_name(&self, key: &str) -> String {
        let named = self.name_recipient(key);
        match named.split_once(" (") {
            Some((name, _)) => name.to_owned(),
            None => shortened(&named),
        }
    }

    /// Returns a key as it is shown: a recipient by name, any other with its kind.
    pub fn name_key(&self, key: &KeyId) -> String {
        match key {
            KeyId::Age { recipient } => self.name_recipient(recipient),
            other => format!("{other} ({})", other.kind()),
        }
    }

    /// Returns a text with the recipients that have a name followed by it.
    pub fn name_recipients_in(&self, text: &str) -> String {
        let named = self.recipients.iter().fold(text.to_owned(), |text, named| {
            text.replace(&named.key, &self.name_recipient(&named.key))
        });
        let words = named.split(' ').map(|word| {
            if word.len() > 120 && word.starts_with("age1") {
                shortened(word)
            } else {
                word.to_owned()
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Returns the entry that a file of the repository is of a pattern; `None` where it is none.
///
/// # Errors
/// Says in words that it can be read in two ways, or that its paths are not allowed.
pub fn member_of(family: &Family, file: &str) -> Result<Option<Entry>, String> {
    let readings = family.pattern.readings(file);
    let member = match &readings[..] {
        [] => return Ok(None),
        [captures] => family.member(captures),
        [one, other, ..] => {
            let shown = |captures: &Captures| {
                let pairs: Vec<_> = captures
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                pairs.join(", ")
            };
            return Err(format!(
                "`{file}` can be read in two ways as `{}`: {}, or {}",
                family.pattern.as_str(),
                shown(one),
                shown(other)
            ));
        }
    };
    check_repository_path(&member.repository_path)
        .map_err(|reason| format!("`{}`: {reason}", member.repository_path))?;
    check_server_path(&member.server_path)
        .map_err(|reason| format!("`{}`: {reason}", member.server_path))?;
    Ok(Some(member))
}

/// Finds entries that stand in each other's way: one file of the repository in two rows, one target
/// for two entries of a host, a file below a file. Returns the index of the later one, and words.
pub fn conflicts(entries: &[Entry]) -> Vec<(usize, String)> {
    let row = |entry: &Entry| match &entry.family {
        Some(pattern) => format!("`{pattern}` (line {})", entry.line),
        None => format!("line {}", entry.line),
    };
    let mut found = Vec::new();
    let mut by_target: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    let mut by_source: BTreeMap<&str, &Entry> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let others = by_target.entry(&entry.server_path).or_default();
        if let Some(first) = others.iter().find(|first| first.shares_host_with(entry)) {
            let message = format!(
                "`{}` and `{}` ({}) have the same file on the server, `{}`",
                entry.repository_path,
                first.repository_path,
                row(first),
                entry.server_path
            );
            found.push((index, message));
        }
        others.push(entry);
        if let Some(first) = by_source.insert(&entry.repository_path, entry) {
            let here = match &entry.family {
                Some(pattern) => format!("in `{pattern}`"),
                None => "here".to_owned(),
            };
            let there = match &first.family {
                Some(_) => format!("in {}", row(first)),
                None => format!("on {}", row(first)),
            };
            found.push((
                index,
                format!("`{}` stands {here} and {there}", entry.repository_path),
            ));
        }
    }
    // A file cannot be the folder of another.
    for (index, entry) in entries.iter().enumerate() {
        let mut folder = entry.server_path.as_str();
        while let Some((parent, _)) = folder.rsplit_once('/') {
            folder = parent;
            let files = by_target.get(folder).into_iter().flatten();
            if let Some(first) = files.clone().find(|first| first.shares_host_with(entry)) {
                let message = format!(
                    "`{}` lies below `{folder}`, which is a file ({})",
                    entry.server_path,
                    row(first)
                );
                found.push((index, message));
            }
        }
    }
    found
}

/// Returns the indices of the entries that `words` name, in manifest order; all of them where
/// there are no words. A word is a repository path, one without `.enc`, a server path, a glob
/// over these, or a folder with a final `/`. `located` turns a word into further spellings: the
/// paths relative to repository and root that it names from the working directory.
///
/// # Errors
/// The first word that names nothing.
pub fn select(
    entries: &[Entry],
    words: &[String],
    located: impl Fn(&str) -> Located,
) -> Result<Vec<usize>, SelectionError> {
    if words.is_empty() {
        return Ok((0..entries.len()).collect());
    }
    let mut selected = vec![false; entries.len()];
    for word in words {
        let mut found = matching(entries, |name| name == word);
        if found.is_empty() && word.contains(['*', '?', '[', '{']) {
            let glob = GlobBuilder::new(word).literal_separator(true).build();
            let pattern = word.clone();
            let glob = glob
                .map_err(|_| SelectionError::BadGlob { pattern })?
                .compile_matcher();
            found = matching(entries, |name| glob.is_match(name));
        }
        if found.is_empty() && word.ends_with('/') {
            found = matching(entries, |name| name.starts_with(word.as_str()));
        }
        if found.is_empty() {
            found = at(entries, &located(word));
        }
        if found.is_empty() {
            return Err(unknown(entries, word));
        }
        found.into_iter().for_each(|index| selected[index] = true);
    }
    Ok((0..selected.len())
        .filter(|&index| selected[index])
        .collect())
}

fn matching(entries: &[Entry], matches: impl Fn(&str) -> bool) -> Vec<usize> {
    let any = |entry: &Entry| {
        matches(&entry.repository_path)
            || matches(entry.path_without_suffix())
            || matches(&entry.server_path)
    };
    (0..entries.len())
        .filter(|&index| any(&entries[index]))
        .collect()
}

fn at(entries: &[Entry], located: &Located) -> Vec<usize> {
    let same = |entry: &Entry| {
        located.in_repository.as_deref().is_some_and(|path| {
            path == entry.repository_path || path == entry.path_without_suffix()
        }) || located.in_root.as_deref() == Some(&entry.server_path)
    };
    (0..entries.len())
        .filter(|&index| same(&entries[index]))
        .collect()
}

fn unknown(entries: &[Entry], word: &str) -> SelectionError {
    let names = entries.iter().flat_map(|entry| {
        [
            entry.repository_path.as_str(),
            entry.path_without_suffix(),
            entry.server_path.as_str(),
        ]
    });
    let closest = closest(word, names).map(str::to_owned);
    SelectionError::Unknown {
        name: word.to_owned(),
        closest,
    }
}

/// What a word on the command line names from the working directory.
#[derive(Clone, Debug, Default)]
pub struct Located {
    /// Path relative to the repository.
    pub in_repository: Option<String>,
    /// Path relative to the root.
    pub in_root: Option<String>,
}

/// Shortens a recipient for messages: `age1qcqt2…sra4rm`.
fn shortened(key: &str) -> String {
    if key.is_ascii() && key.len() > 24 {
        format!("{}…{}", &key[..12], &key[key.len() - 6..])
    } else {
        key.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text, "m.toml")
    }

    const EXAMPLE: &str = r#"version = 1
requires = "0.1"
[defaults]
root = "/opt/docker"
owner = "root"
group = 1000
mode = "0640"
[files]
"shared/.env.enc" = "shared/.env"
"nginx/.htpasswd.enc" = { path = "nginx/.htpasswd", mode = "0644", write = "in-place" }
[files."db/init.sql.enc"]
path = "shared/init/init.sql"
optional = true
[plain]
"nginx/a.conf" = "nginx/a.conf"
[recipients]
server = "age1abc"
break_glass = { key = "age1def", break_glass = true }
"#;

    #[test]
    fn a_manifest_is_read_in_order_with_defaults() {
        let manifest = parse(EXAMPLE).unwrap();
        let names: Vec<_> = manifest
            .entries
            .iter()
            .map(|entry| entry.repository_path.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "shared/.env.enc",
                "nginx/.htpasswd.enc",
                "db/init.sql.enc",
                "nginx/a.conf"
            ]
        );
        let [env, htpasswd, sql, plain] = &manifest.entries[..] else {
            panic!()
        };
        assert_eq!(
            (env.mode, env.group.as_deref(), env.line),
            (Some(0o640), Some("1000"), 9)
        );
        assert_eq!(
            (htpasswd.mode, htpasswd.write),
            (Some(0o644), WriteMode::InPlace)
        );
        assert!(sql.optional);
        assert_eq!((plain.kind, plain.mode), (Kind::Plain, None));
        assert!(manifest.recipients[1].break_glass);
        assert_eq!(env.format_for_new(), Format::Dotenv);
        assert_eq!(sql.format_for_new(), Format::Binary);
    }

    #[test]
    fn problems_have_line_column_and_the_closest_key() {
        let text = "version = 2\n[defaults]\nonwer = \"x\"\nmode = 0640\n";
        assert!(parse(text).is_err());
        let text = "version = 2\n[defaults]\nonwer = \"x\"\nmode = \"0666\"\n[files]\n\"a.enc\" = \"/etc/a\"\n\"b\" = \"b\"\n\"c.enc\" = { path = \"c\", fromat = \"binary\" }\n\"d.enc\" = \"e\"\n\"e.enc\" = \"e\"\n\"f.enc\" = \"e/f\"\n";
        let error = parse(text).unwrap_err().to_string();
        for expected in [
            "m.toml:1:11: `version` is not 1",
            "m.toml:3:1: unknown key `onwer` in [defaults]; did you mean `owner`?",
            "m.toml:4:8: `mode` lets everybody write the file",
            "m.toml:6:11: `/etc/a`: the path is absolute",
            "m.toml:7:1: `b`: the name of an encrypted file ends in `.enc`",
            "unknown key `fromat` in a row of [files]; did you mean `format`?",
            "m.toml:10:1: `e.enc` and `d.enc` (line 9) have the same file on the server, `e`",
            "m.toml:11:1: `e/f` lies below `e`",
        ] {
            assert!(error.contains(expected), "{expected}\n{error}");
        }
    }

    #[test]
    fn entries_are_selected_by_any_spelling() {
        let manifest = parse(EXAMPLE).unwrap();
        let selected = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            select(&manifest.entries, &words, |_| Located::default())
        };
        assert_eq!(selected(&[]), Ok(vec![0, 1, 2, 3]));
        assert_eq!(selected(&["shared/.env"]), Ok(vec![0]));
        assert_eq!(
            selected(&["db/init.sql", "shared/.env.enc"]),
            Ok(vec![0, 2])
        );
        assert_eq!(selected(&["shared/init/init.sql"]), Ok(vec![2]));
        assert_eq!(selected(&["nginx/*"]), Ok(vec![1, 3]));
        assert_eq!(
            selected(&["*"]),
            Err(SelectionError::Unknown {
                name: "*".to_owned(),
                closest: None
            })
        );
        assert_eq!(selected(&["**"]), Ok(vec![0, 1, 2, 3]));
        let error = selected(&["shared/.evn"]).unwrap_err();
        assert_eq!(
            error,
            SelectionError::Unknown {
                name: "shared/.evn".to_owned(),
                closest: Some("shared/.env".to_owned())
            }
        );
    }
}
