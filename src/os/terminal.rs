//! Asking the person at the terminal.
//!
//! Only where there is one: a run in a pipe, from cron or in CI fails at once instead of waiting for
//! an answer that nobody will give.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::{Mutex, PoisonError};

use crate::secret::SecretBytes;

/// Somebody who answers questions.
pub trait Ask: Send + Sync {
    /// Asks for a line; `None` at the end of input.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    fn line(&self, question: &str) -> io::Result<Option<String>>;

    /// Asks for something that is not shown while it is typed.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    fn hidden(&self, question: &str) -> io::Result<SecretBytes>;

    /// Says something that is no question, such as "touch your key now".
    fn say(&self, text: &str);
}

/// The terminal of this process. One question at a time, whichever thread asks.
#[derive(Debug, Default)]
pub struct Terminal {
    one_at_a_time: Mutex<()>,
}

impl Ask for Terminal {
    fn line(&self, question: &str) -> io::Result<Option<String>> {
        let _guard = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let terminal = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")?;
        (&terminal).write_all(question.as_bytes())?;
        let mut answer = String::new();
        let read = BufReader::new(&terminal).read_line(&mut answer)?;
        Ok((read > 0).then_some(answer))
    }

    fn hidden(&self, question: &str) -> io::Result<SecretBytes> {
        let _guard = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let answer = rpassword::prompt_password(question)?;
        Ok(SecretBytes::new(answer.into_bytes()))
    }

    fn say(&self, text: &str) {
        drop(writeln!(io::stderr(), "{text}"));
    }
}
