//! The identities of a run, where they are looked for, and the other keys that can be used: PGP, Vault.
//!
//! All sources are pooled, as the reference does; a bad line or an absent file is remembered and told
//! only when nothing opens a file. What needs no question comes first: identities whose recipient is
//! named, then all others, then the commands that print keys, then plugins, and passphrases last.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use age::ssh;

use crate::os::terminal::Ask;
use crate::os::{self, Env, process};
use crate::secret::SecretBytes;
use crate::sops::Fill;
use crate::sops::data_key::{DATA_KEY_BYTES, DataKey};
use crate::sops::master_key::{KINDS, KeyId, MasterKey};
use crate::sops::metadata::{KeyGroup, Metadata};
use crate::sops::shamir::{self, LEAST_THRESHOLD, ShamirError};
use crate::sops::store::age::without_armor;

use super::age::{self as kinds, Identity, canonical, parse_recipient};
use super::error::{GroupOutcome, KeyError};
use super::locked::{LARGEST_FILE, Locked, is_age_file, is_ssh_key, public_half};
use super::pgp::Gpg;
use super::vault::Vault;

/// The kinds of keys that the reference tries first (`DefaultDecryptionOrder`).
const FIRST_KINDS: [&str; 2] = ["age", "pgp"];
/// Length of a share of a data key: its number stands behind the bytes.
const SHARE_BYTES: usize = DATA_KEY_BYTES + 1;

const KEY_COMMAND: &str = "SOPS_AGE_KEY_CMD";
const SSH_COMMAND: &str = "SOPS_AGE_SSH_PRIVATE_KEY_CMD";
const SSH_FILE: &str = "SOPS_AGE_SSH_PRIVATE_KEY_FILE";
const RECIPIENT_VARIABLE: &str = "SOPS_AGE_RECIPIENT";

/// An identity and what is known of it.
struct Known {
    recipient: Option<String>,
    identity: Identity,
    /// The file it came from, where stock programs would not look there by themselves.
    own_file: Option<PathBuf>,
}

/// Where identities may come from.
pub struct Sources<'a> {
    /// Files named on the command line; where there are any, nothing else is used.
    pub explicit: &'a [PathBuf],
    /// The manifest's identity file.
    pub manifest: Option<&'a Path>,
}

/// The identities of this run.
pub struct Keyring {
    identities: Vec<Known>,
    locked: Vec<Locked>,
    looked_at: Vec<String>,
    commands: Vec<KeyCommand>,
    ask: Option<Arc<dyn Ask>>,
    gpg: Option<Gpg>,
    vault: Option<Vault>,
    /// The kinds of keys that are tried first, in this order.
    order: Vec<String>,
    /// Whether the recipients are the user's own word, who may mean a plugin.
    trusts_plugins: bool,
    unwrapped: Mutex<HashMap<String, DataKey>>,
    /// Wrapped keys of old versions that nothing at hand opens.
    hopeless: Mutex<HashSet<String>>,
}

/// A command that prints identities.
struct KeyCommand {
    variable: &'static str,
    words: Vec<String>,
    answers: Mutex<HashMap<String, Answer>>,
}

/// What a key command printed for one recipient.
#[derive(Clone)]
struct Answer {
    identities: Arc<Vec<Identity>>,
    note: String,
}

/// Who named a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    /// The manifest: others may have pushed it.
    Manifest,
    /// The user, where stock programs do not look.
    User,
    /// The user, where stock programs look too.
    UserForAll,
}

