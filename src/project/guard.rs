//! What `encrypt` refuses to capture: content that would damage the encrypted file or that is not
//! what the entry should hold. Looks at one file, without history.

use std::collections::HashMap;

use crate::sops::Layout;
use crate::sops::document::{Document, Leaf, Note};
use crate::sops::error::DocumentError;
use crate::sops::store::{Format, conflict_marker};
use crate::sops::value::Value;

use super::error::Refusal;
use super::keys::{COMMENTS, Keyed, Reading};
use super::lines;

/// Checks a source before it is encrypted and returns it as it is read in the form it is stored in;
/// `reading` is that of the plaintext, whatever it is stored as.
///
/// # Errors
/// Everything that speaks against it.
pub fn check_source(
    source: &[u8],
    stored: Format,
    reading: Reading,
    layout: Layout,
) -> Result<Document<'_>, Vec<Refusal>> {
    if source.is_empty() {
        return Err(vec![Refusal::Empty]);
    }
    if source.iter().all(u8::is_ascii_whitespace) {
        return Err(vec![Refusal::Blank]);
    }
    if is_sops_file(source) {
        return Err(vec![Refusal::AlreadyEncrypted]);
    }
    let mut refusals = Vec::new();
    let is_text = memchr::memchr(0, source).is_none();
    if let Some(line) = is_text.then(|| conflict_marker(source)).flatten() {
        refusals.push(Refusal::ConflictMarker { line });
    }
    if is_text && holds_only_comments(source, reading) {
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
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let document = stored.store().parse(source);
    let document = document.map_err(|error| vec![unrepresentable(&error)])?;
    if stored == Format::Dotenv
        && layout != Layout::Note
        && let Some(error) = raw_line(&document)
    {
        return Err(vec![unrepresentable(&error)]);
    }
    Ok(document)
}

/// Returns the first line that stock `sops` refuses.
fn raw_line(document: &Document<'_>) -> Option<DocumentError> {
    document.leaves.iter().find_map(|leaf| {
        let Note::Word { construct, .. } = leaf.spelling.note else {
            return None;
        };
        let before = &document.source[..leaf.span.start];
        Some(DocumentError::Line {
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            construct,
            format: "dotenv",
        })
    })
}

/// What a guard is told to let pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// The entry may lose more than half of what is stored, and what is required.
    pub shrink: bool,
    /// These keys may become empty or placeholders.
    pub placeholders: &'a [String],
}

/// Compares a source with what is stored, `None` where nothing is or it is too long to be opened, and
/// returns everything that makes it look like an accident.
pub fn check_change(
    stored: Option<&[u8]>,
    source: &[u8],
    reading: Reading,
    required: &[String],
    allowed: Allowed<'_>,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if stored.is_none() && required.is_empty() {
        return refusals;
    }
    let keys_of_source = reading.keys(source);
    let keys_of_stored = stored.map(|stored| reading.keys(stored));
    let (Some(keys_of_source), Some(Some(_)) | None) = (&keys_of_source, &keys_of_stored) else {
        let stored = stored.map(<[u8]>::len).filter(|_| !allowed.shrink);
        refusals.extend(stored.and_then(|stored| shrunk(source.len(), stored, "bytes")));
        return refusals;
    };
    let now = last_values(keys_of_source);
    if !allowed.shrink {
        let is_hollow = |value: &&[u8]| {
            matches!(reading, Reading::Tree(_))
                && matches!(*value, b"null" | b"[]" | b"{}" | b"\"\"")
        };
        let is_missing = |key: &&String| now.get(key.as_str()).is_none_or(is_hollow);
        let missing: Vec<&str> = required
            .iter()
            .filter(is_missing)
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            let keys = missing.join(", ");
            refusals.push(Refusal::RequiredMissing { keys });
        }
    }
    let Some(Some(keys_of_stored)) = &keys_of_stored else {
        return refusals;
    };
    let before = last_values(keys_of_stored);
    if !allowed.shrink {
        refusals.extend(shrunk(now.len(), before.len(), "keys"));
    }
    let mut emptied: Vec<&str> = before
        .iter()
        .filter(|(key, old)| {
            let new = now.get(*key);
            let is_hollow = |value: &[u8]| {
                matches!(reading, Reading::Tree(_)) && matches!(value, b"null" | b"[]" | b"{}")
            };
            new.is_some_and(|new| {
                is_placeholder_now(old, new)
                    || (is_hollow(new) && !is_hollow(old) && !is_placeholder(bare(old)))
            }) && !allowed.placeholders.iter().any(|allowed| allowed == *key)
        })
        .map(|(key, _)| *key)
        .collect();
    if !emptied.is_empty() {
        emptied.sort_unstable();
        let keys = emptied.join(", ");
        refusals.push(Refusal::Placeholder { keys });
    }
    refusals
}

