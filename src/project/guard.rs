//! What `encrypt` refuses to capture: content that would damage the encrypted file or that is not
//! what the entry should hold. Looks at one file, without history.

use crate::sops::error::DocumentError;
use crate::sops::store::{Format, conflict_marker};

use super::error::Refusal;
use super::lines;

/// Checks a source before it is encrypted and returns everything that speaks against it. `is_env`
/// tells whether the plaintext is an environment file, whatever it is stored as.
pub fn check_source(source: &[u8], stored: Format, is_env: bool) -> Vec<Refusal> {
    if source.is_empty() {
        return vec![Refusal::Empty];
    }
    if source.iter().all(u8::is_ascii_whitespace) {
        return vec![Refusal::Blank];
    }
    if is_sops_file(source) {
        return vec![Refusal::AlreadyEncrypted];
    }
    let mut refusals = Vec::new();
    let is_text = memchr::memchr(0, source).is_none();
    if let Some(line) = is_text.then(|| conflict_marker(source)).flatten() {
        refusals.push(Refusal::ConflictMarker { line });
    }
    if is_text && holds_only_comments(source, is_env) {
        refusals.push(Refusal::CommentsOnly);
    }
    if stored == Format::Dotenv {
        let values = lines::multi_line_values(source);
        refusals.extend(
            values
                .into_iter()
                .map(|(line, key)| Refusal::MultiLineValue {
                    line,
                    key: key.to_owned(),
                }),
        );
        if let (Err(error), true) = (stored.store().parse(source), refusals.is_empty()) {
            refusals.push(unrepresentable(&error));
        }
    }
    refusals
}

/// Turns what the store says of a source into a refusal.
pub fn unrepresentable(error: &DocumentError) -> Refusal {
    Refusal::Unrepresentable {
        reason: error.to_string(),
    }
}

/// Returns whether a key sounds like that of a secret and its value could be one: no path, no
/// plain address, and no setting of something that has to do with secrets.
pub fn looks_secret(key: &[u8], value: &[u8]) -> bool {
    const SHORTEST: usize = 6;
    const WORDS: [&str; 9] = [
        "auth",
        "credential",
        "key",
        "pass",
        "passphrase",
        "pin",
        "pwd",
        "secret",
        "token",
    ];
    const ENDS: [&str; 6] = [
        "apikey",
        "credential",
        "passwd",
        "password",
        "secret",
        "token",
    ];
    /// What stands behind the name of a secret in the name of something else.
    const SETTINGS: [&str; 20] = [
        "algorithm",
        "dir",
        "enabled",
        "endpoint",
        "expiry",
        "file",
        "hashers",
        "header",
        "id",
        "issuer",
        "length",
        "method",
        "name",
        "path",
        "required",
        "timeout",
        "ttl",
        "type",
        "uri",
        "url",
    ];
    if has_password_in_url(value) {
        return true;
    }
    let is_elsewhere = value.starts_with(b"/") || memchr::memmem::find(value, b"://").is_some();
    if value.len() < SHORTEST || is_elsewhere {
        return false;
    }
    let key = String::from_utf8_lossy(key).to_ascii_lowercase();
    let words: Vec<&str> = key
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .collect();
    let is_setting = words.last().is_some_and(|last| SETTINGS.contains(last));
    let is_public = words.iter().any(|word| matches!(*word, "public" | "pub"));
    let is_secret = words.iter().any(|word| {
        let word = word
            .strip_suffix("s")
            .filter(|one| *one != "pas")
            .unwrap_or(word);
        WORDS.contains(&word) || ENDS.iter().any(|end| word.ends_with(end))
    });
    is_secret && !is_public && !is_setting
}

fn has_password_in_url(value: &[u8]) -> bool {
    let Some(scheme) = memchr::memmem::find(value, b"://") else {
        return false;
    };
    let authority = value[scheme + 3..]
        .split(|byte| b"/?#".contains(byte))
        .next();
    let user = authority.and_then(|authority| {
        let at = authority.iter().rposition(|&byte| byte == b'@')?;
        Some(&authority[..at])
    });
    user.is_some_and(|user| {
        user.iter()
            .position(|&byte| byte == b':')
            .is_some_and(|at| at + 1 < user.len())
    })
}

