//! What the recipes do with decrypted files, recognised by simple lexical means.

use std::collections::BTreeSet;

use super::rows::path_parts;
use super::variables::{
    BUDGET, HELD, Values, before, is_blank, last_line, quote, shown, split_reference, unmarked,
    words,
};
use super::{KEY_VARIABLE, Notes, Root, Unread};

const CRYPT: [&str; 6] = ["-d", "--decrypt", "decrypt", "-e", "--encrypt", "encrypt"];
const KEYWORDS: &str = "! { } do then else elif if while until export";
const CARRIERS: &str = "sudo doas env exec time nice find xargs docker podman sh bash";
const KNOWN: &str = "sops chmod chown chgrp install cd";
const CUTS: [&str; 4] = ["#*/", "basename ", "cut -d/", "cut -d /"];

/// One simple command of a recipe, its words without quotes.
#[derive(Default)]
struct Command {
    words: Vec<String>,
    line: usize,
    /// Whether its recipe decrypts.
    decrypts: bool,
}

/// Shell text without quotes, with blanks around operators and none in references.
fn tokens(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let rest = letters.as_str();
        match letter {
            '"' | '\'' | '\\' => {}
            '$' => {
                let (_, next) = split_reference(rest).unwrap_or_default();
                let source = before(rest, next);
                out.push_str(&format!("${source}").replace(is_blank, HELD));
                letters = next.chars();
            }
            '<' | '>' => out.push(' '),
            ';' | '&' | '|' | '(' | ')' | '\n' => out.push_str(" ; "),
            _ => out.push(letter),
        }
    }
    out
}

/// Splits one recipe line into simple commands.
fn commands(text: &str) -> Vec<Command> {
    let mut all = Vec::new();
    let mut command = Command::default();
    for (line, token) in words(&tokens(text)) {
        let token = token.replace(HELD, " ");
        let bare = token.trim_start_matches(['@', '-', '+']);
        if token == ";" {
            all.push(std::mem::take(&mut command));
        } else if !command.words.is_empty() {
            command.words.push(token);
        } else if !bare.is_empty() && !is_one_of(bare, KEYWORDS) {
            command.words.push(bare.to_owned());
            command.line = line;
        }
    }
    all.push(command);
    all
}

/// The text that the shell gets, with the variables of make that the shell reads.
fn commands_text(line: &str, values: &mut Values) -> String {
    let mut text = shown(&values.expand(line));
    let mut seen = BTreeSet::new();
    for part in line.split("$$").skip(1) {
        let part = part.trim_start_matches('{');
        let is_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
        let name = part.split(is_end).next().unwrap_or_default();
        if !seen.insert(name) {
            continue;
        }
        if let Ok(value) = values.value(name) {
            let value = unmarked(&shown(&value));
            for (from, to) in [
                (format!("${{{name}}}"), value.clone()),
                (format!("${name}/"), format!("{value}/")),
            ] {
                // What grows like that is no list of files.
                let growth = text.matches(&from).count().saturating_mul(to.len());
                if text.len().saturating_add(growth) < 2 * BUDGET {
                    text = text.replace(&from, &to);
                }
            }
        }
    }
    text
}

fn is_one_of(word: &str, list: &str) -> bool {
    list.split(' ').any(|one| one == word)
}

/// The name and the value of a word such as `name=value`.
fn shell_assignment(word: &str) -> Option<(&str, &str)> {
    let is_other = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    let (name, value) = word.split_once('=')?;
    (!name.is_empty() && !name.contains(is_other)).then_some((name, value))
}

impl Command {
    /// The known program this command runs, and what follows it.
    fn program(&self) -> Option<(&str, &[String])> {
        let mut start = true;
        for (index, word) in self.words.iter().enumerate() {
            let name = match word.as_str() {
                "$(SOPS)" | "${SOPS}" => "sops",
                _ => word.rsplit('/').next()?,
            };
            if is_one_of(name, KNOWN) {
                return Some((name, self.words.get(index + 1..)?));
            }
            if start && shell_assignment(word).is_none() {
                start = false;
                is_one_of(name, CARRIERS).then_some(())?;
            }
        }
        None
    }

    /// The arguments of a call of `sops` that decrypts or, with the flag, encrypts.
    fn sops(&self, encrypts: bool) -> Option<&[String]> {
        let (name, arguments) = self.program()?;
        let mut wanted = CRYPT.iter().take(if encrypts { 6 } else { 3 });
        let fits = wanted.any(|wanted| arguments.iter().any(|word| word == wanted));
        (name == "sops" && fits).then_some(arguments)
    }
}

/// The value of an option, as `--name value`, `--name=value`, `-n value` or `-nvalue`.
fn option_value(arguments: &[String], names: &[&str]) -> Option<String> {
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let word = word.replacen("-Dm", "-m", 1);
        for name in names {
            match word.strip_prefix(name) {
                Some("") => return rest.next().cloned(),
                Some(value) if value.starts_with('=') => return Some(value.replacen('=', "", 1)),
                Some(value) if !name.starts_with("--") => return Some(value.to_owned()),
                _ => {}
            }
        }
    }
    None
}

