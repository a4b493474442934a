//! `exec-env` and `exec-file`: a command that is given the decrypted values.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::os::scratch::{Scratch, Use};
use crate::os::shell::{self, End};
use crate::os::signal;
use crate::sops::tree::{Item, Node};
use crate::sops::value::Value;

use super::crypt::{self, Reading};
use super::failure::{Failure, code};
use super::files;
use super::flags::Parsed;
use super::{Run, check_services, config, decryption_order};

/// The name of the file where none is given.
const FILE_NAME: &str = "tmp-file";
/// The exit code for a command that a signal ended.
const BY_SIGNAL: u8 = 255;

fn arguments(parsed: &Parsed) -> Result<(OsString, OsString), Failure> {
    match &parsed.args[..] {
        [file, command] => Ok((file.clone(), command.clone())),
        _ => Err(Failure::generic("error: missing file to decrypt")),
    }
}

fn check_user(parsed: &Parsed) -> Result<(), Failure> {
    if parsed.has("user") {
        return Err(Failure::generic(
            "--user: running a command as another user is deliberately absent; start it with `sudo -u`, `setpriv` or `runuser`",
        ));
    }
    Ok(())
}

/// Returns our exit code for a command that ended, and says it where the command failed.
fn code_of(run: &mut Run<'_>, end: End) -> u8 {
    let (code, text) = match end {
        End::Code(0) => return 0,
        End::Code(code) => (
            u8::try_from(code & 0xff).unwrap_or(BY_SIGNAL),
            format!("exit status {code}"),
        ),
        End::Signal(signal) => (BY_SIGNAL, format!("signal: {signal}")),
    };
    // Nobody to tell where standard error is closed.
    drop(writeln!(run.env.stderr, "{text}"));
    code
}

fn not_started(error: &std::io::Error) -> Failure {
    Failure::generic(format!("fork/exec /bin/sh: {}", files::in_words(error)))
}

/// Runs a command with the values of a file's first document as variables.
///
/// # Errors
/// As decrypting; for a value that no variable can hold.
pub(super) fn with_environment(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (file, command) = arguments(parsed)?;
    config::find(run)?;
    check_services(run, parsed)?;
    let reading = Reading {
        order: decryption_order(parsed)?,
        ignore_mac: false,
    };
    let is_background = parsed.is_on("background");
    if is_background {
        run.warn("exec-env's --background option is deprecated and will be removed in a future version of sops");
        if parsed.is_on("same-process") {
            let text = "Error: The --same-process flag cannot be used with --background";
            return Err(Failure::new(code::CONFLICT, text));
        }
    }
    check_user(parsed)?;
    let path = run.absolute(&file);
    let bytes = files::read(run, Some(&path))?;
    let opened = crypt::open(run, files::format_of("", &file), bytes, &reading)?;
    let mut variables = if parsed.is_on("pristine") {
        shell::Variables::new()
    } else {
        run.env.vars.clone()
    };
    for item in opened.tree.documents.first().into_iter().flatten() {
        if let Some((key, value)) = variable_of(item)? {
            variables.insert(key, value);
        }
    }
    drop(opened);
    if parsed.is_on("same-process") {
        return Err(not_started(&shell::become_command(&command, &variables)));
    }
    if is_background {
        shell::start(&command, &variables).map_err(|error| not_started(&error))?;
        return Ok(0);
    }
    let end = shell::run(&command, &variables).map_err(|error| not_started(&error))?;
    Ok(code_of(run, end))
}

/// Returns an item as a variable; comments are none.
fn variable_of(item: &Item<'_>) -> Result<Option<(OsString, OsString)>, Failure> {
    let Item::Entry { key, node } = item else {
        return Ok(None);
    };
    let name = String::from_utf8_lossy(key);
    let Node::Scalar(value) = node else {
        return Err(complex(&name));
    };
    if matches!(value, Value::Empty(_)) {
        return Err(complex(&name));
    }
    if key.contains(&b'=') {
        return Err(Failure::generic(format!(
            "cannot use keys with '=' in environment: {name}"
        )));
    }
    let text = match value {
        Value::Str(text) => text.expose().to_vec(),
        value => value.flat_text().expose().to_vec(),
    };
    if key.is_empty() || key.contains(&0) || text.contains(&0) {
        return Err(Failure::generic(format!(
            "cannot use {name:?} in environment: neither an empty name nor a zero byte can be in one"
        )));
    }
    let key = OsStr::from_bytes(key).to_owned();
    Ok(Some((key, OsString::from_vec(text))))
}

fn complex(name: &str) -> Failure {
    Failure::generic(format!(
        "cannot use complex value in environment; offending key {name}"
    ))
}

/// Runs a command with the plaintext in a named pipe or a file, whose path takes the place of `{}`.
///
/// # Errors
/// As decrypting; for a name that leads out of the folder.
pub(super) fn with_file(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (file, command) = arguments(parsed)?;
    config::find(run)?;
    check_services(run, parsed)?;
    let reading = Reading {
        order: decryption_order(parsed)?,
        ignore_mac: false,
    };
    let (input, output) = config::formats(parsed, &file);
    check_user(parsed)?;
    let path = run.absolute(&file);
    let bytes = files::read(run, Some(&path))?;
    let opened = crypt::open(run, input, bytes, &reading)?;
    let indents = config::indents(run, output)?;
    let text = crypt::plain(&opened, &[], output, indents)?;
    drop(opened);
    let is_background = parsed.is_on("background");
    if is_background {
        run.warn("exec-file's --background option is deprecated and will be removed in a future version of sops");
    }
    let name = name_of(parsed)?;
    files::clean_up_scratch(run);
    let failed = |error: crate::os::fs::FsError| Failure::generic(error.to_string());
    signal::watched(|watch| {
        let folder = Scratch::create(run.env, Use::Exec).map_err(failed)?;
        let path = if parsed.is_on("no-fifo") {
            folder.write(&name, text.expose()).map_err(failed)?
        } else {
            let path = folder.make_pipe(&name).map_err(failed)?;
            shell::feed_pipe(&path, text);
            path
        };
        if watch.received().is_some() {
            return Ok(1);
        }
        let command = with_path(&command, &path);
        if is_background {
            shell::start(&command, &run.env.vars).map_err(|error| not_started(&error))?;
            return Ok(0);
        }
        let end = shell::run(&command, &run.env.vars);
        watch.forget();
        Ok(code_of(run, end.map_err(|error| not_started(&error))?))
    })
}

/// Returns the file's name; one that is asked for must stay in its folder.
fn name_of(parsed: &Parsed) -> Result<PathBuf, Failure> {
    let name = parsed.os_text("filename");
    if name.is_empty() {
        return Ok(PathBuf::from(FILE_NAME));
    }
    let path = Path::new(name);
    let mut parts = path.components();
    let is_plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    if !is_plain {
        return Err(Failure::generic(
            "The provided filename is not a local path.",
        ));
    }
    Ok(path.to_owned())
}

/// Replaces every `{}` by a path.
fn with_path(command: &OsStr, path: &Path) -> OsString {
    let command = command.as_bytes();
    let mut out = Vec::with_capacity(command.len());
    let mut at = 0;
    for found in memchr::memmem::find_iter(command, b"{}") {
        out.extend_from_slice(&command[at..found]);
        out.extend_from_slice(path.as_os_str().as_bytes());
        at = found + 2;
    }
    out.extend_from_slice(&command[at..]);
    OsString::from_vec(out)
}