impl Keyring {
    /// Reads all sources (SOPS `age/keysource.go`, and the manifest's identity), or only the explicit
    /// files. Nothing fails here: what is wrong with a source is told when no identity opens a file.
    /// `ask` is the person at the terminal, where there is one.
    pub fn load(env: &Env, sources: &Sources<'_>, ask: Option<Arc<dyn Ask>>) -> Self {
        let mut keyring = Self::empty(ask);
        keyring.gpg = Some(Gpg::of(env));
        keyring.vault = Some(Vault::of(env));
        if !sources.explicit.is_empty() {
            for path in sources.explicit {
                keyring.add_file("-i", path, NamedBy::User);
            }
            return keyring;
        }
        match env.path_var(SSH_FILE) {
            Some(path) => keyring.add_file(SSH_FILE, &path, NamedBy::UserForAll),
            None => keyring.not_set(SSH_FILE),
        }
        keyring.add_command(env, SSH_COMMAND);
        if let Some(home) = env.home() {
            for name in ["id_ed25519", "id_rsa"] {
                let path = home.join(".ssh").join(name);
                keyring.add_file("the user's SSH key", &path, NamedBy::UserForAll);
            }
        }
        match env.var("SOPS_AGE_KEY") {
            Some(value) => {
                let words = value.to_string_lossy();
                let lines: Vec<&str> = words
                    .lines()
                    .filter(|line| !line.trim_start().starts_with('#'))
                    .flat_map(str::split_whitespace)
                    .collect();
                let text = SecretBytes::new(lines.join("\n").into_bytes());
                keyring.add_text("SOPS_AGE_KEY", text.expose(), None, NamedBy::UserForAll);
            }
            None => keyring.not_set("SOPS_AGE_KEY"),
        }
        match env.path_var("SOPS_AGE_KEY_FILE") {
            Some(path) => keyring.add_file("SOPS_AGE_KEY_FILE", &path, NamedBy::UserForAll),
            None => keyring.not_set("SOPS_AGE_KEY_FILE"),
        }
        keyring.add_command(env, KEY_COMMAND);
        if let Some(config) = env.config_dir() {
            let path = config.join("sops/age/keys.txt");
            keyring.add_file("the user's key file", &path, NamedBy::UserForAll);
        }
        if let Some(path) = sources.manifest {
            keyring.add_file("`identity` of the manifest", path, NamedBy::Manifest);
        }
        keyring
    }

    /// Returns the identities of one text, named by the user; `source` says in messages where it is
    /// from.
    pub fn of_text(source: &str, text: &[u8], ask: Option<Arc<dyn Ask>>) -> Self {
        let mut keyring = Self::empty(ask);
        keyring.add_text(source, text, None, NamedBy::User);
        keyring
    }

    fn empty(ask: Option<Arc<dyn Ask>>) -> Self {
        Self {
            identities: Vec::new(),
            locked: Vec::new(),
            looked_at: Vec::new(),
            commands: Vec::new(),
            ask,
            gpg: None,
            vault: None,
            order: FIRST_KINDS.map(str::to_owned).to_vec(),
            trusts_plugins: false,
            unwrapped: Mutex::new(HashMap::new()),
            hopeless: Mutex::new(HashSet::new()),
        }
    }

