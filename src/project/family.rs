//! Rows that stand for many files: paths with captures, such as `envs/{app}/.env.{env}.enc`.
//!
//! A capture matches a letter or digit and then letters, digits, `_` and `-`, so that editor backups
//! and temporary files are never taken for members. Nothing here looks at folders: the caller
//! brings the names.

use std::collections::BTreeMap;

/// What the captures of a pattern stand for in one member.
pub type Captures = BTreeMap<String, String>;

/// So much work is put into reading one name.
const MOST_STEPS: u32 = 20_000;

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Capture(String),
}

/// A path with captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    parts: Vec<Part>,
}

/// Returns whether a path is written as a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['{', '}'])
}

impl PathPattern {
    /// Reads a pattern; a path without captures is one that matches itself.
    ///
    /// # Errors
    /// Says in words which brace or name is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            let inside = after
                .strip_prefix('{')
                .ok_or("a `}` closes no capture; captures are written `{name}`")?;
            let (name, after) = inside
                .split_once('}')
                .ok_or("a `{` is not closed; captures are written `{name}`")?;
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name {
                return Err(
                    "the name of a capture is letters, digits and `_`, a letter first: `{app}`",
                );
            }
            parts.push(Part::Capture(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the names of its captures, in order, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for part in &self.parts {
            if let Part::Capture(name) = part
                && !names.contains(&name.as_str())
            {
                names.push(name.as_str());
            }
        }
        names
    }

    /// Returns every way to read `path` as a member: none, one, or several where captures stand so
    /// close that their border could be in more than one place.
    pub fn readings(&self, path: &str) -> Vec<Captures> {
        let mut found = Vec::new();
        let mut steps = MOST_STEPS;
        read(
            &self.parts,
            path,
            &mut Captures::new(),
            &mut found,
            &mut steps,
        );
        found
    }

    /// Returns the member for these captures; a capture without value stays as written.
    pub fn fill(&self, captures: &Captures) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.clone(),
                Part::Capture(name) => captures
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| format!("{{{name}}}")),
            })
            .collect()
    }

    /// Returns the patterns of its folders and of its file name, in order.
    pub fn segments(&self) -> Vec<Self> {
        self.text
            .split('/')
            .filter_map(|segment| Self::parse(segment).ok())
            .collect()
    }

    /// Returns the name that a pattern without captures stands for.
    pub fn literal(&self) -> Option<&str> {
        (!is_pattern(&self.text)).then_some(&self.text)
    }
}

fn read(
    parts: &[Part],
    rest: &str,
    captures: &mut Captures,
    found: &mut Vec<Captures>,
    steps: &mut u32,
) {
    // A name made to be read in very many ways is no member.
    *steps = steps.saturating_sub(1);
    if *steps == 0 {
        return;
    }
    let Some((part, after)) = parts.split_first() else {
        if rest.is_empty() && !found.contains(captures) {
            found.push(captures.clone());
        }
        return;
    };
    match part {
        Part::Literal(text) => {
            if let Some(rest) = rest.strip_prefix(text.as_str()) {
                read(after, rest, captures, found, steps);
            }
        }
        Part::Capture(name) => {
            if let Some(value) = captures.get(name).cloned() {
                if let Some(rest) = rest.strip_prefix(value.as_str()) {
                    read(after, rest, captures, found, steps);
                }
                return;
            }
            for length in 1..=capture_length(rest) {
                let (value, rest) = rest.split_at(length);
                captures.insert(name.clone(), value.to_owned());
                read(after, rest, captures, found, steps);
                captures.remove(name);
                // More than two say nothing new, and a hostile name could have very many.
                if found.len() > 1 {
                    return;
                }
            }
        }
    }
}

/// Returns how many bytes at the start of `text` a capture can match at most.
fn capture_length(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return 0;
    }
    text.bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(pattern: &str, path: &str) -> Vec<String> {
        let pattern = PathPattern::parse(pattern).unwrap();
        let shown = |captures: &Captures| {
            let pairs: Vec<_> = captures.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(",")
        };
        pattern.readings(path).iter().map(shown).collect()
    }

    #[test]
    fn members_are_read_and_filled_back() {
        let pattern = "envs/{app}/.env.{env}.enc";
        assert_eq!(
            readings(pattern, "envs/billing/.env.prod.enc"),
            ["app=billing,env=prod"]
        );
        for other in [
            "envs/a/b/.env.prod.enc",
            "envs/.a/.env.prod.enc",
            "envs/a/.env.prod.enc~",
            "envs/a/.env..swp.enc",
            "envs/a/.env.prod.bak.enc",
            "envs/a/.env.#x.enc",
            "envs//.env.x.enc",
        ] {
            assert!(readings(pattern, other).is_empty(), "{other}");
        }
        let pattern = PathPattern::parse(pattern).unwrap();
        let captures = &pattern.readings("envs/a-b/.env.x_1.enc")[0];
        assert_eq!(pattern.fill(captures), "envs/a-b/.env.x_1.enc");
        assert_eq!(pattern.names(), ["app", "env"]);
    }

    #[test]
    fn a_name_that_stands_twice_means_the_same() {
        assert_eq!(readings("{a}/{a}.enc", "x/x.enc"), ["a=x"]);
        assert!(readings("{a}/{a}.enc", "x/y.enc").is_empty());
    }

    #[test]
    fn a_border_that_could_be_elsewhere_gives_several_readings() {
        assert_eq!(readings("{a}-{b}.enc", "x-y.enc").len(), 1);
        assert_eq!(readings("{a}-{b}.enc", "x-y-z.enc").len(), 2);
        assert!(readings("{a}{b}{c}.enc", &"x".repeat(200)).len() <= 2);
        let hostile = "a-".repeat(100) + "a.encx";
        assert!(readings("{a}-{b}-{c}-{d}-{e}-{f}.enc", &hostile).is_empty());
    }

    #[test]
    fn braces_are_checked() {
        for wrong in ["{", "a}", "{a", "{}", "{1a}", "{a-b}", "a{b{c}}"] {
            assert!(PathPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
