//! Which side changed which key since when: a line, and its JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::style::harmless;

/// A key that differs, and which side changed it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KeyRow {
    /// `added`, `changed` or `removed`, seen from the repository towards the server.
    pub change: &'static str,
    /// Its sign.
    #[serde(skip)]
    pub sign: char,
    /// The key, or words in round brackets for what is no key.
    pub key: String,
    /// Which side changed it: `server`, `repository`, `both`, `unknown`.
    pub side: &'static str,
    /// Since when the repository has its value, where the repository changed it or may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositorySince>,
    /// Since when the server has its value, where the server changed it or may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSince>,
}

/// Since when the repository has a value.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RepositorySince {
    /// Whether it is committed.
    pub committed: bool,
    /// The commit, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// When it was committed, RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
}

/// Since when the server has a value: since its file was changed, at the latest.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServerSince {
    /// When the file was changed, RFC 3339, UTC.
    pub modified: String,
}

/// Returns a time as people read it: `2026-11-20 10:04Z`.
pub fn readable(time: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute}Z"),
        _ => time.to_owned(),
    }
}

impl KeyRow {
    /// Says which side changed it since when: `server, 2026-11-20 10:04Z`.
    pub fn side_in_words(&self) -> String {
        let repository = self.repository.as_ref().map(RepositorySince::in_words);
        let server = self.server.as_ref();
        let server = server.map(|server| readable(&server.modified));
        let known: Vec<String> = match self.side {
            "server" => return joined("server", server),
            "repository" => return joined("repository", repository),
            _ => [("repository", repository), ("server", server)]
                .into_iter()
                .filter_map(|(side, since)| Some(format!("{side} {}", since?)))
                .collect(),
        };
        let side = match self.side {
            "both" => "both sides",
            _ => "unknown which side",
        };
        if known.is_empty() {
            side.to_owned()
        } else {
            format!("{side}: {}", known.join("; "))
        }
    }
}

fn joined(side: &str, since: Option<String>) -> String {
    since.map_or_else(|| side.to_owned(), |since| format!("{side}, {since}"))
}

impl RepositorySince {
    fn in_words(&self) -> String {
        match (&self.commit, &self.date, &self.author) {
            (Some(commit), Some(date), Some(author)) => {
                format!("commit {commit}, {}, {}", readable(date), harmless(author))
            }
            _ => "not committed".to_owned(),
        }
    }
}

/// Names the keys with what happened to them, grouped by who changed them since when; at most eight.
pub fn summary(keys: &[KeyRow]) -> String {
    const NAMED: usize = 8;
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for one in keys.iter().take(NAMED) {
        let side = one.side_in_words();
        let named = format!("{} {}", one.sign, one.key);
        match groups.iter_mut().find(|(known, _)| *known == side) {
            Some((_, names)) => names.push(named),
            None => groups.push((side, vec![named])),
        }
    }
    let mut words: Vec<String> = groups
        .into_iter()
        .map(|(side, names)| format!("{} ({side})", names.join(", ")))
        .collect();
    if keys.len() > NAMED {
        words.push(format!("and {} more", keys.len() - NAMED));
    }
    words.join("; ")
}
