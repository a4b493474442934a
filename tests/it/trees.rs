//! YAML, JSON and INI over a seeded corpus, with the real `sops` as the judge: bytes back as they were,
//! what stock makes of our files, what we make of stock's. `SECRETS_INTEROP_FILES` sets how many files
//! of each format are made.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::thread;

use secret_files::project::keys::Reading;
use secret_files::project::merge;
use secret_files::sops::store::{Format, Indents};
use secret_files::sops::tree::Tree;

use super::support::stock;
use super::support::{SERVER_KEY, Seeded, TestProject, key_file, recipient};

const SEED: u64 = 20_261_130;

fn corpus_size() -> usize {
    std::env::var("SECRETS_INTEROP_FILES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(70)
}

struct Case {
    seed: u64,
    name: String,
    kind: &'static str,
    source: String,
    option: &'static str,
}

fn generate(seed: u64, number: usize, kind: &'static str) -> Case {
    let mut random = Seeded(seed);
    let source = match kind {
        "yaml" => yaml::text(&mut random),
        "json" => json::text(&mut random),
        _ => ini::text(&mut random),
    };
    let option = random.pick(&[
        "",
        "",
        "",
        "    encrypted_regex: ^(password|k1)\n",
        "    unencrypted_regex: (?i)port$|^k2\n",
        "    encrypted_suffix: _s\n",
        "    unencrypted_suffix: _s\n",
        "    encrypted_regex: ^k[0-4]\n    mac_only_encrypted: true\n",
    ]);
    Case {
        seed,
        name: format!("f{number}.{kind}"),
        kind,
        source,
        option,
    }
}

fn for_all(cases: &[Case], check: impl Fn(&Case) -> Result<(), String> + Sync) -> Vec<String> {
    let failures = Mutex::new(Vec::new());
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    if let Err(error) = check(case) {
                        let text = format!("{} seed {}: {error}", case.name, case.seed);
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// Encrypts a plaintext with stock and returns the file.
fn sealed_by_stock(project: &TestProject, case: &Case) -> Result<Vec<u8>, String> {
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    let file = format!("{}.enc", case.name);
    let source = project.path(&format!("plain/{}", case.name));
    let args = [
        "encrypt",
        "--input-type",
        case.kind,
        "--output-type",
        case.kind,
        "--filename-override",
        &file,
        source.to_str().unwrap(),
    ];
    let output = stock::sops(&repo, &key, &args);
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn trees_are_exact_and_stock_reads_them_as_its_own() {
    if !stock::available("sops", "trees_are_exact_and_stock_reads_them_as_its_own") {
        return;
    }
    let mut cases = Vec::new();
    for (index, kind) in ["yaml", "json", "ini"].into_iter().enumerate() {
        for number in 0..corpus_size() {
            let number = index * 1_000_000 + number;
            cases.push(generate(SEED + number as u64, number, kind));
        }
    }
    let rows: Vec<(String, String)> = cases
        .iter()
        .map(|case| {
            let row = format!("{{ path = \"{}\", layout = \"note\" }}", case.name);
            (format!("{}.enc", case.name), row)
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let project = TestProject::with_files(&rows, "");
    let key = recipient(SERVER_KEY);
    let rules = cases.iter().fold(String::new(), |mut rules, case| {
        let name = case.name.replace('.', "\\.");
        let option = case.option;
        let _ = write!(
            rules,
            "  - path_regex: ^{name}\\.enc$\n    age: {key}\n{option}"
        );
        rules
    });
    project.write_repo(".sops.yaml", format!("creation_rules:\n{rules}"));
    fs::create_dir(project.path("plain")).unwrap();
    for case in &cases {
        project.write_server(&case.name, &case.source);
        fs::write(project.path(&format!("plain/{}", case.name)), &case.source).unwrap();
    }
    let output = project.run(&["encrypt", "-k"]);
    let errors: Vec<_> = output.stderr.lines().collect();
    let errors = errors.into_iter().filter(|line| line.starts_with("error"));
    let errors = errors.map(|line| {
        let case = cases
            .iter()
            .find(|case| line.contains(&format!(" {}.enc", case.name)));
        (
            line.to_owned(),
            case.map(|case| (&case.source, case.option)),
        )
    });
    let named = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("  ") && line.contains(".enc"));
    let named: Vec<_> = named
        .flat_map(|line| {
            cases
                .iter()
                .filter(move |case| line.contains(&format!("{}.enc", case.name)))
        })
        .map(|case| (&case.source, case.option))
        .take(3)
        .collect();
    assert_eq!(
        (errors.collect::<Vec<_>>(), named),
        (Vec::new(), Vec::new())
    );
    let refused = output.stderr.matches("refused: ").count();
    assert!(refused * 8 <= cases.len(), "{refused}: {}", output.stderr);

    // Exactly as it was.
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    project.run(&["decrypt", "-k"]);
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    let mut failures = for_all(&cases, |case| {
        if !project.repo_file(&format!("{}.enc", case.name)).exists() {
            return Ok(());
        }
        let back = fs::read(project.server_file(&case.name)).map_err(|error| error.to_string())?;
        if back == case.source.as_bytes() {
            Ok(())
        } else {
            Err(format!("not exact: {:?}", case.source))
        }
    });

    // Stock makes of ours what it makes of its own. What it refuses, or cannot read again after it has
    // written it, is in docs/compatibility.md.
    let opened = Mutex::new(HashMap::new());
    failures.extend(for_all(&cases, |case| {
        let file = format!("{}.enc", case.name);
        let Ok(own) = sealed_by_stock(&project, case) else {
            return Ok(());
        };
        let own_file = format!("own-{file}");
        project.write_repo(&own_file, &own);
        let Ok(expected) = stock::decrypt(&repo, &key, case.kind, &own_file) else {
            return Ok(());
        };
        if text(&expected).contains("ENC[AES256_GCM") {
            return Ok(());
        }
        let is_ours = project.repo_file(&file).exists();
        let ours = is_ours.then(|| stock::decrypt(&repo, &key, case.kind, &file));
        let ours = ours.transpose()?;
        // Where comments go that belong to nothing in particular, and that stock repeats those of an
        // anchor, is in docs/compatibility.md. Values and order are the same to the byte.
        let is_same = ours.as_ref().is_none_or(|ours| *ours == expected)
            || ours.as_ref().is_some_and(|ours| {
                let (ours, expected) = (text(ours), text(&expected));
                case.kind == "yaml" && without_comments(&ours) == without_comments(&expected)
            });
        let found = format!("stock reads ours as {:?}", ours.as_deref().map(text));
        let own = format!("its own as {:?}", text(&expected));
        opened.lock().unwrap().insert(case.name.clone(), expected);
        if is_same {
            Ok(())
        } else {
            Err(format!("{found}, {own}"))
        }
    }));

    // What stock wrote, we open to the bytes that stock gives.
    let opened = opened.into_inner().unwrap();
    assert!(opened.len() * 10 >= cases.len() * 8, "{}", opened.len());
    for name in opened.keys() {
        let own = project.repo_file(&format!("own-{name}.enc"));
        fs::rename(own, project.repo_file(&format!("{name}.enc"))).unwrap();
    }
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    let output = project.run(&["decrypt", "-k", "--force"]);
    failures.extend(for_all(&cases, |case| {
        let Some(expected) = opened.get(&case.name) else {
            return Ok(());
        };
        let found = fs::read(project.server_file(&case.name))
            .map_err(|error| format!("{error}: {}", output.stderr))?;
        let (found, expected) = (text(&found), text(expected));
        // Of two comments that both head one item stock loses the first when it reads its own file; we
        // show both.
        let lines = without_columns(&found);
        let has_all = || {
            without_columns(&expected)
                .lines()
                .all(|line| lines.contains(line))
        };
        if found == expected
            || (case.kind == "yaml"
                && without_comments(&found) == without_comments(&expected)
                && has_all())
        {
            return Ok(());
        }
        Err(format!(
            "ours makes {found:?} of stock's, stock {expected:?}"
        ))
    }));
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Returns the text without comments, and without the empty items that stock makes of empty ones.
fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split(" # aside").next().unwrap_or(""));
    let lines = lines.filter(|line| !matches!(line.trim().get(..1), Some("#")));
    let lines = lines.filter(|line| line.trim() != "- \"\"" && !line.trim().is_empty());
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// Returns the text with comments at the beginning of their lines.
fn without_columns(text: &str) -> String {
    let lines = text.lines().map(|line| match line.trim_start() {
        "- \"\"" => "#",
        bare if bare.starts_with('#') => bare,
        _ => line,
    });
    lines.fold(String::new(), |text, line| text + line + "\n")
}

mod yaml {
    use std::fmt::Write as _;

    use super::Seeded;

    const KEYS: [&str; 14] = [
        "k1",
        "k2",
        "k3",
        "k4",
        "password",
        "port",
        "user_s",
        "\"a b\"",
        "'x:y'",
        "ключ",
        "a.b",
        "p_unencrypted",
        "\"\\u00e9\"",
        "z-9",
    ];
    const SCALARS: [&str; 45] = [
        "1",
        "-7",
        "0x1F",
        "017",
        "1_000",
        "+5",
        "1.5",
        "1e3",
        ".5",
        "1.50",
        ".inf",
        "-.INF",
        ".nan",
        "true",
        "False",
        "TRUE",
        "yes",
        "on",
        "n",
        "~",
        "null",
        "",
        "2024-01-02",
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05.120",
        "12:30:45",
        "plain",
        "two words",
        "p@ss#word",
        "'a: b'",
        "it's",
        "\"it's\"",
        "'it''s'",
        "\"a\\nb\"",
        "\"\\u00e9\\x07\"",
        "\"\"",
        "''",
        "\"123\"",
        "'true'",
        "ünïcödé",
        "\"tab\\there\"",
        "-x",
        "?x",
        ":x",
        "!!str 5",
    ];
    const COMMENTS: [&str; 7] = [
        "# c",
        "#",
        "#nospace",
        "#  two",
        "# trailing ",
        "# ünï",
        "## x",
    ];

    pub(super) fn text(random: &mut Seeded) -> String {
        let mut out = String::new();
        if random.chance(8) {
            out.push_str("---\n");
        }
        let indent = [2, 2, 4, 3][random.below(4)];
        map(random, &mut out, 0, indent, 3, &mut Vec::new());
        if random.chance(10) {
            out.push_str("---\n");
            map(random, &mut out, 0, indent, 1, &mut Vec::new());
        }
        if random.chance(12) {
            out.truncate(out.trim_end_matches('\n').len());
        }
        if random.chance(8) {
            out = out.replace('\n', "\r\n");
        }
        out
    }

    fn comment(random: &mut Seeded, out: &mut String, column: usize) {
        if random.chance(10) {
            out.push('\n');
        }
        if random.chance(14) {
            let column = if random.chance(93) {
                column
            } else {
                random.below(8)
            };
            let text = random.pick(&COMMENTS);
            let _ = writeln!(out, "{:column$}{text}", "");
        }
    }

    fn behind(random: &mut Seeded) -> &'static str {
        if random.chance(12) { " # aside" } else { "" }
    }

    fn map(
        random: &mut Seeded,
        out: &mut String,
        column: usize,
        indent: usize,
        depth: usize,
        anchors: &mut Vec<String>,
    ) {
        let mut used: Vec<&str> = Vec::new();
        for _ in 0..=random.below(4) {
            let key = random.pick(&KEYS);
            if used.contains(&key) {
                continue;
            }
            used.push(key);
            comment(random, out, column);
            let _ = write!(out, "{:column$}{key}:", "");
            value(random, out, column, indent, depth, anchors, false);
        }
        comment(random, out, column);
    }

    fn list(
        random: &mut Seeded,
        out: &mut String,
        column: usize,
        indent: usize,
        depth: usize,
        anchors: &mut Vec<String>,
    ) {
        for _ in 0..=random.below(3) {
            comment(random, out, column);
            let _ = write!(out, "{:column$}-", "");
            value(random, out, column, indent, depth, anchors, true);
        }
    }

    fn value(
        random: &mut Seeded,
        out: &mut String,
        column: usize,
        indent: usize,
        depth: usize,
        anchors: &mut Vec<String>,
        in_list: bool,
    ) {
        let inner = column + indent;
        match random.below(if depth > 0 { 12 } else { 8 }) {
            0..=5 => {
                // Behind an empty item, go-yaml gives comments to whatever comes next.
                let text = match random.pick(&SCALARS) {
                    "" if in_list => "~",
                    text => text,
                };
                let gap = if text.is_empty() { "" } else { " " };
                let aside = behind(random);
                let _ = writeln!(out, "{gap}{text}{aside}");
            }
            6 => {
                let header = random.pick(&["|", "|-", "|+", ">", ">-"]);
                let column = if in_list { column + 2 } else { inner };
                let _ = writeln!(out, " {header}");
                for _ in 0..=random.below(2) {
                    let _ = writeln!(out, "{:column$}line {}", "", random.below(9));
                    if random.chance(20) {
                        out.push('\n');
                    }
                }
            }
            7 => {
                let text = random.pick(&[
                    "[]",
                    "{}",
                    "[a, 'b', \"c\"]",
                    "[1, 2.50]",
                    "{a: 1, b: x}",
                    "[[x], {y: z}]",
                    "[ a , b ]",
                ]);
                let _ = writeln!(out, " {text}");
            }
            8 if !anchors.is_empty() && random.chance(50) => {
                let name = anchors[random.below(anchors.len())].clone();
                let _ = writeln!(out, " *{name}");
            }
            8 | 9 if !in_list => {
                let aside = behind(random);
                let _ = writeln!(out, "{aside}");
                let column = if random.chance(30) { column } else { inner };
                list(random, out, column, indent, depth - 1, anchors);
            }
            10 if !in_list && random.chance(30) => {
                let name = format!("n{}", anchors.len());
                let _ = writeln!(out, " &{name}");
                map(random, out, inner, indent, depth - 1, &mut Vec::new());
                anchors.push(name);
            }
            _ if in_list => {
                let start = column + 2;
                let mut text = String::new();
                map(random, &mut text, start, indent, depth - 1, &mut Vec::new());
                // The first line of the mapping stands behind the dash.
                let fits = text.len() > start
                    && text[..start].trim().is_empty()
                    && !text[start..].starts_with(['#', ' ', '\n']);
                if fits {
                    let _ = write!(out, " {}", &text[start..]);
                } else {
                    let _ = write!(out, "\n{text}");
                }
            }
            _ => {
                let aside = behind(random);
                let _ = writeln!(out, "{aside}");
                map(random, out, inner, indent, depth - 1, anchors);
            }
        }
    }
}

mod json {
    use std::fmt::Write as _;

    use super::Seeded;

    const KEYS: [&str; 9] = [
        "k1", "k2", "k3", "password", "port", "user_s", "a b", "\\u00e9", "",
    ];
    const SCALARS: [&str; 26] = [
        "1",
        "-7",
        "0",
        "-0",
        "1.0",
        "1.5",
        "1e10",
        "1E+2",
        "1e-7",
        "12345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        "\"x\"",
        "\"<b>&\"",
        "\"\\u00e9\"",
        "\"é\"",
        "\"\\/\"",
        "\"a\\nb\\t\\\"\"",
        "\"\\ud83d\\ude00\"",
        "\"😀\"",
        "\"\\u0001\"",
        "[]",
        "{}",
        "\"\\ud800\"",
    ];

    pub(super) fn text(random: &mut Seeded) -> String {
        let indent = random.pick(&["", "  ", "\t", "    "]);
        let mut out = String::new();
        object(random, &mut out, indent, 0, 3);
        out.push_str(random.pick(&["\n", "\n", "", "  \n", "\n\n"]));
        if random.chance(8) {
            out = out.replace('\n', "\r\n");
        }
        out
    }

    fn line(out: &mut String, indent: &str, depth: usize) {
        if !indent.is_empty() {
            let _ = write!(out, "\n{}", indent.repeat(depth));
        }
    }

    fn object(random: &mut Seeded, out: &mut String, indent: &str, level: usize, depth: usize) {
        out.push('{');
        let count = 1 + random.below(4);
        for index in 0..count {
            line(out, indent, level + 1);
            let key = random.pick(&KEYS);
            let colon = random.pick(&[": ", ":", " : "]);
            let _ = write!(out, "\"{key}\"{colon}");
            value(random, out, indent, level + 1, depth);
            if index + 1 < count {
                out.push(',');
            }
        }
        line(out, indent, level);
        out.push('}');
    }

    fn value(random: &mut Seeded, out: &mut String, indent: &str, level: usize, depth: usize) {
        match random.below(if depth > 0 { 9 } else { 6 }) {
            0..=5 => out.push_str(random.pick(&SCALARS)),
            6 => object(random, out, indent, level, depth - 1),
            _ => {
                out.push('[');
                let count = 1 + random.below(3);
                for index in 0..count {
                    line(out, indent, level + 1);
                    value(random, out, indent, level + 1, depth - 1);
                    if index + 1 < count {
                        out.push(',');
                    }
                }
                line(out, indent, level);
                out.push(']');
            }
        }
    }
}

mod ini {
    use std::fmt::Write as _;

    use super::Seeded;

    const KEYS: [&str; 9] = [
        "k1", "k2", "k3", "password", "port", "user_s", "a b", "`q=`", "\"r s\"",
    ];
    const VALUES: [&str; 16] = [
        "1",
        "x",
        "two words",
        "\"quoted\"",
        "'single'",
        "`back;tick`",
        "\"\"\"a#b\"\"\"",
        "",
        "\"\"",
        "p@ss#1",
        "x ; aside",
        "it's",
        "a=b",
        "C:\\dir",
        "\"\"\"l1\nl2\"\"\"",
        "ünï",
    ];
    const SECTIONS: [&str; 5] = ["a", "b c", "a", "p_unencrypted", "DEFAULT"];

    pub(super) fn text(random: &mut Seeded) -> String {
        let mut out = String::new();
        if random.chance(40) {
            keys(random, &mut out);
        }
        for _ in 0..=random.below(3) {
            comments(random, &mut out);
            let name = random.pick(&SECTIONS);
            let aside = if random.chance(10) { " ; sec" } else { "" };
            let _ = writeln!(out, "[{name}]{aside}");
            keys(random, &mut out);
        }
        if random.chance(15) {
            out.push_str("; the end\n");
        }
        if random.chance(12) {
            out.truncate(out.trim_end_matches('\n').len());
        }
        if random.chance(8) {
            out = out.replace('\n', "\r\n");
        }
        out
    }

    fn comments(random: &mut Seeded, out: &mut String) {
        if random.chance(15) {
            out.push('\n');
        }
        if random.chance(25) {
            for _ in 0..=random.below(2) {
                let text = random.pick(&["; c", "# c", ";nospace", ";; two", "; ünï", "#  x "]);
                let _ = writeln!(out, "{text}");
            }
        }
    }

    fn keys(random: &mut Seeded, out: &mut String) {
        let mut used: Vec<&str> = Vec::new();
        for _ in 0..random.below(5) {
            comments(random, out);
            let key = random.pick(&KEYS);
            if used.contains(&key) && random.chance(80) {
                continue;
            }
            used.push(key);
            let equals = random.pick(&[" = ", "=", ": ", "   =  "]);
            let value = random.pick(&VALUES);
            let _ = writeln!(out, "{key}{equals}{value}");
        }
    }
}

/// Files as they are found in repositories, with comments everywhere.
const SHAPES: [(&str, &str); 7] = [
    (
        "deployment.yaml",
        "# deployment\napiVersion: apps/v1\nkind: Deployment # the kind\nmetadata:\n  name: web\n  labels: {app: web, tier: \"front\"} # flow\nspec:\n  replicas: 3\n\n  template:\n    spec:\n      containers:\n        # the only one\n        - name: web\n          image: \"web:1.2\"\n          env:\n            - name: DB_PASSWORD\n              value: hunter2 # rotate me\n            - name: PORT\n              value: \"8080\"\n          args: [\"--verbose\", '--port', 8080]\n",
    ),
    (
        "compose.yaml",
        "services:\n  db:\n    image: postgres:16\n    environment:\n      POSTGRES_PASSWORD: 'hunter2'   # quoted\n      POSTGRES_USER: app\n    ports:\n    - \"5432:5432\"\n    - 80:80\n\n  # commented out\n  # cache:\n  #   image: redis\nvolumes:\n  data:\n",
    ),
    (
        "group_vars.yml",
        "---\n# ansible\ndb_password: hunter2\nvault_users:\n  - { name: ops, key: 'x1' }\n  - { name: dev, key: 'x2' } # second\nmotd: |\n  hello\n  world\n...\n",
    ),
    (
        "workflow.yml",
        "name: ci\non:\n  push:\n    branches: [main]\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      # the tests\n      - name: test\n        env:\n          TOKEN: hunter2\n        run: |\n          cargo test\n          echo done\n",
    ),
    (
        "application.yml",
        "spring:\n  datasource:\n    url: jdbc:postgresql://db/app\n    password: hunter2\n    hikari:\n      maximum-pool-size: 10 # ten\n---\nspring:\n  config:\n    activate:\n      on-profile: prod\n",
    ),
    (
        "php.ini",
        "; php\n[PHP]\nengine = On\n; memory\nmemory_limit = 128M ; enough\n\n[mail function]\nSMTP = localhost\nsmtp_password = \"hunter2\"\n",
    ),
    (
        "package.json",
        "{\n  \"name\": \"web\",\n  \"version\": \"1.0.0\",\n  \"scripts\": { \"test\": \"jest\" },\n  \"config\": {\n    \"token\": \"hunter2\",\n    \"ports\": [80, 443]\n  }\n}\n",
    ),
];

/// Returns the numbers of added and removed lines of `git diff`, and the lines added.
fn changed_lines(project: &TestProject, file: &str) -> Vec<String> {
    let diff = project.git(&["diff", "--unified=0", "--", file]);
    let lines = diff
        .lines()
        .filter(|line| line.starts_with('+') && !line.starts_with("+++"));
    lines.map(str::to_owned).collect()
}

#[test]
fn one_changed_value_is_one_changed_leaf() {
    let rows: Vec<(String, &str)> = SHAPES
        .iter()
        .map(|(name, _)| (format!("{name}.enc"), *name))
        .collect();
    let rows: Vec<_> = rows.iter().map(|(a, b)| (a.as_str(), *b)).collect();
    let project = TestProject::with_files(&rows, "");
    for (name, text) in SHAPES {
        project.write_server(name, text);
    }
    project.ok(&["encrypt"]);
    project.git(&["init", "-q", "-b", "main"]);
    project.commit();
    for (name, text) in SHAPES {
        let file = format!("{name}.enc");
        fs::remove_file(project.server_file(name)).unwrap();
        project.ok(&["decrypt", name]);
        assert_eq!(project.read_server(name), text.as_bytes(), "{name}");
        let (old, new) = if text.contains("hunter2") {
            ("hunter2", "hunter3")
        } else {
            ("on-profile: prod", "on-profile: test")
        };
        project.write_server(name, text.replace(old, new));
        project.ok(&["encrypt", name]);
        let changed = changed_lines(&project, &file);
        assert_eq!(changed.len(), 3, "{name}: {changed:#?}");
        let has = |word: &str| changed.iter().any(|line| line.contains(word));
        assert!(has("lastmodified") && has("mac"), "{changed:#?}");
    }
    // Deep in a list, and a new item in front.
    let (name, text) = SHAPES[0];
    project.commit();
    let with_item = text.replace(
        "            - name: DB_PASSWORD\n",
        "            - name: FIRST\n              value: one\n            - name: DB_PASSWORD\n",
    );
    project.write_server(name, with_item.replace("hunter2", "hunter3"));
    project.ok(&["encrypt", name]);
    let changed = changed_lines(&project, &format!("{name}.enc"));
    assert_eq!(changed.len(), 4, "{changed:#?}");
}

#[test]
fn layout_exact_refuses_with_the_line_and_the_choices() {
    let project = TestProject::with_files(&[("a.yaml.enc", "a.yaml")], "");
    for (text, line, construct) in [
        ("a: 1\nb: 0x1F\n", 2, "an unusual spelling"),
        ("a: >\n  x\n  y\n", 2, "a folded block"),
        ("a: &x s\nb: *x\n", 2, "an alias to a value"),
        ("a: \"\\u00e9\"\n", 1, "a string with unusual escapes"),
        ("a: one\n  two\n", 1, "a plain value over several lines"),
        ("a: \"\u{feff}\"\n", 1, "a string with unusual escapes"),
        (
            "a: '\u{feff}'\n",
            1,
            "a quoted value with unusual characters",
        ),
    ] {
        project.write_server("a.yaml", text);
        let output = project.run(&["encrypt"]);
        assert_eq!(output.code, 3, "{output:#?}");
        for expected in [
            &*format!("line {line}: "),
            construct,
            "layout = \"note\"",
            "layout = \"stock\"",
            "format = \"binary\"",
        ] {
            assert!(output.stderr.contains(expected), "{expected}: {output:#?}");
        }
        assert!(!project.repo_file("a.yaml.enc").exists());
    }
    project.write_server("a.yaml", "a: [x, 1.5] # fine\n");
    project.ok(&["encrypt"]);
}

/// A comment between a key and its value is the key's, so that a rule that selects by comments encrypts the value, not
/// the next one.
#[test]
fn a_comment_above_a_value_selects_it() {
    let project = TestProject::with_files(&[("a.yaml.enc", "a.yaml")], "");
    project.write_repo(
        ".sops.yaml",
        format!(
            "creation_rules:\n  - age: {}\n    encrypted_comment_regex: hidden\n",
            recipient(SERVER_KEY)
        ),
    );
    for value in ["x", "'x'", "|\n    x", "[x]", "- x"] {
        let source = format!("a:\n  # hidden\n  {value}\nb: open\n");
        project.write_server("a.yaml", &source);
        project.ok(&["encrypt"]);
        let stored = project.read_repo("a.yaml.enc");
        assert!(stored.contains("b: open"), "{value}: {stored}");
        assert!(
            stored.contains("ENC[AES256_GCM,data:") && !stored.contains("  x"),
            "{stored}"
        );
        fs::remove_file(project.server_file("a.yaml")).unwrap();
        project.ok(&["decrypt"]);
        assert_eq!(text(&project.read_server("a.yaml")), source);
    }
}

/// What stock's layout has of a comment changes no list.
#[test]
fn no_comment_splits_a_list() {
    let rows = [("a.yaml.enc", "{ path = \"a.yaml\", layout = \"stock\" }")];
    for (source, lines) in [
        (
            "- - x\n  - #c\n    y\n  #d\n- z\n",
            "- - x # c - \"y\" # d - z",
        ),
        ("- |\n#c\n- b\n", "- \"\" # c - b"),
        (
            "- - |\n  - #c\n    |\n  #d\n- |\n",
            "- - \"\" # c - \"\" # d - \"\"",
        ),
    ] {
        let project = TestProject::with_files(&rows, "");
        project.write_server("a.yaml", format!("a:\n{source}"));
        project.ok(&["encrypt"]);
        fs::remove_file(project.server_file("a.yaml")).unwrap();
        project.ok(&["decrypt"]);
        let placed = text(&project.read_server("a.yaml")).replace('#', "# ");
        let words: Vec<&str> = placed.split_whitespace().collect();
        assert_eq!(words.join(" "), format!("a: {lines}"), "{placed}");
    }
    let project = TestProject::with_files(&rows, "");
    // Of two comments behind one value none is lost.
    project.write_server("a.yaml", "a: #c\n  x #d\n");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a.yaml")).unwrap();
    project.ok(&["decrypt"]);
    let placed = text(&project.read_server("a.yaml"));
    assert!(placed.contains("#c") && placed.contains("#d"), "{placed}");
}

#[test]
fn what_ends_a_line_for_stock_alone_is_refused() {
    let row = |layout| format!("{{ path = \"a.yaml\", layout = \"{layout}\" }}");
    for layout in ["exact", "note", "stock"] {
        let project = TestProject::with_files(&[("a.yaml.enc", &row(layout))], "");
        for end in ["\r", "\u{85}", "\u{2028}", "\u{2029}"] {
            project.write_server("a.yaml", format!("a: 1\n# comment{end}b: 2\n"));
            let output = project.run(&["encrypt"]);
            assert_eq!(output.code, 3, "{end:?}: {output:#?}");
            assert!(output.stderr.contains("line 2: "), "{output:#?}");
            assert!(!project.repo_file("a.yaml.enc").exists());
        }
        let escaped = "a: \"\\r\\x85\\u2028\\u2029\" # £ \u{2027}\n";
        project.write_server("a.yaml", escaped);
        project.ok(&["encrypt"]);
        fs::remove_file(project.server_file("a.yaml")).unwrap();
        project.ok(&["decrypt"]);
        if layout != "stock" {
            assert_eq!(text(&project.read_server("a.yaml")), escaped);
        }
    }
}

#[test]
fn layout_stock_is_what_stock_writes_and_says_what_changed() {
    if !stock::available(
        "sops",
        "layout_stock_is_what_stock_writes_and_says_what_changed",
    ) {
        return;
    }
    let rows = [("a.yaml.enc", "{ path = \"a.yaml\", layout = \"stock\" }")];
    let project = TestProject::with_files(&rows, "");
    let source = "a:\n  b: 0x1F # hex\n\n  c: [x, 'y']\n";
    project.write_server("a.yaml", source);
    let output = project.ok(&["encrypt"]);
    assert!(
        output.stderr.contains("lines 2, 3, 4 differ"),
        "{output:#?}"
    );
    assert_eq!(project.ok(&["diff"]).stdout, "");
    assert_eq!(project.ok(&["encrypt"]).stdout, "");
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    let stock = stock::decrypt(&repo, &key, "yaml", "a.yaml.enc").unwrap();
    assert_eq!(
        text(&stock),
        "a:\n    # hex\n    b: 31\n    c:\n        - x\n        - \"y\"\n"
    );
    fs::remove_file(project.server_file("a.yaml")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.yaml"), stock);
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn stock_commands_on_our_files_keep_the_values() {
    if !stock::available("sops", "stock_commands_on_our_files_keep_the_values") {
        return;
    }
    let key = key_file(SERVER_KEY);
    for (name, kind, source, path) in [
        (
            "a.yaml",
            "yaml",
            "a: 0x1F # hex\n\nl: [x, 'y']\n",
            "[\"z\"]",
        ),
        (
            "a.json",
            "json",
            "{\"a\": 1.0, \"l\": [\"x\"]}\n",
            "[\"z\"]",
        ),
        (
            "a.ini",
            "ini",
            "; c\n[s]\na = \"x\" ; in\n",
            "[\"s\"][\"z\"]",
        ),
    ] {
        let row = format!("{{ path = \"{name}\", layout = \"note\" }}");
        let file = format!("{name}.enc");
        let project = TestProject::with_files(&[(&file, &row)], "");
        project.write_server(name, source);
        project.ok(&["encrypt"]);
        let (repo, form) = (
            project.repo(),
            ["--input-type", kind, "--output-type", kind],
        );
        let before = stock::decrypt(&repo, &key, kind, &file).unwrap();
        for command in ["set", "unset", "rotate", "updatekeys"] {
            let args: Vec<&str> = match command {
                "set" => [&["set"][..], &form, &[&file, path, "\"new\""]].concat(),
                "unset" => [&["unset"][..], &form, &[&file, path]].concat(),
                "rotate" => [&["rotate", "-i"][..], &form, &[&file]].concat(),
                _ => vec!["updatekeys", "-y", "--input-type", kind, &file],
            };
            let output = stock::sops(&repo, &key, &args);
            assert!(output.status.success(), "{name} {command}: {output:?}");
            // What stock makes of it, we make of it.
            let expected = stock::decrypt(&repo, &key, kind, &file).unwrap();
            fs::remove_file(project.server_file(name)).unwrap();
            project.ok(&["decrypt", "--force"]);
            assert_eq!(
                text(&project.read_server(name)),
                text(&expected),
                "{name} {command}"
            );
        }
        assert_eq!(stock::decrypt(&repo, &key, kind, &file).unwrap(), before);
        // Our next capture restores the source's spelling.
        project.write_server(name, source);
        project.ok(&["encrypt", "--force"]);
        fs::remove_file(project.server_file(name)).unwrap();
        project.ok(&["decrypt", "--force"]);
        assert_eq!(text(&project.read_server(name)), source);
    }
}

#[test]
fn clear_parts_are_the_repositorys_to_change_where_the_rule_says_so() {
    let rule = |option: &str| {
        format!(
            "creation_rules:\n  - age: {}\n    encrypted_regex: ^pass\n{option}",
            recipient(SERVER_KEY)
        )
    };
    for (option, is_change) in [("    mac_only_encrypted: true\n", true), ("", false)] {
        let project = TestProject::with_files(&[("a.yaml.enc", "a.yaml")], "");
        project.write_repo(".sops.yaml", rule(option));
        project.write_server("a.yaml", "host: one\npass: hunter2\n");
        project.ok(&["encrypt"]);
        let file = text(project.read_repo("a.yaml.enc").as_bytes());
        project.write_repo("a.yaml.enc", file.replace("host: one", "host: two"));
        let output = project.run(&["diff"]);
        if is_change {
            assert_eq!(output.code, 1, "{output:#?}");
            assert!(output.stdout.contains("~ host"), "{output:#?}");
            assert!(output.stdout.contains("repository is ahead"), "{output:#?}");
        } else {
            assert_eq!(output.code, 2, "{output:#?}");
            assert!(output.stderr.contains("MAC mismatch"), "{output:#?}");
        }
    }
}

#[test]
fn age_files_are_entries_like_any_other() {
    let rows = [("a.key.enc", "{ path = \"a.key\", format = \"age\" }")];
    let project = TestProject::with_files(&rows, "");
    let content: Vec<u8> = (0..=255).cycle().take(5000).collect();
    project.write_server("a.key", &content);
    project.ok(&["encrypt"]);
    let file = fs::read(project.repo_file("a.key.enc")).unwrap();
    assert!(file.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
    assert_eq!(project.ok(&["diff"]).stdout, "");
    project.ok(&["encrypt"]);
    assert_eq!(fs::read(project.repo_file("a.key.enc")).unwrap(), file);
    fs::remove_file(project.server_file("a.key")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.key"), content);
    // A damaged one is an error, an empty one too.
    let mut damaged = file.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    project.write_repo("a.key.enc", damaged);
    assert_eq!(project.run(&["diff"]).code, 2);
    if !stock::available("age", "age_files_are_entries_like_any_other") {
        return;
    }
    let run = |args: &[&str]| {
        let output = std::process::Command::new("age")
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    project.write_repo("a.key.enc", &file);
    let path = project.repo_file("a.key.enc");
    let path = path.to_str().unwrap();
    let identity = key_file(SERVER_KEY);
    assert_eq!(
        run(&["-d", "-i", identity.to_str().unwrap(), path]),
        content
    );
    // Made by `age`, binary: opened here, and binary it stays.
    let plain = project.path("plain");
    fs::write(&plain, "by age\n").unwrap();
    run(&[
        "-r",
        &recipient(SERVER_KEY),
        "-o",
        path,
        plain.to_str().unwrap(),
    ]);
    project.ok(&["decrypt", "--force"]);
    assert_eq!(project.read_server("a.key"), b"by age\n");
    project.write_server("a.key", "changed\n");
    project.ok(&["encrypt"]);
    assert!(
        fs::read(path)
            .unwrap()
            .starts_with(b"age-encryption.org/v1\n")
    );
    assert_eq!(
        run(&["-d", "-i", identity.to_str().unwrap(), path]),
        b"changed\n"
    );
}

/// A tree of two levels, by section and key.
type Sections = std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>;

fn rendered(sections: &Sections, random: &mut Seeded) -> String {
    let mut out = String::from("# head\n");
    for (name, keys) in sections {
        if random.chance(20) {
            let _ = writeln!(out, "\n# about {name}");
        }
        let _ = writeln!(out, "{name}:");
        for (key, value) in keys {
            let _ = writeln!(out, "  {key}: {value}");
        }
    }
    out
}

fn edited(base: &Sections, random: &mut Seeded, only: usize) -> Sections {
    let mut sections = base.clone();
    for (index, (_, keys)) in sections.iter_mut().enumerate() {
        // Both sides touch different keys: those of even and of odd numbers.
        for number in 0..6 {
            if (number + index) % 2 != only || !random.chance(30) {
                continue;
            }
            let key = format!("k{number}");
            if random.chance(30) && keys.len() > 1 {
                keys.remove(&key);
            } else {
                keys.insert(key, format!("new{}", random.below(1000)));
            }
        }
    }
    sections
}

/// Merges of trees against the three-way merge of plain maps.
#[test]
fn trees_merge_as_maps_do() {
    let mut done = 0;
    for seed in 0..400 {
        let mut random = Seeded(SEED + seed);
        let mut base = Sections::new();
        for section in 0..=random.below(4) {
            let keys = (0..6).filter(|_| random.chance(70)).collect::<Vec<_>>();
            let keys = keys
                .into_iter()
                .map(|key| (format!("k{key}"), format!("old{key}")));
            let mut keys: std::collections::BTreeMap<_, _> = keys.collect();
            keys.insert("k9".to_owned(), "last".to_owned());
            base.insert(format!("s{section}"), keys);
        }
        let ours = edited(&base, &mut random, 0);
        let theirs = edited(&base, &mut random, 1);
        let mut expected = Sections::new();
        let mut takes = merge::Takes::new();
        for (name, before) in &base {
            let mut keys = ours[name].clone();
            for number in 0..10 {
                let key = format!("k{number}");
                let (old, new) = (before.get(&key), theirs[name].get(&key));
                if old == new {
                    continue;
                }
                match new {
                    Some(value) => keys.insert(key.clone(), value.clone()),
                    None => keys.remove(&key),
                };
                takes.insert(format!("{name}.{key}"), merge::Take::Other);
            }
            expected.insert(name.clone(), keys);
        }
        let layout = rendered(&ours, &mut Seeded(seed));
        let other = rendered(&theirs, &mut Seeded(seed));
        let reading = Reading::Tree(Format::Yaml);
        let merged = merge::merge(layout.as_bytes(), other.as_bytes(), &takes, reading);
        let Some(merged) = merged else { continue };
        done += 1;
        let keys = |text: &[u8]| -> Vec<(String, Vec<u8>)> {
            let keys = reading.keys(text).unwrap().into_iter();
            let mut keys: Vec<_> = keys
                .filter(|(key, _)| !key.starts_with('('))
                .map(|(key, values)| (key.into_owned(), values[0].expose().to_vec()))
                .collect();
            keys.sort();
            keys
        };
        let expected = rendered(&expected, &mut Seeded(seed));
        assert_eq!(
            keys(merged.expose()),
            keys(expected.as_bytes()),
            "seed {seed}\n{layout}\n{other}"
        );
    }
    assert!(done >= 390, "{done} of 400 could be merged");
}

/// Every form in every other, as stock converts it.
#[test]
fn conversions_are_those_of_stock() {
    if !stock::available("sops", "conversions_are_those_of_stock") {
        return;
    }
    let project = TestProject::with_files(&[("a.bin.enc", "a.bin")], "");
    let (repo, key) = (project.repo(), key_file(SERVER_KEY));
    let sources = [
        (
            Format::Yaml,
            "# head\na: 1\nb: 1.5\nc: true\nd: null\ne: 2024-01-02T03:04:05Z\nf: \"x\\ny\"\ng: 1000000.5\nh: <b>&\n",
        ),
        (Format::Yaml, "s:\n  k: v\n  n: 7\nt:\n  e: ''\n"),
        (Format::Yaml, "l: [1, {a: b}]\nm: {}\nn: []\n"),
        (
            Format::Json,
            "{\"a\": {\"b\": \"c d\", \"e\": 1e10}, \"f\": {\"g\": \"#x\"}}\n",
        ),
        (Format::Json, "{\"data\": \"x\", \"b\": 1}\n"),
        (Format::Ini, "top = 1\n[s]\n; c\na = x\nb = \"  y\"\n"),
        (Format::Dotenv, "# c\nA=1\nB=two words\nC=x\\ny\n"),
    ];
    for (from, source) in sources {
        project.write_repo("plain", source);
        let args = [
            "encrypt",
            "--input-type",
            from.name(),
            "--output-type",
            from.name(),
        ];
        let rule = ["--filename-override", "a.bin.enc", "plain"];
        let output = stock::sops(&repo, &key, &[&args[..], &rule].concat());
        assert!(output.status.success(), "{output:?}");
        project.write_repo("sealed", output.stdout);
        let document = from.store().parse(source.as_bytes()).unwrap();
        let tree = Tree::of(&document);
        for to in [
            Format::Yaml,
            Format::Json,
            Format::Ini,
            Format::Dotenv,
            Format::Binary,
        ] {
            let args = [
                "decrypt",
                "--input-type",
                from.name(),
                "--output-type",
                to.name(),
                "sealed",
            ];
            let output = stock::sops(&repo, &key, &args);
            let ours = to.store().emit_tree(&tree, None, Indents::default());
            let what = format!("{} to {}: {source:?}", from.name(), to.name());
            match ours {
                Ok(ours) => assert_eq!(text(ours.expose()), text(&output.stdout), "{what}"),
                // INI lists and mappings within sections stock prints as a dump of its memory.
                Err(error) => assert!(
                    !output.status.success() || text(&output.stdout).contains("[{"),
                    "{what}: {error}"
                ),
            }
        }
    }
}

#[test]
fn lines_that_stock_dotenv_refuses_travel_as_notes() {
    let rows = [("a.env.enc", "{ path = \"a.env\", layout = \"note\" }")];
    let project = TestProject::with_files(&rows, "");
    let source = "A=1\n  # indented\n\r\n   \nexport\nB=2\n";
    project.write_server("a.env", source);
    project.ok(&["encrypt"]);
    assert_eq!(project.ok(&["diff"]).stdout, "");
    fs::remove_file(project.server_file("a.env")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(text(&project.read_server("a.env")), source);
    if stock::available("sops", "lines_that_stock_dotenv_refuses_travel_as_notes") {
        let opened = stock::decrypt(
            &project.repo(),
            &key_file(SERVER_KEY),
            "dotenv",
            "a.env.enc",
        );
        assert_eq!(
            text(&opened.unwrap()),
            "A=1\n#  # indented\n#\r\n#   \n#export\nB=2\n"
        );
    }
    // Without the setting they are refused, and where comments stay in clear too.
    project.write_manifest(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", format!("{source}C=3\n"));
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("line 2: an indented comment"),
        "{output:#?}"
    );
}

#[test]
fn a_folded_block_with_a_note_stays_when_another_value_changes() {
    let rows = [("a.yaml.enc", "{ path = \"a.yaml\", layout = \"note\" }")];
    let project = TestProject::with_files(&rows, "");
    for header in [">", ">+", ">-", "|2"] {
        project.write_server("a.yaml", format!("f: {header}\n  fold\n\n  more\nz: 1\n"));
        project.ok(&["encrypt", "--force"]);
        project.write_server("a.yaml", format!("f: {header}\n  fold\n\n  more\nz: 2\n"));
        let before = project.read_repo("a.yaml.enc");
        project.ok(&["encrypt"]);
        let after = project.read_repo("a.yaml.enc");
        let kept = before.lines().filter(|line| after.contains(line)).count();
        assert_eq!(
            kept + 3,
            before.lines().count(),
            "{header}: {before}\n{after}"
        );
    }
}

#[test]
fn a_broken_file_on_the_server_is_named_as_such() {
    let project = TestProject::with_files(&[("a.yaml.enc", "a.yaml")], "");
    project.write_server("a.yaml", "a: hunter2\nb: 1\n");
    project.ok(&["encrypt"]);
    project.write_server("a.yaml", "a: hunter2\nb: [1\nc: 2\n");
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(output.stdout.contains("not valid YAML"), "{output:#?}");
    assert!(!output.stdout.contains("hunter2"), "{output:#?}");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("not valid YAML"), "{output:#?}");
}

#[test]
fn a_value_that_becomes_nothing_is_refused() {
    for (name, source, others) in [
        (
            "a.yaml",
            "db:\n  password: hunter2\n  user: u\n",
            ["", "[]", "{}", "~", "\"\""],
        ),
        (
            "a.json",
            "{\"db\": {\"password\": \"hunter2\"}}\n",
            ["null", "[]", "{}", "null", "\"\""],
        ),
    ] {
        let row = format!("{{ path = \"{name}\", required = [\"db.password\"] }}");
        let file = format!("{name}.enc");
        let project = TestProject::with_files(&[(&file, &row)], "");
        project.write_server(name, source);
        project.ok(&["encrypt"]);
        for other in others {
            let spelled = if name == "a.json" {
                "\"hunter2\""
            } else {
                "hunter2"
            };
            project.write_server(name, source.replace(spelled, other));
            let output = project.run(&["encrypt"]);
            assert_eq!(output.code, 3, "{other}: {output:#?}");
            assert!(output.stderr.contains("db.password"), "{output:#?}");
        }
    }
}

#[test]
fn an_age_file_in_the_place_of_a_wrapped_key_is_damage() {
    let rows = [
        ("a.key.enc", "{ path = \"a.key\", format = \"age\" }"),
        ("b.env.enc", "b.env"),
    ];
    let project = TestProject::with_files(&rows, "");
    project.write_server("a.key", "content that is no data key\n");
    project.write_server("b.env", "B=1\n");
    project.ok(&["encrypt"]);
    let age = project.read_repo("a.key.enc").replace('\n', "\\n");
    let file = project.read_repo("b.env.enc");
    let lines = file.lines().map(|line| match line.split_once("_enc=") {
        Some((key, _)) => format!("{key}_enc={age}\n"),
        None => format!("{line}\n"),
    });
    project.write_repo("b.env.enc", lines.collect::<String>());
    for args in [
        &["diff"][..],
        &["diff", "-j", "1"],
        &["status"],
        &["diff", "b.env"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(!output.stderr.contains("panicked"), "{output:#?}");
        assert!(output.stderr.contains("b.env.enc"), "{output:#?}");
    }
}
