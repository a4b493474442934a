//! The flags of the reference program, read as it reads them.
//!
//! `-x` and `--x` are the same, values stand behind `=` or in the next argument, truth values behind `=`
//! only. Flags of a subcommand may stand behind its arguments (`urfave/cli` v1 moves them forward), those
//! of the program itself may not. A variable is the value of a flag that is not given.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::os::Env;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// As `Switch`, but on unless it is turned off.
    SwitchOff,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A text, and again.
    List,
}

/// A flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Its names, the long one first.
    pub names: &'static [&'static str],
    /// What it takes.
    pub kind: Kind,
    /// The variable it is read from where it is not given.
    pub variable: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

impl Flag {
    const fn new(names: &'static [&'static str], kind: Kind, help: &'static str) -> Self {
        Self {
            names,
            kind,
            variable: None,
            help,
        }
    }

    /// Returns a flag that takes nothing.
    pub(super) const fn switch(names: &'static [&'static str], help: &'static str) -> Self {
        Self::new(names, Kind::Switch, help)
    }

    /// Returns a flag that takes a text.
    pub(super) const fn text(names: &'static [&'static str], help: &'static str) -> Self {
        Self::new(names, Kind::Text, help)
    }

    /// Returns a flag that takes a text, and again.
    pub(super) const fn list(names: &'static [&'static str], help: &'static str) -> Self {
        Self::new(names, Kind::List, help)
    }

    /// Returns a flag that takes a number.
    pub(super) const fn number(names: &'static [&'static str], help: &'static str) -> Self {
        Self::new(names, Kind::Number, help)
    }

    /// Reads the flag from a variable where it is not given.
    pub(super) const fn or(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    /// Makes a switch that is on unless it is turned off.
    pub(super) const fn on(mut self) -> Self {
        self.kind = Kind::SwitchOff;
        self
    }

    fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch | Kind::SwitchOff)
    }
}

/// What was read from a command line.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsed {
    values: BTreeMap<&'static str, Vec<OsString>>,
    given: Vec<&'static str>,
    /// The arguments that are no flags.
    pub args: Vec<OsString>,
}

impl Parsed {
    /// Returns a text; empty where there is none.
    pub(super) fn text(&self, name: &str) -> String {
        self.os_text(name).to_string_lossy().into_owned()
    }

    /// Returns a text that may be a path; empty where there is none.
    pub(super) fn os_text(&self, name: &str) -> &OsStr {
        let values = self.values.get(name);
        values
            .and_then(|values| values.last())
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Returns whether a text was given that is not empty.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.os_text(name).is_empty()
    }

    /// Returns all texts of a flag that may be given again.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.get(name).into_iter().flatten();
        values
            .map(|value| value.to_string_lossy().into_owned())
            .collect()
    }

    /// Returns whether a switch is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        truth(self.os_text(name)) == Some(true)
    }

    /// Returns a number; 0 where there is none.
    pub(super) fn number(&self, name: &str) -> i64 {
        number(self.os_text(name)).unwrap_or(0)
    }

    /// Returns whether a flag stands on the command line.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains(&name)
    }
}

/// Reads a truth value as Go does.
fn truth(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a number as Go does, with its prefixes for other bases.
fn number(text: &OsStr) -> Option<i64> {
    let text = text.to_str()?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, &lower[..])
    };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// Reads the arguments of a subcommand: flags anywhere.
///
/// # Errors
/// What is wrong with a flag, in the reference's words.
pub(super) fn parse_reordered(
    flags: &[Flag],
    args: &[OsString],
    env: &Env,
) -> Result<Parsed, String> {
    let mut moved = Vec::new();
    let mut rest = Vec::new();
    let mut takes_value = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let is_flag = is_flag(flags, arg);
        if takes_value && !is_flag {
            takes_value = false;
            moved.push(arg.clone());
        } else if arg == "--" {
            rest.insert(0, arg.clone());
            rest.extend(args.cloned());
            break;
        } else if is_flag {
            takes_value = !arg.to_string_lossy().contains('=');
            moved.push(arg.clone());
        } else {
            rest.push(arg.clone());
        }
    }
    moved.extend(rest);
    parse(flags, &moved, env)
}

fn is_flag(flags: &[Flag], arg: &OsStr) -> bool {
    let text = arg.to_string_lossy();
    if text == "-" || text == "--" {
        return false;
    }
    let Some(name) = text.strip_prefix('-') else {
        return false;
    };
    // Up to three dashes are taken off, as the reference happens to do.
    let name = name.strip_prefix('-').unwrap_or(name);
    let name = name.strip_prefix('-').unwrap_or(name);
    let name = name.split('=').next().unwrap_or_default();
    flags.iter().any(|flag| flag.names.contains(&name))
}

