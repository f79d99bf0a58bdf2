//! `batchfleet-schema`: what may stand in the values of the Helm chart, as a closed JSON schema.
//!
//! Three sources, each the only one: the comments of `values.yaml` ([`values`]), the programs' flags
//! ([`flags`]) and the custom resource's schema ([`fleet`]).

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

mod flags;
mod fleet;
mod values;

/// Writes values.schema.json beside the chart's values.yaml
#[derive(Parser, Debug)]
#[command(name = "batchfleet-schema", version)]
struct Settings {
    /// Write nothing; end with status 1 if the file is not what it should be
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let settings = Settings::parse();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../batchfleet");
    let (schema, path) = (schema(&chart)?, chart.join("values.schema.json"));
    if settings.check {
        let current = fs::read_to_string(&path).is_ok_and(|stands| stands == schema);
        if !current {
            eprintln!("values.schema.json is not current: run `make chart`");
        }
        return Ok(if current { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    fs::write(&path, schema).with_context(|| path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The text of the schema of the chart in a folder.
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
    fn the_committed_schema_is_what_its_sources_say() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../batchfleet");
        let stands = fs::read_to_string(chart.join("values.schema.json")).unwrap();
        assert!(stands == schema(&chart).unwrap(), "run `make chart`");
    }
}
