//! Records of the last sync: what a server file held when it last agreed with the repository.
//!
//! Keyed digests, never contents; one for each file on the server, by its canonical path. Records
//! describe the server, not a clone. A record that is missing, stale or another user's leads to a
//! refusal, never to a loss.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::parallel;
use crate::secret::{SecretBytes, SecretText, wiping_behind};
use crate::sops::data_key::DataKey;

use super::keys::{Keyed, Reading};
use super::lines::{COMMENTS, OTHER_LINES};

/// The version of the stored form.
const VERSION: u32 = 1;
/// So many keys, at least, are worth a thread.
const SHARE: usize = 512;
/// What the key is told by.
const KEY_MARK: &[u8] = b"records of secret-files";
/// Stands for the data key of a raw age file, which has none.
pub const NO_DATA_KEY: &str = "none";
/// What stands before a data key that is digested.
const DATA_KEY_MARK: &[u8] = b"data key\0";

/// What is known of a file on the server from the last time both sides agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The entry's name in the repository.
    pub entry: String,
    /// The repository, a canonical path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// Keyed digest of the content: 64 hexadecimal digits.
    pub content: String,
    /// Keyed digest of what the content means, layout left out: 64 hexadecimal digits.
    pub meaning: String,
    /// Keyed digests of each key of an environment file, see [`Digester::keys`]; empty for others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// The commit of the version that `restore` put on the server, in full: the two sides are meant
    /// to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// The `mac` token of the encrypted file; the same token means the same content. Empty for a row
    /// of `[plain]`.
    pub mac: String,
    /// The `mac` token of the encrypted file, whatever its form: the same token means that no encrypted
    /// value changed, which can be told without opening it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seal: String,
    /// Keyed digest of the data key that this user knows the file to be under: 64 hexadecimal digits,
    /// [`NO_DATA_KEY`] for a raw age file. Empty where none is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data_key: String,
    /// On what terms the file is encrypted as far as this user agreed to them, see `Terms`; `None` where nothing was
    /// agreed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<BTreeSet<String>>,
    /// The commit `HEAD` was at, where there was one: 40 or 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// When, RFC 3339, UTC.
    pub time: String,
    /// Owner of the file on the server.
    pub uid: u32,
    /// Group of the file on the server.
    pub gid: u32,
    /// Permission bits of the file on the server.
    pub mode: u32,
}

impl Record {
    /// Returns whether it only says what its user agreed to, of a file that was not in sync here yet.
    pub fn is_of_terms(&self) -> bool {
        self.content.is_empty()
    }

    /// Returns whether both say the same, whenever it was noted.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let what = |record: &Self| (record.uid, record.gid, record.mode);
        what(self) == what(other)
            && self.entry == other.entry
            && self.repository == other.repository
            && self.content == other.content
            && self.meaning == other.meaning
            && self.pinned == other.pinned
            && self.mac == other.mac
            && self.seal == other.seal
            && self.data_key == other.data_key
            && self.terms == other.terms
            && self.commit == other.commit
            && self.keys == other.keys
    }
}

/// All records of a user on a host, by canonical path of the file on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    version: u32,
    /// A digest that tells the key of the others.
    key: String,
    files: BTreeMap<String, Record>,
}

impl Records {
    /// Reads the stored form; `None` when it is damaged, of a later version, or made with another
    /// key than the digester's.
    pub fn parse(text: &[u8], digester: &Digester) -> Option<Self> {
        let records: Self = serde_json::from_slice(text).ok()?;
        let is_ours = records.version == VERSION && records.key == digester.content(KEY_MARK);
        is_ours.then_some(records)
    }

    /// Returns the stored form.
    pub fn to_bytes(mut self, digester: &Digester) -> Vec<u8> {
        self.version = VERSION;
        self.key = digester.content(KEY_MARK);
        serde_json::to_vec(&self).unwrap_or_default()
    }

