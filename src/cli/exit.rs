//! Exit codes: the only place with numbers.

use std::process::ExitCode;

use crate::commands::Outcome;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 1: the answer is no (something differs).
    Differs,
    /// 0: done, or nothing differs.
    Done,
    /// 3: refused by a guard.
    Refused,
    /// 128 and the number of the signal that ended the run: 129, 130, 143.
    Signal(i32),
    /// As the reference program ends on its own command line.
    Stock(u8),
    /// 2: could not be done, or could not be told.
    Trouble,
}

impl Exit {
    /// Returns the exit of an outcome: trouble before refusal before difference.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome {
                signal: Some(signal),
                ..
            } => Self::Signal(signal),
            Outcome { trouble: true, .. } => Self::Trouble,
            Outcome { refused: true, .. } => Self::Refused,
            Outcome { differs: true, .. } => Self::Differs,
            _ => Self::Done,
        }
    }

    /// Returns the number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Differs => 1,
            Self::Trouble => 2,
            Self::Refused => 3,
            Self::Stock(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
