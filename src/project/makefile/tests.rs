//! Five Makefiles of different styles, tables of small cases, and texts that must not panic.

use super::*;
const CLASSIC: &str = include_str!("../../../tests/fixtures/makefiles/1-classic.mk");
const ONE_LINER: &str = include_str!("../../../tests/fixtures/makefiles/2-one-liner.mk");
const ABSOLUTE: &str = include_str!("../../../tests/fixtures/makefiles/3-absolute.mk");
const CRLF_APPEND: &str = include_str!("../../../tests/fixtures/makefiles/4-crlf-append.mk");
const ODD: &str = include_str!("../../../tests/fixtures/makefiles/5-odd.mk");

/// All that was read, one thing a line.
fn report(found: &Migration) -> String {
    let mut out = Vec::new();
    for (label, rows) in [("secret", &found.secret), ("plain", &found.plain)] {
        for row in rows {
            let (repository, server) = (&row.repository_path, &row.server_path);
            out.push(format!("{} {label} {repository} > {server}", row.line));
        }
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let root = match &found.root {
        Root::Known(path) => path.clone(),
        Root::Unknown { variable } => format!("?{}", text(variable)),
    };
    let (owner, group, mode) = (text(&found.owner), text(&found.group), text(&found.mode));
    out.push(format!("root {root}, key {}", text(&found.identity)));
    out.push(format!(
        "{owner} {group} {mode} {}",
        text(&found.input_type)
    ));
    let unread = found.unread.iter();
    out.extend(unread.map(|entry| format!("{} {}", entry.line, entry.what)));
    out.join("\n")
}

fn check(text: &str, secret: &str, plain: &str, expected: &[&str]) {
    assert_eq!(
        report(&read(text, &[secret], &[plain])),
        expected.join("\n")
    );
}

#[test]
fn classic() {
    let expected = [
        "9 secret shared/.env.enc > shared/.env",
        "10 secret envs/billing/.env.prod.enc > billing/envs/.env.prod",
        "11 secret envs/mailer/.env.enc > mailer/.env",
        "12 secret nginx/.htpasswd.enc > nginx/.htpasswd",
        "14 plain compose.yaml > compose.yaml",
        "14 plain nginx/conf.d/portal.conf > nginx/conf.d/portal.conf",
        "15 plain scripts/backup.sh > bin/backup.sh",
        "root /opt/docker, key /opt/docker/.age-key.txt",
        "root debian 0640 dotenv",
    ];
    check(CLASSIC, "SECRET_FILES", "INFRA_FILES", &expected);
}

#[test]
fn one_liner() {
    let expected = [
        "2 secret .env.enc > .env",
        "2 secret api/.env.enc > api/.env",
        "2 secret worker/.env.enc > jobs/.env",
        "2 secret certs/internal.key.enc > tls/internal.key",
        "3 plain docker-compose.yml > docker-compose.yml",
        "3 plain Caddyfile > caddy/Caddyfile",
        "root /srv/shop, key -",
        "- - 0600 binary",
    ];
    check(ONE_LINER, "FILES", "PLAIN", &expected);
}

#[test]
fn absolute() {
    let expected = [
        "3 secret app/.env.enc > app/.env",
        "4 secret app/jwt.pem.enc > app/keys/jwt.pem",
        "5 secret db/password.enc > db/password",
        "10 plain app/settings.toml > app/settings.toml",
        "root /var/lib/stack, key ~/.config/sops/age/keys.txt",
        "app app 0440 binary",
        "7 `db/password.enc` is in the lists twice with different partners, and the first one is kept",
        "8 cannot read `../shared/.env:/var/lib/stack/shared/.env`: it leads out of the repository",
    ];
    check(ABSOLUTE, "SECRETS", "CONFIGS", &expected);
}

#[test]
fn crlf_append() {
    assert!(CRLF_APPEND.contains("\r\n"));
    let expected = [
        "4 secret web/.env.enc > web/.env",
        "5 secret web/tokens.json.enc > web/tokens.json",
        "6 secret cache/.env.enc > redis/.env",
        "8 secret mail/.env.enc > mail/.env",
        "15 secret queue/.env.enc > queue/.env",
        "19 plain site.conf > site.conf",
        "root /home/deploy/site, key keys/age.txt",
        "deploy www 0640 -",
        "3 `-include local.mk` reads another file, which is not read here",
        "10 FILES is set inside a condition, and that value is not used",
        "11 DEST is set inside a condition, and that value is not used",
        "16 make takes the rest of the list from line 16 as a comment",
        "25 DEST is set for the target decrypt only, and that value is not used",
        "28 the calls of sops disagree about the input type, so none is used",
    ];
    check(CRLF_APPEND, "FILES", "STATIC", &expected);
}

#[test]
fn odd() {
    let expected = [
        "5 secret env/alpha.env.enc > alpha/.env",
        "5 secret env/beta.env.enc > beta/.env",
        "6 secret env/gamma.env.enc > gamma/.env",
        "5 secret keys/alpha.pem.enc > keys/alpha.pem",
        "6 secret keys/gamma.pem.enc > keys/gamma.pem",
        "10 secret token.txt.enc > auth/token.txt",
        "11 secret cookie.txt.enc > cookie.txt",
        "15 secret odd#name.env.enc > odd#name.env",
        "16 plain conf/alpha.conf > conf/alpha.conf",
        "16 plain conf/gamma.conf > conf/gamma.conf",
        "16 plain my_file.txt > my_file.txt",
        "root /data/apps, key ~/.age/key.txt",
        "- ops - binary",
        "12 cannot read `#`: make knows no comment here, so `#` and what follows are in the list",
        "12 cannot read `session.txt|auth/session.txt`: make knows no comment here, so `#` and what follows are in the list",
        "13 cannot read `note\\#1.txt`: it has a character that the shell would act on",
        "15 cannot read `$(shell ls local)`: it is what a program prints",
        "15 cannot read `$(wildcard *.secret)`: it depends on the files in the folder",
        "15 cannot read `$(MISSING)`: MISSING is not set in the Makefile, so it comes from make or the environment",
        "15 cannot read `a=>b`: only `:` and `|` are read as separators",
        "15 cannot read `a|b|c`: it has more than one separator",
        "15 cannot read `$HOME/x`: it has a character that the shell would act on",
    ];
    check(ODD, "ALL", "STAT", &expected);
}

/// The rows of list L in one line, then the lines of the notes.
fn brief(text: &str) -> String {
    let found = read(text, &["L"], &["P"]);
    let rows = found.secret.iter().chain(&found.plain);
    let rows: Vec<String> = rows
        .map(|row| format!("{}>{}", row.repository_path, row.server_path))
        .collect();
    let lines = found.unread.iter().map(|entry| entry.line.to_string());
    let lines: Vec<String> = lines.collect();
    format!("{} !{}", rows.join(" "), lines.join(","))
}

#[test]
fn lists() {
    let cases = [
        "L = a b:c => a.enc>a b.enc>c !",
        "L = a::b :c d: e:f:g =>  !1,1,1,1",
        "L = a,b a=b x->y *.env ~/k a;b =>  !1,1,1,1,1,1",
        "L = ../a a/../b /etc/x dir/ . =>  !1,1,1,1,1",
        "L = 'a:b' \"c\" 'd e' => a.enc>b c.enc>c !1,1",
        "L = a a a:b c:a => a.enc>a !1,1",
        "P = a:b\nL = c:b => c.enc>b !1",
        "A = x\nL := $(A)\nA = y => x.enc>x !",
        "A = x\nL = $(A) ${A}2 $A\nA = y => y.enc>y y2.enc>y2 !",
        "L = a\nL ?= b\nL += c => a.enc>a c.enc>c !",
        "L ::= a\noverride L += b\nexport L += c => a.enc>a b.enc>b c.enc>c !",
        "L != ls =>  !1",
        "L = $(L) $(M)\nM = $(L) =>  !1,2",
        "L = a $(call f,x) $(eval q) b => a.enc>a b.enc>b !1,1",
        "L = a$(X)b c => c.enc>c !1",
        "L = a\\#b # d => a#b.enc>a#b !",
        "L = a \\\n  # x \\\n  b\n => a.enc>a !2",
        "L = a \\\n  # x\n  b:c\n => a.enc>a !2",
        "L = a \\\n  # x \\\n  # y\nM = 1 => a.enc>a !",
        "define L\na\nb:c\nendef => a.enc>a b.enc>c !",
        "ifdef X\nN = a\nendif\nL = $(N) b => b.enc>b !2,4",
        "all: L = a\nL = b => b.enc>b !1",
        "B = b\nL = $(addprefix d/,a $(B)) $(B:b=c) => d/a.enc>d/a d/b.enc>d/b c.enc>c !",
        "A = a b\nL = $(join $(A:%=%:),x y) $(dir x/y)z =>  !2,2",
        "L = $(filter %.env,a.env b) $(strip  c ) => a.env.enc>a.env c.enc>c !",
    ];
    for case in cases {
        let (text, expected) = case.split_once(" => ").unwrap();
        assert_eq!(brief(text), expected, "{text}");
    }
}

#[test]
fn roots() {
    let recipe = "L = x\ndecrypt:\n\tfor f in $(L); do sops -d $$f.enc > $(D)/$$f; done";
    for case in [
        "D = /a/b// => /a/b",
        " => ?D",
        "D = $(HOME)/d => ?D",
        "D = $(shell pwd) => ?D",
        "D = out => ?D",
    ] {
        let (folder, expected) = case.split_once(" => ").unwrap();
        let found = report(&read(&format!("{folder}\n{recipe}"), &["L"], &["P"]));
        assert!(found.contains(&format!("root {expected},")), "{folder}");
    }
    let cases = [
        "L = a:/r/s/a b:/r/t\nP = c:/r/s/c => /r a.enc>s/a b.enc>t c>s/c !",
        "L = a:/r/a b:/s/b => ?- a.enc>/r/a b.enc>/s/b !",
        "L = a:/r/a\nP = c => /r a.enc>a !2",
        "L = x y:/b/y\nd:\n\tsops -d x > $(D)/$$f => ?D x.enc>x !1",
        "D = /a\nL = y:$(D)/y z:/b/z w\nd:\n\tsops -d x > $(D)/$$f => /a y.enc>y w.enc>w !2",
        "L = x\nd:\n\tsops -d x > /a/$$f\n\tsops -d x > /b/$$f => ?- x.enc>x !4",
        "D=/q\nL = x\nd:\n\tcd $(D); sops -d $$f.enc > $$f => /q x.enc>x !",
        "D=/q\nL = x\nd:\n\tsops -d x | sudo tee \"$${D}/$$f\" >/dev/null => /q x.enc>x !",
        "D=/q\nL = x\nd:\n\tsops -d x > $(D)/$${f##*/} => /q x.enc>x !4",
    ];
    for case in cases {
        let (text, expected) = case.split_once(" => ").unwrap();
        let root = match read(text, &["L"], &["P"]).root {
            Root::Known(path) => path,
            Root::Unknown { variable } => format!("?{}", variable.unwrap_or("-".to_owned())),
        };
        assert_eq!(format!("{root} {}", brief(text)), expected, "{text}");
    }
}

#[test]
fn permissions() {
    let cases = [
        "chmod 640 $$d => - - 0640 0",
        "chmod 0400 $$d; chown me $$d => me - 0400 0",
        "chown :g $$d; chown u $$d => u g - 0",
        "install -m 640 -o root -g web $$d /x/$$f => root web 0640 0",
        "install -Dm600 --owner=root $$d /x/$$f => root - 0600 0",
        "chmod u=rw,g=,o= $$d => - - 0600 0",
        "chmod go-rwx $$d => - - - 1",
        "chmod 4755 $$d => - - - 1",
        "chmod 600 $$d; chmod 640 $$d => - - - 1",
        "chmod 600 $$d; chmod 755 tool => - - 0600 0",
        "mkdir -p /x; chmod 750 /x => - - - 0",
        "chown $(WHO) $$d => - - - 1",
        "sudo chown u:g $$d && sudo chmod 600 $$d => u g 0600 0",
        "echo chmod 600 $$d => - - - 0",
    ];
    for case in cases {
        let (command, expected) = case.split_once(" => ").unwrap();
        let text = format!("L = x\nd:\n\tsops -d x > $$d; {command}\n");
        let found = read(&text, &["L"], &[]);
        let [owner, group, mode] =
            [&found.owner, &found.group, &found.mode].map(|part| part.as_deref().unwrap_or("-"));
        let got = format!("{owner} {group} {mode} {}", found.unread.len());
        assert_eq!(got, expected, "{command}");
    }
}

#[test]
fn identities_and_types() {
    let cases = [
        "SOPS_AGE_KEY_FILE = /k # key\n => key /k",
        "export SOPS_AGE_KEY_FILE := $$HOME/k\n => key ~/k",
        "SOPS_AGE_KEY_FILE ?= ~/k\n => key ~/k",
        "SOPS_AGE_KEY_FILE = $(KEYS)/k\n => key -",
        "K = /k\nd:\n\tSOPS_AGE_KEY_FILE=\"$(K)\" sops -d x\n => key /k",
        "d:\n\texport SOPS_AGE_KEY_FILE=/k; sops -d x\n => key /k",
        "d:\n\tSOPS_AGE_KEY_FILE=/k sops -d x\n\tSOPS_AGE_KEY_FILE=/l sops -d y\n => key -",
        "d:\n\tsops -d --input-type json x\n\tsops -e --input-type=json y => - - - json",
        "d:\n\tsops -d --input-type json x\n\tsops -e y => - - - -",
        "d:\n\tsh -c 'sops -d --input-type yaml x' => - - - yaml",
    ];
    for case in cases {
        let (text, expected) = case.split_once(" => ").unwrap();
        assert!(report(&read(text, &[], &[])).contains(expected), "{text}");
    }
}

#[test]
fn bombs_end() {
    let mut text = String::from("A0 = x x\n");
    for step in 1..60 {
        text.push_str(&format!("A{step} = $(A{0}) $(A{0})\n", step - 1));
    }
    text.push_str("L = $(A59)\nd:\n\tsops -d $(A58) > $(A59)\n");
    assert!(!read(&text, &["L"], &[]).unread.is_empty());
    for part in [
        "$(",
        "${",
        "$(foreach x,a b,",
        "`",
        "$$(",
        "\"$$(",
        "define L\n",
        "ifeq\n",
        "\\\n",
        "L:=$(L) a $(L)\n",
    ] {
        let many = part.repeat(3000);
        drop(read(
            &format!("L = {many}\nd: ; sops -d {many}"),
            &["L"],
            &[],
        ));
    }
}

#[test]
fn no_mutation_panics() {
    const PIECES: &str = "$ ( ) ${ } # \\ \\\n \n \t \r\n : | = += % , ' \" ` ; > << \u{e9} \u{0} \
        \u{FFFD} \u{100000} \u{100001} \u{F0007} ~ / .. endif\n endef\n";
    let more = [
        "define X\n",
        "$(foreach f,a b,",
        "$(call decrypt_all,",
        "sops -d ",
        "install -m",
    ];
    let pieces: Vec<&str> = PIECES.split(' ').chain(more).collect();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % limit.max(1)
    };
    for fixture in [CLASSIC, ONE_LINER, ABSOLUTE, CRLF_APPEND, ODD] {
        for _ in 0..300 {
            let mut letters: Vec<char> = fixture.chars().collect();
            for _ in 0..=random(12) {
                let place = random(letters.len());
                let end = (place + random(20)).min(letters.len());
                let piece: Vec<char> = pieces[random(pieces.len())].chars().collect();
                letters.splice(place..if random(2) == 0 { end } else { place }, piece);
            }
            let text: String = letters.into_iter().collect();
            let secret = ["SECRET_FILES", "FILES", "SECRETS", "ALL"];
            let found = read(
                &text,
                &secret,
                &["INFRA_FILES", "PLAIN", "CONFIGS", "STATIC"],
            );
            for row in found.secret.iter().chain(&found.plain) {
                assert!(!row.repository_path.starts_with('/') && row.line >= 1);
                let both = format!("{}/{}", row.repository_path, row.server_path);
                assert!(both.split('/').all(|part| part != ".."));
            }
            let mut secret = found.secret.iter();
            assert!(secret.all(|row| row.repository_path.ends_with(".enc")));
        }
    }
}
