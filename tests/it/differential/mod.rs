//! A differential test: thousands of `sops` command lines, made from a seed, run with two
//! programs in equal sandboxes; what they print, write and return is compared.
//!
//! Parts that are random by nature (sealed values, wrapped keys, times, temporary names) are
//! replaced before the comparison; sealed results are decrypted with the reference program as well.
//! Nothing here needs a network, and only throw-away keys are used. The folder for the sandboxes
//! must not lie below one with a `.sops.yaml`.

mod case;
mod commands;
mod compare;
mod deviations;
mod fixtures;
mod generate;
mod random;
mod sandbox;
mod spoil;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::support::stock;
use case::Case;
use compare::Findings;
use sandbox::{Outcome, Sandbox};

/// One aspect in which the programs differ.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// The number of the case.
    pub(crate) case: u64,
    /// Its command line, with the sandbox as `@`.
    pub(crate) line: String,
    /// The aspect, and what both sides have.
    pub(crate) what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "case {}: {}", self.case, self.line)?;
        writeln!(f, "  {}", self.what)
    }
}

/// What a run has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// How many cases were run.
    pub(crate) run: usize,
    /// What differs.
    pub(crate) differences: Vec<Difference>,
    /// How many cases belong to each documented deviation.
    pub(crate) deviations: BTreeMap<&'static str, usize>,
    /// How many cases each command had.
    pub(crate) by_command: BTreeMap<String, usize>,
    /// How many cases ended with each exit code of the reference program.
    pub(crate) exit_codes: BTreeMap<i32, usize>,
    /// Cases in which one side alone says something on standard error.
    pub(crate) stderr_notes: Vec<Difference>,
    /// Help texts and completion scripts that differ.
    pub(crate) text_notes: Vec<Difference>,
    /// Cases in which the reference program crashed; there it is enough to fail.
    pub(crate) crashes: Vec<(u64, String)>,
    /// How long it took.
    pub(crate) time: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cases: BTreeSet<u64> = self.differences.iter().map(|found| found.case).collect();
        writeln!(
            f,
            "{} cases in {:.1} s, {} differences in {} cases",
            self.run,
            self.time.as_secs_f64(),
            self.differences.len(),
            cases.len()
        )?;
        for (aspect, count) in self.aspects() {
            writeln!(f, "{count:6} x {aspect}")?;
        }
        if !self.deviations.is_empty() {
            writeln!(f, "documented deviations: {:?}", self.deviations)?;
        }
        writeln!(f, "commands: {:?}", self.by_command)?;
        writeln!(f, "exit codes of stock: {:?}", self.exit_codes)?;
        writeln!(
            f,
            "notes: {} on silence, {} texts; {} crashes of stock",
            self.stderr_notes.len(),
            self.text_notes.len(),
            self.crashes.len()
        )
    }
}

/// Runs the cases `0..cases` of a seed with both programs.
///
/// `scratch` is a folder for the sandboxes; what is in its subfolder `box` is replaced.
pub(crate) fn run(seed: u64, cases: usize, ours: &Path, stock: &Path, scratch: &Path) -> Summary {
    let bench = Bench::new(ours, stock, scratch);
    let start = Instant::now();
    let mut summary = Summary::default();
    for number in 0..cases as u64 {
        let case = generate::case(seed, number);
        let (ours, stock, findings) = bench.try_case(&case);
        drop(ours);
        summary.add(number, &case, &stock, findings);
    }
    summary.time = start.elapsed();
    summary.explain();
    summary
}

impl Summary {
    /// Groups of differences that look alike, with their sizes; the largest first.
    pub(crate) fn aspects(&self) -> Vec<(String, usize)> {
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        for difference in &self.differences {
            let first = difference.what.lines().next().unwrap_or_default();
            let first = first.strip_prefix("file ").map_or(first, |file| {
                file.split_once(": ").map_or(file, |(_, aspect)| aspect)
            });
            let aspect = match first.split_once("line ") {
                Some(("", _)) => "text of a file",
                Some((what, _)) => what.trim_end_matches(": "),
                None => first,
            };
            *groups.entry(aspect.to_owned()).or_default() += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        groups
    }

    /// Takes the cases that are documented deviations out of the list, and counts them.
    fn explain(&mut self) {
        let mut cases: BTreeMap<u64, Vec<Difference>> = BTreeMap::new();
        for difference in self.differences.drain(..) {
            cases.entry(difference.case).or_default().push(difference);
        }
        for differences in cases.into_values() {
            let what: Vec<&str> = differences.iter().map(|one| one.what.as_str()).collect();
            match deviations::name_of(&differences[0].line, &what.join("\n")) {
                Some(name) => *self.deviations.entry(name).or_default() += 1,
                None => self.differences.extend(differences),
            }
        }
    }

    fn add(&mut self, number: u64, case: &Case, stock: &Outcome, findings: Findings) {
        self.run += 1;
        *self.by_command.entry(case.command.clone()).or_default() += 1;
        *self.exit_codes.entry(stock.code).or_default() += 1;
        let line = case.line();
        let listed = |list: Vec<String>| {
            list.into_iter().map(|what| Difference {
                case: number,
                line: line.clone(),
                what,
            })
        };
        self.differences.extend(listed(findings.differences));
        self.stderr_notes.extend(listed(findings.silence));
        self.text_notes.extend(listed(findings.texts));
        if findings.crash {
            self.crashes.push((number, line));
        }
    }
}

/// One case in all detail.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The command line.
    pub(crate) line: String,
    /// What differs.
    pub(crate) differences: Vec<String>,
    /// What is noted without being a difference.
    pub(crate) notes: Vec<String>,
    /// What each program did, for reading: ours, then the reference program.
    pub(crate) programs: [String; 2],
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        for (name, program) in ["ours", "stock"].iter().zip(&self.programs) {
            writeln!(f, "---- {name} ----\n{program}")?;
        }
        for difference in &self.differences {
            writeln!(f, "DIFFERENT {difference}")?;
        }
        for note in &self.notes {
            writeln!(f, "note {note}")?;
        }
        Ok(())
    }
}

