//! What is lost with a key, and where its values may come from.

use schemars::JsonSchema;
use serde::Serialize;

use super::style::harmless;
use super::{SCHEMA_VERSION, Ui};

/// An entry that was encrypted for the lost key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LostEntry {
    /// Its name.
    pub entry: String,
    /// Its file on the server.
    pub target: String,
    /// The keys in it, or words in round brackets for what is no key.
    pub keys: Vec<String>,
    /// Whether the server has the file: `encrypt` captures it.
    pub on_server: bool,
    /// Whether another identity at hand opens it.
    pub opens_here: bool,
    /// Others who can open it.
    pub others: Vec<String>,
    /// The stock command that brings it in line with its rule, for one who can open it.
    #[serde(skip)]
    pub updatekeys: String,
}

/// What `recover --new-key` did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LostView {
    /// The lost recipient, by name.
    pub lost: String,
    /// The new recipient; with a dry run empty.
    pub recipient: String,
    /// The file of the new identity.
    pub identity: String,
    /// Where the identity is now that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_identity: Option<String>,
    /// Files of the repository in which the recipient was replaced.
    pub changed: Vec<String>,
    /// The entries.
    pub entries: Vec<LostEntry>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What to type for capturing.
    #[serde(skip)]
    pub encrypt: String,
    /// What to type to see what is left.
    #[serde(skip)]
    pub status: String,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct LostJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a LostView,
}

impl LostEntry {
    /// Says where its values may come from.
    fn way_on(&self, encrypt: &str) -> String {
        if self.on_server {
            format!(
                "the server still has {}: {encrypt} captures it",
                self.target
            )
        } else if self.opens_here {
            format!("another identity here opens it: {}", self.updatekeys)
        } else if self.others.is_empty() {
            format!(
                "lost: write new values into {}, and change them where they are used",
                self.target
            )
        } else {
            format!(
                "can still be opened by {}: ask them to run {}",
                self.others.join(", "),
                self.updatekeys
            )
        }
    }
}

impl Ui {
    /// Shows what was done for a lost key, and what is left to do.
    pub fn show_lost(&mut self, view: &LostView) {
        if self.json {
            return self.json(&LostJson {
                schema_version: SCHEMA_VERSION,
                command: "recover",
                view,
            });
        }
        let mut out = String::new();
        for one in &view.entries {
            let keys: Vec<String> = one.keys.iter().map(|key| harmless(key)).collect();
            out.push_str(&format!("{}: {}\n", harmless(&one.entry), keys.join(", ")));
            out.push_str(&format!("  {}\n", harmless(&one.way_on(&view.encrypt))));
        }
        self.data(&out);
        let would = if view.dry_run { "would be " } else { "" };
        let identity = harmless(&view.identity);
        self.status(&if view.dry_run {
            format!("a new key would be written to {identity}")
        } else {
            format!("new key: {} (written to {identity})", view.recipient)
        });
        if let Some(old) = &view.old_identity {
            self.status(&format!(
                "the file that was there is kept as {}",
                harmless(old)
            ));
        }
        self.status(&format!(
            "{} {would}replaced in {}",
            harmless(&view.lost),
            view.changed.join(", ")
        ));
        let count = view.entries.len();
        let lost = view.entries.iter();
        let lost = lost
            .filter(|one| !one.on_server && !one.opens_here && one.others.is_empty())
            .count();
        self.status(&format!(
            "{count} {} under the old key, {lost} of them lost; put the new key into the password manager now, then {}; {} shows what is left, and commit",
            if count == 1 { "entry is" } else { "entries are" },
            view.encrypt,
            view.status
        ));
    }
}
