//! What a sandbox contains: throw-away keys, documents of every format, sealed copies of them in
//! every way, damaged copies, creation rules, and the programs that a command may start.

/// A key made for these tests and for nothing else; most sealed files are for it.
pub(super) const THROW_AWAY_KEY: &str =
    include_str!("../../fixtures/differential/throwaway-first.txt").trim_ascii();
/// The recipient of [`THROW_AWAY_KEY`].
pub(super) const FIRST: &str = "age1m3hwglcrp0pw8xm0jvdcxwfcanxuwfyujmu50nvzru7e8f3pn98qjk8xtg";
/// A second key made for these tests; few cases have it.
pub(super) const THROW_AWAY_KEY_2: &str =
    include_str!("../../fixtures/differential/throwaway-second.txt").trim_ascii();
/// The recipient of [`THROW_AWAY_KEY_2`].
pub(super) const SECOND: &str = "age1xzf7udq70ljm6v9rur6565thutwp7pl2hdstc804kq4v2fe0kszse52lyg";
/// A recipient whose key was thrown away already.
pub(super) const NOBODY: &str = "age1hfujjamsuhy93fae5w8dm5ckwsuz2ucth8vc2seuqp9n60m5650snawdc7";

/// A document: its name says its format.
pub(super) struct Document {
    /// The file name below `repo/plain` and `repo/enc`.
    pub(super) name: &'static str,
    /// The text.
    pub(super) text: &'static [u8],
    /// Paths that exist in it, as `--extract` and `set` spell them.
    pub(super) paths: &'static [&'static str],
    /// Whether the reference program can seal it without options.
    pub(super) sealable: bool,
}

const fn doc(name: &'static str, text: &'static str, paths: &'static [&'static str]) -> Document {
    Document {
        name,
        text: text.as_bytes(),
        paths,
        sealable: true,
    }
}

/// A document that cannot be sealed, or can be read only as something else.
const fn unfit(name: &'static str, text: &'static str) -> Document {
    Document {
        name,
        text: text.as_bytes(),
        paths: &[],
        sealable: false,
    }
}

