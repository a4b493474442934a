//! What somebody writes who means harm: every parser with the inputs that fuzzing found and changes of them,
//! depth and length without end, control characters, and files of the repository that reach for more than
//! they may.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use secret_files::project::makefile;
use secret_files::project::manifest::Manifest;
use secret_files::rules::Config;
use secret_files::sops::store::Format;

use super::support::{LAPTOP_KEY, Output, SERVER_KEY, Seeded, TestProject, fixtures, recipient};

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Nothing may take longer: a hundred times what the slowest input takes in a build without optimisation.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the inputs that fuzzing found for a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let file = fixtures().join("fuzz").join(format!("{name}.txt"));
    let text = fs::read_to_string(&file).unwrap();
    let engine = base64::engine::general_purpose::STANDARD;
    text.lines()
        .map(|line| engine.decode(line).unwrap())
        .collect()
}

/// Returns an input with a few changes.
fn changed(random: &mut Seeded, all: &[Vec<u8>], input: &[u8]) -> Vec<u8> {
    const PIECES: [&[u8]; 18] = [
        b"\0",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x0b",
        b"\xff",
        b"\xc2",
        "\u{feff}".as_bytes(),
        b"{",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"&a ",
        b"*a",
        b"!!str ",
        b"ENC[AES256_GCM,data:",
        b"sops:\n",
    ];
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
            2 => bytes.truncate(at),
            3 => {
                let end = at + random.below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            4 => {
                let end = at + random.below(bytes.len() - at + 1);
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let other = &all[random.below(all.len())];
                let from = random.below(other.len() + 1);
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
        }
    }
    bytes
}

/// Plays a target; `SECRETS_FUZZ_ROUNDS` says how often each input is changed.
fn play(name: &str) {
    let rounds = std::env::var("SECRETS_FUZZ_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let target = targets::TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap();
    let all = corpus(name);
    assert!(all.len() > 20, "{name} has a corpus");
    let mut random = Seeded(20_261_130);
    for input in &all {
        let changed = (0..rounds.unwrap_or(6)).map(|_| changed(&mut random, &all, input));
        for input in std::iter::once(input.clone()).chain(changed.collect::<Vec<_>>()) {
            let started = Instant::now();
            let result = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(
                result.is_ok(),
                "{name} fails with {:?}",
                input.escape_ascii().to_string()
            );
            assert!(
                started.elapsed() < PATIENCE,
                "{name}: {:?}",
                input.escape_ascii().to_string()
            );
        }
    }
}

macro_rules! parsers {
    ($($test:ident,)*) => {
        $(#[test]
        fn $test() {
            play(stringify!($test));
        })*

        #[test]
        fn every_parser_is_played() {
            let played = [$(stringify!($test)),*];
            assert!(targets::TARGETS.iter().map(|target| target.name).eq(played));
        }
    };
}

parsers! {
    age, binary, dotenv, ini, json, yaml, sealed, tokens, values, shares, rules, keys, vault, manifest,
    makefile, records, lines, trees, journal, pem,
}

/// Runs something and stops when it takes too long.
fn bounded<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    assert!(
        started.elapsed() < PATIENCE,
        "{what} takes {:?}",
        started.elapsed()
    );
    result
}

/// A manifest of many rows, named by a pattern.
fn rows(name: &str) -> String {
    let mut text = "version = 1\n[files]\n".to_owned();
    for number in 0..100_000 {
        let name = name.replace("{}", &number.to_string());
        writeln!(text, "\"{name}\" = \"x/{name}\"").unwrap();
    }
    text
}

