//! Every kind of key, both ways with the real programs; passphrases; what is not started or asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::pty::type_at;
use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, key_file, recipient, stock};

fn project(recipients: &str) -> TestProject {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_repo(
        ".sops.yaml",
        format!("creation_rules:\n  - path_regex: \\.enc$\n    age: '{recipients}'\n"),
    );
    project.write_server("a.env", "A=canary-Vd81-database\nB=2\n");
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    project
}

fn run(program: &str, args: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs stock `sops` on the dotenv file with the same key variables.
fn sops(project: &TestProject, args: &[&str]) -> String {
    let mut command = Command::new("sops");
    command.args([args[0], "--input-type", "dotenv", "--output-type", "dotenv"]);
    command.args(["a.env.enc"]).args(&args[1..]);
    command
        .current_dir(project.repo())
        .env("SOPS_DISABLE_VERSION_CHECK", "true");
    for (name, value) in &project.vars {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Ours writes, stock reads and changes, ours reads.
fn both_ways(project: &TestProject, kind: &str) {
    project.ok(&["encrypt"]);
    let text = sops(project, &["decrypt"]);
    assert_eq!(text.as_bytes(), project.read_server("a.env"), "{kind}");
    sops(project, &["set", "[\"B\"]", "\"three\""]);
    let diff = project.run(&["diff"]);
    assert!(
        diff.stdout.contains("\n  ~ B  repository"),
        "{kind}: {diff:#?}"
    );
    project.ok(&["decrypt"]);
    assert_eq!(
        project.read_server("a.env"),
        b"A=canary-Vd81-database\nB=three\n"
    );
}

#[test]
fn every_kind_opens_in_stock_and_the_other_way_round() {
    let test = "every_kind_opens_in_stock_and_the_other_way_round";
    if !stock::available("sops", test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (name, kind, bits) in [
        ("ed", "ed25519", "256"),
        ("rsa", "rsa", "2048"),
        ("pem", "rsa", "3072"),
    ] {
        let mut args = vec![
            "-q",
            "-t",
            kind,
            "-b",
            bits,
            "-N",
            "",
            "-C",
            "who@where",
            "-f",
            name,
        ];
        if name == "pem" {
            args.extend(["-m", "PEM"]);
        }
        run("ssh-keygen", &args, folder.path());
        let public = fs::read_to_string(file(&format!("{name}.pub"))).unwrap();
        let mut project = project(public.trim_end());
        project.set("SOPS_AGE_SSH_PRIVATE_KEY_FILE", file(name));
        both_ways(&project, name);
        project
            .vars
            .remove(std::ffi::OsStr::new("SOPS_AGE_SSH_PRIVATE_KEY_FILE"));
        project.set(
            "SOPS_AGE_SSH_PRIVATE_KEY_CMD",
            format!("cat {}", file(name).display()),
        );
        project.ok(&["diff"]);
        project
            .vars
            .remove(std::ffi::OsStr::new("SOPS_AGE_SSH_PRIVATE_KEY_CMD"));
        if name != "pem" {
            let ssh = project.path("home/.ssh");
            fs::create_dir(&ssh).unwrap();
            let usual = if kind == "rsa" {
                "id_rsa"
            } else {
                "id_ed25519"
            };
            fs::copy(file(name), ssh.join(usual)).unwrap();
            project.ok(&["diff"]);
        }
    }
    let keys = TestProject::new();
    let hybrid = keys.ok(&["keygen", "--pq", "-o", "pq.txt"]).stdout;
    let ours = keys.repo_file("pq.txt");
    let mut alone = project(hybrid.trim_end());
    alone.set("SOPS_AGE_KEY_FILE", &ours);
    both_ways(&alone, "post-quantum");
    let public = fs::read_to_string(file("ed.pub")).unwrap();
    let all = format!(
        "{},{},{}",
        recipient(SERVER_KEY),
        hybrid.trim_end(),
        public.trim_end()
    );
    for (name, value) in [
        ("SOPS_AGE_KEY_FILE", ours),
        ("SOPS_AGE_SSH_PRIVATE_KEY_FILE", file("ed")),
        ("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY)),
    ] {
        let mut mixed = project(&all);
        mixed.set(name, value);
        both_ways(&mixed, "a mix");
    }
}

#[test]
fn twenty_one_recipients_are_no_limit() {
    let keys: Vec<String> = (0..21)
        .map(|number| {
            let project = TestProject::new();
            let name = format!("{number}.txt");
            project
                .ok(&["keygen", "-o", &name])
                .stdout
                .trim_end()
                .to_owned()
        })
        .collect();
    let all = format!("{},{}", keys.join(","), recipient(SERVER_KEY));
    let mut project = project(&all);
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    project.ok(&["encrypt"]);
    if stock::available("sops", "twenty_one_recipients_are_no_limit") {
        assert_eq!(
            sops(&project, &["decrypt"]).as_bytes(),
            project.read_server("a.env")
        );
    }
}

/// A key behind a passphrase, as `ssh-keygen` makes it.
fn locked(project: &TestProject, name: &str, rounds: &str) -> std::path::PathBuf {
    let args = [
        "-q",
        "-t",
        "ed25519",
        "-a",
        rounds,
        "-N",
        "open sesame",
        "-f",
        name,
    ];
    run("ssh-keygen", &args, &project.path("home"));
    project.path("home").join(name)
}

#[test]
fn a_passphrase_is_asked_last_and_once() {
    let helper = TestProject::new();
    let key = locked(&helper, "key", "1");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let mut project = project(&format!("{},{}", public.trim_end(), recipient(SERVER_KEY)));
    project.write_manifest(
        &[("a.env.enc", "a.env"), ("b.enc", "b"), ("c.enc", "c")],
        "",
    );
    project.write_server("b", "b\n");
    project.write_server("c", "c\n");
    project.set("SOPS_AGE_SSH_PRIVATE_KEY_FILE", &key);
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    let (output, questions) = project.run_answering(&[], &["encrypt"]);
    assert_eq!((output.code, questions.len()), (0, 0), "{output:#?}");
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    let (output, questions) = project.run_answering(&["open sesame"], &["diff"]);
    assert_eq!(
        (output.code, questions.len()),
        (0, 1),
        "{output:#?} {questions:?}"
    );
    assert_eq!(questions[0], format!("Passphrase for {}: ", key.display()));
    let answers = ["wrong", "wrong", "open sesame"];
    assert_eq!(project.run_answering(&answers, &["diff"]).0.code, 0);
    let (output, _) = project.run_answering(&["wrong", "wrong", "wrong"], &["diff"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("what was typed is wrong"),
        "{output:#?}"
    );
    let (output, _) = project.run_answering(&[""], &["diff"]);
    assert!(output.stderr.contains("none was typed"), "{output:#?}");
    // Nobody to ask: at once, with a way on.
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("no terminal to ask") && output.stderr.contains("`-i FILE`"),
        "{output:#?}"
    );
    let (output, questions) = project.run_answering(&["open sesame"], &["--no-input", "diff"]);
    assert_eq!((output.code, questions.len()), (2, 0));
    // A key whose public half says that it does not fit is not asked for.
    let mut other = self::project(&recipient(LAPTOP_KEY));
    other.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    other.ok(&["encrypt"]);
    other.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    other.set("SOPS_AGE_SSH_PRIVATE_KEY_FILE", &key);
    let (output, questions) = other.run_answering(&["open sesame"], &["diff"]);
    assert_eq!((output.code, questions.len()), (2, 0), "{output:#?}");
    assert!(output.stderr.contains("behind a passphrase"), "{output:#?}");
}

#[test]
fn an_identity_file_behind_a_passphrase_is_opened() {
    let test = "an_identity_file_behind_a_passphrase_is_opened";
    if !stock::available("age", test) || !stock::available("script", test) {
        return;
    }
    let helper = TestProject::new();
    let locked = helper.path("locked.age");
    let command = format!(
        "age -p -a -o {} {}",
        locked.display(),
        key_file(SERVER_KEY).display()
    );
    let (prompt, answer) = ("passphrase", "open sesame");
    let (done, text) = type_at(
        &helper,
        &command,
        &[],
        &[(prompt, answer), (prompt, answer)],
    );
    assert!(done, "{text}");
    let mut project = project(&recipient(SERVER_KEY));
    project.set("SOPS_AGE_KEY_FILE", &locked);
    let (output, questions) = project.run_answering(&["open sesame"], &["encrypt"]);
    assert_eq!(
        (output.code, questions.len()),
        (0, 1),
        "{output:#?} {questions:?}"
    );
    let (output, _) = project.run_answering(&["no", "no", "no"], &["diff"]);
    assert!(
        output.stderr.contains("what was typed is wrong"),
        "{output:#?}"
    );
    // A header that is cut, or asks for absurd work, is told apart at once.
    let text = fs::read_to_string(&locked).unwrap();
    let cut = text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n";
    for (content, words) in [
        (cut.clone() + "-----END AGE ENCRYPTED FILE-----\n", "damaged or cut header"),
        ("age-encryption.org/v1\n-> scrypt c2FsdHNhbHRzYWx0c2FsdA 30\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n0123456789abcdef0123456789abcdef".to_owned(), "2^30 steps"),
    ] {
        fs::write(&locked, content).unwrap();
        let started = Instant::now();
        let (output, questions) = project.run_answering(&["open sesame"], &["diff"]);
        assert_eq!((output.code, questions.len()), (2, 0), "{output:#?}");
        assert!(output.stderr.contains(words), "{words}: {output:#?}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn absurd_rounds_of_an_ssh_key_are_refused() {
    let helper = TestProject::new();
    let key = locked(&helper, "key", "1");
    let text = fs::read_to_string(&key).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = base64_of(&body);
    // The rounds stand behind the salt of sixteen bytes: one round becomes sixteen million.
    let at = bytes
        .windows(8)
        .position(|window| window == [0, 0, 0, 24, 0, 0, 0, 16])
        .unwrap();
    bytes[at + 24..at + 28].copy_from_slice(&[1, 0, 0, 0]);
    let forged = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
        to_base64(&bytes)
    );
    fs::write(&key, forged).unwrap();
    let mut project = project(&recipient(SERVER_KEY));
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    project.ok(&["encrypt"]);
    project.set("SOPS_AGE_KEY_FILE", "/nowhere");
    project.set("SOPS_AGE_SSH_PRIVATE_KEY_FILE", &key);
    let (output, questions) = project.run_answering(&["open sesame"], &["diff"]);
    assert_eq!((output.code, questions.len()), (2, 0));
    assert!(output.stderr.contains("16777216 rounds"), "{output:#?}");
}

fn base64_of(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn to_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(70)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    lines.join("\n")
}

/// The recipient of a plugin that does not exist, its checksum right.
const RECIPIENT: &str = "age1foo1qqqqqq5ykr5w";

#[test]
fn a_plugin_runs_on_the_users_own_word_only() {
    let mark = tempfile::tempdir().unwrap();
    let program = mark.path().join("age-plugin-foo");
    let started = mark.path().join("started");
    fs::write(
        &program,
        format!("#!/bin/sh\ntouch {}\nexit 1\n", started.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let project = project(RECIPIENT);
    let run = |args: &[&str]| {
        let path = format!(
            "{}:{}",
            mark.path().display(),
            std::env::var("PATH").unwrap()
        );
        Command::new(env!("CARGO_BIN_EXE_secrets"))
            .args(args)
            .current_dir(project.repo())
            .env("PATH", path)
            .env("HOME", project.path("home"))
            .env("SECRETS_STATE_DIR", project.path("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let output = run(&["encrypt"]);
    assert!(!output.status.success());
    assert!(
        !started.exists(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_matrix_says_who_can_read_what() {
    let names = format!(
        "[recipients]\nserver = \"{}\"\nlaptop = \"{}\"\n",
        recipient(SERVER_KEY),
        recipient(LAPTOP_KEY)
    );
    let project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "b")], &names);
    project.write_server("a", "a\n");
    project.ok(&["encrypt", "a"]);
    project.write_rules(&[recipient(LAPTOP_KEY)]);
    let list = project.ok(&["list"]).stdout;
    let matrix = "\nreadable by  server  laptop\na.enc        -       +\nb.enc        .       +\n";
    assert!(list.ends_with(matrix), "{list}");
    let json = project.ok(&["list", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["entries"][0]["readers"][0]["name"], "server");
    assert_eq!(json["entries"][0]["readers"][0]["mark"], "not-in-rule");
    assert_eq!(json["entries"][1]["readers"][0]["mark"], "only-in-rule");
}

#[test]
fn questions_are_asked_on_a_real_terminal() {
    let test = "questions_are_asked_on_a_real_terminal";
    if !stock::available("script", test) {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    project.write_server("a.env", "A=2\n");
    fs::remove_dir_all(project.path("state")).unwrap();
    let command = format!("{} adopt", env!("CARGO_BIN_EXE_secrets"));
    let key = key_file(SERVER_KEY).to_str().unwrap().to_owned();
    let variables = [("SOPS_AGE_KEY_FILE", key.as_str())];
    let answers = [("take which side?", "s")];
    let (done, text) = type_at(&project, &command, &variables, &answers);
    assert!(done, "{text}");
    assert_eq!(project.opened("a.env.enc"), b"A=2\n");
    // A passphrase does not appear while it is typed.
    let key = locked(&project, "key", "1");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    project.write_repo(
        ".sops.yaml",
        format!("creation_rules:\n  - age: '{}'\n", public.trim_end()),
    );
    project.ok(&["encrypt", "--update-recipients", "--allow-unreadable"]);
    let command = format!(
        "{} -i {} diff",
        env!("CARGO_BIN_EXE_secrets"),
        key.display()
    );
    let answers = [("Passphrase for", "open sesame")];
    let (done, text) = type_at(&project, &command, &[], &answers);
    assert!(!text.contains("sesame"), "{text}");
    assert!(done, "{text}");
}

#[test]
fn a_secret_half_in_the_rules_is_never_shown() {
    let project = project(&recipient(SERVER_KEY));
    let text = fs::read_to_string(key_file(SERVER_KEY)).unwrap();
    let secret = text.lines().last().unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1"));
    for rule in [
        format!("creation_rules:\n  - age: {secret}\n"),
        format!("creation_rules:\n  - {secret}: x\n"),
    ] {
        project.write_repo(".sops.yaml", rule);
        for command in ["encrypt", "check", "list"] {
            let output = project.run(&[command]);
            let shown = output.stdout + &output.stderr;
            assert!(!shown.contains(&secret[..24]), "{shown}");
        }
        assert_ne!(project.run(&["encrypt"]).code, 0);
    }
}
