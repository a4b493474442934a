//! Asking the person at the terminal.
//!
//! Only where there is one: a run in a pipe, from cron or in CI fails at once instead of waiting for
//! an answer that nobody will give.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::secret::SecretBytes;

use super::signal::{self, Watch};

/// Returns whether a terminal would act on a character, or turn or hide what stands around it.
pub fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

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

    /// Asks for something that is not shown, and may be of several lines that come at once.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    fn pasted(&self, question: &str) -> io::Result<SecretBytes> {
        self.hidden(question)
    }

    /// Says something that is no question, such as "touch your key now".
    fn say(&self, text: &str);
}

/// Keeps a terminal from showing what is typed, until it is dropped.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Silence<'t> {
    fn over(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Now, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // What is typed behind it is not for whoever reads next.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// The terminal of this process. One question at a time, whichever thread asks.
#[derive(Debug, Default)]
pub struct Terminal {
    one_at_a_time: Mutex<()>,
}

impl Ask for Terminal {
    fn line(&self, question: &str) -> io::Result<Option<String>> {
        let _guard = self.wait();
        let terminal = open_terminal()?;
        (&terminal).write_all(question.as_bytes())?;
        let mut answer = String::new();
        let read = BufReader::new(&terminal).read_line(&mut answer)?;
        Ok((read > 0).then_some(answer))
    }

    fn hidden(&self, question: &str) -> io::Result<SecretBytes> {
        let text = self.unseen(question, false)?;
        let line = text.expose().split(|&byte| byte == b'\n').next();
        let line = line.unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(SecretBytes::copy_of(line))
    }

    fn pasted(&self, question: &str) -> io::Result<SecretBytes> {
        self.unseen(question, true)
    }

    fn say(&self, text: &str) {
        drop(writeln!(io::stderr(), "{text}"));
    }
}

fn open_terminal() -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).open("/dev/tty")
}

impl Terminal {
    /// Waits for the questions of other threads.
    fn wait(&self) -> MutexGuard<'_, ()> {
        let guard = self.one_at_a_time.lock();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a line without showing it, or with `reads_on` all lines that come at once. What comes
    /// behind it is thrown away: it is not for whoever reads next.
    fn unseen(&self, question: &str, reads_on: bool) -> io::Result<SecretBytes> {
        /// The lines of a paste come without a pause.
        const PAUSE: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        let _guard = self.wait();
        let terminal = open_terminal()?;
        let watch = Watch::start();
        let silence = Silence::over(&terminal)?;
        (&terminal).write_all(question.as_bytes())?;
        let mut text = SecretBytes::new(Vec::with_capacity(64 << 10));
        let mut chunk = Zeroizing::new([0; 4096]);
        loop {
            let mut waiting = [PollFd::new(&terminal, PollFlags::IN)];
            let is_ready = matches!(poll(&mut waiting, Some(&PAUSE)), Ok(1..));
            if let Some(signal) = watch.received() {
                // The terminal first: it would stay silent.
                drop(silence);
                drop(watch);
                signal::die_of(signal);
                return Err(io::ErrorKind::Interrupted.into());
            }
            if !is_ready && text.expose().contains(&b'\n') {
                break;
            }
            if !is_ready {
                continue;
            }
            let read = (&terminal).read(&mut *chunk)?;
            text.expose_mut().extend_from_slice(&chunk[..read]);
            if read == 0 && text.expose().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if read == 0 || !reads_on {
                break;
            }
        }
        drop(silence);
        (&terminal).write_all(b"\n")?;
        Ok(text)
    }
}