    /// Returns whether there is no identity, not even a locked one or a command that prints some.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.locked.is_empty() && self.commands.is_empty()
    }

    /// Returns where identities were looked for, and what was there, in words.
    pub fn looked_at(&self) -> &[String] {
        &self.looked_at
    }

    fn not_set(&mut self, variable: &str) {
        self.looked_at.push(format!("{variable}: not set"));
    }

    fn add_command(&mut self, env: &Env, variable: &'static str) {
        let Some(value) = env.var(variable) else {
            return self.not_set(variable);
        };
        match value.to_str().and_then(shlex::split) {
            Some(words) if !words.is_empty() => self.commands.push(KeyCommand {
                variable,
                words,
                answers: Mutex::new(HashMap::new()),
            }),
            _ => self
                .looked_at
                .push(format!("{variable}: cannot be split into words")),
        }
    }

    fn add_file(&mut self, source: &str, path: &Path, named_by: NamedBy) {
        let source = format!("{source}: {}", path.display());
        match os::fs::read_bounded(path, LARGEST_FILE) {
            Ok(bytes) => {
                let bytes = SecretBytes::new(bytes);
                self.add_text(&source, bytes.expose(), Some(path), named_by);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.looked_at.push(format!("{source}: does not exist"));
            }
            Err(error) => self.looked_at.push(format!("{source}: {error}")),
        }
    }

    fn add_text(&mut self, source: &str, text: &[u8], path: Option<&Path>, named_by: NamedBy) {
        let own_file = path
            .filter(|_| named_by != NamedBy::UserForAll)
            .map(Path::to_owned);
        let path = path.map_or_else(|| PathBuf::from(source), Path::to_owned);
        let note = if is_age_file(text) {
            match Locked::age_file(
                path,
                SecretBytes::copy_of(text),
                named_by != NamedBy::Manifest,
            ) {
                Ok(locked) => {
                    self.locked.push(locked);
                    return;
                }
                Err(reason) => reason,
            }
        } else if is_ssh_key(text) {
            match read_ssh_key(text, &path) {
                Ok(SshKey::Open(identity)) => {
                    let known = Known {
                        recipient: identity.recipient(),
                        identity,
                        own_file,
                    };
                    let note = format!(
                        "holds {}",
                        known.recipient.as_deref().unwrap_or("an SSH key")
                    );
                    self.identities.push(known);
                    note
                }
                Ok(SshKey::Locked(locked)) => {
                    self.locked.push(*locked);
                    return;
                }
                Err(reason) => reason,
            }
        } else {
            let (identities, note) = parse_identities(text, named_by);
            self.identities
                .extend(identities.into_iter().map(|identity| Known {
                    recipient: identity.recipient(),
                    identity,
                    own_file: own_file.clone(),
                }));
            note
        };
        self.looked_at.push(format!("{source}: {note}"));
    }

    /// Returns the recipients of the identities at hand.
    pub fn recipients(&self) -> Vec<String> {
        let known = self.identities.iter();
        known.filter_map(|known| known.recipient.clone()).collect()
    }

    /// Returns whether a text holds one of the identities at hand: an age identity anywhere, or an SSH key as a whole.
    pub fn is_in(&self, text: &[u8]) -> bool {
        const AGE: &[u8] = b"AGE-SECRET-KEY-";
        const PRIVATE: &[u8] = b"PRIVATE KEY-----";
        let own = self.recipients();
        let is_own = |recipient: Option<String>| recipient.is_some_and(|one| own.contains(&one));
        let mut age = memchr::memmem::find_iter(text, AGE).filter_map(|start| {
            let rest = &text[start..];
            let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
            let length = rest.iter().take_while(is_part).count();
            Identity::parse(std::str::from_utf8(&rest[..length]).ok()?)
        });
        if age.any(|identity| is_own(identity.recipient())) {
            return true;
        }
        let is_key = text.trim_ascii_start().starts_with(b"-----BEGIN ")
            && memchr::memmem::find(text, PRIVATE).is_some();
        is_key
            && Self::of_text("", text, None)
                .recipients()
                .into_iter()
                .any(|one| is_own(Some(one)))
    }

    /// As [`Keyring::recipients`], without those of files below a folder that were named for this run.
    pub fn recipients_outside(&self, folders: &[&Path]) -> Vec<String> {
        let is_inside = |known: &&Known| {
            let file = known
                .own_file
                .as_ref()
                .and_then(|file| os::fs::canonical(file));
            file.is_some_and(|file| folders.iter().any(|folder| file.starts_with(folder)))
        };
        let known = self.identities.iter().filter(|known| !is_inside(known));
        known.filter_map(|known| known.recipient.clone()).collect()
    }

    /// Returns the identity file that a stock program must be told of to open a file for
    /// `recipients`; `None` where it finds an identity by itself.
    pub fn file_to_name(&self, recipients: &[String]) -> Option<&Path> {
        let fits = |known: &&Known| {
            let mut wanted = recipients.iter().map(|recipient| canonical(recipient));
            known
                .recipient
                .as_ref()
                .is_some_and(|own| wanted.any(|wanted| wanted == *own))
        };
        let mut fitting = self.identities.iter().filter(fits);
        let first = fitting.next()?.own_file.as_deref()?;
        fitting
            .all(|known| known.own_file.is_some())
            .then_some(first)
    }

    /// Returns whether a passphrase may have to be asked for.
    pub fn may_ask(&self) -> bool {
        self.ask.is_some() && !self.locked.is_empty()
    }

    /// Checks that this run can encrypt to `recipient`.
    ///
    /// # Errors
    /// `InvalidRecipient`, `PluginNotNamed`.
    pub fn check_recipient(&self, recipient: &str) -> Result<(), KeyError> {
        let parsed = parse_recipient(recipient)?;
        match parsed.plugin() {
            Some(name) if !self.may_run(name) => Err(KeyError::PluginNotNamed {
                name: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Wraps a data key for a recipient: an armored age file with a final newline.
    ///
    /// # Errors
    /// As [`Keyring::check_recipient`]; `PluginMissing`, `WrapFailed`.
    pub fn wrap(&self, key: &DataKey, recipient: &str) -> Result<String, KeyError> {
        self.check_recipient(recipient)?;
        kinds::wrap(key, &[recipient], self.ask.as_ref())
    }

    /// Encrypts a content for recipients: an age file, armored or not.
    ///
    /// # Errors
    /// As [`Keyring::wrap`].
    pub fn wrap_content(
        &self,
        content: &DataKey,
        recipients: &[String],
        is_armored: bool,
    ) -> Result<Vec<u8>, KeyError> {
        for recipient in recipients {
            self.check_recipient(recipient)?;
        }
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let armored = kinds::wrap(content, &recipients, self.ask.as_ref())?;
        if is_armored {
            return Ok(armored.into_bytes());
        }
        without_armor(&armored).ok_or_else(|| KeyError::WrapFailed {
            recipient: recipients.join(", "),
        })
    }

    /// Returns whether a plugin may be started: the user has an identity of it. That a file of the
    /// repository names one is not enough.
    fn may_run(&self, plugin: &str) -> bool {
        self.trusts_plugins
            || self.identities.iter().any(
                |known| matches!(&known.identity, Identity::Plugin(own) if own.plugin() == plugin),
            )
    }

    /// Returns the data key of a file.
    ///
    /// # Errors
    /// `NoIdentity`, `Damaged` when the fitting identity cannot unwrap; `TooFewGroups` and `Shares` for
    /// a file with several groups.
    pub fn unwrap(&self, metadata: &Metadata) -> Result<DataKey, KeyError> {
        let is_age_file = metadata.is_age_file();
        match &metadata.groups[..] {
            [] => self.unwrap_group(&[], &|key| key.is_key()),
            [group] => self.unwrap_group(group, &|key| key.is_key() || is_age_file),
            groups => self.unwrap_shares(groups, metadata.threshold()),
        }
    }

    /// Puts the data key together from the shares of several groups; no more are opened than needed.
    fn unwrap_shares(&self, groups: &[KeyGroup], threshold: usize) -> Result<DataKey, KeyError> {
        let needed = threshold.max(LEAST_THRESHOLD);
        // Where the file does not say how many, all that can be had are put together.
        let most = if threshold < LEAST_THRESHOLD {
            groups.len()
        } else {
            threshold
        };
        let mut shares = Vec::new();
        let mut outcomes = Vec::new();
        for group in groups {
            if shares.len() == most {
                break;
            }
            let (mut wanted, mut looked_at) = (names_of(group), Vec::new());
            let is_share = |key: &DataKey| key.expose().len() == SHARE_BYTES;
            let is_open = match self.unwrap_group(group, &is_share) {
                Ok(share) => {
                    shares.push(SecretBytes::copy_of(share.expose()));
                    true
                }
                Err(KeyError::NoIdentity {
                    wanted: all,
                    looked_at: places,
                }) => {
                    (wanted, looked_at) = (all, places);
                    false
                }
                Err(error) => {
                    looked_at.push(error.to_string());
                    false
                }
            };
            outcomes.push(GroupOutcome {
                is_open,
                wanted,
                looked_at,
            });
        }
        if shares.len() < needed {
            let groups = outcomes;
            return Err(KeyError::TooFewGroups { needed, groups });
        }
        let secret = shamir::combine(&shares)?;
        DataKey::from_slice(secret.expose()).ok_or(KeyError::Shares(ShamirError::Shares))
    }

    /// Returns what the keys of a group wrap, by the first of them that can be used; `fits` tells a data
    /// key or share from what is none.
    fn unwrap_group(
        &self,
        group: &[MasterKey],
        fits: &dyn Fn(&DataKey) -> bool,
    ) -> Result<DataKey, KeyError> {
        // The same wrapped key in many versions of a file is unwrapped once.
        let wrapped: Vec<(String, &str)> = group
            .iter()
            .map(|key| (key.id.to_string(), key.enc.as_str()))
            .collect();
        let named: Vec<(&str, &str)> = wrapped
            .iter()
            .map(|(name, enc)| (name.as_str(), *enc))
            .collect();
        if let Some(key) = self.remembered(&named).filter(fits) {
            return Ok(key);
        }
        let mut kinds: Vec<&str> = KINDS
            .into_iter()
            .filter(|kind| group.iter().any(|key| key.id.kind() == *kind))
            .collect();
        if kinds.is_empty() {
            kinds.push("age");
        }
        let mut looked_at = Vec::new();
        if kinds.contains(&"age") {
            looked_at.clone_from(&self.looked_at);
        }
        kinds.sort_by_key(|kind| {
            let place = self.order.iter().position(|first| first == kind);
            place.unwrap_or(self.order.len())
        });
        let mut damaged = None;
        for kind in kinds {
            let of_kind = group.iter().filter(|key| key.id.kind() == kind);
            let found = if kind == "age" {
                let age: Vec<(&str, &str)> = of_kind
                    .filter_map(|key| match &key.id {
                        KeyId::Age { recipient } => Some((recipient.as_str(), key.enc.as_str())),
                        _ => None,
                    })
                    .collect();
                let found = self.unwrap_age(&age, &mut looked_at);
                if found.is_none() {
                    damaged = self.first_fitting(&age);
                }
                found
            } else {
                let mut found = None;
                for key in of_kind {
                    match self.unwrap_elsewhere(key) {
                        Ok(content) => {
                            found = Some((key.enc.as_str(), DataKey::of_content(content)));
                            break;
                        }
                        Err(reason) => looked_at.push(format!("{}: {reason}", key.id)),
                    }
                }
                found
            };
            let Some((enc, key)) = found else { continue };
            if !fits(&key) {
                let recipient = group.first().map(|key| key.id.to_string());
                let recipient = recipient.unwrap_or_default();
                return Err(KeyError::Damaged { recipient });
            }
            let mut unwrapped = self
                .unwrapped
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            unwrapped.insert(enc.to_owned(), key.clone());
            return Ok(key);
        }
        if let Some(recipient) = damaged {
            return Err(KeyError::Damaged { recipient });
        }
        let wanted = names_of(group);
        Err(KeyError::NoIdentity { wanted, looked_at })
    }

    /// Tries every identity: what asks nothing and starts nothing first, passphrases last.
    fn unwrap_age<'w>(
        &self,
        wrapped: &[(&'w str, &'w str)],
        looked_at: &mut Vec<String>,
    ) -> Option<(&'w str, DataKey)> {
        let found = self
            .unwrap_quietly(wrapped)
            .or_else(|| self.unwrap_by_commands(wrapped, looked_at))
            .or_else(|| self.unwrap_by_plugins(wrapped, looked_at));
        if found.is_some() || self.first_fitting(wrapped).is_some() {
            return found;
        }
        self.unwrap_by_passphrase(wrapped, looked_at)
    }

    /// Unwraps with a key that is none of age's.
    fn unwrap_elsewhere(&self, key: &MasterKey) -> Result<SecretBytes, String> {
        let not_asked = || "not asked, since identities were named with `-i`".to_owned();
        match &key.id {
            KeyId::Pgp { .. } => {
                let gpg = self.gpg.as_ref().ok_or_else(not_asked)?;
                gpg.unwrap(&key.enc)
            }
            KeyId::HcVault {
                address,
                engine_path,
                key_name,
            } => {
                let vault = self.vault.as_ref().ok_or_else(not_asked)?;
                vault.unwrap(address, engine_path, key_name, &key.enc)
            }
            other => Err(format!(
                "a key of the kind `{}`, which only stock `sops` can use",
                other.kind()
            )),
        }
    }

    /// Wraps a data key, or a share of it, with a master key.
    ///
    /// # Errors
    /// As [`Keyring::wrap`]; `NotWrapped`, `Cloud`.
    pub fn wrap_with(&self, id: &KeyId, key: &DataKey) -> Result<String, KeyError> {
        let not_wrapped = |reason: String| KeyError::NotWrapped {
            name: id.to_string(),
            reason,
        };
        let content = SecretBytes::copy_of(key.expose());
        match id {
            KeyId::Age { recipient } => self.wrap(key, recipient),
            KeyId::Pgp { fingerprint } => {
                let gpg = self.gpg.as_ref().ok_or(KeyError::NoGroups)?;
                gpg.wrap(fingerprint, &content).map_err(not_wrapped)
            }
            KeyId::HcVault {
                address,
                engine_path,
                key_name,
            } => {
                let vault = self.vault.as_ref().ok_or(KeyError::NoGroups)?;
                let wrapped = vault.wrap(address, engine_path, key_name, &content);
                wrapped.map_err(not_wrapped)
            }
            other => Err(KeyError::Cloud {
                name: other.to_string(),
                kind: other.kind(),
            }),
        }
    }

    /// Wraps a data key for all groups: the key itself for one, shares of it for more. Returns the
    /// threshold as it is to stand in the file.
    ///
    /// # Errors
    /// All keys that could not be used; `NoGroups`, `EmptyGroup`, `Shares`.
    pub fn wrap_groups(
        &self,
        key: &DataKey,
        groups: &mut [KeyGroup],
        threshold: usize,
        fill: Fill<'_>,
    ) -> Result<usize, Vec<KeyError>> {
        if groups.is_empty() {
            return Err(vec![KeyError::NoGroups]);
        }
        let mut threshold = threshold;
        let parts: Vec<DataKey> = if groups.len() == 1 {
            vec![key.clone()]
        } else {
            if threshold == 0 {
                threshold = groups.len();
            }
            let secret = SecretBytes::copy_of(key.expose());
            let shares = shamir::split(&secret, groups.len(), threshold, fill)
                .map_err(|error| vec![KeyError::from(error)])?;
            shares.into_iter().map(DataKey::of_content).collect()
        };
        let mut errors = Vec::new();
        for (group, part) in groups.iter_mut().zip(&parts) {
            if group.is_empty() {
                return Err(vec![KeyError::EmptyGroup]);
            }
            for one in group {
                match self.wrap_with(&one.id, part) {
                    Ok(enc) => one.enc = enc,
                    Err(error) => errors.push(error),
                }
            }
        }
        if errors.is_empty() {
            Ok(threshold)
        } else {
            Err(errors)
        }
    }

    /// Tries these kinds of keys first, in this order.
    pub fn set_order(&mut self, order: Vec<String>) {
        self.order = order;
    }

    /// Takes the user's word for keys that were typed on the command line: their plugins may be started,
    /// their servers asked.
    pub fn trust(&mut self, ids: &[KeyId]) {
        self.trusts_plugins |= ids.iter().any(|id| id.kind() == "age");
        for id in ids {
            if let (KeyId::HcVault { address, .. }, Some(vault)) = (id, &mut self.vault) {
                vault.trust(address);
            }
        }
    }

    /// Returns the data key of a file where an identity at hand opens it that asks nothing and starts
    /// nothing; what does not open is remembered too.
    pub fn unwrap_quiet(&self, metadata: &Metadata) -> Option<DataKey> {
        let is_age_file = metadata.is_age_file();
        match &metadata.groups[..] {
            [] => None,
            [group] => self.unwrap_group_quiet(group, &|key| key.is_key() || is_age_file),
            groups => {
                // All where the file does not say how many.
                let needed = match metadata.threshold() {
                    threshold if threshold < LEAST_THRESHOLD => groups.len(),
                    threshold => threshold,
                };
                let is_share = |key: &DataKey| key.expose().len() == SHARE_BYTES;
                let shares: Vec<SecretBytes> = groups
                    .iter()
                    .filter_map(|group| self.unwrap_group_quiet(group, &is_share))
                    .take(needed)
                    .map(|share| SecretBytes::copy_of(share.expose()))
                    .collect();
                if shares.len() < needed {
                    return None;
                }
                DataKey::from_slice(shamir::combine(&shares).ok()?.expose())
            }
        }
    }

    fn unwrap_group_quiet(
        &self,
        group: &[MasterKey],
        fits: &dyn Fn(&DataKey) -> bool,
    ) -> Option<DataKey> {
        let wrapped: Vec<(&str, &str)> = group
            .iter()
            .map(|key| match &key.id {
                KeyId::Age { recipient } => (recipient.as_str(), key.enc.as_str()),
                _ => ("", key.enc.as_str()),
            })
            .collect();
        if let Some(key) = self.remembered(&wrapped).filter(fits) {
            return Some(key);
        }
        let age: Vec<(&str, &str)> = group
            .iter()
            .zip(&wrapped)
            .filter(|(key, _)| key.id.kind() == "age")
            .map(|(_, pair)| *pair)
            .collect();
        let (_, first) = age.first()?;
        let is_hopeless = {
            let hopeless = self.hopeless.lock().unwrap_or_else(PoisonError::into_inner);
            hopeless.contains(*first)
        };
        if is_hopeless {
            return None;
        }
        let found = self.unwrap_quietly(&age).filter(|(_, key)| fits(key));
        let Some((enc, key)) = found else {
            let mut hopeless = self.hopeless.lock().unwrap_or_else(PoisonError::into_inner);
            hopeless.insert((*first).to_owned());
            return None;
        };
        let mut unwrapped = self
            .unwrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unwrapped.insert(enc.to_owned(), key.clone());
        Some(key)
    }

    fn remembered(&self, wrapped: &[(&str, &str)]) -> Option<DataKey> {
        let unwrapped = self
            .unwrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        wrapped
            .iter()
            .find_map(|(_, enc)| unwrapped.get(*enc).cloned())
    }

    fn fitting<'k>(&'k self, recipient: &str) -> impl Iterator<Item = &'k Identity> + use<'k> {
        let wanted = canonical(recipient);
        self.identities
            .iter()
            .filter(move |known| known.recipient.as_ref() == Some(&wanted))
            .map(|known| &known.identity)
    }

    fn first_fitting(&self, wrapped: &[(&str, &str)]) -> Option<String> {
        let mut recipients = wrapped.iter().map(|(recipient, _)| *recipient);
        recipients
            .find(|recipient| self.fitting(recipient).next().is_some())
            .map(str::to_owned)
    }

    /// Tries the identities that ask nothing and start nothing.
    fn unwrap_quietly<'w>(&self, wrapped: &[(&'w str, &'w str)]) -> Option<(&'w str, DataKey)> {
        let by_name = wrapped.iter().find_map(|(recipient, enc)| {
            let key = self
                .fitting(recipient)
                .find_map(|identity| identity.unwrap(enc, None))?;
            Some((*enc, key))
        });
        // The recipient field is only a label: an identity may fit all the same.
        by_name.or_else(|| {
            let quiet = self
                .identities
                .iter()
                .map(|known| &known.identity)
                .filter(|identity| !matches!(identity, Identity::Plugin(_)));
            try_all(wrapped, &quiet.collect::<Vec<_>>(), None)
        })
    }

    fn unwrap_by_commands<'w>(
        &self,
        wrapped: &[(&'w str, &'w str)],
        looked_at: &mut Vec<String>,
    ) -> Option<(&'w str, DataKey)> {
        for command in &self.commands {
            for (recipient, enc) in wrapped {
                let answer = command.ask(recipient);
                let identities: Vec<&Identity> = answer.identities.iter().collect();
                if let Some(found) = try_all(&[(recipient, enc)], &identities, None) {
                    return Some(found);
                }
                if !looked_at.contains(&answer.note) {
                    looked_at.push(answer.note);
                }
            }
        }
        None
    }

    fn unwrap_by_plugins<'w>(
        &self,
        wrapped: &[(&'w str, &'w str)],
        looked_at: &mut Vec<String>,
    ) -> Option<(&'w str, DataKey)> {
        for known in &self.identities {
            let Identity::Plugin(plugin) = &known.identity else {
                continue;
            };
            let found = try_all(wrapped, &[&known.identity], self.ask.as_ref());
            if found.is_some() {
                return found;
            }
            let name = plugin.plugin();
            looked_at.push(if kinds::has_plugin(plugin) {
                format!("the program age-plugin-{name}: it did not open the file")
            } else {
                format!("the program age-plugin-{name}: it is not installed here")
            });
        }
        None
    }

    /// Asks for the passphrases of what is locked and may fit.
    fn unwrap_by_passphrase<'w>(
        &self,
        wrapped: &[(&'w str, &'w str)],
        looked_at: &mut Vec<String>,
    ) -> Option<(&'w str, DataKey)> {
        for locked in &self.locked {
            let path = locked.path.display();
            let may_fit = locked.recipient.as_ref().is_none_or(|own| {
                let mut wanted = wrapped.iter().map(|(recipient, _)| canonical(recipient));
                wanted.any(|wanted| wanted == *own)
            });
            if !may_fit {
                let own = locked.recipient.as_deref().unwrap_or_default();
                looked_at.push(format!("{path}: holds {own}, behind a passphrase"));
                continue;
            }
            match locked.open(self.ask.as_ref()) {
                Ok(identities) => {
                    let identities: Vec<&Identity> = identities.iter().collect();
                    let found = try_all(wrapped, &identities, self.ask.as_ref());
                    if found.is_some() {
                        return found;
                    }
                    looked_at.push(format!("{path}: {}", in_words(&identities)));
                }
                Err(reason) => looked_at.push(format!("{path}: {reason}")),
            }
        }
        None
    }
}

