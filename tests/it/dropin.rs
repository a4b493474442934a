//! The program called as `sops`: what the reference's own functional tests ask of it, and what they do
//! not. Each row is held against the real `sops` too, where there is one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::sandbox::{Gnupg, Sandbox, Which};
use super::support::vault::{self, Vault};
use super::support::{LAPTOP_KEY, SERVER_KEY, key_file, recipient, stock};

/// Returns the programs that a row is run with.
fn programs(test: &str) -> Vec<Which> {
    if stock::available("sops", test) {
        vec![Which::Ours, Which::Stock]
    } else {
        vec![Which::Ours]
    }
}

/// Returns sandboxes with a rule for every file, one for each program.
fn sandboxes(test: &str) -> Vec<Sandbox> {
    programs(test)
        .into_iter()
        .map(|which| {
            let sandbox = Sandbox::new(which);
            let rules = format!("creation_rules:\n  - age: {}\n", recipient(SERVER_KEY));
            sandbox.write(".sops.yaml", rules);
            sandbox
        })
        .collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn is_token(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.starts_with("ENC[AES256_GCM,data:") && text.ends_with(']'))
}

#[test]
fn files_are_encrypted_value_by_value() {
    for sops in sandboxes("files_are_encrypted_value_by_value") {
        sops.write("f.json", "{\"foo\": 2, \"bar\": \"baz\"}");
        let encrypted = json(&sops.sops(&["encrypt", "f.json"]).ok().text());
        assert!(encrypted.get("sops").is_some());
        assert!(is_token(&encrypted["foo"]) && is_token(&encrypted["bar"]));
        // Without a line break at its end.
        sops.write("f.yaml", "foo: 2\nbar: baz");
        let encrypted = sops.sops(&["encrypt", "f.yaml"]).ok().text();
        assert!(encrypted.starts_with("foo: ENC[") && encrypted.contains("\nsops:\n"));
        assert!(!encrypted.contains("baz"));
    }
}

#[test]
fn standard_input_takes_its_name_from_a_flag() {
    for sops in sandboxes("standard_input_takes_its_name_from_a_flag") {
        let args = [
            "encrypt",
            "--filename-override",
            "test_encrypt.yaml",
            "--output-type",
            "json",
        ];
        let text = sops.sops_fed(&args, b"foo: 2\nbar: baz\n").ok().text();
        let encrypted = json(&text);
        assert!(is_token(&encrypted["foo"]) && is_token(&encrypted["bar"]));
        let args = ["decrypt", "--input-type", "yaml", "--output-type", "yaml"];
        let decrypted = sops.sops_fed(&args, text.as_bytes()).ok().text();
        assert_eq!(decrypted, "foo: 2\nbar: baz\n");
        sops.sops_fed(&["encrypt"], b"a: 1\n").fails(8);
        sops.sops_fed(
            &["encrypt", "-i", "--filename-override", "x.yaml"],
            b"a: 1\n",
        )
        .fails(8);
    }
}

#[test]
fn values_of_any_type_become_texts_in_ini() {
    for sops in sandboxes("values_of_any_type_become_texts_in_ini") {
        sops.write(
            "f.yaml",
            "section:\n  int: 123\n  float: 1.23\n  boolean: true\n  date: 2025-01-02\n  timestamp: 2025-01-02T03:04:05Z\n  text: \"2025-01-02T03:04:05Z\"\n  word: this is a string\n",
        );
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let args = ["decrypt", "--output-type", "ini", "f.yaml"];
        assert_eq!(
            sops.sops(&args).ok().text(),
            "[section]\nint       = 123\nfloat     = 1.23\nboolean   = true\ndate      = 2025-01-02T00:00:00Z\ntimestamp = 2025-01-02T03:04:05Z\ntext      = 2025-01-02T03:04:05Z\nword      = this is a string\n"
        );
    }
}

