//! Patterns and hosts.

use std::fs;

use super::support::TestProject;

fn family(rest: &str) -> TestProject {
    let project = TestProject::with_files(
        &[("envs/{app}/.env.{env}.enc", "{app}/envs/.env.{env}")],
        rest,
    );
    for (app, env) in [("billing", "dev"), ("billing", "prod"), ("portal", "dev")] {
        project.write_server(
            &format!("{app}/envs/.env.{env}"),
            format!("A={app}\nE={env}\n"),
        );
    }
    project
}

#[test]
fn one_row_stands_for_present_and_future_files() {
    let project = family("");
    let output = project.ok(&["status"]);
    assert!(output.stdout.contains("0 entries"), "{output:#?}");
    assert!(
        output
            .stdout
            .contains("3 on the server only, matching a pattern"),
        "{output:#?}"
    );
    assert!(
        output.stdout.contains("`secrets encrypt --new`"),
        "{output:#?}"
    );
    // Never by itself.
    let output = project.ok(&["encrypt"]);
    assert!(!project.repo_file("envs").exists(), "{output:#?}");
    project.ok(&["encrypt", "portal/envs/.env.dev"]);
    assert!(project.repo_file("envs/portal/.env.dev.enc").exists());
    assert!(!project.repo_file("envs/billing").exists());
    project.ok(&["encrypt", "--new"]);
    let list = project.ok(&["list"]).stdout;
    assert!(list.starts_with("envs/billing/.env.dev.enc  "), "{list}");
    // Backups of editors are nobody's files.
    project.write_server("billing/envs/.env.dev~", "A=1\n");
    project.write_server("billing/envs/.env..swp", "A=1\n");
    let output = project.ok(&["status"]);
    assert!(
        output.stdout.contains("3 entries: 3 in sync"),
        "{output:#?}"
    );
    assert!(!output.stdout.contains("on the server only"), "{output:#?}");
    fs::remove_dir_all(project.server_file("billing")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(
        project.read_server("billing/envs/.env.prod"),
        b"A=billing\nE=prod\n"
    );
}

#[test]
fn a_member_that_is_gone_is_not_forgotten() {
    let project = family("");
    project.ok(&["encrypt", "--new"]);
    project.commit();
    fs::remove_file(project.repo_file("envs/portal/.env.dev.enc")).unwrap();
    let json = project.run(&["status", "--json"]).stdout;
    assert!(json.contains("\"deleted-in-repo\""), "{json}");
    project.git(&["rm", "-q", "--cached", "envs/portal/.env.dev.enc"]);
    project.git(&["commit", "-q", "-m", "gone"]);
    let refused = project.run(&["encrypt"]);
    assert_eq!(refused.code, 3, "the record knows it: {refused:#?}");
    assert!(
        refused
            .stderr
            .contains("`secrets remove envs/portal/.env.dev.enc`"),
        "{refused:#?}"
    );
    project.ok(&["remove", "envs/portal/.env.dev.enc"]);
    project.ok(&["encrypt"]);
    assert!(project.server_file("portal/envs/.env.dev").exists());
}

#[test]
fn ambiguous_and_overlapping_rows_show_both() {
    let project = TestProject::with_files(&[("{a}-{b}.enc", "{a}/{b}")], "");
    project.write_repo("x-y-z.enc", "");
    let output = project.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains(
            "`x-y-z.enc` can be read in two ways as `{a}-{b}.enc`: a=x, b=y-z, or a=x-y, b=z"
        ),
        "{output:#?}"
    );
    project.write_manifest(&[("{a}/.env.enc", "{a}/.env"), ("x/{b}.enc", "{b}")], "");
    fs::remove_file(project.repo_file("x-y-z.enc")).unwrap();
    project.write_repo("x/.env.enc", "");
    let output = project.run(&["list"]);
    assert!(output.stderr.contains("the file is empty"), "{output:#?}");
    project.write_manifest(&[("{a}/y.enc", "one/{a}"), ("x/{b}.enc", "two/{b}")], "");
    project.write_repo("x/y.enc", "");
    let output = project.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .contains("`x/y.enc` stands in `x/{b}.enc` and in `{a}/y.enc` (line 7)"),
        "{output:#?}"
    );
    project.write_manifest(
        &[("{a}/y.enc", "{b}"), ("{.enc", "x"), ("c.enc", "{d}")],
        "",
    );
    let output = project.run(&["list"]);
    for expected in [
        "`{b}` is no capture of it",
        "a `{` is not closed",
        "has no captures",
    ] {
        assert!(output.stderr.contains(expected), "{expected}: {output:#?}");
    }
}

#[test]
fn plain_rows_can_be_patterns_too() {
    let project = TestProject::with_files(
        &[],
        "[plain]\n\"conf.d/{name}.conf\" = \"nginx/{name}.conf\"\n",
    );
    project.write_repo("conf.d/a.conf", "a\n");
    project.write_repo("conf.d/b.conf", "b\n");
    project.write_repo("conf.d/b.conf.bak", "b\n");
    let output = project.ok(&["deploy"]);
    assert!(
        output.stderr.contains("2 entries: 2 created"),
        "{output:#?}"
    );
    assert_eq!(project.read_server("nginx/b.conf"), b"b\n");
}

#[test]
fn entries_of_other_hosts_are_left_alone() {
    let mut project = TestProject::with_files(
        &[
            ("all.enc", "all"),
            (
                "web.enc",
                "{ path = \"own\", hosts = [\"web1\", \"web2\"] }",
            ),
            ("db.enc", "{ path = \"own\", hosts = [\"db1\"] }"),
            (
                "hosts/{host}.enc",
                "{ path = \"more\", hosts = [\"{host}\"] }",
            ),
        ],
        "",
    );
    project.set("SECRETS_HOST", "web1.example.org");
    project.write_server("all", "a\n");
    project.write_server("own", "w\n");
    project.ok(&["encrypt"]);
    assert!(project.repo_file("web.enc").exists() && !project.repo_file("db.enc").exists());
    project.set("SECRETS_HOST", "db1");
    let output = project.run(&["decrypt", "web.enc"]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .contains("`web.enc` is for web1, web2, and this is db1"),
        "{output:#?}"
    );
    project.ok(&["status"]);
    project.set("SECRETS_HOST", "laptop");
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output.stderr.contains(
            "rows of the manifest are for web1, web2, db1, and none of them is this host, laptop"
        ) && output.stderr.contains("`--host web1`"),
        "{output:#?}"
    );
    let output = project.ok(&["status", "--host", "web2"]);
    assert!(
        output.stdout.contains("web.enc") && !output.stdout.contains("db.enc"),
        "{output:#?}"
    );
    let list = project.ok(&["list"]).stdout;
    assert!(
        list.contains("web.enc") && list.contains("on web1, web2"),
        "{list}"
    );
    let sealed = project.read_repo("all.enc");
    project.write_repo("hosts/db1.enc", sealed);
    project.write_repo("hosts/web9.enc", "");
    let output = project.ok(&["decrypt", "--host", "db1", "hosts/db1.enc"]);
    assert!(output.stderr.contains("created"), "{output:#?}");
    assert_eq!(project.read_server("more"), b"a\n");
}
