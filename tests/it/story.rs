//! The eleven-file story, from a rebuilt server to a rotated credential.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::support::stock;
use super::support::{CANARIES, SERVER_KEY, TestProject, key_file, timeless};

/// Encrypts the infrastructure, commits it and returns it with its plaintexts remembered.
fn captured() -> (TestProject, Vec<(String, Vec<u8>)>) {
    let project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.commit();
    let files: Vec<_> = project
        .snapshot()
        .into_iter()
        .filter_map(|(path, content)| {
            let name = path.strip_prefix(project.root()).ok()?.to_str()?.to_owned();
            Some((name, content))
        })
        .collect();
    assert_eq!(files.len(), 13);
    (project, files)
}

#[test]
fn a_server_is_rebuilt_from_nothing() {
    let (project, files) = captured();
    fs::remove_dir_all(project.root()).unwrap();

    let refused = project.run(&["decrypt"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("this is not the server"),
        "{refused:#?}"
    );
    assert!(refused.stderr.contains("--create-root"), "{refused:#?}");

    let output = project.ok(&["decrypt", "--create-root"]);
    assert!(
        output.stderr.contains("11 entries: 11 created"),
        "{output:#?}"
    );
    for (name, content) in files
        .iter()
        .filter(|(name, _)| !name.ends_with(".conf") && !name.ends_with(".yaml"))
    {
        assert_eq!(&project.read_server(name), content, "{name}");
        let mode = fs::metadata(project.server_file(name)).unwrap().mode() & 0o7777;
        assert_eq!(
            mode, 0o600,
            "{name}: a new file without a declared mode is private"
        );
    }
    let again = project.ok(&["decrypt"]);
    assert!(
        again.stderr.contains("11 entries: 11 unchanged"),
        "{again:#?}"
    );
    let secret_only = [
        "diff",
        "envs/**",
        "shared/**",
        "monitoring/.env",
        "analytics/.env",
        "nginx/.htpasswd",
    ];
    assert_eq!(project.ok(&secret_only).stdout, "");
}

#[test]
fn one_rotated_value_is_three_changed_lines() {
    let (project, _) = captured();
    assert_eq!(project.ok(&["diff"]).stdout, "");
    let name = "portal/envs/.env.prod";
    let text = String::from_utf8(project.read_server(name)).unwrap();
    let rotated = text.replace("canary-Vd81-database-6", "canary-Jr59-rotated");
    assert_ne!(text, rotated);
    project.write_server(name, &rotated);

    let diff = project.run(&["diff"]);
    assert_eq!(diff.code, 1);
    let title = format!(
        "envs/portal/.env.prod.enc  ({})  the server is ahead",
        project.server_file(name).display()
    );
    let expected = format!("{title}\n  ~ DATABASE_URL  server, TIME\n");
    assert_eq!(timeless(&diff.stdout), expected);

    let before = project.snapshot();
    let refused = project.run(&["decrypt"]);
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("~ DATABASE_URL"), "{refused:#?}");
    assert_eq!(project.snapshot(), before);

    let encrypted = project.ok(&["encrypt"]);
    assert!(
        encrypted.stderr.contains("1 replaced, 10 unchanged"),
        "{encrypted:#?}"
    );
    assert_eq!(
        project.git(&["diff", "--numstat"]),
        "3\t3\tenvs/portal/.env.prod.enc\n"
    );
    let changed = project.git(&["diff", "-U0"]);
    let keys: Vec<_> = changed
        .lines()
        .filter(|line| line.starts_with('+') && !line.starts_with("+++"))
        .map(|line| line.split('=').next().unwrap())
        .collect();
    assert_eq!(keys, ["+DATABASE_URL", "+sops_lastmodified", "+sops_mac"]);

    assert_eq!(project.ok(&["diff"]).stdout, "");
    if stock::available("sops", "one_rotated_value_is_three_changed_lines") {
        let opened = stock::decrypt(
            &project.repo(),
            &key_file(SERVER_KEY),
            "dotenv",
            "envs/portal/.env.prod.enc",
        )
        .unwrap();
        // Stock prints no blank lines.
        let expected: String = rotated
            .lines()
            .filter(|line| !line.is_empty())
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(String::from_utf8(opened).unwrap(), expected);
    }
}

#[test]
fn a_file_that_stock_edited_opens_here() {
    if !stock::available("sops", "a_file_that_stock_edited_opens_here") {
        return;
    }
    let (project, _) = captured();
    let kind = ["--input-type", "dotenv", "--output-type", "dotenv"];
    let args = [
        &["set"][..],
        &kind,
        &[
            "shared/.env.enc",
            "[\"REGISTRY\"]",
            "\"canary-Jr59-rotated\"",
        ],
    ]
    .concat();
    let output = stock::sops(&project.repo(), &key_file(SERVER_KEY), &args);
    assert!(output.status.success(), "{output:?}");
    let diff = project.run(&["diff", "shared/.env"]);
    assert_eq!(diff.code, 1);
    assert!(
        diff.stdout
            .ends_with("  - REGISTRY  repository, not committed\n"),
        "{diff:#?}"
    );
    project.ok(&["decrypt", "--force", "shared/.env"]);
    let text = String::from_utf8(project.read_server("shared/.env")).unwrap();
    assert!(text.ends_with("REGISTRY=canary-Jr59-rotated\n"), "{text}");
    assert_eq!(
        project.ok(&["encrypt", "shared/.env"]).stderr,
        "1 entry: 1 unchanged\n"
    );
}

#[test]
fn the_second_encrypt_touches_nothing() {
    let (project, _) = captured();
    let times = |project: &TestProject| -> Vec<_> {
        project
            .snapshot()
            .into_keys()
            .map(|path| {
                let metadata = fs::metadata(&path).unwrap();
                (
                    path,
                    metadata.ino(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                )
            })
            .collect()
    };
    let before = times(&project);
    project.ok(&["encrypt"]);
    project.ok(&["decrypt"]);
    assert_eq!(times(&project), before);
}

#[test]
fn nothing_encrypted_holds_a_value() {
    let (project, _) = captured();
    for (path, content) in project.snapshot() {
        if path.extension().is_some_and(|extension| extension == "enc") {
            let text = String::from_utf8(content).unwrap();
            assert!(
                CANARIES.iter().all(|canary| !text.contains(canary)),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn the_repository_works_from_any_folder() {
    let (project, _) = captured();
    let folder = project.repo_file("shared/init-scripts");
    let output = project.run_in(&folder, &["diff", "01-create-databases.sql.enc"]);
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (0, "1 entry: no differences\n")
    );
    let server = project.server_file("nginx");
    let manifest = project.repo_file("secret-files.toml");
    let output = project.run_in(
        &server,
        &["-m", manifest.to_str().unwrap(), "status", ".htpasswd"],
    );
    assert!(
        output
            .stdout
            .starts_with("in sync            nginx/.htpasswd.enc"),
        "{output:#?}"
    );
}