#[test]
fn times_come_back_as_they_were_read() {
    for sops in sandboxes("times_come_back_as_they_were_read") {
        sops.write("f.yaml", "a: 2024-01-01\nb: 2006-01-02T15:04:05+07:06\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        sops.sops(&["decrypt", "-i", "f.yaml"]).ok();
        assert_eq!(
            sops.read("f.yaml"),
            "a: 2024-01-01T00:00:00Z\nb: 2006-01-02T15:04:05+07:06\n"
        );
    }
}

#[test]
fn set_replaces_and_adds_values() {
    for sops in sandboxes("set_replaces_and_adds_values") {
        sops.write("f.json", "{\"a\": 2, \"b\": \"ba\"}");
        sops.sops(&["encrypt", "-i", "f.json"]).ok();
        sops.sops(&["set", "f.json", "[\"a\"]", "{\"aa\": \"aaa\"}"])
            .ok();
        let file = json(&sops.read("f.json"));
        assert!(is_token(&file["a"]["aa"]) && is_token(&file["b"]));
        let kept = file["b"].clone();
        sops.write("value", "{\"cc\": \"ccc\"}");
        sops.sops(&["set", "--value-file", "f.json", "[\"c\"]", "value"])
            .ok();
        let args = ["set", "--value-stdin", "f.json", "[\"d\"]"];
        sops.sops_fed(&args, b"{\"dd\": \"ddd\"}").ok();
        let file = json(&sops.read("f.json"));
        assert!(is_token(&file["c"]["cc"]) && is_token(&file["d"]["dd"]));
        // A value that stays keeps its token.
        assert_eq!(file["b"], kept);
        for yaml in ["a: 2\nb: ba\n", "{a: 2, b: ba}\n"] {
            sops.write("f.yaml", yaml);
            sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
            sops.sops(&["set", "f.yaml", "[\"a\"]", "\"aaa\""]).ok();
            sops.sops(&["set", "f.yaml", "[\"c\"]", "{\"cc\": \"ccc\"}"])
                .ok();
            let plain = sops.sops(&["decrypt", "f.yaml"]).ok().text();
            assert_eq!(plain, "a: aaa\nb: ba\nc:\n    cc: ccc\n");
        }
        sops.sops(&["set", "f.yaml", "[\"a\"]", "{"]).fails(7);
        sops.sops(&["set", "f.yaml", "a", "1"]).fails(7);
        sops.sops(&["set", "f.yaml", "[\"a\"]"]).fails(100);
        sops.sops(&["set", "none.yaml", "[\"a\"]", "1"]).fails(2);
    }
}

#[test]
fn the_old_flags_do_the_same() {
    for sops in sandboxes("the_old_flags_do_the_same") {
        sops.write("f.yaml", "a: 1\nb: ba\n");
        sops.sops(&["-e", "-i", "f.yaml"]).ok();
        sops.sops(&["--set", "[\"a\"] \"aaa\"", "-i", "f.yaml"])
            .ok();
        let before = sops.read("f.yaml");
        sops.sops(&["-r", "-i", "f.yaml"]).ok();
        assert_ne!(before, sops.read("f.yaml"));
        assert_eq!(sops.sops(&["-d", "f.yaml"]).ok().text(), "a: aaa\nb: ba\n");
        let args = ["-d", "--extract", "[\"b\"]", "f.yaml"];
        assert_eq!(sops.sops(&args).ok().text(), "ba");
        sops.sops(&["-d", "-i", "f.yaml"]).ok();
        assert_eq!(sops.read("f.yaml"), "a: aaa\nb: ba\n");
        sops.sops(&["-d", "none.yaml"]).fails(100);
        sops.sops(&["-d", "-i", "--output", "x", "f.yaml"]).fails(8);
        sops.sops(&["--add-age", "age1x", "none.yaml"]).fails(49);
    }
}

#[test]
fn an_idempotent_set_writes_only_what_differs() {
    for sops in sandboxes("an_idempotent_set_writes_only_what_differs") {
        sops.write("f.json", "{\"a\": {\"x\": \"y\"}, \"b\": \"ba\"}");
        sops.sops(&["encrypt", "-i", "f.json"]).ok();
        let before = sops.read("f.json");
        let same = "{\"x\": \"y\"}";
        sops.sops(&["set", "--idempotent", "f.json", "[\"a\"]", same])
            .ok();
        assert_eq!(sops.read("f.json"), before);
        // Without the flag the file is written anew, in the output's format.
        let args = ["set", "--output-type", "yaml", "f.json", "[\"a\"]", same];
        sops.sops(&args).ok();
        assert!(sops.read("f.json").starts_with("a:\n"));
        let args = [
            "decrypt",
            "--input-type",
            "yaml",
            "--output-type",
            "yaml",
            "f.json",
        ];
        assert_eq!(sops.sops(&args).ok().text(), "a:\n    x: \"y\"\nb: ba\n");
    }
}

#[test]
fn unset_takes_values_away() {
    for sops in sandboxes("unset_takes_values_away") {
        for (name, text) in [
            (
                "f.json",
                "{\"a\": 1, \"b\": {\"x\": 1, \"y\": 2}, \"c\": [1, 2]}",
            ),
            ("f.yaml", "{a: 1, b: {x: 1, y: 2}, c: [1, 2]}\n"),
        ] {
            sops.write(name, text);
            sops.sops(&["encrypt", "-i", name]).ok();
            sops.sops(&["unset", name, "[\"a\"]"]).ok();
            sops.sops(&["unset", name, "[\"b\"][\"x\"]"]).ok();
            sops.sops(&["unset", name, "[\"c\"][1]"]).ok();
            let args = ["decrypt", "--output-type", "json", name];
            let plain = json(&sops.sops(&args).ok().text());
            assert_eq!(plain, json("{\"b\": {\"y\": 2}, \"c\": [1]}"));
            let before = sops.read(name);
            for path in ["[\"zz\"]", "[\"c\"][1]"] {
                sops.sops(&["unset", name, path]).fails(1);
                sops.sops(&["unset", "--idempotent", name, path]).ok();
                assert_eq!(sops.read(name), before, "{path}");
            }
        }
    }
}

#[test]
fn a_wrong_or_missing_mac_is_told_unless_ignored() {
    for sops in sandboxes("a_wrong_or_missing_mac_is_told_unless_ignored") {
        sops.write("f.yaml", "a: 1\nb_unencrypted: x\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let whole = sops.read("f.yaml");
        let changed = whole.replace("b_unencrypted: x", "b_unencrypted: y");
        let without: String = whole
            .lines()
            .filter(|line| !line.trim_start().starts_with("mac:"))
            .map(|line| format!("{line}\n"))
            .collect();
        for text in [changed, without] {
            sops.write("f.yaml", text);
            let failed = sops.sops(&["decrypt", "f.yaml"]).fails(51);
            assert!(failed.stderr.contains("MAC mismatch"), "{}", failed.stderr);
            sops.sops(&["decrypt", "--ignore-mac", "f.yaml"]).ok();
        }
    }
}

#[test]
fn comments_are_encrypted_and_come_back() {
    for sops in sandboxes("comments_are_encrypted_and_come_back") {
        let text = "# this-is-a-comment\nlorem: ipsum\nlist:\n    # this-is-a-list-comment\n    - 1\n    # and-another\n    - 2\n";
        sops.write("f.yaml", text);
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let encrypted = sops.read("f.yaml");
        for word in ["this-is-a-comment", "this-is-a-list-comment", "and-another"] {
            assert!(!encrypted.contains(word), "{word}");
        }
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), text);
        // A comment that was never encrypted stays, with a word about it.
        sops.write("f.yaml", format!("# in clear\n{encrypted}"));
        let decrypted = sops.sops(&["decrypt", "f.yaml"]).ok();
        assert!(decrypted.text().contains("# in clear\n"));
        assert!(decrypted.stderr.contains("unencrypted comment"));
    }
}

