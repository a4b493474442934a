//! One command line: what is around it, its parts, and how they are spelled.

use super::random::Random;

/// What a program reads from standard input.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Text(String),
    /// A file of the sandbox.
    File(String),
}

/// One command line and what is around it. `@/` stands for the sandbox.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The command, for counting.
    pub(super) command: String,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(&'static str, String)>,
    /// The current folder.
    pub(super) folder: String,
    /// The name and the text of `repo/.sops.yaml`.
    pub(super) rules_name: &'static str,
    pub(super) rules: Option<&'static str>,
    pub(super) input: Input,
}

impl Case {
    /// The case as one would type it.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{}$", self.folder);
        let usual = [
            ("HOME", "@/home"),
            ("SOPS_AGE_KEY_FILE", "@/keys/first.txt"),
        ];
        for (name, value) in &self.variables {
            if !usual.contains(&(name, value)) {
                line += &format!(" {name}={}", quoted(value));
            }
        }
        line += " sops";
        for argument in &self.arguments {
            line += &format!(" {}", quoted(argument));
        }
        match &self.input {
            Input::Text(text) if text.is_empty() => {}
            Input::Text(text) => line += &format!(" <<<{text:?}"),
            Input::File(path) => line += &format!(" <@/{path}"),
        }
        if self.rules.is_some() {
            line += &format!("   [.sops.yaml: {}]", self.rules_name);
        }
        line
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@/._-=,:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.contains('\n') {
        format!(
            "$'{}'",
            text.replace('\\', "\\\\")
                .replace('\'', "\\'")
                .replace('\n', "\\n")
        )
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// An option before it is spelled.
#[derive(Clone, Debug)]
pub(super) enum Flag {
    On(&'static str),
    Set(&'static str, String),
    Raw(String),
}

/// A command line before its parts are put in order.
#[derive(Default)]
pub(super) struct Line {
    /// Options before the command word.
    pub(super) root: Vec<Flag>,
    pub(super) words: Vec<&'static str>,
    pub(super) flags: Vec<Flag>,
    pub(super) operands: Vec<String>,
    /// Options of the old form without a command word have to stand first.
    pub(super) legacy: bool,
}

impl Line {
    pub(super) fn new(words: &[&'static str]) -> Self {
        Self {
            words: words.to_vec(),
            ..Self::default()
        }
    }

    pub(super) fn on(&mut self, name: &'static str) {
        self.flags.push(Flag::On(name));
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.flags.push(Flag::Set(name, value.into()));
    }

    pub(super) fn has(&self, wanted: &str) -> bool {
        self.flags.iter().any(|flag| match flag {
            Flag::On(name) | Flag::Set(name, _) => *name == wanted,
            Flag::Raw(_) => false,
        })
    }
}

const SHORT: &[(&str, &str)] = &[
    ("in-place", "i"),
    ("age", "a"),
    ("kms", "k"),
    ("pgp", "p"),
    ("show-master-keys", "s"),
    ("decrypt", "d"),
    ("encrypt", "e"),
    ("rotate", "r"),
    ("yes", "y"),
    ("file", "f"),
];

impl Line {
    /// Spells the parts and puts them in order.
    pub(super) fn arguments(self, random: &mut Random) -> Vec<String> {
        // `groups` has the long names of keys only.
        let has_short = self.words.first() != Some(&"groups");
        let mut arguments = Vec::new();
        for flag in &self.root {
            arguments.extend(spelled(flag, true, random));
        }
        arguments.extend(self.words.iter().map(|word| (*word).to_owned()));
        let mut flags: Vec<Vec<String>> = self
            .flags
            .iter()
            .map(|flag| spelled(flag, has_short, random))
            .collect();
        if flags.len() > 1 && random.chance(30) {
            let last = flags.len() - 1;
            flags.swap(0, last);
        }
        let order = if self.legacy {
            random.weighted(&[(97, 0), (3, 1)])
        } else {
            random.weighted(&[(64, 0), (22, 1), (14, 2)])
        };
        match order {
            0 => {
                arguments.extend(flags.into_iter().flatten());
                arguments.extend(self.operands);
            }
            1 => {
                arguments.extend(self.operands);
                arguments.extend(flags.into_iter().flatten());
            }
            _ => {
                let mut parts: Vec<Vec<String>> = self
                    .operands
                    .into_iter()
                    .map(|operand| vec![operand])
                    .collect();
                for flag in flags {
                    parts.insert(random.below(parts.len() + 1), flag);
                }
                arguments.extend(parts.into_iter().flatten());
            }
        }
        arguments
    }
}

fn spelled(flag: &Flag, has_short: bool, random: &mut Random) -> Vec<String> {
    let short = |name: &str| {
        let found = SHORT
            .iter()
            .find(|(long, _)| *long == name)
            .map(|(_, short)| *short);
        found.filter(|short| has_short || ["i", "f"].contains(short))
    };
    match flag {
        Flag::Raw(text) => vec![text.clone()],
        Flag::On(name) => {
            let name = match short(name) {
                Some(short) if random.chance(40) => short,
                _ => name,
            };
            let dash = dashes(name, random);
            let value = random.weighted(&[(88, ""), (6, "=true"), (3, "=1"), (3, "=T")]);
            vec![format!("{dash}{name}{value}")]
        }
        Flag::Set(name, value) => {
            let name = match short(name) {
                Some(short) if random.chance(30) => short,
                _ => name,
            };
            let dash = dashes(name, random);
            if random.chance(45) {
                vec![format!("{dash}{name}={value}")]
            } else {
                vec![format!("{dash}{name}"), value.clone()]
            }
        }
    }
}

/// One dash or two: both are right for every name.
fn dashes(name: &str, random: &mut Random) -> &'static str {
    let usual = if name.len() == 1 { "-" } else { "--" };
    let other = if name.len() == 1 { "--" } else { "-" };
    random.weighted(&[(88, usual), (12, other)])
}