/// Documents whose layout is the one that the reference program writes itself: a program that
/// keeps the layout of its input agrees with one that rewrites it.
pub(super) const DOCUMENTS: &[Document] = &[
    doc(
        "simple.yaml",
        "name: alpha\nport: 8080\nratio: 1.5\ndebug: true\nnothing: null\nempty: \"\"\n\
         started: 2024-01-02T03:04:05Z\nnote_unencrypted: in the clear\n",
        &[
            "[\"name\"]",
            "[\"port\"]",
            "[\"ratio\"]",
            "[\"debug\"]",
            "[\"nothing\"]",
            "[\"empty\"]",
            "[\"started\"]",
            "['name']",
            "[\"note_unencrypted\"]",
        ],
    ),
    doc(
        "nested.yaml",
        "server:\n    host: example.test\n    ports:\n        - 80\n        - 443\n    limits:\n\
         \x20       cpu: 0.5\n        memory: 512Mi\nusers:\n    - name: anna\n      admin: true\n\
         \x20   - name: björn\n      admin: false\n      tags:\n        - a\n        - b\n\
         text: |\n    first line\n    second line\nkept: |-\n    no newline\n    at the end\n\
         empty_map: {}\nempty_list: []\nempty_text: \"\"\nnone: null\n\
         plain_unencrypted: visible\ngroup_unencrypted:\n    inner: visible too\n    num: 7\n",
        &[
            "[\"server\"]",
            "[\"server\"][\"host\"]",
            "[\"server\"][\"ports\"]",
            "[\"server\"][\"ports\"][1]",
            "[\"users\"]",
            "[\"users\"][0]",
            "[\"users\"][1][\"tags\"]",
            "[\"users\"][1][\"tags\"][0]",
            "[\"text\"]",
            "[\"kept\"]",
            "[\"empty_map\"]",
            "[\"empty_list\"]",
            "[\"none\"]",
            "[\"group_unencrypted\"][\"num\"]",
            "[\"server\"][\"limits\"]",
        ],
    ),
    doc(
        "comments.yaml",
        "# above the first\nkey: value\nlist:\n    # about one\n    - one\n    # about two\n    - two\n\
         map:\n    # ENCRYPT this one\n    inner: hidden\n    # plain\n    other: shown\n",
        &[
            "[\"key\"]",
            "[\"list\"]",
            "[\"list\"][0]",
            "[\"list\"][1]",
            "[\"map\"]",
            "[\"map\"][\"inner\"]",
        ],
    ),
    doc(
        "multi.yaml",
        "first: 1\n---\nsecond: two\nmap:\n    x: why\n---\nthird:\n    - x\n",
        &["[\"first\"]"],
    ),
    doc(
        "select.yaml",
        "name: alpha\nname_plain: beta\ntoken_secret: gamma\npassword: delta\n# sops:enc\n\
         marked: epsilon\n# leave\nunmarked: zeta\ngroup:\n    password: eta\n    name: 5\n\
         group_secret:\n    list:\n        - theta\n        - 9\n",
        &[
            "[\"name\"]",
            "[\"password\"]",
            "[\"group\"]",
            "[\"group_secret\"][\"list\"]",
            "[\"marked\"]",
        ],
    ),
    doc(
        "odd-keys.yaml",
        "a.b: dotted\nwith space: spaced\nquo'te: q\n\"8\": eight\ncolon:key: c\nключ: значение\n\
         deep key:\n    x.y: 1\n",
        &[
            "[\"a.b\"]",
            "[\"with space\"]",
            "[\"quo'te\"]",
            "[\"8\"]",
            "[\"ключ\"]",
            "[\"colon:key\"]",
            "[\"deep key\"][\"x.y\"]",
        ],
    ),
    doc(
        "looks.yaml",
        "null_text: \"null\"\nnumber_text: \"1\"\nbool_text: \"true\"\ndate_text: \"2024-01-01\"\n\
         yes_text: \"yes\"\nlead: ' lead'\ntrail: 'trail '\nhash: '#x'\ncolon: 'a: b'\ndash: '- x'\n\
         tilde: \"~\"\nquotes: it's \"so\"\nback: C:\\dir\ntab: \"a\\tb\"\n",
        &["[\"null_text\"]", "[\"lead\"]", "[\"tab\"]", "[\"back\"]"],
    ),
    doc(
        "simple.json",
        "{\n\t\"name\": \"alpha\",\n\t\"port\": 8080,\n\t\"ratio\": 1.5,\n\t\"debug\": true,\n\
         \t\"nothing\": null,\n\t\"empty\": \"\",\n\t\"note_unencrypted\": \"in the clear\"\n}\n",
        &[
            "[\"name\"]",
            "[\"port\"]",
            "[\"ratio\"]",
            "[\"debug\"]",
            "[\"nothing\"]",
        ],
    ),
    doc(
        "nested.json",
        "{\n\t\"server\": {\n\t\t\"host\": \"example.test\",\n\t\t\"ports\": [\n\t\t\t80,\n\t\t\t443\n\
         \t\t],\n\t\t\"none\": null\n\t},\n\t\"users\": [\n\t\t{\n\t\t\t\"name\": \"anna\",\n\
         \t\t\t\"admin\": true\n\t\t},\n\t\t{\n\t\t\t\"name\": \"björn\"\n\t\t}\n\t],\n\
         \t\"text\": \"first\\nsecond\\n\",\n\t\"empty_map\": {},\n\
         \t\"empty_list\": [],\n\t\"a.b c\": -3,\n\t\"deep_unencrypted\": {\n\t\t\"x\": 1\n\t}\n}\n",
        &[
            "[\"server\"]",
            "[\"server\"][\"ports\"]",
            "[\"server\"][\"ports\"][0]",
            "[\"users\"][0]",
            "[\"users\"][1][\"name\"]",
            "[\"text\"]",
            "[\"empty_map\"]",
            "[\"a.b c\"]",
        ],
    ),
    doc("empty.json", "{}\n", &[]),
    doc(
        "simple.env",
        "# settings\nNAME=alpha\nPORT=8080\nEMPTY=\nSPACED=a b c\nEQUALS=a=b=c\nQUOTED=\"in quotes\"\n\
         LINES=one\\ntwo\n# last\nNOTE_unencrypted=in the clear\n",
        &[
            "[\"NAME\"]",
            "[\"PORT\"]",
            "[\"EMPTY\"]",
            "[\"QUOTED\"]",
            "[\"LINES\"]",
        ],
    ),
    doc("one.env", "ONLY=one\n", &["[\"ONLY\"]"]),
    doc(
        "simple.ini",
        "[main]\nname  = alpha\nport  = 8080\nempty = \n\n; about the other\n[other]\n\
         flag             = true\nnote_unencrypted = in the clear\n",
        &[
            "[\"main\"]",
            "[\"main\"][\"name\"]",
            "[\"other\"][\"flag\"]",
            "[\"main\"][\"empty\"]",
        ],
    ),
    doc(
        "one.ini",
        "[only]\nkey = one\n",
        &["[\"only\"][\"key\"]", "[\"only\"]"],
    ),
    doc(
        "note.txt",
        "A note.\nTwo lines, no newline at the end",
        &["[\"data\"]"],
    ),
    doc("braces.txt", "{\"a\": [1, \"}\"]}\n", &["[\"data\"]"]),
    doc("data.odd", "key: value\n", &["[\"data\"]"]),
    doc("noextension", "plain text\n", &["[\"data\"]"]),
    Document {
        name: "bytes.bin",
        text: b"\x00\x01\xff\xfe bytes \x80\r\n",
        paths: &["[\"data\"]"],
        sealable: true,
    },
];

