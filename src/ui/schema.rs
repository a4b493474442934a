//! The JSON schemas of what `--json` prints, made from the types that print it.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use super::{
    KeyJson, ProblemsJson, SCHEMA_VERSION, TrustJson, Ui, diff, doctor, drill, findings, history,
    init, list, lost, report, status,
};

/// Commands that print a report of what they wrote.
const REPORTS: [&str; 10] = [
    "add", "adopt", "decrypt", "deploy", "encrypt", "merge", "mv", "remove", "restore", "undo",
];

fn of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>()
}

/// Returns the schemas by name: that of a command, or what a command prints in a special case.
pub fn schemas() -> Vec<(String, Schema)> {
    let mut schemas: Vec<(String, Schema)> = REPORTS
        .iter()
        .map(|command| ((*command).to_owned(), of::<report::ReportJson<'static>>()))
        .collect();
    for (name, schema) in [
        ("check", of::<findings::FindingsJson<'static>>()),
        ("diff", of::<diff::DiffJson<'static>>()),
        ("doctor", of::<doctor::DoctorJson<'static>>()),
        ("drill", of::<drill::DrillJson<'static>>()),
        ("history", of::<history::HistoryJson<'static>>()),
        ("init", of::<init::InitJson<'static>>()),
        ("keygen", of::<KeyJson<'static>>()),
        ("list", of::<list::ListJson<'static>>()),
        ("problems", of::<ProblemsJson>()),
        ("recover", of::<report::ReportJson<'static>>()),
        ("recover --new-key", of::<lost::LostJson<'static>>()),
        ("status", of::<status::Status>()),
        ("trust", of::<TrustJson<'static>>()),
        ("undo --list", of::<status::ReversalsJson<'static>>()),
        ("undo --prune", of::<status::PruneJson<'static>>()),
    ] {
        schemas.push((name.to_owned(), schema));
    }
    schemas.sort_by(|one, other| one.0.cmp(&other.0));
    schemas
}

impl Ui {
    /// Prints all schemas as one object, by name.
    pub fn show_schemas(&mut self) {
        let all: Map<String, Value> = schemas()
            .into_iter()
            .map(|(name, schema)| (name, schema.to_value()))
            .collect();
        let mut object = Map::new();
        object.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
        object.insert("schemas".to_owned(), Value::Object(all));
        self.json(&Value::Object(object));
    }

    /// Prints one schema; returns whether there is one of this name.
    pub fn show_schema(&mut self, name: &str) -> bool {
        let found = schemas().into_iter().find(|(known, _)| known == name);
        if let Some((_, schema)) = &found {
            self.json(schema);
        }
        found.is_some()
    }
}
