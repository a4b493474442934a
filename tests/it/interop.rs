//! Interoperability with the real `sops`, both directions, over a seeded corpus. Failures print the
//! seed. `SECRETS_INTEROP_FILES` sets how many files are made.

use std::fs;
use std::sync::Mutex;
use std::thread;

use super::support::stock;
use super::support::{LAPTOP_KEY, SERVER_KEY, Seeded, TestProject, key_file, recipient};

const SEED: u64 = 20_260_131;

fn corpus_size() -> usize {
    std::env::var("SECRETS_INTEROP_FILES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(120)
}

/// One generated file.
struct Case {
    seed: u64,
    name: String,
    is_env: bool,
    source: Vec<u8>,
    rule: String,
}

fn generate(seed: u64, number: usize) -> Case {
    let mut random = Seeded(seed);
    let is_env = !random.chance(25);
    let name = format!("f{number}.{}", if is_env { "env" } else { "bin" });
    let source = if is_env {
        dotenv(&mut random)
    } else {
        binary(&mut random)
    };
    let mut recipients = vec![recipient(SERVER_KEY)];
    if random.chance(30) {
        recipients.insert(random.below(2), recipient(LAPTOP_KEY));
    }
    let age = match random.below(3) {
        0 => recipients.join(","),
        1 => format!("[{}]", recipients.join(", ")),
        _ => format!(">-\n      {}", recipients.join(",\n      ")),
    };
    let option = random.pick(&[
        "",
        "",
        "unencrypted_suffix: _CLEAR",
        "encrypted_suffix: _SECRET",
        "encrypted_regex: ^(DB|K1)",
        "unencrypted_regex: '(?i)port$|^K2'",
        "encrypted_comment_regex: sops:enc",
        "unencrypted_comment_regex: sops:dec",
        "mac_only_encrypted: true",
        "encrypted_regex: '\\d$'\n    mac_only_encrypted: true",
    ]);
    let option = if option.is_empty() {
        String::new()
    } else {
        format!("    {option}\n")
    };
    let rule = format!(
        "  - path_regex: ^{}\\.enc$\n    age: {age}\n{option}",
        name.replace('.', "\\.")
    );
    Case {
        seed,
        name,
        is_env,
        source,
        rule,
    }
}

fn dotenv(random: &mut Seeded) -> Vec<u8> {
    const KEYS: [&str; 18] = [
        "A",
        "K1",
        "K2",
        "DB_URL",
        "DB_PORT",
        "export TOKEN",
        "lower.case",
        "A-B",
        "with space",
        "X_CLEAR",
        "Y_SECRET",
        "Z_unencrypted",
        "SOPS_NOT_RESERVED",
        "sops",
        "ключ",
        "a:b",
        "N9",
        "",
    ];
    const COMMENTS: [&str; 8] = [
        " plain comment",
        "",
        "#",
        " sops:enc please",
        " sops:dec please",
        " ünïcödé",
        "a=b",
        "\tends with blank ",
    ];
    let mut out = Vec::new();
    let crlf = random.chance(10);
    if random.chance(5) {
        // Before a comment or a blank line stock refuses it, and so do we.
        out.extend_from_slice("\u{feff}BOM=1\n".as_bytes());
    }
    for _ in 0..=random.below(14) {
        if random.chance(15) && !crlf {
            out.push(b'\n');
            continue;
        }
        if random.chance(20) {
            out.push(b'#');
            out.extend_from_slice(random.pick(&COMMENTS).as_bytes());
        } else {
            out.extend_from_slice(random.pick(&KEYS).as_bytes());
            out.push(b'=');
            out.extend_from_slice(&value(random));
        }
        out.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
    }
    out.extend_from_slice(b"LAST=1");
    if random.chance(80) {
        out.push(b'\n');
    }
    out
}

fn value(random: &mut Seeded) -> Vec<u8> {
    const PIECES: [&str; 26] = [
        "plain",
        "a b",
        " ",
        "=",
        "#",
        "\\n",
        "\\",
        "\\t",
        "\"x\"",
        "'y'",
        "$HOME",
        "${X}",
        "`z`",
        "ß",
        "日本",
        "😀",
        "%",
        ",",
        "ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]",
        "{\"a\": [1, true]}",
        "C:\\new",
        "1",
        "true",
        "1e3",
        "\u{7f}",
        "\t",
    ];
    if random.chance(4) {
        return vec![b'x'; 1 + random.below(70_000)];
    }
    if random.chance(4) {
        return vec![b'v', 0xff, 0xfe, 0x80, b'v'];
    }
    (0..random.below(5))
        .flat_map(|_| random.pick(&PIECES).as_bytes().to_vec())
        .collect()
}

fn binary(random: &mut Seeded) -> Vec<u8> {
    match random.below(4) {
        0 => b"{\"json\": \"looks like\", \"sops\": 1}\n".to_vec(),
        1 => b"alice:$apr1$x\nbob:y".to_vec(),
        _ => {
            let length = 1 + random.below(9000);
            let mut bytes: Vec<u8> = (0..length).map(|_| (random.next() & 0xff) as u8).collect();
            bytes[0] = b'B';
            bytes.push(0);
            bytes
        }
    }
}

/// What stock prints for a dotenv source: no blank lines, every line ended.
fn as_stock_prints(source: &[u8]) -> Vec<u8> {
    source
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .flat_map(|line| [line, b"\n"].concat())
        .collect()
}

/// Runs `work` for all cases on two threads and returns what failed.
fn for_all(cases: &[Case], work: impl Fn(&Case) -> Result<(), String> + Sync) -> Vec<String> {
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for half in 0..2 {
            let (failures, work) = (&failures, &work);
            scope.spawn(move || {
                for case in cases.iter().skip(half).step_by(2) {
                    if let Err(reason) = work(case) {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("seed {} ({}): {reason}", case.seed, case.name));
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

#[test]
fn the_corpus_goes_both_ways_byte_for_byte() {
    if !stock::available("sops", "the_corpus_goes_both_ways_byte_for_byte") {
        return;
    }
    let cases: Vec<_> = (0..corpus_size())
        .map(|number| generate(SEED + number as u64, number))
        .collect();
    let rows: Vec<_> = cases
        .iter()
        .map(|case| (format!("{}.enc", case.name), case.name.clone()))
        .collect();
    let rows: Vec<_> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let project = TestProject::with_files(&rows, "");
    let rules: String = cases.iter().map(|case| case.rule.as_str()).collect();
    project.write_repo(".sops.yaml", format!("creation_rules:\n{rules}"));
    for case in &cases {
        project.write_server(&case.name, &case.source);
    }
    let output = project.run(&["encrypt", "-k"]);
    let refused = output.stderr.matches("refused: ").count();
    assert!(
        refused * 20 <= cases.len(),
        "{refused} of {} refused: {}",
        cases.len(),
        output.stderr
    );
    assert!(
        output.code == 0 || (output.code == 3 && refused > 0),
        "{output:#?}"
    );

    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    let mut failures = for_all(&cases, |case| {
        let file = format!("{}.enc", case.name);
        if !project.repo_file(&file).exists() {
            return Ok(());
        }
        let kind = if case.is_env { "dotenv" } else { "binary" };
        let opened = stock::decrypt(&repo, &key, kind, &file)?;
        let expected = if case.is_env {
            as_stock_prints(&case.source)
        } else {
            case.source.clone()
        };
        if opened == expected {
            Ok(())
        } else {
            Err("stock opens ours to other bytes".to_owned())
        }
    });

    // The other way round: stock encrypts the same sources under the same rules.
    failures.extend(for_all(&cases, |case| {
        let file = format!("{}.enc", case.name);
        let kind = if case.is_env { "dotenv" } else { "binary" };
        let source = project.server_file(&case.name);
        let args = [
            "encrypt",
            "--input-type",
            kind,
            "--output-type",
            kind,
            "--filename-override",
            &file,
            "--output",
            &file,
            source.to_str().unwrap(),
        ];
        let _ = fs::remove_file(project.repo_file(&file));
        let output = stock::sops(&repo, &key, &args);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!(
                "stock refuses: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }));
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    let output = project.run(&["decrypt", "-k"]);
    if output.code != 0 {
        failures.push(output.stderr);
    }
    failures.extend(for_all(&cases, |case| {
        let opened =
            fs::read(project.server_file(&case.name)).map_err(|error| error.to_string())?;
        let expected = if case.is_env {
            as_stock_prints(&case.source)
        } else {
            case.source.clone()
        };
        if opened == expected {
            Ok(())
        } else {
            Err("ours opens stock's to other bytes".to_owned())
        }
    }));

    // What stock wrote is captured again with one line more, and stock still opens it.
    for case in cases.iter().filter(|case| case.is_env) {
        let mut text = as_stock_prints(&case.source);
        text.extend_from_slice(b"ADDED=here\n");
        project.write_server(&case.name, text);
    }
    let read = |case: &Case| {
        String::from_utf8_lossy(
            &fs::read(project.repo_file(&format!("{}.enc", case.name))).unwrap_or_default(),
        )
        .into_owned()
    };
    let before: Vec<_> = cases.iter().map(read).collect();
    project.run(&["encrypt", "-k"]);
    for (case, before) in cases.iter().zip(&before).filter(|(case, _)| case.is_env) {
        let now = read(case);
        if now == *before {
            continue;
        }
        let lost = before.lines().filter(|line| !now.contains(line)).count();
        if lost > 2 {
            failures.push(format!(
                "seed {}: {lost} lines changed besides the new one",
                case.seed
            ));
        }
    }
    failures.extend(for_all(&cases, |case| {
        if !case.is_env {
            return Ok(());
        }
        let opened = stock::decrypt(&repo, &key, "dotenv", &format!("{}.enc", case.name))?;
        let now = fs::read(project.server_file(&case.name)).unwrap();
        let without = as_stock_prints(&case.source);
        if opened == now || opened == without {
            Ok(())
        } else {
            Err("stock opens the recaptured file to other bytes".to_owned())
        }
    }));
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn typed_values_of_stock_survive_a_capture() {
    if !stock::available("sops", "typed_values_of_stock_survive_a_capture") {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    project.write_repo(
        "in.yaml",
        "I: 42\nF: 1.5\nB: true\nT: 2024-01-02T03:04:05.5Z\nG: 1000000.5\nS: text\nN: -7\n",
    );
    let args = [
        "encrypt",
        "--age",
        &recipient(SERVER_KEY),
        "--input-type",
        "yaml",
        "--output-type",
        "dotenv",
        "--filename-override",
        "a.env.enc",
        "--output",
        "a.env.enc",
        "in.yaml",
    ];
    let output = stock::sops(&repo, &key, &args);
    assert!(output.status.success(), "{output:?}");
    fs::remove_file(project.repo_file("in.yaml")).unwrap();
    project.ok(&["decrypt"]);
    let stock_text = stock::decrypt(&repo, &key, "dotenv", "a.env.enc").unwrap();
    assert_eq!(project.read_server("a.env"), stock_text);
    assert_eq!(project.ok(&["encrypt"]).stderr, "1 entry: 1 unchanged\n");
    let text = String::from_utf8(stock_text).unwrap();
    project.write_server("a.env", text.replace("S=text", "S=other"));
    project.commit();
    project.ok(&["encrypt"]);
    assert_eq!(project.git(&["diff", "--numstat"]), "3\t3\ta.env.enc\n");
    assert!(project.read_repo("a.env.enc").contains("type:time]"));
    let again = stock::decrypt(&repo, &key, "dotenv", "a.env.enc").unwrap();
    assert_eq!(again, project.read_server("a.env"));
}

#[test]
fn stock_writes_to_ours_and_ours_to_stocks() {
    if !stock::available("sops", "stock_writes_to_ours_and_ours_to_stocks") {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    project.write_server("a.env", "# c\nA=1\n\nB=two words\nC=x\\ny\n");
    project.write_server("b", b"\x00binary\xff");
    project.ok(&["encrypt"]);
    let kind = ["--input-type", "dotenv", "--output-type", "dotenv"];
    for args in [
        [&["set"][..], &kind, &["a.env.enc", "[\"A\"]", "\"new\""]].concat(),
        [&["unset"][..], &kind, &["a.env.enc", "[\"B\"]"]].concat(),
        [&["rotate", "-i"][..], &kind, &["a.env.enc"]].concat(),
        vec!["updatekeys", "-y", "--input-type", "dotenv", "a.env.enc"],
        vec!["rotate", "-i", "b.enc"],
    ] {
        let output = stock::sops(&repo, &key, &args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        project.ok(&["decrypt", "--force"]);
        assert_eq!(project.ok(&["diff"]).stdout, "", "{args:?}");
        project.ok(&["encrypt"]);
        let opened = stock::decrypt(&repo, &key, "dotenv", "a.env.enc").unwrap();
        assert_eq!(
            opened,
            as_stock_prints(&project.read_server("a.env")),
            "{args:?}"
        );
    }
    assert_eq!(project.read_server("a.env"), b"# c\nA=new\nC=x\\ny\n");
    assert_eq!(
        stock::decrypt(&repo, &key, "binary", "b.enc").unwrap(),
        b"\x00binary\xff"
    );
}

#[test]
fn the_age_program_opens_the_wrapped_key() {
    if !stock::available("age", "the_age_program_opens_the_wrapped_key") {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let text = project.read_repo("a.env.enc");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("sops_age__list_0__map_enc="))
        .unwrap();
    fs::write(project.path("wrapped.age"), line.replace("\\n", "\n")).unwrap();
    let output = std::process::Command::new("age")
        .arg("-d")
        .arg("-i")
        .arg(key_file(SERVER_KEY))
        .arg(project.path("wrapped.age"))
        .output()
        .unwrap();
    assert_eq!(output.stdout.len(), 32, "{output:?}");
}