/// Documents in other layouts, with unusual values, or wrong: the reference program rewrites,
/// changes or refuses them.
pub(super) const ODD_DOCUMENTS: &[Document] = &[
    doc(
        "layout.yaml",
        "# head\n\n# second block\na:   1   # inline\n\n\nb: {x: 1, y: [1, 2]}\nc: \"quoted\"\n\
         d: >-\n  folded\n  text\ne:\n- not indented\n- {k: v}\n'f': 'single'\n# foot\n",
        &[
            "[\"a\"]",
            "[\"b\"]",
            "[\"b\"][\"y\"]",
            "[\"d\"]",
            "[\"e\"][0]",
        ],
    ),
    doc(
        "numbers.yaml",
        "big: 9007199254740993\nneg: -17\nzero: 0\nexp: 1e10\none: 1.0\nsmall: 1e-07\nhex: 0x1F\n\
         octal: 0o17\nold: 017\ncomma: 1_000\nday: 2024-01-02\ntime: 2001-12-14t21:59:43.10-05:00\n\
         yes: yes\non: on\ntilde: ~\n",
        &[
            "[\"big\"]",
            "[\"exp\"]",
            "[\"one\"]",
            "[\"small\"]",
            "[\"day\"]",
            "[\"time\"]",
            "[\"hex\"]",
            "[\"tilde\"]",
        ],
    ),
    doc(
        "huge.yaml",
        "huge: 123456789012345678901234567890\n",
        &["[\"huge\"]"],
    ),
    doc(
        "anchors.yaml",
        "base: &b\n    x: 1\nuse: *b\n",
        &["[\"use\"]"],
    ),
    doc(
        "merge.yaml",
        "base: &b\n    x: 1\nuse:\n    <<: *b\n    y: 2\n",
        &["[\"use\"]"],
    ),
    doc(
        "long.yaml",
        concat!(
            "long: one two three four five six seven eight nine ten eleven ",
            "twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty\n"
        ),
        &["[\"long\"]"],
    ),
    doc("no-newline.yaml", "a: 1\nb: two", &["[\"b\"]"]),
    doc("crlf.yaml", "a: 1\r\nb: two\r\n", &["[\"b\"]"]),
    doc("marker.yaml", "---\na: 1\n", &["[\"a\"]"]),
    doc("bare-marker.yaml", "---\n", &[]),
    doc("html.json", "{\n\t\"html\": \"<a>&\"\n}\n", &["[\"html\"]"]),
    doc(
        "two-spaces.json",
        "{\n  \"a\": 1,\n  \"b\": [1, 2.50, 1e3]\n}",
        &["[\"b\"]", "[\"b\"][1]"],
    ),
    doc(
        "compact.json",
        "{\"a\":{\"b\":\"\\u00e9\\/\"},\"n\":12345678901234567890}",
        &["[\"a\"]", "[\"n\"]"],
    ),
    doc(
        "duplicate.json",
        "{\n\t\"a\": 1,\n\t\"a\": 2\n}\n",
        &["[\"a\"]"],
    ),
    doc(
        "trailing.json",
        "{\n\t\"a\": 1\n}\n{\"b\": 2}\n",
        &["[\"a\"]"],
    ),
    doc(
        "odd.env",
        "A = spaced\nexport B=1\nC='single'\nA=again\n\n#\n",
        &["[\"C\"]", "[\"A \"]"],
    ),
    doc("crlf.env", "A=1\r\nB=2\r\n", &["[\"B\"]"]),
    doc(
        "no-section.ini",
        "loose = 1\n\n[s]\nk = v\n",
        &["[\"s\"][\"k\"]", "[\"DEFAULT\"][\"loose\"]"],
    ),
    doc(
        "odd.ini",
        "[s]\na=1 ; tail\nb=\"quoted\"\nc = x # y\n\n# mark\n[t]\n",
        &["[\"s\"][\"b\"]"],
    ),
    doc("empty.txt", "", &["[\"data\"]"]),
    unfit("list.yaml", "- 1\n- two\n"),
    unfit("scalar.yaml", "just text\n"),
    unfit("empty.yaml", ""),
    unfit("only-comment.yaml", "# nothing else\n"),
    unfit("int-keys.yaml", "8: eight\ntrue: yes\nmap:\n    1: one\n"),
    unfit("duplicate.yaml", "a: 1\na: 2\n"),
    unfit("tab.yaml", "a:\n\tb: 1\n"),
    unfit("bad.yaml", "a: [1, 2\nb: }\n"),
    unfit("has-sops.yaml", "a: 1\nsops: mine\n"),
    unfit("list.json", "[\n\t1,\n\t{\n\t\t\"a\": 1\n\t}\n]\n"),
    unfit("scalar.json", "\"text\"\n"),
    unfit("blank.json", ""),
    unfit("bad.json", "{\"a\": 1,}\n"),
    unfit("has-sops.json", "{\n\t\"sops\": {}\n}\n"),
    unfit("blank.env", ""),
    unfit("bad.env", "A=1\nno equals sign\n"),
    unfit("has-sops.env", "A=1\nsops_note=mine\n"),
    unfit("blank.ini", ""),
    unfit("bad.ini", "[s\nk v\n"),
    unfit("has-sops.ini", "[sops]\nk = v\n"),
];