#[test]
fn a_string_is_extracted_as_it_is() {
    for sops in sandboxes("a_string_is_extracted_as_it_is") {
        sops.write(
            "f.yaml",
            "multiline: |-\n  multi\n  line\nmap:\n  a: 1\nlist: [1, two]\nnumber: 1.5\n",
        );
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let extract = |path: &str, kind: &str| {
            sops.sops(&[
                "decrypt",
                "--extract",
                path,
                "--output-type",
                kind,
                "f.yaml",
            ])
        };
        for kind in ["yaml", "json", "dotenv", "ini", "binary"] {
            let text = extract("[\"multiline\"]", kind).ok().text();
            assert_eq!(text, "multi\nline", "{kind}");
        }
        assert_eq!(extract("[\"map\"]", "yaml").ok().text(), "a: 1\n");
        assert_eq!(
            extract("[\"map\"]", "json").ok().text(),
            "{\n\t\"a\": 1\n}\n"
        );
        assert_eq!(extract("[\"list\"]", "yaml").ok().text(), "- 1\n- two\n");
        assert_eq!(
            extract("[\"list\"]", "json").ok().text(),
            "[\n\t1,\n\t\"two\"\n]"
        );
        assert_eq!(extract("[\"list\"][1]", "yaml").ok().text(), "two");
        assert_eq!(extract("[\"number\"]", "yaml").ok().text(), "1.5\n");
        extract("[\"none\"]", "yaml").fails(1);
        extract("[\"list\"][7]", "yaml").fails(1);
        extract("multiline", "yaml").fails(91);
    }
}

#[test]
fn a_binary_file_comes_back_byte_for_byte() {
    for sops in sandboxes("a_binary_file_comes_back_byte_for_byte") {
        let data = b"\"\"{}this_is_binary_data\x00\xff\r\n";
        sops.write("f.binary", data);
        sops.sops(&["encrypt", "-i", "f.binary"]).ok();
        assert_ne!(fs::read(sops.path("f.binary")).unwrap(), data);
        sops.sops(&["decrypt", "-i", "f.binary"]).ok();
        assert_eq!(fs::read(sops.path("f.binary")).unwrap(), data);
    }
}

#[test]
fn output_goes_where_it_is_sent() {
    for sops in sandboxes("output_goes_where_it_is_sent") {
        sops.write("f.yaml", "a: b\n");
        let ended = sops
            .sops(&["encrypt", "--output", "out.yaml", "f.yaml"])
            .ok();
        assert!(ended.stdout.is_empty());
        assert!(sops.read("out.yaml").contains("sops:"));
        sops.sops(&["decrypt", "--output", "plain.yaml", "out.yaml"])
            .ok();
        assert_eq!(sops.read("plain.yaml"), "a: b\n");
        sops.sops(&["decrypt", "--output", "none/plain.yaml", "out.yaml"])
            .fails(3);
    }
}

#[test]
fn commands_run_with_the_values_in_their_environment() {
    for sops in sandboxes("commands_run_with_the_values_in_their_environment") {
        sops.write(
            "f.yaml",
            "foo: bar\nbar: |-\n  baz\n  bam\nn: 1.0\nt: true\n",
        );
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        sops.script("print.sh", "#!/bin/sh\necho \"$foo/$bar/$n/$t\"\n");
        let ended = sops
            .sops(&["exec-env", "f.yaml", "/bin/sh ./print.sh"])
            .ok();
        assert_eq!(ended.text(), "bar/baz\nbam/1.0/true\n");
        sops.sops(&["exec-env", "f.yaml", "exit 3"]).fails(3);
        let ended = sops
            .sops(&["exec-env", "--same-process", "f.yaml", "echo $foo; exit 4"])
            .fails(4);
        assert_eq!(ended.text(), "bar\n");
        let ended = sops
            .sops(&["exec-env", "--pristine", "f.yaml", "echo \"[$HOME]$foo\""])
            .ok();
        assert_eq!(ended.text(), "[]bar\n");
        sops.sops(&["exec-env", "f.yaml"]).fails(1);
        sops.write("deep.yaml", "a:\n  b: 1\n");
        sops.sops(&["encrypt", "-i", "deep.yaml"]).ok();
        sops.sops(&["exec-env", "deep.yaml", "true"]).fails(1);
    }
}

#[test]
fn commands_run_with_the_plaintext_in_a_file() {
    for sops in sandboxes("commands_run_with_the_plaintext_in_a_file") {
        sops.write("f.yaml", "foo: bar\nbar: baz\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let expected = "{\n\t\"foo\": \"bar\",\n\t\"bar\": \"baz\"\n}\n";
        let args = ["exec-file", "--output-type", "json", "f.yaml", "cat {}"];
        assert_eq!(sops.sops(&args).ok().text(), expected);
        let args = [
            "exec-file",
            "--no-fifo",
            "--filename",
            "foobar",
            "f.yaml",
            "echo {}; ls -l {} | cut -c 1-10; cat {} {}",
        ];
        let text = sops.sops(&args).ok().text();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().ends_with("/foobar"));
        assert_eq!(lines.next(), Some("-rw-------"));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            ["foo: bar", "bar: baz"].repeat(2)
        );
        let args = ["exec-file", "f.yaml", "cat {} >seen; exit 5"];
        sops.sops(&args).fails(5);
        sops.sops(&["exec-file", "--filename", "../x", "f.yaml", "true"])
            .fails(1);
        let left = fs::read_dir(sops.temporary()).unwrap().count();
        assert_eq!(left, 0, "plaintext is left behind");
    }
    // Nobody has to read the pipe; stock fails then, now and then.
    let sops = Sandbox::new(Which::Ours);
    sops.write("f.yaml", "foo: bar\n");
    let server = recipient(SERVER_KEY);
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    sops.sops(&["exec-file", "f.yaml", "true"]).ok();
    sops.sops(&["exec-file", "f.yaml", "exit 5"]).fails(5);
}

