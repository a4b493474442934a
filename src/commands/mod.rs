//! One file per command, and what commands share.

pub mod add;
pub mod adopt;
pub mod apply;
pub mod backup;
pub mod both;
pub mod capture;
pub mod check;
pub mod decrypt;
pub mod delivering;
pub mod deploy;
pub mod diff;
pub mod doctor;
pub mod drift;
pub mod drill;
pub mod encrypt;
pub mod foreign_key;
pub mod gather;
pub mod govern;
pub mod hints;
pub mod history;
pub mod init;
pub mod install;
pub mod keygen;
pub mod list;
pub mod lost_key;
pub mod members;
pub mod memory;
pub mod merge;
pub mod open;
pub mod origin;
pub mod ownership;
pub mod placing;
pub mod prune;
pub mod recover;
pub mod remove;
pub mod rename;
pub mod repository;
pub mod restore;
pub mod reversal;
pub mod schema;
pub mod selection;
pub mod settle;
pub mod sides;
pub mod status;
pub mod storing;
pub mod trust;
pub mod undo;
pub mod workspace;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use clap::{Args, ValueEnum};

use crate::error::{ErrorKind, Problem, Severity};
use crate::os::Env;
use crate::os::terminal::Ask;
use crate::secret::wipe_stack;
use crate::ui::{Loudness, Ui, progress};

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// Always.
    Always,
    /// On a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Work as if started in this folder
    #[arg(
        short = 'C',
        long = "directory",
        value_name = "DIR",
        global = true,
        help_heading = "Global options"
    )]
    pub directory: Option<PathBuf>,
    /// The manifest [default: `secret-files.toml`, looked for upward; env: `SECRETS_MANIFEST`]
    #[arg(
        short = 'm',
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Global options"
    )]
    pub manifest: Option<PathBuf>,
    /// The folder on the server that server paths are relative to [env: `SECRETS_ROOT`]
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        help_heading = "Global options"
    )]
    pub root: Option<PathBuf>,
    /// Work as this host, for rows with `hosts` [default: the host name; env: `SECRETS_HOST`]
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        help_heading = "Global options"
    )]
    pub host: Option<String>,
    /// An age identity file; where given, only these are used (repeatable)
    #[arg(
        short = 'i',
        long = "identity",
        value_name = "FILE",
        global = true,
        help_heading = "Global options"
    )]
    pub identities: Vec<PathBuf>,
    /// How many entries are worked on at once [default: the number of processors]
    #[arg(short = 'j', long, value_name = "N", global = true, help_heading = "Global options", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Write JSON to standard output (never values)
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say errors and warnings only
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// Say more: what is unchanged, and the matching `sops` commands
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Answer yes where a command asks whether to go on; never decides between two values
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub yes: bool,
    /// Never ask anything: fail where an answer would be needed
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_input: bool,
    /// Colour the output
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        global = true,
        help_heading = "Global options",
        hide_possible_values = false
    )]
    pub color: ColorChoice,
}

/// Whether owner and group count.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OwnerArgs {
    /// Leave owner and group to the system, whatever is declared
    #[arg(long)]
    pub no_owner: bool,
}

/// Options of the commands that write.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WriteArgs {
    /// Find out and say what would be done, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do the entries that can be done although others cannot; the exit code stays
    #[arg(short = 'k', long)]
    pub keep_going: bool,
    /// Whether owner and group count.
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Do not wait for another run that is writing; fail at once
    #[arg(long)]
    pub no_wait: bool,
}

/// Options of the commands that write a few files of their own.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct StepArgs {
    /// Find out and say what would be done, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not wait for another run that is writing; fail at once
    #[arg(long)]
    pub no_wait: bool,
}

impl StepArgs {
    /// Returns them as options of a writing command.
    pub fn write_args(self) -> WriteArgs {
        WriteArgs {
            dry_run: self.dry_run,
            no_wait: self.no_wait,
            ..WriteArgs::default()
        }
    }
}

/// What a command may use.
pub struct Context {
    /// The surroundings.
    pub env: Env,
    /// The user interface.
    pub ui: Ui,
    /// The options every command takes.
    pub global: GlobalArgs,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The answer is no: something differs.
    pub differs: bool,
    /// A guard refused something.
    pub refused: bool,
    /// Something could not be done or told.
    pub trouble: bool,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Context {
    /// Returns the person at the terminal, where there is one who may be asked.
    pub fn asker(&self) -> Option<Arc<dyn Ask>> {
        let may_ask = !self.global.no_input && self.env.var("CI").is_none_or(|ci| ci == "false");
        self.env.asker.clone().filter(|_| may_ask)
    }
}

impl Outcome {
    /// Adds what a list of problems means.
    #[must_use]
    pub fn with_problems(mut self, problems: &[Problem]) -> Self {
        for problem in problems {
            match problem.kind.severity() {
                Severity::Refused => self.refused = true,
                Severity::Trouble => self.trouble = true,
            }
            if let ErrorKind::Interrupted { signal, .. } = *problem.kind {
                self.signal = Some(signal);
            }
        }
        self
    }
}

impl Outcome {
    /// Adds problems of a report, each of which is something that could not be told.
    #[must_use]
    pub fn with_problems_as_trouble(self, problems: &[Problem]) -> Self {
        let trouble = self.trouble || !problems.is_empty();
        Self {
            trouble,
            ..self.with_problems(problems)
        }
    }
}

/// How work on many entries is done.
#[derive(Clone, Copy, Debug)]
pub struct Jobs {
    /// How many at once, at least 1.
    pub threads: usize,
    /// Whether a terminal shows how far it is.
    pub shows_progress: bool,
}

/// Returns how work is done in a run with these options.
pub fn jobs_of(cx: &Context) -> Jobs {
    let processors = thread::available_parallelism().map_or(2, usize::from);
    Jobs {
        threads: cx.global.jobs.map_or(processors, usize::from),
        shows_progress: cx.env.owns_terminal
            && cx.env.stderr_is_terminal
            && cx.ui.loudness > Loudness::Quiet
            && cx.env.var("TERM").is_some_and(|term| term != "dumb"),
    }
}

/// Runs `work` over all items on a few threads and returns the results in order.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    jobs: Jobs,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let run = |_running: Sender<()>| loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(index) else { break };
        let result = work(item);
        *results[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(result);
        done.fetch_add(1, Ordering::Relaxed);
    };
    let (running, finished) = mpsc::channel();
    let (run, done) = (&run, &done);
    thread::scope(|scope| {
        // Where the system has no more threads to give, this one does their work.
        for _ in 1..jobs.threads.min(items.len()) {
            let running = running.clone();
            let work = move || {
                run(running);
                wipe_stack();
            };
            drop(thread::Builder::new().spawn_scoped(scope, work));
        }
        if jobs.shows_progress {
            let show = move || progress::show(&finished, done, items.len());
            drop(thread::Builder::new().spawn_scoped(scope, show));
        }
        run(running);
    });
    results
        .into_iter()
        .filter_map(|slot| slot.into_inner().ok().flatten())
        .collect()
}
