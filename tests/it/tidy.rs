//! The layer table holds; the shipped manifest and the documents that name files are true.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use secret_files::project::manifest::Manifest;
use secret_files::rules::Rules;

/// Who may import whom, as in `docs/architecture.md`.
const LAYERS: [(&str, &[&str]); 12] = [
    ("secret", &[]),
    ("parallel", &["secret"]),
    ("os", &["secret"]),
    ("sops", &["secret", "parallel"]),
    ("rules", &["sops"]),
    ("keys", &["secret", "os", "sops"]),
    ("project", &["secret", "parallel", "sops", "rules"]),
    (
        "stock",
        &["secret", "parallel", "os", "sops", "rules", "keys"],
    ),
    ("error", &["os", "sops", "rules", "keys", "project"]),
    ("ui", &["os", "sops", "project", "error"]),
    (
        "commands",
        &[
            "secret", "os", "sops", "rules", "keys", "project", "error", "ui",
        ],
    ),
    ("cli", &["os", "stock", "error", "ui", "commands"]),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            sources(&entry.path(), found);
        } else if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            found.push(entry.path());
        }
    }
}

fn code_lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn layers_import_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut files = Vec::new();
    sources(&top().join("src"), &mut files);
    assert!(files.len() > 30);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(top().join("src")).unwrap().to_owned();
        let first = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .to_owned();
        let layer = first.trim_end_matches(".rs").to_owned();
        if matches!(layer.as_str(), "lib" | "main") {
            continue;
        }
        let allowed = table
            .get(layer.as_str())
            .unwrap_or_else(|| panic!("{layer} is no layer"));
        for line in code_lines(&file) {
            assert!(
                !line.contains("use crate::{"),
                "{}: one layer per `use`",
                relative.display()
            );
            for (at, _) in line.match_indices("crate::") {
                let target: String = line[at + 7..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if table.contains_key(target.as_str())
                    && target != layer
                    && !allowed.contains(&target.as_str())
                {
                    wrong.push(format!("{}: {layer} imports {target}", relative.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_architecture_page_shows_the_same_table() {
    let page = fs::read_to_string(top().join("docs/architecture.md")).unwrap();
    for (layer, allowed) in LAYERS.iter().filter(|(layer, _)| *layer != "commands") {
        let names: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
        let names = if names.is_empty() {
            "–".to_owned()
        } else {
            names.join(" ")
        };
        assert!(
            page.contains(&format!("| `{layer}` | {names} |")),
            "{layer}: {names}"
        );
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut files = Vec::new();
    sources(&top().join("src"), &mut files);
    sources(&top().join("tests"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{}", file.display());
    }
}

#[test]
fn every_test_file_is_part_of_the_one_binary() {
    let main = fs::read_to_string(top().join("tests/it/main.rs")).unwrap();
    for entry in fs::read_dir(top().join("tests/it")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || main.contains(&format!("mod {module};")),
            "{name}"
        );
    }
}

#[test]
fn the_shipped_manifest_and_rules_are_valid_and_complete() {
    let text = fs::read_to_string(top().join("secret-files.toml")).unwrap();
    let manifest = Manifest::parse(&text, "secret-files.toml").unwrap();
    assert_eq!(manifest.entries.len(), 11);
    let rules = Rules::parse(&fs::read_to_string(top().join("demo/.sops.yaml")).unwrap()).unwrap();
    for entry in &manifest.entries {
        assert!(
            top().join(&entry.repository_path).exists(),
            "{}",
            entry.repository_path
        );
        let below = entry.repository_path.strip_prefix("demo/").unwrap();
        assert!(rules.find(below).is_some(), "{}", entry.repository_path);
    }
}

#[test]
fn pages_name_only_commands_and_files_that_exist() {
    let command_line = secret_files::cli::Cli::names();
    for page in [
        "README.md",
        "docs/architecture.md",
        "docs/design.md",
        "docs/drift.md",
        "docs/manifest.md",
        "docs/recovery.md",
        "docs/reliability.md",
        "docs/threat-model.md",
    ] {
        let text = fs::read_to_string(top().join(page)).unwrap();
        for (at, _) in text.match_indices("`secrets ") {
            let word: String = text[at + 9..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            assert!(
                word.is_empty() || word.starts_with('-') || command_line.contains(&word),
                "{page} names `secrets {word}`"
            );
        }
        for (at, _) in text.match_indices("](") {
            let target: String = text[at + 2..]
                .chars()
                .take_while(|c| *c != ')' && *c != '#')
                .collect();
            if !target.is_empty() && !target.contains("://") {
                let folder = top().join(page).parent().unwrap().to_owned();
                assert!(folder.join(&target).exists(), "{page} links {target}");
            }
        }
    }
}