/// A sealed file that is not simply `repo/enc/<document>`.
pub(super) struct Variant {
    /// The path below `repo`.
    pub(super) path: &'static str,
    /// The document it is made from.
    pub(super) document: &'static str,
    /// What `encrypt` is given besides, before and after the command word.
    pub(super) global: &'static [&'static str],
    pub(super) flags: &'static [&'static str],
}

const fn variant(
    path: &'static str,
    document: &'static str,
    global: &'static [&'static str],
    flags: &'static [&'static str],
) -> Variant {
    Variant {
        path,
        document,
        global,
        flags,
    }
}

/// Files that the first key opens.
pub(super) const VARIANTS: &[Variant] = &[
    variant(
        "opt/unencrypted-suffix.yaml",
        "select.yaml",
        &[],
        &["--unencrypted-suffix", "_plain"],
    ),
    variant(
        "opt/encrypted-suffix.yaml",
        "select.yaml",
        &[],
        &["--encrypted-suffix", "_secret"],
    ),
    variant(
        "opt/unencrypted-regex.yaml",
        "select.yaml",
        &[],
        &["--unencrypted-regex", "^name"],
    ),
    variant(
        "opt/encrypted-regex.yaml",
        "select.yaml",
        &[],
        &["--encrypted-regex", "^(pass|token)"],
    ),
    variant(
        "opt/encrypted-regex.json",
        "nested.json",
        &[],
        &["--encrypted-regex", "^(host|name)$"],
    ),
    variant(
        "opt/encrypted-regex.env",
        "simple.env",
        &[],
        &["--encrypted-regex", "NAME|PORT"],
    ),
    variant(
        "opt/unencrypted-regex.ini",
        "simple.ini",
        &[],
        &["--unencrypted-regex", "^name$"],
    ),
    variant(
        "opt/encrypted-comment.yaml",
        "select.yaml",
        &["--config", "@/conf/enc-comment.yaml"],
        &[],
    ),
    variant(
        "opt/unencrypted-comment.yaml",
        "select.yaml",
        &["--config", "@/conf/unenc-comment.yaml"],
        &[],
    ),
    variant(
        "opt/mac-only.yaml",
        "nested.yaml",
        &["--mac-only-encrypted"],
        &[],
    ),
    variant(
        "opt/mac-only-regex.yaml",
        "select.yaml",
        &["--mac-only-encrypted"],
        &["--encrypted-regex", "pass"],
    ),
    variant(
        "opt/mac-only.json",
        "simple.json",
        &["--mac-only-encrypted"],
        &[],
    ),
    variant(
        "opt/mac-only.env",
        "simple.env",
        &["--mac-only-encrypted"],
        &[],
    ),
    variant(
        "grp/open.yaml",
        "simple.yaml",
        &["--config", "@/conf/groups-open.yaml"],
        &[],
    ),
    variant(
        "grp/open.json",
        "nested.json",
        &["--config", "@/conf/groups-open.yaml"],
        &[],
    ),
    variant(
        "grp/open.env",
        "simple.env",
        &["--config", "@/conf/groups-open.yaml"],
        &[],
    ),
    variant(
        "grp/open.ini",
        "simple.ini",
        &["--config", "@/conf/groups-open.yaml"],
        &[],
    ),
    variant(
        "grp/merged.yaml",
        "comments.yaml",
        &["--config", "@/conf/merge.yaml"],
        &[],
    ),
    variant(
        "key/both.yaml",
        "nested.yaml",
        &["--config", "@/conf/both.yaml"],
        &[],
    ),
    variant(
        "key/both.json",
        "simple.json",
        &["--config", "@/conf/both.yaml"],
        &[],
    ),
    variant(
        "key/both.env",
        "simple.env",
        &["--config", "@/conf/both.yaml"],
        &[],
    ),
    variant(
        "key/both.ini",
        "simple.ini",
        &["--config", "@/conf/both.yaml"],
        &[],
    ),
    variant(
        "key/both.txt",
        "note.txt",
        &["--config", "@/conf/both.yaml"],
        &[],
    ),
    variant(
        "key/twice.yaml",
        "simple.yaml",
        &["--config", "@/conf/twice.yaml"],
        &[],
    ),
];

