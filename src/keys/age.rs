//! age recipients and identities: every kind, from its text.
//!
//! A data key is wrapped for each recipient alone: one armored age file each, payload the 32 bytes.

use std::io::{Read, Write};
use std::iter;
use std::str::FromStr;
use std::sync::Arc;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::{ExposeSecret, SecretString};
use age::{plugin, ssh, x25519};

use crate::os::terminal::Ask;
use crate::secret::SecretBytes;
use crate::sops::data_key::DataKey;

use super::KeyError;
use super::hybrid::{self, HybridIdentity, HybridRecipient};

/// A recipient of any kind.
pub enum Recipient {
    /// `age1pq1…`.
    Hybrid(Box<HybridRecipient>),
    /// `age1NAME1…`: a program wraps for it.
    Plugin(plugin::Recipient),
    /// `ssh-ed25519 …` or `ssh-rsa …`.
    Ssh(Box<ssh::Recipient>),
    /// `age1…`.
    X25519(x25519::Recipient),
}

/// An identity of any kind that needs no question.
pub enum Identity {
    /// `AGE-SECRET-KEY-PQ-1…`.
    Hybrid(Box<HybridIdentity>),
    /// `AGE-PLUGIN-NAME-1…`: a program unwraps.
    Plugin(plugin::Identity),
    /// An SSH private key.
    Ssh(Box<ssh::Identity>),
    /// `AGE-SECRET-KEY-1…`.
    X25519(x25519::Identity),
}

/// Reads a recipient, by the tests of the reference in its order (SOPS `age/keysource.go`).
///
/// # Errors
/// `InvalidRecipient`.
pub fn parse_recipient(text: &str) -> Result<Recipient, KeyError> {
    let invalid = |reason: &'static str| KeyError::InvalidRecipient {
        recipient: shortened(text),
        reason,
    };
    if text.starts_with("age1pq1") {
        return HybridRecipient::parse(text)
            .map(|recipient| Recipient::Hybrid(Box::new(recipient)))
            .ok_or_else(|| invalid("it is damaged"));
    }
    if text.starts_with("age1") && text.bytes().filter(|&byte| byte == b'1').count() > 1 {
        return plugin::Recipient::from_str(text)
            .map(Recipient::Plugin)
            .map_err(|_| invalid("it is damaged"));
    }
    // The library takes upper case too, the reference does not.
    if text.starts_with("age1") {
        return x25519::Recipient::from_str(text)
            .map(Recipient::X25519)
            .map_err(|_| invalid("it is damaged"));
    }
    if text.starts_with("ssh-") {
        return match ssh::Recipient::from_str(text) {
            Ok(recipient) => Ok(Recipient::Ssh(Box::new(recipient))),
            Err(ssh::ParseRecipientKeyError::RsaModulusTooSmall) => {
                Err(invalid("an RSA key of less than 2048 bits"))
            }
            Err(ssh::ParseRecipientKeyError::RsaModulusTooLarge) => {
                Err(invalid("an RSA key of more than 4096 bits"))
            }
            Err(_) => Err(invalid("neither ssh-ed25519 nor ssh-rsa, or damaged")),
        };
    }
    Err(invalid("it is none"))
}

impl Recipient {
    /// Returns the name of the program that wraps for it.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            Self::Plugin(recipient) => Some(recipient.plugin()),
            _ => None,
        }
    }
}

/// Returns what of a recipient's text counts: the comment at the end of an SSH key does not.
pub fn canonical(recipient: &str) -> String {
    if recipient.starts_with("ssh-") {
        let words: Vec<&str> = recipient.split_ascii_whitespace().take(2).collect();
        return words.join(" ");
    }
    recipient.to_owned()
}

/// Shortens a text for messages, so that a key that stands in the wrong place is not shown whole.
pub fn shortened(text: &str) -> String {
    let plain: String = text.chars().take(20).collect();
    if plain.starts_with("AGE-SECRET-KEY") || plain.starts_with("-----BEGIN") {
        return "(an identity: the secret half)".to_owned();
    }
    if plain.len() < text.len() {
        format!("{plain}…")
    } else {
        plain
    }
}