impl KeyCommand {
    /// Runs the command for a recipient, once.
    fn ask(&self, recipient: &str) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(recipient) {
            return answer.clone();
        }
        let variable = self.variable;
        let answer =
            match process::capture_with_variable(&self.words, RECIPIENT_VARIABLE, recipient) {
                Ok(bytes) => {
                    let text = SecretBytes::new(bytes);
                    let (identities, note) = if is_ssh_key(text.expose()) {
                        match read_ssh_key(text.expose(), Path::new(variable)) {
                            Ok(SshKey::Open(identity)) => {
                                let note = in_words(&[&identity]);
                                (vec![identity], note)
                            }
                            Ok(SshKey::Locked(_)) => {
                                (Vec::new(), "prints a key behind a passphrase".to_owned())
                            }
                            Err(reason) => (Vec::new(), reason),
                        }
                    } else {
                        parse_identities(text.expose(), NamedBy::UserForAll)
                    };
                    Answer {
                        identities: Arc::new(identities),
                        note: format!("{variable}: {note}"),
                    }
                }
                Err(error) => Answer {
                    identities: Arc::default(),
                    note: format!("{variable}: `{}`: {error}", self.words[0]),
                },
            };
        answers.insert(recipient.to_owned(), answer.clone());
        answer
    }
}