/// The value that all agree on; says so when they do not.
fn agreed<T: PartialEq>(found: Vec<(T, usize)>, what: &str, notes: &mut Notes) -> Option<T> {
    let mut found = found.into_iter();
    let (first, _) = found.next()?;
    if let Some((_, line)) = found.find(|(other, _)| *other != first) {
        notes.push(Unread::new(line, what));
        return None;
    }
    Some(first)
}

/// What all recipes do.
#[derive(Default)]
pub(super) struct Recipes {
    commands: Vec<Command>,
    /// The words that may start with the root, with their lines; the flag is for whole folders.
    words: Vec<(bool, String, usize)>,
    /// The variable that stands last before a name of the shell.
    variable: Option<String>,
}

impl Recipes {
    /// Reads the raw lines of a recipe.
    pub(super) fn add(&mut self, lines: &[String], values: &mut Values) {
        let used = values.used.clone();
        let start = self.commands.len();
        let mut decrypts = false;
        for line in lines {
            let text = commands_text(line, values);
            let mut here = commands(&text);
            if here.iter().any(|command| command.sops(false).is_some()) {
                decrypts = true;
                for command in &here {
                    if let Some(("cd", [folder, ..])) = command.program() {
                        self.words.push((true, folder.clone(), command.line));
                    }
                }
            }
            self.commands.append(&mut here);
        }
        if !decrypts {
            values.used = used;
            return;
        }
        for command in self.commands.iter_mut().skip(start) {
            command.decrypts = true;
            for word in &command.words {
                let (_, value) = shell_assignment(word).unwrap_or(("", word));
                self.words.push((false, value.to_owned(), command.line));
            }
        }
        let raw = lines.concat().replace('}', ")");
        let before = raw.rsplit_once(")/$$").map(|(before, _)| before);
        let variable = before.and_then(|before| before.rsplit(['(', '{']).next());
        self.variable = variable.map(str::to_owned).or(self.variable.take());
    }

    /// The root that stands before the changing part of a word, or that a whole word is.
    fn root_of(&self, word: &str, whole: bool) -> Option<Root> {
        let reference = word
            .strip_prefix("$(")
            .and_then(|rest| rest.split_once(')'));
        let (name, rest) = reference.unwrap_or(("", word));
        let end = rest.find(['$', '`']).or(whole.then_some(rest.len()))?;
        let prefix = rest.get(..end)?;
        if prefix.starts_with("/dev/")
            || word.ends_with(".enc")
            || !(whole || prefix.ends_with('/'))
        {
            return None;
        }
        let parts = path_parts(prefix);
        if name.is_empty() && prefix.starts_with('/') && !parts.is_empty() && !parts.contains(&"..")
        {
            return Some(Root::Known(format!("/{}", parts.join("/"))));
        }
        let is_name = !name.is_empty() && name == name.to_uppercase();
        let variable = self.variable.clone().or(is_name.then(|| name.to_owned()));
        variable.is_some().then_some(Root::Unknown { variable })
    }

    /// Finds the root the recipes put before server sides.
    pub(super) fn root(&self, notes: &mut Notes) -> Root {
        let mut found = Vec::new();
        for (whole, word, line) in &self.words {
            if let Some(root) = self.root_of(word, *whole) {
                found.push((*whole, (root, *line)));
                if CUTS.iter().any(|cut| word.contains(cut)) {
                    let what = "takes folders away from names in the list";
                    let what = format!("`{}` {what}, so check the server sides", quote(word));
                    notes.push(Unread::new(*line, what));
                }
            }
        }
        let whole = found.iter().all(|(whole, _)| *whole);
        found.retain(|(other, _)| *other == whole);
        // Files on their way stand there, unless nothing else does.
        let is_temporary =
            |root: &Root| matches!(root, Root::Known(path) if path.starts_with("/tmp"));
        if !found.iter().all(|(_, (root, _))| is_temporary(root)) {
            found.retain(|(_, (root, _))| !is_temporary(root));
        }
        let found = found.into_iter().map(|(_, root)| root).collect();
        let what = "the recipes put different folders before the server sides";
        let root = agreed(found, &format!("{what}, so the root is not known"), notes);
        root.unwrap_or(Root::Unknown { variable: None })
    }

    /// The identity file: set in front of `sops`, or as a variable of make.
    pub(super) fn identity(&self, values: &mut Values, notes: &mut Notes) -> Option<String> {
        let mut given = Vec::new();
        for command in &self.commands {
            for word in &command.words {
                let (name, value) = shell_assignment(word).unwrap_or_default();
                let bare = value.trim_start_matches(['$', '{', '(']);
                if name == KEY_VARIABLE && !bare.starts_with(KEY_VARIABLE) {
                    given.push((value.to_owned(), command.line));
                }
            }
        }
        if given.is_empty() {
            let value = values.value(KEY_VARIABLE).unwrap_or_default();
            given.push((unmarked(&shown(&value)), last_line(&value, 1)));
        }
        let mut paths = Vec::new();
        for (raw, line) in given {
            let mut path = raw.trim().trim_matches(['"', '\'']).to_owned();
            for home in ["$HOME/", "${HOME}/", "$(HOME)/"] {
                if let Some(rest) = path.strip_prefix(home) {
                    path = format!("~/{rest}");
                }
            }
            if path.contains(['$', '`', '\n']) {
                let why = "it is the identity file, and the Makefile alone does not say it";
                notes.push(Unread::unreadable(line, &raw, why));
            } else if !path.is_empty() {
                paths.push((path, line));
            }
        }
        let what = "the recipes name different identity files, so none is used";
        agreed(paths, what, notes)
    }

