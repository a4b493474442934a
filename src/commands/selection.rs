//! Which entries the words of a command line mean, on this host.

use std::path::Path;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::project::error::SelectionError;
use crate::project::manifest::{self, Entry, Kind, Located};

use super::workspace::Workspace;

impl Workspace {
    /// Returns the entries of this host that `words` name, in manifest order.
    ///
    /// # Errors
    /// A word that names none, with the closest name; entries for other hosts only; hosts of which
    /// none is this one.
    pub fn select(&self, words: &[String]) -> Result<Vec<&Entry>, Error> {
        self.check_host()?;
        let selected = self.select_everywhere(words)?;
        let here: Vec<&Entry> = selected
            .iter()
            .copied()
            .filter(|entry| entry.is_for(&self.host))
            .collect();
        if let (false, true, Some(entry)) = (words.is_empty(), here.is_empty(), selected.first()) {
            let error = SelectionError::OtherHosts {
                name: entry.repository_path.clone(),
                hosts: entry.hosts.join(", "),
                host: self.host.clone(),
            };
            let help = format!("`--host {}` works as that host", entry.hosts[0]);
            return Err(Problem::new(error).with_help(help).into());
        }
        Ok(here)
    }

    /// Returns the entries of all hosts that `words` name, in manifest order.
    ///
    /// # Errors
    /// A word that names none, with the closest name.
    pub fn select_everywhere(&self, words: &[String]) -> Result<Vec<&Entry>, Error> {
        let entries = &self.manifest.entries;
        let selected = manifest::select(entries, words, |word| self.locate(word))
            .map_err(|error| self.not_selected(error))?;
        Ok(selected.into_iter().map(|index| &entries[index]).collect())
    }

    /// Returns the one entry that a name means, on whatever host; globs are not taken.
    ///
    /// # Errors
    /// A word that names none, or several.
    pub fn select_one(&self, word: &str) -> Result<&Entry, Error> {
        let selected = self.select_everywhere(&[word.to_owned()])?;
        match selected[..] {
            [entry] if !word.contains(['*', '?']) && !word.ends_with('/') => Ok(entry),
            _ => {
                let names: Vec<_> = selected
                    .iter()
                    .map(|entry| entry.repository_path.as_str())
                    .collect();
                let message = format!("`{word}` stands for {}", names.join(", "));
                Err(Problem::new(ErrorKind::Option(message))
                    .with_help("name one entry in full")
                    .into())
            }
        }
    }

    fn not_selected(&self, error: SelectionError) -> Problem {
        // Somebody may have typed `KEY=value` where an entry belongs.
        let error = match error {
            SelectionError::Unknown { name, closest } => SelectionError::Unknown {
                name: match name.split_once('=') {
                    Some((key, _)) => format!("{key}=…"),
                    None => name,
                },
                closest,
            },
            other => other,
        };
        let list = self.hints.ours_for_all("list");
        let help = match &error {
            SelectionError::Unknown {
                closest: Some(name),
                ..
            } => format!("did you mean `{name}`? {list} shows all entries"),
            _ => format!("{list} shows all entries"),
        };
        Problem::new(error).with_help(help)
    }

    /// Makes sure that this host is one of those the rows name, where they name any.
    fn check_host(&self) -> Result<(), Error> {
        let hosts = self.manifest.hosts();
        let named = self.manifest.entries.iter();
        let mut named = named.filter(|entry| !entry.hosts.is_empty());
        if hosts.is_empty() || named.any(|entry| entry.is_for(&self.host)) {
            return Ok(());
        }
        let error = SelectionError::UnknownHost {
            host: self.host.clone(),
            hosts: hosts.join(", "),
        };
        let help = format!("name the host to work as: `--host {}`", hosts[0]);
        Err(Problem::new(error).with_help(help).into())
    }

