//! `updatekeys`, `groups add` and `groups delete`: other keys for the same data key.

use std::path::Path;

use crate::os::fs;
use crate::sops::master_key::{KeyId, MasterKey};
use crate::sops::metadata::{GroupChange, KeyGroup, group_changes};

use super::config::{self, Found};
use super::crypt;
use super::failure::{Failure, code};
use super::files::{self, Holds, Loaded};
use super::flags::Parsed;
use super::{Run, check_services};

/// Brings the keys of files in line with the rules file.
///
/// # Errors
/// With the general code where one of them cannot be; the others are brought in line all the same.
pub(super) fn update_keys(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let Some(found) = config::find(run)? else {
        return Err(Failure::generic("config file not found"));
    };
    if parsed.args.is_empty() {
        return Err(Failure::new(code::NO_FILE, "Error: no file specified"));
    }
    check_services(run, parsed)?;
    let mut failed = 0;
    for path in &parsed.args {
        let path = run.absolute(path);
        match update_file(run, parsed, &found, &path) {
            Ok(()) => {}
            Err(failure) if parsed.args.len() == 1 => return Err(failure),
            Err(failure) => {
                failed += 1;
                run.warn(&failure.text);
            }
        }
    }
    if failed > 0 {
        let text = format!("failed updating {failed} key(s)");
        return Err(Failure::generic(text));
    }
    Ok(0)
}

fn update_file(
    run: &mut Run<'_>,
    parsed: &Parsed,
    found: &Found,
    path: &Path,
) -> Result<(), Failure> {
    if !fs::exists(path) {
        let text = format!("stat {}: no such file or directory", path.display());
        return Err(Failure::generic(text));
    }
    if fs::is_folder(path) {
        return Err(Failure::generic("can't operate on a directory"));
    }
    files::clean_up(run, path);
    let format = files::format_of(&parsed.text("input-type"), path.as_os_str());
    say(run, &format!("Syncing keys for file {}", path.display()));
    let bytes = files::read(run, Some(path))?;
    let Loaded { tree, mut metadata } = files::load_encrypted(format, bytes)?;
    let Some(rule) = config::rule_for(run, path, &[])? else {
        return Err(Failure::generic(format!(
            "The config file {} does not contain any creation rule",
            found.path.display()
        )));
    };
    config::warn_of_unknown_keys(run, &rule);
    // The reference compares keys as they are written.
    let changes = group_changes(&metadata.groups, &rule.groups, KeyId::to_string);
    let will_change = !changes.iter().all(GroupChange::is_none);
    let old_threshold = metadata.threshold();
    let threshold = old_threshold.min(rule.groups.len());
    if rule.threshold != 0 && rule.threshold != threshold && rule.groups.len() > 1 {
        let kept = if threshold == 0 {
            "all groups are needed".to_owned()
        } else {
            format!("the file keeps {threshold}")
        };
        run.warn(&format!(
            "the rule's shamir_threshold of {} does not count here: {kept}",
            rule.threshold
        ));
    }
    if !will_change && threshold == old_threshold {
        say(run, &format!("File {} already up to date", path.display()));
        return Ok(());
    }
    let text = in_words(run, &changes, old_threshold, threshold);
    run.print(text.as_bytes())?;
    if !parsed.is_on("yes") && !confirmed(run, "Is this okay? (y/n):")? {
        say(run, &format!("File {} left unchanged", path.display()));
        return Ok(());
    }
    let keyring = run.keyring(&[]);
    let key = crypt::unwrap(run, &keyring, &metadata)?;
    let now = run.env.now();
    let groups = rule.groups.iter().map(|group| -> KeyGroup {
        let keys = group.iter().cloned();
        keys.map(|id| MasterKey::new(id, &now)).collect()
    });
    metadata.groups = groups.collect();
    crypt::rewrap(run, &keyring, &mut metadata, &key, threshold).map_err(|why| {
        Failure::generic(format!("error updating one or more master keys: {why}"))
    })?;
    let indents = config::configured_indents(run, format)?;
    let text = files::emit_encrypted(format, &tree, &metadata, indents)?;
    files::write(run, path, &text, Holds::Ciphertext)
        .map_err(|failure| Failure::generic(failure.text))?;
    say(
        run,
        &format!("File {} synced with new keys", path.display()),
    );
    Ok(())
}

/// Says on standard error how far it is, with the time, as Go's log does.
fn say(run: &mut Run<'_>, text: &str) {
    let now = run
        .env
        .now()
        .replace('-', "/")
        .replace('T', " ")
        .replace('Z', "");
    drop(writeln!(run.env.stderr, "{now} {}", super::harmless(text)));
}

fn in_words(
    run: &Run<'_>,
    changes: &[GroupChange<String>],
    old_threshold: usize,
    threshold: usize,
) -> String {
    let is_colored = run.env.stdout_is_terminal && run.env.var("NO_COLOR").is_none();
    let paint = |code: u8, line: String| {
        if is_colored {
            format!("\u{1b}[{code}m{line}\u{1b}[0m\n")
        } else {
            format!("{line}\n")
        }
    };
    let (underlined, green, red) = (4, 32, 31);
    let mut text = "The following changes will be made to the file's groups:\n".to_owned();
    if old_threshold > 0 && old_threshold == threshold {
        text.push_str(&format!("shamir_threshold: {threshold}\n"));
    } else {
        if threshold > 0 {
            text.push_str(&paint(green, format!("+++ shamir_threshold: {threshold}")));
        }
        if old_threshold > 0 {
            text.push_str(&paint(
                red,
                format!("--- shamir_threshold: {old_threshold}"),
            ));
        }
    }
    for (index, change) in changes.iter().enumerate() {
        text.push_str(&paint(underlined, format!("Group {}", index + 1)));
        for name in &change.kept {
            text.push_str(&format!("    {}\n", super::harmless(name)));
        }
        for name in &change.added {
            text.push_str(&paint(green, format!("+++ {}", super::harmless(name))));
        }
        for name in &change.removed {
            text.push_str(&paint(red, format!("--- {}", super::harmless(name))));
        }
    }
    text
}