    /// The owner, the group and the mode that the recipes give to decrypted files.
    pub(super) fn permissions(&self, notes: &mut Notes) -> [Option<String>; 3] {
        let mut found = [const { Vec::new() }; 3];
        for command in self.commands.iter().filter(|command| command.decrypts) {
            for (kind, value) in command.permissions().unwrap_or_default() {
                let checked = if kind == 2 {
                    mode(&value)
                } else {
                    account(&value)
                };
                let value = checked.map_err(|why| notes.push(Unread::new(command.line, why)));
                if let Some(list) = found.get_mut(kind) {
                    list.push((value.ok(), command.line));
                }
            }
        }
        let mut agree = |values, label| {
            let what = format!("the recipes disagree about the {label}, so none is used");
            agreed(values, &what, notes).flatten()
        };
        let [owners, groups, modes] = found;
        [
            agree(owners, "owner"),
            agree(groups, "group"),
            agree(modes, "mode"),
        ]
    }

    /// The input type that all calls of `sops` give.
    pub(super) fn input_type(&self, notes: &mut Notes) -> Option<String> {
        let mut types = Vec::new();
        for command in &self.commands {
            if let Some(arguments) = command.sops(true) {
                let value = option_value(arguments, &["--input-type"]);
                if value.as_ref().is_some_and(|value| value.contains('$')) {
                    let what = "cannot read the input type of this call of sops";
                    notes.push(Unread::new(command.line, what));
                    return None;
                }
                types.push((value, command.line));
            }
        }
        let what = "the calls of sops disagree about the input type, so none is used";
        agreed(types, what, notes).flatten()
    }
}

impl Command {
    /// The owner (0), group (1) and mode (2) this command gives to files that a loop names.
    fn permissions(&self) -> Option<Vec<(usize, String)>> {
        let (name, rest) = self.program()?;
        let has = |option: &str| rest.iter().any(|word| word == option);
        // A file of the loop has a part that the shell fills in; a folder or the key has none.
        let is_file = |word: &String| {
            let parts = ["dirname ", "%/*}", KEY_VARIABLE];
            let other = parts.iter().any(|part| word.contains(part)) || word.ends_with(".enc");
            !other && word.trim_start_matches("$(").contains(['$', '{'])
        };
        let mut operands = rest.iter().filter(|word| !word.starts_with('-'));
        let first = operands.next()?.clone();
        if !(operands.any(is_file) || has("-R")) || has("-d") {
            return None;
        }
        let mut given = match name {
            "chown" => {
                let (owner, group) = first.split_once(':').unwrap_or((&first, ""));
                vec![(0, owner.to_owned()), (1, group.to_owned())]
            }
            "chgrp" => vec![(1, first)],
            "chmod" if !has("-R") => vec![(2, first)],
            "install" => {
                let options = [["--owner", "-o"], ["--group", "-g"], ["--mode", "-m"]];
                let values = options.map(|names| option_value(rest, &names).unwrap_or_default());
                values.into_iter().enumerate().collect()
            }
            _ => return None,
        };
        given.retain(|(_, value)| !value.is_empty());
        Some(given)
    }
}

fn account(name: &str) -> Result<String, String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if name.chars().all(fits) && !name.starts_with('-') {
        return Ok(name.to_owned());
    }
    Err(format!("cannot read the owner `{}`", quote(name)))
}

/// The four digits of an octal mode, or of a symbolic one that sets all three parts.
fn mode(text: &str) -> Result<String, String> {
    let octal = u32::from_str_radix(text, 8).ok();
    let octal = octal.filter(|_| matches!(text.len(), 3 | 4));
    let Some(bits) = octal.or_else(|| symbolic_mode(text)) else {
        return Err(format!("cannot read the mode `{}`", quote(text)));
    };
    if bits & 0o7002 == 0 {
        return Ok(format!("{bits:04o}"));
    }
    let why = "is not safe for a secret, so it is not used";
    Err(format!("the mode `{text}` {why}"))
}

/// The bits of a mode such as `u=rw,g=r,o=`.
fn symbolic_mode(text: &str) -> Option<u32> {
    let mut parts = [None; 3];
    for clause in text.split(',') {
        let (who, what) = clause.split_once('=')?;
        let mut bits = 0;
        for letter in what.chars() {
            bits |= 1 << "xwr".find(letter)?;
        }
        for letter in who.chars() {
            *parts.get_mut("ugo".find(letter)?)? = Some(bits);
        }
    }
    let mut parts = parts.into_iter();
    parts.try_fold(0, |mode, part| Some(mode << 3 | part?))
}
