//! What differs on purpose: the rows of `docs/compatibility.md`, "The command line of `sops`".

/// Returns the name of the deviation that a case is, by its command line and what differs in it.
pub(super) fn name_of(line: &str, what: &str) -> Option<&'static str> {
    let says = |words: &str| what.contains(words);
    let has = |words: &str| line.contains(words);
    let is_set = has(" set ") || has("-set ") || has("-set=") || has("-set '");
    let is_edit = what.contains("state/calls") || has("EDITOR=");
    let rules: [(&'static str, bool); 26] = [
        (
            "set: whole numbers stay whole",
            is_set && ((says(",int") && says(",float]")) || (says(".0\\n\"") && says("ours:"))),
        ),
        (
            "set: lists are values too",
            is_set && says("Invalid --set value format"),
        ),
        (
            "set: a path that leads nowhere is an error",
            is_set && says("cannot set this path"),
        ),
        (
            "positions of lists do not count comments",
            has("[\"list\"][") && (has("comments") || has("merged")),
        ),
        (
            "extract: a position is one of a list",
            says("error truncating tree: component ["),
        ),
        (
            "a negative position is told before the file is read",
            has("[-1]") && says("exit: ours 7, stock 1"),
        ),
        (
            "exec-file: a pipe that nobody reads, which stock fails for now and then",
            has(" exec-file ")
                && !has("no-fifo")
                && !(has("cat {}") || has("< {}") || has("cat; "))
                && says(", stock 1"),
        ),
        (
            "rotate: a key that is there is not added twice",
            has("-add-age") && says("only the text differs"),
        ),
        (
            "rotate: a key that is added and removed is no panic",
            has("-add-age") && has("-rm-age") && says("stock crashes"),
        ),
        (
            "groups: a key that cannot be used is an error",
            has("groups add") && (says("Failed to add key") || says("is not an age recipient")),
        ),
        (
            "groups: a threshold that is impossible is an error",
            has("groups ") && says("is impossible with"),
        ),
        (
            "groups: the last group stays",
            has("groups delete")
                && (says("no key groups provided")
                    || (has("-verbose") && says("exit: ours 1, stock 0"))),
        ),
        (
            "JSON: text behind the object is refused",
            says("behind the root object") || (has("trailing.json") && says("ours 2, stock 0")),
        ),
        (
            "JSON: an object that is not closed is refused",
            is_edit
                && has("'$d'")
                && (says("ours 201, stock 0")
                    || says("stock makes it")
                    || says("stock changes it")),
        ),
        ("an empty `sops` block is damage", has("has-sops")),
        (
            "extract: an empty list is `[]`",
            has("empty_list") && says("ours:  \"[]\""),
        ),
        (
            "one bad line does not reject a source of identities",
            has("half-bad"),
        ),
        (
            "INI: what it has no words for is refused",
            says("cannot be expressed in INI")
                || (is_set && has(".ini") && says("ours 4, stock 0")),
        ),
        (
            "publish: S3 and GCS are refused by name",
            has(" publish ")
                && (says("deliberately absent")
                    || says("gcs://")
                    || says("s3://")
                    || says("changes will be made to the file's key groups")),
        ),
        (
            "publish: a file named with --recursive keeps its name",
            has(" publish ") && has("-recursive") && says("/. ? (y/n)"),
        ),
        (
            "edit: -s keeps what was edited",
            is_edit
                && (has(" -s") || has("-show-master-keys"))
                && (says("stock reads different contents in them")
                    || says("only the text differs")),
        ),
        (
            "edit: what stands behind the object is refused",
            is_edit
                && ((has("append") && says("ours 201, stock 0")) || (has(".json") && has("'}'"))),
        ),
        (
            "edit: the same broken result twice ends it",
            is_edit && says("stock: \"4\\n\""),
        ),
        (
            "encrypt: encrypted already, whatever the output's format",
            says("exit: ours 203, stock 4") || says("exit: ours 203, stock 0"),
        ),
        (
            "a version that is none is damage to every command",
            has("bad/version") || has("bad/no-version") || says("ours 201, stock 202"),
        ),
        (
            "YAML: keys that are no strings are told when reading",
            has("int-keys") && says("exit: ours 2, stock 23"),
        ),
    ];
    let found = rules.into_iter().find(|(_, is_it)| *is_it);
    found.map(|(name, _)| name)
}