/// Asks until `y` or `n` is answered.
///
/// # Errors
/// With the general code where nobody answers.
pub(super) fn confirmed(run: &mut Run<'_>, question: &str) -> Result<bool, Failure> {
    loop {
        run.print(question.as_bytes())?;
        let line = line_of(run)?;
        match line.trim() {
            "y" => return Ok(true),
            "n" => return Ok(false),
            "" => return Err(Failure::generic("unexpected newline")),
            _ => {}
        }
    }
}

/// Reads a line of standard input, byte for byte, so that what follows is left to others.
fn line_of(run: &mut Run<'_>) -> Result<String, Failure> {
    use std::io::Read;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match run.env.stdin.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) if line.len() < 4096 => line.push(byte[0]),
            Ok(0) if line.is_empty() => return Err(Failure::generic("EOF")),
            Ok(0) => break,
            Ok(_) => return Err(Failure::generic("expected newline")),
            Err(error) => return Err(Failure::generic(error.to_string())),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn file_of(run: &Run<'_>, parsed: &Parsed) -> std::path::PathBuf {
    run.absolute(parsed.os_text("file"))
}

/// Adds a group of keys to a file.
///
/// # Errors
/// As decrypting; a key that cannot be used leaves the file as it was.
pub(super) fn add(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    if !parsed.args.is_empty() {
        let text = "error: no positional arguments allowed";
        return Err(Failure::generic(text));
    }
    let context = config::encryption_context(run, parsed);
    let profile = parsed.text("aws-profile");
    let mut ids: Vec<KeyId> = Vec::new();
    for kind in [
        "pgp",
        "kms",
        "gcp-kms",
        "hckms",
        "hc-vault-transit",
        "azure-kv",
        "age",
    ] {
        for text in parsed.list(kind) {
            ids.extend(config::keys_of_flag(kind, &text, &context, &profile)?);
        }
    }
    let now = run.env.now();
    run.trusted.extend(ids.iter().cloned());
    let group: KeyGroup = ids.into_iter().map(|id| MasterKey::new(id, &now)).collect();
    change_groups(run, parsed, |groups| {
        groups.push(group);
        Ok(())
    })
}

/// Deletes a group of keys of a file.
///
/// # Errors
/// As decrypting; where fewer groups would be left than are needed.
pub(super) fn delete(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let [number] = &parsed.args[..] else {
        let text = "error: exactly one positional argument (index) required";
        return Err(Failure::generic(text));
    };
    let number = number.to_string_lossy();
    let index: usize = number.parse::<u32>().map_or_else(
        |_| {
            let text = format!("failed to parse [index] argument: {number:?} is no number");
            Err(Failure::generic(text))
        },
        |index| usize::try_from(index).map_err(|_| Failure::generic("no such group")),
    )?;
    change_groups(run, parsed, |groups| {
        if index >= groups.len() {
            // The reference ends with a panic here, whose code is this.
            let text = format!("there is no group {index}: the file has {}", groups.len());
            return Err(Failure::new(code::UNREADABLE, text));
        }
        groups.remove(index);
        Ok(())
    })
}

fn change_groups(
    run: &mut Run<'_>,
    parsed: &Parsed,
    change: impl FnOnce(&mut Vec<KeyGroup>) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let path = file_of(run, parsed);
    let format = files::format_of("", path.as_os_str());
    config::find(run)?;
    check_services(run, parsed)?;
    if parsed.is_on("in-place") {
        files::clean_up(run, &path);
    }
    let bytes = files::read(run, Some(&path))?;
    let Loaded { tree, mut metadata } = files::load_encrypted(format, bytes)?;
    let keyring = run.keyring(&[]);
    let key = crypt::unwrap(run, &keyring, &metadata).map_err(|failure| Failure {
        // The reference has no code of its own for it here.
        code: code::GENERIC,
        ..failure
    })?;
    let mut groups = metadata.groups.clone();
    change(&mut groups)?;
    let given = usize::try_from(parsed.number("shamir-secret-sharing-threshold")).unwrap_or(0);
    let threshold = if given == 0 {
        metadata.threshold()
    } else {
        given
    };
    if groups.len() < threshold && groups.len() < metadata.groups.len() {
        return Err(Failure::generic(format!(
            "removing this key group will make the Shamir threshold impossible to satisfy: Shamir threshold is {threshold}, but we only have {} key groups",
            groups.len()
        )));
    }
    metadata.groups = groups;
    crypt::rewrap(run, &keyring, &mut metadata, &key, threshold).map_err(|why| {
        Failure::generic(format!(
            "error updating one or more master keys: {why}; the file is as it was"
        ))
    })?;
    let indents = config::indents(run, format)?;
    let text = files::emit_encrypted(format, &tree, &metadata, indents)?;
    if parsed.is_on("in-place") {
        files::write(run, &path, &text, Holds::Ciphertext)?;
    } else {
        run.print(text.expose())?;
    }
    Ok(0)
}
