//! Metadata as flat keys, for the formats without nesting.
//!
//! A mapping step is spelled `__map_<key>`, a list step `__list_<index>`; the first step has no
//! mark (SOPS `stores/flatten.go`). Values are strings; the store escapes them.

use super::super::metadata::{MetadataError, Node};

const MAP_MARK: &str = "__map_";
const LIST_MARK: &str = "__list_";
/// Bounds on what a hostile file can make this program do.
const MOST_PAIRS: usize = 8192;
const DEEPEST: usize = 64;

/// Flattens a mapping into pairs of flat key and scalar text, in order. Empty containers and
/// nulls vanish.
pub(super) fn flatten(node: &Node) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if let Node::Map(children) = node {
        for (key, child) in children {
            flatten_into(child, key.clone(), &mut pairs);
        }
    }
    pairs
}

fn flatten_into(node: &Node, key: String, pairs: &mut Vec<(String, String)>) {
    match node {
        Node::Null => {}
        Node::Bool(flag) => pairs.push((key, flag.to_string())),
        Node::Number(number) => pairs.push((key, number.to_string())),
        Node::Text(text) => pairs.push((key, text.clone())),
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten_into(item, format!("{key}{LIST_MARK}{index}"), pairs);
            }
        }
        Node::Map(children) => {
            for (name, child) in children {
                flatten_into(child, format!("{key}{MAP_MARK}{name}"), pairs);
            }
        }
    }
}

/// Rebuilds the mapping from flat keys.
///
/// # Errors
/// `Flattened` for a duplicate, a key that is both scalar and container, or both map and list,
/// and for list indices that are not 0 to n-1.
pub(super) fn unflatten(pairs: Vec<(String, String)>) -> Result<Node, MetadataError> {
    let mut root = Building::Map(Vec::new());
    let too_much = |key: &str, reason| MetadataError::Flattened {
        key: key.chars().take(40).collect(),
        reason,
    };
    if pairs.len() > MOST_PAIRS {
        return Err(too_much("sops", "holds more entries than any real file"));
    }
    for (key, text) in pairs {
        let steps = split_steps(&key);
        if steps.len() > DEEPEST {
            return Err(too_much(&key, "is nested deeper than any real file"));
        }
        root.insert(&steps, text)
            .map_err(|reason| MetadataError::Flattened {
                key: key.clone(),
                reason,
            })?;
    }
    root.finish().map_err(|reason| MetadataError::Flattened {
        key: "sops".to_owned(),
        reason,
    })
}

enum Step {
    Index(usize),
    Key(String),
}

/// Splits at the marks, left to right.
fn split_steps(key: &str) -> Vec<Step> {
    let next_mark = |text: &str| match (text.find(MAP_MARK), text.find(LIST_MARK)) {
        (Some(map), Some(list)) => Some(map.min(list)),
        (map, list) => map.or(list),
    };
    let mut end = next_mark(key).unwrap_or(key.len());
    let mut steps = vec![Step::Key(key[..end].to_owned())];
    while end < key.len() {
        let is_list = key[end..].starts_with(LIST_MARK);
        let start = end
            + if is_list {
                LIST_MARK.len()
            } else {
                MAP_MARK.len()
            };
        end = next_mark(&key[start..]).map_or(key.len(), |offset| start + offset);
        let name = &key[start..end];
        steps.push(if is_list {
            Step::Index(name.parse().unwrap_or(0))
        } else {
            Step::Key(name.to_owned())
        });
    }
    steps
}

/// A node under construction; list items arrive in any order.
enum Building {
    List(Vec<(usize, Self)>),
    Map(Vec<(String, Self)>),
    Text(String),
}

impl Building {
    fn insert(&mut self, steps: &[Step], text: String) -> Result<(), &'static str> {
        let Some((step, rest)) = steps.split_first() else {
            return Err("stands twice");
        };
        let new_child = || match rest.first() {
            None => Self::Text(text.clone()),
            Some(Step::Index(_)) => Self::List(Vec::new()),
            Some(Step::Key(_)) => Self::Map(Vec::new()),
        };
        let (child, is_new) = match (self, step) {
            (Self::Map(children), Step::Key(key)) => child_of(children, key, new_child),
            (Self::List(items), Step::Index(index)) => child_of(items, index, new_child),
            _ => return Err("is both a value and a container, or both a map and a list"),
        };
        if is_new && rest.is_empty() {
            Ok(())
        } else {
            child.insert(rest, text)
        }
    }

    fn finish(self) -> Result<Node, &'static str> {
        Ok(match self {
            Self::Text(text) => Node::Text(text),
            Self::Map(children) => {
                let finish = |(key, child): (String, Self)| Ok((key, child.finish()?));
                Node::Map(
                    children
                        .into_iter()
                        .map(finish)
                        .collect::<Result<_, &'static str>>()?,
                )
            }
            Self::List(mut items) => {
                items.sort_by_key(|(index, _)| *index);
                if items
                    .iter()
                    .enumerate()
                    .any(|(want, (have, _))| want != *have)
                {
                    return Err("holds an incomplete list");
                }
                let finish = |(_, item): (usize, Self)| item.finish();
                Node::List(items.into_iter().map(finish).collect::<Result<_, _>>()?)
            }
        })
    }
}

/// Returns the child under `key`, made by `new_child` when there is none yet, and whether it was.
fn child_of<'b, K: PartialEq + Clone>(
    children: &'b mut Vec<(K, Building)>,
    key: &K,
    new_child: impl FnOnce() -> Building,
) -> (&'b mut Building, bool) {
    let position = children.iter().position(|(name, _)| name == key);
    let at = position.unwrap_or(children.len());
    if position.is_none() {
        children.push((key.clone(), new_child()));
    }
    (&mut children[at].1, position.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(keys: &[&str]) -> Vec<(String, String)> {
        keys.iter()
            .map(|key| ((*key).to_owned(), "v".to_owned()))
            .collect()
    }

    #[test]
    fn flat_keys_come_back_as_they_were() {
        let keys = [
            "age__list_0__map_enc",
            "age__list_0__map_recipient",
            "key_groups__list_1__map_kms__list_0__map_context__map_k1",
            "key_groups__list_0__map_pgp__list_0__map_fp",
            "mac",
        ];
        let node = unflatten(pairs(&keys)).unwrap();
        let mut flat: Vec<_> = flatten(&node).into_iter().map(|(key, _)| key).collect();
        flat.sort();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(flat, expected);
    }

    #[test]
    fn keys_that_form_no_tree_are_errors() {
        for broken in [
            &["mac", "mac"][..],
            &["a", "a__map_b"],
            &["a__map_b", "a"],
            &["a__list_0", "a__map_b"],
            &["a__list_1"],
            &["a__list_0", "a__list_2"],
        ] {
            assert!(unflatten(pairs(broken)).is_err(), "{broken:?}");
        }
    }
}