/// Files that need the second key, both keys, or a key that nobody has.
pub(super) const CLOSED: &[Variant] = &[
    variant(
        "grp/two.yaml",
        "simple.yaml",
        &["--config", "@/conf/groups.yaml"],
        &[],
    ),
    variant(
        "grp/two.json",
        "simple.json",
        &["--config", "@/conf/groups.yaml"],
        &[],
    ),
    variant(
        "grp/three.yaml",
        "nested.yaml",
        &["--config", "@/conf/groups-3.yaml"],
        &[],
    ),
    variant(
        "key/second.yaml",
        "simple.yaml",
        &["--config", "@/conf/second.yaml"],
        &[],
    ),
    variant(
        "key/second.env",
        "simple.env",
        &["--config", "@/conf/second.yaml"],
        &[],
    ),
    variant(
        "key/nobody.yaml",
        "simple.yaml",
        &["--config", "@/conf/nobody.yaml"],
        &[],
    ),
    variant(
        "key/nobody.json",
        "simple.json",
        &["--config", "@/conf/nobody.yaml"],
        &[],
    ),
];

/// How a sealed file is damaged.
#[derive(Clone, Copy)]
pub(super) enum Damage {
    /// One character of the first value is another one.
    Token,
    /// One character of the digest is another one.
    Mac,
    /// The digest is gone.
    NoMac,
    /// The second half is gone.
    Truncated,
    /// Some text is replaced by another.
    Replaced(&'static str, &'static str),
}

