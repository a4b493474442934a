//! Identities behind a passphrase: files that `age -p` made, and SSH keys.
//!
//! Asked last, on a terminal only, each once in a run. The work a passphrase costs is bounded, so that
//! no file can keep a run busy for hours.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use age::armor::ArmoredReader;
use age::secrecy::SecretString;
use age::{scrypt, ssh};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::os::terminal::Ask;
use crate::secret::SecretBytes;

use super::age::Identity;

/// The largest scrypt work factor, as a power of two; what the reference takes.
const LARGEST_WORK_FACTOR: u8 = 22;
/// The most rounds of an SSH key's bcrypt; `ssh-keygen` makes 24 unless told otherwise.
const MOST_ROUNDS: u32 = 4096;
/// So often a passphrase may be typed.
const ATTEMPTS: usize = 3;
/// An identity file is never longer, encrypted or not (16 MiB, as in the reference).
pub const LARGEST_FILE: u64 = 16 << 20;

/// An identity behind a passphrase.
pub struct Locked {
    /// The file, for the question.
    pub path: PathBuf,
    /// The recipient it answers to, where that is known without passphrase.
    pub recipient: Option<String>,
    content: Content,
    /// Whether identities of plugins count: not where only the manifest names the file.
    takes_plugins: bool,
    opened: Mutex<State>,
}

enum Content {
    /// An age file, encrypted to a passphrase.
    AgeFile(SecretBytes),
    /// An SSH private key.
    Ssh(ssh::EncryptedKey),
}

/// What became of asking.
#[derive(Clone, Default)]
enum State {
    #[default]
    NotAsked,
    Failed(String),
    Opened(Arc<Vec<Identity>>),
}

/// Returns whether a text is an age file, to be opened before it holds identities.
pub fn is_age_file(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.starts_with(b"age-encryption") || text.starts_with(b"-----BEGIN AGE")
}

/// Returns whether a text is an SSH private key.
pub fn is_ssh_key(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY")
        || text.starts_with(b"-----BEGIN RSA PRIVATE KEY")
        || text.starts_with(b"-----BEGIN PRIVATE KEY")
        || text.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
}

impl Locked {
    /// Returns an age file behind a passphrase.
    ///
    /// # Errors
    /// Says in words what is wrong with it: damaged, for recipients instead of a passphrase, or more
    /// work than is allowed.
    pub fn age_file(
        path: PathBuf,
        content: SecretBytes,
        takes_plugins: bool,
    ) -> Result<Self, String> {
        let decryptor = decryptor(content.expose())
            .map_err(|_| "an age file with a damaged or cut header".to_owned())?;
        if !decryptor.is_scrypt() {
            return Err("an age file for recipients, not behind a passphrase".to_owned());
        }
        if let Some(factor) = work_factor(content.expose())
            && factor > u32::from(LARGEST_WORK_FACTOR)
        {
            return Err(format!(
                "its passphrase would cost 2^{factor} steps, more than the 2^{LARGEST_WORK_FACTOR} that are allowed"
            ));
        }
        Ok(Self {
            path,
            recipient: None,
            content: Content::AgeFile(content),
            takes_plugins,
            opened: Mutex::new(State::NotAsked),
        })
    }

    /// Returns an SSH key behind a passphrase; `text` is its file.
    ///
    /// # Errors
    /// Says in words that its passphrase would be more work than is allowed.
    pub fn ssh(
        path: PathBuf,
        key: ssh::EncryptedKey,
        text: &[u8],
        recipient: Option<String>,
    ) -> Result<Self, String> {
        match bcrypt_rounds(text) {
            Some(rounds) if rounds <= MOST_ROUNDS => {}
            Some(rounds) => {
                return Err(format!(
                    "its passphrase would cost {rounds} rounds, more than the {MOST_ROUNDS} that are allowed"
                ));
            }
            None => return Err("an SSH key whose head cannot be read".to_owned()),
        }
        Ok(Self {
            path,
            recipient,
            content: Content::Ssh(key),
            takes_plugins: false,
            opened: Mutex::new(State::NotAsked),
        })
    }

    /// Asks for the passphrase, once in a run, and returns the identities behind it.
    ///
    /// # Errors
    /// Says in words why there are none.
    pub fn open(&self, ask: Option<&Arc<dyn Ask>>) -> Result<Arc<Vec<Identity>>, String> {
        let mut state = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::NotAsked = *state {
            *state = match ask {
                None => State::Failed(
                    "behind a passphrase, and there is no terminal to ask for it".to_owned(),
                ),
                Some(ask) => match self.ask(&**ask) {
                    Ok(identities) => State::Opened(Arc::new(identities)),
                    Err(reason) => State::Failed(reason),
                },
            };
        }
        match &*state {
            State::Opened(identities) => Ok(Arc::clone(identities)),
            State::Failed(reason) => Err(reason.clone()),
            State::NotAsked => Err("not asked".to_owned()),
        }
    }

