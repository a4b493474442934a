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

/// Returns whether a key sounds like that of a secret and its value could be one.
pub fn looks_secret(key: &[u8], value: &[u8]) -> bool {
    const SHORTEST: usize = 8;
    const WORDS: [&str; 7] = [
        "credential",
        "key",
        "pass",
        "passphrase",
        "password",
        "secret",
        "token",
    ];
    let key = String::from_utf8_lossy(key).to_ascii_lowercase();
    let mut words = key.split(|c: char| !c.is_ascii_alphanumeric());
    let is_public = words.clone().any(|word| matches!(word, "public" | "pub"));
    let is_secret = words.any(|word| {
        let word = word
            .strip_suffix('s')
            .filter(|one| *one != "pas")
            .unwrap_or(word);
        WORDS.contains(&word)
            || [
                "apikey",
                "credential",
                "passwd",
                "password",
                "secret",
                "token",
            ]
            .iter()
            .any(|end| word.ends_with(end))
    });
    value.len() >= SHORTEST && is_secret && !is_public
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
        for key in [
            "DB_PASSWORD",
            "dbPassword",
            "API_KEY",
            "apikey",
            "JWT_SECRETS",
            "db.pass",
            "AUTH_TOKEN",
            "deploy-credentials",
        ] {
            assert!(looks_secret(key.as_bytes(), b"12345678"), "{key}");
        }
        for key in ["COMPASS", "PUBLIC_KEY", "KEYBOARD", "HOST", "TOKENIZER_URL"] {
            assert!(!looks_secret(key.as_bytes(), b"12345678"), "{key}");
        }
        assert!(!looks_secret(b"DB_PASSWORD", b"off"));
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
