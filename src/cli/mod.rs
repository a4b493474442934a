//! The command line: parsing, dispatch, exit codes. No logic of a command.

pub mod exit;

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    ColorChoice, Context, GlobalArgs, Outcome, add, adopt, check, decrypt, deploy, diff, doctor,
    drill, encrypt, history, init, keygen, list, merge, recover, remove, rename, restore, schema,
    status, trust, undo,
};
use crate::error::{Error, ErrorKind, Problem};
use crate::os::{Env, fs};
use crate::stock;
use crate::ui::{Loudness, Ui};

use exit::Exit;

/// Keeps the encrypted files of a git repository (SOPS, age) and their plaintext on a server in
/// step.
#[derive(Parser, Debug)]
#[command(
    name = "secrets",
    version,
    about,
    disable_help_subcommand = true,
    subcommand_required = true,
    help_template = "{about}\n\n{usage-heading} secrets [OPTIONS] <COMMAND>\n\n{before-help}Global options:\n{options}{after-help}",
    before_help = GROUPS,
    after_help = "Exit codes: 0 done, nothing differs; 1 something differs; 2 could not be done or told; 3 refused by\na guard; 129, 130, 143 interrupted. `secrets COMMAND --help` explains a command."
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Returns the names of all commands.
    pub fn names() -> Vec<String> {
        Self::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect()
    }
}

/// The commands by group; a test holds it against the subcommands.
const GROUPS: &str = "Daily:
  status   Show the state of every entry: one line each, then counts
  diff     Show how repository and server differ: key names, never values
  encrypt  Capture the plaintext files of the server into the repository
  decrypt  Put the plaintext files in place on the server
  deploy   Put plain and secret files in place on the server, in one plan

When sides differ:
  merge    Bring together what was changed on both sides, key by key
  adopt    Decide which side to take where nothing tells which one is newer
  history  Show when each key last changed, by whom, in which commit
  restore  Put an older version of an entry on the server, and keep it there
  undo     Take back what the last run wrote

Gate:
  check    Check without a key that the repository is in order

Set-up:
  init     Write the manifest of this repository, new or from a Makefile
  keygen   Make a new age identity
  add      Take files of the server into the manifest, and encrypt them
  remove   Take an entry out of the manifest, and its encrypted file out of the repository
  mv       Give an entry another name in the repository, or another path on the server
  list     List the entries of the manifest, and who can read what
  recover  Bring a bare host back: identity, root, every file of this host
  drill    Try in memory whether this host could be recovered, and write nothing
  doctor   Say of everything that must be right whether it is
  trust    Agree to the root that the manifest names now, or to data keys and readers of entries

Stock:
  sops     Run the command line of stock `sops`: its commands, its flags, its exit codes

Self:
  schema   Print the JSON schemas of what `--json` prints";

#[derive(Subcommand, Debug)]
enum Command {
    Add(add::AddArgs),
    Adopt(adopt::AdoptArgs),
    Check(check::CheckArgs),
    Decrypt(decrypt::DecryptArgs),
    Deploy(deploy::DeployArgs),
    Diff(diff::DiffArgs),
    Doctor(doctor::DoctorArgs),
    Drill(drill::DrillArgs),
    Encrypt(encrypt::EncryptArgs),
    History(history::HistoryArgs),
    Init(init::InitArgs),
    Keygen(keygen::KeygenArgs),
    List(list::ListArgs),
    Merge(merge::MergeArgs),
    Mv(rename::MvArgs),
    Remove(remove::RemoveArgs),
    Recover(recover::RecoverArgs),
    Restore(restore::RestoreArgs),
    Schema(schema::SchemaArgs),
    Sops(SopsArgs),
    Status(status::StatusArgs),
    Trust(trust::TrustArgs),
    Undo(undo::UndoArgs),
}

/// Run the command line of stock `sops`: its commands, its flags, its exit codes
///
/// What stands behind `sops` is taken as stock takes it, none of it for an option of `secrets`. A link to this
/// program under the name `sops` does the same. docs/compatibility.md says row by row what differs.
#[derive(Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  secrets sops decrypt --extract '[\"db\"][\"password\"]' app.enc.yaml\n  secrets sops exec-env app.enc.yaml 'npm start'"
)]
struct SopsArgs {
    /// Arguments as for `sops`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the program in the given surroundings.
pub fn run(mut env: Env) -> Exit {
    if let Some(args) = stock_args(&env.args) {
        return Exit::Stock(stock::run(&mut env, &args));
    }
    let out = std::mem::replace(&mut env.stdout, Box::new(std::io::sink()));
    let err = std::mem::replace(&mut env.stderr, Box::new(std::io::sink()));
    let mut ui = Ui::new(out, err);
    let matches = match Cli::command().try_get_matches_from(&env.args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, &env, &mut ui),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &env, &mut ui),
    };
    configure(&mut ui, &cli.global, &env);
    let mut cx = Context {
        env,
        ui,
        global: cli.global,
    };
    let entered = enter_directory(&mut cx);
    if let (Ok(()), Command::Sops(sops)) = (&entered, &cli.command) {
        return Exit::Stock(stock::run(&mut cx.env, &sops.args));
    }
    let result = entered.and_then(|()| dispatch(&cli.command, &mut cx));
    let mut outcome = result.unwrap_or_else(|error| report_error(&error, &mut cx.ui));
    if cx.ui.is_cut_off {
        let message = ErrorKind::Option("standard output could not be written".to_owned());
        cx.ui.problems(&[Problem::new(message)]);
        outcome.trouble = true;
    }
    Exit::of(outcome)
}

