//! PGP keys, through the `gpg` program: its keyring, its agent, its questions.
//!
//! SOPS `pgp/keysource.go`: `SOPS_GPG_EXEC` names another program; `gpg` itself looks at `GNUPGHOME`.

use std::ffi::OsString;
use std::io::ErrorKind;

use crate::os::{Env, process};
use crate::secret::SecretBytes;

/// The program that knows the user's PGP keys.
pub struct Gpg {
    program: OsString,
}

impl Gpg {
    /// Returns the program of the user's environment.
    pub fn of(env: &Env) -> Self {
        let program = env.var("SOPS_GPG_EXEC");
        Self {
            program: program.map_or_else(|| "gpg".into(), OsString::from),
        }
    }

    /// Encrypts a data key, or a share of one, to a fingerprint: an armored PGP message without the
    /// line break at its end. The key need not be trusted, and no default recipient is added.
    ///
    /// # Errors
    /// What `gpg` says, in one text.
    pub fn wrap(&self, fingerprint: &str, key: &SecretBytes) -> Result<String, String> {
        // gpg wants a trusted key by its long identifier: 16 digits, and the mark of a subkey.
        let digits = 16 + usize::from(fingerprint.ends_with('!'));
        let at = fingerprint.len().saturating_sub(digits);
        let trusted = fingerprint.get(at..).unwrap_or(fingerprint);
        let args = [
            "--no-default-recipient",
            "--yes",
            "--encrypt",
            "-a",
            "-r",
            fingerprint,
            "--trusted-key",
            trusted,
            "--no-encrypt-to",
        ];
        let message = self.run(&args, key.expose())?;
        let text = String::from_utf8_lossy(message.expose()).trim().to_owned();
        if text.is_empty() {
            return Err("zero bytes returned".to_owned());
        }
        Ok(text)
    }

    /// Decrypts a message; the agent may ask for a passphrase.
    ///
    /// # Errors
    /// What `gpg` says, in one text.
    pub fn unwrap(&self, message: &str) -> Result<SecretBytes, String> {
        let key = self.run(&["-d"], message.as_bytes())?;
        // A gpg that does not know a cipher drops the packet and is content with that.
        if key.is_empty() {
            return Err("zero bytes returned".to_owned());
        }
        Ok(key)
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Result<SecretBytes, String> {
        let name = self.program.to_string_lossy();
        match process::feed(&self.program, args, input) {
            Ok(fed) if fed.is_success => Ok(fed.output),
            Ok(fed) => Err(fed.talk.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(format!(
                "the program `{name}` is not installed here; `SOPS_GPG_EXEC` names another"
            )),
            Err(error) => Err(format!("`{name}`: {error}")),
        }
    }
}
