//! age recipients and identities, and where identities are looked for.
//!
//! A data key is wrapped for each recipient alone: one armored age file each, payload the 32
//! bytes. All sources of identities are pooled as the reference does; a bad line or an absent file
//! is remembered and told only when nothing opens a file. A key command runs only when everything
//! else failed, once for a recipient.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::x25519;

use crate::os::{self, Env, process};
use crate::secret::SecretBytes;
use crate::sops::data_key::{DATA_KEY_BYTES, DataKey};
use crate::sops::metadata::{MasterKey, Metadata};

use super::KeyError;

const COMMAND_VARIABLE: &str = "SOPS_AGE_KEY_CMD";
const RECIPIENT_VARIABLE: &str = "SOPS_AGE_RECIPIENT";

/// An X25519 identity and the recipient it answers to.
struct Identity {
    recipient: String,
    key: x25519::Identity,
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
    identities: Vec<Identity>,
    looked_at: Vec<String>,
    command: Option<Vec<String>>,
    from_command: Mutex<HashMap<String, CommandAnswer>>,
}

/// What a key command printed for one recipient: identity lines, and notes on what was wrong.
#[derive(Clone)]
struct CommandAnswer {
    lines: SecretBytes,
    note: String,
}

impl Keyring {
    /// Reads all sources: `SOPS_AGE_KEY`, `SOPS_AGE_KEY_FILE`, the user's `sops/age/keys.txt`, the
    /// manifest's identity; or only the explicit files. Nothing fails here: what is wrong with a
    /// source is told when no identity opens a file.
    pub fn load(env: &Env, sources: &Sources<'_>) -> Self {
        let mut keyring = Self {
            identities: Vec::new(),
            looked_at: Vec::new(),
            command: None,
            from_command: Mutex::new(HashMap::new()),
        };
        if !sources.explicit.is_empty() {
            for path in sources.explicit {
                keyring.add_file("-i", path, Known::OnlyHere);
            }
            return keyring;
        }
        match env.var("SOPS_AGE_KEY") {
            Some(value) => {
                keyring.add_text("SOPS_AGE_KEY", value.as_encoded_bytes(), Lines::AnyBlank);
            }
            None => keyring.looked_at.push("SOPS_AGE_KEY: not set".to_owned()),
        }
        match env.path_var("SOPS_AGE_KEY_FILE") {
            Some(path) => keyring.add_file("SOPS_AGE_KEY_FILE", &path, Known::Everywhere),
            None => keyring
                .looked_at
                .push("SOPS_AGE_KEY_FILE: not set".to_owned()),
        }
        match env
            .var(COMMAND_VARIABLE)
            .map(|value| value.to_str().and_then(shlex::split))
        {
            Some(Some(words)) if !words.is_empty() => keyring.command = Some(words),
            Some(_) => keyring
                .looked_at
                .push(format!("{COMMAND_VARIABLE}: cannot be split into words")),
            None => keyring
                .looked_at
                .push(format!("{COMMAND_VARIABLE}: not set")),
        }
        if let Some(config) = env.config_dir() {
            keyring.add_file(
                "the user's key file",
                &config.join("sops/age/keys.txt"),
                Known::Everywhere,
            );
        }
        if let Some(path) = sources.manifest {
            keyring.add_file("`identity` of the manifest", path, Known::OnlyHere);
        }
        keyring
    }

