//! Makes the command line of a case, and everything around it, from the seed and the number.

use super::case::{Case, Flag, Input, Line};
use super::fixtures::{
    CLOSED, DAMAGED, DOCUMENTS, Document, FIRST, NOBODY, ODD_DOCUMENTS, RULES, SECOND,
    THROW_AWAY_KEY, THROW_AWAY_KEY_2, VARIANTS, WRONG_RULES,
};
use super::random::Random;

pub(super) const TYPES: &[&str] = &["yaml", "json", "dotenv", "ini", "binary"];
pub(super) const VALUES: &[&str] = &[
    "\"text\"",
    "\"\"",
    "8080",
    "-3",
    "1.5",
    "1e3",
    "true",
    "false",
    "null",
    "\"multi\\nline\"",
    "\"é ☃\"",
    "{\"a\": {\"b\": [1, \"two\", null]}}",
    "{}",
    "{\"z\": 1, \"a\": 2}",
    "\"alpha\"",
    " \"spaced\" ",
    "\"ENC[not]\"",
    "{\"k_unencrypted\": \"v\"}",
    "12345678901234567890",
    "\"true\"",
    "\"# no comment\"",
];
pub(super) const BAD_VALUES: &[&str] = &[
    "text",
    "{bad",
    "",
    "'x'",
    "1 2",
    "[1, 2]",
    "[]",
    "{\"a\": 1} x",
    "\"open",
    "nul",
];
pub(super) const BAD_PATHS: &[&str] = &[
    "name",
    "[name]",
    "[\"name\"",
    "[\"missing\"]",
    "[\"missing\"][\"deeper\"]",
    "[\"missing\"][0]",
    "[99]",
    "[0]",
    "[\"name\"]x",
    "",
    "[\"list\"][99]",
    "[1.5]",
    "[\"server\"][0]",
    "[\"\"]",
    "[\"users\"][7][\"x\"]",
    "[\"name\"] ",
    "[\"name\"][0]",
    "[\"server\"][\"ports\"][2]",
    "[ \"name\"]",
    "name]",
    "[\"sops\"]",
];
/// Paths at which the reference program crashes.
pub(super) const CRASH_PATHS: &[&str] =
    &["[]", "[-1]", "[\"name\"][\"x\"]", "[\"]", "[\"users\"][-1]"];
pub(super) const WRONG_RECIPIENTS: &[&str] = &[
    "age1wrong",
    "",
    "not-a-key",
    "AGE-SECRET-KEY-1X",
    "ssh-ed25519 AAAA",
    "age1",
];
pub(super) const MISSING_FILES: &[&str] = &[
    "missing.yaml",
    "no/such/folder.yaml",
    "missing",
    "plain/missing.json",
];

/// Makes one case.
pub(super) fn case(seed: u64, number: u64) -> Case {
    let mut generator = Generator::new(seed, number);
    let line = generator.line();
    generator.case.arguments = line.arguments(&mut generator.random);
    generator.case
}

pub(super) struct Generator {
    pub(super) random: Random,
    pub(super) case: Case,
    /// Whether the second key is there too.
    pub(super) has_both: bool,
}

impl Generator {
    fn new(seed: u64, number: u64) -> Self {
        let case = Case {
            command: String::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: "repo".to_owned(),
            rules_name: "none",
            rules: None,
            input: Input::Text(String::new()),
        };
        Self {
            random: Random::new(seed, number),
            case,
            has_both: false,
        }
    }

    /// Chooses everything: surroundings, command and what is wrong with it.
    fn line(&mut self) -> Line {
        self.choose_keys();
        self.case.folder = self
            .random
            .weighted(&[
                (80, "repo"),
                (6, "repo/sub"),
                (5, "repo/enc"),
                (4, "way"),
                (3, "repo/plain"),
                (2, ""),
            ])
            .to_owned();
        let make = self.random.weighted::<(&str, fn(&mut Self) -> Line)>(&[
            (15, ("encrypt", Self::encrypt)),
            (16, ("decrypt", Self::decrypt)),
            (9, ("edit", Self::edit)),
            (10, ("set", Self::set)),
            (7, ("unset", Self::unset)),
            (8, ("rotate", Self::rotate)),
            (6, ("updatekeys", Self::updatekeys)),
            (6, ("groups", Self::groups)),
            (6, ("exec-env", Self::exec_env)),
            (6, ("exec-file", Self::exec_file)),
            (4, ("filestatus", Self::filestatus)),
            (2, ("publish", Self::publish)),
            (1, ("completion", Self::completion)),
            (1, ("version", Self::version)),
            (22, ("legacy", Self::legacy)),
        ]);
        self.case.command = make.0.to_owned();
        let mut line = make.1(self);
        self.add_harmless(&mut line);
        if self.random.chance(27) {
            self.spoil(&mut line);
            if self.random.chance(15) {
                self.spoil(&mut line);
            }
        }
        line
    }

    pub(super) fn variable(&mut self, name: &'static str, value: impl Into<String>) {
        self.case.variables.retain(|(other, _)| *other != name);
        self.case.variables.push((name, value.into()));
    }