/// Returns the refusal of a source that lost more than half of what is stored.
pub fn shrunk(now: usize, stored: usize, unit: &str) -> Option<Refusal> {
    let is_less_than_half = now.saturating_mul(2) < stored;
    let unit = if now == 1 {
        unit.trim_end_matches('s')
    } else {
        unit
    };
    is_less_than_half.then(|| Refusal::Shrunk {
        now: format!("{now} {unit}"),
        stored: stored.to_string(),
    })
}

/// Returns the last value of each key, which is what readers take.
fn last_values<'k>(keys: &'k Keyed<'_>) -> HashMap<&'k str, &'k [u8]> {
    let keys = keys.iter();
    let keys = keys.filter(|(key, _)| !matches!(&**key, COMMENTS | lines::OTHER_LINES));
    keys.filter_map(|(key, values)| Some((&**key, values.last()?.expose())))
        .collect()
}

/// Returns whether a value that held something became one that holds nothing, or stands for another.
fn is_placeholder_now(old: &[u8], new: &[u8]) -> bool {
    let (old, new) = (bare(old), bare(new));
    if old == new || is_placeholder(old) {
        return false;
    }
    let refers = |value: &[u8]| {
        let start = memchr::memmem::find(value, b"${");
        start.is_some_and(|start| value[start..].contains(&b'}'))
    };
    is_placeholder(new) || (refers(new) && !refers(old))
}

/// Returns a value without blanks and quotes around it.
fn bare(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value {
        [first @ (b'"' | b'\'' | b'`'), inner @ .., last] if first == last => inner.trim_ascii(),
        _ => value,
    }
}

/// Returns whether a value, without quotes, is empty or what people write where a value is to come.
fn is_placeholder(value: &[u8]) -> bool {
    const WORDS: [&str; 8] = [
        "changeit",
        "changeme",
        "dummy",
        "fixme",
        "placeholder",
        "redacted",
        "tbd",
        "todo",
    ];
    if let [b'<', .., b'>'] | [b'{', b'{', .., b'}', b'}'] = value {
        return true;
    }
    if let [b'$', name @ ..] = value
        && name
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || *byte == b'_')
        && !name.is_empty()
    {
        return true;
    }
    if value.starts_with(b"${") && value.ends_with(b"}") {
        return true;
    }
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let is_all = |wanted: u8| text.len() >= 3 && text.bytes().all(|byte| byte == wanted);
    if text.is_empty() || is_all(b'x') || is_all(b'*') {
        return true;
    }
    let is_mark = |c: char| !c.is_ascii_alphanumeric();
    let letters: String = text.chars().filter(|c| !is_mark(*c)).collect();
    let first = text.split(is_mark).find(|word| !word.is_empty());
    let is_invitation = letters.starts_with("replaceme")
        || letters.starts_with("changeme")
        || (letters.starts_with("your") && letters.ends_with("here"));
    is_invitation
        || WORDS.contains(&letters.as_str())
        || first.is_some_and(|word| matches!(word, "todo" | "fixme"))
}

/// Finds what a form would store in clear as the name of a key although it looks like none: a line of an environment
/// file that is no assignment to its readers, such as the end of a key in base64, or a name like that without a value. Asked
/// of a file that is new and whose own name speaks for another form: a row can give any file on the server such a form.
pub fn name_in_clear(document: &Document<'_>, stored: Format) -> Option<Refusal> {
    let line_of = |at: usize| memchr::memchr_iter(b'\n', &document.source[..at]).count() + 1;
    let at = if stored == Format::Dotenv {
        let mut located = lines::located(document.source).into_iter();
        located.find_map(|(range, item)| match item {
            lines::Item::Other(text) if text.contains(&b'=') => Some(range.start),
            lines::Item::Assignment { key, value: [], .. } => {
                looks_random(key.as_bytes()).then_some(range.start)
            }
            _ => None,
        })
    } else {
        let is_hollow = |leaf: &&Leaf<'_>| match &leaf.value {
            Value::Null => true,
            Value::Str(text) => text.expose().is_empty(),
            _ => false,
        };
        let mut leaves = document.leaves.iter().filter(is_hollow);
        let leaf = leaves.find(|leaf| leaf.path.keys_upward().any(looks_random));
        leaf.map(|leaf| leaf.span.start)
    };
    at.map(|at| Refusal::NameInClear { line: line_of(at) })
}

/// Returns whether a name looks like a key or a password that a program made: letters of both cases and digits, and long.
fn looks_random(name: &[u8]) -> bool {
    const SHORTEST: usize = 16;
    let has = |test: fn(&u8) -> bool| name.iter().any(test);
    name.len() >= SHORTEST
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-".contains(byte))
}