#[test]
fn rules_without_keys_are_told_in_these_words() {
    for sops in sandboxes("rules_without_keys_are_told_in_these_words") {
        for rule in [
            "path_regex: x",
            "path_regex: x\n    key_groups: []",
            "path_regex: x\n    key_groups:\n      - {}",
        ] {
            sops.write(
                ".sops.yaml",
                format!("creation_rules:\n  - {rule}\ndestination_rules:\n  - vault_path: a\n    reencryption_rule: {{pgp: x}}\n"),
            );
            sops.write("x.yaml", "a: 1\n");
            let failed = sops.sops(&["encrypt", "x.yaml"]).fails(1);
            assert_eq!(
                failed.stderr,
                "Could not generate data key: [empty key group provided]\n"
            );
        }
        sops.write("y.yaml", "a: 1\n");
        let failed = sops.sops(&["encrypt", "y.yaml"]).fails(1);
        assert!(failed.stderr.contains("no matching creation rules found"));
    }
}

#[test]
fn every_format_of_the_reference_is_read() {
    let vectors = super::support::fixtures().join("sops");
    assert!(vectors.is_dir());
    for sops in sandboxes("every_format_of_the_reference_is_read") {
        for (name, plain) in [
            ("f.yaml", "foo: bar\n"),
            ("f.json", "{\n\t\"foo\": \"bar\"\n}\n"),
            ("f.env", "foo = bar\n"),
            ("f.ini", "[foo]\nbar = baz\n"),
        ] {
            sops.write(name, plain);
            sops.sops(&["encrypt", "-i", name]).ok();
            assert_eq!(sops.sops(&["decrypt", name]).ok().text(), plain);
        }
        // Line breaks in the metadata of INI, as one older writer spelled them.
        let text = sops.read("f.ini");
        let spread: String = text
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((key, value)) if value.contains("\\n") => {
                    format!("{key} = \"\"\"{}\"\"\"\n", value.replace("\\n", "\n"))
                }
                _ => format!("{line}\n"),
            })
            .collect();
        assert_ne!(text, spread);
        sops.write("f.ini", spread);
        let plain = sops.sops(&["decrypt", "f.ini"]).ok().text();
        assert_eq!(plain, "[foo]\nbar = baz\n");
    }
}

#[test]
fn file_status_is_json() {
    for sops in sandboxes("file_status_is_json") {
        sops.write("f.yaml", "a: 1\n");
        let status = |name: &str| sops.sops(&["filestatus", name]).ok().text();
        assert_eq!(status("f.yaml"), "{\"encrypted\":false}\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        assert_eq!(status("f.yaml"), "{\"encrypted\":true}\n");
        sops.sops(&["filestatus", "none.yaml"]).fails(1);
        sops.sops(&["filestatus"]).fails(100);
        sops.sops(&["encrypt", "f.yaml"]).fails(203);
    }
}

#[test]
fn keys_are_brought_in_line_with_the_rules() {
    let (server, laptop) = (recipient(SERVER_KEY), recipient(LAPTOP_KEY));
    for sops in sandboxes("keys_are_brought_in_line_with_the_rules") {
        sops.write("f.yaml", "a: 1\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let before = sops.read("f.yaml");
        sops.sops(&["updatekeys", "-y", "f.yaml"]).ok();
        assert_eq!(sops.read("f.yaml"), before);
        sops.write(
            ".sops.yaml",
            format!("creation_rules:\n  - age: [{server}, {laptop}]\n"),
        );
        let asked = sops.sops_fed(&["updatekeys", "f.yaml"], b"n\n").ok();
        assert_eq!(
            asked.text(),
            format!(
                "The following changes will be made to the file's groups:\nGroup 1\n    {server}\n+++ {laptop}\nIs this okay? (y/n):"
            )
        );
        assert_eq!(sops.read("f.yaml"), before);
        sops.sops(&["updatekeys", "-y", "f.yaml"]).ok();
        let after = sops.read("f.yaml");
        assert!(after.contains(&laptop));
        // The same data key, values, MAC and time.
        let line = |text: &str, key: &str| {
            let found = text.lines().find(|line| line.trim_start().starts_with(key));
            found.unwrap().to_owned()
        };
        for key in ["a:", "mac:", "lastmodified:"] {
            assert_eq!(line(&before, key), line(&after, key));
        }
        sops.sops(&["rotate", "-i", "--rm-age", &laptop, "f.yaml"])
            .ok();
        assert!(!sops.read("f.yaml").contains(&laptop));
        sops.sops(&["updatekeys", "-y", "f.yaml", "none.yaml"])
            .fails(1);
        assert!(sops.read("f.yaml").contains(&laptop));
        sops.sops(&["updatekeys"]).fails(100);
    }
}

#[test]
fn groups_are_added_and_deleted() {
    let laptop = recipient(LAPTOP_KEY);
    for mut sops in sandboxes("groups_are_added_and_deleted") {
        sops.write("f.yaml", "a: 1\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let add = ["groups", "add", "-f", "f.yaml", "--age", &laptop, "-i"];
        sops.sops(&add).ok();
        let text = sops.read("f.yaml");
        assert!(text.contains("key_groups:") && text.contains("shamir_threshold: 2"));
        // Both groups are needed now.
        sops.sops(&["decrypt", "f.yaml"]).fails(128);
        let both = format!(
            "{}\n{}",
            fs::read_to_string(key_file(SERVER_KEY)).unwrap(),
            fs::read_to_string(key_file(LAPTOP_KEY)).unwrap()
        );
        sops.write("both.txt", both);
        sops.set("SOPS_AGE_KEY_FILE", sops.path("both.txt"));
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), "a: 1\n");
        let delete = ["groups", "delete", "-f", "f.yaml", "-i", "1"];
        sops.sops(&delete).fails(1);
        let delete = [
            "groups",
            "delete",
            "-f",
            "f.yaml",
            "-i",
            "--shamir-secret-sharing-threshold",
            "1",
            "1",
        ];
        sops.sops(&delete).ok();
        sops.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), "a: 1\n");
    }
}