/// Damaged files: path below `repo`, the sealed file it is made from, and the damage.
pub(super) const DAMAGED: &[(&str, &str, Damage)] = &[
    ("bad/token.yaml", "enc/simple.yaml", Damage::Token),
    ("bad/token.json", "enc/simple.json", Damage::Token),
    ("bad/token.env", "enc/simple.env", Damage::Token),
    ("bad/token.ini", "enc/simple.ini", Damage::Token),
    ("bad/token.txt", "enc/note.txt", Damage::Token),
    ("bad/mac.yaml", "enc/simple.yaml", Damage::Mac),
    ("bad/mac.json", "enc/nested.json", Damage::Mac),
    ("bad/mac.env", "enc/simple.env", Damage::Mac),
    ("bad/no-mac.yaml", "enc/simple.yaml", Damage::NoMac),
    ("bad/no-mac.env", "enc/simple.env", Damage::NoMac),
    ("bad/no-mac.ini", "enc/simple.ini", Damage::NoMac),
    ("bad/truncated.yaml", "enc/simple.yaml", Damage::Truncated),
    ("bad/truncated.json", "enc/simple.json", Damage::Truncated),
    ("bad/truncated.env", "enc/simple.env", Damage::Truncated),
    (
        "bad/clear-changed.yaml",
        "enc/simple.yaml",
        Damage::Replaced("in the clear", "in the dark"),
    ),
    (
        "bad/clear-changed.json",
        "enc/simple.json",
        Damage::Replaced("in the clear", "in the dark"),
    ),
    (
        "bad/clear-changed.env",
        "enc/simple.env",
        Damage::Replaced("in the clear", "in the dark"),
    ),
    (
        "bad/renamed.yaml",
        "enc/simple.yaml",
        Damage::Replaced("name:", "nome:"),
    ),
    (
        "bad/type.yaml",
        "enc/simple.yaml",
        Damage::Replaced("type:int]", "type:float]"),
    ),
    (
        "bad/type-unknown.yaml",
        "enc/simple.yaml",
        Damage::Replaced("type:int]", "type:none]"),
    ),
    (
        "bad/unsealed.yaml",
        "enc/simple.yaml",
        Damage::Replaced("port: ENC[", "port: [ENC, "),
    ),
    (
        "bad/version.yaml",
        "enc/simple.yaml",
        Damage::Replaced("version: 3", "version: three."),
    ),
    (
        "bad/no-version.yaml",
        "enc/simple.yaml",
        Damage::Replaced("version:", "wersion:"),
    ),
    (
        "bad/old-version.yaml",
        "enc/simple.yaml",
        Damage::Replaced("version: 3.13", "version: 3.7"),
    ),
    (
        "bad/modified.yaml",
        "enc/simple.yaml",
        Damage::Replaced("lastmodified: \"20", "lastmodified: \"19"),
    ),
    (
        "bad/modified-text.yaml",
        "enc/simple.yaml",
        Damage::Replaced("lastmodified: \"20", "lastmodified: \"at "),
    ),
    (
        "bad/age.yaml",
        "enc/simple.yaml",
        Damage::Replaced("BEGIN AGE", "BEGIN EGA"),
    ),
    (
        "bad/recipient.yaml",
        "enc/simple.yaml",
        Damage::Replaced("recipient: age1", "recipient: ega1"),
    ),
    (
        "bad/no-keys.yaml",
        "enc/simple.yaml",
        Damage::Replaced("    age:", "    ega:"),
    ),
    (
        "bad/sops-list.yaml",
        "enc/simple.yaml",
        Damage::Replaced("sops:\n", "sops: []\nspos:\n"),
    ),
    (
        "bad/threshold.yaml",
        "grp/open.yaml",
        Damage::Replaced("shamir_threshold: 2", "shamir_threshold: 3"),
    ),
    (
        "bad/no-sops.json",
        "enc/simple.json",
        Damage::Replaced("\"sops\"", "\"spos\""),
    ),
];