/// Reads arguments: flags up to the first argument that is none.
///
/// # Errors
/// What is wrong with a flag, in the reference's words.
pub(super) fn parse(flags: &[Flag], args: &[OsString], env: &Env) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    for flag in flags {
        let Some(value) = flag
            .variable
            .and_then(|name| env.vars.get(OsStr::new(name)))
        else {
            if flag.kind == Kind::SwitchOff {
                parsed.values.insert(flag.names[0], vec!["true".into()]);
            }
            continue;
        };
        let name = flag.names.join(", ");
        let text = value.to_string_lossy();
        let values = match flag.kind {
            Kind::Switch | Kind::SwitchOff if value.is_empty() => vec!["false".into()],
            Kind::Switch | Kind::SwitchOff if truth(value).is_none() => {
                return Err(format!(
                    "could not parse {text} as bool value for flag {name}"
                ));
            }
            Kind::Number if number(value).is_none() => {
                return Err(format!(
                    "could not parse {text} as int value for flag {name}"
                ));
            }
            Kind::List => text.split(',').map(|one| one.trim().into()).collect(),
            _ => vec![value.clone()],
        };
        parsed.values.insert(flag.names[0], values);
    }
    let mut used: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let text = arg.to_string_lossy();
        if text.len() < 2 || !text.starts_with('-') {
            break;
        }
        at += 1;
        if text == "--" {
            break;
        }
        let name = text.strip_prefix("--").unwrap_or(&text[1..]);
        if name.is_empty() || name.starts_with('-') || name.starts_with('=') {
            return Err(format!("bad flag syntax: {text}"));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (name, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.names.contains(&name)) else {
            let name = super::harmless(name);
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (value, flag.is_switch()) {
            (Some(value), true) if truth(&value).is_none() => {
                return Err(format!(
                    "invalid boolean value {:?} for -{name}: parse error",
                    value.to_string_lossy()
                ));
            }
            (Some(value), _) => value,
            (None, true) => "true".into(),
            (None, false) => {
                let value = args
                    .get(at)
                    .ok_or_else(|| format!("flag needs an argument: -{name}"))?;
                at += 1;
                value.clone()
            }
        };
        if flag.kind == Kind::Number && number(&value).is_none() {
            let text = value.to_string_lossy();
            let digits = text.trim_start_matches(['+', '-']);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let reason = if is_number {
                "value out of range"
            } else {
                "parse error"
            };
            return Err(format!("invalid value {text:?} for flag -{name}: {reason}"));
        }
        if let Some(other) = used.insert(flag.names[0], name.to_owned())
            && other != name
        {
            return Err(format!(
                "Cannot use two forms of the same flag: {other} {name}"
            ));
        }
        let is_first = !parsed.given.contains(&flag.names[0]);
        parsed.given.push(flag.names[0]);
        let values = parsed.values.entry(flag.names[0]).or_default();
        // Those of the variable stay where a list is given too.
        if flag.kind != Kind::List || (is_first && flag.variable.is_none()) {
            values.clear();
        }
        values.push(value);
    }
    parsed.args = args[at..].to_vec();
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [Flag; 4] = [
        Flag::switch(&["in-place", "i"], ""),
        Flag::text(&["output"], ""),
        Flag::number(&["indent"], ""),
        Flag::list(&["age"], ""),
    ];

    fn env() -> Env {
        let mut env = Env::of_process().unwrap();
        env.vars.clear();
        env
    }

    fn read(args: &[&str]) -> Result<Parsed, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        parse_reordered(&FLAGS, &args, &env())
    }

    #[test]
    fn flags_stand_before_and_behind_arguments() {
        for args in [
            &["-i", "--output", "o", "f"][..],
            &["f", "--in-place", "-output=o"],
            &["--output", "o", "f", "-i=true"],
        ] {
            let parsed = read(args).unwrap();
            assert!(parsed.is_on("in-place"), "{args:?}");
            assert_eq!(parsed.text("output"), "o");
            assert_eq!(parsed.args, ["f"]);
        }
        // A switch before an argument takes it for its value when flags are moved.
        let parsed = read(&["-i", "f", "--output", "o"]).unwrap();
        assert_eq!(parsed.args, ["f", "--output", "o"]);
        let parsed = read(&["--age", "a", "f", "--age", "b"]).unwrap();
        assert_eq!(parsed.list("age"), ["a", "b"]);
        assert_eq!(read(&["--", "-i"]).unwrap().args, ["-i"]);
        assert_eq!(read(&["--indent", "0x10"]).unwrap().number("indent"), 16);
    }

    #[test]
    fn wrong_flags_are_errors() {
        for (args, error) in [
            (&["-x"][..], "flag provided but not defined: -x"),
            (&["--output"], "flag needs an argument: -output"),
            (
                &["--indent", "x"],
                "invalid value \"x\" for flag -indent: parse error",
            ),
            (
                &["-i", "--in-place"],
                "Cannot use two forms of the same flag: i in-place",
            ),
            (&["---output"], "bad flag syntax: ---output"),
        ] {
            assert_eq!(read(args).unwrap_err(), error);
        }
    }
}
