//! Programs that call `sops` notice no difference: scenarios in `tests/fixtures/consumers`, each run with
//! stock `sops` and with ours in its place.
//!
//! A scenario is a script that is given an empty folder, clears its environment, plays, and prints a
//! transcript. Its last line says that it went as it has to, so that two equal failures do not pass. What
//! differs on purpose is in `differs/`, with the reason.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

use super::support::fixtures;
use super::support::stock;

/// What scenarios call besides `sops`.
const PROGRAMS: [&str; 6] = ["sops", "bash", "git", "python3", "make", "tar"];
/// The longest that a scenario may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Returns the scenarios; what they share is in a folder of its own.
fn scenarios() -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(fixtures().join("consumers"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// Returns the program that starts a scenario.
fn interpreter(script: &Path) -> &'static str {
    let is_python = script.extension() == Some(OsStr::new("py"));
    if is_python { "python3" } else { "bash" }
}

/// Returns the place of stock `sops`.
fn stock_sops() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join("sops"))
        .find(|program| program.is_file())
        .unwrap()
}

/// Runs a scenario with a program as its `sops` and returns the transcript.
fn play(script: &Path, program: &Path) -> String {
    let place = tempfile::tempdir().unwrap();
    let place_path = place.path().canonicalize().unwrap();
    let (bin, folder) = (place_path.join("bin"), place_path.join("scenario"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&folder).unwrap();
    symlink(program, bin.join("sops")).unwrap();
    let mut path = OsString::from(&bin);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    // A file, which a process that outlives the script does not keep from ending.
    let output_path = place_path.join("transcript");
    let output = fs::File::create(&output_path).unwrap();
    let mut child = Command::new(interpreter(script))
        .arg(script)
        .arg(&folder)
        .env("PATH", path)
        // What must not reach the program from outside.
        .env("SOPS_AGE_KEY", "not for scenarios")
        .env("SOPS_CONFIG", "/nonexistent/rules.yaml")
        .env("EDITOR", "false")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let ending = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break (!status.success()).then(|| status.to_string());
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            break Some("stopped: it takes too long".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read(&output_path).unwrap();
    let mut text = normal(&String::from_utf8_lossy(&text), &folder);
    if let Some(ending) = ending {
        text.push_str(&format!("the script itself: {ending}\n"));
    }
    text
}

/// Names alike what differs from run to run: tokens, wrapped keys, times of change, places.
fn normal(text: &str, folder: &Path) -> String {
    let base64 = "[A-Za-z0-9+/=]";
    let rules = [
        (
            format!(r"ENC\[AES256_GCM,data:{base64}*,iv:{base64}+,tag:{base64}+,type:([a-z]+)\]"),
            "ENC($1)",
        ),
        (
            "-----BEGIN AGE ENCRYPTED FILE-----[^-]+-----END AGE ENCRYPTED FILE-----".to_owned(),
            "AGE",
        ),
        (
            r#"(lastmodified["']?\s*[:=]\s*["']?)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)"#
                .to_owned(),
            "${1}TIME",
        ),
        (r"/(?:dev|proc/self|proc/\d+)/fd/\d+".to_owned(), "FD"),
    ];
    let text = text.replace(folder.to_str().unwrap(), "FOLDER");
    rules.iter().fold(text, |text, (pattern, name)| {
        let pattern = Regex::new(pattern).unwrap();
        pattern.replace_all(&text, *name).into_owned()
    })
}

/// Returns the lines that differ, each with its surroundings.
fn difference(stock: &str, ours: &str) -> String {
    let (stock, ours): (Vec<_>, Vec<_>) = (stock.lines().collect(), ours.lines().collect());
    // How many lines the rests have in common at most, in order.
    let mut common = vec![vec![0_u32; ours.len() + 1]; stock.len() + 1];
    for at in (0..stock.len()).rev() {
        for beside in (0..ours.len()).rev() {
            common[at][beside] = if stock[at] == ours[beside] {
                common[at + 1][beside + 1] + 1
            } else {
                common[at + 1][beside].max(common[at][beside + 1])
            };
        }
    }
    let (mut at, mut beside) = (0, 0);
    let mut lines = Vec::new();
    while at < stock.len() || beside < ours.len() {
        if at < stock.len() && beside < ours.len() && stock[at] == ours[beside] {
            lines.push((' ', stock[at]));
            (at, beside) = (at + 1, beside + 1);
        } else if beside == ours.len()
            || at < stock.len() && common[at + 1][beside] >= common[at][beside + 1]
        {
            lines.push(('-', stock[at]));
            at += 1;
        } else {
            lines.push(('+', ours[beside]));
            beside += 1;
        }
    }
    let is_near = |number: usize| {
        let near = &lines[number.saturating_sub(3)..(number + 4).min(lines.len())];
        near.iter().any(|(mark, _)| *mark != ' ')
    };
    let mut text = String::new();
    for (number, (mark, line)) in lines.iter().enumerate() {
        if is_near(number) {
            text.push_str(&format!("{mark} {line}\n"));
        } else if number > 0 && is_near(number - 1) {
            text.push_str("…\n");
        }
    }
    text
}

/// Returns the lines that differ on purpose; what stands above them, behind `#`, says why.
fn meant(scenario: &str) -> String {
    let path = fixtures().join(format!("consumers/differs/{scenario}.diff"));
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn programs_that_call_sops_notice_what_is_meant_only() {
    let name = "programs_that_call_sops_notice_what_is_meant_only";
    if !PROGRAMS
        .iter()
        .all(|program| stock::available(program, name))
    {
        return;
    }
    let (stock_program, ours_program) = (stock_sops(), Path::new(env!("CARGO_BIN_EXE_secrets")));
    let scenarios = scenarios();
    assert!(scenarios.len() >= 12, "{scenarios:?}");
    let mut wrong = String::new();
    for script in scenarios {
        let (stock, ours) = thread::scope(|scope| {
            let stock = scope.spawn(|| play(&script, &stock_program));
            let ours = play(&script, ours_program);
            (stock.join().unwrap(), ours)
        });
        let scenario = script.file_stem().unwrap().to_str().unwrap();
        let done = format!("scenario {scenario}: done");
        for (whose, transcript) in [("stock", &stock), ("ours", &ours)] {
            if transcript.lines().last() != Some(done.as_str()) {
                let from = transcript.find("NOT AS EXPECTED").unwrap_or_default();
                let line = transcript[from..].lines().next().unwrap_or_default();
                wrong.push_str(&format!("{scenario}: not done with {whose}: {line}\n"));
            }
        }
        let lines = difference(&stock, &ours);
        if lines != meant(scenario) {
            wrong.push_str(&format!(
                "{scenario}: `-` with stock, `+` with ours\n{lines}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_differs_between_runs_is_named_alike() {
    let text = "a: ENC[AES256_GCM,data:AA==,iv:b/,tag:c+,type:str]\n  lastmodified: \"2026-01-02T03:04:05Z\"\n\
        since: 2026-01-02T03:04:05Z\nenc: |\n  | -----BEGIN AGE ENCRYPTED FILE-----\n  | AAAA\n  \
        | -----END AGE ENCRYPTED FILE-----\n/x/y/z /dev/fd/63\n";
    let expected = "a: ENC(str)\n  lastmodified: \"TIME\"\nsince: 2026-01-02T03:04:05Z\nenc: |\n  | AGE\nFOLDER/z FD\n";
    assert_eq!(normal(text, Path::new("/x/y")), expected);
}

#[test]
fn only_lines_that_differ_are_shown() {
    let text = |change: &str| format!("1\n2\n3\n4\n5\n{change}6\n7\n8\n9\n10\n");
    assert_eq!(difference(&text(""), &text("")), "");
    let shown = difference(&text("a\nb\n"), &text("b\nc\n"));
    assert_eq!(shown, "  3\n  4\n  5\n- a\n  b\n+ c\n  6\n  7\n  8\n…\n");
}