#[test]
fn depth_and_length_are_bounded() {
    let deep =
        |open: &str, close: &str, count: usize| [open.repeat(count), close.repeat(count)].concat();
    let many = 20_000;
    let mut indented = String::new();
    for level in 0..1000 {
        indented.push_str(&" ".repeat(level));
        indented.push_str("a:\n");
    }
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (one, other) in ('a'..='y').zip('b'..='z') {
        laughs.push_str(&format!(
            "{other}: &{other} [*{one},*{one},*{one},*{one},*{one},*{one},*{one},*{one}]\n"
        ));
    }
    let inputs = [
        deep("[", "]", many),
        deep("{\"a\":", "}", many),
        format!("{{\"a\":{}}}", deep("[", "]", many)),
        format!("a: {}\n", deep("[", "]", many)),
        format!("a: {}\n", deep("{a: ", "}", many)),
        "- ".repeat(many),
        "? ".repeat(many),
        "&a ".repeat(many),
        "!!a ".repeat(many),
        indented,
        laughs,
        format!("a: {}\n", "9".repeat(1 << 20)),
        format!("a: 1e{}\n", "9".repeat(1 << 16)),
        format!("{{\"a\":{}}}", "9".repeat(1 << 20)),
        format!("a: \"{}\"\n", "\\x41".repeat(1 << 18)),
        format!("#{}\n", "x".repeat(4 << 20)),
        "A=\n".repeat(200_000),
        "[a]\n".repeat(50_000),
        rows("f{}.env.enc"),
        rows("f{}.env"),
        rows("f{a}/{}.enc"),
        format!("A={}\n", "x".repeat(4 << 20)),
        "\n".repeat(1 << 20),
    ];
    for input in &inputs {
        let shown: String = input.chars().take(20).collect();
        for format in [
            Format::Dotenv,
            Format::Ini,
            Format::Json,
            Format::Yaml,
            Format::Binary,
        ] {
            let what = format!("{} of {shown:?}", format.name());
            let store = format.store();
            bounded(&what, || store.parse(input.as_bytes()).is_ok());
            bounded(&what, || {
                store.parse_sealed(input.clone().into_bytes()).is_ok()
            });
        }
        bounded(&shown, || Config::parse(input).is_ok());
        bounded(&shown, || Manifest::parse(input, "m").is_ok());
        bounded(&shown, || makefile::read(input, &["SECRET_FILES"], &["A"]));
    }
    for doubled in [":=", "="] {
        let mut text = format!("A0 {doubled} x x x x\n");
        for number in 1..60 {
            text.push_str(&format!(
                "A{number} {doubled} $(A{0}) $(A{0})\n",
                number - 1
            ));
        }
        text.push_str("SECRET_FILES = $(A59)\nX = $(X)\nSECRET_FILES += $(X)\n");
        bounded("a Makefile that doubles", || {
            drop(makefile::read(&text, &["SECRET_FILES"], &[]));
        });
    }
    for pattern in [
        "(a{1000}){1000}",
        "(a*)*(a*)*b",
        "((((((((((a{10}){10}){10}){10}){10}){10}))))){10}",
        "\\p{L}{1000}{1000}",
    ] {
        let rules = format!(
            "creation_rules:\n  - path_regex: '{pattern}'\n    age: {}\n",
            recipient(SERVER_KEY)
        );
        bounded(pattern, || {
            if let Ok(config) = Config::parse(&rules) {
                drop(config.creation_rule(&"a".repeat(1000)).map(drop));
            }
        });
    }
}

