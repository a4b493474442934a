//! What only a real process shows: exit codes, pipes, memory protection, signals, killing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use super::support::stock;
use super::support::{
    CANARIES, SERVER_KEY, TestProject, assert_hidden, has_staging_files, key_file,
};

fn secrets(project: &TestProject, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secrets"));
    command
        .args(args)
        .current_dir(project.repo())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(&project.vars).stdin(Stdio::null());
    command
}

/// Runs the program to its end and searches its output for the values in use.
fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert_hidden(&String::from_utf8_lossy(text), &format!("{command:?}"));
    }
    output
}

#[test]
fn help_version_and_usage_errors_end_as_documented() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    let run = |args: &[&str]| output(&mut secrets(&project, args));
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(
        text.contains("Daily:\n  status") && text.contains("Set-up:\n  init"),
        "{text}"
    );
    assert_eq!(run(&["--version"]).status.code(), Some(0));
    for args in [
        &["decyrpt"][..],
        &["decrypt", "--no-such"],
        &[],
        &["diff", "-q", "-v"],
        &["encrypt", "--max-size", "x"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--json", "diff", "--bogus"][..], &["--json"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["problems"][0]["code"], "usage");
    }
    for command in ["status", "diff", "encrypt", "decrypt", "list"] {
        let output = run(&[command, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:\n  secrets "), "{text}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let project = TestProject::infrastructure();
    let mut child = secrets(&project, &["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(stderr, "");
}

#[test]
fn quiet_is_silent_on_success() {
    let project = TestProject::infrastructure();
    for args in [&["encrypt", "-q"][..], &["decrypt", "-q"], &["diff", "-q"]] {
        let output = output(&mut secrets(&project, args));
        assert_eq!(
            (
                output.status.code(),
                output.stdout.len(),
                output.stderr.len()
            ),
            (Some(0), 0, 0),
            "{args:?}"
        );
    }
}

/// Entries enough, and long enough, that a run can be caught in the middle.
fn many() -> TestProject {
    let names: Vec<_> = (0..60)
        .map(|number| (format!("{number}.enc"), format!("d{number}/file")))
        .collect();
    let rows: Vec<_> = names
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let project = TestProject::with_files(&rows, "");
    for (_, name) in &names {
        let content = format!("canary-Ku36-sqlrole {name}\n").repeat(1000);
        project.write_server(name, content);
    }
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    project
}

#[test]
fn a_killed_run_leaves_whole_files_and_the_next_one_cleans_up() {
    let project = many();
    let expected = |name: &str| format!("canary-Ku36-sqlrole {name}\n").repeat(1000);
    let mut killed = 0;
    for delay in (0..40).map(|step| Duration::from_millis(2 * step)) {
        let mut child = secrets(&project, &["decrypt"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(delay);
        let _ = child.kill();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        for (path, content) in project.snapshot() {
            let Ok(name) = path.strip_prefix(project.root()) else {
                continue;
            };
            if !name.to_string_lossy().contains(".secrets-staging-") {
                assert_eq!(
                    content,
                    expected(name.to_str().unwrap()).as_bytes(),
                    "{}",
                    name.display()
                );
            }
        }
        let output = output(&mut secrets(&project, &["decrypt"]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let snapshot = project.snapshot();
        assert!(!has_staging_files(&snapshot), "after {delay:?}");
        fs::remove_dir_all(project.root()).unwrap();
        fs::create_dir(project.root()).unwrap();
    }
    assert!(killed > 5, "only {killed} runs were caught");
}

#[test]
fn an_interrupted_run_rolls_back_and_says_130_or_143() {
    let project = many();
    for (index, delay) in (0..60)
        .map(|step| Duration::from_millis(2 * step))
        .enumerate()
    {
        let (signal, code) = [
            (rustix::process::Signal::INT, 130),
            (rustix::process::Signal::TERM, 143),
        ][index % 2];
        let mut child = secrets(&project, &["decrypt"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(delay);
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, signal);
        let status = child.wait().unwrap();
        let snapshot = project.snapshot();
        assert!(!has_staging_files(&snapshot), "after {delay:?}: {status:?}");
        let placed = snapshot
            .keys()
            .filter(|path| path.starts_with(project.root()))
            .count();
        // Before the writing part the signal kills at once, which a shell shows as the same code.
        match status.code() {
            Some(0) => assert_eq!(placed, 60),
            Some(other) => {
                assert_eq!(other, code, "after {delay:?}");
                assert_eq!(placed, 0, "after {delay:?}");
            }
            None => {
                assert_eq!(status.signal(), Some(signal.as_raw()));
                assert_eq!(placed, 0);
            }
        }
        fs::remove_dir_all(project.root()).unwrap();
        fs::create_dir(project.root()).unwrap();
    }
}

#[test]
fn a_second_run_waits_for_the_first() {
    let project = many();
    let held = fs::File::open(project.root()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut child = secrets(&project, &["decrypt"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(
        line.contains("waiting for another run (") && line.contains("process number"),
        "{line}"
    );
    drop(held);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
}

#[test]
fn no_value_is_in_arguments_or_environment() {
    let project = many();
    let mut child = secrets(&project, &["decrypt"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut looked = 0;
    while child.try_wait().unwrap().is_none() {
        for file in ["cmdline", "environ"] {
            if let Ok(bytes) = fs::read(format!("/proc/{}/{file}", child.id())) {
                looked += 1;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(CANARIES.iter().all(|canary| !text.contains(canary)));
            }
        }
    }
    assert!(looked > 0);
}

/// Everything that is started on the way, with its arguments and variables, but by `exec-env`, which is for that.
#[test]
fn no_value_is_given_to_another_program_in_arguments_or_environment() {
    let test = "no_value_is_given_to_another_program_in_arguments_or_environment";
    if !stock::available("strace", test) {
        return;
    }
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    project.write_server("a.env", "A=canary-Vd81-database\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.write_server("b", "canary-Ku36-sqlrole 2\n");
    let script = |name: &str, text: &str| {
        let path = project.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let editor = script("editor.sh", "echo X=1 >> \"$1\"");
    let command = script(
        "key.sh",
        &format!("cat '{}'", key_file(SERVER_KEY).display()),
    );
    project.set("SOPS_EDITOR", editor);
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    project.set("SOPS_AGE_KEY_CMD", command);
    let log = project.path("log");
    let file_args = |before: &[&str], after: &[&str]| -> Vec<String> {
        let types = [
            "--input-type",
            "dotenv",
            "--output-type",
            "dotenv",
            "a.env.enc",
        ];
        let all = before.iter().chain(&types).chain(after);
        all.map(|&word| word.to_owned()).collect()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (args, started) in [
        (words("status"), 2),
        (words("diff --show-values"), 2),
        (words("encrypt"), 2),
        (words("decrypt --force"), 2),
        (words("check --changed HEAD"), 1),
        (file_args(&["sops", "edit"], &[]), 3),
        (file_args(&["sops", "exec-file"], &["true"]), 3),
        (
            file_args(&["sops", "exec-file", "--no-fifo"], &["test -s {}"]),
            3,
        ),
    ] {
        let mut command = Command::new("strace");
        let options = [
            "-f",
            "-qqq",
            "-v",
            "-s",
            "1000000",
            "-e",
            "trace=execve,execveat",
            "-o",
        ];
        let plain = secrets(&project, &[]);
        command
            .args(options)
            .arg(&log)
            .arg(env!("CARGO_BIN_EXE_secrets"))
            .args(&args);
        command
            .current_dir(project.repo())
            .env_clear()
            .stdin(Stdio::null());
        command.envs(
            plain
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let code = command.output().unwrap().status.code();
        assert!([Some(0), Some(1)].contains(&code), "{args:?}: {code:?}");
        let log = fs::read_to_string(&log).unwrap();
        let count = log
            .lines()
            .filter(|line| line.contains("execve(") && line.ends_with("= 0"))
            .count();
        assert!(count >= started, "{args:?} starts {count} programs: {log}");
        assert!(
            CANARIES.iter().all(|canary| !log.contains(canary)),
            "{args:?}"
        );
    }
}

#[test]
fn a_long_run_shows_its_progress_on_a_terminal() {
    if !stock::available("script", "a_long_run_shows_its_progress_on_a_terminal") {
        return;
    }
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    // A key command that takes its time stands for slow work.
    let identity = fs::read_to_string(key_file(SERVER_KEY)).unwrap();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    let command = project.path("key.sh");
    fs::write(
        &command,
        format!("#!/bin/sh\nsleep 0.8\necho '{}'\n", identity.trim()),
    )
    .unwrap();
    project.set("SOPS_AGE_KEY_CMD", format!("sh '{}'", command.display()));
    project.set("TERM", "xterm");
    let run = |words: &str| {
        let inner = format!("'{}' {words}", env!("CARGO_BIN_EXE_secrets"));
        let mut command = Command::new("script");
        command
            .args(["-qec", &inner, "/dev/null"])
            .current_dir(project.repo())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("SHELL", "/bin/sh")
            .envs(&project.vars)
            .stdin(Stdio::null());
        String::from_utf8_lossy(&output(&mut command).stdout).into_owned()
    };
    let text = run("decrypt -n");
    assert!(
        text.contains(" of 11 entries\u{1b}[K\r\u{1b}[K"),
        "{text:?}"
    );
    assert!(text.contains("11 entries: 11 unchanged"), "{text:?}");
    assert!(!run("decrypt -n -q").contains(" of 11"));
}

#[test]
fn a_terminal_gets_colours_and_a_pager() {
    if !stock::available("script", "a_terminal_gets_colours_and_a_pager") {
        return;
    }
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.write_server(
        "shared/.env",
        "export REGISTRY_TOKEN=canary-Jr59-rotated\nNOTE=a\\nb\nHOST_unencrypted=example.org\n",
    );
    let pager = project.path("pager.sh");
    fs::write(&pager, "#!/bin/sh\necho PAGED\nexec cat\n").unwrap();
    assert!(
        Command::new("chmod")
            .arg("755")
            .arg(&pager)
            .status()
            .unwrap()
            .success()
    );
    project.set("TERM", "xterm");
    let run = |project: &TestProject| {
        let inner = format!(
            "'{}' -C '{}' diff",
            env!("CARGO_BIN_EXE_secrets"),
            project.repo().display()
        );
        let mut command = Command::new("script");
        command
            .args(["-qec", &inner, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("SHELL", "/bin/sh");
        let output = command
            .envs(&project.vars)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    project.set("PAGER", &pager);
    let (code, text) = run(&project);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("PAGED") && text.contains("\u{1b}[33m  ~ REGISTRY_TOKEN  server, 20"),
        "{text:?}"
    );
    assert!(!text.contains("canary"));
    project.set("PAGER", "no-such-pager-anywhere");
    project.set("NO_COLOR", "1");
    let (code, text) = run(&project);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("\r\n  ~ REGISTRY_TOKEN  server, 20"),
        "{text:?}"
    );
}

#[test]
fn a_run_that_waited_looks_at_the_files_as_they_are_then() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let held = fs::File::open(project.root()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    project.write_server("a.env", "A=2\n");
    let mut child = secrets(&project, &["encrypt"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    project.write_server("a.env", "A=2\nB=3\n");
    drop(held);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn output_that_cannot_be_written_is_trouble() {
    let project = TestProject::infrastructure();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = output(secrets(&project, &["list"]).stdout(full));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("standard output could not be written")
    );
}

#[test]
fn without_more_threads_the_run_goes_on_in_one() {
    if !stock::available("prlimit", "without_more_threads_the_run_goes_on_in_one") {
        return;
    }
    let project = many();
    let program = project.program_for_others();
    let mut command = Command::new("prlimit");
    command
        .arg("--nproc=1")
        .arg(&program)
        .arg("decrypt")
        .current_dir(project.repo());
    command
        .env_clear()
        .envs(&project.vars)
        .env("SECRETS_STATE_DIR", project.path("server/.state"));
    // The limit does not bind root.
    if rustix::process::geteuid().is_root() {
        let key = project.path("id.txt");
        fs::copy(key_file(SERVER_KEY), &key).unwrap();
        for path in [project.path(""), project.root(), key.clone()] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        command.env("SOPS_AGE_KEY_FILE", key).uid(4246).gid(4246);
    }
    let output = output(&mut command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