    /// Returns the files below `root`, a canonical path, with their records.
    pub fn below<'r>(&'r self, root: &str) -> impl Iterator<Item = (&'r str, &'r Record)> {
        let folder = format!("{}/", root.trim_end_matches('/'));
        self.all()
            .filter(move |(path, _)| path.starts_with(&folder))
    }

    /// Returns all files with their records.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Record)> {
        let files = self.files.iter();
        files.map(|(path, record)| (path.as_str(), record))
    }

    /// Returns the record of a file on the server.
    pub fn get(&self, target: &str) -> Option<&Record> {
        self.files.get(target)
    }

    /// Replaces the record of a file on the server; `None` forgets it.
    pub fn set(&mut self, target: &str, record: Option<Record>) {
        match record {
            Some(record) => drop(self.files.insert(target.to_owned(), record)),
            None => drop(self.files.remove(target)),
        }
    }

    /// Returns the names of entries whose files lie below `root`, a canonical path.
    pub fn entries_below<'r>(&'r self, root: &str) -> impl Iterator<Item = &'r str> {
        let records = self.below(root).map(|(_, record)| record);
        records
            .filter(|record| !record.is_of_terms())
            .map(|record| record.entry.as_str())
    }
}

/// Makes keyed digests, so that a record tells nothing to somebody without the key.
pub struct Digester {
    /// Keyed once; what is digested starts from a copy.
    keyed: Hmac<Sha256>,
}

impl Digester {
    /// Returns one for a key of any length; 32 bytes are usual.
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    #[expect(clippy::needless_pass_by_value, reason = "the key is wiped here")]
    pub fn new(key: SecretBytes) -> Self {
        let keyed = Hmac::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
        Self { keyed }
    }

