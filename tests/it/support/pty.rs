//! Somebody who types at a real terminal: the one that `script` makes.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::TestProject;

/// Runs a line of the shell on a terminal, in the repository of a project. Waits for each prompt in
/// turn, then types the answer to it. Returns whether the command succeeded, and what the terminal
/// showed.
pub(crate) fn type_at(
    project: &TestProject,
    line: &str,
    variables: &[(&str, &str)],
    answers: &[(&str, &str)],
) -> (bool, String) {
    let mut child = Command::new("script")
        .args(["-qec", line, "/dev/null"])
        .current_dir(project.repo())
        .env_remove("CI")
        .env("HOME", project.path("home"))
        .env("SECRETS_STATE_DIR", project.path("state"))
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    for (prompt, answer) in answers {
        let seen = shown.len();
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&shown[seen..]).contains(prompt) {
            let read = screen.read(&mut chunk).unwrap();
            let text = String::from_utf8_lossy(&shown);
            assert!(read > 0, "ended without asking {prompt:?}: {text}");
            shown.extend_from_slice(&chunk[..read]);
        }
        // A program switches the echo off right after its prompt.
        std::thread::sleep(Duration::from_millis(300));
        keyboard
            .write_all(format!("{answer}\n").as_bytes())
            .unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    let status = child.wait().unwrap();
    (
        status.success(),
        String::from_utf8_lossy(&shown).into_owned(),
    )
}