    fn add_file(&mut self, source: &str, path: &Path, known: Known) {
        let source = format!("{source}: {}", path.display());
        let before = self.identities.len();
        match os::fs::read(path) {
            Ok(bytes) => self.add_text(&source, SecretBytes::new(bytes).expose(), Lines::Newline),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.looked_at.push(format!("{source}: does not exist"));
            }
            Err(error) => self.looked_at.push(format!("{source}: {error}")),
        }
        if known == Known::OnlyHere {
            for identity in &mut self.identities[before..] {
                identity.own_file = Some(path.to_owned());
            }
        }
    }

    /// Returns the recipients of the identities at hand.
    pub fn recipients(&self) -> Vec<String> {
        let recipients = self.identities.iter();
        recipients.map(|own| own.recipient.clone()).collect()
    }

    /// Returns the identity file that a stock program must be told of to open a file for
    /// `recipients`; `None` where it finds an identity by itself.
    pub fn file_to_name(&self, recipients: &[String]) -> Option<&Path> {
        let fits = |identity: &&Identity| recipients.contains(&identity.recipient);
        let mut fitting = self.identities.iter().filter(fits);
        let first = fitting.next()?.own_file.as_deref()?;
        fitting
            .all(|identity| identity.own_file.is_some())
            .then_some(first)
    }

    fn add_text(&mut self, source: &str, text: &[u8], lines: Lines) {
        let (identities, note) = parse_identities(text, lines);
        self.looked_at.push(format!("{source}: {note}"));
        self.identities.extend(identities);
    }

    /// Returns the data key of a file. The identity whose recipient is named is tried first.
    ///
    /// # Errors
    /// `NoIdentity`, `Damaged` when the fitting identity cannot unwrap, `SeveralGroups`.
    pub fn unwrap(&self, metadata: &Metadata) -> Result<DataKey, KeyError> {
        if metadata.groups.len() > 1 {
            return Err(KeyError::SeveralGroups {
                groups: metadata.groups.len(),
            });
        }
        let wrapped: Vec<(&str, &str)> = metadata
            .groups
            .iter()
            .flatten()
            .filter_map(|key| match key {
                MasterKey::Age { recipient, enc } => Some((recipient.as_str(), enc.as_str())),
                MasterKey::Other { .. } => None,
            })
            .collect();
        let mut damaged = None;
        for (recipient, enc) in &wrapped {
            if let Some(identity) = self
                .identities
                .iter()
                .find(|own| own.recipient == *recipient)
            {
                match unwrap_with(identity, enc) {
                    Some(key) => return Ok(key),
                    None => damaged = damaged.or(Some((*recipient).to_owned())),
                }
            }
        }
        // The recipient field is only a label: an identity may fit all the same.
        for (_, enc) in &wrapped {
            if let Some(key) = self
                .identities
                .iter()
                .find_map(|identity| unwrap_with(identity, enc))
            {
                return Ok(key);
            }
        }
        let mut looked_at = self.looked_at.clone();
        for (recipient, enc) in &wrapped {
            let Some(answer) = self.ask_command(recipient) else {
                break;
            };
            let (identities, _) = parse_identities(answer.lines.expose(), Lines::Newline);
            if let Some(key) = identities
                .iter()
                .find_map(|identity| unwrap_with(identity, enc))
            {
                return Ok(key);
            }
            looked_at.push(answer.note);
        }
        if let Some(recipient) = damaged {
            return Err(KeyError::Damaged { recipient });
        }
        let mut wanted: Vec<String> = wrapped
            .iter()
            .map(|(recipient, _)| (*recipient).to_owned())
            .collect();
        wanted.extend(
            metadata
                .other_kinds()
                .iter()
                .map(|kind| format!("a key of kind {kind}")),
        );
        Err(KeyError::NoIdentity { wanted, looked_at })
    }

    /// Runs the key command for a recipient, once.
    fn ask_command(&self, recipient: &str) -> Option<CommandAnswer> {
        let words = self.command.as_ref()?;
        let mut answers = self
            .from_command
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(answer) = answers.get(recipient) {
            return Some(answer.clone());
        }
        let answer = match process::capture_with_variable(words, RECIPIENT_VARIABLE, recipient) {
            Ok(bytes) => {
                let lines = SecretBytes::new(bytes);
                let (_, note) = parse_identities(lines.expose(), Lines::Newline);
                CommandAnswer {
                    lines,
                    note: format!("{COMMAND_VARIABLE}: {note}"),
                }
            }
            Err(error) => CommandAnswer {
                lines: SecretBytes::default(),
                note: format!("{COMMAND_VARIABLE}: `{}`: {error}", words[0]),
            },
        };
        answers.insert(recipient.to_owned(), answer.clone());
        Some(answer)
    }
}

/// Whether stock programs look in a place by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They do.
    Everywhere,
    /// Only this program does.
    OnlyHere,
}

/// How identities are separated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// By any blank, lines that start with `#` left out (`SOPS_AGE_KEY`).
    AnyBlank,
    /// One a line.
    Newline,
}

