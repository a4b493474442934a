//! What the program says of itself: help, version, completion.

use std::ffi::OsString;

use super::commands::{COMMANDS, Command, GROUP_COMMANDS, root_flags};
use super::failure::{Failure, code};
use super::flags::{Flag, Kind};
use super::{NAME, Run, VERSION};

/// Shows the help.
pub(super) const HELP: Flag = Flag::switch(&["help", "h"], "show this help");
/// Shows the version.
pub(super) const VERSION_FLAG: Flag = Flag::switch(&["version", "v"], "print the version");
/// What a shell puts behind a line that is to be completed.
pub(super) const COMPLETION_FLAG: &str = "--generate-bash-completion";

/// Prints the version of the reference program whose command line this is. Nothing is asked of a
/// network, whatever the flags say.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn version(run: &mut Run<'_>) -> Result<u8, Failure> {
    run.print(format!("{NAME} {VERSION}\n").as_bytes())?;
    Ok(0)
}

/// Shows the help of the program or of a command.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn show(run: &mut Run<'_>, command: Option<&Command>) -> Result<u8, Failure> {
    let text = match command {
        Some(command) => of_command(command),
        None => of_program(),
    };
    run.print(text.as_bytes())?;
    Ok(0)
}

/// Shows the help of the command that is named.
///
/// # Errors
/// When there is no such command.
pub(super) fn show_named(run: &mut Run<'_>, args: &[OsString]) -> Result<u8, Failure> {
    let Some(name) = args.first().map(|name| name.to_string_lossy()) else {
        return show(run, None);
    };
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) if command.name == "groups" => of_groups(run),
        Some(command) => show(run, Some(command)),
        None => Err(Failure::generic(format!("No help topic for '{name}'"))),
    }
}

/// Shows the commands behind `groups`.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn of_groups(run: &mut Run<'_>) -> Result<u8, Failure> {
    let mut text = format!("Usage: {NAME} groups COMMAND [FLAGS]\n\nCommands:\n");
    for command in &GROUP_COMMANDS {
        text.push_str(&format!("  {:<8} {}\n", command.name, command.about));
    }
    run.print(text.as_bytes())?;
    Ok(0)
}

/// Says what is wrong with the flags, in the reference's words, and shows the help.
///
/// # Errors
/// Always.
pub(super) fn wrong_usage(
    run: &mut Run<'_>,
    command: Option<&Command>,
    error: &str,
) -> Result<u8, Failure> {
    let text = match command {
        Some(command) => format!("Incorrect Usage: {error}\n\n{}", of_command(command)),
        None => format!("Incorrect Usage. {error}\n\n{}", of_program()),
    };
    run.print(text.as_bytes())?;
    Err(Failure::generic(error))
}

fn of_program() -> String {
    let mut text = format!(
        "{NAME} {VERSION}, as `secrets` does it: encrypted files with age, PGP and Vault keys\n\n\
         Usage: {NAME} [FLAGS] COMMAND [FLAGS] [ARGUMENTS]\n       {NAME} [FLAGS] FILE\n\nCommands:\n"
    );
    for command in &COMMANDS {
        text.push_str(&format!("  {:<12} {}\n", command.name, command.about));
    }
    text.push_str(&format!(
        "\n`{NAME} COMMAND --help` explains a command. Without a command the flags say what is done, and a file alone is edited;\nflags stand before it then.\n\nFlags:\n"
    ));
    text.push_str(&of_flags(&root_flags()));
    text
}

fn of_command(command: &Command) -> String {
    let mut flags = command.all_flags();
    flags.push(HELP);
    format!(
        "{}\n\nUsage: {NAME} {} [FLAGS] {}\n\nFlags:\n{}",
        command.about,
        command.name,
        command.args,
        of_flags(&flags)
    )
}

fn of_flags(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let names: Vec<String> = flag.names.iter().map(|name| dashed(name)).collect();
        let value = match flag.kind {
            Kind::Switch | Kind::SwitchOff => "",
            Kind::Number => " N",
            Kind::Text | Kind::List => " TEXT",
        };
        let head = format!("{}{value}", names.join(", "));
        let variable = flag.variable.map(|name| format!(" [env: {name}]"));
        text.push_str(&format!(
            "  {head:<38} {}{}\n",
            flag.help,
            variable.unwrap_or_default()
        ));
    }
    text
}

fn dashed(name: &str) -> String {
    if name.len() == 1 {
        format!("-{name}")
    } else {
        format!("--{name}")
    }
}

