//! What the repository declares, what is there, and what should change. Pure: values in, values
//! out, nothing here touches anything outside memory.

pub mod check;
pub mod diff;
pub mod drift;
pub mod edit;
pub mod error;
pub mod family;
pub mod fold;
pub mod guard;
pub mod key_drift;
pub mod keys;
pub mod lines;
pub mod makefile;
pub mod manifest;
pub mod mask;
pub mod merge;
pub mod pem;
pub mod placement;
pub mod plan;
pub mod reader;
pub mod record;
pub mod terms;

/// Returns the candidate that is spelled most like `word`, if one is close enough to be meant.
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = word.chars().count().div_ceil(3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns how many insertions, removals and replacements turn one word into the other.
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_found_or_none() {
        assert_eq!(closest("onwer", ["owner", "group", "mode"]), Some("owner"));
        assert_eq!(closest("identitiy", ["root", "identity"]), Some("identity"));
        assert_eq!(closest("frobnicate", ["owner", "group"]), None);
    }
}