/// Reads identities and says in words what was found.
fn parse_identities(text: &[u8], lines: Lines) -> (Vec<Identity>, String) {
    let Ok(text) = std::str::from_utf8(text) else {
        return (Vec::new(), "not text".to_owned());
    };
    if text.trim_start().starts_with("age-encryption")
        || text.trim_start().starts_with("-----BEGIN AGE")
    {
        return (
            Vec::new(),
            "protected by a passphrase, not supported yet".to_owned(),
        );
    }
    let mut identities = Vec::new();
    let (mut unsupported, mut unknown) = (0, 0);
    let words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| -> Box<dyn Iterator<Item = &str>> {
            match lines {
                Lines::AnyBlank => Box::new(line.split_whitespace()),
                Lines::Newline => Box::new(iter::once(line.trim())),
            }
        })
        .filter(|word| !word.is_empty());
    for word in words {
        if let Ok(key) = x25519::Identity::from_str(word) {
            identities.push(Identity {
                recipient: key.to_public().to_string(),
                key,
                own_file: None,
            });
        } else if word.starts_with("AGE-PLUGIN-") || word.starts_with("AGE-SECRET-KEY-PQ-1") {
            unsupported += 1;
        } else {
            unknown += 1;
        }
    }
    let mut notes = match identities.len() {
        0 => vec!["no identity".to_owned()],
        1 => vec![format!("holds {}", identities[0].recipient)],
        count => vec![format!("holds {count} identities, none of them fits")],
    };
    if unsupported > 0 {
        notes.push(format!("{unsupported} of a kind not supported yet"));
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

fn unwrap_with(identity: &Identity, enc: &str) -> Option<DataKey> {
    let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(enc.as_bytes())).ok()?;
    let reader = decryptor
        .decrypt(iter::once(&identity.key as &dyn age::Identity))
        .ok()?;
    // One byte more than a key, so that a longer payload is noticed; reserved, so that no copy
    // of the key is left behind by growing.
    let mut payload = SecretBytes::new(Vec::with_capacity(256));
    reader
        .take(DATA_KEY_BYTES as u64 + 1)
        .read_to_end(payload.expose_mut())
        .ok()?;
    DataKey::from_slice(payload.expose())
}

/// Checks that this version can encrypt to `recipient`.
///
/// # Errors
/// `InvalidRecipient`, `UnsupportedRecipient`.
pub fn check_recipient(recipient: &str) -> Result<(), KeyError> {
    parse_recipient(recipient).map(|_| ())
}

fn parse_recipient(text: &str) -> Result<x25519::Recipient, KeyError> {
    let recipient = text.to_owned();
    let kind = if text.starts_with("age1pq1") {
        "post-quantum"
    } else if text.starts_with("ssh-") {
        "SSH"
    } else if text.starts_with("age1") && text.bytes().filter(|&byte| byte == b'1').count() > 1 {
        "age plugin"
    } else {
        // The library takes upper case too, the reference does not.
        return x25519::Recipient::from_str(text)
            .ok()
            .filter(|_| text.starts_with("age1"))
            .ok_or(KeyError::InvalidRecipient { recipient });
    };
    Err(KeyError::UnsupportedRecipient { kind, recipient })
}

/// Wraps a data key for a recipient: an armored age file with a final newline.
///
/// # Errors
/// `InvalidRecipient`, `UnsupportedRecipient`, `WrapFailed`.
pub fn wrap(key: &DataKey, recipient: &str) -> Result<String, KeyError> {
    let parsed = parse_recipient(recipient)?;
    let wrap = || -> Option<String> {
        let encryptor =
            age::Encryptor::with_recipients(iter::once(&parsed as &dyn age::Recipient)).ok()?;
        let armored = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).ok()?;
        let mut writer = encryptor.wrap_output(armored).ok()?;
        writer.write_all(key.expose()).ok()?;
        let bytes = writer.finish().ok()?.finish().ok()?;
        let mut text = String::from_utf8(bytes).ok()?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Some(text)
    };
    wrap().ok_or_else(|| KeyError::WrapFailed {
        recipient: recipient.to_owned(),
    })
}