    fn start(&self, purpose: u8) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&[purpose]);
        mac
    }

    /// Returns the digest of a data key.
    pub fn data_key(&self, key: &DataKey) -> String {
        let mut text = SecretBytes::new(Vec::with_capacity(DATA_KEY_MARK.len() + 32));
        text.expose_mut().extend_from_slice(DATA_KEY_MARK);
        text.expose_mut().extend_from_slice(key.expose());
        self.content(text.expose())
    }

    /// Returns the digest of a content: HMAC-SHA-256, 64 hexadecimal digits.
    pub fn content(&self, content: &[u8]) -> String {
        wiping_behind(|| {
            let mut mac = self.start(0);
            mac.update(content);
            hexadecimal(mac)
        })
    }

    /// Returns the digest of what a content means: where it has keys, these with their values,
    /// comments and other lines, whatever their order and the blank lines between them, which is what
    /// [`super::diff::between`] calls layout; for others the content.
    pub fn meaning(&self, content: &[u8], reading: Reading) -> String {
        match reading.keys(content) {
            Some(keys) => self.meaning_of(keys),
            None => self.content(content),
        }
    }

    /// Returns both digests of a content, [`Digester::meaning`] and [`Digester::keys`], reading it once.
    pub fn meaning_and_keys(
        &self,
        content: &[u8],
        reading: Reading,
    ) -> (String, BTreeMap<String, String>) {
        match reading.keys(content) {
            Some(keys) => {
                let digests = self.keys_of(&keys);
                (self.meaning_of(keys), digests)
            }
            None => (self.content(content), BTreeMap::new()),
        }
    }

    fn meaning_of(&self, mut keys: Keyed<'_>) -> String {
        let mut texts_of = |name: &str| {
            let at = keys.iter().position(|(key, _)| *key == name);
            at.map_or_else(Vec::new, |at| keys.remove(at).1)
        };
        let (comments, others) = (texts_of(COMMENTS), texts_of(OTHER_LINES));
        keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        wiping_behind(|| self.meaning_of_sorted(&keys, &comments, &others))
    }

    fn meaning_of_sorted(
        &self,
        keys: &Keyed<'_>,
        comments: &[SecretText<'_>],
        others: &[SecretText<'_>],
    ) -> String {
        let mut mac = self.start(1);
        let mut list = |texts: &[SecretText<'_>]| {
            mac.update(&(texts.len() as u64).to_be_bytes());
            for text in texts {
                mac.update(&(text.expose().len() as u64).to_be_bytes());
                mac.update(text.expose());
            }
        };
        for (key, values) in keys {
            list(&[SecretText::Borrowed(key.as_bytes())]);
            list(values);
        }
        list(comments);
        list(others);
        hexadecimal(mac)
    }

    /// Returns the digests of a content's keys: by the digest of the name (16 hexadecimal
    /// digits) that of all its values as written (32). What stands for comments and for lines that
    /// are no assignments is among them. Empty for other files.
    pub fn keys(&self, content: &[u8], reading: Reading) -> BTreeMap<String, String> {
        self.keys_of(&reading.keys(content).unwrap_or_default())
    }

    fn keys_of(&self, keys: &Keyed<'_>) -> BTreeMap<String, String> {
        let digest = |(key, values): &(Cow<'_, str>, Vec<SecretText<'_>>)| {
            (self.key_name(key), self.key_values(key, values))
        };
        parallel::map(keys, SHARE, digest).into_iter().collect()
    }

    /// Returns the digest of a key's name: 16 hexadecimal digits.
    pub fn key_name(&self, key: &str) -> String {
        wiping_behind(|| {
            let mut mac = self.start(2);
            mac.update(key.as_bytes());
            shortened(mac, 16)
        })
    }

    /// Returns the digest of a key's values, bound to its name: 32 hexadecimal digits.
    pub fn key_values(&self, key: &str, values: &[SecretText<'_>]) -> String {
        wiping_behind(|| {
            let mut mac = self.start(3);
            let values = values.iter().map(SecretText::expose);
            for text in std::iter::once(key.as_bytes()).chain(values) {
                mac.update(&(text.len() as u64).to_be_bytes());
                mac.update(text);
            }
            shortened(mac, 32)
        })
    }
}

fn shortened(mac: Hmac<Sha256>, digits: usize) -> String {
    let mut text = hexadecimal(mac);
    text.truncate(digits);
    text
}

fn hexadecimal(mac: Hmac<Sha256>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in mac.finalize().into_bytes() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::diff;
    use super::*;

    fn digester() -> Digester {
        Digester::new(SecretBytes::copy_of(&[7; 32]))
    }

    #[test]
    fn the_meaning_agrees_with_the_diff() {
        let texts = [
            "A=1\nB=2\n",
            "B=2\n\nA=1\n",
            "A=1\nB=3\n",
            "A=1\nB=2",
            "# c\nA=1\nB=2\n",
            "A=1\nB=2\n# c\n",
            "A=1\nA=2\nB=2\n",
            "A=2\nA=1\nB=2\n",
            "stray\nA=1\nB=2\n",
            "",
        ];
        let digester = digester();
        for one in texts {
            for other in texts {
                let differences = diff::between(one.as_bytes(), other.as_bytes(), Reading::Env);
                let is_same = differences.is_empty() || differences.is_layout_only;
                assert_eq!(
                    digester.meaning(one.as_bytes(), Reading::Env)
                        == digester.meaning(other.as_bytes(), Reading::Env),
                    is_same,
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn digests_depend_on_the_key() {
        let other = Digester::new(SecretBytes::copy_of(&[8; 32]));
        assert_ne!(digester().content(b"x"), other.content(b"x"));
        assert_eq!(digester().content(b"x").len(), 64);
    }

    #[test]
    fn damaged_records_are_none() {
        let mut records = Records::default();
        let record = Record {
            data_key: String::new(),
            terms: Some(BTreeSet::from(["age age1x".to_owned()])),
            entry: "a.enc".to_owned(),
            repository: String::new(),
            content: "00".to_owned(),
            meaning: String::new(),
            keys: BTreeMap::new(),
            pinned: None,
            seal: String::new(),
            mac: String::new(),
            commit: None,
            time: String::new(),
            uid: 0,
            gid: 0,
            mode: 0o600,
        };
        records.set("/srv/a", Some(record));
        let bytes = records.to_bytes(&digester());
        let read = Records::parse(&bytes, &digester()).unwrap();
        assert_eq!(read.get("/srv/a").unwrap().entry, "a.enc");
        assert_eq!(read.entries_below("/srv/").collect::<Vec<_>>(), ["a.enc"]);
        assert_eq!(read.entries_below("/sr").count(), 0);
        assert_eq!(Records::parse(&bytes[..bytes.len() - 1], &digester()), None);
        let other = Digester::new(SecretBytes::copy_of(&[8; 32]));
        assert_eq!(Records::parse(&bytes, &other), None);
    }
}
