//! Commands of the user that are given secrets: in their environment, in a file, in an editor.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use crate::secret::SecretBytes;

use super::signal::Held;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

/// The variables a command runs with.
pub type Variables = BTreeMap<OsString, OsString>;

#[expect(clippy::disallowed_methods, reason = "programs are started here")]
fn shell(command: &OsStr, variables: &Variables) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).env_clear().envs(variables);
    shell
}

/// Runs a command with `/bin/sh` and waits for it. SIGTERM and SIGHUP are handed on to it; SIGINT reaches
/// it from the terminal.
///
/// # Errors
/// When the shell cannot be started.
pub fn run(command: &OsStr, variables: &Variables) -> io::Result<End> {
    wait(shell(command, variables))
}

/// Starts a command with `/bin/sh` and does not wait for it. It is given `/dev/null` to read from and write
/// to: it outlives whoever reads our output.
///
/// # Errors
/// When the shell cannot be started.
pub fn start(command: &OsStr, variables: &Variables) -> io::Result<()> {
    let mut shell = shell(command, variables);
    shell.stdin(Stdio::null());
    shell.stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().map(drop)
}

/// Puts `/bin/sh` with a command in the place of this process.
///
/// # Errors
/// When that cannot be done; else it does not return.
pub fn become_command(command: &OsStr, variables: &Variables) -> io::Error {
    shell(command, variables).exec()
}

/// Runs a program with arguments on our own terminal and waits for it.
///
/// # Errors
/// When it cannot be started.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn run_program(words: &[OsString], variables: &Variables) -> io::Result<End> {
    let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(variables);
    wait(command)
}

fn wait(mut command: Command) -> io::Result<End> {
    // From before the start, so that no signal ends us and leaves the command behind.
    let held = Held::new();
    let mut signals = Signals::new(held.signals())?;
    let handle = signals.handle();
    // The thread is there before the command: a system that has none to give leaves nothing running.
    let (tell, told) = mpsc::channel::<Option<Pid>>();
    let forwarder = thread::Builder::new().spawn(move || {
        let Ok(id) = told.recv() else { return };
        for signal in signals.forever() {
            let signal = match signal {
                SIGTERM => Signal::TERM,
                SIGHUP => Signal::HUP,
                // The terminal has sent it to both.
                _ => continue,
            };
            if let Some(id) = id {
                let _ = kill_process(id, signal);
            }
        }
    })?;
    let child = command.spawn();
    let ended = child.and_then(|mut child: Child| {
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = tell.send(id);
        child.wait()
    });
    drop(tell);
    handle.close();
    drop(forwarder.join());
    ended.map(End::of)
}

/// Writes a content into a named pipe as soon as somebody reads it, in a thread of its own.
pub fn feed_pipe(path: &Path, content: SecretBytes) {
    let path = path.to_owned();
    drop(thread::Builder::new().spawn(move || {
        if let Ok(mut pipe) = File::options().write(true).open(&path) {
            // A reader that leaves early has all it wants.
            drop(pipe.write_all(content.expose()));
        }
    }));
}

/// Returns where a program is found, by `PATH`; the working directory does not count.
pub fn find_program(name: &str, variables: &Variables) -> Option<OsString> {
    let path = variables.get(OsStr::new("PATH"))?;
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|program| {
            let access = rustix::fs::Access::EXEC_OK;
            program.is_file() && rustix::fs::access(program, access).is_ok()
        })
        .map(Into::into)
}
