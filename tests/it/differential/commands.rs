//! The command lines of each command, before anything is made wrong.

use super::case::{Flag, Input, Line};
use super::fixtures::{DOCUMENTS, Document, FIRST, NOBODY, SECOND};
use super::generate::{BAD_VALUES, Generator, MISSING_FILES, TYPES, VALUES, format_of};

impl Generator {
    pub(super) fn encrypt(&mut self) -> Line {
        let mut line = Line::new(&["encrypt"]);
        self.add_keys(&mut line);
        let mut document = self.document();
        if !document.sealable && self.random.chance(70) {
            document = self.random.pick(DOCUMENTS);
        }
        let path = format!("plain/{}", document.name);
        match self.random.weighted(&[(82, 0), (13, 1), (5, 2)]) {
            0 => {
                let file = self.spelled(&path);
                line.operands.push(file);
                self.add_output(&mut line);
                if self.random.chance(8) {
                    line.set(
                        "filename-override",
                        self.random.one(&[
                            "enc/x.json",
                            "sub/y.yaml",
                            "other.env",
                            "plain/a.ini",
                            "x",
                        ]),
                    );
                }
            }
            1 => {
                self.case.input = Input::File(format!("repo/{path}"));
                let file = self.spelled(&path);
                line.set("filename-override", file);
            }
            _ => {
                self.case.input = Input::File(format!("repo/{path}"));
                line.operands.push("/dev/fd/0".to_owned());
                let kind = format_of(document.name);
                line.set("input-type", kind);
                line.set("output-type", kind);
            }
        }
        self.add_types(&mut line, 10);
        self.add_selection(&mut line, 18);
        if self.random.chance(2) {
            line.set(
                "shamir-secret-sharing-threshold",
                self.random.one(&["0", "1", "2", "3"]),
            );
        }
        if self.random.chance(2) {
            line.set("encryption-context", self.random.one(&["a:b", "a:b,c:d"]));
        }
        line
    }