/// Returns the arguments for the command line of the reference program, where it is meant: by the name we
/// are called by, or by the first word. They are not looked at here.
fn stock_args(args: &[OsString]) -> Option<Vec<OsString>> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == stock::NAME) {
        return Some(args[1..].to_vec());
    }
    let word = args.get(1)?;
    (word == stock::NAME).then(|| args[2..].to_vec())
}

fn dispatch(command: &Command, cx: &mut Context) -> Result<Outcome, Error> {
    match command {
        Command::Add(args) => add::run(args, cx),
        Command::Adopt(args) => adopt::run(args, cx),
        Command::Check(args) => check::run(args, cx),
        Command::Decrypt(args) => decrypt::run(args, cx),
        Command::Deploy(args) => deploy::run(args, cx),
        Command::Diff(args) => diff::run(args, cx),
        Command::Doctor(args) => doctor::run(args, cx),
        Command::Drill(args) => drill::run(args, cx),
        Command::Encrypt(args) => encrypt::run(args, cx),
        Command::History(args) => history::run(args, cx),
        Command::Init(args) => init::run(args, cx),
        Command::Keygen(args) => keygen::run(args, cx),
        Command::List(args) => list::run(args, cx),
        Command::Merge(args) => merge::run(args, cx),
        Command::Mv(args) => rename::run(args, cx),
        Command::Remove(args) => remove::run(args, cx),
        Command::Recover(args) => recover::run(args, cx),
        Command::Restore(args) => restore::run(args, cx),
        Command::Schema(args) => schema::run(args, cx),
        // It ends with stock's exit codes, before this.
        Command::Sops(_) => Ok(Outcome::default()),
        Command::Status(args) => status::run(args, cx),
        Command::Trust(args) => trust::run(args, cx),
        Command::Undo(args) => undo::run(args, cx),
    }
}

fn configure(ui: &mut Ui, global: &GlobalArgs, env: &Env) {
    ui.json = global.json;
    ui.loudness = match (global.quiet, global.verbose) {
        (true, _) => Loudness::Quiet,
        (_, true) => Loudness::Verbose,
        _ => Loudness::Normal,
    };
    let wanted = env.var("NO_COLOR").is_none() && env.var("TERM").is_none_or(|term| term != "dumb");
    let color = |is_terminal: bool| match global.color {
        ColorChoice::Always => true,
        ColorChoice::Auto => is_terminal && wanted,
        ColorChoice::Never => false,
    };
    ui.color_out = color(env.stdout_is_terminal);
    ui.color_err = color(env.stderr_is_terminal);
}

fn enter_directory(cx: &mut Context) -> Result<(), Error> {
    let Some(folder) = &cx.global.directory else {
        return Ok(());
    };
    let folder = cx.env.absolute(folder);
    if !fs::is_folder(&folder) {
        let what = if fs::exists(&folder) {
            "is not a folder"
        } else {
            "does not exist"
        };
        let message = format!("-C {}: {what}", folder.display());
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("name a folder that exists")
            .into());
    }
    cx.env.cwd = folder;
    Ok(())
}

/// Shows help and version on standard output, usage errors on standard error.
fn usage(error: &clap::Error, env: &Env, ui: &mut Ui) -> Exit {
    let is_terminal = if error.use_stderr() {
        env.stderr_is_terminal
    } else {
        env.stdout_is_terminal
    };
    let colored = is_terminal && env.var("NO_COLOR").is_none();
    let rendered = error.render();
    let text = if colored {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    if error.use_stderr() {
        let mut options = env.args.iter().take_while(|arg| *arg != "--");
        if options.any(|arg| arg == "--json") {
            let plain = rendered.to_string();
            let message = plain.lines().next().unwrap_or_default();
            let message = message.trim_start_matches("error: ").to_owned();
            ui.problems_json(&[Problem::new(ErrorKind::Option(message))]);
        }
        ui.raw_error(&text);
        Exit::Trouble
    } else {
        ui.data(&text);
        Exit::Done
    }
}

fn report_error(error: &Error, ui: &mut Ui) -> Outcome {
    if ui.json {
        ui.problems_json(&error.problems);
    }
    ui.problems(&error.problems);
    let outcome = Outcome::default().with_problems(&error.problems);
    Outcome {
        trouble: outcome.trouble || error.problems.is_empty(),
        ..outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_the_help_name_every_command_with_its_first_line() {
        let command = Cli::command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let about = subcommand.get_about().unwrap().to_string();
            let line = format!("  {:<8} {about}", subcommand.get_name());
            assert!(GROUPS.lines().any(|known| known == line), "{line}");
            let examples = subcommand.get_after_help().unwrap().to_string();
            assert_eq!(
                examples.matches("\n  secrets ").count(),
                2,
                "{}",
                subcommand.get_name()
            );
        }
        assert_eq!(
            GROUPS.matches("\n  ").count(),
            command.get_subcommands().count()
        );
    }
}
