//! Which side of an entry moved: server, repository and the record of the last sync, compared.
//!
//! The one place where the table of verdicts stands. Differences of layout only count as any other
//! difference, but never as a second mover: they make no conflict.

use super::key_drift::KeyDrift;

/// How two contents compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Other values.
    Different,
    /// The same values in another layout.
    Layout,
    /// The same bytes.
    Same,
}

/// What was seen of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whether the server has the file.
    pub on_server: bool,
    /// Whether the repository has the file.
    pub in_repository: bool,
    /// How the two compare, where both are there.
    pub sides: Likeness,
    /// How server and repository compare with the record, where there is one.
    pub since_record: Option<(Likeness, Likeness)>,
    /// Whether the repository had the file: by the record, or in `HEAD`.
    pub was_in_repository: bool,
    /// Whether `restore` put the server's file there on purpose.
    pub is_pinned: bool,
    /// Whether the server's content is an older version of the repository's file: one committed at
    /// or after the record's commit, or without record any.
    pub server_is_old_version: bool,
}

/// Which side moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both, to different contents.
    BothMoved,
    /// The repository had the file and has it no more.
    DeletedInRepository,
    /// Nothing.
    InSync,
    /// Neither side has the file.
    NeitherSide,
    /// Only the server has the file, and the repository never had it.
    NotEncryptedYet,
    /// Only the repository has the file.
    MissingOnServer,
    /// Neither is to follow the other: `restore` put an older version on the server.
    Pinned,
    /// The repository; the server is merely behind.
    RepositoryAhead,
    /// The repository, backwards: this checkout is older than what the server has.
    RepositoryBehind,
    /// The server.
    ServerAhead,
    /// They differ, and nothing tells which side is newer.
    Unknown,
}

impl Verdict {
    /// Returns the stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::BothMoved => "both-moved",
            Self::DeletedInRepository => "deleted-in-repo",
            Self::InSync => "in-sync",
            Self::NeitherSide => "on-neither-side",
            Self::NotEncryptedYet => "not-encrypted-yet",
            Self::MissingOnServer => "missing-on-server",
            Self::Pinned => "pinned",
            Self::RepositoryAhead => "repo-ahead",
            Self::RepositoryBehind => "repo-behind",
            Self::ServerAhead => "server-ahead",
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether the two sides have different contents.
    pub fn differs(self) -> bool {
        matches!(
            self,
            Self::BothMoved
                | Self::Pinned
                | Self::RepositoryAhead
                | Self::RepositoryBehind
                | Self::ServerAhead
                | Self::Unknown
        )
    }
}

/// Says which side moved.
pub fn judge(seen: &Observed) -> Verdict {
    match (seen.on_server, seen.in_repository) {
        (_, false) if seen.was_in_repository => return Verdict::DeletedInRepository,
        (false, false) => return Verdict::NeitherSide,
        (false, true) => return Verdict::MissingOnServer,
        (true, false) => return Verdict::NotEncryptedYet,
        (true, true) => {}
    }
    if seen.sides == Likeness::Same {
        return Verdict::InSync;
    }
    if seen.is_pinned {
        return Verdict::Pinned;
    }
    let is_moved = !matches!(seen.since_record, Some((_, Likeness::Same)));
    if seen.server_is_old_version && is_moved {
        return Verdict::RepositoryAhead;
    }
    let Some((server, repository)) = seen.since_record else {
        return Verdict::Unknown;
    };
    match (server, repository) {
        (Likeness::Different, Likeness::Different) => Verdict::BothMoved,
        (_, Likeness::Different) | (Likeness::Same, Likeness::Layout) => Verdict::RepositoryAhead,
        (Likeness::Different | Likeness::Layout, _) => Verdict::ServerAhead,
        // Both as recorded, yet different from each other: the record is of no use.
        (Likeness::Same, Likeness::Same) => Verdict::Unknown,
    }
}

/// A version of the repository's file that the server still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldVersion {
    /// The commit that made it, in full.
    pub id: String,
    /// The same, shortened.
    pub commit: String,
    /// When it was committed: a date, RFC 3339 or shorter.
    pub date: String,
    /// Who wrote it.
    pub author: String,
    /// Whether it has the server's bytes, not only its values.
    pub is_exact: bool,
}

impl OldVersion {
    /// Returns it in words: `commit 1a2b3c4d (2026-11-20, Jane)`.
    pub fn in_words(&self) -> String {
        format!("commit {} ({}, {})", self.commit, self.date, self.author)
    }
}

/// Why the repository's file counts as older than what was last applied on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The commit of the last sync, shortened.
    pub commit: String,
    /// Whether the commit is known here, and `HEAD` is one of its ancestors; else this clone has
    /// neither it nor what was synced then.
    pub is_ancestor: bool,
}

impl Rollback {
    /// Returns it in words.
    pub fn in_words(&self) -> String {
        let commit = &self.commit;
        if self.is_ancestor {
            format!("this checkout is older than commit {commit} of the last sync")
        } else {
            format!("this checkout does not have commit {commit} of the last sync")
        }
    }
}