    /// Returns the selected entries of `[files]`; rows of `[plain]` that a glob names along are left
    /// out.
    ///
    /// # Errors
    /// As [`Workspace::select`]; a word that names rows of `[plain]` only.
    pub fn select_secret(&self, words: &[String]) -> Result<Vec<&Entry>, Error> {
        for word in words {
            let named = self.select(std::slice::from_ref(word))?;
            self.check_secret(&named)?;
        }
        let selected = self.select(words)?.into_iter();
        Ok(selected
            .filter(|entry| entry.kind == Kind::Secret)
            .collect())
    }

    fn check_secret(&self, named: &[&Entry]) -> Result<(), Error> {
        let is_plain = named.iter().all(|entry| entry.kind == Kind::Plain);
        let Some(entry) = named.first().filter(|_| is_plain) else {
            return Ok(());
        };
        let name = &entry.repository_path;
        let help = format!("{} compares it", self.hints.ours("diff", name));
        Err(Problem::of(name, ErrorKind::PlainRow)
            .with_help(help)
            .into())
    }

    /// Returns the entries of `[files]` to capture: the selected ones, and of the files that match a
    /// pattern only on the server those that `words` name, or all of them with `new`.
    ///
    /// # Errors
    /// As [`Workspace::select_secret`].
    pub fn select_to_capture(&self, words: &[String], new: bool) -> Result<Vec<&Entry>, Error> {
        let found = self.found_on_server.iter();
        let found: Vec<&Entry> = found
            .filter(|entry| entry.kind == Kind::Secret && entry.is_for(&self.host))
            .collect();
        if words.is_empty() {
            let mut entries = self.select_secret(words)?;
            entries.extend(found.iter().filter(|_| new));
            return Ok(entries);
        }
        let (mut known, mut named_new) = (Vec::new(), Vec::new());
        for word in words {
            let word = std::slice::from_ref(word);
            let matching = manifest::select(&self.found_on_server, word, |word| self.locate(word));
            let matching: Vec<&Entry> = matching
                .unwrap_or_default()
                .into_iter()
                .map(|index| &self.found_on_server[index])
                .filter(|entry| found.contains(entry))
                .collect();
            // A glob means what is in the repository; a name that is only on the server means that.
            let is_glob = word[0].contains(['*', '?', '[']) && !new;
            match self.select_secret(word) {
                Ok(entries) => {
                    known.extend(entries);
                    named_new.extend(matching.into_iter().filter(|_| !is_glob));
                }
                Err(error) if matching.is_empty() => return Err(error),
                Err(_) => named_new.extend(matching),
            }
        }
        let all = self.manifest.entries.iter().chain(&self.found_on_server);
        Ok(all
            .filter(|entry| {
                let is = |other: &&Entry| other.repository_path == entry.repository_path;
                known.iter().any(is) || named_new.iter().any(is)
            })
            .collect())
    }

    /// Returns a path on the server, as it was typed, relative to the root: below the root, else
    /// from the working directory where it exists there, else counted from the root.
    pub fn path_in_root(&self, typed: &str) -> Option<String> {
        let located = self.locate(typed).in_root;
        let is_there = fs::is_there(&self.cwd.join(typed));
        if typed.starts_with('/') || (is_there && located.is_some()) {
            return located;
        }
        let root = self.root.as_ref()?;
        let path = fs::normalize(&root.path().join(typed));
        let inside = path.strip_prefix(root.path()).ok()?;
        inside.to_str().map(str::to_owned)
    }

    /// Turns a path typed in the working directory into paths relative to repository and root.
    fn locate(&self, word: &str) -> Located {
        let path = fs::normalize(&self.cwd.join(word));
        // The folder may be reached through a link; the file itself need not exist.
        let resolved = match (path.parent().and_then(fs::canonical), path.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => path.clone(),
        };
        let below = |base: &Path| {
            [&path, &resolved]
                .iter()
                .find_map(|path| path.strip_prefix(base).ok())
                .and_then(|path| path.to_str())
                .map(str::to_owned)
        };
        let in_root = below(&self.root_path).or_else(|| below(self.root.as_ref()?.path()));
        Located {
            in_repository: below(self.repository.path()),
            in_root,
        }
    }
}
