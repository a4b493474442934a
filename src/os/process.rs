//! Other programs: `getent`, `git`, a key command, a pager.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use crate::secret::SecretBytes;

/// Runs a program without input and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn capture<S: AsRef<OsStr>>(program: &str, args: &[S]) -> io::Result<Vec<u8>> {
    let mut command = Command::new(program);
    let (status, output) = run(command.args(args))?;
    if status.success() {
        Ok(output)
    } else {
        Err(io::Error::other(format!("it ended with {status}")))
    }
}

/// Runs a program without input and returns how it ended, and its standard output. The standard library's way stops
/// the whole process where that cannot be read.
fn run(command: &mut Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    let quiet = command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.stdout(Stdio::piped()).spawn()?;
    let mut output = Vec::new();
    let read = child
        .stdout
        .take()
        .map(|mut pipe| pipe.read_to_end(&mut output));
    if let Some(Err(error)) = read {
        drop(child.kill());
        drop(child.wait());
        return Err(error);
    }
    Ok((child.wait()?, output))
}

/// Runs a key command with one more variable and returns its standard output. Its standard error
/// is the user's: it may say what it waits for.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn capture_with_variable(words: &[String], name: &str, value: &str) -> io::Result<Vec<u8>> {
    /// More than any identity file holds.
    const LONGEST: u64 = 16 << 20;
    let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut printed = Vec::new();
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let read = output.take(LONGEST + 1).read_to_end(&mut printed);
    if read.is_err() || printed.len() as u64 > LONGEST {
        drop(child.kill());
        drop(child.wait());
        read?;
        return Err(io::Error::other(format!(
            "it prints more than {LONGEST} bytes"
        )));
    }
    let status = child.wait()?;
    if status.success() {
        Ok(printed)
    } else {
        Err(io::Error::other(format!("it ended with {status}")))
    }
}

/// What a program printed that was given an input.
pub struct Fed {
    /// Whether it ended with 0.
    pub is_success: bool,
    /// Its standard output.
    pub output: SecretBytes,
    /// Its standard error, as far as it is text; the first 64 KiB.
    pub talk: String,
}

/// Runs a program with `input` on its standard input and returns what it printed.
///
/// # Errors
/// When it cannot be started, or prints more than 1 MiB.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn feed(program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Fed> {
    const LONGEST: u64 = 1 << 20;
    const LONGEST_TALK: u64 = 64 << 10;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut output = SecretBytes::new(Vec::with_capacity(4096));
    let (read, talk) = thread::scope(|scope| {
        // A program that ends without reading its input is told by its exit code.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        let talk = scope.spawn(move || {
            let mut talk = Vec::new();
            let stderr = stderr.ok_or(io::ErrorKind::BrokenPipe)?;
            let mut bounded = stderr.take(LONGEST_TALK);
            bounded.read_to_end(&mut talk)?;
            io::copy(&mut bounded.into_inner(), &mut io::sink())?;
            Ok::<_, io::Error>(talk)
        });
        let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe.into());
        let read = stdout.and_then(|stdout| {
            let mut bounded = stdout.take(LONGEST + 1);
            bounded.read_to_end(output.expose_mut())
        });
        if !matches!(read, Ok(length) if length as u64 <= LONGEST) {
            drop(child.kill());
        }
        (read, talk.join())
    });
    let status = child.wait()?;
    if read? as u64 > LONGEST {
        return Err(io::Error::other(format!(
            "it prints more than {LONGEST} bytes"
        )));
    }
    let talk = talk.ok().and_then(Result::ok).unwrap_or_default();
    Ok(Fed {
        is_success: status.success(),
        output,
        talk: String::from_utf8_lossy(&talk).into_owned(),
    })
}

/// Runs `git` in `directory` as the user and group `owner` and returns its standard output. No
/// hook, file system monitor or system configuration of the repository is run, and no lock is
/// taken. `index` is the index to read where it is not the checkout's own.
///
/// # Errors
/// When git is missing or fails.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn capture_git(
    directory: &Path,
    owner: (u32, u32),
    index: Option<&Path>,
    args: &[&str],
) -> io::Result<Vec<u8>> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory);
    command.args([
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
    ]);
    command
        .args(args)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0");
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_EXTERNAL_DIFF",
        "GIT_PAGER",
    ] {
        command.env_remove(name);
    }
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    if rustix::process::geteuid().is_root() && owner.0 != 0 {
        command.uid(owner.0).gid(owner.1);
    }
    let (status, output) = run(&mut command)?;
    if status.success() {
        Ok(output)
    } else {
        Err(io::Error::other(format!("`git` ended with {status}")))
    }
}

/// Shows `text` through the pager `words` on our own terminal. Returns whether it could be
/// started; a pager that is left early is no error.
#[expect(clippy::disallowed_methods, reason = "programs are started here")]
pub fn page(words: &[String], text: &[u8]) -> bool {
    let Some((program, args)) = words.split_first() else {
        return false;
    };
    // Raw colours, leave at once what fits the screen, keep the screen.
    let child = Command::new(program)
        .args(args)
        .env("LESS", "FRX")
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut input) = child.stdin.take() {
        drop(input.write_all(text));
    }
    drop(child.wait());
    true
}

/// Returns the name of this host.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Returns the file mode creation mask of this process.
pub fn umask() -> u32 {
    // Linux tells it; elsewhere it can only be read by setting it for a moment.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    if let Some(umask) = told.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()) {
        return umask;
    }
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

/// Lets this process have as many files open as it may: a folder of each entry is open while a run is at work.
#[expect(unsafe_code, reason = "rustix stops where the limit cannot be read")]
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take a structure of ours, which lives as long as they do.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // With the limit as it is only large projects fail.
        // SAFETY: as above.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Returns the limit of the first thread's stack in bytes; `None` where it cannot be read.
#[expect(unsafe_code, reason = "rustix stops where the limit cannot be read")]
pub fn stack_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call takes a structure of ours, which lives as long as it does.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    (read == 0).then_some(limit.rlim_cur)
}

/// Turns off core dumps and reading of this process's memory by others, so that no plaintext
/// leaves it that way.
pub fn protect_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Not permitted to lower a limit: nothing to be done about it.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