    fn choose_keys(&mut self) {
        self.variable("HOME", "@/home");
        match self.random.weighted(&[
            (75, 0),
            (9, 1),
            (4, 2),
            (3, 3),
            (3, 4),
            (3, 5),
            (1, 6),
            (1, 7),
            (1, 8),
        ]) {
            0 => self.variable("SOPS_AGE_KEY_FILE", "@/keys/first.txt"),
            1 => {
                self.has_both = true;
                self.variable("SOPS_AGE_KEY_FILE", "@/keys/both.txt");
            }
            2 => self.variable("SOPS_AGE_KEY", THROW_AWAY_KEY),
            3 => {
                self.has_both = true;
                let between = self.random.one(&["\n", ",", " ", "\n# comment\n"]);
                self.variable(
                    "SOPS_AGE_KEY",
                    format!("{THROW_AWAY_KEY}{between}{THROW_AWAY_KEY_2}"),
                );
            }
            4 => {
                let command = self
                    .random
                    .one(&["cat @/keys/first.txt", "sh -c 'cat \"@/keys/first.txt\"'"]);
                self.variable("SOPS_AGE_KEY_CMD", command);
            }
            5 => self.variable("HOME", "@/home-with-key"),
            6 => self.variable("SOPS_AGE_KEY_FILE", "@/keys/second.txt"),
            7 => {
                let file =
                    self.random
                        .one(&["missing.txt", "bad.txt", "empty.txt", "half-bad.txt"]);
                self.variable("SOPS_AGE_KEY_FILE", format!("@/keys/{file}"));
            }
            _ => {}
        }
    }

    pub(super) fn use_rules(&mut self, name: &str) {
        let (name, text) = RULES
            .iter()
            .chain(WRONG_RULES)
            .find(|(other, _)| *other == name)
            .expect("known rules");
        self.case.rules_name = name;
        self.case.rules = Some(text);
    }

    pub(super) fn any_rules(&mut self) {
        let name = self.random.pick(RULES).0;
        self.use_rules(name);
    }

    /// Rules for a command that does not need them.
    pub(super) fn optional_rules(&mut self) {
        match self.random.weighted(&[(40, 0), (35, 1), (25, 2)]) {
            0 => {}
            1 => self.use_rules("age"),
            _ => self.any_rules(),
        }
    }

    /// A path below `repo`, as it is spelled from the current folder.
    pub(super) fn spelled(&mut self, path: &str) -> String {
        match self.random.weighted(&[(80, 0), (8, 1), (7, 2), (5, 3)]) {
            1 => return format!("@/repo/{path}"),
            2 if self.case.folder == "repo" => return format!("./{path}"),
            3 if self.case.folder == "repo" => return format!("sub/../{path}"),
            _ => {}
        }
        match self.case.folder.as_str() {
            "" => format!("repo/{path}"),
            "repo" | "way" => path.to_owned(),
            inner => {
                let inner = inner.trim_start_matches("repo/");
                match path.strip_prefix(&format!("{inner}/")) {
                    Some(rest) => rest.to_owned(),
                    None => format!("../{path}"),
                }
            }
        }
    }

