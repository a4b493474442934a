//! `diff`: what is shown, masked, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::{TestProject, timeless};

fn changed() -> TestProject {
    let project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.write_server(
        "shared/.env",
        "export REGISTRY_TOKEN=canary-Jr59-rotated\nNOTE=a\\nb\nADDED=1\n",
    );
    project.write_server("nginx/.htpasswd", "alice:other\nbob:new\n");
    project.write_server(
        "compose.yaml",
        "# compose.yaml\nserver_name portal.example.org;\npassword: canary-Hb65-grafana\n",
    );
    let everybodys = fs::Permissions::from_mode(0o644);
    fs::set_permissions(project.server_file("compose.yaml"), everybodys).unwrap();
    fs::remove_file(project.server_file("monitoring/.env")).unwrap();
    project
}

#[test]
fn keys_are_named_with_signs_and_values_are_masked() {
    let project = changed();
    let output = project.run(&["diff", "--color", "never"]);
    assert_eq!(output.code, 1);
    let root = project.root();
    let root = root.display();
    let expected = format!(
        "shared/.env.enc  ({root}/shared/.env)  the server is ahead
  ~ REGISTRY_TOKEN    server, TIME
  - HOST_unencrypted  server, TIME
  + ADDED             server, TIME
monitoring/.env.enc  ({root}/monitoring/.env)
  - missing on the server
nginx/.htpasswd.enc  ({root}/nginx/.htpasswd)  the server is ahead
  ~ (content: 2 lines added, 1 removed)  server, TIME
compose.yaml  ({root}/compose.yaml)  unknown which side is newer
  --- repository
  +++ server
  @@ -1,2 +1,3 @@
   # compose.yaml
   server_name portal.******;
  +password: ******
"
    );
    assert_eq!(timeless(&output.stdout), expected);
    assert_eq!(output.stderr, "13 entries: 4 differ\n");
}

#[test]
fn the_short_forms_name_entries_and_counts() {
    let project = changed();
    let names = project.run(&["diff", "--name-only"]);
    assert_eq!(
        names.stdout,
        "shared/.env.enc\nmonitoring/.env.enc\nnginx/.htpasswd.enc\ncompose.yaml\n"
    );
    let stat = project.run(&["diff", "--stat", "shared/.env", "monitoring/.env"]);
    assert_eq!(
        stat.stdout,
        "shared/.env.enc | 1+ 1~ 1-\nmonitoring/.env.enc | missing-on-server\n"
    );
    let json = project.run(&["diff", "--json", "shared/.env"]);
    let parsed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(parsed["entries"][0]["changes"][0]["key"], "REGISTRY_TOKEN");
    assert_eq!(parsed["entries"][0]["state"], "differs");
}

#[test]
fn values_are_shown_only_when_asked_for() {
    let project = changed();
    let output = project.run_showing(&["diff", "--show-values", "shared/.env"]);
    assert!(
        output
            .stdout
            .contains("  -export REGISTRY_TOKEN=canary-Zt47-registry\n"),
        "{output:#?}"
    );
    assert!(
        output
            .stdout
            .contains("  +export REGISTRY_TOKEN=canary-Jr59-rotated\n"),
        "{output:#?}"
    );
    assert_eq!(project.run(&["diff", "--show-values", "--json"]).code, 2);
}

#[test]
fn layout_only_is_its_own_word() {
    let project = changed();
    project.write_server("shared/.env", "\nexport REGISTRY_TOKEN=canary-Zt47-registry\nNOTE=a\\nb\n\nHOST_unencrypted=example.org\n");
    let output = project.run(&["diff", "shared/.env"]);
    assert_eq!(output.code, 1);
    assert!(
        output
            .stdout
            .ends_with("  ~ layout only (no value differs)\n"),
        "{output:#?}"
    );
}

#[test]
fn what_could_not_be_compared_is_trouble() {
    let project = changed();
    project.write_repo("shared/.env.enc", "garbage\n");
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("1 could not be compared"),
        "{output:#?}"
    );
    // Not everything could be read: nothing of a plain file is safe to show.
    assert!(!output.stdout.contains("server_name"), "{output:#?}");
    fs::remove_dir_all(project.root()).unwrap();
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("this is not the server"),
        "{output:#?}"
    );
}

#[test]
fn only_on_the_server_is_not_encrypted_yet() {
    let project = TestProject::infrastructure();
    let output = project.run(&["diff", "shared/.env"]);
    assert_eq!(output.code, 1);
    assert!(
        output
            .stdout
            .ends_with("  + not encrypted yet: only on the server\n"),
        "{output:#?}"
    );
}

#[test]
fn key_material_over_several_lines_is_never_taken_for_keys() {
    let project = TestProject::with_files(
        &[("a.env.enc", "{ path = \"a.env\", format = \"binary\" }")],
        "",
    );
    project.write_server(
        "a.env",
        "KEY=\"-----BEGIN-----\ncanaryKeyMaterial=\nMORE=x\n-----END-----\"\n",
    );
    project.ok(&["encrypt"]);
    project.write_server(
        "a.env",
        "KEY=\"-----BEGIN-----\notherKeyMaterial=\nMORE=y\n-----END-----\"\n",
    );
    let output = project.run(&["diff"]);
    let shown = timeless(&output.stdout);
    assert!(shown.ends_with("\n  ~ KEY  server, TIME\n"), "{output:#?}");
}
