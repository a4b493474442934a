//! Makes a command line wrong in one of many ways; some of them turn out to be harmless.

use super::case::{Flag, Input, Line};
use super::fixtures::{CLOSED, ODD_DOCUMENTS, WRONG_RULES};
use super::generate::{
    BAD_PATHS, BAD_VALUES, CRASH_PATHS, Generator, MISSING_FILES, TYPES, WRONG_RECIPIENTS,
};

impl Generator {
    /// Changes something about a line, or about what is around it.
    pub(super) fn spoil(&mut self, line: &mut Line) {
        match self.random.below(6) {
            0 => self.spoil_operands(line),
            1 => self.spoil_file(line),
            2 => self.spoil_option(line),
            3 => self.spoil_values(line),
            4 => self.spoil_surroundings(line),
            _ => self.spoil_combination(line),
        }
    }

    /// Too few or too many operands.
    fn spoil_operands(&mut self, line: &mut Line) {
        match self.random.below(7) {
            0 | 1 => drop(line.operands.pop()),
            2 => line.operands.clear(),
            3 => line.operands.push("surplus".to_owned()),
            4 => line.operands.push("--surplus".to_owned()),
            5 => line.operands.insert(0, String::new()),
            _ => line.operands.insert(0, "--".to_owned()),
        }
    }

    /// Another file than the command needs.
    fn spoil_file(&mut self, line: &mut Line) {
        let path = match self.random.below(8) {
            0 => self.random.one(MISSING_FILES).to_owned(),
            1 => self.random.one(&["folder.yaml", "sub", "."]).to_owned(),
            2 | 3 => self.damaged(),
            4 => self.random.pick(CLOSED).path.to_owned(),
            5 => format!("plain/{}", self.random.pick(ODD_DOCUMENTS).name),
            6 => "enc/simple.yaml".to_owned(),
            _ => self
                .random
                .one(&[
                    "plain/simple.yaml",
                    "plain/simple.json",
                    "plain/simple.env",
                    "plain/note.txt",
                ])
                .to_owned(),
        };
        let file = self.spelled(&path);
        if line.words.first() == Some(&"groups") {
            line.set("file", file);
        } else if let Some(operand) = line.operands.first_mut() {
            // With a wrong file, a command must not wait for an answer: there is none to wait for.
            *operand = file;
        } else if matches!(self.case.input, Input::File(_)) {
            self.case.input = Input::File(format!("repo/{path}"));
        } else {
            line.operands.push(file);
        }
    }

    /// An option that is unknown, has a wrong kind of value, or no value.
    fn spoil_option(&mut self, line: &mut Line) {
        let unknown = [
            "--unknown",
            "-x",
            "--in-plase",
            "--output-typ=json",
            "---in-place",
            "-=x",
            "--=",
            "-io",
            "-id",
        ];
        let wrong = [
            "--in-place=maybe",
            "--ignore-mac=2",
            "--idempotent=",
            "--yes=no",
            "--shamir-secret-sharing-threshold=two",
            "--shamir-secret-sharing-threshold",
            "--no-fifo=off",
            "--shamir-secret-sharing-threshold=99999999999999999999",
        ];
        let off = [
            "--in-place=false",
            "-i=false",
            "--ignore-mac=false",
            "--idempotent=0",
            "--yes=F",
            "--value-stdin=false",
            "--no-fifo=f",
        ];
        let dangling = [
            "--output",
            "--extract",
            "--age",
            "--input-type",
            "--set",
            "--file",
            "--config",
        ];
        match self.random.below(5) {
            0 => line
                .flags
                .push(Flag::Raw(self.random.one(&unknown).to_owned())),
            1 => line
                .flags
                .push(Flag::Raw(self.random.one(&wrong).to_owned())),
            2 | 3 => line.flags.push(Flag::Raw(self.random.one(&off).to_owned())),
            _ => line.operands.push(self.random.one(&dangling).to_owned()),
        }
    }

    /// Values that do not fit.
    fn spoil_values(&mut self, line: &mut Line) {
        let word = line.words.first().copied().unwrap_or("legacy");
        match word {
            "set" | "unset" if line.operands.len() > 1 => {
                if word == "set" && line.operands.len() > 2 && self.random.chance(50) {
                    self.random
                        .one(BAD_VALUES)
                        .clone_into(&mut line.operands[2]);
                } else {
                    line.operands[1] = self.bad_path();
                }
            }
            "decrypt" => {
                let path = self.bad_path();
                line.set("extract", path);
            }
            "legacy" if self.case.command == "legacy" => {
                let path = self.bad_path();
                let value = self.random.one(BAD_VALUES);
                if line.has("decrypt") {
                    line.set("extract", path);
                } else if !line.has("encrypt") && !line.has("rotate") {
                    line.set("set", format!("{path} {value}"));
                }
            }
            "encrypt" | "edit" => {
                let recipient = self.random.one(WRONG_RECIPIENTS);
                line.set("age", recipient);
            }
            "rotate" => {
                let name = self.random.one(&["add-age", "rm-age"]);
                line.set(name, self.random.one(WRONG_RECIPIENTS));
            }
            "groups" if line.words == ["groups", "delete"] => {
                let index =
                    self.random
                        .one(&["x", "-1", "", "1.0", "99999999999", "x", "0x0", "7"]);
                line.operands = vec![index.to_owned()];
            }
            "groups" => line.set("age", self.random.one(WRONG_RECIPIENTS)),
            "completion" => {}
            _ => line.set(
                "input-type",
                self.random
                    .one(&["yml", "env", "xml", "", "JSON", "binary", "json"]),
            ),
        }
    }

