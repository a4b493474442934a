//! Questions with a few answers.

use std::io;

use crate::os::terminal::Ask;

use super::style::harmless;

/// One of the answers to a question.
pub struct Choice {
    letter: char,
    word: &'static str,
    meaning: &'static str,
}

impl Choice {
    /// Returns an answer that is typed as its letter or its word.
    pub fn new(letter: char, word: &'static str, meaning: &'static str) -> Self {
        Self {
            letter,
            word,
            meaning,
        }
    }
}

/// Asks until one of the answers is typed, and returns its letter; `None` at the end of input.
///
/// # Errors
/// When the terminal cannot be read or written.
pub fn choose(asker: &dyn Ask, question: &str, choices: &[Choice]) -> io::Result<Option<char>> {
    let mut words = String::new();
    for choice in choices {
        words.push_str(&format!(
            "  {}: {} ({})\n",
            choice.letter, choice.word, choice.meaning
        ));
    }
    let letters: Vec<String> = choices
        .iter()
        .map(|choice| choice.letter.to_string())
        .collect();
    let letters = letters.join("/");
    let mut text = format!("{}\n{words}[{letters}] ", harmless(question));
    loop {
        let Some(answer) = asker.line(&text)? else {
            return Ok(None);
        };
        let answer = answer.trim().to_lowercase();
        let chosen = choices
            .iter()
            .find(|choice| answer == choice.letter.to_string() || answer == choice.word);
        if let Some(choice) = chosen {
            return Ok(Some(choice.letter));
        }
        text = format!("Please type one of {letters}: ");
    }
}