    pub(super) fn decrypt(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["decrypt"]);
        let (path, document) = self.sealed();
        match self.random.weighted(&[(84, 0), (8, 1), (4, 2), (4, 3)]) {
            0 => {
                let file = self.spelled(&path);
                line.operands.push(file);
                self.add_output(&mut line);
                if self.random.chance(3) {
                    line.set(
                        "filename-override",
                        self.random.one(&["x.json", "y.yaml", "sub/x.env"]),
                    );
                }
            }
            1 => {
                self.case.input = Input::File(format!("repo/{path}"));
                let file = self.spelled(&path);
                line.set("filename-override", file);
            }
            2 => {
                self.case.input = Input::File(format!("repo/{path}"));
                line.set("input-type", format_of(&path));
                line.set("output-type", format_of(&path));
            }
            _ => {
                self.case.input = Input::File(format!("repo/{path}"));
                line.operands.push("/dev/fd/0".to_owned());
                line.set("input-type", format_of(&path));
            }
        }
        if self.random.chance(28) {
            let path = self.path_in(document);
            line.set("extract", path);
        }
        self.add_types(&mut line, 14);
        if self.random.chance(8) {
            line.on("ignore-mac");
            if self.random.chance(50) && !line.operands.is_empty() {
                let damaged = self.damaged();
                line.operands[0] = self.spelled(&damaged);
            }
        }
        line
    }

    fn choose_editor(&mut self, name: &str) {
        let change = self.random.one(&[
            "s/alpha/omega/",
            "s/8080/9090/",
            "s/one/uno/g",
            "1d",
            "$d",
            "s/true/false/",
            "s/a/b/g",
            "s/in the clear/changed/",
            "s/null/1.50/",
            "1s/$/ /",
            "s/^\\(.\\)$/\\1/",
        ]);
        let (added, broken): (&[&str], &str) = match format_of(name) {
            "yaml" => (
                &[
                    "added: new",
                    "# a note",
                    "added:\n    - 1\n    - two",
                    "b_unencrypted: x",
                    "\"q\": 'x'",
                ],
                "a: [",
            ),
            "json" => (&["", "  "], "}"),
            "dotenv" => (
                &["ADDED=new", "# a note", "ADDED= spaced "],
                "no equals sign",
            ),
            "ini" => (&["added = new", "[added]\nkey = new", "; a note"], "[x"),
            _ => (&["added", ""], "more"),
        };
        let added = self.random.one(added);
        let sops = if format_of(name) == "dotenv" {
            "sops_x=1"
        } else {
            "sops: x"
        };
        let broken = if self.random.chance(25) { sops } else { broken };
        // Only the editor of the sandbox gives up: another one that spoils a file is called forever.
        let editor = match self.random.weighted(&[
            (40, 0),
            (18, 1),
            (5, 2),
            (6, 3),
            (4, 4),
            (4, 5),
            (6, 6),
            (3, 7),
            (3, 8),
            (6, 9),
            (5, 10),
        ]) {
            0 => format!("@/bin/editor sed '{change}'"),
            1 => format!("@/bin/editor append '{added}'"),
            2 => format!("@/bin/editor replace \"{}\"", change.replace('$', "")),
            3 => "@/bin/editor nothing".to_owned(),
            4 => "true".to_owned(),
            5 => self
                .random
                .one(&[
                    "false",
                    "@/bin/no-such-editor",
                    "sh -c 'exit 3'",
                    "'unclosed",
                    "no-editor -x",
                ])
                .to_owned(),
            6 => format!("@/bin/editor break-fix '{broken}' '{change}'"),
            7 => format!("@/bin/editor break-stop '{broken}'"),
            8 => format!("@/bin/editor break-undo '{broken}'"),
            9 => self
                .random
                .one(&[
                    "@/bin/editor write ''",
                    "@/bin/editor remove",
                    "@/bin/editor write 'just text'",
                    "@/bin/editor append '#'",
                ])
                .to_owned(),
            _ => "\"@/bin/editor\" sed s/alpha/beta/".to_owned(),
        };
        if self.random.chance(95) {
            let variable = self.random.weighted(&[(80, "SOPS_EDITOR"), (20, "EDITOR")]);
            self.variable(variable, editor);
        }
        if self.random.chance(10) {
            self.variable("EDITOR", "false");
        }
        if self.random.chance(30) {
            self.case.input = Input::Text("\n\n".to_owned());
        }
    }

    pub(super) fn edit(&mut self) -> Line {
        let mut line = Line::new(&["edit"]);
        let file = if self.random.chance(82) {
            self.optional_rules();
            self.sealed().0
        } else {
            self.add_keys(&mut line);
            self.add_selection(&mut line, 20);
            self.random
                .one(&[
                    "new.yaml",
                    "new.json",
                    "new.env",
                    "new.ini",
                    "new.txt",
                    "sub/new.yaml",
                    "new",
                ])
                .to_owned()
        };
        self.choose_editor(&file);
        let file = self.spelled(&file);
        line.operands.push(file);
        if self.random.chance(8) {
            line.on("show-master-keys");
        }
        if self.random.chance(6) {
            line.on("ignore-mac");
        }
        self.add_types(&mut line, 4);
        line
    }

    fn value(&mut self) -> String {
        let list = if self.random.chance(93) {
            VALUES
        } else {
            BAD_VALUES
        };
        self.random.one(list).to_owned()
    }

    fn index(&mut self, document: &Document) -> String {
        if self.random.chance(70) {
            return self.path_in(document);
        }
        let base = match format_of(document.name) {
            "ini" => "[\"main\"]",
            _ => "",
        };
        format!(
            "{base}{}",
            self.random.pick(&[
                "[\"new\"]",
                "[\"new\"][\"deeper\"]",
                "[\"new\"][0]",
                "[\"list\"][5]",
                "[\"server\"][\"new\"]",
                "[\"new_unencrypted\"]"
            ])
        )
    }

    pub(super) fn set(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["set"]);
        let (path, document) = self.sealed();
        let index = self.index(document);
        line.operands = vec![self.spelled(&path), index];
        match self.random.weighted(&[(76, 0), (12, 1), (12, 2)]) {
            1 => {
                let file =
                    self.random
                        .one(&["values/object.json", "values/text.json", "values/bad.json"]);
                let file = self.spelled(file);
                line.operands.push(file);
                line.on("value-file");
            }
            2 => {
                let end = self.random.one(&["", "\n"]);
                self.case.input = Input::Text(self.value() + end);
                line.on("value-stdin");
            }
            _ => {
                let value = self.value();
                line.operands.push(value);
            }
        }
        self.add_set_flags(&mut line);
        line
    }

    fn add_set_flags(&mut self, line: &mut Line) {
        if self.random.chance(20) {
            line.on("idempotent");
        }
        if self.random.chance(5) {
            line.on("ignore-mac");
        }
        if self.random.chance(3) {
            line.set("shamir-secret-sharing-threshold", "1");
        }
        self.add_types(line, 4);
    }

    pub(super) fn unset(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["unset"]);
        let (path, document) = self.sealed();
        let index = self.path_in(document);
        line.operands = vec![self.spelled(&path), index];
        self.add_set_flags(&mut line);
        line
    }

    pub(super) fn rotate(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["rotate"]);
        let (path, _) = self.sealed();
        let file = self.spelled(&path);
        line.operands.push(file);
        self.add_output(&mut line);
        if self.random.chance(35) {
            let recipients = self.recipients();
            line.set("add-age", recipients);
        }
        if self.random.chance(20) {
            line.set("rm-age", self.random.one(&[SECOND, NOBODY, FIRST]));
        }
        self.add_types(&mut line, 6);
        if self.random.chance(4) {
            line.set("filename-override", self.random.one(&["x.json", "x.yaml"]));
        }
        line
    }

    pub(super) fn updatekeys(&mut self) -> Line {
        let name = self.random.one(&[
            "age",
            "both",
            "list",
            "second",
            "groups",
            "groups-open",
            "groups-all",
            "group",
            "merge",
            "paths",
            "twice",
            "nobody",
            "stores",
            "folded",
        ]);
        self.use_rules(name);
        let mut line = Line::new(&["updatekeys"]);
        for _ in 0..self.random.weighted(&[(85, 1), (10, 2), (5, 3)]) {
            let (path, _) = self.sealed();
            let file = self.spelled(&path);
            line.operands.push(file);
        }
        if self.random.chance(60) {
            line.on("yes");
        } else {
            let answer = self.random.one(&[
                "y\n",
                "n\n",
                "y\n",
                "n\n",
                "",
                "maybe\ny\n",
                "\n",
                "yes\n",
                "y",
                "n\ny\n",
            ]);
            self.case.input = Input::Text(answer.to_owned());
        }
        if self.random.chance(4) {
            line.set("input-type", self.random.one(TYPES));
        }
        line
    }

    pub(super) fn groups(&mut self) -> Line {
        self.optional_rules();
        let mut line;
        let (mut path, _) = self.sealed();
        if self.random.chance(60) {
            line = Line::new(&["groups", "add"]);
            let recipients = self.recipients();
            line.set("age", recipients);
            if self.random.chance(15) {
                line.set("age", NOBODY);
            }
            if self.random.chance(40) {
                line.set(
                    "shamir-secret-sharing-threshold",
                    self.random.one(&["1", "2", "2", "3"]),
                );
            }
        } else {
            if self.random.chance(75) {
                path = self
                    .random
                    .one(&[
                        "grp/open.yaml",
                        "grp/open.json",
                        "grp/open.env",
                        "grp/open.ini",
                    ])
                    .to_owned();
            }
            line = Line::new(&["groups", "delete"]);
            // The reference program crashes on a group that is not there.
            let index = if path.starts_with("grp/") {
                self.random.one(&["0", "1", "2"])
            } else {
                "0"
            };
            line.operands.push(index.to_owned());
            if self.random.chance(15) {
                line.set(
                    "shamir-secret-sharing-threshold",
                    self.random.one(&["1", "2"]),
                );
            }
        }
        let file = self.spelled(&path);
        line.set("file", file);
        if self.random.chance(50) {
            line.on("in-place");
        }
        line
    }

    pub(super) fn exec_env(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["exec-env"]);
        let path = self.sealed_flat();
        let command = self.random.one(&[
            "env | grep -v -e ^_ -e ^SHLVL | sort",
            "echo \"$name\"",
            "printf '%s|' \"$name\" \"$port\" \"$NAME\" \"$PORT\"",
            "exit 3",
            "true",
            "echo \"$LINES\" \"$empty\" \"$EMPTY.\"",
            "kill -9 $$",
            "cat",
            "echo out; echo err >&2; exit 12",
            "env | grep ^[nNpP] | sort",
            "no-such-command",
            "echo \"$ratio $debug $nothing\"",
            "echo x > made.txt",
            "exit 255",
            "",
            "pwd",
        ]);
        line.operands = vec![self.spelled(&path), command.to_owned()];
        self.add_exec_flags(&mut line);
        if self.random.chance(12) {
            line.on("same-process");
        }
        line
    }

    fn add_exec_flags(&mut self, line: &mut Line) {
        if self.random.chance(12) && line.words == ["exec-env"] {
            line.on("pristine");
        }
        if self.random.chance(2) {
            // What runs in the background may end after the comparison: it must leave no trace.
            "true".clone_into(&mut line.operands[1]);
            line.on("background");
        }
        if self.random.chance(15) {
            self.case.input = Input::Text("from standard input\n".to_owned());
        }
        if self.random.chance(1) {
            line.set("user", "no-such-user");
        }
    }

    pub(super) fn exec_file(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["exec-file"]);
        let (path, _) = self.sealed();
        // A pipe can be read once only: a second reader would wait forever.
        let command = self.random.one(&[
            "cat {}",
            "cat {}",
            "cat < {}",
            "wc -c < {}",
            "cat {} | head -n 1",
            "exit 7",
            "basename {}",
            "cat {} >&2",
            "echo {} {}",
            "stat -c %a {}",
            "stat -c %a $(dirname {})",
            "test -p {} && echo pipe",
            "test -f {} && echo file",
            "cat {} > made.txt",
            "kill -15 $$",
            "cat; cat {}",
            "ls -A $(dirname {})",
            "true",
            "env | grep -c ^SOPS_DISABLE",
            "",
            "no-such-command {}",
        ]);
        line.operands = vec![self.spelled(&path), command.to_owned()];
        self.add_types(&mut line, 12);
        if self.random.chance(40) {
            line.on("no-fifo");
        }
        if self.random.chance(15) {
            line.set(
                "filename",
                self.random.one(&[
                    "foobar",
                    "x.yaml",
                    "../out",
                    "/abs",
                    "a/b",
                    "with space",
                    ".",
                    "",
                ]),
            );
        }
        self.add_exec_flags(&mut line);
        line
    }

    pub(super) fn filestatus(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::new(&["filestatus"]);
        let path = match self.random.weighted(&[(50, 0), (25, 1), (25, 2)]) {
            0 => self.sealed().0,
            1 => format!("plain/{}", self.document().name),
            _ => self.damaged(),
        };
        let file = self.spelled(&path);
        line.operands.push(file);
        if self.random.chance(15) {
            line.set("input-type", self.random.one(TYPES));
        }
        line
    }

    /// Never so that something would be sent: there is no destination, or the answer is no.
    pub(super) fn publish(&mut self) -> Line {
        let mut line = Line::new(&["publish"]);
        let (path, _) = self.sealed();
        if self.random.chance(75) {
            self.use_rules("publish");
            let answer = self.random.one(&["n\n", "n\n", "", "maybe\nn\n", "\n"]);
            self.case.input = Input::Text(answer.to_owned());
        } else {
            self.optional_rules();
            if self.case.rules_name == "publish" {
                self.use_rules("age");
            }
            line.on("yes");
        }
        let path = match self.random.weighted(&[(70, 0), (10, 1), (10, 2), (10, 3)]) {
            0 => path,
            1 => "plain/simple.yaml".to_owned(),
            2 => self.random.one(&["sub", "empty", "folder.yaml"]).to_owned(),
            _ => self.random.one(MISSING_FILES).to_owned(),
        };
        let file = self.spelled(&path);
        line.operands.push(file);
        if self.random.chance(20) {
            line.on("omit-extensions");
        }
        if self.random.chance(20) {
            line.on("recursive");
        }
        line
    }

    pub(super) fn completion(&mut self) -> Line {
        match self
            .random
            .weighted(&[(35, 0), (35, 1), (10, 2), (10, 3), (10, 4)])
        {
            0 => Line::new(&["completion", "bash"]),
            1 => Line::new(&["completion", "zsh"]),
            2 => Line::new(&["completion", "fish"]),
            3 => Line::new(&["completion"]),
            _ => {
                let mut line = Line::new(&["completion", "bash"]);
                line.operands.push("surplus".to_owned());
                line
            }
        }
    }

    /// Never with the option that asks the network.
    pub(super) fn version(&mut self) -> Line {
        let mut line = Line {
            legacy: true,
            ..Line::default()
        };
        let spelling = self.random.one(&[
            "--version",
            "-v",
            "-version",
            "--v",
            "--version=true",
            "--version",
        ]);
        line.flags.push(Flag::Raw(spelling.to_owned()));
        if self.random.chance(25) {
            line.flags
                .push(Flag::Raw("--disable-version-check".to_owned()));
        }
        if self.random.chance(15) {
            line.operands.push("surplus".to_owned());
        }
        line
    }

    /// The old form without a command word.
    pub(super) fn legacy(&mut self) -> Line {
        let mode = self
            .random
            .weighted(&[(28, 0), (32, 1), (14, 2), (13, 3), (13, 4)]);
        let mut line = match mode {
            0 => self.encrypt(),
            1 => self.decrypt(),
            2 => self.rotate(),
            3 => self.legacy_set(),
            _ => self.edit(),
        };
        line.words.clear();
        line.legacy = true;
        line.flags.append(&mut line.root);
        match mode {
            0 => line.on("encrypt"),
            1 => line.on("decrypt"),
            2 => line.on("rotate"),
            _ => {}
        }
        if line.operands.is_empty() {
            // Without a file this form does nothing.
            let file = if mode == 0 {
                "plain/simple.yaml"
            } else {
                "enc/simple.yaml"
            };
            let file = self.spelled(file);
            line.operands.push(file);
        }
        if mode == 0 && self.random.chance(8) {
            let name = self
                .random
                .one(&["encrypted-comment-regex", "unencrypted-comment-regex"]);
            line.set(
                name,
                self.random.one(&["sops:enc", "ENCRYPT", "about", "leave"]),
            );
        }
        if self.random.chance(2) {
            line.on(self.random.one(&["encrypt", "decrypt", "rotate"]));
        }
        if self.random.chance(2) {
            line.set("add-age", FIRST);
        }
        line
    }

    fn legacy_set(&mut self) -> Line {
        self.optional_rules();
        let mut line = Line::default();
        let (path, document) = self.sealed();
        let file = self.spelled(&path);
        line.operands.push(file);
        let index = self.index(document);
        let value = self.value();
        let separator = self.random.weighted(&[(94, " "), (3, ""), (3, "  ")]);
        line.set("set", format!("{index}{separator}{value}"));
        if self.random.chance(30) {
            line.on("in-place");
        }
        self.add_types(&mut line, 4);
        line
    }
}
