//! `batchfleet-schema`: writes the JSON schema of the Helm chart's values, which forbids unknown
//! keys.
//!
//! The schema has three sources: the comments in `values.yaml` ([`values`]), the flags of the
//! programs ([`flags`]) and the custom resource definition ([`fleet`]).

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

mod flags;
mod fleet;
mod values;

/// Writes values.schema.json beside the chart's values.yaml
#[derive(Parser, Debug)]
#[command(name = "batchfleet-schema", version)]
struct SchemaSettings {
    /// Write nothing; exit with status 1 if the file is out of date
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let settings = SchemaSettings::parse();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../batchfleet");
    let (schema, path) = (schema(&chart)?, chart.join("values.schema.json"));
    if settings.check {
        let current = fs::read_to_string(&path).is_ok_and(|committed| committed == schema);
        if !current {
            eprintln!("values.schema.json is out of date: run `make chart`");
        }
        return Ok(if current { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    fs::write(&path, schema).with_context(|| path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the schema of the chart in a folder, as text.
fn schema(chart: &Path) -> Result<String> {
    let path = chart.join("values.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let schema = values::schema(&values::parse(&text)?)?;
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_follows_from_its_sources() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../batchfleet");
        let committed = fs::read_to_string(chart.join("values.schema.json")).unwrap();
        assert!(committed == schema(&chart).unwrap(), "run `make chart`");
    }
}
