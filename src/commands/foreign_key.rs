//! Data keys that somebody else put into an encrypted file.
//!
//! Whoever may push can write a file anew, for the same readers, under a data key of their own. They learn
//! nothing by that; but what is encrypted under that key next they can read. A record knows the data key of
//! the last sync by a keyed digest, so the exchange is told, with who did it, until this user makes a new key
//! or agrees to the one that is there.

use std::path::Path;

use crate::os::history::Version;
use crate::project::drift::short;
use crate::project::manifest::Entry;
use crate::sops;
use crate::sops::data_key::DataKey;

use super::sides::in_words;
use super::workspace::Workspace;

/// A data key that is not the one of the last sync.
pub struct ForeignKey {
    /// The commit that brought it; `None` where it is not committed, or git does not tell.
    pub since: Option<Version>,
}

/// Returns whether the data key of an entry's file is another one than this user knows, and since when.
/// Nothing where nothing is known of the last sync.
pub fn find(
    workspace: &Workspace,
    entry: &Entry,
    target: &Path,
    key: &DataKey,
) -> Option<ForeignKey> {
    let memory = workspace.memory();
    let record = memory.record_of(target)?;
    let is_known = record.data_key.is_empty()
        || record.entry != entry.repository_path
        || record.data_key == memory.digester.as_ref()?.data_key(key);
    (!is_known).then(|| ForeignKey {
        since: since(workspace, entry, key),
    })
}

/// Returns the commit from which on the versions of a file are under a key.
fn since(workspace: &Workspace, entry: &Entry, key: &DataKey) -> Option<Version> {
    let checkout = workspace.checkout().ok()??;
    let file = workspace.repository_file(entry);
    let changes = checkout.file_history(&file, None).ok()?;
    let has_key = |blob: Option<String>| {
        let content = checkout.blob(&blob?).ok()?;
        let (_, sealed) = sops::parse_sealed(content).ok()?;
        let found = workspace.keyring.unwrap_quiet(&sealed.metadata)?;
        (found == *key).then_some(())
    };
    let under_it = changes
        .into_iter()
        .map_while(|change| has_key(change.after).map(|()| change.version));
    under_it.last()
}

impl ForeignKey {
    /// Says what happened, in a part of a sentence.
    pub fn in_words(&self) -> String {
        match &self.since {
            Some(version) => format!(
                "its data key was replaced in commit {} of {} by {}",
                short(&version.commit),
                in_words(version.seconds),
                version.author
            ),
            None => "its data key was replaced, in no commit of this branch".to_owned(),
        }
    }

    /// Warns, with what to do.
    pub fn warning(&self, workspace: &Workspace, entry: &Entry) -> String {
        let name = &entry.repository_path;
        format!(
            "{name}: {}; who did that can read what is encrypted under it from now on: {} makes a new one, {} agrees to it",
            self.in_words(),
            workspace.hints.ours("encrypt --new-data-key", name),
            workspace.hints.ours("trust", name),
        )
    }
}