    pub(super) fn document(&mut self) -> &'static Document {
        let list = if self.random.chance(80) {
            DOCUMENTS
        } else {
            ODD_DOCUMENTS
        };
        self.random.pick(list)
    }

    pub(super) fn document_named(name: &str) -> &'static Document {
        DOCUMENTS
            .iter()
            .find(|document| document.name == name)
            .expect("a known document")
    }

    /// A sealed file that the keys at hand open.
    pub(super) fn sealed(&mut self) -> (String, &'static Document) {
        if self.has_both && self.random.chance(60) || self.random.chance(2) {
            let variant = self.random.pick(CLOSED);
            return (
                variant.path.to_owned(),
                Self::document_named(variant.document),
            );
        }
        if self.random.chance(3) {
            return (self.damaged(), Self::document_named("simple.yaml"));
        }
        if self.random.chance(25) {
            let variant = self.random.pick(VARIANTS);
            return (
                variant.path.to_owned(),
                Self::document_named(variant.document),
            );
        }
        loop {
            let document = self.document();
            if document.sealable {
                let link = document.name == "simple.yaml" && self.random.chance(15);
                return (
                    format!("enc/{}", if link { "link.yaml" } else { document.name }),
                    document,
                );
            }
        }
    }

    /// A sealed file with values that fit into variables.
    pub(super) fn sealed_flat(&mut self) -> String {
        if self.random.chance(15) {
            return self.sealed().0;
        }
        let names = [
            "enc/simple.yaml",
            "enc/simple.json",
            "enc/simple.env",
            "enc/one.env",
            "opt/mac-only.env",
            "grp/open.yaml",
            "key/both.env",
            "enc/looks.yaml",
            "enc/numbers.yaml",
            "enc/note.txt",
        ];
        self.random.one(&names).to_owned()
    }

    pub(super) fn damaged(&mut self) -> String {
        self.random.pick(DAMAGED).0.to_owned()
    }

    pub(super) fn path_in(&mut self, document: &Document) -> String {
        if document.paths.is_empty() || self.random.chance(10) {
            return self.random.one(BAD_PATHS).to_owned();
        }
        self.random.one(document.paths).to_owned()
    }

    pub(super) fn recipients(&mut self) -> String {
        match self
            .random
            .weighted(&[(60, 0), (20, 1), (8, 2), (7, 3), (5, 4)])
        {
            0 => FIRST.to_owned(),
            1 => format!("{FIRST},{SECOND}"),
            2 => format!("{SECOND}, {FIRST}"),
            3 => SECOND.to_owned(),
            _ => format!("{FIRST},{NOBODY},{FIRST}"),
        }
    }

    pub(super) fn add_output(&mut self, line: &mut Line) {
        match self.random.weighted(&[(55, 0), (22, 1), (23, 2)]) {
            1 => line.on("in-place"),
            2 => {
                let file = self.random.one(&[
                    "new-output.yaml",
                    "new.json",
                    "sub/new.txt",
                    "old-output.yaml",
                    "out-link.yaml",
                ]);
                let file = self.spelled(file);
                line.set("output", file);
            }
            _ => {}
        }
    }

    pub(super) fn add_types(&mut self, line: &mut Line, percent: usize) {
        if self.random.chance(percent) {
            line.set("output-type", self.random.one(TYPES));
        }
        if self.random.chance(percent / 3) {
            line.set("input-type", self.random.one(TYPES));
        }
    }

    pub(super) fn add_selection(&mut self, line: &mut Line, percent: usize) {
        if !self.random.chance(percent) {
            return;
        }
        let (name, values): (_, &[&str]) = self.random.one(&[
            (
                "encrypted-regex",
                &[
                    "^(name|host)$",
                    "pass|NAME",
                    "^nothing$",
                    "(?i)^PORT$",
                    "^n.*e$",
                    "\\bname\\b",
                ][..],
            ),
            (
                "unencrypted-regex",
                &["^name", "port|PORT", ".", "^server$"],
            ),
            ("encrypted-suffix", &["_secret", "e", "port"]),
            ("unencrypted-suffix", &["_plain", "_unencrypted", "rt"]),
        ]);
        line.set(name, self.random.one(values));
    }

    /// Creation rules or options from which `encrypt` and `edit` take the keys of a new file.
    pub(super) fn add_keys(&mut self, line: &mut Line) {
        match self
            .random
            .weighted(&[(35, 0), (30, 1), (22, 2), (5, 3), (5, 4), (3, 5)])
        {
            0 => self.use_rules("age"),
            1 => self.any_rules(),
            2 => {
                let recipients = self.recipients();
                line.set("age", recipients);
            }
            3 => {
                let recipients = self.recipients();
                self.variable("SOPS_AGE_RECIPIENTS", recipients);
            }
            4 => {
                self.any_rules();
                let recipients = self.recipients();
                line.set("age", recipients);
            }
            _ => {
                let name = self.random.pick(RULES).0;
                line.root
                    .push(Flag::Set("config", format!("@/conf/{name}.yaml")));
            }
        }
    }

    /// Options that change nothing for most command lines.
    fn add_harmless(&mut self, line: &mut Line) {
        let words = line.words.clone();
        let takes_order = !words.iter().any(|word| {
            [
                "encrypt",
                "updatekeys",
                "groups",
                "filestatus",
                "completion",
            ]
            .contains(word)
        });
        let takes_service = !["filestatus", "completion"]
            .iter()
            .any(|word| words.contains(word));
        if takes_service && self.random.chance(3) {
            line.flags
                .push(Flag::Raw("--enable-local-keyservice=true".to_owned()));
        }
        if takes_order && self.random.chance(4) {
            line.set(
                "decryption-order",
                self.random
                    .one(&["age,pgp", "pgp,age", "age", "pgp", "other", "kms,age,x"]),
            );
        }
        if takes_order && self.random.chance(2) {
            self.variable("SOPS_DECRYPTION_ORDER", "age,pgp");
        }
        if !line.legacy && self.random.chance(5) {
            let name = self
                .random
                .one(&["age", "stores", "both", "unknown", "stores-only"]);
            line.root
                .push(Flag::Set("config", format!("@/conf/{name}.yaml")));
        } else if self.random.chance(3) {
            let name = self.random.one(&["age", "stores", "both", "blank"]);
            self.variable("SOPS_CONFIG", format!("@/conf/{name}.yaml"));
        }
        if self.random.chance(6) {
            let indent = self.random.one(&["2", "4", "1", "0", "7", "3"]);
            line.root.push(Flag::Set("indent", indent.to_owned()));
        }
        if self.random.chance(2) {
            line.root.push(Flag::On("mac-only-encrypted"));
        }
        if self.random.chance(1) {
            line.root.push(Flag::On("verbose"));
        }
        if self.random.chance(1) {
            line.root.push(Flag::Raw("--in-place".to_owned()));
        }
    }
}

/// The format that the reference program takes a file for.
pub(super) fn format_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("yaml" | "yml") => "yaml",
        Some("json") => "json",
        Some("env") => "dotenv",
        Some("ini") => "ini",
        _ => "binary",
    }
}