/// Fails when an output holds what a terminal would act on.
fn assert_harmless(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let bad = text
            .chars()
            .find(|c| c.is_control() && *c != '\n' && *c != '\t');
        assert_eq!(bad, None, "{text:?}");
        // Marks that turn the reading direction hide what stands there.
        let turned = text
            .chars()
            .find(|c| matches!(c, '\u{ad}' | '\u{e0041}' | '\u{61c}' | '\u{2028}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        assert_eq!(turned, None, "{text:?}");
    }
}

const EVIL: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{61c}\u{200f}\u{200b}\u{2028}\u{ad}\u{e0041}";

#[test]
fn control_characters_reach_no_terminal() {
    let project = TestProject::with_files(
        &[
            ("a.yaml.enc", "a.yaml"),
            ("b.env.enc", "b.env"),
            ("c.ini.enc", "{ path = \"c.ini\", format = \"ini\" }"),
        ],
        "",
    );
    let key = "\\e]0;owned\\a\\u009b31m\\u202e\\u061c\\u200f";
    project.write_server(
        "a.yaml",
        format!("\"{key}\": one\nplain: 1\n# {EVIL}\nlist:\n  - \"{key}\": 2\n")
            .replace(EVIL, "comment"),
    );
    project.write_server("b.env", "ONE=1\nTWO=2\n");
    project.write_server("c.ini", "[a]\nb = 1\n");
    let run = |args: &[&str]| {
        let output = project.run(args);
        assert_harmless(&output);
        output
    };
    assert_eq!(run(&["encrypt"]).code, 0);
    project.commit();
    project.git(&[
        "-c",
        &format!("user.name=Eve {EVIL}"),
        "commit",
        "-q",
        "--allow-empty",
        "--amend",
        "--reset-author",
        "-m",
        &format!("x {EVIL}"),
    ]);
    project.write_server(
        "a.yaml",
        format!("\"{key}\": two\nplain: 1\nlist:\n  - \"{key}\": 3\n\"new {key}\": 1\n"),
    );
    project.write_server("b.env", format!("ONE=2\nTWO=2\n# {EVIL}\nNEW{EVIL}=1\n"));
    project.write_server("c.ini", format!("[a{EVIL}]\nb{EVIL} = 2\n; {EVIL}\n"));
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["diff"],
        &["diff", "--json"],
        &["diff", "--show-values"],
        &["encrypt", "-n"],
        &["encrypt", "-k"],
        &["decrypt"],
        &["merge"],
        &["history"],
        &["history", "a.yaml"],
        &["adopt", "-n"],
        &["check"],
        &["doctor"],
        &["drill"],
        &["list"],
        &["undo", "--list"],
        &["sops", "--x\u{1b}[2J", "a.yaml.enc"],
    ] {
        run(args);
    }
    // A data key of somebody with such a name, agreed to.
    fs::remove_dir_all(project.path("state/journal")).unwrap();
    run(&["encrypt", "--force"]);
    project.write_repo("a.yaml", "plain: 1\n");
    let mut args = vec![
        "sops",
        "--config",
        "/dev/null",
        "encrypt",
        "--output",
        "a.yaml.enc",
        "--input-type",
        "yaml",
    ];
    let reader = recipient(SERVER_KEY);
    args.extend(["--output-type", "yaml", "--age", &reader, "a.yaml"]);
    project.ok(&args);
    fs::remove_file(project.repo_file("a.yaml")).unwrap();
    project.git(&["add", "-A"]);
    let author = format!("user.name=Eve {EVIL}");
    project.git(&["-c", &author, "commit", "-q", "-m", "other"]);
    let output = run(&["trust", "a.yaml"]);
    assert!(
        output.stderr.contains("agreed") && output.stderr.contains("Eve"),
        "{output:#?}"
    );
    // In the files of the repository: refused, and shown harmlessly.
    let manifest = project.read_repo("secret-files.toml");
    for hostile in [
        "\"x\\u001b[2J.enc\" = \"x\"\n",
        "\"x.enc\" = \"x\\u001b[2J\"\n",
        "\"x.enc\" = { path = \"x\", owner = \"a\\u001b[2J\" }\n",
        "\"x.enc\" = { path = \"x\", \"fi\\u001b[2Jeld\" = 1 }\n",
        "\"x.enc\" = { path = \"x\", on_change = [\"\\u001b[2J\"] }\n",
        "[recipients]\n\"na\\u001b[2Jme\" = \"age1\\u001b[2J\"\n",
        "[\"ta\\u001b[2Jble\"]\nx = 1\n",
    ] {
        project.write_repo("secret-files.toml", format!("{manifest}{hostile}"));
        for args in [
            &["status"][..],
            &["list"],
            &["encrypt"],
            &["check"],
            &["status", "--json"],
        ] {
            run(args);
        }
    }
    project.write_repo("secret-files.toml", &manifest);
    for rules in [
        format!(
            "creation_rules:\n  - path_regex: \"{key}\"\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
        format!("creation_rules:\n  - path_regex: .\n    age: \"{key}\"\n"),
        format!(
            "creation_rules:\n  - path_regex: .\n    \"{key}\": 1\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
        format!(
            "creation_rules:\n  - path_regex: .\n    encrypted_regex: \"({key}\"\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
        format!(
            "creation_rules:\n  - path_regex: .\n    pgp: \"{key}\"\n    hc_vault_transit_uri: \"{key}\"\n"
        ),
        format!("\"{key}\n"),
    ] {
        project.write_rules(&[]);
        project.write_repo(".sops.yaml", rules);
        for args in [
            &["encrypt"][..],
            &["check"],
            &["doctor"],
            &["sops", "encrypt", "a.yaml.enc"],
        ] {
            run(args);
        }
    }
    project.write_rules(&[recipient(SERVER_KEY)]);
    let sealed = project.read_repo("a.yaml.enc");
    for (from, to) in [
        ("lastmodified: ", format!("lastmodified: \"{key}\" #")),
        ("version: ", format!("version: \"{key}\" #")),
        ("recipient: ", format!("recipient: \"{key}\" #")),
        ("mac: ", format!("mac: \"{key}\" #")),
        ("plain: ", format!("plain: \"{key}\" #")),
        ("plain: ", format!("\"{key}\": 1\nplain: ")),
        ("sops:", format!("\"{key}\nsops:")),
    ] {
        project.write_repo("a.yaml.enc", sealed.replacen(from, &to, 1));
        for args in [
            &["decrypt"][..],
            &["status"],
            &["diff"],
            &["check"],
            &["list"],
            &["sops", "--input-type", "yaml", "filestatus", "a.yaml.enc"],
            &["sops", "decrypt", "--input-type", "yaml", "a.yaml.enc"],
        ] {
            run(args);
        }
    }
}

#[test]
fn pushed_files_reach_for_nothing_else() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    let outside = project.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "theirs\n").unwrap();
    // There is something that could be captured.
    project.write_server("b", "canary-Ny18-htpasswd\n");
    let kept = || {
        let files = [".git/config", ".git/hooks/post-checkout", ".git/x.enc"];
        let mut paths: Vec<_> = files.iter().map(|file| project.repo_file(file)).collect();
        paths.extend([
            project.path("keys"),
            "/etc/x.enc".into(),
            "/etc/passwd".into(),
        ]);
        paths.push(project.server_file("x/.git/config"));
        paths.push(project.server_file(".git/hooks/post-checkout"));
        paths
            .iter()
            .map(|path| fs::read(path).ok())
            .collect::<Vec<_>>()
    };
    let kept_before = kept();
    let manifest = project.read_repo("secret-files.toml");
    let sealed = project.read_repo("a.enc");
    let commands = [
        &["decrypt", "--force"][..],
        &["deploy", "--force"],
        &["encrypt", "--force"],
        &["merge", "--repository"],
        &["adopt", "--repository"],
        &["recover", "--force"],
        &["status"],
        &["diff"],
    ];
    let tries = |what: &str| {
        let before = (
            project.snapshot(),
            project.git(&["status", "--porcelain", "--ignored"]),
        );
        for args in commands {
            let output = bounded(what, || project.run(args));
            let is_refused = output.code > 0 && output.code < 4;
            let only_looks = args == ["status"];
            assert!(is_refused || only_looks, "{what} {args:?}: {output:#?}");
            assert_eq!(kept(), kept_before, "{what} {args:?}");
            assert_eq!(
                fs::read(outside.join("x")).unwrap(),
                b"theirs\n",
                "{what} {args:?}"
            );
            assert_eq!(
                fs::read_dir(&outside).unwrap().count(),
                1,
                "{what} {args:?}"
            );
        }
        let after = (
            project.snapshot(),
            project.git(&["status", "--porcelain", "--ignored"]),
        );
        let differing: Vec<_> = after
            .0
            .iter()
            .filter(|(path, content)| before.0.get(*path) != Some(content))
            .map(|(path, _)| path)
            .collect();
        assert!(after == before, "{what}: {:?} {differing:?}", after.1);
    };
    // Paths that leave the root, or lead to what is no target.
    for path in [
        "../outside/x",
        "/etc/passwd",
        "a/../../outside/x",
        "./x",
        "x//y",
        "",
        ".",
        "..",
        "../repo/.sops.yaml",
        "../repo/secret-files.toml",
        "../repo/.git/config",
        ".git/hooks/post-checkout",
        "x/.git/config",
        "x.enc",
        "x\\u0000y",
        "~/.ssh/authorized_keys",
        "con\\u000atrol",
        "../keys",
    ] {
        project.write_repo(
            "secret-files.toml",
            format!("{manifest}\"b.enc\" = \"{path}\"\n"),
        );
        project.write_repo("b.enc", &sealed);
        if path.starts_with('~') {
            // A folder of this name, no home.
            continue;
        }
        tries(path);
        fs::remove_file(project.repo_file("b.enc")).unwrap();
    }
    // Encrypted files that are not in the repository.
    for name in [
        "../outside/x.enc",
        "/etc/x.enc",
        ".git/x.enc",
        "sub/../../outside/x.enc",
    ] {
        project.write_repo(
            "secret-files.toml",
            format!("{manifest}\"{name}\" = \"b\"\n"),
        );
        tries(name);
    }
    // The root itself: stopped, until it is agreed to.
    let root = project.root().display().to_string();
    project.write_repo("secret-files.toml", &manifest);
    project.ok(&["decrypt"]);
    for other in [
        outside.display().to_string(),
        project.path("").display().to_string(),
        "/".to_owned(),
        "/etc".to_owned(),
    ] {
        project.write_repo("secret-files.toml", manifest.replace(&root, &other));
        let before = project.snapshot();
        for args in [
            &["decrypt", "--force"][..],
            &["encrypt", "--force"],
            &["deploy", "--force"],
        ] {
            let output = project.run(args);
            assert!(
                output.code == 3 || output.code == 2,
                "{other} {args:?}: {output:#?}"
            );
        }
        assert_eq!(project.snapshot(), before);
    }
    // The identity, and links on the way.
    let identity = project.server_file("key.txt");
    fs::copy(super::support::key_file(SERVER_KEY), &identity).unwrap();
    let with_identity = manifest.replace(
        "[defaults]",
        &format!("[defaults]\nidentity = \"{}\"", identity.display()),
    );
    project.write_repo(
        "secret-files.toml",
        format!("{with_identity}\"b.enc\" = \"key.txt\"\n"),
    );
    project.write_repo("b.enc", &sealed);
    tries("the identity");
    symlink(&outside, project.server_file("link")).unwrap();
    project.write_repo(
        "secret-files.toml",
        format!("{manifest}\"b.enc\" = \"link/x\"\n"),
    );
    tries("a link out of the root");
    fs::remove_file(project.repo_file("b.enc")).unwrap();
    symlink(outside.join("x"), project.repo_file("b.enc")).unwrap();
    project.write_repo(
        "secret-files.toml",
        format!("{manifest}\"b.enc\" = \"b\"\n"),
    );
    tries("an encrypted file that is a link");
    fs::remove_file(project.repo_file("b.enc")).unwrap();
    symlink(&outside, project.repo_file("sub")).unwrap();
    project.write_repo(
        "secret-files.toml",
        format!("{manifest}\"sub/b.enc\" = \"b\"\n"),
    );
    tries("a folder of the repository that is a link");
}

#[test]
fn nothing_of_the_repository_is_run() {
    let mut project = TestProject::with_files(&[("a.enc", "a"), ("b.yaml.enc", "b.yaml")], "");
    let bin = project.path("bin");
    fs::create_dir(&bin).unwrap();
    let mark = project.path("ran");
    // Whatever could be started by a name of an attacker's says that it was.
    for name in ["age-plugin-evil", "evil", "sh.evil", "vault", "gpg-evil"] {
        let script = bin.join(name);
        fs::write(
            &script,
            format!("#!/bin/sh\necho $0 >> '{}'\n", mark.display()),
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // The built program: what it starts is looked for in the variable.
    let run_program = |project: &TestProject, args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_secrets"))
            .args(args)
            .current_dir(project.repo())
            .env_clear()
            .envs(&project.vars)
            .env("PATH", &path)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    };
    project.write_server("a", "x\n");
    project.write_server("b.yaml", "x: 1\n");
    project.ok(&["encrypt"]);
    project.commit();
    let manifest = project.read_repo("secret-files.toml");
    let hook = project.repo_file(".git/hooks/post-checkout");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::copy(bin.join("evil"), &hook).unwrap();
    project.git(&[
        "config",
        "core.fsmonitor",
        bin.join("evil").to_str().unwrap(),
    ]);
    project.git(&[
        "config",
        "diff.external",
        bin.join("evil").to_str().unwrap(),
    ]);
    project.git(&[
        "config",
        "filter.evil.smudge",
        bin.join("evil").to_str().unwrap(),
    ]);
    project.git(&[
        "config",
        "filter.evil.clean",
        bin.join("evil").to_str().unwrap(),
    ]);
    project.write_repo(".gitattributes", "* filter=evil\n*.enc diff=evil\n");
    fs::remove_file(&mark).ok();
    fs::copy(bin.join("evil"), bin.join("age-plugin-foo")).unwrap();
    // Its checksum is right.
    let plugin = "age1foo1qqqqqq5ykr5w";
    let rules = [
        format!("creation_rules:\n  - path_regex: .\n    age: {plugin}\n"),
        "creation_rules:\n  - path_regex: $(evil)`evil`\n    age: '$(evil)'\n".to_owned(),
        format!(
            "creation_rules:\n  - path_regex: .\n    hc_vault_transit_uri: http://127.0.0.1:1/v1/evil/keys/x\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
    ];
    let rows = [
        "",
        "\"c.enc\" = { path = \"c\", on_change = [\"evil\"] }\n",
        "\"c.enc\" = { path = \"c\", apply = [\"evil\"] }\n",
        "\"c.enc\" = { path = \"c\", verify = [\"evil\"] }\n",
        "\"$(evil).enc\" = \"$(evil)\"\n",
        "\"c.enc\" = { path = \"c\", owner = \"$(evil)\" }\n",
    ];
    project.write_server("a", "changed\n");
    for rules in &rules {
        project.write_repo(".sops.yaml", rules);
        for row in rows {
            project.write_repo("secret-files.toml", format!("{manifest}{row}"));
            for args in [
                &["status"][..],
                &["diff"],
                &["encrypt"],
                &["decrypt", "--force"],
                &["encrypt", "--update-recipients"],
                &["check"],
                &["check", "--changed", "HEAD"],
                &["doctor"],
                &["history", "a"],
                &["list"],
            ] {
                let output = bounded(row, || run_program(&project, args));
                assert!(
                    output.status.code().is_some_and(|code| code < 4),
                    "{output:?}"
                );
                assert!(
                    !mark.exists(),
                    "{args:?}: {}",
                    fs::read_to_string(&mark).unwrap_or_default()
                );
            }
        }
    }
    // What the user names is.
    project.write_repo("secret-files.toml", &manifest);
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    project.set("SOPS_AGE_KEY_CMD", "evil");
    run_program(&project, &["decrypt", "--force"]);
    assert!(mark.exists());
}

#[test]
fn a_pushed_rule_adds_no_reader() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    project.write_server("a", "canary-Jr59-rotated\n");
    let before = project.read_repo("a.enc");
    for args in [
        &["encrypt"][..],
        &["encrypt", "--force"],
        &["encrypt", "--new-data-key"],
        &["encrypt", "-k"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains("recipients"), "{output:#?}");
        assert_eq!(project.read_repo("a.enc"), before);
    }
}

#[test]
fn ten_thousand_entries_and_a_long_file() {
    let mut text = String::new();
    for number in 0..10_000 {
        text.push_str(&format!(
            "\"d{}/{number}.enc\" = \"d{}/{number}\"\n",
            number % 100,
            number % 100
        ));
    }
    let project = TestProject::with_files(&[("first.enc", "first")], &text);
    project.write_server("first", "x\n");
    project.ok(&["encrypt", "first"]);
    let output = project.ok(&["list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 10_001);
    let output = project.run(&["status"]);
    assert!(
        output.stdout.contains("10001 entries"),
        "{}",
        output.stdout.lines().last().unwrap()
    );
    assert_eq!(project.run(&["decrypt", "first"]).code, 0);

    let project = TestProject::with_files(&[("a.enc", "a")], "");
    let long = vec![b'x'; 24 << 20];
    project.write_server("a", &long);
    let output = project.run(&["encrypt", "--max-size", "8MiB"]);
    assert_eq!(output.code, 3, "{output:#?}");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a")).unwrap();
    project.ok(&["decrypt"]);
    assert!(project.read_server("a") == long);
}
