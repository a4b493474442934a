//! `schema`: the JSON schemas of what `--json` prints.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::ui::schema::schemas;

use super::{Context, Outcome};

/// Print the JSON schemas of what `--json` prints
///
/// JSON Schema, draft 2020-12. Fields are added without a new `schema_version`; one is taken out or
/// changes its meaning only with a new one. `problems` is what a command prints that stopped before it
/// could report.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets schema            all of them, by name\n  secrets schema status     that of one command"
)]
pub struct SchemaArgs {
    /// The command, such as `status` or `undo --list` (in quotes) [default: all]
    pub name: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A name that has no schema.
pub fn run(args: &SchemaArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let Some(name) = &args.name else {
        cx.ui.show_schemas();
        return Ok(Outcome::default());
    };
    if cx.ui.show_schema(name) {
        return Ok(Outcome::default());
    }
    let names: Vec<_> = schemas().into_iter().map(|(name, _)| name).collect();
    Err(
        Problem::new(ErrorKind::Option(format!("`{name}` prints no JSON")))
            .with_help(format!("one of: {}", names.join(", ")))
            .into(),
    )
}