fn holds_only_comments(source: &[u8], is_env: bool) -> bool {
    let marks: &[&[u8]] = if is_env {
        &[b"#"]
    } else {
        &[b"#", b"--", b";", b"//"]
    };
    source
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .all(|line| line.is_empty() || marks.iter().any(|mark| line.starts_with(mark)))
}

/// Returns whether a text is the output of SOPS in any of its formats.
fn is_sops_file(source: &[u8]) -> bool {
    const TOKEN: &[u8] = b"ENC[AES256_GCM,data:";
    // Every file of SOPS holds a token, at least that of its MAC.
    if memchr::memmem::find(source, TOKEN).is_none() {
        return false;
    }
    let parsed = Format::parse_sealed(source.to_vec());
    matches!(parsed, Ok(_) | Err(DocumentError::UnsupportedForm { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str) -> Vec<Refusal> {
        check_source(source.as_bytes(), Format::Dotenv, true)
    }

    #[test]
    fn sources_that_hold_nothing_are_refused() {
        assert_eq!(check(""), [Refusal::Empty]);
        assert_eq!(check(" \n\t\r\n"), [Refusal::Blank]);
        assert_eq!(check("# a\n\n#b\n"), [Refusal::CommentsOnly]);
        assert_eq!(
            check_source(b"-- x\n", Format::Binary, false),
            [Refusal::CommentsOnly]
        );
        assert_eq!(check("# a\nA=1\n"), []);
    }

    #[test]
    fn names_of_secrets_are_told_from_others() {
        for (key, value) in [
            ("DB_PASSWORD", "12345678"),
            ("dbPassword", "12345678"),
            ("API_KEY", "12345678"),
            ("apikey", "abcdef"),
            ("JWT_SECRETS", "12345678"),
            ("db.pass", "12345678"),
            ("AUTH_TOKEN", "12345678"),
            ("deploy-credentials", "12345678"),
            ("DB_PASSWORD2", "123456"),
            ("MYSQL_PWD", "123456"),
            ("REDIS_AUTH", "123456"),
            ("DATABASE_URL", "postgres://u:p@h/d"),
        ] {
            assert!(looks_secret(key.as_bytes(), value.as_bytes()), "{key}");
        }
        for (key, value) in [
            ("COMPASS", "12345678"),
            ("PUBLIC_KEY", "12345678"),
            ("KEYBOARD", "12345678"),
            ("TOKENIZER", "12345678"),
            ("DB_PASSWORD", "off"),
            ("SECRETS_DIR", "run/secrets"),
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/pg"),
            ("SSH_KEYS", "/root/.ssh/authorized_keys"),
            ("TOKEN_ISSUER", "https://auth.example.org"),
            ("CSRF_TOKEN_HEADER", "X-CSRF-Token"),
            ("PASSWORD_HASHERS", "argon2,bcrypt"),
            ("KEY_ID", "2024-key-01"),
            ("REQUIRE_TOKEN_URL", "example.org"),
            ("BASE_URL", "https://example.org/a@b:c"),
        ] {
            assert!(!looks_secret(key.as_bytes(), value.as_bytes()), "{key}");
        }
    }

    #[test]
    fn a_lone_conflict_marker_is_refused() {
        for marker in [
            "<<<<<<< HEAD",
            "=======",
            ">>>>>>> branch",
            "||||||| base",
            "=======\r",
        ] {
            let refusals = check(&format!("A=1\n{marker}\nB=2\n"));
            assert_eq!(refusals[0], Refusal::ConflictMarker { line: 2 }, "{marker}");
        }
        assert_eq!(check("A========\nB=<<<<<<< x\n"), []);
    }

    #[test]
    fn lines_that_stock_misreads_are_refused() {
        for (source, line) in [
            ("A=1\n  # c\n", 2),
            ("A=1\n \nB=2\n", 2),
            ("A=1\r\n\r\n", 2),
            ("word\n", 1),
        ] {
            let refusals = check(source);
            let [Refusal::Unrepresentable { reason }] = &refusals[..] else {
                panic!("{refusals:?}")
            };
            assert!(reason.starts_with(&format!("line {line}:")), "{reason}");
        }
        assert_eq!(
            check("K='a\nb=c'\n"),
            [Refusal::MultiLineValue {
                line: 1,
                key: "K".to_owned()
            }]
        );
        assert!(matches!(
            check("sops_mac=x\n")[..],
            [Refusal::Unrepresentable { .. }]
        ));
    }
}
