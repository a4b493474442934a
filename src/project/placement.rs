//! Where plaintext may live, by name alone: inside the root, outside of git's own folders, never
//! in the place of an encrypted file or of the files that govern them.

use std::path::{Component, Path};

/// Checks a server path as written in the manifest.
///
/// # Errors
/// Says in words why no plaintext may be placed there.
pub fn check_server_path(path: &str) -> Result<(), &'static str> {
    check_relative(path)?;
    if path.ends_with(".enc") {
        return Err("a plaintext file may not have a name that ends in `.enc`");
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if matches!(name, "secret-files.toml" | ".sops.yaml" | ".sops.yml") {
        return Err("a plaintext file may not take the place of the manifest or of the rules");
    }
    if name.starts_with(".secrets-staging-") {
        return Err("names like this one are for files that are being written");
    }
    Ok(())
}

/// Checks a repository path as written in the manifest.
///
/// # Errors
/// Says in words why no file of the repository is meant by it.
pub fn check_repository_path(path: &str) -> Result<(), &'static str> {
    check_relative(path)
}

fn check_relative(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.chars().any(char::is_control) {
        return Err("the path holds control characters");
    }
    if path.starts_with('/') {
        return Err("the path is absolute; paths are relative");
    }
    let parsed = Path::new(path);
    if parsed
        .components()
        .any(|part| matches!(part, Component::ParentDir))
    {
        return Err("the path leads out with `..`");
    }
    if path.ends_with('/') || path.split('/').any(|part| part.is_empty() || part == ".") {
        return Err("the path is not written in its plain form (no `//`, `./` or final `/`)");
    }
    if path
        .split('/')
        .any(|part| part.eq_ignore_ascii_case(".git"))
    {
        return Err("the path leads into a `.git` folder");
    }
    Ok(())
}

/// Reads permission bits written as an octal string such as `0640`.
///
/// # Errors
/// Says in words what is wrong with them.
pub fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = if octal {
        u32::from_str_radix(text, 8).ok()
    } else {
        None
    };
    let mode = mode.ok_or("is not an octal mode such as \"0640\"")?;
    if mode & 0o7000 != 0 {
        return Err("sets the setuid, setgid or sticky bit, which no secret file may have");
    }
    if mode & 0o002 != 0 {
        return Err("lets everybody write the file");
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_paths_stay_inside_the_root() {
        for path in [".env", "shared/.env", "a b/ü.sql"] {
            assert_eq!(check_server_path(path), Ok(()));
        }
        for path in [
            "",
            "/etc/x",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/",
            "a/.git/x",
            ".GIT/config",
            "x.enc",
            "a\nb",
            "x/.sops.yaml",
        ] {
            assert!(check_server_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn modes_are_octal_and_harmless() {
        assert_eq!(parse_mode("0640"), Ok(0o640));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for mode in ["4755", "0666", "rw", "64", "0888", "", "1644", "00640"] {
            assert!(parse_mode(mode).is_err(), "{mode}");
        }
    }
}