/// Wraps a data key, or encrypts a content, for recipients: an armored age file with a final newline.
/// `ask` serves plugins that have questions.
///
/// # Errors
/// `InvalidRecipient`, `PluginMissing`, `WrapFailed`.
pub fn wrap(key: &DataKey, texts: &[&str], ask: Option<&Arc<dyn Ask>>) -> Result<String, KeyError> {
    let failed = || KeyError::WrapFailed {
        recipient: texts
            .first()
            .map_or_else(String::new, |text| shortened(text)),
    };
    let mut recipients: Vec<Box<dyn age::Recipient>> = Vec::with_capacity(texts.len());
    for text in texts {
        recipients.push(match parse_recipient(text)? {
            Recipient::Hybrid(recipient) => recipient,
            Recipient::Ssh(recipient) => recipient,
            Recipient::X25519(recipient) => Box::new(recipient),
            Recipient::Plugin(recipient) => {
                let name = recipient.plugin().to_owned();
                let one = [recipient];
                let plugin = plugin::RecipientPluginV1::new(&name, &one, &[], Questions::of(ask))
                    .map_err(|_| KeyError::PluginMissing { name })?;
                Box::new(plugin)
            }
        });
    }
    let recipients = recipients.iter().map(|recipient| &**recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(|_| failed())?;
    let wrap = || -> Option<String> {
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
    wrap().ok_or_else(failed)
}

impl Identity {
    /// Reads one line of an identity file.
    pub fn parse(line: &str) -> Option<Self> {
        if let Ok(key) = x25519::Identity::from_str(line) {
            return Some(Self::X25519(key));
        }
        // Before plugins, which would take it for one that is called `pq`.
        if line.starts_with(hybrid::IDENTITY_PREFIX) {
            return HybridIdentity::parse(line).map(|key| Self::Hybrid(Box::new(key)));
        }
        let plugin = plugin::Identity::from_str(line).ok()?;
        Some(Self::Plugin(plugin))
    }

    /// Returns the recipient it answers to; `None` for a plugin's, which only the plugin knows.
    pub fn recipient(&self) -> Option<String> {
        match self {
            Self::Hybrid(key) => Some(key.recipient().spelled()),
            Self::Plugin(_) => None,
            Self::Ssh(key) => ssh_recipient(key),
            Self::X25519(key) => Some(key.to_public().to_string()),
        }
    }

    /// Unwraps a data key; `None` where it does not fit, or the wrapped key is damaged.
    pub fn unwrap(&self, wrapped: &str, ask: Option<&Arc<dyn Ask>>) -> Option<DataKey> {
        match self {
            Self::Hybrid(key) => unwrap_with(&**key, wrapped),
            Self::Ssh(key) => unwrap_with(&**key, wrapped),
            Self::X25519(key) => unwrap_with(key, wrapped),
            Self::Plugin(key) => {
                let one = std::slice::from_ref(key);
                let plugin =
                    plugin::IdentityPluginV1::new(key.plugin(), one, Questions::of(ask)).ok()?;
                unwrap_with(&plugin, wrapped)
            }
        }
    }
}

/// Returns whether the program of a plugin's identity is installed.
pub fn has_plugin(identity: &plugin::Identity) -> bool {
    let one = std::slice::from_ref(identity);
    plugin::IdentityPluginV1::new(identity.plugin(), one, Questions::of(None)).is_ok()
}

/// Returns the recipient of an SSH key, as `ssh-keygen` spells it without comment.
pub fn ssh_recipient(key: &ssh::Identity) -> Option<String> {
    let copy = match key {
        ssh::Identity::Unencrypted(key) => ssh::Identity::Unencrypted(key.clone()),
        // Its public half is not encrypted, but the library gives it out only by value.
        _ => return None,
    };
    ssh::Recipient::try_from(copy)
        .ok()
        .map(|recipient| canonical(&recipient.to_string()))
}

fn unwrap_with(identity: &dyn age::Identity, wrapped: &str) -> Option<DataKey> {
    let reader = ArmoredReader::new(wrapped.trim_start().as_bytes());
    let decryptor = age::Decryptor::new_buffered(reader).ok()?;
    let reader = decryptor.decrypt(iter::once(identity)).ok()?;
    // Reserved, so that no copy is left behind by growing; the payload is shorter than its base64.
    let mut payload = SecretBytes::new(Vec::with_capacity(wrapped.len().max(256)));
    let mut reader = reader;
    reader.read_to_end(payload.expose_mut()).ok()?;
    Some(DataKey::of_content(payload))
}

/// A new identity and its recipient, as text.
pub struct NewIdentity {
    /// The lines of an identity file, as `age-keygen` writes them.
    pub file: SecretBytes,
    /// The recipient.
    pub recipient: String,
}

/// Makes a new identity; `now` is the time that its comment names, RFC 3339.
pub fn generate(is_hybrid: bool, now: &str) -> NewIdentity {
    let (secret, recipient) = if is_hybrid {
        let key = HybridIdentity::generate();
        let secret = SecretBytes::copy_of(key.spelled().as_bytes());
        (secret, key.recipient().spelled())
    } else {
        let key = x25519::Identity::generate();
        let secret = SecretBytes::copy_of(key.to_string().expose_secret().as_bytes());
        (secret, key.to_public().to_string())
    };
    let head = format!("# created: {now}\n# public key: {recipient}\n");
    let mut file = SecretBytes::new(Vec::with_capacity(head.len() + secret.len() + 1));
    let bytes = file.expose_mut();
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(secret.expose());
    bytes.push(b'\n');
    NewIdentity { file, recipient }
}

/// What plugins may ask: the person at the terminal, or nobody.
#[derive(Clone)]
struct Questions {
    ask: Option<Arc<dyn Ask>>,
}

impl Questions {
    fn of(ask: Option<&Arc<dyn Ask>>) -> Self {
        Self { ask: ask.cloned() }
    }
}

impl age::Callbacks for Questions {
    fn display_message(&self, message: &str) {
        if let Some(ask) = &self.ask {
            ask.say(&harmless(message));
        }
    }

    fn confirm(&self, message: &str, yes_string: &str, no_string: Option<&str>) -> Option<bool> {
        let no_string = no_string.unwrap_or("no");
        let question = format!("{message} [y: {yes_string}, n: {no_string}] ");
        let answer = self.ask.as_ref()?.line(&harmless(&question)).ok()??;
        Some(answer.trim().eq_ignore_ascii_case("y"))
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        let question = format!("{} ", harmless(description));
        let answer = self.ask.as_ref()?.line(&question).ok()??;
        Some(answer.trim().to_owned())
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        let question = format!("{} ", harmless(description));
        let answer = self.ask.as_ref()?.hidden(&question).ok()?;
        let answer = std::str::from_utf8(answer.expose()).ok()?;
        Some(SecretString::from(answer.to_owned()))
    }
}

/// Takes out of a plugin's text what could steer a terminal.
fn harmless(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() && !('\u{2066}'..='\u{2069}').contains(c))
        .collect()
}
