//! Colours by role, and text made harmless for a terminal.

use crate::os::terminal::is_harmful;

/// What a coloured text is for; the colour never says it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only on the server.
    Added,
    /// Both, different.
    Changed,
    /// Something failed.
    Error,
    /// What to do.
    Help,
    /// A file's name.
    Name,
    /// Only in the repository.
    Removed,
    /// Something to look at.
    Warning,
}

/// Returns `text` in the colour of its role, or as it is without colour.
pub fn paint(text: &str, role: Role, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let code = match role {
        Role::Added => "32",
        Role::Changed | Role::Warning => "33",
        Role::Error => "1;31",
        Role::Help => "36",
        Role::Name => "1",
        Role::Removed => "31",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Replaces control characters, and characters that turn the direction of text, by escapes.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns a JSON text, and a line end, with what a terminal would act on escaped: a text of JSON itself
/// escapes less.
pub fn harmless_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && is_harmful(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\u{a}");
        assert_eq!(harmless("ü \u{202e}x"), "ü \\u{202e}x");
    }
}
