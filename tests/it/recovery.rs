//! A bare host comes back: `recover`, `drill`, `doctor`, and the story of a lost key.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::{
    CANARIES, LAPTOP_KEY, SERVER_KEY, TestProject, fixtures, key_file, pty, recipient, stock,
};

/// The infrastructure repository, captured, on a host that has nothing but the checkout: no root, no
/// state, no identity, no `.git`.
fn bare() -> TestProject {
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.commit();
    let text = project.read_repo("secret-files.toml");
    let identity = project.root().join(".age-key.txt");
    let text = text.replace(
        "\n[files]",
        &format!("identity = \"{}\"\n\n[files]", identity.display()),
    );
    project.write_repo("secret-files.toml", text);
    fs::remove_dir_all(project.repo_file(".git")).unwrap();
    fs::rename(project.root(), project.path("old-disk")).unwrap();
    fs::remove_dir_all(project.path("state")).unwrap();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    project
}

fn key(name: &str) -> Vec<u8> {
    fs::read(key_file(name)).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_fresh_host_comes_back_with_one_command() {
    let project = bare();
    let dry = project.run_fed(&key(SERVER_KEY), &["recover", "-n"]);
    assert_eq!(dry.code, 0, "{dry:#?}");
    assert!(dry.stderr.contains("11 to be created"), "{dry:#?}");
    assert!(!project.root().exists() && !project.path("state").exists());

    let output = project.run_fed(&key(SERVER_KEY), &["recover"]);
    assert_eq!(output.code, 0, "{output:#?}");
    assert!(
        output.stderr.contains("11 entries: 11 created"),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("identity: installed as"),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("2 plain files are not deployed"),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("no service was started"),
        "{output:#?}"
    );
    let old = project.path("old-disk");
    for name in [
        "shared/.env",
        "analytics/.env",
        "billing/envs/.env.prod",
        "nginx/.htpasswd",
    ] {
        assert_eq!(
            project.read_server(name),
            fs::read(old.join(name)).unwrap(),
            "{name}"
        );
    }
    let identity = project.server_file(".age-key.txt");
    assert_eq!(fs::read(&identity).unwrap(), key(SERVER_KEY));
    assert_eq!(identity.metadata().unwrap().mode() & 0o7777, 0o600);

    let drill = project.run(&["drill"]);
    assert_eq!(drill.code, 0, "{drill:#?}");
    assert!(
        drill.stderr.contains("11 of 11 entries opened"),
        "{drill:#?}"
    );
    assert!(drill.stderr.contains("could be recovered"), "{drill:#?}");
    let doctor = project.run(&["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor:#?}");
    // Again: the installed identity is used, and nothing is read.
    let again = project.run(&["recover"]);
    assert_eq!(again.code, 0, "{again:#?}");
    assert!(again.stderr.contains("11 unchanged"), "{again:#?}");
    assert!(
        again.stderr.contains("was there and opens everything"),
        "{again:#?}"
    );
}

#[test]
fn a_key_that_does_not_open_everything_writes_nothing() {
    let project = bare();
    for input in [&b""[..], b"rubbish\n", &key(LAPTOP_KEY)] {
        let output = project.run_fed(input, &["recover"]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(!project.root().exists());
    }
    // Some can be opened: only `-k` goes on, and the exit code says that it did not all.
    let rules = format!(
        "creation_rules:\n  - path_regex: ^shared/\n    age: {}\n  - age: {}\n",
        recipient(LAPTOP_KEY),
        recipient(SERVER_KEY)
    );
    project.write_repo(".sops.yaml", rules);
    let old = project.path("old-disk");
    let both = [key(SERVER_KEY), key(LAPTOP_KEY)].concat();
    fs::write(project.path("both.txt"), both).unwrap();
    let both = project.path("both.txt");
    let args = ["encrypt", "--update-recipients", "--root"];
    let args = [
        &args[..],
        &[old.to_str().unwrap(), "-i", both.to_str().unwrap()],
    ]
    .concat();
    project.ok(&args);
    let output = project.run_fed(&key(SERVER_KEY), &["recover"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output.stderr.contains("does not open every entry"),
        "{output:#?}"
    );
    assert!(!project.root().exists());
    let output = project.run_fed(&key(SERVER_KEY), &["recover", "-k"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("9 created"), "{output:#?}");
    assert!(project.server_file("monitoring/.env").exists());
    assert!(!project.server_file("shared/.env").exists());
}

#[test]
fn what_stands_on_an_old_disk_is_compared() {
    let project = bare();
    fs::rename(project.path("old-disk"), project.root()).unwrap();
    project.write_server("shared/.env", "REGISTRY_TOKEN=live\n");
    let before = project.snapshot();
    let output = project.run_fed(&key(SERVER_KEY), &["recover"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("shared/.env.enc"), "{output:#?}");
    assert_eq!(project.snapshot(), before);
    let output = project.run_fed(&key(SERVER_KEY), &["recover", "--force"]);
    assert_eq!(output.code, 0, "{output:#?}");
    assert!(
        output.stderr.contains("1 replaced, 10 unchanged"),
        "{output:#?}"
    );
    project.ok(&["undo"]);
    assert_eq!(project.read_server("shared/.env"), b"REGISTRY_TOKEN=live\n");
}

#[test]
fn an_identity_that_is_there_is_kept() {
    let project = bare();
    let file = project.path("keys/age.txt");
    fs::create_dir(project.path("keys")).unwrap();
    fs::write(&file, key(LAPTOP_KEY)).unwrap();
    let out = file.to_str().unwrap();
    let args = ["recover", "--identity-out", out, "--mode", "0400"];
    let output = project.run_fed(&key(SERVER_KEY), &args);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("`--yes`"), "{output:#?}");
    assert!(!project.root().exists());
    let output = project.run_fed(&key(SERVER_KEY), &[&args[..], &["--yes"]].concat());
    assert_eq!(output.code, 0, "{output:#?}");
    assert_eq!(fs::read(&file).unwrap(), key(SERVER_KEY));
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o400);
    let kept: Vec<_> = fs::read_dir(project.path("keys"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| *path != file)
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(fs::read(&kept[0]).unwrap(), key(LAPTOP_KEY));
    assert!(
        output.stderr.contains(kept[0].to_str().unwrap()),
        "{output:#?}"
    );
}

#[test]
fn unknown_accounts_are_told_before_anything_is_written() {
    let project = bare();
    let text = project.read_repo("secret-files.toml");
    let text = text.replace(
        "\n[files]",
        "owner = \"nobody-of-ours\"\ngroup = \"no-such-group\"\n\n[files]",
    );
    project.write_repo("secret-files.toml", text);
    let output = project.run_fed(&key(SERVER_KEY), &["recover"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output
            .stderr
            .contains("the user `nobody-of-ours` does not exist"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("the group `no-such-group` does not exist"),
        "{output:#?}"
    );
    assert!(!project.root().exists());
    let drill = project.run(&["drill", "-i", key_file(SERVER_KEY).to_str().unwrap()]);
    assert_eq!(drill.code, 1, "{drill:#?}");
    assert!(drill.stdout.contains("no-such-group"), "{drill:#?}");
    let output = project.run_fed(&key(SERVER_KEY), &["recover", "--no-owner"]);
    assert_eq!(output.code, 0, "{output:#?}");
}

#[test]
fn the_key_is_typed_at_a_hidden_prompt() {
    let test = "the_key_is_typed_at_a_hidden_prompt";
    if !stock::available("script", test) {
        return;
    }
    let project = bare();
    let text = String::from_utf8(key(SERVER_KEY)).unwrap();
    let secret = text.lines().find(|line| line.starts_with("AGE-")).unwrap();
    let line = format!("{} recover", env!("CARGO_BIN_EXE_secrets"));
    let answers = [("not shown", "# created: a comment"), ("not shown", secret)];
    let (is_done, shown) = pty::type_at(&project, &line, &[], &answers);
    assert!(is_done, "{shown}");
    assert!(
        !shown.contains(secret) && !shown.contains("canary"),
        "{shown}"
    );
    assert!(project.server_file("shared/.env").exists());
}

/// The key is gone for good: everything up to a repository that is in order again.
#[test]
fn the_story_of_a_lost_key() {
    let test = "the_story_of_a_lost_key";
    if !stock::available("sops", test) {
        return;
    }
    let project = bare();
    let rules = format!(
        "# who may read what\ncreation_rules:\n  # everything\n  - path_regex: \\.enc$ # all\n    age: &server {}\n",
        recipient(SERVER_KEY)
    );
    project.write_repo(".sops.yaml", rules);
    let text = project.read_repo("secret-files.toml");
    let names = format!("[recipients]\nserver = \"{}\"\n", recipient(SERVER_KEY));
    project.write_repo("secret-files.toml", format!("{text}{names}"));
    // One of the files is on the server still.
    let old = project.path("old-disk");
    project.write_server("shared/.env", fs::read(old.join("shared/.env")).unwrap());
    let before = project.snapshot();
    let dry = project.ok(&["recover", "--new-key", "-n"]);
    assert_eq!(project.snapshot(), before);
    assert!(
        dry.stdout
            .contains("shared/.env.enc: REGISTRY_TOKEN, NOTE, HOST_unencrypted\n"),
        "{dry:#?}"
    );
    assert!(
        dry.stdout.contains("nginx/.htpasswd.enc: (content)\n"),
        "{dry:#?}"
    );

    let output = project.ok(&["recover", "--new-key", "--json"]);
    let view = json(&output.stdout);
    let new = view["recipient"].as_str().unwrap().to_owned();
    assert_eq!(view["entries"].as_array().unwrap().len(), 11);
    assert_eq!(view["changed"].as_array().unwrap().len(), 2);
    let rules = project.read_repo(".sops.yaml");
    assert_eq!(
        rules,
        format!(
            "# who may read what\ncreation_rules:\n  # everything\n  - path_regex: \\.enc$ # all\n    age: &server {new}\n"
        )
    );
    assert!(
        project
            .read_repo("secret-files.toml")
            .contains(&format!("server = \"{new}\""))
    );

    let status = project.ok(&["status", "--json"]);
    let states: Vec<_> = json(&status.stdout)["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        states.iter().filter(|state| *state == "lost-key").count(),
        11,
        "{states:?}"
    );
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("its values are lost with the key"),
        "{output:#?}"
    );
    project.ok(&["encrypt", "shared/.env"]);
    let status = json(&project.ok(&["status", "--json", "shared/.env"]).stdout);
    assert_eq!(status["entries"][0]["state"], "in-sync");
    // New values for the others.
    for entry in json(&status_of(&project))["entries"].as_array().unwrap() {
        if entry["state"] == "lost-key" {
            let target = entry["target"].as_str().unwrap();
            let target = target
                .strip_prefix(project.root().to_str().unwrap())
                .unwrap();
            let value = format!("NEW={}\n", CANARIES[7]);
            project.write_server(target.trim_start_matches('/'), value);
        }
    }
    project.ok(&["encrypt"]);
    let states = json(&status_of(&project))["entries"].clone();
    let secret = states.as_array().unwrap().iter().filter(|row| {
        row["target"].as_str().unwrap().contains("/.env")
            || row["entry"].as_str().unwrap().ends_with(".enc")
    });
    assert!(
        secret.clone().count() == 11 && secret.clone().all(|row| row["state"] == "in-sync"),
        "{states}"
    );
    let identity = project.server_file(".age-key.txt");
    let opened = stock::decrypt(&project.repo(), &identity, "dotenv", "shared/.env.enc").unwrap();
    assert_eq!(opened, project.read_server("shared/.env"));
    assert!(
        stock::decrypt(
            &project.repo(),
            &key_file(SERVER_KEY),
            "dotenv",
            "shared/.env.enc"
        )
        .is_err()
    );
    assert_eq!(project.run(&["drill"]).code, 0);
    assert_eq!(project.run(&["check"]).code, 0);
    assert_eq!(project.run(&["doctor"]).code, 0);
    // Nothing is lost now.
    assert_eq!(project.run(&["recover", "--new-key"]).code, 2);
}

fn status_of(project: &TestProject) -> String {
    project.ok(&["status", "--json"]).stdout
}

#[test]
fn whose_key_is_lost_is_asked_where_it_cannot_be_told() {
    let project = TestProject::with_files(
        &[("a.env.enc", "a.env")],
        &format!(
            "[recipients]\nserver = \"{}\"\nlaptop = \"{}\"\n",
            recipient(SERVER_KEY),
            recipient(LAPTOP_KEY)
        ),
    );
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let nothing = project.path("nothing");
    fs::write(&nothing, "").unwrap();
    let nothing = nothing.to_str().unwrap();
    let out = project.path("new.txt");
    let args = [
        "recover",
        "--new-key",
        "-i",
        nothing,
        "--identity-out",
        out.to_str().unwrap(),
    ];
    let output = project.run(&args);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("--lost RECIPIENT"), "{output:#?}");
    assert!(!out.exists());
    let output = project.ok(&[&args[..], &["--lost", "server"]].concat());
    assert!(
        output.stdout.contains("the server still has"),
        "{output:#?}"
    );
    // The laptop opens the file: `encrypt` brings it in line, with a new data key.
    let laptop = key_file(LAPTOP_KEY);
    let laptop = laptop.to_str().unwrap();
    let status = project.run(&["status", "-i", laptop]);
    assert!(
        status
            .stdout
            .contains("still encrypted for the lost key too"),
        "{status:#?}"
    );
    let output = project.ok(&["encrypt", "-i", laptop]);
    assert!(
        output
            .stderr
            .contains("a new key in the place of a lost one"),
        "{output:#?}"
    );
    assert!(
        !project
            .read_repo("a.env.enc")
            .contains(&recipient(SERVER_KEY))
    );
    let status = project.ok(&["status", "-i", out.to_str().unwrap()]);
    assert!(status.stdout.starts_with("in sync"), "{status:#?}");
}

#[test]
fn a_drill_finds_what_would_not_come_back_right() {
    let pem = |name: &str| fs::read(fixtures().join("pem").join(name)).unwrap();
    let mut rows = vec![(
        "a.env.enc".to_owned(),
        "{ path = \"a.env\", required = [\"A\"] }".to_owned(),
    )];
    for name in [
        "expired.crt",
        "future.crt",
        "good.crt",
        "good.key",
        "other/good.key",
        "other/good.crt",
        "cut.pem",
        "ed.pem",
    ] {
        rows.push((format!("{name}.enc"), name.to_owned()));
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|(one, other)| (one.as_str(), other.as_str()))
        .collect();
    let project = TestProject::with_files(&rows, "");
    let rsa = pem("throwaway-rsa.key");
    for (name, content) in [
        ("expired.crt", pem("expired.crt")),
        ("future.crt", pem("future.crt")),
        ("good.crt", pem("rsa.crt")),
        ("good.key", rsa.clone()),
        ("other/good.key", rsa.clone()),
        ("other/good.crt", pem("ec.crt")),
        ("cut.pem", rsa[..200].to_vec()),
        (
            "ed.pem",
            [pem("ed25519.crt"), pem("throwaway-ed25519.key")].concat(),
        ),
    ] {
        project.write_server(name, content);
    }
    let escaped = String::from_utf8(pem("throwaway-ec.key"))
        .unwrap()
        .replace('\n', "\\n");
    project.write_server("a.env", format!("A=1\nKEY=\"{escaped}\"\n"));
    project.ok(&["encrypt"]);
    let drill = project.run(&["drill", "--json"]);
    assert_eq!(drill.code, 1, "{drill:#?}");
    let found = json(&drill.stdout);
    let found: Vec<_> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["entry"].as_str().unwrap().to_owned(),
                row["code"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("expired.crt.enc", "expired"),
        ("future.crt.enc", "not-yet-valid"),
        ("other/good.key.enc", "key-mismatch"),
        ("cut.pem.enc", "pem"),
    ];
    let expected: Vec<_> = expected
        .map(|(entry, code)| (entry.to_owned(), code.to_owned()))
        .into();
    assert_eq!(found, expected);
    let before = project.snapshot();
    project.run(&["drill"]);
    assert_eq!(project.snapshot(), before);
    // A required key that stock took out; an entry that nobody opens.
    if stock::available("sops", "a_drill_finds_what_would_not_come_back_right") {
        let args = [
            "unset",
            "--input-type",
            "dotenv",
            "--output-type",
            "dotenv",
            "a.env.enc",
            "[\"A\"]",
        ];
        let output = stock::sops(&project.repo(), &key_file(SERVER_KEY), &args);
        assert!(output.status.success(), "{output:?}");
        let drill = project.run(&["drill", "a.env"]);
        assert_eq!(drill.code, 1);
        assert!(
            drill.stdout.contains("requires: A [required]"),
            "{drill:#?}"
        );
    }
    let laptop = key_file(LAPTOP_KEY);
    let drill = project.run(&["drill", "-i", laptop.to_str().unwrap()]);
    assert_eq!(drill.code, 2, "{drill:#?}");
    assert!(drill.stderr.contains("0 of 9 entries opened"), "{drill:#?}");
}

#[test]
fn a_doctor_names_each_thing_that_is_wrong() {
    let project = bare();
    project.run_fed(&key(SERVER_KEY), &["recover"]);
    let check = |word: &str, code: u8, part: &str| {
        let output = project.run(&["doctor"]);
        assert_eq!(output.code, code, "{part}: {output:#?}");
        let line = output.stdout.lines().find(|line| line.contains(part));
        let line = line.unwrap_or_else(|| panic!("{part}: {output:#?}"));
        assert!(line.starts_with(word), "{line}");
    };
    check("ok", 0, "identity");
    let identity = project.server_file(".age-key.txt");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    check(
        "wrong",
        1,
        "mode is 0644: everybody on this host may use it: `chmod o=",
    );
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&identity, project.path("aside")).unwrap();
    check("wrong", 2, ".age-key.txt does not exist");
    check("unknown", 2, "no identity at hand opens 11 of 11");
    fs::rename(project.path("aside"), &identity).unwrap();
    let rules = project.read_repo(".sops.yaml");
    project.write_repo(
        ".sops.yaml",
        format!(
            "{rules}  - path_regex: ^never$\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
    );
    check("note", 0, "creation rule 2 (`^never$`) governs no entry");
    project.write_repo(
        ".sops.yaml",
        rules.replace("\\.enc$", "\\.env.*[a-z]$|sql$|htpasswd$"),
    );
    check("wrong", 1, "no creation rule of");
    project.write_repo(".sops.yaml", rules);
    project.write_repo("shared/.env", "A=plain\n");
    check("wrong", 1, "lies in the repository: shared/.env");
    fs::remove_file(project.repo_file("shared/.env")).unwrap();
    project.write_repo("orphan.enc", "x\n");
    check("wrong", 1, "orphan.enc");
    fs::remove_file(project.repo_file("orphan.enc")).unwrap();
    fs::rename(project.repo_file("shared/.env.enc"), project.path("aside")).unwrap();
    check("wrong", 1, "shared/.env.enc");
    fs::rename(project.path("aside"), project.repo_file("shared/.env.enc")).unwrap();
    fs::write(project.path("state/records.json"), "rubbish").unwrap();
    check("wrong", 1, "records of the last sync are damaged");
    fs::remove_file(project.path("state/records.json")).unwrap();
    check("ok", 0, "state");
    fs::remove_dir_all(project.root()).unwrap();
    check("note", 2, "this is not the server");
}

/// A project with three readers, of whom the server lost its key.
fn three_readers(rules: &str) -> TestProject {
    let names = format!(
        "[recipients]\nserver = \"{}\"\nlaptop = \"{}\"\n",
        recipient(SERVER_KEY),
        recipient(LAPTOP_KEY)
    );
    let mut project =
        TestProject::with_files(&[("a.env.enc", "a.env"), ("b.sql.enc", "b.sql")], &names);
    let rules = rules
        .replace("SERVER", &recipient(SERVER_KEY))
        .replace("LAPTOP", &recipient(LAPTOP_KEY));
    project.write_repo(".sops.yaml", rules);
    project.write_server("a.env", format!("A={}\nB=2\n", CANARIES[0]));
    project.write_server("b.sql", "create;\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.set("SOPS_AGE_KEY_FILE", project.path("identity.txt"));
    project
}

const BOTH: &str = "creation_rules:\n  - age: >-\n      SERVER,\n      LAPTOP\n";

#[test]
fn a_lost_key_among_several_is_replaced_from_the_server() {
    let project = three_readers(BOTH);
    let identity = project.path("identity.txt");
    let out = ["--identity-out", identity.to_str().unwrap()];
    let new_key = [&["recover", "--new-key", "--lost", "server"], &out[..]].concat();
    let output = project.ok(&new_key);
    assert!(
        output.stdout.contains("the server still has"),
        "{output:#?}"
    );
    let status = project.ok(&["status"]);
    assert!(
        status
            .stdout
            .contains("only others can open it; the server has the file"),
        "{status:#?}"
    );
    project.ok(&["encrypt"]);
    assert_eq!(project.run(&["diff"]).code, 0);
    assert!(
        !project
            .read_repo("a.env.enc")
            .contains(&recipient(SERVER_KEY))
    );
    assert!(
        project
            .read_repo("a.env.enc")
            .contains(&recipient(LAPTOP_KEY))
    );
    // Again, within the same second: no key loses its file.
    let count = || {
        fs::read_dir(project.path("."))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_str().unwrap().starts_with("identity.txt")
            })
            .count()
    };
    let again = [&new_key[..], &["--yes"]].concat();
    for number in 2..5 {
        project.ok(&again);
        assert_eq!(count(), number);
    }
}

#[test]
fn what_a_colleague_rotated_is_not_written_over_for_a_lost_key() {
    let mut project = three_readers(BOTH);
    let identity = project.path("identity.txt");
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    project.capture_elsewhere("a.env", "A=rotated\nB=2\n");
    project.set("SOPS_AGE_KEY_FILE", &identity);
    let out = ["--identity-out", identity.to_str().unwrap()];
    project.ok(&[&["recover", "--new-key", "--lost", "server"], &out[..]].concat());
    let before = project.snapshot();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output.stderr.contains("laptop")
            && output
                .stderr
                .contains("`sops updatekeys -y --input-type dotenv a.env.enc`"),
        "{output:#?}"
    );
    assert_eq!(project.snapshot(), before);
    if stock::available(
        "sops",
        "what_a_colleague_rotated_is_not_written_over_for_a_lost_key",
    ) {
        let args = ["updatekeys", "-y", "--input-type", "dotenv", "a.env.enc"];
        let output = stock::sops(&project.repo(), &key_file(LAPTOP_KEY), &args);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(project.opened("a.env.enc"), b"A=rotated\nB=2\n");
    }
}

#[test]
fn a_key_that_is_in_use_is_not_put_away_for_another() {
    let mut project = three_readers(BOTH);
    let text = project.read_repo("secret-files.toml");
    let own = project.path("own.txt");
    fs::copy(key_file(SERVER_KEY), &own).unwrap();
    let text = text.replace(
        "\n[files]",
        &format!("identity = \"{}\"\n\n[files]", own.display()),
    );
    project.write_repo("secret-files.toml", text);
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    let output = project.run(&["recover", "--new-key", "--lost", "laptop", "--yes"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output.stderr.contains("server") && output.stderr.contains("--identity-out"),
        "{output:#?}"
    );
    assert_eq!(fs::read(&own).unwrap(), key(SERVER_KEY));
}

#[test]
fn an_identity_goes_nowhere_where_it_would_be_lost_or_published() {
    let project = three_readers(BOTH);
    std::os::unix::fs::symlink("/nowhere/x", project.path("dangling")).unwrap();
    let before = project.snapshot();
    let places = [
        project.repo_file("secret-files.toml"),
        project.repo_file("new.txt"),
        project.repo_file(".git/config"),
        project.server_file("b.sql"),
        project.root(),
        project.path("dangling"),
    ];
    let config = fs::read(&places[2]).unwrap();
    for place in places {
        let args = [
            "recover",
            "--yes",
            "--identity-out",
            place.to_str().unwrap(),
        ];
        let output = project.run_fed(&key(SERVER_KEY), &args);
        assert_eq!(output.code, 2, "{}: {output:#?}", place.display());
        assert!(
            output.stderr.contains("no identity may be at"),
            "{output:#?}"
        );
        assert_eq!(project.snapshot(), before);
    }
    assert_eq!(fs::read(project.repo_file(".git/config")).unwrap(), config);
}

#[test]
fn the_identity_that_opens_is_installed_whole() {
    let project = bare();
    let identity = project.server_file(".age-key.txt");
    let (server, laptop) = (key_file(SERVER_KEY), key_file(LAPTOP_KEY));
    project.ok(&[
        "recover",
        "-i",
        laptop.to_str().unwrap(),
        "-i",
        server.to_str().unwrap(),
    ]);
    assert_eq!(fs::read(&identity).unwrap(), key(SERVER_KEY));
    // Lines that stock would stumble over are left out.
    let project = bare();
    let text = [b"\xef\xbb\xbfhello\r\n", &key(SERVER_KEY)[..]].concat();
    let output = project.run_fed(&text, &["recover"]);
    assert_eq!(output.code, 0, "{output:#?}");
    assert_eq!(fs::read(&identity).unwrap(), key(SERVER_KEY));
}

#[test]
fn rules_are_rewritten_however_a_recipient_is_spelled_or_not_at_all() {
    let server = recipient(SERVER_KEY);
    let (one, other) = server.split_at(20);
    for (rules, is_understood) in [
        ("creation_rules:\n  - key_groups:\n      - age: &all [SERVER, LAPTOP]\n".to_owned(), true),
        ("creation_rules:\n  - path_regex: ^a\n    age: SERVER\n  - age: 'SERVER,LAPTOP' # both\n".to_owned(), true),
        (format!("creation_rules:\n  - age: \"{one}\\\n      {other}\"\n"), false),
    ] {
        let project = three_readers(&rules);
        let before = project.snapshot();
        let out = project.path("new.txt");
        let args = ["recover", "--new-key", "--lost", "server", "--identity-out", out.to_str().unwrap()];
        let output = project.run(&args);
        if is_understood {
            assert_eq!(output.code, 0, "{output:#?}");
            let rules = project.read_repo(".sops.yaml");
            assert!(!rules.contains(&recipient(SERVER_KEY)), "{rules}");
            assert!(project.run(&["encrypt", "-i", out.to_str().unwrap()]).code == 0);
        } else {
            assert_eq!(output.code, 2, "{output:#?}");
            assert_eq!(project.snapshot(), before);
            assert!(!out.exists());
        }
    }
}

#[test]
fn a_doctor_opens_what_it_calls_open() {
    let project = bare();
    project.run_fed(&key(SERVER_KEY), &["recover"]);
    let text = project.read_repo("shared/.env.enc");
    let at = text.find("NOTE=ENC[AES256_GCM,data:").unwrap() + 25;
    let mut altered = text.clone().into_bytes();
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    project.write_repo("shared/.env.enc", altered);
    let output = project.run(&["doctor"]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(output.stdout.contains("wrong    opens"), "{output:#?}");
}