    fn bad_path(&mut self) -> String {
        let list = if self.random.chance(4) {
            CRASH_PATHS
        } else {
            BAD_PATHS
        };
        self.random.one(list).to_owned()
    }

    /// Keys, rules and variables that are wrong or absent.
    fn spoil_surroundings(&mut self, line: &mut Line) {
        match self.random.below(10) {
            0 => self
                .case
                .variables
                .retain(|(name, _)| !name.starts_with("SOPS_AGE_KEY")),
            1 => self.variable("SOPS_AGE_KEY_FILE", "@/keys/second.txt"),
            2 => {
                self.case.rules = None;
                self.case.rules_name = "none";
            }
            3 | 4 => {
                let name = self.random.pick(WRONG_RULES).0;
                self.use_rules(name);
            }
            5 => {
                let name = self.random.pick(WRONG_RULES).0;
                line.root
                    .push(Flag::Set("config", format!("@/conf/{name}.yaml")));
            }
            6 => {
                // `publish` must not find a destination here: it could go on without a question.
                let file = self
                    .random
                    .one(&["missing.yaml", "", "no-match.yaml", "pgp.yaml"]);
                self.variable("SOPS_CONFIG", format!("@/conf/{file}"));
            }
            7 => {
                let order = self.random.one(&["age,age", "", ",", "pgp,age,pgp"]);
                self.variable("SOPS_DECRYPTION_ORDER", order);
            }
            8 => {
                let recipient = self.random.one(WRONG_RECIPIENTS);
                self.variable("SOPS_AGE_RECIPIENTS", recipient);
            }
            _ => {
                self.case
                    .variables
                    .retain(|(name, _)| !name.ends_with("EDITOR"));
                self.case.variables.retain(|(name, _)| *name != "HOME");
            }
        }
    }

    /// Options that exclude each other, or lead nowhere.
    fn spoil_combination(&mut self, line: &mut Line) {
        let word = line.words.first().copied().unwrap_or("legacy");
        let legacy = word == "legacy" && self.case.command == "legacy";
        // No device is written to, and standard input is read as /dev/fd/0, not /dev/stdin: a
        // program that replaces files by renaming would replace the device of this machine.
        match self.random.below(9) {
            0 | 1 => {
                if ["encrypt", "decrypt", "rotate"].contains(&word) || legacy {
                    line.on("in-place");
                    line.set("output", "both.yaml");
                } else if word == "set" {
                    line.on("value-file");
                    line.on("value-stdin");
                } else if word == "exec-env" {
                    line.on("background");
                    line.on("same-process");
                }
            }
            2 => {
                if word == "encrypt" || legacy {
                    line.set("encrypted-regex", "a");
                    line.set("unencrypted-suffix", "b");
                }
            }
            3 => {
                if ["encrypt", "decrypt", "rotate"].contains(&word) || legacy {
                    line.set(
                        "output",
                        self.random.one(&[
                            "sub",
                            "no/such/folder/file",
                            "@/repo/enc/nested.yaml/x",
                            "sub/",
                        ]),
                    );
                }
            }
            4 => {
                if [
                    "decrypt",
                    "rotate",
                    "set",
                    "unset",
                    "edit",
                    "exec-env",
                    "exec-file",
                ]
                .contains(&word)
                    || legacy
                {
                    line.set(
                        "decryption-order",
                        self.random.one(&["age,age", "pgp,age,pgp"]),
                    );
                }
            }
            5 => {
                if ["encrypt", "edit", "rotate"].contains(&word) || legacy {
                    let (name, value) = self.random.one(&[
                        ("kms", "not-an-arn"),
                        ("gcp-kms", "not/a/resource"),
                        ("azure-kv", "not-a-url"),
                        ("hc-vault-transit", "not-a-uri"),
                        ("hckms", "no-colon"),
                        ("pgp", "0000000000000000000000000000000000000000"),
                    ]);
                    if word == "rotate" {
                        let adding = [
                            "add-kms",
                            "add-gcp-kms",
                            "add-azure-kv",
                            "add-hc-vault-transit",
                            "add-hckms",
                            "add-pgp",
                        ];
                        let name = adding
                            .iter()
                            .find(|adding| adding.ends_with(name))
                            .expect("each can be added");
                        line.set(name, value);
                    } else {
                        line.set(name, value);
                    }
                }
            }
            6 => {
                if word != "filestatus" && word != "completion" {
                    line.flags
                        .push(Flag::Raw("--enable-local-keyservice=false".to_owned()));
                }
            }
            7 => {
                if ["encrypt", "edit"].contains(&word) || legacy {
                    line.set(
                        "encryption-context",
                        self.random.one(&["no-colon", "a:b:c", ":", "a:b,c"]),
                    );
                }
            }
            _ => {
                line.set("input-type", self.random.one(TYPES));
            }
        }
    }
}
