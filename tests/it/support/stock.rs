//! The reference programs: real `sops` and `age`.
//!
//! A test that needs one that is absent says so by name on standard error and does nothing else;
//! with `SECRETS_CI` set it fails instead.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Returns whether a program can be run; says `skipped:` once where it cannot.
pub(crate) fn available(program: &str, test: &str) -> bool {
    let works = Command::new(program)
        .arg("--version")
        .env("SOPS_DISABLE_VERSION_CHECK", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        // `ssh-keygen` has no option that does nothing.
        .is_ok_and(|status| status.success() || program == "ssh-keygen");
    if !works {
        assert!(
            std::env::var_os("SECRETS_CI").is_none(),
            "{test} needs `{program}`, which is not installed"
        );
        let _ = writeln!(std::io::stderr(), "skipped: {test} needs `{program}`");
    }
    works
}

/// Runs `sops` in a folder with an identity.
pub(crate) fn sops(folder: &Path, key: &Path, args: &[&str]) -> Output {
    Command::new("sops")
        .args(args)
        .current_dir(folder)
        .env("SOPS_AGE_KEY_FILE", key)
        .env("SOPS_DISABLE_VERSION_CHECK", "true")
        .env("HOME", folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Decrypts a file of a stored form with stock `sops`.
pub(crate) fn decrypt(
    folder: &Path,
    key: &Path,
    kind: &str,
    file: &str,
) -> Result<Vec<u8>, String> {
    let output = sops(
        folder,
        key,
        &["decrypt", "--input-type", kind, "--output-type", kind, file],
    );
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