/// Turns what the store says of a source into a refusal.
pub fn unrepresentable(error: &DocumentError) -> Refusal {
    match error {
        DocumentError::NeedsNote { .. } => Refusal::NeedsNote {
            reason: error.to_string(),
        },
        _ => Refusal::Unrepresentable {
            reason: error.to_string(),
        },
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

fn holds_only_comments(source: &[u8], reading: Reading) -> bool {
    let marks: &[&[u8]] = match reading {
        Reading::Env | Reading::Tree(Format::Yaml) => &[b"#"],
        _ => &[b"#", b"--", b";", b"//"],
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
    Format::parse_sealed(source.to_vec()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str) -> Vec<Refusal> {
        check_source(
            source.as_bytes(),
            Format::Dotenv,
            Reading::Env,
            Layout::Exact,
        )
        .err()
        .unwrap_or_default()
    }

    #[test]
    fn sources_that_hold_nothing_are_refused() {
        assert_eq!(check(""), [Refusal::Empty]);
        assert_eq!(check(" \n\t\r\n"), [Refusal::Blank]);
        assert_eq!(check("# a\n\n#b\n"), [Refusal::CommentsOnly]);
        assert_eq!(
            check_source(b"-- x\n", Format::Binary, Reading::Bytes, Layout::Exact).unwrap_err(),
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

    fn change(stored: &str, source: &str, allowed: Allowed<'_>) -> Vec<Refusal> {
        let (stored, source) = (stored.as_bytes(), source.as_bytes());
        check_change(
            Some(stored),
            source,
            Reading::Env,
            &["A".to_owned()],
            allowed,
        )
    }

    #[test]
    fn a_source_that_lost_more_than_half_is_refused() {
        let none = Allowed::default();
        let shrunk = |now: &str, stored: &str| Refusal::Shrunk {
            now: now.to_owned(),
            stored: stored.to_owned(),
        };
        assert_eq!(
            change("A=1\nB=1\nC=1\n", "A=1\n", none),
            [shrunk("1 key", "3")]
        );
        assert_eq!(change("A=1\nB=1\nC=1\nD=1\n", "A=1\nB=2\n", none), []);
        let keys = "A".to_owned();
        assert_eq!(
            change("A=1\nB=1\n", "B=1\n", none),
            [Refusal::RequiredMissing { keys }]
        );
        let shrink = Allowed {
            shrink: true,
            ..none
        };
        assert_eq!(change("A=1\nB=1\nC=1\n", "B=1\n", shrink), []);
        assert_eq!(
            check_change(Some(b"12345"), b"12", Reading::Bytes, &[], none),
            [shrunk("2 bytes", "5")]
        );
        assert_eq!(
            check_change(Some(b"1234"), b"12", Reading::Bytes, &[], none),
            []
        );
        assert_eq!(
            check_change(None, b"B=1", Reading::Env, &["B".to_owned()], none),
            []
        );
    }

    #[test]
    fn a_value_that_became_a_placeholder_is_refused() {
        for new in [
            "",
            "''",
            "\" \"",
            "changeme",
            "CHANGE_ME",
            "change-me!",
            "xxx",
            "XXXXXX",
            "<secret>",
            "TODO",
            "TODO: ask",
            "REPLACE_ME",
            "${B}",
            "'${B:-x}'",
            "a${B}c",
            "`TODO`",
            "REDACTED",
            "********",
            "{{ b }}",
            "$DB_PASSWORD",
            "your-password-here",
            "replace_me_now",
        ] {
            let keys = "B".to_owned();
            let found = change(
                "A=1\nB=real\n",
                &format!("A=1\nB={new}\n"),
                Allowed::default(),
            );
            assert_eq!(found, [Refusal::Placeholder { keys }], "{new:?}");
            let placeholders = &["B".to_owned()][..];
            let allowed = Allowed {
                shrink: false,
                placeholders,
            };
            assert_eq!(
                change("A=1\nB=real\n", &format!("A=1\nB={new}\n"), allowed),
                []
            );
        }
        for (old, new) in [
            ("real", "other"),
            ("", "changeme"),
            ("TODO", ""),
            ("a${C}", "b${C}"),
            ("real", "xx"),
            ("real", "exchange-meters"),
            ("real", "a<b>c"),
            ("real", "$2y$10$abc{x}"),
            ("real", "'real'"),
        ] {
            let (old, new) = (format!("A=1\nB={old}\n"), format!("A=1\nB={new}\n"));
            assert_eq!(
                change(&old, &new, Allowed::default()),
                [],
                "{old:?} {new:?}"
            );
        }
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