/// Creation rules by name; `None` in a case means that there is no file.
pub(super) const RULES: &[(&str, &str)] = &[
    ("age", "creation_rules:\n    - age: FIRST\n"),
    ("both", "creation_rules:\n    - age: FIRST, SECOND\n"),
    (
        "list",
        "creation_rules:\n    - age:\n        - FIRST\n        - SECOND\n",
    ),
    (
        "folded",
        "creation_rules:\n    - age: >-\n        FIRST,\n        SECOND,\n",
    ),
    ("twice", "creation_rules:\n    - age: FIRST,FIRST\n"),
    ("second", "creation_rules:\n    - age: SECOND\n"),
    ("nobody", "creation_rules:\n    - age: NOBODY\n"),
    (
        "paths",
        "creation_rules:\n    - path_regex: ^plain/.*\\.ya?ml$\n      age: FIRST\n    - path_regex: \\.json$\n      \
         age: FIRST,SECOND\n      encrypted_regex: ^(name|host)$\n    - path_regex: (?i)ENC/\n      age: SECOND,FIRST\n    \
         - path_regex: sub/\n      age: FIRST\n      mac_only_encrypted: true\n    - age: FIRST\n      \
         unencrypted_suffix: _plain\n",
    ),
    (
        "groups",
        "creation_rules:\n    - shamir_threshold: 2\n      key_groups:\n        - age: [FIRST]\n        - age: [SECOND]\n",
    ),
    (
        "groups-open",
        "creation_rules:\n    - shamir_threshold: 2\n      key_groups:\n        - age:\n            - FIRST\n        - age:\n            - SECOND\n            - FIRST\n        - age:\n            - NOBODY\n",
    ),
    (
        "groups-3",
        "creation_rules:\n    - shamir_threshold: 2\n      key_groups:\n        - age: [FIRST]\n        - age: [SECOND]\n        - age: [NOBODY]\n",
    ),
    (
        "groups-all",
        "creation_rules:\n    - key_groups:\n        - age: [FIRST]\n        - age: [FIRST, SECOND]\n",
    ),
    (
        "group",
        "creation_rules:\n    - key_groups:\n        - age: [FIRST, FIRST, SECOND]\n      age: NOBODY\n",
    ),
    (
        "merge",
        "creation_rules:\n    - key_groups:\n        - merge:\n            - age: [SECOND]\n            - age: [FIRST]\n          age: [FIRST]\n",
    ),
    (
        "regex",
        "creation_rules:\n    - encrypted_regex: ^(name|password|token)\n      age: FIRST\n",
    ),
    (
        "suffix",
        "creation_rules:\n    - encrypted_suffix: _secret\n      age: FIRST\n",
    ),
    (
        "mac-only",
        "creation_rules:\n    - mac_only_encrypted: true\n      unencrypted_regex: ^name\n      age: FIRST\n",
    ),
    (
        "enc-comment",
        "creation_rules:\n    - encrypted_comment_regex: sops:enc\n      age: FIRST\n",
    ),
    (
        "unenc-comment",
        "creation_rules:\n    - unencrypted_comment_regex: ^\\s*leave\n      age: FIRST\n",
    ),
    (
        "unknown",
        "creation_rules:\n    - age: FIRST\n      colour: blue\n      encrypted_regexp: ^x\nextra: [1]\n",
    ),
    (
        "stores",
        "creation_rules:\n    - age: FIRST\nstores:\n    yaml:\n        indent: 2\n    json:\n        indent: 3\n    json_binary:\n        indent: 1\n",
    ),
    (
        "stores-only",
        "stores:\n    yaml:\n        indent: 2\n    json:\n        indent: 0\n",
    ),
    (
        "publish",
        "creation_rules:\n    - age: FIRST\ndestination_rules:\n    - s3_bucket: bucket\n      s3_prefix: a/\n      path_regex: key/.*\n      \
         recreation_rule:\n        age: FIRST,NOBODY\n    - gcs_bucket: bucket\n      path_regex: enc/.*\\.json\n      omit_extensions: true\n    \
         - vault_path: v/\n      vault_address: http://127.0.0.1:1\n      path_regex: enc/.*\n    - path_regex: opt/\n    \
         - s3_bucket: one\n      gcs_bucket: two\n      path_regex: grp/\n",
    ),
];