/// What was found out about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Which side moved.
    pub verdict: Verdict,
    /// Which side changed each key that differs; for a file without keys one for its content.
    pub keys: Vec<KeyDrift>,
    /// The version the server has, where it is merely behind.
    pub behind: Option<OldVersion>,
    /// What kept it from being told better, in words: a history that is cut, records that cannot be
    /// read.
    pub note: Option<String>,
    /// What is to be said when the repository's file is placed, in words.
    pub warning: Option<String>,
    /// When both sides last agreed, by the record.
    pub last_sync: Option<String>,
    /// The commit `HEAD` was at then, in full.
    pub last_commit: Option<String>,
    /// The commit of the version that `restore` put on the server, in full.
    pub pinned: Option<String>,
    /// The repository's file is older than what was last applied here.
    pub rollback: Option<Rollback>,
    /// The server has the very bytes of the last sync.
    pub is_server_recorded: bool,
    /// The server did not move: it has what was captured last, and the repository went back to what
    /// was committed before.
    pub is_taken_back: bool,
}

impl Drift {
    /// Returns whether the note explains the verdict.
    pub fn tells_note(&self) -> bool {
        self.verdict == Verdict::Unknown || self.is_taken_back
    }

    /// Says in words what is special about it: a pinned version, an older checkout, the version the
    /// server has, or why nothing could be told.
    pub fn remarks(&self) -> Vec<String> {
        let behind = self.behind.iter();
        let mut remarks: Vec<String> = behind
            .map(|version| format!("the server has {}", version.in_words()))
            .collect();
        remarks.extend(self.rollback.iter().map(Rollback::in_words));
        if let (Verdict::Pinned, Some(commit)) = (self.verdict, &self.pinned) {
            remarks.push(format!("restored from commit {}", short(commit)));
        }
        remarks.extend(self.note.iter().filter(|_| self.tells_note()).cloned());
        remarks
    }

    /// Returns a drift that needs no more words.
    pub fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            keys: Vec::new(),
            behind: None,
            note: None,
            warning: None,
            last_sync: None,
            last_commit: None,
            pinned: None,
            rollback: None,
            is_server_recorded: false,
            is_taken_back: false,
        }
    }
}

/// Shortens a commit for people: ten digits.
pub fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Likeness::{Different, Layout, Same};

    fn both(sides: Likeness, since_record: Option<(Likeness, Likeness)>, old: bool) -> Verdict {
        judge(&Observed {
            on_server: true,
            in_repository: true,
            sides,
            since_record,
            was_in_repository: true,
            is_pinned: false,
            server_is_old_version: old,
        })
    }

    #[test]
    fn the_table_of_verdicts() {
        for (sides, record, old, expected) in [
            (Same, Some((Same, Same)), false, Verdict::InSync),
            (Same, Some((Different, Different)), false, Verdict::InSync),
            (Same, None, false, Verdict::InSync),
            (
                Different,
                Some((Different, Same)),
                false,
                Verdict::ServerAhead,
            ),
            (
                Different,
                Some((Same, Different)),
                false,
                Verdict::RepositoryAhead,
            ),
            (
                Different,
                Some((Different, Different)),
                false,
                Verdict::BothMoved,
            ),
            (
                Different,
                Some((Different, Same)),
                true,
                Verdict::ServerAhead,
            ),
            (
                Different,
                Some((Different, Different)),
                true,
                Verdict::RepositoryAhead,
            ),
            (Different, None, false, Verdict::Unknown),
            (Different, None, true, Verdict::RepositoryAhead),
            (Layout, None, false, Verdict::Unknown),
            (
                Layout,
                Some((Same, Layout)),
                false,
                Verdict::RepositoryAhead,
            ),
            (Layout, Some((Layout, Same)), false, Verdict::ServerAhead),
            (Layout, Some((Layout, Layout)), false, Verdict::ServerAhead),
            (
                Different,
                Some((Layout, Different)),
                false,
                Verdict::RepositoryAhead,
            ),
            (
                Different,
                Some((Different, Layout)),
                false,
                Verdict::ServerAhead,
            ),
        ] {
            assert_eq!(
                both(sides, record, old),
                expected,
                "{sides:?} {record:?} {old}"
            );
        }
    }

    #[test]
    fn a_missing_side_has_its_own_verdict() {
        for (on_server, in_repository, was, expected) in [
            (false, true, true, Verdict::MissingOnServer),
            (true, false, false, Verdict::NotEncryptedYet),
            (true, false, true, Verdict::DeletedInRepository),
            (false, false, true, Verdict::DeletedInRepository),
            (false, false, false, Verdict::NeitherSide),
        ] {
            let seen = Observed {
                on_server,
                in_repository,
                sides: Different,
                since_record: None,
                was_in_repository: was,
                is_pinned: false,
                server_is_old_version: false,
            };
            assert_eq!(judge(&seen), expected);
        }
    }
}