    fn ask(&self, ask: &dyn Ask) -> Result<Vec<Identity>, String> {
        let path = self.path.display();
        for attempt in 1..=ATTEMPTS {
            let answer = ask
                .hidden(&format!("Passphrase for {path}: "))
                .map_err(|error| format!("behind a passphrase that could not be asked: {error}"))?;
            if answer.is_empty() {
                return Err("behind a passphrase, none was typed".to_owned());
            }
            let Ok(passphrase) = std::str::from_utf8(answer.expose()) else {
                continue;
            };
            let passphrase = SecretString::from(passphrase.to_owned());
            match self.unlock(passphrase)? {
                Some(identities) => return Ok(identities),
                None if attempt < ATTEMPTS => ask.say("Wrong passphrase, try again."),
                None => {}
            }
        }
        Err("behind a passphrase, and what was typed is wrong".to_owned())
    }

    /// Tries a passphrase; `None` where it is wrong.
    fn unlock(&self, passphrase: SecretString) -> Result<Option<Vec<Identity>>, String> {
        match &self.content {
            Content::Ssh(key) => Ok(key
                .decrypt(passphrase)
                .ok()
                .map(|key| vec![Identity::Ssh(Box::new(ssh::Identity::Unencrypted(key)))])),
            Content::AgeFile(content) => {
                let damaged = "an age file with damaged content";
                let decryptor = decryptor(content.expose()).map_err(|_| damaged.to_owned())?;
                let mut identity = scrypt::Identity::new(passphrase);
                identity.set_max_work_factor(LARGEST_WORK_FACTOR);
                let reader = match decryptor.decrypt(std::iter::once(&identity as _)) {
                    Ok(reader) => reader,
                    Err(
                        age::DecryptError::DecryptionFailed | age::DecryptError::NoMatchingKeys,
                    ) => {
                        return Ok(None);
                    }
                    Err(_) => return Err(damaged.to_owned()),
                };
                let mut text = SecretBytes::new(Vec::with_capacity(content.len()));
                reader
                    .take(LARGEST_FILE)
                    .read_to_end(text.expose_mut())
                    .map_err(|_| damaged.to_owned())?;
                let lines = std::str::from_utf8(text.expose()).map_err(|_| damaged.to_owned())?;
                let identities: Vec<Identity> = lines
                    .lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .filter_map(Identity::parse)
                    .filter(|identity| {
                        self.takes_plugins || !matches!(identity, Identity::Plugin(_))
                    })
                    .collect();
                if identities.is_empty() {
                    return Err("an age file that holds no identity".to_owned());
                }
                Ok(Some(identities))
            }
        }
    }
}

fn decryptor(
    content: &[u8],
) -> Result<age::Decryptor<ArmoredReader<BufReader<&[u8]>>>, age::DecryptError> {
    age::Decryptor::new_buffered(ArmoredReader::new(content.trim_ascii_start()))
}

/// Reads the work factor of a file's scrypt stanza, before anything is done with it.
fn work_factor(content: &[u8]) -> Option<u32> {
    let mut header = vec![0; 4096];
    let length = {
        let mut reader = ArmoredReader::new(content.trim_ascii_start());
        let mut length = 0;
        while length < header.len() {
            match reader.read(&mut header[length..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => length += count,
            }
        }
        length
    };
    let text = String::from_utf8_lossy(&header[..length]).into_owned();
    let line = text.lines().find(|line| line.starts_with("-> scrypt "))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Reads the rounds of an OpenSSH private key's bcrypt: the KDF's options are a salt and the rounds.
fn bcrypt_rounds(text: &[u8]) -> Option<u32> {
    let [_cipher, _kdf, options, _public] = openssh_head(text)?;
    let rounds = options.last_chunk::<4>()?;
    Some(u32::from_be_bytes(*rounds))
}

/// Reads the public half of an OpenSSH private key, which is not encrypted, as a recipient.
pub fn public_half(text: &[u8]) -> Option<String> {
    let [.., public] = openssh_head(text)?;
    let (length, after) = public.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let kind = std::str::from_utf8(after.get(..length)?).ok()?;
    Some(format!("{kind} {}", STANDARD.encode(&public)))
}

/// Reads the head of an OpenSSH private key (`PROTOCOL.key`): cipher, KDF, the KDF's options, and the
/// public key of the first of its keys.
fn openssh_head(text: &[u8]) -> Option<[Vec<u8>; 4]> {
    let text = std::str::from_utf8(text).ok()?;
    let body: String = text
        .lines()
        .map(str::trim)
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    let bytes = STANDARD.decode(body).ok()?;
    let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (cipher, rest) = string(rest)?;
    let (kdf, rest) = string(rest)?;
    let (options, rest) = string(rest)?;
    let (_count, rest) = rest.split_first_chunk::<4>()?;
    let (public, _) = string(rest)?;
    Some([cipher, kdf, options, public].map(<[u8]>::to_vec))
}

/// Splits a string off: its length in four bytes, then as many bytes.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, after) = bytes.split_first_chunk::<4>()?;
    after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