/// Creation rules that make commands fail.
pub(super) const WRONG_RULES: &[(&str, &str)] = &[
    ("malformed", "creation_rules:\n    - age: [\n  x: }\n"),
    (
        "no-match",
        "creation_rules:\n    - path_regex: never/matches$\n      age: FIRST\n",
    ),
    ("blank", ""),
    ("null", "creation_rules:\n"),
    ("no-rules", "creation_rules: []\n"),
    ("no-keys", "creation_rules:\n    - path_regex: .*\n"),
    ("empty-group", "creation_rules:\n    - key_groups: [{}]\n"),
    ("zero-groups", "creation_rules:\n    - key_groups: []\n"),
    (
        "bad-recipient",
        "creation_rules:\n    - age: age1notarecipient\n",
    ),
    (
        "two-selections",
        "creation_rules:\n    - age: FIRST\n      encrypted_regex: a\n      encrypted_suffix: b\n",
    ),
    (
        "bad-path",
        "creation_rules:\n    - path_regex: (unclosed\n      age: FIRST\n",
    ),
    ("wrong-type", "creation_rules:\n    - age: 5\n"),
    ("wrong-item", "creation_rules:\n    - age: [5]\n"),
    ("wrong-shape", "creation_rules: text\n"),
    ("not-a-map", "- 1\n"),
    (
        "threshold",
        "creation_rules:\n    - shamir_threshold: 3\n      key_groups:\n        - age: [FIRST]\n        - age: [SECOND]\n",
    ),
    (
        "threshold-1",
        "creation_rules:\n    - shamir_threshold: 1\n      key_groups:\n        - age: [FIRST]\n        - age: [SECOND]\n",
    ),
    (
        "pgp",
        "creation_rules:\n    - pgp: \"0000000000000000000000000000000000000000\"\n",
    ),
    (
        "vault",
        "creation_rules:\n    - hc_vault_transit_uri: not a uri\n",
    ),
    (
        "duplicate-key",
        "creation_rules:\n    - age: FIRST\n      age: SECOND\n",
    ),
];

/// Puts recipients in the place of their names.
pub(super) fn with_recipients(text: &str) -> String {
    text.replace("FIRST", FIRST)
        .replace("SECOND", SECOND)
        .replace("NOBODY", NOBODY)
}

/// Identity files below `keys`.
pub(super) fn identities() -> Vec<(&'static str, String)> {
    vec![
        ("first.txt", format!("# throw-away\n{THROW_AWAY_KEY}\n")),
        ("second.txt", format!("{THROW_AWAY_KEY_2}\n")),
        (
            "both.txt",
            format!("{THROW_AWAY_KEY}\n\n# another\n{THROW_AWAY_KEY_2}\n"),
        ),
        ("bad.txt", "AGE-SECRET-KEY-1BROKEN\n".to_owned()),
        ("half-bad.txt", format!("{THROW_AWAY_KEY}\nnot a key\n")),
        ("empty.txt", String::new()),
    ]
}

/// Programs that commands may start; everything else is absent from their search path.
pub(super) const TOOLS: &[&str] = &[
    "sh", "cat", "sed", "env", "sort", "grep", "head", "wc", "true", "false", "cp", "mv", "rm",
    "stat", "basename", "dirname", "ls", "tr", "id",
];

/// The editor: does what its first arguments say to the file named last, and notes in `state`
/// what it was shown. It gives up at the fourth call, so that no case runs forever.
pub(super) const EDITOR: &str = r#"#!/bin/sh
state=@/state
for file; do :; done
calls=$(cat "$state/calls" 2>/dev/null)
calls=$((${calls:-0} + 1))
echo "$calls" >"$state/calls"
{
    echo "call $calls: $(basename "$file"), mode $(stat -c %a "$file"), folder $(stat -c %a "$(dirname "$file")")"
    cat "$file"
    echo "[end of call $calls]"
} >>"$state/seen"
[ "$calls" -lt 4 ] || exit 9
case "$1" in
sed) sed -e "$2" "$file" >"$state/new" && cat "$state/new" >"$file" && rm "$state/new" ;;
replace) sed -e "$2" "$file" >"$state/new" && mv "$state/new" "$file" ;;
append) printf '%s\n' "$2" >>"$file" ;;
write) printf '%s' "$2" >"$file" ;;
remove) rm "$file" ;;
break-*)
    if [ "$calls" = 1 ]; then
        cp "$file" "$state/good"
        printf '%s\n' "$2" >>"$file"
    else
        case "$1" in
        break-stop) exit 1 ;;
        break-undo) cat "$state/good" >"$file" ;;
        break-fix) sed -e "$3" "$state/good" >"$file" ;;
        esac
    fi
    ;;
esac
"#;