fn try_all<'w>(
    wrapped: &[(&'w str, &'w str)],
    identities: &[&Identity],
    ask: Option<&Arc<dyn Ask>>,
) -> Option<(&'w str, DataKey)> {
    wrapped.iter().find_map(|(_, enc)| {
        let mut identities = identities.iter();
        let key = identities.find_map(|identity| identity.unwrap(enc, ask))?;
        Some((*enc, key))
    })
}

/// Returns the names of the keys of a group, and their kind where it is not age.
fn names_of(group: &[MasterKey]) -> Vec<String> {
    let name = |key: &MasterKey| match &key.id {
        KeyId::Age { recipient } if recipient.is_empty() => {
            "(an age file does not say for whom it is)".to_owned()
        }
        KeyId::Age { recipient } => recipient.clone(),
        other => format!("{} ({})", other, other.kind()),
    };
    group.iter().map(name).collect()
}

/// An RSA key of 16,384 bits takes a fifth of it; the arithmetic on a longer one takes minutes.
const LONGEST_SSH_KEY: usize = 64 << 10;

/// An SSH private key as it was read.
enum SshKey {
    Open(Identity),
    Locked(Box<Locked>),
}

fn read_ssh_key(text: &[u8], path: &Path) -> Result<SshKey, String> {
    if text.len() > LONGEST_SSH_KEY {
        return Err("it is longer than an SSH key".to_owned());
    }
    let key = ssh::Identity::from_buffer(text, None)
        .map_err(|_| "an SSH key that is damaged or of another form".to_owned())?;
    match key {
        ssh::Identity::Unencrypted(_) => Ok(SshKey::Open(Identity::Ssh(Box::new(key)))),
        ssh::Identity::Encrypted(key) => {
            let public = os::fs::read_bounded(&with_pub(path), LARGEST_FILE).unwrap_or_default();
            let public = String::from_utf8_lossy(&public);
            let recipient = public
                .starts_with("ssh-")
                .then(|| canonical(public.trim_end()))
                .or_else(|| public_half(text));
            Locked::ssh(path.to_owned(), key, text, recipient)
                .map(|locked| SshKey::Locked(Box::new(locked)))
        }
        ssh::Identity::Unsupported(_) => Err(
            "an SSH key in a form or of a kind that cannot be used; `ssh-keygen -p -f FILE` rewrites it in OpenSSH's own form".to_owned(),
        ),
    }
}

