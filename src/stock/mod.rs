//! The command line of the reference program, for the name `sops` and for `secrets sops …`.
//!
//! Commands, flags, variables, exit codes and outputs are those of SOPS 3.13.3; what differs on purpose
//! is in `docs/compatibility.md`. Files are read into a tree, changed there, and written as stock `sops`
//! writes them; the manifest plays no part.

mod commands;
mod config;
mod crypt;
mod edit;
mod exec;
mod failure;
mod files;
mod flags;
mod groups;
mod help;
mod publish;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::keys::keyring::{Keyring, Sources};
use crate::os::rewrite::Seen;
use crate::os::{Env, fs, terminal};
use crate::secret::SecretBytes;
use crate::sops::master_key::KeyId;

use failure::{Failure, code};
use flags::Parsed;

/// The program's name on its own command line.
pub const NAME: &str = "sops";
/// The version of the reference program whose command line this is.
pub const VERSION: &str = crate::sops::metadata::FORMAT_VERSION;

/// One run.
struct Run<'e> {
    env: &'e mut Env,
    /// The flags before the subcommand.
    global: Parsed,
    /// The rules file, once it was looked for.
    config: config::Lookup,
    /// Keys that were typed on the command line.
    trusted: Vec<KeyId>,
    /// Whether the keys at hand may be used (`--enable-local-keyservice`).
    uses_own_keys: bool,
    /// Whether it is said that a data key was had.
    is_verbose: bool,
    /// The files that were read, as they were then.
    seen: HashMap<PathBuf, Seen>,
}

impl Run<'_> {
    /// Writes data to standard output.
    fn print(&mut self, data: &[u8]) -> Result<(), Failure> {
        let written = self.env.stdout.write_all(data);
        written
            .and_then(|()| self.env.stdout.flush())
            .map_err(|error| match error.kind() {
                // Whoever reads has enough: as a program that the signal ends.
                std::io::ErrorKind::BrokenPipe => Failure::new(code::BROKEN_PIPE, ""),
                _ => Failure::generic(format!("standard output could not be written: {error}")),
            })
    }

    /// Says something that is no failure.
    fn warn(&mut self, text: &str) {
        // Nobody to tell where standard error is closed.
        drop(writeln!(self.env.stderr, "[CMD]\t {}", harmless(text)));
    }

    /// Returns the identities and other keys at hand.
    fn keyring(&self, decryption_order: &[String]) -> Keyring {
        let sources = Sources {
            explicit: &[],
            manifest: None,
        };
        let mut keyring = Keyring::load(self.env, &sources, self.env.asker.clone());
        keyring.trust(&self.trusted);
        if !decryption_order.is_empty() {
            keyring.set_order(decryption_order.to_vec());
        }
        keyring
    }

    /// Returns a path made absolute from the working directory.
    fn absolute(&self, path: &std::ffi::OsStr) -> PathBuf {
        self.env.absolute(Path::new(path))
    }
}

/// Makes control characters visible, line breaks and tabs left out.
fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let is_control = !matches!(character, '\n' | '\t') && terminal::is_harmful(character);
            let escaped = is_control.then(|| character.escape_default().collect::<Vec<_>>());
            escaped.unwrap_or_else(|| vec![character])
        })
        .collect()
}

/// Runs the command line of the reference program; `args` are those behind its name. Returns the exit
/// code.
pub fn run(env: &mut Env, args: &[OsString]) -> u8 {
    // The folder as the shell names it, links and all: rules are looked up by it.
    if let Some(named) = env.var("PWD").map(PathBuf::from)
        && named.is_absolute()
        && fs::canonical(&named).is_some_and(|path| Some(path) == fs::canonical(&env.cwd))
    {
        env.cwd = named;
    }
    let mut run = Run {
        env,
        global: Parsed::default(),
        config: config::Lookup::Open,
        trusted: Vec::new(),
        uses_own_keys: true,
        is_verbose: false,
        seen: HashMap::new(),
    };
    match commands::dispatch(&mut run, args) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.text.is_empty() {
                drop(writeln!(run.env.stderr, "{}", harmless(&failure.text)));
            }
            failure.code
        }
    }
}

/// Where a result goes.
enum Sink {
    /// Over the file itself.
    InPlace(PathBuf),
    /// To standard output.
    Output,
    /// To another file.
    File(PathBuf),
}

impl Sink {
    /// Reads `--in-place` and `--output`.
    fn of(run: &Run<'_>, parsed: &Parsed, file: &Path) -> Self {
        if parsed.is_on("in-place") {
            Self::InPlace(file.to_owned())
        } else if parsed.has("output") {
            Self::File(run.absolute(parsed.os_text("output")))
        } else {
            Self::Output
        }
    }

    fn put(
        &self,
        run: &mut Run<'_>,
        content: &SecretBytes,
        holds: files::Holds,
    ) -> Result<(), Failure> {
        match self {
            Self::InPlace(path) | Self::File(path) => files::write(run, path, content, holds),
            Self::Output => run.print(content.expose()),
        }
    }
}

/// Reads `--decryption-order`.
fn decryption_order(parsed: &Parsed) -> Result<Vec<String>, Failure> {
    let text = parsed.text("decryption-order");
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut order: Vec<String> = Vec::new();
    for kind in text.split(',') {
        if order.iter().any(|known| known == kind) {
            let text = format!("Duplicate decryption key type: {kind}");
            return Err(Failure::new(code::DUPLICATE_KIND, text));
        }
        order.push(kind.to_owned());
    }
    Ok(order)
}

/// Where the reference is told to write an audit log.
const AUDIT_CONFIG: &str = "/etc/sops/audit.yaml";

/// Refuses what this program neither is nor asks, key services over a network and audit logs, and notes
/// whether the keys at hand may be used.
fn check_services(run: &mut Run<'_>, parsed: &Parsed) -> Result<(), Failure> {
    if parsed.list("keyservice").iter().any(|uri| !uri.is_empty()) {
        return Err(Failure::generic(
            "--keyservice: key services over a network are deliberately absent; this program uses the keys at hand, and stock `sops` asks such a service",
        ));
    }
    if fs::is_there(Path::new(AUDIT_CONFIG)) {
        return Err(Failure::generic(format!(
            "{AUDIT_CONFIG} asks for an audit log, which is deliberately absent: use stock `sops` where one has to be kept, or remove the file",
        )));
    }
    run.uses_own_keys = parsed.is_on("enable-local-keyservice");
    Ok(())
}