/// Prints a script that has a shell ask this program what could stand next.
///
/// # Errors
/// For another shell than the two.
pub(super) fn completion(run: &mut Run<'_>, args: &[OsString]) -> Result<u8, Failure> {
    let shell = args
        .first()
        .map(|shell| shell.to_string_lossy().into_owned());
    // Flags end at the first argument that is none.
    let flag = args.get(1).map(|arg| arg.to_string_lossy());
    if matches!(shell.as_deref(), Some("bash" | "zsh"))
        && let Some(flag) = flag.filter(|arg| arg.len() > 1 && arg.starts_with('-') && arg != "--")
    {
        let name = super::harmless(flag.trim_start_matches('-'));
        let text = format!("flag provided but not defined: -{name}");
        return wrong_usage(run, None, &text);
    }
    let script = match shell.as_deref() {
        Some("bash") => format!(
            "_{NAME}_complete() {{\n  \
               local word=\"${{COMP_WORDS[COMP_CWORD]}}\"\n  \
               local -a line=(\"${{COMP_WORDS[@]:0:COMP_CWORD}}\")\n  \
               [[ $word == -* ]] && line+=(\"$word\")\n  \
               mapfile -t COMPREPLY < <(compgen -W \"$(\"${{line[@]}}\" {COMPLETION_FLAG} 2>/dev/null)\" -- \"$word\")\n\
             }}\n\
             complete -o bashdefault -o default -F _{NAME}_complete {NAME}\n"
        ),
        Some("zsh") => format!(
            "#compdef {NAME}\n\n\
             _{NAME}_complete() {{\n  \
               local -a line found\n  \
               line=(\"${{words[@]:0:$CURRENT-1}}\")\n  \
               [[ ${{words[$CURRENT]}} == -* ]] && line+=(\"${{words[$CURRENT]}}\")\n  \
               found=(\"${{(@f)$(\"${{line[@]}}\" {COMPLETION_FLAG} 2>/dev/null)}}\")\n  \
               if [[ -n ${{found[1]}} ]]; then compadd -a found; else _files; fi\n\
             }}\n\n\
             compdef _{NAME}_complete {NAME}\n"
        ),
        Some(other) => {
            let text = format!("No help topic for '{other}'");
            return Err(Failure::new(code::UNWRITABLE, text));
        }
        None => {
            let text = format!("Usage: {NAME} completion bash|zsh\n");
            run.print(text.as_bytes())?;
            return Ok(0);
        }
    };
    run.print(script.as_bytes())?;
    Ok(0)
}

/// Prints what could stand behind a line that is being typed.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn complete(run: &mut Run<'_>, args: &[OsString]) -> Result<u8, Failure> {
    let words: Vec<String> = args
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let is_flag_wanted = words.last().is_some_and(|word| word.starts_with('-'));
    let command = words.iter().find_map(|word| {
        COMMANDS
            .iter()
            .find(|command| command.name == word.as_str())
    });
    let names: Vec<String> = match command {
        Some(command) if command.name == "groups" => {
            let inner = words
                .iter()
                .find_map(|word| GROUP_COMMANDS.iter().find(|one| one.name == word.as_str()));
            match inner {
                Some(inner) if is_flag_wanted => flag_names(&inner.all_flags()),
                Some(_) => Vec::new(),
                None => GROUP_COMMANDS
                    .iter()
                    .map(|command| command.name.to_owned())
                    .collect(),
            }
        }
        Some(command) if command.name == "completion" => {
            vec!["bash".to_owned(), "zsh".to_owned()]
        }
        Some(command) if is_flag_wanted => flag_names(&command.all_flags()),
        // Files, by the shell itself.
        Some(_) => Vec::new(),
        None if is_flag_wanted => flag_names(&root_flags()),
        None => COMMANDS
            .iter()
            .map(|command| command.name.to_owned())
            .collect(),
    };
    let mut text = names.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    run.print(text.as_bytes())?;
    Ok(0)
}

fn flag_names(flags: &[Flag]) -> Vec<String> {
    flags.iter().map(|flag| dashed(flag.names[0])).collect()
}

/// Returns whether two words differ by a few letters put in, left out or replaced: one for every three.
pub(super) fn is_similar(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let most = (one.len().min(other.len()) / 3).min(2);
    if one.len().abs_diff(other.len()) > most {
        return false;
    }
    let mut previous: Vec<usize> = (0..=other.len()).collect();
    for (row, left) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, right) in other.iter().enumerate() {
            let replaced = previous[column] + usize::from(left != right);
            let least = replaced
                .min(previous[column + 1] + 1)
                .min(current[column] + 1);
            current.push(least);
        }
        previous = current;
    }
    previous[other.len()] <= most
}