fn with_pub(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

/// Reads the lines of an identity file and says in words what was found. Plugins that only the
/// manifest's file names are left out.
fn parse_identities(text: &[u8], named_by: NamedBy) -> (Vec<Identity>, String) {
    let Ok(text) = std::str::from_utf8(text) else {
        return (Vec::new(), "not text".to_owned());
    };
    let mut identities = Vec::new();
    let (mut plugins, mut unknown) = (0, 0);
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        match Identity::parse(line) {
            Some(Identity::Plugin(_)) if named_by == NamedBy::Manifest => plugins += 1,
            Some(identity) => identities.push(identity),
            None => unknown += 1,
        }
    }
    let mut notes = vec![in_words(&identities.iter().collect::<Vec<_>>())];
    if plugins > 0 {
        notes.push(format!(
            "{plugins} of a plugin, which only runs when you name its identity yourself (`-i`)"
        ));
    }
    if unknown > 0 {
        let lines = if unknown == 1 {
            "line that is no identity"
        } else {
            "lines that are no identities"
        };
        notes.push(format!("{unknown} {lines}"));
    }
    (identities, notes.join(", "))
}

/// Says which identities these are.
fn in_words(identities: &[&Identity]) -> String {
    let name = |identity: &Identity| match identity {
        Identity::Plugin(plugin) => format!("an identity of the plugin {}", plugin.plugin()),
        other => other.recipient().unwrap_or_else(|| "an SSH key".to_owned()),
    };
    match identities {
        [] => "no identity".to_owned(),
        [one] => format!("holds {}", name(one)),
        many => {
            let names: Vec<String> = many.iter().map(|identity| name(identity)).collect();
            let shown = names.iter().take(5).cloned();
            let rest = (names.len() > 5).then(|| format!("and {} more", names.len() - 5));
            let list: Vec<String> = shown.chain(iter::once(rest).flatten()).collect();
            format!("holds {} identities: {}", names.len(), list.join(", "))
        }
    }
}