/// Runs one case again; what each program left stays in `after-ours` and `after-stock` below
/// `scratch`. The keys and values in sealed files are new ones each time.
pub(crate) fn run_case(seed: u64, case: u64, ours: &Path, stock: &Path, scratch: &Path) -> Report {
    let bench = Bench::new(ours, stock, scratch);
    let case = generate::case(seed, case);
    let (our_outcome, stock_outcome, findings) = bench.try_case(&case);
    let mut notes = findings.silence;
    notes.extend(findings.texts);
    Report {
        line: format!(
            "{}\narguments: {:?}\nvariables: {:?}",
            case.line(),
            case.arguments,
            case.variables
        ),
        differences: findings.differences,
        notes,
        programs: [
            bench.described("ours", &our_outcome),
            bench.described("stock", &stock_outcome),
        ],
    }
}

/// Both programs and the sandbox.
struct Bench {
    sandbox: Sandbox,
    ours: std::path::PathBuf,
    stock: std::path::PathBuf,
}

impl Bench {
    fn new(ours: &Path, stock: &Path, scratch: &Path) -> Self {
        let sandbox = Sandbox::new(scratch, stock);
        Self {
            ours: sandbox.link_named_sops("ours", ours),
            stock: sandbox.link_named_sops("stock", stock),
            sandbox,
        }
    }

    fn try_case(&self, case: &Case) -> (Outcome, Outcome, Findings) {
        let stock = self.sandbox.run(&self.stock, case);
        let ours = self.sandbox.run(&self.ours, case);
        let findings = compare::outcomes(&self.sandbox, &case.command, &ours, &stock);
        (ours, stock, findings)
    }

    fn described(&self, name: &str, outcome: &Outcome) -> String {
        let folder = self.sandbox.keep(name, outcome);
        format!(
            "exit {}; changed: {:?}\n{}[stderr]\n{}[in {}]",
            outcome.code,
            outcome.changes.keys().collect::<Vec<_>>(),
            String::from_utf8_lossy(&outcome.stdout),
            String::from_utf8_lossy(&outcome.stderr),
            folder.display()
        )
    }
}

/// How many command lines are tried; `SECRETS_DIFFERENTIAL_CASES` says otherwise.
const CASES: usize = 300;
/// Which ones; `SECRETS_DIFFERENTIAL_SEED` says otherwise.
const SEED: u64 = 20_261_130;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn seeded_command_lines_end_as_with_stock() {
    if !stock::available("sops", "seeded_command_lines_end_as_with_stock") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = Path::new(env!("CARGO_BIN_EXE_secrets"));
    let path = std::env::var_os("PATH").unwrap();
    let stock = std::env::split_paths(&path)
        .map(|folder| folder.join("sops"))
        .find(|program| program.is_file())
        .unwrap();
    let seed = number_of("SECRETS_DIFFERENTIAL_SEED").unwrap_or(SEED);
    if let Some(case) = number_of("SECRETS_DIFFERENTIAL_CASE") {
        println!("{}", run_case(seed, case, ours, &stock, folder.path()));
        return;
    }
    let cases = number_of("SECRETS_DIFFERENTIAL_CASES");
    let cases = cases.map_or(CASES, |cases| cases.try_into().unwrap());
    let summary = run(seed, cases, ours, &stock, folder.path());
    for difference in &summary.differences {
        println!("{difference}");
    }
    println!("{summary}");
    assert!(summary.differences.is_empty(), "seed {seed}");
    // The cases mean something: most succeed, and the others fail in many ways.
    let succeeded = summary.exit_codes.get(&0).copied().unwrap_or(0);
    assert!(succeeded * 2 >= summary.run, "{:?}", summary.exit_codes);
    assert!(summary.exit_codes.len() >= 8, "{:?}", summary.exit_codes);
}
