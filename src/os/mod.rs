//! The only door to the outside: arguments, variables, streams, clock, randomness, files, git and
//! other programs.
//!
//! Everything above takes an [`Env`] or plain values, so that a test can be its own outside. This
//! layer does not know what a secret file is.

pub mod access_list;
pub mod file_history;
pub mod fs;
pub mod git;
pub mod history;
pub mod journal;
pub mod lock;
pub mod place;
pub mod process;
pub mod rewrite;
pub mod scratch;
pub mod shell;
pub mod signal;
pub mod staging;
pub mod state;
pub mod terminal;
pub mod users;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use terminal::{Ask, Terminal};

/// The surroundings of one run.
pub struct Env {
    /// Arguments, the program's name first.
    pub args: Vec<OsString>,
    /// Environment variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// Standard input: an identity that is handed over.
    pub stdin: Box<dyn Read + Send>,
    /// Standard output: data.
    pub stdout: Box<dyn Write + Send>,
    /// Standard error: talk.
    pub stderr: Box<dyn Write + Send>,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
    /// Whether programs may be given our own terminal (a pager); off in tests.
    pub owns_terminal: bool,
    /// The person at the terminal, where standard input and error are one.
    pub asker: Option<Arc<dyn Ask>>,
    /// The clock.
    pub clock: fn() -> SystemTime,
}

impl Env {
    /// Returns the surroundings of this process.
    ///
    /// # Errors
    /// When the working directory does not exist any more.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the process edge is read"
    )]
    pub fn of_process() -> io::Result<Self> {
        Ok(Self {
            args: std::env::args_os().collect(),
            vars: std::env::vars_os().collect(),
            cwd: std::env::current_dir()?,
            stdin: Box::new(io::stdin()),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            owns_terminal: true,
            asker: (io::stdin().is_terminal() && io::stderr().is_terminal())
                .then(|| Arc::new(Terminal::default()) as Arc<dyn Ask>),
            clock: SystemTime::now,
        })
    }

    /// Returns a variable; empty counts as unset.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Returns a variable that names a path, made absolute.
    pub fn path_var(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(|value| self.absolute(Path::new(value)))
    }

    /// Returns `path` made absolute from the working directory, with `.` and `..` resolved by
    /// name.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        fs::normalize(&self.cwd.join(path))
    }

    /// Returns the home directory of the user, from `HOME`, else from the user database.
    pub fn home(&self) -> Option<PathBuf> {
        self.path_var("HOME")
            .or_else(|| users::home_of(rustix::process::geteuid().as_raw()))
    }

    /// Returns the configuration directory: `XDG_CONFIG_HOME`, else what the platform uses.
    pub fn config_dir(&self) -> Option<PathBuf> {
        let platform = if cfg!(target_os = "macos") {
            "Library/Application Support"
        } else {
            ".config"
        };
        self.path_var("XDG_CONFIG_HOME")
            .or_else(|| Some(self.home()?.join(platform)))
    }

    /// Returns the time as RFC 3339, UTC, whole seconds.
    pub fn now(&self) -> String {
        let seconds = (self.clock)()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let timestamp = i64::try_from(seconds)
            .ok()
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }
}

/// Fills `buffer` with secure random bytes from the operating system.
///
/// # Panics
/// When the operating system has none to give: nothing may be encrypted then.
#[expect(
    clippy::expect_used,
    reason = "without randomness no key or IV may be made"
)]
pub fn fill_random(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the operating system provides randomness");
}

/// Draws random bytes in blocks, since a system call for every IV costs more than the cipher.
pub struct RandomPool {
    block: zeroize::Zeroizing<Vec<u8>>,
}

impl RandomPool {
    /// Returns an empty pool.
    pub fn new() -> Self {
        Self {
            block: zeroize::Zeroizing::new(Vec::new()),
        }
    }

    /// Fills `buffer` with bytes never given out before.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        if self.block.len() < buffer.len() {
            self.block.resize(4096.max(buffer.len()), 0);
            fill_random(&mut self.block);
        }
        let rest = self.block.len() - buffer.len();
        buffer.copy_from_slice(&self.block[rest..]);
        self.block.truncate(rest);
    }
}

impl Default for RandomPool {
    fn default() -> Self {
        Self::new()
    }
}
