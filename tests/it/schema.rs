//! What `--json` prints is what `schema` says.

use std::fs;

use serde_json::Value;

use super::support::{SERVER_KEY, TestProject, key_file};

fn validate(schemas: &Value, name: &str, text: &str) {
    let output: Result<Value, _> = serde_json::from_str(text);
    assert!(output.is_ok(), "{name}: {output:?}: {text}");
    let output = output.unwrap();
    let schema = &schemas["schemas"][name];
    assert!(schema.is_object(), "{name} has no schema");
    let mut strict = schema.clone();
    close(&mut strict);
    let validator = jsonschema::validator_for(&strict).unwrap();
    let errors: Vec<_> = validator
        .iter_errors(&output)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{output:#}");
}

/// Lets a schema refuse every field that it does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn every_json_output_has_its_schema() {
    let mut project = TestProject::infrastructure();
    let schemas: Value = serde_json::from_str(&project.ok(&["schema"]).stdout).unwrap();
    let json =
        |project: &TestProject, args: &[&str]| project.run(&[args, &["--json"]].concat()).stdout;
    let check = |project: &TestProject, name: &str, args: &[&str]| {
        validate(&schemas, name, &json(project, args));
    };
    check(&project, "encrypt", &["encrypt"]);
    project.commit();
    for (name, args) in [
        ("decrypt", &["decrypt"][..]),
        ("check", &["check"]),
        ("list", &["list"]),
        ("trust", &["trust"]),
        ("doctor", &["doctor"]),
        ("drill", &["drill"]),
        ("history", &["history", "shared/.env"]),
        ("history", &["history", "shared/.env", "NOTE"]),
        ("undo --list", &["undo", "--list"]),
        ("undo --prune", &["undo", "--prune", "-n"]),
        ("problems", &["diff", "no-such-entry"]),
        (
            "restore",
            &["restore", "shared/.env", "--rev", "HEAD", "-n"],
        ),
    ] {
        check(&project, name, args);
    }
    project.capture_elsewhere(
        "shared/.env",
        "export REGISTRY_TOKEN=canary-Jr59-rotated\nNOTE=a\\nb\nHOST_unencrypted=example.org\n",
    );
    project.write_server(
        "shared/.env",
        "export REGISTRY_TOKEN=canary-Zt47-registry\nNOTE=other\nHOST_unencrypted=example.org\n",
    );
    project.write_server("monitoring/.env", "GRAFANA=\n");
    fs::remove_file(project.server_file("nginx/.htpasswd")).unwrap();
    project.write_repo("orphan.enc", "x\n");
    for (name, args) in [
        ("status", &["status"][..]),
        ("diff", &["diff"]),
        ("encrypt", &["encrypt"]),
        ("decrypt", &["decrypt"]),
        ("deploy", &["deploy", "-n"]),
        ("merge", &["merge", "-n", "shared/.env"]),
        ("check", &["check"]),
        ("adopt", &["adopt"]),
        ("remove", &["remove", "-n", "analytics/.env"]),
        ("mv", &["mv", "-n", "analytics/.env", "analytics/b.env.enc"]),
        ("add", &["add", "-n", "no-such-file"]),
        ("undo", &["undo", "-n"]),
        ("recover", &["recover", "-n"]),
    ] {
        let name = if json(&project, args).contains("\"command\"") {
            name
        } else {
            "problems"
        };
        check(&project, name, args);
    }
    let out = project.path("new.txt");
    check(&project, "keygen", &["keygen", "-o", out.to_str().unwrap()]);
    let lost = super::support::recipient(SERVER_KEY);
    check(
        &project,
        "recover --new-key",
        &["recover", "--new-key", "-n", "--lost", &lost],
    );
    // Each schema can be printed by itself, and an unknown one is an error.
    let one: Value = serde_json::from_str(&project.ok(&["schema", "undo --list"]).stdout).unwrap();
    assert_eq!(one, schemas["schemas"]["undo --list"]);
    assert_eq!(project.run(&["schema", "nothing"]).code, 2);
    let fresh = TestProject::new();
    fs::copy(key_file(SERVER_KEY), fresh.path("key.txt")).unwrap();
    check(&fresh, "init", &["init"]);
}