#[test]
fn a_group_that_cannot_be_wrapped_leaves_the_file_as_it_was() {
    let mut sops = Sandbox::new(Which::Ours);
    let gpg = tempfile::tempdir().unwrap();
    sops.set("GNUPGHOME", gpg.path());
    sops.write("f.yaml", "a: 1\n");
    let server = recipient(SERVER_KEY);
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    let before = sops.read("f.yaml");
    let unknown = "0123456789ABCDEF0123456789ABCDEF01234567";
    for args in [
        &["groups", "add", "-f", "f.yaml", "--pgp", unknown, "-i"][..],
        &["rotate", "-i", "--add-pgp", unknown, "f.yaml"],
        &["rotate", "-i", "--rm-age", &server, "f.yaml"],
        &[
            "rotate",
            "-i",
            "--add-kms",
            "arn:aws:kms:eu-west-1:1:key/x",
            "f.yaml",
        ],
    ] {
        sops.sops(args).fails(1);
        assert_eq!(sops.read("f.yaml"), before, "{args:?}");
    }
}

#[test]
fn the_editor_gets_the_plaintext_and_leaves_the_result() {
    for mut sops in sandboxes("the_editor_gets_the_plaintext_and_leaves_the_result") {
        sops.write("f.yaml", "a: 1\nb: 2\n");
        sops.sops(&["encrypt", "-i", "f.yaml"]).ok();
        let before = sops.read("f.yaml");
        let editor = |text: &str| {
            sops.script("editor.sh", &format!("#!/bin/sh\n{text}\n"))
                .into_os_string()
        };
        let change = editor("ls -l \"$1\" | cut -c 1-10 > seen; sed -i 's/a: 1/a: 7/' \"$1\"");
        sops.set("SOPS_EDITOR", change);
        sops.sops(&["edit", "f.yaml"]).ok();
        assert_eq!(sops.read("seen"), "-rw-------\n");
        assert_eq!(
            sops.sops(&["decrypt", "f.yaml"]).ok().text(),
            "a: 7\nb: 2\n"
        );
        // The token of the value that stayed is the same.
        let line = |text: &str| {
            text.lines()
                .find(|line| line.starts_with("b:"))
                .unwrap()
                .to_owned()
        };
        assert_eq!(line(&before), line(&sops.read("f.yaml")));
        let before = sops.read("f.yaml");
        for (script, code) in [("true", 200), ("exit 9", 201), ("kill -9 $$", 201)] {
            let editor = sops.script("editor.sh", &format!("#!/bin/sh\n{script}\n"));
            sops.set("SOPS_EDITOR", editor.into_os_string());
            sops.sops(&["f.yaml"]).fails(code);
            assert_eq!(sops.read("f.yaml"), before);
        }
        sops.set("SOPS_EDITOR", "/no/such/editor");
        sops.sops(&["edit", "f.yaml"]).fails(201);
        // A new file begins with an example.
        let editor = sops.script(
            "editor.sh",
            "#!/bin/sh\ncp \"$1\" seen; echo x: y > \"$1\"\n",
        );
        sops.set("SOPS_EDITOR", editor.into_os_string());
        sops.sops(&["edit", "new.yaml"]).ok();
        assert_eq!(
            sops.read("seen"),
            "hello: Welcome to SOPS! Edit this file as you please!\nexample_key: example_value\n# Example comment\nexample_array:\n    - example_value1\n    - example_value2\nexample_number: 1234.56789\nexample_booleans:\n    - true\n    - false\n"
        );
        assert_eq!(sops.sops(&["-d", "new.yaml"]).ok().text(), "x: \"y\"\n");
        assert_eq!(fs::read_dir(sops.temporary()).unwrap().count(), 0);
    }
}

#[test]
fn what_was_edited_is_not_lost() {
    let mut sops = Sandbox::new(Which::Ours);
    let server = recipient(SERVER_KEY);
    sops.write("f.yaml", "a: 1\n");
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    let other = sops.path("other.yaml");
    fs::copy(sops.path("f.yaml"), &other).unwrap();
    let editor = sops.script(
        "editor.sh",
        "#!/bin/sh\necho a: mine > \"$1\"; cp other.yaml f.yaml; echo >> f.yaml\n",
    );
    sops.set("SOPS_EDITOR", editor.into_os_string());
    let failed = sops.sops(&["edit", "f.yaml"]).fails(3);
    assert!(failed.stderr.contains("f.yaml.edited"), "{}", failed.stderr);
    let args = [
        "decrypt",
        "--input-type",
        "yaml",
        "--output-type",
        "yaml",
        "f.yaml.edited",
    ];
    assert_eq!(sops.sops(&args).ok().text(), "a: mine\n");
    // A second result does not take the place of the first.
    let kept = sops.read("f.yaml.edited");
    fs::copy(&other, sops.path("f.yaml")).unwrap();
    let failed = sops.sops(&["edit", "f.yaml"]).fails(3);
    assert!(
        failed.stderr.contains("f.yaml.edited.1"),
        "{}",
        failed.stderr
    );
    assert_eq!(sops.read("f.yaml.edited"), kept);
    fs::copy(&other, sops.path("f.yaml")).unwrap();
    // What cannot be encrypted is asked about; where nobody answers, nothing is written.
    let editor = sops.script("editor.sh", "#!/bin/sh\necho 'a: [' > \"$1\"\n");
    sops.set("SOPS_EDITOR", editor.into_os_string());
    let before = sops.read("f.yaml");
    let failed = sops.sops(&["edit", "f.yaml"]).fails(201);
    assert!(
        failed.stderr.contains("invalid syntax"),
        "{}",
        failed.stderr
    );
    assert_eq!(sops.read("f.yaml"), before);
    // A mistyped command is no new file.
    let failed = sops.sops(&["decyrpt"]).fails(1);
    assert!(failed.stderr.contains("no command"), "{}", failed.stderr);
}

#[test]
fn who_has_enough_of_the_editor_leaves_no_plaintext() {
    let mut sops = Sandbox::new(Which::Ours);
    let server = recipient(SERVER_KEY);
    sops.write("f.yaml", "a: 1\n");
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    let before = sops.read("f.yaml");
    let editor = sops.script("editor.sh", "#!/bin/sh\necho 'a: [' > \"$1\"\n");
    sops.set("SOPS_EDITOR", editor.into_os_string());
    for (signal, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
        let mut child = sops
            .command(&["edit", "f.yaml"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Waiting for it would close it.
        let _stdin = child.stdin.take();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut lines = stderr.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Press enter")));
        assert_eq!(fs::read_dir(sops.temporary()).unwrap().count(), 1);
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(fs::read_dir(sops.temporary()).unwrap().count(), 0);
        assert_eq!(sops.read("f.yaml"), before);
    }
}

#[test]
fn no_room_for_the_result_leaves_the_file_as_it_was() {
    let sops = Sandbox::new(Which::Ours);
    let server = recipient(SERVER_KEY);
    sops.write("f.yaml", "a: 1\n");
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    sops.write("big", format!("{:?}", "x".repeat(20_000)));
    let before = sops.read("f.yaml");
    let names = || fs::read_dir(sops.path("")).unwrap().count();
    // One with a second name is written over, not replaced.
    for has_other_name in [false, true] {
        if has_other_name {
            fs::hard_link(sops.path("f.yaml"), sops.path("second.yaml")).unwrap();
        }
        let count = names();
        let line = "trap '' XFSZ; ulimit -f 8; exec sops set --value-file f.yaml '[\"big\"]' big";
        let ended = Command::new("bash")
            .args(["-c", line])
            .current_dir(sops.path(""))
            .env_clear()
            .envs(&sops.vars)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        assert_eq!(sops.read("f.yaml"), before, "{said}");
        assert_eq!(names(), count);
    }
}

#[test]
fn files_in_place_keep_mode_links_and_names() {
    let sops = Sandbox::new(Which::Ours);
    let server = recipient(SERVER_KEY);
    let set_mode = |name: &str, mode| {
        fs::set_permissions(sops.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let mode = |name: &str| fs::metadata(sops.path(name)).unwrap().permissions().mode() & 0o777;
    sops.write("f.yaml", "a: 1\n");
    set_mode("f.yaml", 0o640);
    std::os::unix::fs::symlink("f.yaml", sops.path("link.yaml")).unwrap();
    fs::hard_link(sops.path("f.yaml"), sops.path("other.yaml")).unwrap();
    sops.sops(&["encrypt", "-i", "--age", &server, "link.yaml"])
        .ok();
    assert!(
        fs::symlink_metadata(sops.path("link.yaml"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(mode("f.yaml"), 0o640);
    assert_eq!(sops.read("other.yaml"), sops.read("f.yaml"));
    // A new file with plaintext is its owner's alone; what a device takes is not replaced.
    sops.sops(&["decrypt", "--output", "plain.yaml", "f.yaml"])
        .ok();
    assert_eq!(mode("plain.yaml"), 0o600);
    let ended = sops
        .sops(&["decrypt", "--output", "/dev/stdout", "f.yaml"])
        .ok();
    assert_eq!(ended.text(), "a: 1\n");
    // Nor is one that has no name any more.
    let path = sops.path("gone");
    let mut caller = fs::File::options();
    let mut caller = caller
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    fs::remove_file(&path).unwrap();
    let args = ["decrypt", "--output", "/dev/stdout", "f.yaml"];
    let stdout = caller.try_clone().unwrap();
    assert!(
        sops.command(&args)
            .stdout(stdout)
            .status()
            .unwrap()
            .success()
    );
    let mut written = String::new();
    caller.rewind().unwrap();
    caller.read_to_string(&mut written).unwrap();
    assert_eq!(written, "a: 1\n");
    let names = fs::read_dir(sops.path("")).unwrap();
    let named = |name: std::ffi::OsString| name.to_string_lossy().starts_with("gone");
    assert!(!names.map(|name| name.unwrap().file_name()).any(named));
}

#[test]
fn the_program_answers_to_its_own_name_too() {
    let sops = Sandbox::new(Which::Ours);
    sops.write("f.yaml", "a: 1\n");
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_secrets"))
            .args(args)
            .current_dir(sops.path(""))
            .env_clear()
            .envs(&sops.vars)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let server = recipient(SERVER_KEY);
    let (code, text) = run(&["sops", "encrypt", "--age", &server, "f.yaml"]);
    assert_eq!(code, Some(0));
    sops.write("e.yaml", text);
    assert_eq!(
        run(&["sops", "-d", "e.yaml"]),
        (Some(0), "a: 1\n".to_owned())
    );
    assert_eq!(run(&["sops", "--version"]).1, "sops 3.13.3\n");
    assert_eq!(run(&["sops", "-d", "none.yaml"]).0, Some(100));
}

#[test]
fn what_is_absent_says_so() {
    let sops = Sandbox::new(Which::Ours);
    let server = recipient(SERVER_KEY);
    sops.write("f.yaml", "a: 1\n");
    sops.sops(&["encrypt", "-i", "--age", &server, "f.yaml"])
        .ok();
    for args in [
        &["keyservice"][..],
        &["decrypt", "--keyservice", "tcp://127.0.0.1:5000", "f.yaml"],
        &["exec-env", "--user", "nobody", "f.yaml", "true"],
    ] {
        let failed = sops.sops(args).fails(1);
        assert!(failed.stderr.contains("deliberately absent"), "{args:?}");
    }
}

#[test]
fn pgp_keys_wrap_and_unwrap() {
    if !stock::available("gpg", "pgp_keys_wrap_and_unwrap") {
        return;
    }
    let gpg = Gnupg::new();
    let [one, two, public] = &gpg.fingerprints[..] else {
        panic!("three keys are in the fixtures");
    };
    for which in programs("pgp_keys_wrap_and_unwrap") {
        let mut sops = Sandbox::new(which);
        sops.vars.remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
        sops.set("GNUPGHOME", gpg.home());
        sops.write(
            ".sops.yaml",
            format!(
                "creation_rules:\n  - path_regex: missing\n    key_groups:\n      - pgp: [{one}]\n      - pgp: [{public}]\n  - path_regex: both\n    key_groups:\n      - pgp: [{one}]\n      - pgp: [{two}]\n  - pgp: {one}\n"
            ),
        );
        for name in ["f.yaml", "both.yaml", "missing.yaml"] {
            sops.write(name, "a: 1\n");
            sops.sops(&["encrypt", "-i", name]).ok();
        }
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), "a: 1\n");
        assert_eq!(sops.sops(&["decrypt", "both.yaml"]).ok().text(), "a: 1\n");
        let failed = sops.sops(&["decrypt", "missing.yaml"]).fails(128);
        assert!(
            failed.stderr.contains("Group 0: SUCCESS"),
            "{}",
            failed.stderr
        );
        assert!(
            failed.stderr.contains("Group 1: FAILED"),
            "{}",
            failed.stderr
        );
        // Old files of several versions, with several keys.
        for (name, plain) in [
            (
                "old-3.0.yaml",
                "key: old value\nlist:\n    - 1\n    - two\n",
            ),
            (
                "old-1.14.json",
                "{\n\t\"key\": \"old value\",\n\t\"n\": 1\n}\n",
            ),
            ("old-3.2.env", "A=1\nB=two\n"),
        ] {
            sops.fixture(&format!("pgp/{name}"), name);
            assert_eq!(sops.sops(&["decrypt", name]).ok().text(), plain);
            sops.sops(&["rotate", "-i", name]).ok();
            assert_eq!(sops.sops(&["decrypt", name]).ok().text(), plain);
        }
        // gpg alone opens what is wrapped: 32 bytes, or a share of 33.
        for (name, length) in [("f.yaml", 32), ("both.yaml", 33)] {
            let text = sops.read(name);
            let begin = text.find("-----BEGIN PGP MESSAGE-----").unwrap();
            let end = text.find("-----END PGP MESSAGE-----").unwrap() + 25;
            let message: String = text[begin..end]
                .lines()
                .map(|line| format!("{}\n", line.trim_start()))
                .collect();
            assert_eq!(gpg.decrypt(&message).len(), length, "{name}");
        }
    }
}

#[test]
fn shares_open_in_the_other_program() {
    let test = "shares_open_in_the_other_program";
    if !stock::available("sops", test) {
        return;
    }
    let keys = [
        key_file(SERVER_KEY),
        key_file(LAPTOP_KEY),
        key_file("throwaway-third.txt"),
    ];
    let names = [SERVER_KEY, LAPTOP_KEY, "throwaway-third.txt"];
    let rules: String = names
        .iter()
        .map(|name| format!("      - age: [{}]\n", recipient(name)))
        .collect();
    for (writer, reader) in [(Which::Ours, Which::Stock), (Which::Stock, Which::Ours)] {
        for threshold in [0, 2, 3] {
            let writer = Sandbox::new(writer);
            let line = match threshold {
                0 => String::new(),
                number => format!("    shamir_threshold: {number}\n"),
            };
            writer.write(
                ".sops.yaml",
                format!("creation_rules:\n  - key_groups:\n{rules}{line}"),
            );
            writer.write("f.yaml", "a: secret\n");
            writer.sops(&["encrypt", "-i", "f.yaml"]).ok();
            let mut reader = Sandbox::new(reader);
            reader.write("f.yaml", writer.read("f.yaml"));
            let needed = if threshold == 2 { 2 } else { 3 };
            for chosen in [&[0][..], &[0, 2], &[1, 2], &[0, 1, 2]] {
                let texts: Vec<String> = chosen
                    .iter()
                    .map(|&index: &usize| fs::read_to_string(&keys[index]).unwrap())
                    .collect();
                reader.write("keys.txt", texts.join("\n"));
                reader.set("SOPS_AGE_KEY_FILE", reader.path("keys.txt"));
                let ended = reader.sops(&["decrypt", "f.yaml"]);
                if chosen.len() >= needed {
                    assert_eq!(ended.ok().text(), "a: secret\n");
                } else {
                    ended.fails(128);
                }
            }
            // All shares that can be had are used where the file does not say how many are needed.
            let text = reader.read("f.yaml");
            let lines = text
                .lines()
                .filter(|line| !line.contains("shamir_threshold"));
            reader.write("f.yaml", lines.collect::<Vec<_>>().join("\n") + "\n");
            assert_eq!(
                reader.sops(&["decrypt", "f.yaml"]).ok().text(),
                "a: secret\n"
            );
        }
    }
}

fn with_vault(which: Which, vault: &Vault) -> Sandbox {
    let mut sops = Sandbox::new(which);
    sops.vars.remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    sops.set("VAULT_ADDR", &vault.address);
    sops.set("VAULT_TOKEN", vault::TOKEN);
    sops.write("f.yaml", "a: 1\n");
    sops
}

#[test]
fn transit_keys_wrap_and_unwrap() {
    for which in programs("transit_keys_wrap_and_unwrap") {
        let vault = Vault::start();
        let mut sops = with_vault(which, &vault);
        sops.set("VAULT_NAMESPACE", "team");
        let uri = format!("{}/v1/mount/transit/keys/main", vault.address);
        sops.sops(&["encrypt", "-i", "--hc-vault-transit", &uri, "f.yaml"])
            .ok();
        let text = sops.read("f.yaml");
        assert!(text.contains("engine_path: mount/transit\n") && text.contains("key_name: main\n"));
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), "a: 1\n");
        let seen = vault.seen();
        let paths: Vec<&str> = seen.iter().map(|request| request.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/v1/mount/transit/encrypt/main",
                "/v1/mount/transit/decrypt/main"
            ]
        );
        for request in &seen {
            assert_eq!(request.method, "PUT");
            assert_eq!(request.token.as_deref(), Some(vault::TOKEN));
            assert_eq!(request.namespace.as_deref(), Some("team"));
        }
        // The token may stand in the home folder too.
        let home = sops.vars[std::ffi::OsStr::new("HOME")].clone();
        fs::write(
            std::path::Path::new(&home).join(".vault-token"),
            format!("{}\n", vault::TOKEN),
        )
        .unwrap();
        sops.vars.remove(std::ffi::OsStr::new("VAULT_TOKEN"));
        sops.sops(&["decrypt", "f.yaml"]).ok();
        sops.set("VAULT_TOKEN", "another");
        let failed = sops.sops(&["decrypt", "f.yaml"]).fails(128);
        assert!(
            failed.stderr.contains("permission denied"),
            "{}",
            failed.stderr
        );
    }
}

#[test]
fn a_vault_that_fails_is_told_and_gets_no_second_chance_to_harm() {
    let vault = Vault::start();
    let mut sops = with_vault(Which::Ours, &vault);
    sops.set("VAULT_CLIENT_TIMEOUT", "1s");
    let uri = |name: &str| format!("{}/v1/transit/keys/{name}", vault.address);
    let args = [
        "encrypt",
        "-i",
        "--hc-vault-transit",
        &uri("good"),
        "f.yaml",
    ];
    sops.sops(&args).ok();
    let good = sops.read("f.yaml");
    for (name, words) in [
        ("sealed", "sealed"),
        ("broken", "code 500"),
        ("slow", "no answer in time"),
        ("oversized", "longer"),
        ("nonsense", "not what Vault"),
        ("elsewhere", "redirects to http://127.0.0.2:9"),
    ] {
        sops.write(
            "f.yaml",
            good.replace("key_name: good", &format!("key_name: {name}")),
        );
        let started = Instant::now();
        let failed = sops.sops(&["decrypt", "f.yaml"]).fails(128);
        assert!(failed.stderr.contains(words), "{name}: {}", failed.stderr);
        assert!(!failed.stderr.contains(vault::TOKEN));
        assert!(started.elapsed() < Duration::from_secs(20), "{name}");
    }
    // One that fails for a moment is asked again, one that moved is followed once.
    for name in ["flaky", "here"] {
        sops.write(
            "f.yaml",
            good.replace("key_name: good", &format!("key_name: {name}")),
        );
        assert_eq!(sops.sops(&["decrypt", "f.yaml"]).ok().text(), "a: 1\n");
    }
    sops.write("f.yaml", good);
    // Where only the file names the server, nothing is sent there.
    let asked = vault.seen().len();
    sops.vars.remove(std::ffi::OsStr::new("VAULT_ADDR"));
    let failed = sops.sops(&["decrypt", "f.yaml"]).fails(128);
    assert!(
        failed.stderr.contains("Allowlist does not allow"),
        "{}",
        failed.stderr
    );
    sops.set("SOPS_HC_VAULT_ALLOWLIST", "https://vault.example.org");
    sops.sops(&["decrypt", "f.yaml"]).fails(128);
    assert_eq!(vault.seen().len(), asked);
    // What the user listed stands above what was typed, and above an agent.
    let uri = format!("{}/v1/transit/keys/k", vault.address);
    sops.write("plain.yaml", "a: 1\n");
    sops.set("SOPS_HC_VAULT_ALLOWLIST", "none");
    let encrypt = ["encrypt", "--hc-vault-transit", &uri, "plain.yaml"];
    sops.sops(&encrypt).fails(1);
    sops.set("VAULT_AGENT_ADDR", &vault.address);
    sops.sops(&["decrypt", "f.yaml"]).fails(128);
    assert_eq!(vault.seen().len(), asked);
    sops.vars.remove(std::ffi::OsStr::new("VAULT_AGENT_ADDR"));
    sops.set("SOPS_HC_VAULT_ALLOWLIST", "all");
    sops.sops(&["decrypt", "f.yaml"]).ok();
}

#[test]
fn secrets_are_published_to_both_versions_of_the_store() {
    for which in programs("secrets_are_published_to_both_versions_of_the_store") {
        let vault = Vault::start();
        let mut sops = with_vault(which, &vault);
        sops.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
        sops.write(
            ".sops.yaml",
            format!(
                "creation_rules:\n  - age: {}\ndestination_rules:\n  - s3_bucket: b\n    path_regex: s3\n  - vault_path: functional-test/\n    vault_kv_mount_name: secret/\n    vault_kv_version: 2\n    path_regex: two.json\n    reencryption_rule: {{pgp: x}}\n  - vault_path: functional-test-version-1/\n    vault_kv_mount_name: kv/\n    vault_kv_version: 1\n    path_regex: one.json\n",
                recipient(SERVER_KEY)
            ),
        );
        for name in ["one.json", "two.json"] {
            sops.write(name, "{\"foo\": 2, \"bar\": \"baz\"}");
            sops.sops(&["encrypt", "-i", name]).ok();
            sops.sops(&["publish", "--yes", name]).ok();
            sops.sops(&["publish", "--yes", name]).ok();
        }
        let seen: Vec<(String, String, Value)> = vault
            .seen()
            .into_iter()
            .map(|request| {
                let body = serde_json::from_str(&request.body).unwrap_or(Value::Null);
                (request.method, request.path, body)
            })
            .collect();
        let map = json("{\"bar\": \"baz\", \"foo\": 2}");
        let (one, two) = (
            "/v1/kv/functional-test-version-1/one.json",
            "/v1/secret/data/functional-test/two.json",
        );
        let request = |method: &str, path: &str, body: &Value| {
            (method.to_owned(), path.to_owned(), body.clone())
        };
        let wrapped = serde_json::json!({ "data": map });
        let mut expected = vec![
            request("GET", one, &Value::Null),
            request("PUT", one, &map),
            request("GET", one, &Value::Null),
            request("PUT", one, &map),
            request("GET", two, &Value::Null),
            request("PUT", two, &wrapped),
            // Equal: not written again.
            request("GET", two, &Value::Null),
        ];
        if which == Which::Stock {
            // Its comparison takes numbers for different ones.
            expected.push(request("PUT", two, &wrapped));
        }
        assert_eq!(seen, expected);
        sops.sops(&["publish", "--yes", "other.json"]).fails(1);
    }
}
